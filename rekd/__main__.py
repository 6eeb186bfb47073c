"""`python -m rekd`."""

from rekd.cli import app

app()
