"""What a sweep shows while it runs."""

from io import StringIO

import pytest
import tiny
from rich.console import Console

from rekd.running.progress import Progress


def test_an_error_is_shown_as_it_is_whatever_brackets_it_has():
    console = Console(file=StringIO(), width=200)
    progress = Progress(console)
    progress.end(tiny.trial(), status="failed", dev_loss=None, error="no [/weights] of shape [3, 4]: [bold]")
    assert "no [/weights] of shape [3, 4]: [bold]" in console.file.getvalue()


def test_the_time_left_survives_a_first_estimate_that_is_off_by_orders_of_magnitude(monkeypatch):
    progress = Progress(Console(file=StringIO()))
    progress.expect(num_total=4, work_done=0, work_left=4 * 20_000)  # hours each, by arithmetic
    progress.end(tiny.trial(), status="ok", dev_loss=1.0)
    progress.expect(num_total=4, work_done=2, work_left=3 * 2)  # seconds each, measured
    monkeypatch.setattr("rekd.running.progress.time.monotonic", lambda: progress.started + 3)
    assert progress.seconds_left == pytest.approx(3 * 3)
