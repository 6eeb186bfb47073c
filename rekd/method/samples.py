"""Samples as arrays, which cross the object store, and as tensors on the device that trains on them."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

Inputs = Mapping[str, Tensor]
"""What a model reads: `image`, 8 bits, "batch channel height width"; or `input_ids` and `valid`, "batch feature"."""

BATCH = 256
"""Samples at a time where no gradients are needed."""


class Samples(Protocol):
    """Inputs by name, "sample …", and their labels, "sample"."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]: ...
    @property
    def labels(self) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The samples of one training step, on the device."""

    inputs: Inputs
    """The inputs as the model sees them."""
    labels: Tensor
    """Numbers of their classes, "batch"."""
    pool_rows: Tensor
    """Where they stand in the pool of train and dev, "batch": what the teacher is asked by."""


class DeviceSamples:
    """Samples that live on the device as they are (8-bit images, token ids), taken by index without a trip to the host."""

    def __init__(self, samples: Samples, device: torch.device, indices: np.ndarray | None = None) -> None:
        chosen = slice(None) if indices is None else indices
        self.inputs = {name: as_tensor(array[chosen]).to(device) for name, array in samples.arrays.items()}
        self.labels = as_tensor(samples.labels[chosen]).to(device)
        self.pool_size = len(samples.labels)
        self.pool_rows = torch.arange(self.pool_size)[chosen].to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Batch:
        """The samples of the given rows."""
        inputs = {name: values[rows] for name, values in self.inputs.items()}
        return Batch(inputs=inputs, labels=self.labels[rows], pool_rows=self.pool_rows[rows])

    def batches(self) -> Iterator[Batch]:
        """All samples in order, `BATCH` at a time."""
        for rows in torch.arange(len(self), device=self.labels.device).split(BATCH):
            yield self.take(rows)


def batches(inputs: Mapping[str, np.ndarray | Tensor], *, device: torch.device, size: int = BATCH) -> Iterator[Inputs]:
    """The inputs of all samples in order, `size` at a time, on the device."""
    num_samples = len(next(iter(inputs.values())))
    for start in range(0, num_samples, size):
        yield {name: as_tensor(array[start : start + size]).to(device) for name, array in inputs.items()}


def as_tensor(array: np.ndarray | Tensor) -> Tensor:
    """A tensor on the memory of `array`, not a copy. Arrays of the object store are read-only: do not write to it."""
    if isinstance(array, Tensor):
        return array
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
