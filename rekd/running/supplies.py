"""What a trial needs from elsewhere: its task's arrays, and its teacher."""

import torch

from rekd.method.models import RationaleModel
from rekd.method.teacher import Targets, compute_targets
from rekd.store.files import Store
from rekd.store.saved_model import Weights
from rekd.tasks.data import Data, load_data
from rekd.tasks.task import Task


def default_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Supplies:
    """Reads what trials need from where it is kept. A process keeps what it has read: its next trial needs it too."""

    def __init__(self, store: Store, *, device: torch.device) -> None:
        self.store = store
        self.device = device
        self._data: dict[str, Data] = {}
        self._targets: dict[tuple[str, str], Targets] = {}
        self._views: dict[tuple[str, str], list[Targets]] = {}
        self._teachers: dict[str, RationaleModel] = {}

    def data(self, task: Task) -> Data:
        """A task's arrays."""
        if task.digest not in self._data:
            self._data[task.digest] = self.fetch_data(task)
        return self._data[task.digest]

    def targets(self, task: Task, teacher_digest: str) -> Targets:
        """What a teacher says of a task's training pool: from the store, or computed now and stored."""
        key = (task.digest, teacher_digest)
        if key not in self._targets:
            targets = self.fetch_targets(task, teacher_digest)
            targets.check(teacher_digest=teacher_digest, data_fingerprint=self.data(task).fingerprint)
            self._targets[key] = targets
        return self._targets[key]

    def view_targets(self, task: Task, teacher_digest: str, num_epochs: int) -> list[Targets]:
        """What a teacher says of the views of each epoch."""
        key = (task.digest, teacher_digest)
        if len(self._views.get(key, ())) < num_epochs:
            views = self.fetch_view_targets(task, teacher_digest, num_epochs)
            fingerprint = self.data(task).fingerprint
            for epoch, targets in enumerate(views, start=1):
                targets.check(teacher_digest=teacher_digest, data_fingerprint=fingerprint, view_epoch=epoch)
            self._views[key] = views
        return self._views[key][:num_epochs]

    def teacher(self, digest: str) -> RationaleModel:
        """A teacher's model, for what stored targets cannot serve. It is shared: leave it in evaluation mode."""
        if digest not in self._teachers:
            self._teachers[digest] = _model(self.fetch_weights(digest))
        return self._teachers[digest]

    def keep(self, task: Task, data: Data, teacher_digest: str, weights: Weights) -> None:
        """Takes over what somebody else has read already."""
        self._data[task.digest] = data
        self._teachers[teacher_digest] = _model(weights)

    def fetch_data(self, task: Task) -> Data:
        return load_data(task)

    def fetch_weights(self, digest: str) -> Weights:
        return Weights.load(self.store, digest)

    def fetch_targets(self, task: Task, teacher_digest: str) -> Targets:
        return self._stored_or_computed(task, teacher_digest, view_epoch=0)

    def fetch_view_targets(self, task: Task, teacher_digest: str, num_epochs: int) -> list[Targets]:
        return [self._stored_or_computed(task, teacher_digest, view_epoch=epoch) for epoch in range(1, num_epochs + 1)]

    def _stored_or_computed(self, task: Task, teacher_digest: str, *, view_epoch: int) -> Targets:
        data = self.data(task)
        identity = {
            "teacher_digest": teacher_digest,
            "data_fingerprint": data.fingerprint,
            "view_epoch": view_epoch,
        }
        stored = Targets.load(self.store, **identity)
        if stored is not None:
            return stored
        targets = compute_targets(self.teacher(teacher_digest), data.pool.arrays, device=self.device, **identity)
        targets.save(self.store)
        return targets


def _model(weights: Weights) -> RationaleModel:
    """Its parameters are the arrays, not copies of them."""
    return RationaleModel.assemble(weights.config, weights.arrays)
