"""Random whole numbers for data that is made, the same on every machine and with every version of NumPy."""

import hashlib

import numpy as np


class Draws:
    """A stream of numbers that is named by words.

    NumPy promises that a bit generator's raw numbers stay what they are; it promises that of none of its distributions.
    """

    def __init__(self, *name: str) -> None:
        seed = int.from_bytes(hashlib.sha256("/".join(name).encode()).digest()[:16], "big")
        self._bits = np.random.PCG64(seed)

    def below(self, limit: int, shape: int | tuple[int, ...]) -> np.ndarray:
        """Whole numbers from 0 to `limit` - 1. With 64 bits a number, none is noticeably more likely."""
        return (self._raw(shape) % np.uint64(limit)).astype(np.int64)

    def orders(self, count: int, length: int) -> np.ndarray:
        """`count` random orders of 0 to `length` - 1, "count length"."""
        return np.argsort(self._raw((count, length)), axis=1, kind="stable")

    def shuffled(self, values: np.ndarray) -> np.ndarray:
        """The values in a random order."""
        return values[self.orders(1, len(values))[0]]

    def _raw(self, shape: int | tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape, dtype=np.int64))
        return np.asarray(self._bits.random_raw(size), dtype=np.uint64).reshape(shape)
