"""What a sweep shows while it runs."""

import time
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


def shown_at(width: int, progress: Progress) -> list[str]:
    console = Console(file=StringIO(), width=width)
    console.print(progress._render())
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


RECORD = {"epoch": 117, "dev_loss": 0.12345, "dev_rationale_ratio": 0.153}


def test_a_running_trial_is_one_line_and_its_numbers_are_whole_however_narrow_the_terminal():
    progress = Progress(Console(file=StringIO()))
    trials = [
        tiny.trial("rekd", model="vit-small-with-a-long-name", epochs=200, alpha=alpha, seed=seed)
        for alpha in (0.05, 0.3)
        for seed in (2026, 2027)
    ]
    for trial in trials:
        progress.start(trial)
        progress.epoch(trial, RECORD)
    for width in (100, 60):
        rows = [line for line in shown_at(width, progress) if "vit" in line]
        assert len(rows) == 4
        assert all("epoch 117/200" in row and "dev loss 0.1235" in row and "ratio 15.3%" in row for row in rows)
    assert any("alpha=0.05 seed=2026" in row for row in shown_at(100, progress))


def test_a_name_says_what_varies_and_nothing_else():
    progress = Progress(Console(file=StringIO()))
    for alpha in (0.05, 0.3):
        progress.start(tiny.trial("rekd", alpha=alpha, seed=4))
    progress.start(tiny.trial("re", seed=4))
    assert progress.short_name(tiny.trial("rekd", alpha=0.3, seed=4)) == "vit rekd alpha=0.3 seed=4"
    assert progress.short_name(tiny.trial("re", seed=4)) == "vit re seed=4"


def waited(progress: Progress, console: Console, until: int) -> list[str]:
    """The lines of a progress in which nothing happens, as soon as there are so many."""
    deadline = time.monotonic() + 10
    with progress:
        while len(console.file.getvalue().splitlines()) < until and time.monotonic() < deadline:
            time.sleep(0.01)
    return console.file.getvalue().splitlines()


def test_a_line_comes_by_a_timer_and_says_why_nothing_happens(monkeypatch):
    monkeypatch.setattr("rekd.running.progress.LOOK_EVERY", 0.02)
    monkeypatch.setattr("rekd.running.progress.LINE_EVERY", 0.05)
    console = Console(file=StringIO(), width=200)
    progress = Progress(console)
    progress.expect(num_total=60, work_done=0, work_left=1)
    progress.reasons += [lambda: "no machine yet: [quota]", lambda: "", lambda: 1 / 0]
    lines = waited(progress, console, until=2)
    assert len(lines) >= 2
    assert lines[0].startswith("0 of 60 trials, 0 running")
    assert lines[0].endswith("; no machine yet: [quota]")


def test_a_terminal_shows_it_in_place_and_prints_no_lines(monkeypatch):
    monkeypatch.setattr("rekd.running.progress.LINE_EVERY", 0.0)
    console = Console(file=StringIO(), width=120, force_terminal=True)
    progress = Progress(console)
    progress.reasons.append(lambda: "no machine yet")
    said = []
    monkeypatch.setattr(progress, "say", said.append)
    with progress:
        progress.look()
        assert "no machine yet" in shown_at(120, progress)[0]
    assert not said
