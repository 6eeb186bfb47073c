"""`python -m rekd`."""

import sys

from rekd.command_line import run_app
from rekd.commands import app

run_app(app, sys.argv[1:] or ["--help"], prog_name="python -m rekd")
