"""What a sweep shows while it runs."""

from io import StringIO

import tiny
from rich.console import Console

from rekd.progress import Progress


def test_an_error_is_shown_as_it_is_whatever_brackets_it_has():
    console = Console(file=StringIO(), width=200)
    progress = Progress(console)
    progress.end(tiny.trial(), status="failed", dev_loss=None, error="no [/weights] of shape [3, 4]: [bold]")
    assert "no [/weights] of shape [3, 4]: [bold]" in console.file.getvalue()
