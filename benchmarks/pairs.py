"""Timing two or more things in turn, so that a machine whose speed drifts slows them all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """A's time over B's, round by round."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def in_turn(work: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round: A B C, C B A, ... so that none always follows the same other."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for round in range(warm_up + rounds):
        for name, run in list(work.items())[:: 1 if round % 2 else -1]:
            started = time.perf_counter()
            run()
            if round >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(a: list[float], b: list[float]) -> Ratio:
    """Median and range of a / b, pair by pair."""
    ratios = [one / other for one, other in zip(a, b, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))
