"""A worker's side of a sweep: one trial, with what it needs from the object store."""

import logging
from typing import Any

from ray import tune
from ray.exceptions import RayError

from rekd.method.teacher import Targets
from rekd.running.downloads import bring
from rekd.running.object_store import Key, take
from rekd.running.one_trial import run_trial
from rekd.running.supplies import Supplies, default_device
from rekd.store.files import Store
from rekd.store.saved_model import Weights
from rekd.tasks.data import Data
from rekd.tasks.task import Task
from rekd.trial import Trial

logger = logging.getLogger(__name__)


class SharedSupplies(Supplies):
    """Supplies from the object store: one copy a node, arrays read where they lie. Storage is the way out."""

    def __init__(self, store: Store, directory: Any) -> None:
        """`directory` is `rekd.running.object_store.Shelf.directory`."""
        super().__init__(store, device=default_device())
        self.directory = directory

    def fetch_data(self, task: Task) -> Data:
        return self._take(("data", task.data_name)) or super().fetch_data(task)

    def fetch_weights(self, digest: str) -> Weights:
        return self._take(("weights", digest)) or super().fetch_weights(digest)

    def fetch_targets(self, task: Task, teacher_digest: str) -> Targets:
        return self._take(("targets", task.digest, teacher_digest)) or super().fetch_targets(task, teacher_digest)

    def fetch_view_targets(self, task: Task, teacher_digest: str, num_epochs: int) -> list[Targets]:
        key = ("views", task.digest, teacher_digest, str(num_epochs))
        return self._take(key) or super().fetch_view_targets(task, teacher_digest, num_epochs)

    def _take(self, key: Key) -> Any:
        try:
            return take(self.directory, key)
        except RayError as error:
            logger.warning("%s is not in the object store (%s). It is read from where it came.", key, error)
            return None


_supplies: dict[str, Supplies] = {}
"""What this process has, by store: a process that serves one trial after another reads things once."""


def train_and_report(
    trial: Trial,
    *,
    tasks: dict[str, Task],
    store_uri: str,
    directory: Any,
    commit: str,
    checkpoint_every: float = 0.0,
) -> None:
    """One trial, one report to Ray Tune an epoch. The row in the ledger is the result, not the last report."""
    if store_uri not in _supplies:
        _supplies[store_uri] = SharedSupplies(Store(store_uri), directory)
    supplies = _supplies[store_uri]
    bring(tasks[trial.task], supplies.store)
    options: dict[str, Any] = {"commit": commit, "checkpoint_every": checkpoint_every}
    for record in run_trial(trial, task=tasks[trial.task], store=supplies.store, supplies=supplies, **options):
        tune.report(record)
