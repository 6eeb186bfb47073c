"""What leads from a task file to arrays: datasets, columns, splits, images and texts."""
