"""One Parquet, CSV, TSV or JSON file as an Arrow table."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rekd.tasks.quoting import is_quoted

if TYPE_CHECKING:
    import pyarrow as pa

LARGEST_BLOCK = 2**31 - 1
"""Bytes that Arrow's CSV reader takes at once, at most; a row lies within one block."""


def read_table(file: Path, *, texts: Collection[str] = (), label: str | None = None) -> "pa.Table":
    """The file's table. Columns in `texts` hold texts, also where a CSV file has only digits there.

    The column `label` holds texts where a CSV file has numbers that lose something as such (`01`), or moments in time.
    Raises whatever the readers raise where it is not such a file.
    """
    import pyarrow as pa
    from pyarrow import parquet

    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return parquet.read_table(file)
    if suffix in (".csv", ".tsv"):
        return _with_written(file, _read_csv(file, texts=texts), label)
    rows = _json_rows(file.read_text(encoding="utf-8-sig"))
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is not a list of objects, nor one object a line.")
    # Of any row, for the first one need not have every key.
    keys = dict.fromkeys(key for row in rows for key in row)
    return pa.table({key: [row.get(key) for row in rows] for key in keys})


def _with_written(file: Path, table: "pa.Table", label: str | None) -> "pa.Table":
    """The table with its labels as they are written, where they cannot be told from what they were taken for."""
    import pyarrow as pa

    index = -1 if label is None else table.schema.get_field_index(label)
    if label is None or index < 0 or table[index].null_count:
        return table
    is_whole = pa.types.is_integer(table[index].type)
    if not (is_whole or pa.types.is_temporal(table[index].type)):
        return table
    written = [text.strip() for text in _read_csv(file, texts=[label], only=[label])[label].to_pylist()]
    if is_whole and written == list(map(str, table[index].to_pylist())):
        return table
    return table.set_column(index, label, pa.chunked_array([written]))


def _read_csv(file: Path, *, texts: Collection[str], only: Collection[str] = ()) -> "pa.Table":
    import pyarrow as pa
    from pyarrow import csv

    quoted = is_quoted(file)
    return csv.read_csv(
        file,
        # One block: a row may be as long as the file, and a column's type is that of all of its values.
        read_options=csv.ReadOptions(block_size=min(max(file.stat().st_size, 1) + 1, LARGEST_BLOCK)),
        parse_options=csv.ParseOptions(
            delimiter="\t" if file.suffix.lower() == ".tsv" else ",",
            quote_char='"' if quoted else False,
            newlines_in_values=quoted,  # reviews contain line breaks
        ),
        convert_options=csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.string()), include_columns=only),
    )


def _json_rows(text: str) -> list[Any]:
    """Reads a list, or one object a line. Only a line feed ends a line: a text may hold what Unicode calls separators."""
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.split("\n") if line.strip()]
