"""What lasts: files by rename on any file system, the ledger, claims, checkpoints and saved models."""
