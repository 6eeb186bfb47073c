"""Datasets in the form of ERASER (DeYoung et al., 2020): documents, and annotations that name evidence in them.

A folder holds `docs/`, a file a document, and `train.jsonl`, `val.jsonl`, `test.jsonl`, an annotation a line. As a table, an
annotation has the columns `text` (its documents, one after the other), `query`, `classification`, and `evidences`: spans of
characters of the text, which is what `rationale_column` reads.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def documents(folder: Path) -> list[Path]:
    """The files of the documents, sorted; none where the folder is of another form."""
    return sorted(file for file in (folder / "docs").glob("*") if file.is_file())


def read_annotations(folder: Path, files: Sequence[Path]) -> list[Row]:
    """A row an annotation. Raises ValueError where one names what is not there."""
    return [row for file in files for row in _rows(folder, file)]


def _rows(folder: Path, file: Path) -> Iterator[Row]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield _row(folder, json.loads(line))
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{file}, line {number} is no annotation of ERASER: {reason}") from error


def _row(folder: Path, annotation: Row) -> Row:
    evidences = [evidence for group in annotation["evidences"] or () for evidence in group]
    named = [evidence["docid"] for evidence in evidences] or annotation.get("docids") or [annotation["annotation_id"]]
    text, starts = "", {}
    for name in dict.fromkeys(map(str, named)):
        starts[name] = len(text) + bool(text)
        text = f"{text}\n{_document(folder, name)}" if text else _document(folder, name)
    places: dict[str, list[tuple[int, int]]] = {}
    spans = []
    for evidence in evidences:
        name = str(evidence["docid"])
        words = places.setdefault(name, _words(_document(folder, name)))
        first, last = evidence["start_token"], evidence["end_token"] - 1
        if not 0 <= first <= last < len(words):
            raise ValueError(f"tokens {first} to {last} are not among the {len(words)} of document {name!r}")
        spans.append([starts[name] + words[first][0], starts[name] + words[last][1]])
    query = annotation.get("query") or ""
    return {"text": text, "query": query, "classification": str(annotation["classification"]), "evidences": spans}


def _document(folder: Path, name: str) -> str:
    if Path(name).name != name:
        raise ValueError(f"the document {name!r} is outside of docs")
    return (folder / "docs" / name).read_text(encoding="utf-8")


def _words(text: str) -> list[tuple[int, int]]:
    """Where ERASER's tokens stand, which are set apart by white space."""
    return [word.span() for word in re.finditer(r"\S+", text)]
