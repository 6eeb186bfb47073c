"""`python -m analysis`."""

import sys

from analysis.cli import app
from rekd.command_line import run_app

if __name__ == "__main__":
    run_app(app, sys.argv[1:] or ["--help"], prog_name="python -m analysis")
