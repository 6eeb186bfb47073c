"""`python -m rekd`."""

import sys

from rekd.cli import app
from rekd.command_line import run

run(app, sys.argv[1:] or ["--help"], prog_name="python -m rekd")
