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


def read_table(file: Path, *, texts: Collection[str] = ()) -> "pa.Table":
    """The file's table. Columns in `texts` hold texts, also where a CSV file has only digits there.

    Raises whatever the readers raise where it is not such a file.
    """
    import pyarrow as pa
    from pyarrow import parquet

    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return parquet.read_table(file)
    if suffix in (".csv", ".tsv"):
        return _read_csv(file, texts)
    rows = _json_rows(file.read_text(encoding="utf-8-sig"))
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is not a list of objects, nor one object a line.")
    return pa.Table.from_pylist(rows)


def _read_csv(file: Path, texts: Collection[str]) -> "pa.Table":
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
        convert_options=csv.ConvertOptions(column_types={name: pa.string() for name in texts}),
    )


def _json_rows(text: str) -> list[Any]:
    """Reads a list, or one object a line. Only a line feed ends a line: a text may hold what Unicode calls separators."""
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.split("\n") if line.strip()]
