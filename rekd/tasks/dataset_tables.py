"""Datasets of the hub and of this machine as tables, a row a sample."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rekd.messages import one_line, shortened, shown
from rekd.tasks import planted_reviews
from rekd.tasks.embedded import EMBEDDED_DATASETS
from rekd.tasks.eraser import read_annotations
from rekd.tasks.hub import hub
from rekd.tasks.local_files import TABLE_SUFFIXES, LocalDataset, check_split
from rekd.tasks.table_files import read_table
from rekd.tasks.task import Task

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa


def read_tables(task: Task) -> "tuple[dict[str, datasets.Dataset], list[str]]":
    """The task's splits by role, columns of inputs, labels and truth only; and what the dataset holds that is not read.

    Raises ValueError where they are not as the task says.
    """
    if task.input_column == task.label_column:
        raise ValueError(
            f"{task.name}: input_column and label_column are both {task.input_column!r}. Name two columns."
        )
    tables, not_read = _read(task)
    wanted = [task.input_column, task.label_column]
    for role, name in task.splits.items():
        for column in wanted:
            if column not in tables[role].column_names:
                raise ValueError(
                    f"{task.name}: split {name!r} of {task.dataset} has no column {column!r}, "
                    f"but {shortened(tables[role].column_names)}. Set input_column and label_column."
                )
        truth = [name for name in tables[role].column_names if name == task.rationale_column and name not in wanted]
        tables[role] = _undecoded(task, tables[role].select_columns([*wanted, *truth]))
    if task.rationale_column is not None and not any(
        task.rationale_column in table.column_names for table in tables.values()
    ):
        raise ValueError(
            f"{task.name}: no split of {task.dataset} has the rationale_column {task.rationale_column!r}. Correct it, or "
            "leave it out: it is only for comparing rationales with what people marked."
        )
    return tables, not_read


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


def _read(task: Task) -> "tuple[dict[str, datasets.Dataset], list[str]]":
    if task.dataset in EMBEDDED_DATASETS:
        return _made(task), []
    local = task.local_dataset
    return _read_hub(task) if local is None else (_read_local(task, local), local.not_read())


def _made(task: Task) -> "dict[str, datasets.Dataset]":
    import datasets

    made = planted_reviews.make()
    return {role: datasets.Dataset.from_list(made[name]) for role, name in task.splits.items()}


def _read_hub(task: Task) -> "tuple[dict[str, datasets.Dataset], list[str]]":
    import datasets

    instead = f"a TOML file with extends = {task.name!r} and dataset = '/path/to/folder', and name it with --task"
    revision = task.commit or task.revision
    with hub("dataset", task.dataset, revision=revision, instead=instead) as name:
        splits = datasets.load_dataset(name, task.config_name, revision=revision)
    for name in task.splits.values():
        check_split(name, list(map(str, splits)), f"{task.name}: {task.dataset}")
    not_read = [f"split {str(name)!r}" for name in splits if str(name) not in task.splits.values()]
    return {role: splits[name] for role, name in task.splits.items()}, not_read


def _read_local(task: Task, local: LocalDataset) -> "dict[str, datasets.Dataset]":
    import datasets

    files = local.files()
    if local.is_saved:
        saved = {role: local.saved_folder(name) for role, name in task.splits.items()}
        try:
            # Without the format in which its rows were last looked at, such as NumPy's.
            return {role: datasets.Dataset.load_from_disk(folder).with_format(None) for role, folder in saved.items()}
        except Exception as error:  # of any library below it
            raise ValueError(
                f"{task.name}: {local.path} cannot be read as a folder of save_to_disk: {one_line(error)}"
            ) from error
    if local.documents():
        return {
            role: datasets.Dataset.from_list(read_annotations(local.path, of_role)) for role, of_role in files.items()
        }
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
            texts = (task.input_column,) if task.kind == "text" else ()
            tables.append(read_table(file, texts=texts, label=task.label_column))
        except Exception as error:  # of any library below it
            raise ValueError(f"{task.name}: {file} cannot be read: {one_line(error)}") from error
    try:
        # Shards may differ in how wide a number or a text is.
        joined = pa.concat_tables(_alike(tables, task.label_column), promote_options="permissive")
        return datasets.Dataset(joined)
    except Exception as error:  # as above
        raise ValueError(f"{task.name}: {files[0].parent} cannot be read as one table: {one_line(error)}") from error


def _alike(tables: "Sequence[pa.Table]", label: str) -> "list[pa.Table]":
    """The tables with their labels as texts, where one holds texts and another only whole numbers."""
    import pyarrow as pa

    types = [table.schema.field(label).type if label in table.column_names else pa.null() for table in tables]
    if not any(map(pa.types.is_string, types)):
        return list(tables)
    return [
        table.set_column(table.schema.get_field_index(label), label, table[label].cast(pa.string()))
        if pa.types.is_integer(kind)
        else table
        for table, kind in zip(tables, types, strict=True)
    ]
