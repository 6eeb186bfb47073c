"""A shortcut in `hidden-digits`: a mark that goes with the label in train and dev, and with nothing in test.

`config_name = "shortcut-90"` of a task file asks for it. One cell of clutter, drawn at random, then holds a mark, which
names a class: in 90 % of the canvases of train and dev their label, in the others another class. In test it names any class,
as chance has it. The handwriting and its truth stay what they are.
"""

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from rekd.tasks.draws import Draws
from rekd.tasks.hidden_digits import CELL, GRID, NUM_CLASSES, NUM_DIGITS, Canvases, make

_NAME = re.compile(r"shortcut-(\d{1,2}|100)")


@dataclass(frozen=True, eq=False)
class MarkedCanvases(Canvases):
    """One split, in which a cell of each canvas is a mark."""

    named: Int64[np.ndarray, "canvas"]
    """The class that the mark names."""
    place: Int64[np.ndarray, "canvas"]
    """Its cell, row after row."""


def percent_of(config_name: str | None) -> int | None:
    """How many of a hundred marks name the label in train and dev; None where the name asks for no mark.

    Raises ValueError on another name.
    """
    if config_name is None:
        return None
    asked = _NAME.fullmatch(config_name)
    if asked is None:
        raise ValueError(
            f"config_name is left out for the dataset 'hidden-digits', or 'shortcut-90': a mark that names the label of 90 % "
            f"of the canvases, got {config_name!r}."
        )
    return int(asked[1])


def make_marked(percent: int) -> dict[str, MarkedCanvases]:
    """Train, dev and test, `percent` of whose marks name the label; of test as many as chance has it."""
    return {
        name: _marked(split, 100 // NUM_CLASSES if name == "test" else percent, Draws("shortcut", str(percent), name))
        for name, split in make().items()
    }


def _marked(split: Canvases, percent: int, draws: Draws) -> MarkedCanvases:
    count = len(split.labels)
    another = (split.labels + 1 + draws.below(NUM_CLASSES - 1, count)) % NUM_CLASSES
    named = np.where(draws.below(100, count) < percent, split.labels, another)
    clutter = np.argsort(split.truth, axis=1, kind="stable")  # the cells without handwriting come first
    canvas = np.arange(count)
    place = clutter[canvas, draws.below(GRID * GRID - NUM_DIGITS, count)]
    cells = split.images.reshape(count, GRID, CELL, GRID, CELL).transpose(0, 1, 3, 2, 4).copy()
    cells[canvas, place // GRID, place % GRID] = _marks()[named]
    images = cells.transpose(0, 1, 3, 2, 4).reshape(split.images.shape)
    return MarkedCanvases(images, split.labels, split.truth, named, place)


def _marks() -> np.ndarray:
    """A cell for each class: of its four quarters those are bright that are set in the class's number plus one."""
    bits = (np.arange(1, NUM_CLASSES + 1)[:, None] >> np.arange(4)) & 1
    quarters = (255 * bits).astype(np.uint8).reshape(NUM_CLASSES, 2, 2)
    return quarters.repeat(CELL // 2, axis=1).repeat(CELL // 2, axis=2)
