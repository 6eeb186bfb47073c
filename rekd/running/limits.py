"""What ends a sweep before its plan does: no machine for long, a number of hours, a time of day, a sum of money."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from rekd.cluster.waiting import Watch

WAIT_MINUTES = 30.0
"""How long a sweep waits for a machine. From the order to the first trial a rented one takes some minutes."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When no more trials are started. What runs then goes on to its end, and what has ended is in the ledger."""

    wait_minutes: float = WAIT_MINUTES
    """How long there may be no machine that a trial could run on."""
    max_hours: float | None = None
    """Hours of the clock, from the start of the sweep."""
    max_cost: float | None = None
    """What the machines may cost from the start of the sweep on, idle ones and the head included."""
    budget_hours: float | None = None
    """GPU-hours of all trials that are started, or hours of trials where they need no GPU."""
    until: datetime | None = None
    """When trials are to have ended, with its time zone."""
    prices: Mapping[str, float] = field(default_factory=dict)
    """What a machine of each kind costs an hour."""

    def __post_init__(self) -> None:
        if self.max_cost is not None and not self.prices:
            raise ValueError(
                "--max-cost needs machines of known prices, which a cluster has that `ray up` has started from a file with "
                "machines of the table of prices (rekd/cluster/prices.toml). --max-hours works everywhere."
            )

    def reached(self, watch: Watch, started: float, *, seconds: float = 0.0, gpu_seconds: float = 0.0) -> str:
        """Which limit has been reached and what to do; nothing as long as none is. `started` is of `time.monotonic`.

        A trial that takes `seconds`, and with which `gpu_seconds` would have been given out altogether, is told why it does
        not fit.
        """
        if why := watch.no_more():
            return f"there is no machine, and none will come. {why}."
        if (minutes := watch.minutes_without()) >= self.wait_minutes:
            return (
                f"there was no machine for {minutes:.0f} min ({', '.join(watch.reasons()) or 'none was ordered'}). Ask for "
                "other machines in the cluster file, or for more quota, and type the same command again. --wait-minutes "
                "sets how long to wait."
            )
        hours = (time.monotonic() - started) / 3600
        if self.max_hours is not None and hours >= self.max_hours:
            return (
                f"--max-hours {self.max_hours:g} is reached. The same command with a higher one, or without, goes on."
            )
        if self.max_cost is not None and (cost := watch.cost(self.prices)) >= self.max_cost:
            return (
                f"--max-cost {self.max_cost:g} is reached: the machines have cost about {cost:,.2f} since the start of this "
                "sweep, at on-demand prices. The same command with a higher one, or without, goes on."
            )
        return self._beyond_budget(gpu_seconds) or self._too_late(seconds)

    def _beyond_budget(self, gpu_seconds: float) -> str:
        if self.budget_hours is None or gpu_seconds <= 3600 * self.budget_hours:
            return ""
        return (
            f"--budget {self.budget_hours:g}h is spent or given out, but for less than any trial takes that is left. The same "
            "command goes on, with as much again."
        )

    def _too_late(self, seconds: float) -> str:
        if self.until is None or datetime.now(self.until.tzinfo).timestamp() + seconds <= self.until.timestamp():
            return ""
        return (
            f"--until {self.until:%H:%M} has come, or comes before any trial would end that is left. The same command with "
            "a later one, or without, goes on."
        )
