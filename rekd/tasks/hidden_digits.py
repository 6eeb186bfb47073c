"""The embedded dataset `hidden-digits`: handwriting in which a rationale has to follow the input, and its truth is known.

A canvas has 6 x 6 cells of 8 x 8 pixels. Three of them, drawn at random, hold handwritten digits of one class, which is
the label; each of the others is put together of four quarters that were cut at random out of any digits, so that single
pieces tell nothing. No sample of handwriting, and no piece of it, is in two splits.

It is made of scikit-learn's digits when it is first used. All arithmetic is that of whole numbers, and the random numbers
are the raw ones of a generator whose stream is fixed: every machine makes the same bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from rekd.tasks.draws import Draws

GRID = 6
"""Cells a side; a cell is a feature where a patch is 8 pixels wide."""
CELL = 8
"""Pixels a side of a cell, which is the size of scikit-learn's digits."""
NUM_DIGITS = 3
"""Cells that hold the label."""
CANVASES = 4
"""Canvases for every sample of handwriting."""
NUM_CLASSES = 10

CHECKSUM = "8d554691ddfd4c68f3d90e380a5f2170a7559a2766a63e35fe7c0da4c4a517b3"
"""SHA-256 of all that `make` returns, which a test holds and a task's digest contains."""

_HALF = CELL // 2
_SHARES = {"train": (0, 60), "dev": (60, 75), "test": (75, 100)}
"""Percent of each class's handwriting, from and to."""


@dataclass(frozen=True, eq=False)
class Canvases:
    """One split."""

    images: UInt8[np.ndarray, "canvas channel height width"]
    labels: Int64[np.ndarray, "canvas"]
    truth: Bool[np.ndarray, "canvas cell"]
    """True for the cells that hold the label, row after row."""


def make() -> dict[str, Canvases]:
    """Train, dev and test: 4,296, 1,076 and 1,816 canvases."""
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    pixels = ((np.asarray(values).astype(np.int64) * 255 + 8) // 16).astype(np.uint8).reshape(-1, CELL, CELL)
    labels = np.asarray(labels).astype(np.int64)
    writing = dict(_by_handwriting(labels))
    return {name: _canvases(pixels, labels, rows, Draws("hidden-digits", name)) for name, rows in writing.items()}


def _by_handwriting(labels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Rows of scikit-learn's digits by split: a share of each class."""
    draws = Draws("hidden-digits", "splits")
    of_class = [draws.shuffled(np.flatnonzero(labels == number)) for number in range(NUM_CLASSES)]
    for name, (first, last) in _SHARES.items():
        parts = [rows[len(rows) * first // 100 : len(rows) * last // 100] for rows in of_class]
        yield name, np.sort(np.concatenate(parts))


def _canvases(pixels: np.ndarray, labels: np.ndarray, rows: np.ndarray, draws: Draws) -> Canvases:
    """`CANVASES` for every row of a split."""
    digits = np.repeat(rows, CANVASES)
    count = len(digits)
    cells = _clutter(pixels[rows], count, draws)
    places = draws.orders(count, GRID * GRID)[:, :NUM_DIGITS]
    shown = np.column_stack([digits, *(_of_same_class(labels, rows, digits, draws) for _ in range(NUM_DIGITS - 1))])
    canvas = np.arange(count)[:, None]
    cells[canvas, places] = pixels[shown]
    truth = np.zeros((count, GRID * GRID), dtype=bool)
    truth[canvas, places] = True
    images = cells.reshape(count, GRID, GRID, CELL, CELL).transpose(0, 1, 3, 2, 4)
    return Canvases(images.reshape(count, 1, GRID * CELL, GRID * CELL), labels[digits], truth)


def _clutter(pixels: np.ndarray, count: int, draws: Draws) -> np.ndarray:
    """Cells of four quarters, each of which was cut out of any digit, anywhere in it."""
    shape = (count, GRID * GRID, 2, 2)
    digit, row, column = (draws.below(limit, shape) for limit in (len(pixels), _HALF + 1, _HALF + 1))
    inside = np.arange(_HALF)
    rows = row[..., None, None] + inside[:, None]
    columns = column[..., None, None] + inside
    quarters = pixels[digit[..., None, None], rows, columns]
    return quarters.transpose(0, 1, 2, 4, 3, 5).reshape(count, GRID * GRID, CELL, CELL)


def _of_same_class(labels: np.ndarray, rows: np.ndarray, digits: np.ndarray, draws: Draws) -> np.ndarray:
    """Draws for every digit a row of the split with the same label."""
    found = np.empty_like(digits)
    for number in range(NUM_CLASSES):
        wanted = labels[digits] == number
        candidates = rows[labels[rows] == number]
        found[wanted] = candidates[draws.below(len(candidates), int(wanted.sum()))]
    return found
