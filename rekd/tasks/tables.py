"""Datasets of the hub and of this machine as tables, a row a sample, and their labels as class numbers."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rekd.messages import one_line, shortened, shown
from rekd.tasks.hub import hub
from rekd.tasks.local_files import TABLE_SUFFIXES, LocalDataset, check_split
from rekd.tasks.task import Task

if TYPE_CHECKING:
    import datasets


def read_tables(task: Task) -> "dict[str, datasets.Dataset]":
    """The task's splits by role, input and label columns only. Raises ValueError where they are not as the task says."""
    tables = _read_hub(task) if task.local_dataset is None else _read_local(task, task.local_dataset)
    wanted = [task.input_column, task.label_column]
    for role, name in task.splits.items():
        for column in wanted:
            if column not in tables[role].column_names:
                raise ValueError(
                    f"{task.name}: split {name!r} of {task.dataset} has no column {column!r}, "
                    f"but {shortened(tables[role].column_names)}. Set input_column and label_column."
                )
        tables[role] = _undecoded(task, tables[role].select_columns(wanted))
    return tables


def _undecoded(task: Task, table: "datasets.Dataset") -> "datasets.Dataset":
    """The table as it is stored. Where a column is said to hold images or sounds, `datasets` opens any path in it."""
    from datasets.features.features import require_decoding

    for column, feature in table.features.items():
        if hasattr(feature, "decode"):
            table = table.cast_column(column, replace(feature, decode=False))
        elif require_decoding(feature):
            raise ValueError(
                f"{task.name}: column {column!r} of {task.dataset} holds {shown(feature)}. Give one image a row."
            )
    return table


def at_row(task: Task, split: str, row: int) -> str:
    """Where a sample is, as messages begin."""
    return f"{task.name}: {task.dataset}, split {split!r}, row {row}"


def _read_hub(task: Task) -> "dict[str, datasets.Dataset]":
    import datasets

    instead = f"a TOML file with extends = {task.name!r} and dataset = '/path/to/folder', and name it with --task"
    revision = task.commit or task.revision
    with hub("dataset", task.dataset, revision=revision, instead=instead) as name:
        splits = datasets.load_dataset(name, task.config_name, revision=revision)
    for name in task.splits.values():
        check_split(name, list(map(str, splits)), f"{task.name}: {task.dataset}")
    return {role: splits[name] for role, name in task.splits.items()}


def _read_local(task: Task, local: LocalDataset) -> "dict[str, datasets.Dataset]":
    import datasets

    files = local.files()
    if local.is_saved:
        saved = {role: local.saved_folder(name) for role, name in task.splits.items()}
        try:
            return {role: datasets.Dataset.load_from_disk(folder) for role, folder in saved.items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{task.name}: {local.path} cannot be read as a folder of save_to_disk: {error}"
            ) from error
    if files["train"][0].suffix.lower() in TABLE_SUFFIXES:
        return {role: _read_tables(task, of_role) for role, of_role in files.items()}

    names = {role: [local.class_folder(file, task.splits[role]) for file in of_role] for role, of_role in files.items()}
    classes = sorted({name for of_role in names.values() for name in of_role})
    features = datasets.Features(
        {task.input_column: datasets.Image(), task.label_column: datasets.ClassLabel(names=classes)}
    )
    return {
        role: datasets.Dataset.from_dict(
            {task.input_column: list(map(str, of_role)), task.label_column: names[role]}, features=features
        )
        for role, of_role in files.items()
    }


def _read_tables(task: Task, files: Sequence[Path]) -> "datasets.Dataset":
    import datasets
    import pyarrow as pa

    tables = []
    for file in files:
        try:
            tables.append(_read_table(task, file))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{task.name}: {file} cannot be read: {one_line(error)}") from error
    try:
        return datasets.Dataset(pa.concat_tables(tables, promote_options="default"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{task.name}: {files[0].parent} cannot be read as one table: {one_line(error)}") from error


def _read_table(task: Task, file: Path) -> Any:
    import pyarrow as pa
    from pyarrow import csv, parquet

    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return parquet.read_table(file)
    if suffix in (".csv", ".tsv"):
        # Reviews contain line breaks. A text of digits is a text.
        parse = csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True)
        types = {task.input_column: pa.string()} if task.kind == "text" else {}
        return csv.read_csv(file, parse_options=parse, convert_options=csv.ConvertOptions(column_types=types))
    text = file.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is not a list of objects, nor one object a line.")
    return pa.Table.from_pylist(rows)


def read_labels(
    task: Task, tables: "dict[str, datasets.Dataset]"
) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Class numbers by role, and the names of the classes where the dataset has them."""
    import datasets

    column = task.label_column
    roles = task.splits
    values = {role: list(table[column]) for role, table in tables.items()}
    for role, name in roles.items():
        if not values[role]:
            raise ValueError(
                f"{task.name}: split {name!r} of {task.dataset} has no samples. Fill it, or name another one in the task file."
            )
    names = task.class_names
    feature = tables["train"].features[column]
    if isinstance(feature, datasets.ClassLabel):
        names = names or tuple(feature.names)
        if any(table.features[column] != feature for table in tables.values()):
            raise ValueError(f"{task.name}: column {column!r} of {task.dataset} names other classes in other splits.")
    elif all(isinstance(value, str) for of_role in values.values() for value in of_role):
        names = names or tuple(sorted({value for of_role in values.values() for value in of_role}))
        numbers = {name: number for number, name in enumerate(names)}
        for role, of_role in values.items():
            for row, value in enumerate(of_role):
                if value not in numbers:
                    raise ValueError(
                        f"{at_row(task, roles[role], row)}: label {value!r} is none of the class_names "
                        f"{shortened(names)}. Correct one of them."
                    )
            values[role] = [numbers[value] for value in of_role]
    if names is not None and len(names) != task.num_classes:
        raise ValueError(
            f"{task.name}: num_classes is {task.num_classes}, but column {column!r} of {task.dataset} has {len(names)} "
            f"classes: {shortened(names)}. Correct num_classes or label_column."
        )
    for role, of_role in values.items():
        for row, value in enumerate(of_role):
            if not isinstance(value, int):
                raise ValueError(
                    f"{at_row(task, roles[role], row)}: label {shown(value)} of column {column!r} is neither a whole number "
                    "nor a text. Correct it, or name another label_column."
                )
            if not 0 <= value < task.num_classes:
                raise ValueError(
                    f"{at_row(task, roles[role], row)}: label {value} is outside 0 to {task.num_classes - 1}. "
                    "Count classes from 0, and correct num_classes."
                )
    return {role: np.array(of_role, dtype=np.int64) for role, of_role in values.items()}, names
