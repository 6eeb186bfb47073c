"""A trained model as plain arrays, which processes of one node can share without a copy."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import load

from rekd.store import Store


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The checkpoint of a finished trial. `rekd.models.RationaleModel.assemble` makes a model of it."""

    config: dict[str, Any]
    """Content of its config.json."""
    arrays: Mapping[str, np.ndarray]
    """Parameters and buffers by name."""

    @classmethod
    def load(cls, store: Store, digest: str) -> "Weights":
        """From the store. Raises ValueError where it has none."""
        folder = store.model_folder(digest)
        try:
            config = json.loads(store.read(f"{folder}/config.json"))
            return cls(config=config, arrays=load(store.read(f"{folder}/model.safetensors")))
        except FileNotFoundError as error:
            raise ValueError(
                f"The trial {digest} has no checkpoint in {folder}. Run it again, or choose another teacher."
            ) from error
