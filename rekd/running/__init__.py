"""One trial from its supplies to its row, what runs next, and the bridge to Ray."""
