"""Which version wrote a file: a number for the format of all that a store holds, and the program's own version."""

import importlib.metadata
import json
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


def header_end(content: bytes) -> int:
    """Where the header of a packed file ends, by its first 8 bytes: a length, and that many bytes of JSON behind them."""
    return 8 + int.from_bytes(content[:8], "little")


def metadata_of(content: bytes) -> dict[str, str]:
    """The metadata of a packed file, of which the header is enough: safetensors shows them of files on disk only.

    Raises ValueError or KeyError where it is no such file.
    """
    return json.loads(content[8 : header_end(content)])["__metadata__"]


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
