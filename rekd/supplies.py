"""What a trial needs from elsewhere: its task's arrays, and its teacher."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load

from rekd.data import Data, load_data
from rekd.models import RationaleModel
from rekd.store import Store
from rekd.tasks import Task
from rekd.teacher import Targets, compute_targets


@dataclass(frozen=True, kw_only=True)
class TeacherWeights:
    """A teacher's checkpoint as plain arrays, which processes of one node can share without a copy."""

    config: dict[str, Any]
    """Content of its config.json."""
    weights: Mapping[str, np.ndarray]
    """Parameters and buffers by name."""

    @classmethod
    def load(cls, store: Store, digest: str) -> "TeacherWeights":
        """The checkpoint of a finished trial. Raises ValueError where the store has none."""
        folder = store.model_folder(digest)
        try:
            config = json.loads(store.read(f"{folder}/config.json"))
            weights = load(store.read(f"{folder}/model.safetensors"))
        except FileNotFoundError as error:
            raise ValueError(
                f"The teacher {digest} has no checkpoint in {folder}. Run its trial again, or choose another teacher."
            ) from error
        return cls(config=config, weights={name: value.numpy() for name, value in weights.items()})

    def model(self) -> RationaleModel:
        """The model itself, in evaluation mode; its parameters are the arrays, not copies of them."""
        return RationaleModel.assemble(self.config, self.weights)


class Supplies:
    """Reads what trials need from where it is kept. A process keeps what it has read: its next trial needs it too."""

    def __init__(self, store: Store, *, device: torch.device) -> None:
        self.store = store
        self.device = device
        self._data: dict[str, Data] = {}
        self._targets: dict[tuple[str, str], Targets] = {}
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

    def teacher(self, digest: str) -> RationaleModel:
        """A teacher's model, for what stored targets cannot serve. It is shared: leave it in evaluation mode."""
        if digest not in self._teachers:
            self._teachers[digest] = self.fetch_weights(digest).model()
        return self._teachers[digest]

    def keep(self, task: Task, data: Data, teacher_digest: str, weights: TeacherWeights) -> None:
        """Takes over what somebody else has read already."""
        self._data[task.digest] = data
        self._teachers[teacher_digest] = weights.model()

    def fetch_data(self, task: Task) -> Data:
        return load_data(task)

    def fetch_weights(self, digest: str) -> TeacherWeights:
        return TeacherWeights.load(self.store, digest)

    def fetch_targets(self, task: Task, teacher_digest: str) -> Targets:
        data = self.data(task)
        stored = Targets.load(self.store, teacher_digest=teacher_digest, data_fingerprint=data.fingerprint)
        if stored is not None:
            return stored
        targets = compute_targets(
            self.teacher(teacher_digest),
            data.pool.arrays,
            teacher_digest=teacher_digest,
            data_fingerprint=data.fingerprint,
            device=self.device,
        )
        targets.save(self.store)
        return targets
