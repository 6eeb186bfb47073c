"""Rationales as one picture, for a page that is not the report: a row an image, a column who selects."""

import base64
import io

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from analysis.figures import STYLE, Picture
from analysis.rationales import Example, Student
from analysis.tables import file_name

MOST = 4
"""Rows."""

SIDE = 1.45
"""Inches of an image."""


def gallery(students: list[Student], task: str) -> Picture | None:
    """The first student of a task, teacher and RE beside it, on the images that the report shows first.

    None where the task has no rationales of images.
    """
    student = next((one for one in students if one.task == task and one.examples[0].image), None)
    if student is None:
        return None
    examples = student.examples[:MOST]
    num_columns = 1 + len(examples[0].views)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIDE * num_columns, (SIDE + 0.2) * len(examples) + 0.3), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)  # type: ignore[union-attr]
        grid = figure.subplots(len(examples), num_columns, squeeze=False)
        for row, example in enumerate(examples):
            _draw(grid[row], example, with_names=row == 0)
    return Picture(file_name("rationales", task), task, "Rationales", figure)


def _draw(axes: np.ndarray, example: Example, *, with_names: bool) -> None:
    """One image: whole, and what each model selects in it and says of it."""
    _show(axes[0], example.image, f"label {example.label}", "the evidence, outlined" if with_names else "")
    for place, view in zip(axes[1:], example.views, strict=True):
        says = f"says {view.prediction}, {'right' if view.right else 'wrong'}; {view.ratio:.0%} selected"
        _show(place, view.image, says, view.who.split(", seed")[0] if with_names else "")


def _show(axes: Axes, image: str, below: str, above: str) -> None:
    axes.imshow(Image.open(io.BytesIO(base64.b64decode(image.partition(",")[2]))))
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(below, fontsize=6.5, labelpad=2)
    axes.set_title(above, fontsize=7, pad=3)
