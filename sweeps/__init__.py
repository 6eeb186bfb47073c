"""Which trials to run: one script a sweep of the paper."""
