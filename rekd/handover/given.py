"""What is to be explained: texts, files, images, folders, tables and standard input, one input after the other."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from rekd.messages import one_line, shortened, shown
from rekd.method.explain import Input, Picture
from rekd.tasks.local_files import IMAGE_SUFFIXES, TABLE_SUFFIXES
from rekd.tasks.table_files import read_table
from rekd.tasks.task_file import Kind

STANDARD_INPUT = "-"
"""The argument that stands for one input a line of standard input."""


def inputs_of(
    arguments: Iterable[str], *, kind: Kind, column: str | None = None, lines: IO[str] = sys.stdin
) -> Iterator[Input]:
    """The inputs that arguments name, for models that read texts or images.

    A folder stands for its files, a table for its rows, another file for one text; what is no file is a text itself. Raises
    ValueError, with file and row, on what is no input.
    """
    for argument in arguments:
        if argument == STANDARD_INPUT:
            yield from (line.rstrip("\r\n") for line in lines if line.strip())
        elif (path := _existing(argument)) is None:
            yield argument
        elif path.is_dir():
            yield from _of_folder(path, kind, column)
        else:
            yield from _of_file(path, kind, column)


def _existing(argument: str) -> Path | None:
    try:
        return path if (path := Path(argument)).exists() and argument.strip() else None
    except (OSError, ValueError):  # a text that is too long for a name, or holds what no name may
        return None


def _of_folder(folder: Path, kind: Kind, column: str | None) -> Iterator[Input]:
    suffixes = (*TABLE_SUFFIXES, *(IMAGE_SUFFIXES if kind == "image" else (".txt",)))
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix.lower() in suffixes]
    if not files:
        raise ValueError(f"The folder {folder} holds no file that ends in {', '.join(suffixes)}.")
    for file in files:
        yield from _of_file(file, kind, column)


def _of_file(file: Path, kind: Kind, column: str | None) -> Iterator[Input]:
    if file.suffix.lower() in TABLE_SUFFIXES:
        yield from _of_table(file, kind, column)
    elif kind == "image":
        yield str(file)
    else:
        yield _text_of(file)


def _text_of(file: Path) -> str:
    try:
        return _checked(file.read_text(encoding="utf-8-sig"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"The file {file} cannot be read as a text: {one_line(error)}. Convert it to UTF-8."
        ) from error


def _of_table(file: Path, kind: Kind, column: str | None) -> Iterator[Input]:
    try:
        table = read_table(file, texts=[column] if column is not None else ())
    except Exception as error:  # of any reader of tables
        raise ValueError(f"The table {file} cannot be read: {one_line(error)}") from error
    name = _column_of(file, table, kind, column)
    for row, value in enumerate(table[name]):
        where = f"{file}, row {row}, column {name!r}"
        yield _checked(value.as_py(), where) if kind == "text" else _picture(value.as_py(), where)


def _column_of(file: Path, table: Any, kind: Kind, column: str | None) -> str:
    """The column that was asked for, or the only one that fits."""
    names = table.column_names
    if column is not None:
        if column not in names:
            raise ValueError(f"The table {file} has no column {column!r}. It has {shortened(names)}.")
        return column
    fits = [field.name for field in table.schema if _fits(field.type, kind)]
    if not fits:
        raise ValueError(f"The table {file} has no column of {kind}s. It has {shortened(names)}.")
    if len(fits) > 1:
        raise ValueError(
            f"The table {file} has {len(fits)} columns of {kind}s ({shortened(names)}). Name the one that is meant: --column."
        )
    return fits[0]


def _fits(type: Any, kind: Kind) -> bool:
    import pyarrow as pa

    if kind == "text":
        return pa.types.is_string(type) or pa.types.is_large_string(type)
    return pa.types.is_binary(type) or (pa.types.is_struct(type) and type.get_field_index("bytes") >= 0)


def _checked(text: Any, where: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: {shown(text)} is no text from which something can be selected. Remove it.")
    return text


def _picture(value: Any, where: str) -> Picture:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError(
            f"{where}: there are no bytes of an image. What a table names is not opened: give the folder of the images, or a "
            "Parquet file that embeds them."
        )
    return Picture(where, content)


def leading_models(arguments: Sequence[str]) -> int:
    """How many of the arguments, from the first, are folders of trained models; the first one counts in any case."""
    found = 1
    while found < len(arguments) and _is_model(arguments[found]):
        found += 1
    return found


def _is_model(argument: str) -> bool:
    path = _existing(argument)
    return path is not None and (path / "config.json").is_file() and (path / "model.safetensors").is_file()
