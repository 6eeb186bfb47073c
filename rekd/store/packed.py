"""Tensors and a little JSON in one safetensors file that knows its own checksum."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.numpy import save as save_arrays
from safetensors.torch import load, save
from torch import Tensor

from rekd.store.files import DamagedFileError
from rekd.store.formats import metadata_of, written_by
from rekd.trial import canonical_json


def pack(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> bytes:
    """The content of a file that holds the tensors, and `state` as JSON in its header."""
    tensors = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    text = canonical_json(dict(state))
    said = {"state": text, **written_by()}
    metadata = {**said, "sha256": _checksum(tensors, said)}
    if any(value.dtype == torch.bfloat16 for value in tensors.values()):  # a type that NumPy lacks
        return save(tensors, metadata)
    # The same file, written four times faster where tensors are many and small.
    return save_arrays({name: value.numpy() for name, value in tensors.items()}, metadata)


def unpack(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of a packed file. Raises DamagedFileError where a bit is not what it was."""
    try:
        tensors = load(content)
        metadata = metadata_of(content)
        expected, text = metadata.pop("sha256"), metadata["state"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedFileError(f"not a packed file: {error}") from error
    if _checksum(tensors, metadata) != expected:
        raise DamagedFileError("its checksum is not that of its content")
    return tensors, json.loads(text)


def _checksum(tensors: Mapping[str, Tensor], said: Mapping[str, str]) -> str:
    """SHA-256 of the tensors and of what the header says: the state, and what wrote it (which 0.1.0 left out)."""
    checksum = hashlib.sha256(said["state"].encode())
    for name in sorted(set(said) - {"state"}):
        checksum.update(f"{name} {said[name]}".encode())
    for name in sorted(tensors):
        value = tensors[name]
        checksum.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        checksum.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return checksum.hexdigest()
