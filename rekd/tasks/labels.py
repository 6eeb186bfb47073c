"""The labels of a dataset as class numbers, and what the classes are called.

Every label has a name: a text is its own, a `ClassLabel` names its numbers, truth values are `false` and `true`, and a
whole number is called as it is written. Where a task's `class_names` are the dataset's own names, in any order, a sample
belongs to the class of its name. Numbers from 0 to n - 1 are the classes' numbers, whatever the task calls them; other
whole numbers name the classes in their order. A number of a CSV file (`01`) counts as one, and is called as it is written.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rekd.messages import shortened, shown
from rekd.tasks.class_order import in_order_of
from rekd.tasks.dataset_tables import at_row
from rekd.tasks.task import Task

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True, kw_only=True)
class _Column:
    """The labels of one split."""

    split: str
    labels: list[str]
    """Each sample's label by its name."""
    kind: str
    """`texts`, `numbers`, `truth values`, or `class labels`."""
    order: tuple[str, ...]
    """The names in the dataset's own order, as far as this split tells."""
    written: Mapping[str, str] = field(default_factory=dict)
    """How the numbers of a CSV file are written, by their name, where one of them is written otherwise."""

    def as_written(self) -> "_Column":
        """The column with its numbers called as they are written: beside texts, they are texts."""
        labels = [self.written.get(label, label) for label in self.labels]
        return replace(self, labels=labels, order=tuple(sorted(set(labels)))) if self.written else self


def read_labels(
    task: Task, tables: "Mapping[str, datasets.Dataset]"
) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Class numbers by role, and the names of the classes where the task or the dataset knows them."""
    columns = {role: _column(task, table, task.splits[role]) for role, table in tables.items()}
    if any(column.kind == "texts" for column in columns.values()):
        columns = {role: column.as_written() for role, column in columns.items()}
    order = _own_order(task, list(columns.values()))
    numbered, names = _numbering(task, list(columns.values()), order)
    numbers = {name: number for number, name in enumerate(numbered)}
    for column in columns.values():
        _check_known(task, column, numbers)
    by_role = {role: [numbers[label] for label in column.labels] for role, column in columns.items()}
    return {role: np.array(of_role, dtype=np.int64) for role, of_role in by_role.items()}, names


def _column(task: Task, table: "datasets.Dataset", split: str) -> _Column:
    import datasets

    values, feature = list(table[task.label_column]), table.features[task.label_column]
    if not values:
        raise ValueError(
            f"{task.name}: split {split!r} of {task.dataset} has no samples. Fill it, or name another one in the task file."
        )
    for row, value in enumerate(values):
        if not isinstance(value, (int, str)):
            raise ValueError(
                f"{at_row(task, split, row)}: label {shown(value)} of column {task.label_column!r} is neither a whole number "
                "nor a text. Correct it, or name another label_column."
            )
    if isinstance(feature, datasets.ClassLabel):
        _check_range(task, values, split, len(feature.names))
        order = tuple(feature.names)
        return _Column(split=split, labels=[order[value] for value in values], kind="class labels", order=order)
    if all(isinstance(value, bool) for value in values):
        labels = ["true" if value else "false" for value in values]
        return _Column(split=split, labels=labels, kind="truth values", order=("false", "true"))
    if all(isinstance(value, str) and _NUMBER.fullmatch(value) for value in values) and _is_csv(task):
        return _as_numbers(task, values, split)
    kind = "numbers" if all(isinstance(value, int) for value in values) else "texts"
    labels = list(map(str, values))
    return _Column(split=split, labels=labels, kind=kind, order=tuple(sorted(set(labels))))


_NUMBER = re.compile("0[xX][0-9a-fA-F]+|-?[0-9]+")


def _is_csv(task: Task) -> bool:
    """Whether the labels are of files that do not tell numbers from texts."""
    local = task.local_dataset
    return local is not None and not local.is_saved and local.files()["train"][0].suffix.lower() in (".csv", ".tsv")


def _as_numbers(task: Task, texts: Sequence[str], split: str) -> _Column:
    """Labels that are numbers, and how they are written. Raises ValueError where one number is written in two ways."""
    labels = [str(int(text, 16 if text[:2] in ("0x", "0X") else 10)) for text in texts]
    written: dict[str, str] = {}
    for row, (label, text) in enumerate(zip(labels, texts, strict=True)):
        if written.setdefault(label, text) != text:
            raise ValueError(
                f"{at_row(task, split, row)}: label {text!r} is also written {written[label]!r}. Write each class in one way."
            )
    return _Column(split=split, labels=labels, kind="numbers", order=tuple(sorted(written)), written=written)


def _own_order(task: Task, columns: Sequence[_Column]) -> tuple[str, ...]:
    """What the dataset calls its classes, in its own order. Raises ValueError where its splits do not agree."""
    kinds: dict[str, _Column] = {}
    for column in columns:
        kinds.setdefault(column.kind, column)
    names = {label for column in columns for label in column.order}
    if set(kinds) == {"numbers"}:
        in_order = tuple(map(str, sorted(map(int, names))))
        if names <= set(_first_numbers(task)) or len(names) != task.num_classes:
            for column in columns:
                _check_range(task, list(map(int, column.labels)), column.split, task.num_classes)
            return _first_numbers(task)
        return in_order
    named = kinds.get("class labels", kinds.get("truth values"))
    order = tuple(sorted(names)) if named is None else named.order
    if len(kinds) > 1 and len(names) != task.num_classes:
        listed = " and ".join(f"{kind} in split {column.split!r}" for kind, column in kinds.items())
        raise ValueError(f"{task.name}: column {task.label_column!r} of {task.dataset} holds {listed}. Give one kind.")
    if names != set(order):
        raise ValueError(
            f"{task.name}: column {task.label_column!r} of {task.dataset} names other classes in other splits."
        )
    if len(order) != task.num_classes and not (task.class_names and "texts" in kinds):
        raise ValueError(
            f"{task.name}: num_classes is {task.num_classes}, but column {task.label_column!r} of {task.dataset} has "
            f"{len(order)} classes: {shortened(order)}. Correct num_classes or label_column."
        )
    return order


def _numbering(
    task: Task, columns: Sequence[_Column], order: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The labels in the order of the classes' numbers, and what the classes are called."""
    kinds = {column.kind for column in columns}
    is_plain = kinds == {"truth values"} or (order == _first_numbers(task) and "texts" not in kinds)
    given = task.class_names
    if given is None:
        written = {name: text for column in columns for name, text in column.written.items()}
        return order, None if is_plain and kinds == {"numbers"} and not written else _called(order, written)
    by_given = in_order_of(given, order)
    if by_given is not None:
        if by_given != order and task.local_dataset is None and "texts" not in kinds:
            raise ValueError(
                f"{task.name}: class_names are those of {task.dataset} in another order. Write them in the dataset's own: "
                f"{shortened(order)}."
            )
        return by_given, given
    if is_plain:
        return order, given
    if kinds == {"texts"}:
        return given, given
    raise ValueError(
        f"{task.name}: the classes of column {task.label_column!r} of {task.dataset} are {shortened(order)}, and class_names "
        f"are {shortened(given)}. Give the same names, or leave class_names out."
    )


def _called(order: tuple[str, ...], written: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(written.get(name, name) for name in order)


def _first_numbers(task: Task) -> tuple[str, ...]:
    return tuple(map(str, range(task.num_classes)))


def _check_range(task: Task, values: Sequence[Any], split: str, num_classes: int) -> None:
    for row, value in enumerate(values):
        if not 0 <= value < num_classes:
            raise ValueError(
                f"{at_row(task, split, row)}: label {value} is outside 0 to {num_classes - 1}. "
                "Count classes from 0, and correct num_classes."
            )


def _check_known(task: Task, column: _Column, numbers: Mapping[str, int]) -> None:
    for row, label in enumerate(column.labels):
        if label not in numbers:
            raise ValueError(
                f"{at_row(task, column.split, row)}: label {label!r} is none of the class_names "
                f"{shortened(list(numbers))}. Correct one of them."
            )
