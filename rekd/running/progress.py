"""What a sweep shows while it runs: a live display in a terminal, a line now and then elsewhere, both by a timer."""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict
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

LOOK_EVERY = 5.0
"""Seconds between two looks for reasons to wait."""

NOT_SHOWN = frozenset({"seed", "task_digest", "model_digest", "teacher_digest", "objective", "model"})
"""Fields of a trial that its short name leaves out, or has anyway."""

MOST_ROWS = 12
"""Running trials that are shown one by one."""


class Progress:
    """Trials done of all, the running ones with their epochs, the best so far, the time left, and what is waited for.

    Who knows why trials wait adds a function to `reasons`: a thread asks it every few seconds, and what it says (a few words,
    or nothing) stands in the line and in the display. So something is said also while nothing happens.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.reasons: list[Callable[[], str]] = []
        self._said: list[str] = []  # by the reasons, when they were asked last
        self._over = threading.Event()
        self._values: dict[str, set[Any]] = {}  # of the trials that were started, by field
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
        self._over.clear()
        threading.Thread(target=self._keep_looking, name="progress", daemon=True).start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._over.set()
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
        for name, value in asdict(trial).items():
            self._values.setdefault(name, set()).add(value)

    def epoch(self, trial: Trial, record: dict[str, Any]) -> None:
        self.running[trial.digest] = (trial, record)

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

    @property
    def seconds_left(self) -> float | None:
        """Follows from the pace so far, where there is one; the work is weighed by its estimated length."""
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
        return "; ".join([", ".join(parts), *self._said])

    def _keep_looking(self) -> None:
        while not self._over.wait(LOOK_EVERY):
            self.look()

    def look(self) -> None:
        """Asks the reasons, and says a line where it is time for one. The live display shows the same by itself."""
        self._said = [said for reason in list(self.reasons) if (said := _asked(reason))]
        if self._live is None and time.monotonic() - self._last_line >= LINE_EVERY:
            self._last_line = time.monotonic()
            self.say(escape(self._summary()))

    def short_name(self, trial: Trial) -> str:
        """Model, objective, what varies among the trials that were started, and the seed."""
        varied = [name for name, values in self._values.items() if len(values - {None}) > 1 and name not in NOT_SHOWN]
        told = [f"{name}={shown(value)}" for name in varied if (value := getattr(trial, name)) is not None]
        return " ".join([trial.model, trial.objective, *told, f"seed={trial.seed}"])

    def _render(self) -> RenderableType:
        bar = ProgressBar(total=max(self.num_total, 1), completed=self.num_done, width=40)
        table = Table.grid(padding=(0, 2))
        for trial, record in list(self.running.values())[:MOST_ROWS]:
            numbers = (
                [f"epoch {record['epoch']}/{trial.epochs}", f"dev loss {record['dev_loss']:.4f}"] if record else []
            )
            if record and trial.objective != "cls":
                numbers.append(f"ratio {record['dev_rationale_ratio']:.1%}")
            table.add_row(self._name(trial), *map(_whole, numbers or ["starting"]), style="dim")
        if len(self.running) > MOST_ROWS:
            table.add_row(f"and {len(self.running) - MOST_ROWS} more", style="dim")
        best = Table.grid(padding=(0, 2))
        for loss, trial in list(self.best.values()):
            best.add_row(_whole("best so far"), self._name(trial), _whole(f"dev loss {loss:.4f}"), style="green")
        return Group(Text(self._summary()), bar, table, best)

    def _name(self, trial: Trial) -> Text:
        """Cut where the line has no room, so that the numbers beside it are whole."""
        return Text(self.short_name(trial), no_wrap=True, overflow="ellipsis")


def _whole(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ignore")


def _asked(reason: Callable[[], str]) -> str:
    try:
        return reason()
    except Exception:  # the line says less; the sweep does not end over it
        return ""


def shown(value: Any) -> str:
    """A field's value in a name: numbers as short as they can be."""
    return f"{value:g}" if isinstance(value, float) else str(value)
