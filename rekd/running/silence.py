"""Running trials of which nothing is heard: a process that hangs neither ends nor reports, and nothing else would notice."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rekd.messages import duration
from rekd.trial import Trial

FLOOR = float(os.environ.get("REKD_SILENCE", "1200"))
"""Seconds for which no trial is ended, however short its epochs: it reads data and models first, and a store may be slow."""

SAY, END = 3.0, 10.0
"""After so many times an epoch's expected time its silence is told, and after so many its process is ended."""

SAY_FLOOR = 0.25
"""Silence is told after this share of `FLOOR` at the earliest."""


@dataclass
class _Heard:
    trial: Trial
    last: float
    where: Callable[[], str]
    longest: float = 0.0  # seconds of its longest epoch, as far as it has reported any


@dataclass
class Silence:
    """When each running trial was last heard of. `expected` says how many seconds an epoch of a trial takes.

    A limit that was too short for a trial is twice as long the next time, so that no wrong estimate ends it for ever.
    """

    expected: Callable[[Trial], float]
    clock: Callable[[], float] = time.monotonic
    _heard: dict[str, _Heard] = field(default_factory=dict)
    _num_ended: dict[str, int] = field(default_factory=dict)

    def begun(self, trial: Trial, where: Callable[[], str]) -> None:
        """Its process has been given the trial; `where` names its machine."""
        self._heard[trial.digest] = _Heard(trial, self.clock(), where)

    def epoch(self, trial: Trial, seconds: float) -> None:
        """It has reported an epoch that took so long."""
        if (heard := self._heard.get(trial.digest)) is not None:
            heard.last, heard.longest = self.clock(), max(heard.longest, seconds)

    def over(self, trial: Trial) -> None:
        self._heard.pop(trial.digest, None)

    def said(self) -> str:
        """The trial that has been silent for longest, where that is long, in a few words, and how many there are beside."""
        late = [each for each in list(self._heard.values()) if self._seconds(each) > self._limit(each, SAY, SAY_FLOOR)]
        if not late:
            return ""
        first = max(late, key=self._seconds)
        others = f" and {len(late) - 1} more" if len(late) > 1 else ""
        return f"no epoch for {duration(self._seconds(first))}: {first.trial.digest} on {first.where()}{others}"

    def ends(self, trial: Trial) -> str:
        """Why the trial's process is to be ended now; nothing where it is not. Its next limit is twice as long."""
        heard = self._heard.get(trial.digest)
        if heard is None or self._seconds(heard) <= self._limit(heard, END, 1.0):
            return ""
        self._num_ended[trial.digest] = self._num_ended.get(trial.digest, 0) + 1
        self.over(trial)
        return f"no epoch for {duration(self._seconds(heard))} on {heard.where()}"

    def _seconds(self, heard: _Heard) -> float:
        return self.clock() - heard.last

    def _limit(self, heard: _Heard, times: float, share_of_floor: float) -> float:
        epoch = heard.longest or self.expected(heard.trial)
        return max(times * epoch, share_of_floor * FLOOR) * 2 ** self._num_ended.get(heard.trial.digest, 0)
