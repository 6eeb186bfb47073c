"""How many trials share a GPU: as many as fit, by memory that was measured on one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import ray
from ray.exceptions import RayTaskError

from rekd.tasks.task import Task
from rekd.trial import Trial

MOST = 8
"""Trials on one GPU at most: beyond a few they only wait for each other's kernels."""

HEADROOM = 1.25
"""Memory granted, over memory measured: evaluation batches are larger, and the allocator does not fill every gap."""

CONTEXT = 700_000_000
"""Bytes that a process needs on a GPU before its first tensor, and for the task's arrays."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The share of a GPU that a trial gets: one for all, or one a kind (task, model)."""

    default: float
    by_kind: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def smallest(self) -> float:
        return min([self.default, *self.by_kind.values()])


def share(peak: int, total: int) -> float:
    """1 / k of a GPU of `total` bytes for a trial of `peak` bytes: the largest k up to `MOST` that fits."""
    fits = int(total // (HEADROOM * peak + CONTEXT))
    return 1 / max(1, min(fits, MOST))


def measured_shares(tasks: Iterable[Task], trials: Iterable[Trial]) -> Shares:
    """Shares by the memory of a few steps of each model, taken on a GPU of the cluster (it waits for one)."""
    try:
        peaks, total = ray.get(_measure.remote(list(tasks), list(trials)))
    except RayTaskError as error:
        raise ValueError(str(error.cause)) from error
    return Shares(default=1.0, by_kind={kind: share(peak, total) for kind, peak in peaks.items()})


@ray.remote(num_gpus=1, num_cpus=0)
def _measure(tasks: list[Task], trials: list[Trial]) -> tuple[dict[tuple[str, str], int], int]:
    from rekd.running.calibrate import measure_memory

    return measure_memory(tasks, trials)
