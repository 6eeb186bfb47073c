"""What a trial that has not ended tells of itself: the records of its epochs so far, without a look at its weights."""

import json
import math
from typing import Any

from rekd.store.files import Store
from rekd.store.formats import header_end, metadata_of

LARGEST_HEADER = 32 * 2**20
"""Bytes of a checkpoint's header, beyond which it is none of ours."""


def records_so_far(store: Store, digest: str) -> list[dict[str, Any]]:
    """One record an epoch, as the newest checkpoint holds them; none where there is no checkpoint that can be read."""
    folder = store.running_folder(digest)
    names = [name for name in store.names_in(folder) if name.startswith("epoch-")]
    try:
        records = _state(store, f"{folder}/{names[-1]}")["records"] if names else []
    except (OSError, ValueError, KeyError, TypeError):  # it may be gone by now, or not be whole
        return []
    return [record for record in records if isinstance(record, dict)] if isinstance(records, list) else []


def _state(store: Store, path: str) -> dict[str, Any]:
    """The JSON in a packed file's header (`rekd.store.packed`)."""
    end = header_end(store.read_first(path, 8))
    if end > LARGEST_HEADER:
        raise ValueError(f"{path} has a header of {end} bytes.")
    return json.loads(metadata_of(store.read_first(path, end))["state"])


def curve(records: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """Epochs and the finite values of one number of their records."""
    pairs = [(record.get("epoch"), record.get(name)) for record in records]
    return [
        (epoch, float(value))
        for epoch, value in pairs
        if isinstance(epoch, int) and isinstance(value, int | float) and math.isfinite(value)
    ]
