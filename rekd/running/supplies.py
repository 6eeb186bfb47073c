"""What a trial needs from elsewhere: its task's arrays, and its teacher."""

from dataclasses import replace

import torch

from rekd.method.models import RationaleModel
from rekd.method.places import Grid
from rekd.method.pretrained import load_backbone
from rekd.method.teacher import Question, Targets, Tokens, compute_targets
from rekd.store.files import Store
from rekd.store.saved_model import Weights, config_of, saved_sha256
from rekd.tasks.data import Data, load_data, token_places_of
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
        self._targets: dict[Question, Targets] = {}
        self._teachers: dict[str, RationaleModel] = {}  # by the checksum of what was saved
        self._grids: dict[str, Grid | None] = {}  # by the digest: trained again, a teacher is of the same architecture

    def data(self, task: Task) -> Data:
        """A task's arrays."""
        if task.data_name not in self._data:
            self._data[task.data_name] = self.fetch_data(task)
        return self._data[task.data_name]

    def targets(self, task: Task, teacher_digest: str) -> Targets:
        """What a teacher says of a task's training pool: from the store, or computed now and stored."""
        asked = self.asked(task, teacher_digest)
        if asked not in self._targets:
            self._keep_targets(asked, self.fetch_targets(task, teacher_digest))
        return self._targets[asked]

    def view_targets(self, task: Task, teacher_digest: str, num_epochs: int) -> list[Targets]:
        """What a teacher says of the views of each epoch."""
        first = self.asked(task, teacher_digest)
        asked = [replace(first, view_epoch=epoch) for epoch in range(1, num_epochs + 1)]
        if any(one not in self._targets for one in asked):
            for one, targets in zip(asked, self.fetch_view_targets(task, teacher_digest, num_epochs), strict=True):
                self._keep_targets(one, targets)
        return [self._targets[one] for one in asked]

    def asked(self, task: Task, teacher_digest: str) -> Question:
        """What names a teacher's targets: the teacher as it is saved now, and the task's samples."""
        return Question(
            teacher_digest=teacher_digest,
            teacher_sha256=saved_sha256(self.store, teacher_digest),
            data_fingerprint=self.data(task).fingerprint,
        )

    def teacher(self, digest: str) -> RationaleModel:
        """A teacher's model, for what stored targets cannot serve. It is shared: leave it in evaluation mode."""
        sha256 = saved_sha256(self.store, digest)
        if sha256 not in self._teachers:
            self._teachers[sha256] = _model(self.fetch_weights(digest))
        return self._teachers[sha256]

    def grid(self, digest: str) -> Grid | None:
        """Rows and columns of a teacher's features; None where they are tokens."""
        if digest not in self._grids:
            with torch.device("meta"):  # which costs neither memory nor time
                self._grids[digest] = load_backbone(config=config_of(self.store, digest)["backbone"]).grid
        return self._grids[digest]

    def _keep_targets(self, asked: Question, targets: Targets) -> None:
        targets.check(asked)
        self._targets[asked] = targets

    def keep(self, task: Task, data: Data, weights: Weights) -> None:
        """Takes over what somebody else has read already: a task's arrays, and a teacher."""
        self._data[task.data_name] = data
        self._teachers[weights.sha256] = _model(weights)

    def fetch_data(self, task: Task) -> Data:
        return load_data(task)

    def fetch_weights(self, digest: str) -> Weights:
        return Weights.load(self.store, digest)

    def fetch_targets(self, task: Task, teacher_digest: str) -> Targets:
        """What a teacher says of the task's pool, in the tokens of this view of the task where it reads others itself."""
        view = self._teachers_view(task, teacher_digest)
        own = self._stored_or_computed(view, self.asked(view, teacher_digest))
        return own if view.digest == task.digest else self._in_tokens(own, view, task)

    def _teachers_view(self, task: Task, teacher_digest: str) -> Task:
        """The task as the teacher's model reads it."""
        model = config_of(self.store, teacher_digest).get("details", {}).get("trial", {}).get("model")
        return task.seen_by(model) if model in task.models else task

    def _in_tokens(self, targets: Targets, view: Task, task: Task) -> Targets:
        """Targets of one view of a task, in the tokens of another."""
        places = token_places_of([view, task])
        own, other = (
            Tokens(places=of_view, valid=self.data(one).pool.arrays["valid"].astype(bool))
            for of_view, one in zip(places, (view, task), strict=True)
        )
        asked = self.asked(task, targets.asked.teacher_digest)
        return replace(targets.in_tokens(own, other), asked=asked)

    def fetch_view_targets(self, task: Task, teacher_digest: str, num_epochs: int) -> list[Targets]:
        asked = self.asked(task, teacher_digest)
        epochs = range(1, num_epochs + 1)
        return [self._stored_or_computed(task, replace(asked, view_epoch=epoch)) for epoch in epochs]

    def _stored_or_computed(self, task: Task, asked: Question) -> Targets:
        stored = Targets.load(self.store, asked)
        if stored is not None:
            return stored
        arrays = self.data(task).pool.arrays
        targets = compute_targets(self.teacher(asked.teacher_digest), arrays, asked, device=self.device)
        targets.save(self.store)
        return targets


def _model(weights: Weights) -> RationaleModel:
    """Its parameters are the arrays, not copies of them."""
    return RationaleModel.assemble(weights.config, weights.arrays)
