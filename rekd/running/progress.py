"""What a sweep shows while it runs."""

import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rekd.messages import duration
from rekd.trial import Trial

LINE_EVERY = 30.0
"""Seconds between two lines where the output is not a terminal."""

MOST_ROWS = 12
"""Running trials that are shown one by one."""


class Progress:
    """Trials done of all, the running ones with their epochs, the best so far, and the time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started = time.monotonic()
        self.num_done = self.num_failed = self.num_known = self.num_total = 0
        self.running: dict[str, tuple[Trial, dict[str, Any]]] = {}
        self.best: dict[tuple[str, str, str], tuple[float, Trial]] = {}
        self.work_done = self.work_left = 0.0
        self.elsewhere = 0  # trials that another sweep on this store is running
        self._live: Live | None = None
        self._last_line = self.started

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*exception)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False)

    def expect(self, *, num_total: int, work_done: float, work_left: float) -> None:
        """Trials of the sweep that this run has to do, and the slot-seconds of those that have ended and of the others.

        Both by one estimate: the first measured runs may change it by orders of magnitude.
        """
        self.num_total, self.work_done, self.work_left = num_total, work_done, work_left

    def start(self, trial: Trial) -> None:
        self.running[trial.digest] = (trial, {})

    def epoch(self, trial: Trial, record: dict[str, Any]) -> None:
        self.running[trial.digest] = (trial, record)
        self._maybe_line()

    def lost(self, trial: Trial) -> None:
        """Its process is gone; it will be started again."""
        self.running.pop(trial.digest, None)

    def end(self, trial: Trial, *, status: str, dev_loss: float | None, error: str = "") -> None:
        self.running.pop(trial.digest, None)
        self.num_done += 1
        self.num_failed += status == "failed"
        if status != "ok":
            self.say(f"[yellow]{trial}: {status}.[/] {escape(error)}")
        key = (trial.task, trial.model, trial.objective)
        if status == "ok" and dev_loss is not None and dev_loss < self.best.get(key, (float("inf"), trial))[0]:
            self.best[key] = (dev_loss, trial)
        self._maybe_line()

    @property
    def seconds_left(self) -> float | None:
        """By the pace so far, where there is one; the work is weighed by its estimated length."""
        elapsed = time.monotonic() - self.started
        if self.num_done == 0 or self.work_done <= 0:
            return None
        return self.work_left * elapsed / self.work_done

    def _summary(self) -> str:
        parts = [f"{self.num_done} of {self.num_total} trials", f"{len(self.running)} running"]
        if self.elsewhere:
            parts.append(f"{self.elsewhere} in another sweep on this store")
        if self.num_failed:
            parts.append(f"{self.num_failed} failed")
        parts.append(f"{duration(time.monotonic() - self.started)} so far")
        if self.seconds_left is not None and self.num_done < self.num_total:
            parts.append(f"about {duration(self.seconds_left)} left")
        return ", ".join(parts)

    def _maybe_line(self) -> None:
        now = time.monotonic()
        if self._live is None and now - self._last_line >= LINE_EVERY:
            self._last_line = now
            self.say(self._summary())

    def _render(self) -> RenderableType:
        bar = ProgressBar(total=max(self.num_total, 1), completed=self.num_done, width=40)
        table = Table.grid(padding=(0, 2))
        for trial, record in list(self.running.values())[:MOST_ROWS]:
            epoch = f"epoch {record['epoch']}/{trial.epochs}" if record else "starting"
            loss = f"dev loss {record['dev_loss']:.4f}" if record else ""
            ratio = f"ratio {record['dev_rationale_ratio']:.1%}" if record and trial.objective != "cls" else ""
            table.add_row(Text(str(trial)), epoch, loss, ratio, style="dim")
        if len(self.running) > MOST_ROWS:
            table.add_row(f"and {len(self.running) - MOST_ROWS} more", style="dim")
        best = Table.grid(padding=(0, 2))
        for loss, trial in self.best.values():
            best.add_row("best so far", Text(str(trial)), f"dev loss {loss:.4f}", style="green")
        return Group(Text(self._summary()), bar, table, best)
