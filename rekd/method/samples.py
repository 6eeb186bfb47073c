"""Between NumPy arrays, which cross the object store, and tensors."""

import warnings

import numpy as np
import torch
from torch import Tensor


def as_tensor(array: np.ndarray | Tensor) -> Tensor:
    """A tensor on the memory of `array`, not a copy. Arrays of the object store are read-only: do not write to it."""
    if isinstance(array, Tensor):
        return array
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
