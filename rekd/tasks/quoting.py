"""Quotation marks in tables of text: whether they enclose fields, or are part of what is written there."""

import csv
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADVICE = "Write the file with a program that doubles quotation marks inside of a field."


def is_quoted(file: Path) -> bool:
    """Whether quotation marks enclose the fields of a CSV or TSV file, which may then hold line breaks.

    A CSV file is quoted. Of TSV there are both kinds, which only differ where a field begins with a quotation mark:
    then the file is what it can be read as, every row with as many fields as the header has. Raises ValueError where it
    can be read as neither, or as both with other rows.
    """
    text, delimiter = _content(file)
    if re.search(rf'(?:\A|[{delimiter}\r\n])"', text) is None:
        return True
    quoted, problem = _quoted_rows(text, delimiter)
    plain = _plain_rows(text, delimiter)
    if delimiter == ",":
        if quoted is None and '\\"' in text:
            raise ValueError(f"{problem}: it is marked by a backslash. {ADVICE}")
        # Marks that no writer would set are only words of a text, as long as they join no rows.
        if quoted is None and _lenient_rows(text) != len(_lines(text)):
            raise ValueError(f"{problem}. {ADVICE}")
        return True
    if quoted is None and plain is None:
        raise ValueError(f"{problem}. {ADVICE}")
    if None not in (quoted, plain) and quoted != plain:
        raise ValueError(
            f"it has {quoted} rows where quotation marks enclose fields, and {plain} where they do not: there is no "
            "telling which is meant. Write it as CSV or JSON lines."
        )
    return quoted is not None


def num_rows(file: Path) -> int:
    """Rows of a CSV or TSV file below its header, as they are read. Raises ValueError as `is_quoted`."""
    text, delimiter = _content(file)
    return max(0, (_lenient_rows(text, delimiter) if is_quoted(file) else len(_lines(text))) - 1)


def _content(file: Path) -> tuple[str, str]:
    """A file's characters and what is between its fields."""
    # What matters here is ASCII; the encoding is checked by who reads the texts.
    text = file.read_bytes().decode("latin-1").removeprefix("\xef\xbb\xbf")
    if text.startswith(("\xff\xfe", "\xfe\xff")):
        raise ValueError("it is UTF-16, as spreadsheets export it. Write it as UTF-8.")
    return text, "\t" if file.suffix.lower() == ".tsv" else ","


def _quoted_rows(text: str, delimiter: str) -> tuple[int | None, str]:
    """Number of rows of a strictly quoted table; None, and where it ceases to be one, if it is not."""
    count, width = 0, 0
    with _fields_of_any_size():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            for row in reader:
                width = width or len(row)
                if len(row) not in (0, width):
                    return None, f"line {reader.line_num} ends a row of {len(row)} fields, the header has {width}"
                count += bool(row)
        except csv.Error as error:
            return None, f"line {reader.line_num}: {error}, in a field that begins with a quotation mark"
    return count, ""


def _plain_rows(text: str, delimiter: str) -> int | None:
    """Number of rows of a table in which every line is one; None where it is not such a table."""
    lines = _lines(text)
    return len(lines) if len({line.count(delimiter) for line in lines}) == 1 else None


def _lenient_rows(text: str, delimiter: str = ",") -> int:
    """Number of rows of a CSV file as most readers see it, who take quotation marks as they come."""
    with _fields_of_any_size():
        return sum(bool(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))


def _lines(text: str) -> list[str]:
    return [line for line in re.split(r"\r\n|\r|\n", text) if line]


@contextmanager
def _fields_of_any_size() -> Iterator[None]:
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)
