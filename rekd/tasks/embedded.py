"""Datasets that need no download: scikit-learn's digits, and those that are made here when they are first used."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from rekd.tasks import hidden_digits, planted_reviews
from rekd.trial import canonical_json

EMBEDDED_DATASETS = ("digits", "hidden-digits", "planted-reviews")

_IMAGE = {"kind": "image", "image_mode": "L", "num_classes": 10, "image_size": None, "input_column": "image"}
NEEDED: dict[str, dict[str, Any]] = {
    "digits": {**_IMAGE, "dev_split": None, "config_name": None},
    "hidden-digits": {**_IMAGE, "dev_split": "dev", "test_fraction": None},
    "planted-reviews": {
        "kind": "text",
        "num_classes": 2,
        "dev_split": "dev",
        "test_fraction": None,
        "input_column": "text",
        "config_name": None,
    },
}
"""What a task file has to say of each, beside what it is free to say."""


def identity(name: str, config_name: str | None) -> dict[str, Any]:
    """What a task's digest holds of an embedded dataset: of one that is made here, what comes out, and its variant."""
    checksums = {"hidden-digits": hidden_digits.CHECKSUM, "planted-reviews": planted_reviews.CHECKSUM}
    made = {"sha256": checksums[name]} if name in checksums else {}
    return {"embedded": name} | made | ({} if config_name is None else {"config_name": config_name})


def checksum_of_canvases(made: Mapping[str, hidden_digits.Canvases]) -> str:
    """Gives the checksum of what `hidden_digits.make` made."""
    digest = hashlib.sha256()
    for name, split in made.items():
        digest.update(f"{name} {split.images.shape};".encode())
        for array in (split.images, split.labels.astype("<i8"), np.packbits(split.truth, axis=1)):
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def checksum_of_reviews(made: Mapping[str, list[planted_reviews.Row]]) -> str:
    """Gives the checksum of what `planted_reviews.make` made, and of the words that its tokenizer knows."""
    return hashlib.sha256(canonical_json([dict(made), planted_reviews.vocabulary()]).encode()).hexdigest()
