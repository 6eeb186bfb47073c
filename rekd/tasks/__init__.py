"""From a task file to arrays: datasets, columns, splits, images and texts."""
