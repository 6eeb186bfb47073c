"""Checkpoints of a running trial, so that what stops it costs little: what is trained while the newest is being written.

The best version, which changes rarely, is in a file of its own, and is written when it has changed. A checkpoint names it by
its checksum.
"""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rekd.store.files import DamagedFileError, Store
from rekd.store.packed import pack, unpack

logger = logging.getLogger(__name__)

KEPT = 2
"""Checkpoints that stay: the newest, and the one before it in case the newest is damaged."""

BEST = "best."
"""What the names of the best version's tensors begin with in what `latest` returns."""

_CHECKPOINT = re.compile(r"epoch-\d{5,}\.safetensors")
_BEST_FILE = re.compile(r"best-(\d{5,})-[0-9a-f]{16}\.safetensors")


@dataclass(frozen=True)
class Best:
    """The best version so far."""

    epoch: int
    tensors: Mapping[str, Tensor] = field(repr=False)


class Checkpoints:
    """The checkpoints of one trial. A file appears whole (`Store.write`) and knows its checksum (`rekd.store.packed`)."""

    def __init__(self, store: Store, digest: str) -> None:
        self.store = store
        self.folder = store.running_folder(digest)
        self._best: tuple[int, str] | None = None  # the epoch and the file of the best version that was written last

    def save(self, epoch: int, tensors: Mapping[str, Tensor], state: dict[str, Any], best: Best | None = None) -> None:
        """Writes the state after an epoch (counted from 1) and drops what is older than `KEPT`. `state` must be JSON."""
        names = self.store.names_in(self.folder)
        if best is not None:
            state = state | {"best_file": self._written(best, names)}
        name = f"epoch-{epoch:05d}.safetensors"
        self.store.write(f"{self.folder}/{name}", pack(tensors, state))
        for old in _outdated({*names, name}):
            self.store.remove_file(f"{self.folder}/{old}")

    def latest(
        self, misfit: Callable[[dict[str, Tensor], dict[str, Any]], str] = lambda tensors, state: ""
    ) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and state of the newest checkpoint that is whole and fits; None where there is none.

        The best version's are among the tensors (`BEST`). `misfit` says why a checkpoint does not fit, and nothing where it
        does. One that is damaged or does not fit is set aside with a warning, and the one before it is used.
        """
        self._best = None  # until one fits: the new run's best version may be of the same epoch
        for name in sorted(filter(_CHECKPOINT.fullmatch, self.store.names_in(self.folder)), reverse=True):
            path = f"{self.folder}/{name}"
            content, best = self.store.read(path), None
            try:
                tensors, state = unpack(content)
                best_file = state.pop("best_file", None)  # 0.1.0 had the best version in the checkpoint
                if best_file is not None:
                    best, best_tensors = self._read_best(best_file)
                    tensors |= best_tensors
            except DamagedFileError as error:
                self.store.set_aside(path, content, f"is damaged ({error}); the trial goes on without it")
                continue
            why = misfit(tensors, state)
            if not why:
                self._best = best
                return tensors, state
            self.store.set_aside(path, content, f"does not fit ({why}); the trial goes on without it")
        return None

    def clear(self) -> None:
        """Removes them all: the trial has ended."""
        self.store.remove_folder(self.folder)

    def _written(self, best: Best, names: list[str]) -> str:
        """The best version's file, which is written where it is not among the names in the folder."""
        if self._best is not None and self._best[0] == best.epoch and self._best[1] in names:
            return self._best[1]
        content = pack(best.tensors, {})
        name = _best_name(best.epoch, content)
        if name not in names:
            self.store.write(f"{self.folder}/{name}", content)
        self._best = best.epoch, name
        return name

    def _read_best(self, name: str) -> tuple[tuple[int, str], dict[str, Tensor]]:
        """The epoch and the file of a best version, and its tensors."""
        match = _BEST_FILE.fullmatch(name)
        if match is None:
            raise DamagedFileError(f"its best version has no such name as {name}")
        path = f"{self.folder}/{name}"
        try:
            content = self.store.read(path)
        except FileNotFoundError as error:
            raise DamagedFileError(f"its best version, {name}, is not there") from error
        if _best_name(int(match[1]), content) != name:
            self.store.set_aside(path, content, "is damaged; the trial goes on without it")
            raise DamagedFileError(f"its best version, {name}, is not what was written")
        return (int(match[1]), name), {f"{BEST}{tensor}": value for tensor, value in unpack(content)[0].items()}


def _best_name(epoch: int, content: bytes) -> str:
    return f"best-{epoch:05d}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"


def _outdated(names: set[str]) -> list[str]:
    """What is needed no more: all but the newest `KEPT` checkpoints, and best versions that none of these can name."""
    checkpoints = sorted(filter(_CHECKPOINT.fullmatch, names))
    epoch = checkpoints[-KEPT:][0].removeprefix("epoch-").removesuffix(".safetensors")
    best = {name: match[1] for name in names if (match := _BEST_FILE.fullmatch(name))}
    # A checkpoint's is the newest best version of its epoch or before.
    needed = max((each for each in best.values() if each <= epoch), default="")
    return checkpoints[:-KEPT] + [name for name, each in best.items() if each < needed]


class CheckpointWriter:
    """Writes a trial's checkpoints while its training goes on, one at a time.

    A context: at its end all is written, and what writing raised is raised, unless something else was.
    """

    def __init__(self, checkpoints: Checkpoints, *, every: float = 0.0) -> None:
        """A checkpoint is due `every` so many seconds; at 0 after each epoch."""
        self.checkpoints, self.every = checkpoints, every
        self.seconds_waited = 0.0
        """What training has spent here: on copies in memory, and on waiting for the checkpoint before."""
        self._began = time.monotonic()  # the newest checkpoint, or the first epoch
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._under_way: Future[None] | None = None
        self._copies: dict[str, Tensor] = {}

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._began >= self.every

    def save(self, epoch: int, tensors: Mapping[str, Tensor], state: dict[str, Any], best: Best | None = None) -> None:
        """Does what `Checkpoints.save` does, behind the back of who calls: the tensors may change as soon as this returns.

        The best version's may not. The checkpoint before is waited for: what writing it raised is raised here.
        """
        started = time.monotonic()
        self.wait()
        self._under_way = self._thread.submit(self.checkpoints.save, epoch, self._copied(tensors), state, best)
        self._began = time.monotonic()
        self.seconds_waited += self._began - started

    def _copied(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors as they are now, in memory that serves again and again: new pages take longer than what goes there."""
        for name, value in tensors.items():
            if name not in self._copies or self._copies[name].shape != value.shape:
                self._copies[name] = torch.empty_like(value, device="cpu", requires_grad=False)
            self._copies[name].copy_(value.detach())
        return {name: self._copies[name] for name in tensors}

    def wait(self) -> None:
        """Waits until the last checkpoint is written; raises what writing it raised."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
        try:
            self.wait()
        except Exception as error:
            if kind is None:
                raise
            logger.warning("The last checkpoint was not written: %s", error)
        finally:
            self._thread.shutdown()
