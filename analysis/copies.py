"""The ledger as files of other programs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from analysis.frames import as_ledger
from rekd.messages import cell
from rekd.store.audits import Audits
from rekd.store.files import Store
from rekd.store.ledger import Ledger

Format = Literal["csv", "parquet"]

INTO_TRACKIO = Path(__file__).with_name("into_trackio.py")
"""What puts the CSV files into trackio, without this program."""


def ledger_files(store: Ledger | Store | str, format: Format) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a file a table: `trials`, `epochs`, and `audits` where there are any."""
    ledger = as_ledger(store)
    yield f"trials.{format}", encoded(ledger.trials(), format)
    yield f"epochs.{format}", encoded(ledger.epochs(), format)
    audits = Audits(ledger.store).read()
    if audits.num_rows:
        yield f"audits.{format}", encoded(audits, format)


def trackio_files(store: Ledger | Store | str) -> Iterator[tuple[str, bytes]]:
    """The CSV files, and the script that puts them into trackio in an environment of trackio's own."""
    yield from ledger_files(store, "csv")
    yield INTO_TRACKIO.name, INTO_TRACKIO.read_bytes()


def encoded(table: pa.Table, format: Format) -> bytes:
    """A table as the content of a file; in CSV no text is one that a spreadsheet would compute."""
    sink = pa.BufferOutputStream()
    if format == "csv":
        pacsv.write_csv(harmless(table), sink)
    else:
        pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def harmless(answer: pa.Table) -> pa.Table:
    """The table with an apostrophe before texts that a spreadsheet would compute."""
    for number, field in enumerate(answer.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            texts = pa.array([cell(text) for text in answer.column(number).to_pylist()], field.type)
            answer = answer.set_column(number, field.name, texts)
    return answer
