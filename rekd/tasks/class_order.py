"""Whether a task calls a dataset's classes by the dataset's own names, in another order.

Light, because a task's digest needs it: 0.1.0 left the numbers as they were then, and the names were wrong.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rekd.tasks.local_files import IMAGE_SUFFIXES, LocalDataset

TRUTH_VALUES = ("false", "true")
_NUMBER = re.compile("-?[0-9]+")


def in_order_of(class_names: Sequence[str], own: Sequence[str]) -> tuple[str, ...] | None:
    """The dataset's own names in the order of a task's, where they are the same names.

    Truth values are the same in any spelling, and numbers with zeros before them (`01`).
    """
    if set(own) == set(TRUTH_VALUES):
        class_names = [name.casefold() for name in class_names]
    elif all(map(_NUMBER.fullmatch, (*own, *class_names))):
        class_names = [str(int(name)) for name in class_names]
    return tuple(class_names) if sorted(class_names) == sorted(own) else None


def is_reordered(local: LocalDataset, label_column: str, class_names: Sequence[str]) -> bool:
    """Whether the task's `class_names` are those that the dataset gives its numbers or truth values, in another order."""
    own = _own_order(local, label_column, class_names)
    return own is not None and in_order_of(class_names, own) not in (None, own)


def _own_order(local: LocalDataset, label_column: str, class_names: Sequence[str]) -> tuple[str, ...] | None:
    """What the dataset calls its numbered classes, by number; None where it names none or its labels are texts."""
    files = local.files()
    first = files["train"][0]
    if local.is_saved:
        info = local.saved_folder(local.splits["train"]) / "dataset_info.json"
        return _class_label(json.loads(info.read_text(encoding="utf-8"))["features"], label_column)
    if first.suffix.lower() in IMAGE_SUFFIXES:
        folders = {local.class_folder(file, local.splits[role]) for role, of_role in files.items() for file in of_role}
        return tuple(sorted(folders))
    if first.suffix.lower() == ".parquet" and (named := _named_in_parquet(first, label_column)) is not None:
        return named
    return _order_by_type(first, label_column, class_names)


def _class_label(features: Any, column: str) -> tuple[str, ...] | None:
    names = features.get(column, {}).get("names")
    return None if names is None else tuple(names)


def _named_in_parquet(file: Path, column: str) -> tuple[str, ...] | None:
    """The names of a `ClassLabel`, as `datasets` writes them beside the columns."""
    from pyarrow import parquet

    metadata = parquet.read_schema(file).metadata or {}
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return _class_label(features, column)


def _order_by_type(file: Path, column: str, class_names: Sequence[str]) -> tuple[str, ...] | None:
    """Gives the order of truth values and of numbers. The file is read only where the task's names may be theirs."""
    numbers = tuple(map(str, range(len(class_names))))
    if not any(in_order_of(class_names, own) for own in (TRUTH_VALUES, numbers)):
        return None
    from pyarrow import types

    from rekd.tasks.table_files import read_table

    kind = read_table(file).schema.field(column).type
    return TRUTH_VALUES if types.is_boolean(kind) else numbers if types.is_integer(kind) else None
