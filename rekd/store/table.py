"""One folder of small Parquet files as one table, and the compact copy from which it is read fast.

The files are what counts. The copy names, in each row, the file and the state of the file (size and time) that the row
was read from: what stands in it of a file that has been replaced or removed since counts for nothing. So a copy may be
old, of another version, overwritten by that of another process or gone, and every reader still sees what the files hold.
"""

import base64
import logging
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rekd.store.files import Store
from rekd.store.formats import written_by

logger = logging.getLogger(__name__)

WORTHWHILE = 100
"""Files that are not in the copy from which on a new one is worth its while: reading them takes a tenth of a second."""

SHARE = 10
"""And they are a tenth of all, so that copying while a sweep runs takes time that grows with its results, not their square."""

FEW = 32
"""Files up to which they are read by themselves: neither the folder nor the copy is looked at."""

BATCH = 500
"""Files that are read before their rows are put together: each has a hundred small pieces of memory until then."""

_FILE = re.compile(r"([0-9a-f]{16})\.parquet")


class Table:
    """A table of a store: a Parquet file of some rows for each digest, all in one folder."""

    def __init__(self, store: Store, name: str, schema: pa.Schema) -> None:
        """`schema` begins with the column `digest`; each row names the digest that its file is named after."""
        self.store, self.name, self.schema = store, name, schema
        self._with_source = schema.append(pa.field("source", pa.string()))
        self._told: set[str] = set()

    def write(self, digest: str, records: Iterable[dict[str, Any]]) -> None:
        """Writes the rows of a digest, in the place of those that were there."""
        rows = [{"digest": digest, **record} for record in records]
        self.store.write(self._path(digest), as_parquet(pa.Table.from_pylist(rows, schema=self.schema), is_small=True))

    def remove(self, digest: str) -> None:
        """Removes the rows of a digest; nothing happens where there are none."""
        self.store.remove_file(self._path(digest))

    def read(self, digests: Sequence[str] | None = None) -> pa.Table:
        """All rows, or those of the given digests, sorted by digest."""
        if digests is not None and len(digests) <= FEW:
            return self._files(sorted(set(digests)))
        copied, missing = self._copied_and_missing(None if digests is None else set(digests))
        copied = copied.select(self.schema.names)
        return pa.concat_tables([copied, self._files(list(missing))]).sort_by("digest") if missing else copied

    def compact(self, *, at_least: int | None = None) -> bool:
        """Writes a new copy where `at_least` files are not in it (`WORTHWHILE` and `SHARE` say how many); whether it did.

        Any number of processes may do so at once, with others that read and write.
        """
        copied, missing = self._copied_and_missing(None)
        enough = max(WORTHWHILE, len(copied["digest"].unique()) // SHARE) if at_least is None else at_least
        if len(missing) < enough:
            return False
        rows = self._files(list(missing))
        encoded = rows["digest"].combine_chunks().dictionary_encode()
        sources = pa.array([missing[digest] for digest in encoded.dictionary.to_pylist()], pa.string())
        sources = sources.take(encoded.indices)
        table = pa.concat_tables([copied, rows.append_column(self._with_source.field("source"), sources)])
        self.store.write(self.store.compact_file(self.name), as_parquet(table.sort_by("digest")))
        return True

    def _path(self, digest: str) -> str:
        return f"{self.store.root}/{self.name}/{digest}.parquet"

    def _copied_and_missing(self, wanted: set[str] | None) -> tuple[pa.Table, dict[str, str]]:
        """The rows of the copy whose files are still what they were, and the other files: their source, by digest."""
        sources = {}
        for name, state in self.store.states_in(f"{self.store.root}/{self.name}").items():
            if (match := _FILE.fullmatch(name)) and (wanted is None or match[1] in wanted):
                sources[match[1]] = f"{match[1]} {state}"
        if not sources:
            return self._with_source.empty_table(), {}
        copied, present = self._copy(), set(sources.values())
        encoded = copied["source"].combine_chunks().dictionary_encode()
        known = encoded.dictionary.to_pylist()
        if not present.issuperset(known):
            copied = copied.filter(pa.array([source in present for source in known], pa.bool_()).take(encoded.indices))
        missing = present.difference(known)
        return copied, {digest: source for digest, source in sources.items() if source in missing}

    def _copy(self) -> pa.Table:
        """The compact copy; without a row where there is none that has every column as this version has it."""
        path, nothing = self.store.compact_file(self.name), self._with_source.empty_table()
        try:
            content = self.store.read(path)
        except FileNotFoundError:
            return nothing
        try:
            table = parsed(content, self._with_source)
        except (pa.ArrowException, OSError, ValueError) as error:
            self.store.set_aside(path, content, f"could not be read ({error}); the files that it is a copy of are")
            return nothing
        if not set(self._with_source) <= set(table.schema):
            return nothing
        return table.select(self._with_source.names)

    def _files(self, digests: Sequence[str]) -> pa.Table:
        """The rows of files of their own."""
        # A store far away answers many at once; a near one is read by as many as there are cores.
        num_threads = min(8, os.cpu_count() or 1) if self.store.is_local else 16
        batches = [self.schema.empty_table()]
        with ThreadPoolExecutor(min(num_threads, len(digests)) or 1) as pool:
            for start in range(0, len(digests), BATCH):
                tables = [table for table in pool.map(self._file, digests[start : start + BATCH]) if table is not None]
                if tables:
                    batches.append(pa.concat_tables(tables).combine_chunks())
        return pa.concat_tables(batches)

    def _file(self, digest: str) -> pa.Table | None:
        path = self._path(digest)
        try:
            content = self.store.read(path)
        except FileNotFoundError:
            return None
        try:
            table = parsed(content, self.schema)
        except (pa.ArrowException, OSError, ValueError) as error:  # not the store's: the content is here
            self.store.keep_aside(path, content, f"could not be read ({error}); what is lost with it runs again")
            return None
        if table.schema != self.schema:
            table = pa.table([self._column(table, field, path) for field in self.schema], schema=self.schema)
        # A file that somebody copied under another name is not another trial.
        return table if table["digest"].unique().to_pylist() in ([digest], []) else None

    def _column(self, table: pa.Table, field: pa.Field, path: str) -> pa.Array | pa.ChunkedArray:
        """A column as this version has it; missing values where an earlier one did not write it."""
        places = table.schema.get_all_field_indices(field.name)
        if not places:
            return pa.nulls(len(table), field.type)
        column = table.column(places[0])
        try:
            return column if column.type == field.type else column.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            if field.name not in self._told:
                self._told.add(field.name)
                logger.warning(
                    "%s: a newer version wrote %s as %s. It counts as missing here: upgrade rekd.",
                    *(path, field.name, column.type),
                )
            return pa.nulls(len(table), field.type)


def as_parquet(table: pa.Table, *, is_small: bool = False) -> bytes:
    """The content of a file. In one of few rows, dictionaries and statistics would take half of it and of its reading."""
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata(written_by())
    pq.write_table(table, sink, write_page_checksum=True, use_dictionary=not is_small, write_statistics=not is_small)
    return sink.getvalue().to_pybytes()


def parsed(content: bytes, expected: pa.Schema) -> pa.Table:
    """The table in a file's content, with the columns that it was written with. Raises ArrowException or OSError on damage."""
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    table = file.read(use_threads=False)
    if table.schema != expected:
        _check_names(file.metadata)
    return table.replace_schema_metadata(None)


def _check_names(footer: pq.FileMetaData) -> None:
    """Raises ArrowInvalid where a column's name is damaged.

    Pages have checksums, the footer has none: the column would pass for one that an earlier version did not write.
    Arrow keeps a second copy of the names there.
    """
    encoded = (footer.metadata or {}).get(b"ARROW:schema")
    if encoded is None:  # written by another program
        return
    try:
        names, copies = (
            footer.schema.to_arrow_schema().names,
            pa.ipc.read_schema(pa.py_buffer(base64.b64decode(encoded))).names,
        )
    except ValueError as error:  # not UTF-8, not Base64, not a schema
        raise pa.ArrowInvalid(f"its schema is damaged: {error}") from error
    if names != copies:
        raise pa.ArrowInvalid("the name of a column is damaged")
