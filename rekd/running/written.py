"""What a sweep writes, in bytes: checkpoints, which go when their trial has ended, and models, which stay."""

from collections.abc import Iterable
from dataclasses import dataclass

from rekd.running.estimate import Estimator
from rekd.trial import Trial

CHECKPOINT = 12
"""Bytes a parameter: itself and Adam's two moments."""

MODEL = 4
"""Bytes a parameter: of a model that is kept, and of the best version, which goes with a checkpoint where it has changed."""


@dataclass(frozen=True)
class StorageNeed:
    """Bytes that trials write. Of checkpoints it is the most that it may be: as if each epoch were better than the last."""

    checkpoints: float
    largest: float
    """The largest checkpoint, with its best version."""
    models: float


def written(trials: Iterable[tuple[Trial, int]], estimator: Estimator, *, checkpoint_every: float = 0.0) -> StorageNeed:
    """Adds up trials, each with how many there are of its kind."""
    checkpoints = largest = models = 0.0
    for trial, count in trials:
        parameters = estimator.num_parameters(trial)
        each = (CHECKPOINT + MODEL) * parameters
        checkpoints += count * each * _num_checkpoints(estimator, trial, checkpoint_every)
        models += count * MODEL * parameters
        largest = max(largest, each)
    return StorageNeed(checkpoints, largest, models)


def _num_checkpoints(estimator: Estimator, trial: Trial, every: float) -> float:
    """One an epoch, or fewer where they are written by time."""
    if not every:
        return trial.epochs
    return min(float(trial.epochs), estimator.seconds(trial).expected / every)
