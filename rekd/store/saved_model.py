"""A trained model as plain arrays, which processes of one node can share without a copy."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from rekd.store.files import DamagedFileError, Store


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The saved model of a finished trial. `rekd.method.models.RationaleModel.assemble` makes a model of it."""

    config: dict[str, Any]
    """Content of its config.json."""
    arrays: Mapping[str, np.ndarray]
    """Parameters and buffers by name."""

    @property
    def sha256(self) -> str:
        """The checksum of its files, which names the model."""
        return self.config["sha256"]

    @classmethod
    def load(cls, store: Store, digest: str) -> "Weights":
        """Reads them from the store. Raises ValueError where it has none that is whole.

        What is damaged is set aside. The trial's row stays, for its numbers are true; a sweep that needs the model trains
        it again (`is_saved`).
        """
        folder = store.model_folder(digest)
        files: dict[str, bytes] = {}
        try:
            for name in ("config.json", "model.safetensors"):
                files[name] = store.read(f"{folder}/{name}")
            config, weights = json.loads(files["config.json"]), files["model.safetensors"]
            check(config, weights)
            config.setdefault("sha256", checksum_of(config, weights))
            return cls(config=config, arrays=load(weights))
        except (FileNotFoundError, ValueError, SafetensorError, AttributeError) as error:
            is_gone = isinstance(error, FileNotFoundError)
            found = "no saved model" if is_gone else f"a damaged saved model ({error})"
            for name, content in {} if is_gone else files.items():
                store.set_aside(f"{folder}/{name}", content, f"is of no use: the trial has {found}")
            raise ValueError(
                f"The trial {digest} has {found}. Type its sweep's command again, which trains it first, or choose another "
                "teacher."
            ) from error


def is_saved(store: Store, digest: str) -> bool:
    """Whether a trial's model is in the store, as far as a look at its folder tells."""
    return {"config.json", "model.safetensors"} <= set(store.names_in(store.model_folder(digest)))


def saved_sha256(store: Store, digest: str) -> str:
    """The checksum of a trial's saved model, of which only the config.json is read where that holds it.

    Raises ValueError as `Weights.load`.
    """
    return config_of(store, digest)["sha256"]


def config_of(store: Store, digest: str) -> dict[str, Any]:
    """The config.json of a trial's saved model, with its checksum. Raises ValueError as `Weights.load`."""
    try:
        config = json.loads(store.read(f"{store.model_folder(digest)}/config.json"))
        return {**config, "sha256": config["sha256"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Weights.load(store, digest).config  # which says what is wrong, and does what is to be done


def checksum_of(config: Mapping[str, Any], weights: bytes) -> str:
    """SHA-256 of a saved model: its model.safetensors, and its config.json but for the checksum itself."""
    others = {name: value for name, value in config.items() if name != "sha256"}
    checksum = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
    checksum.update(weights)
    return checksum.hexdigest()


def check(config: Mapping[str, Any], weights: bytes) -> None:
    """Raises DamagedFileError where a saved model is not what was saved; one without a checksum cannot be checked."""
    if config.get("sha256", checksum := checksum_of(config, weights)) != checksum:
        raise DamagedFileError("the checksum in its config.json is not that of its files")
