"""Checkpoints of a running trial, so that what stops it costs an epoch at most."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from rekd.store.files import DamagedFileError, Store
from rekd.store.packed import pack, unpack

KEPT = 2
"""Checkpoints that stay: the newest, and the one before it in case the newest is damaged."""


class Checkpoints:
    """The checkpoints of one trial. A file appears whole (`Store.write`) and knows its checksum (`rekd.store.packed`)."""

    def __init__(self, store: Store, digest: str) -> None:
        self.store = store
        self.folder = store.running_folder(digest)

    def save(self, epoch: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Writes the state after an epoch (counted from 1) and drops all but the last `KEPT`. `state` must be JSON."""
        self.store.write(f"{self.folder}/epoch-{epoch:05d}.safetensors", pack(tensors, state))
        for name in self._names()[:-KEPT]:
            self.store.remove_file(f"{self.folder}/{name}")

    def latest(
        self, misfit: Callable[[dict[str, Tensor], dict[str, Any]], str] = lambda tensors, state: ""
    ) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and state of the newest checkpoint that is whole and fits; None where there is none.

        `misfit` says why one does not fit, and nothing where it does. One that is damaged or does not fit is set aside with
        a warning, and the one before it is used.
        """
        for name in reversed(self._names()):
            path = f"{self.folder}/{name}"
            content = self.store.read(path)
            try:
                tensors, state = unpack(content)
            except DamagedFileError as error:
                self.store.set_aside(path, content, f"is damaged ({error}); the trial goes on without it")
                continue
            why = misfit(tensors, state)
            if not why:
                return tensors, state
            self.store.set_aside(path, content, f"does not fit ({why}); the trial goes on without it")
        return None

    def clear(self) -> None:
        """Removes them all: the trial has ended."""
        self.store.remove_folder(self.folder)

    def _names(self) -> list[str]:
        return [name for name in self.store.names_in(self.folder) if name.startswith("epoch-")]
