"""Where the evidence of a label stands, as people say it or as whoever planted it knows; and how a rationale agrees.

`rationale_column` of a task file names the column. A row of it is one of:

- a mask over features: as many 0 and 1 as a model has features;
- of a text, spans of characters: pairs of the first, counted from 0, and the one after the last;
- of an image, a mask of pixels: rows of numbers, or an image file, black where there is no evidence;
- nothing, where nobody has said: the sample is not scored.

Nothing is trained on it. Agreement with people is no objective measure of a rationale: a model may have other reasons than
theirs, and good ones (Section 3.4 of the paper). Where the evidence was planted there are no others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from rekd.messages import one_line, shown
from rekd.tasks.spans import Span, read_text
from rekd.tasks.task import Task

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True, eq=False)
class Truth:
    """The evidence in samples of a split."""

    marks: np.ndarray
    """bool: "sample feature"; or "sample height width", pixels of images or cells that divide them evenly."""
    known: Bool[np.ndarray, "sample"]
    """False where nobody has said."""

    def take(self, indices: np.ndarray) -> "Truth":
        """Takes the truth of the samples at `indices`, in that order."""
        return Truth(self.marks[indices], self.known[indices])

    def of_features(self, num_features: int, grid: tuple[int, int] | None) -> Bool[np.ndarray, "sample feature"]:
        """The marks by a model's features; `grid` are rows and columns of an image's patches.

        A patch is marked where any of its pixels is. Raises ValueError where there are more or fewer features.
        """
        marks = self.marks if self.marks.ndim == 2 or grid is None else _by_patch(self.marks, *grid)
        if marks.ndim != 2 or marks.shape[1] != num_features:
            raise ValueError(
                f"The rationale_column marks {' x '.join(map(str, marks.shape[1:]))} features, the model has "
                f"{num_features}. Give one mark a feature, spans of a text, or a mask of an image's pixels."
            )
        return marks


def _by_patch(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    _, height, width = pixels.shape
    marks = np.zeros((len(pixels), rows, columns), dtype=bool)
    for row in range(rows):
        band = np.any(pixels[:, row * height // rows : -(-(row + 1) * height // rows)], axis=1)
        for column in range(columns):
            marks[:, row, column] = np.any(
                band[:, column * width // columns : -(-(column + 1) * width // columns)], axis=1
            )
    return marks.reshape(len(pixels), -1)


def read_truth(
    task: Task,
    tables: "Mapping[str, datasets.Dataset]",
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    tokenizer: Any = None,
) -> dict[str, Truth]:
    """Reads the truth of the splits, by role, that have the task's `rationale_column`.

    Raises ValueError where a row is not as it should be.
    """
    column = task.rationale_column
    found = {}
    for role, table in tables.items():
        if column is None or column not in table.column_names:
            continue
        texts = list(table[task.input_column]) if task.kind == "text" else None
        shape = arrays[role]["image"].shape[2:] if task.kind == "image" else None
        where = f"{task.name}: {task.dataset}, split {task.splits[role]!r}"
        found[role] = marks_of(task, list(table[column]), texts, shape, tokenizer, where=where, column=column)
    return found


def marks_of(
    task: Task,
    values: Sequence[Any],
    texts: Sequence[str] | None,
    shape: tuple[int, ...] | None,
    tokenizer: Any,
    *,
    where: str,
    column: str,
) -> Truth:
    """A column's values as marks, one a sample: masks, spans in `texts`, or masks of pixels of images of a `shape`.

    Raises ValueError, which begins with `where`, on a row that is not as it should be.
    """
    rows = []
    for row, (value, text) in enumerate(zip(values, texts or [None] * len(values), strict=True)):
        try:
            rows.append(None if _is_missing(value) else _marks(task, value, text, shape, tokenizer))
        except (ValueError, TypeError, OSError) as error:
            at = f"{where}, row {row}: column {column!r}"
            raise ValueError(f"{at} holds {shown(value)}, which marks no evidence: {one_line(error)}") from error
    return _stacked(rows, where, column)


def _stacked(rows: Sequence[np.ndarray | None], where: str, column: str) -> Truth:
    known = np.array([row is not None for row in rows], dtype=bool)
    shapes = sorted({row.shape for row in rows if row is not None})
    if len(shapes) != 1:
        listed = ", ".join(" x ".join(map(str, shape)) for shape in shapes) or "none"
        raise ValueError(
            f"{where}: column {column!r} holds masks of different sizes, or none: {listed}. Give every mask the size of its "
            "input."
        )
    return Truth(np.stack([np.zeros(shapes[0], dtype=bool) if row is None else row for row in rows]), known)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and value.get("bytes") is None and value.get("path") is None)


def _marks(task: Task, value: Any, text: Any, shape: tuple[int, ...] | None, tokenizer: Any) -> np.ndarray:
    """The marks of one sample."""
    if task.kind == "text" and (not len(value) or np.ndim(value[0]) == 1):
        return spans_as_features(task, tokenizer, text, [_span(span, text) for span in value])
    array = _decoded(value) if isinstance(value, dict) else np.asarray(value)
    if array.dtype == object or array.dtype.kind not in "iufb":
        raise ValueError("give 0 and 1, spans as pairs of numbers, or an image")
    array = array != 0
    if array.ndim == 1:
        return _padded(array, task.max_length) if task.kind == "text" and task.max_length else array
    if shape is None or array.ndim != 2:
        raise ValueError(f"its shape is {array.shape}")
    return array if array.shape == shape else _resized(array, shape)


def _span(span: Sequence[int], text: str) -> Span:
    start, end = map(int, span)
    if not 0 <= start < end <= len(text):
        raise ValueError(f"the span {start} to {end} is not inside of a text of {len(text)} characters")
    return start, end


def spans_as_features(task: Task, tokenizer: Any, text: str, spans: Sequence[Span]) -> Bool[np.ndarray, "feature"]:
    """True for the tokens of the words that a span touches."""
    assert task.max_length is not None
    marked = np.zeros(len(text) + 1, dtype=bool)
    for start, end in spans:
        marked[start:end] = True
    places = read_text(tokenizer, text, max_length=task.max_length).spans
    return np.array([start < end and bool(marked[start:end].any()) for start, end in places], dtype=bool)


def _padded(marks: np.ndarray, length: int) -> np.ndarray:
    whole = np.zeros(length, dtype=bool)
    whole[: min(length, len(marks))] = marks[:length]
    return whole


def _decoded(value: Mapping[str, Any]) -> np.ndarray:
    from PIL import Image

    if value.get("bytes") is None:
        raise ValueError("the mask is a path, not an image's bytes. Write the dataset with save_to_disk or to_parquet")
    with Image.open(BytesIO(value["bytes"])) as image:
        # One number a pixel as it is: a deeper mask's 256 is no 0, nor is a colour's faint blue.
        array = np.asarray(
            image if image.mode in ("1", "L", "F") or image.mode.startswith("I") else image.convert("RGB")
        )
    return array if array.ndim == 2 else array.max(axis=2)


def _resized(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The nearest pixel's mark, so that a mask may be finer or coarser than its image is read."""
    rows, columns = (np.arange(size) * have // size for size, have in zip(shape, mask.shape, strict=True))
    return mask[np.ix_(rows, columns)]


Marks = Bool[np.ndarray, "sample feature"]


def agreement(mask: Marks, truth: Marks) -> dict[str, float]:
    """Means over samples of `precision`, `recall`, `f1` and `iou`, as in ERASER; a rationale of nothing has 0 of each.

    Samples without any evidence are left out; where all are, the values are missing (NaN).
    """
    mask, truth = mask[truth.any(axis=1)], truth[truth.any(axis=1)]
    if not len(truth):
        return dict.fromkeys(("precision", "recall", "f1", "iou"), float("nan"))
    both = (mask & truth).sum(axis=1)
    selected, marked, either = mask.sum(axis=1), truth.sum(axis=1), (mask | truth).sum(axis=1)
    values = {
        "precision": both / np.maximum(selected, 1),
        "recall": both / marked,
        "f1": 2 * both / (selected + marked),
        "iou": both / either,
    }
    return {name: float(value.mean()) for name, value in values.items()}


def auprc(scores: Float[np.ndarray, "sample feature"], truth: Marks) -> float:
    """Mean over samples of the area under the precision-recall curve (average precision) of scores of features.

    Features of one score are taken in together, so that their order does not count. NaN where there is no evidence.
    """
    each = [_average_precision(*row) for row in zip(scores, truth, strict=True) if row[1].any()]
    return float(np.mean(each)) if each else float("nan")


def _average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(truth[order])
    last_of_score = np.append(np.diff(scores[order]) != 0, True)
    precision = found[last_of_score] / (np.flatnonzero(last_of_score) + 1)
    gained = np.diff(found[last_of_score], prepend=0)
    return float((precision * gained).sum() / found[-1])
