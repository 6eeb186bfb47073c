"""Which version wrote a file: a number for the format of all that a store holds, and the program's own version."""

import importlib.metadata
from collections.abc import Mapping
from functools import cache

FORMAT = 2
"""The format of rows, compact files and checkpoints. 1 is what 0.1.0 wrote, which did not say so."""


@cache
def written_by() -> dict[str, str]:
    """The entries that say in a file's metadata what wrote it: `rekd.format` and `rekd.version`."""
    return {"rekd.format": str(FORMAT), "rekd.version": version_of("rekd")}


def version_of(package: str) -> str:
    """The version of a package; `unknown` in a checkout that nobody installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def format_of(metadata: Mapping[bytes, bytes] | Mapping[str, str] | None) -> int:
    """The format that a file's metadata name; 1 where they name none. Raises ValueError on what is no number."""
    texts = {_text(name): _text(value) for name, value in (metadata or {}).items()}
    return int(texts.get("rekd.format", "1"))


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
