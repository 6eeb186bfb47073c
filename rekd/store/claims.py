"""Which of several sweeps on one store runs a trial: each trial is claimed by one of them.

A claim is a file named after its trial and its owner. Who wants a trial writes one and then looks: alone, it has the
trial; otherwise it takes its claim back and asks again later. Of two that write at the same moment at least one sees
the other, as every store that lists what was just written grants (a disk, S3), so that two never have the same trial.

An owner writes a beat every `BEAT` seconds. One whose beat has stood still for `LEASE`, by the clock of whoever looks,
or whose process is known to have ended, is dead, and its claims with it. What is known of processes is what Linux says in
`/proc`: on another system, or where that is out of reach, claims rest on leases alone, and those of an owner that was
killed are taken over after `LEASE` and not at once. One that only stood still (a suspended machine,
a store out of reach) finds its claims gone when it looks again, and gives those trials up.
"""

import contextlib
import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rekd.store.files import PATIENCE, Store, StoreUnavailableError

logger = logging.getLogger(__name__)

BEAT = 15.0
"""Seconds between two signs of life of an owner."""

LEASE = 90.0
"""Seconds without one after which an owner counts as dead: a few beats may be lost."""

LOOK_AGAIN = 2.0
"""Seconds for which a look at the claims of others serves."""

SLOW = 1.0
"""Seconds from which on a call takes long. A look that does serves for ten times as long as it took."""

AT_A_TIME = 32
"""Claims that are written or removed side by side: a store that takes seconds for a call takes many calls at once."""

PROC = Path("/proc")
"""Where Linux says which processes there are."""


class Claims:
    """The claims of one sweep. A context: inside it the owner shows signs of life, at its end nothing of it is left."""

    def __init__(self, store: Store, *, on_trouble: Callable[[str], None] = logger.warning) -> None:
        """`on_trouble` is told, once each time, that the store does not take the owner's beat, and that it does again."""
        self.store = store
        self.owner = uuid.uuid4().hex[:16]
        self.on_trouble = on_trouble
        self.held: set[str] = set()
        self.lost: set[str] = set()
        """Trials that were held and that another owner has taken over."""
        self.failing_since: float | None = None
        self._beats = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name="claims", daemon=True)
        self._seen: dict[str, tuple[bytes, float]] = {}  # an owner's last beat, and when it was first seen here
        self._elsewhere: frozenset[str] = frozenset()
        self._alive: set[str] = set()  # other owners
        self._looked = float("-inf")
        self._looking = 0.0  # seconds that the last look took
        self._going: list[Future[None]] = []  # claims that are being removed
        self._pool = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="claims")
        self._not_before: dict[str, float] = {}  # two that met ask again at different times

    def __enter__(self) -> "Claims":
        self.store.check_writable()
        self._beat(patiently=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stop.set()
        self._thread.join()
        if self.is_hopeless:
            self._pool.shutdown(wait=False, cancel_futures=True)
            return
        try:
            for digest in sorted(self.held):
                self.release_soon(digest)
            for going in self._going:
                going.result()
            self.store.remove_file(self.store.owner_file(self.owner))
        except OSError as error:  # whoever looks next finds this process gone
            logger.warning("The claims of %s could not be removed: %s", self.owner, error)
        finally:
            self._pool.shutdown()

    def take(self, digest: str) -> bool:
        """Claims a trial; whether it is this owner's now."""
        return digest in self.take_all([digest])

    def take_all(self, digests: Iterable[str]) -> set[str]:
        """Claims trials; those of them that are this owner's now. One look serves for all of them."""
        asked, now = set(digests), time.monotonic()
        wanted = sorted(digest for digest in asked - self.held if now >= self._not_before.get(digest, now))
        if wanted:
            elsewhere = self.elsewhere()
            wanted = [digest for digest in wanted if digest not in elsewhere]
        if wanted:
            self._each(lambda digest: self.store.write(self.store.claim_file(digest, self.owner), b""), wanted)
            claims = self._claims()
            others = {owner for digest in wanted for owner in claims.get(digest, ())} - {self.owner}
            alive = {owner for owner in sorted(others) if self._is_alive(owner)}
            met = [digest for digest in wanted if alive.intersection(claims.get(digest, ()))]
            self._each(lambda digest: self.store.remove_file(self.store.claim_file(digest, self.owner)), met)
            for digest in met:
                self._not_before[digest] = time.monotonic() + random.uniform(LOOK_AGAIN, 4 * LOOK_AGAIN)
            self.held |= set(wanted) - set(met)
            self.lost -= self.held
        return asked & self.held

    def release(self, digest: str) -> None:
        """The trial has ended, or will not be run."""
        if digest in self.held:
            self.held.remove(digest)
            self.store.remove_file(self.store.claim_file(digest, self.owner))

    def release_soon(self, digest: str) -> None:
        """Does what `release` does, and does not wait for it: for a trial that will not be taken again."""
        if digest in self.held:
            self.held.remove(digest)
            self._going = [going for going in self._going if not going.done() or going.exception() is not None]
            self._going.append(self._pool.submit(self.store.remove_file, self.store.claim_file(digest, self.owner)))

    def _each(self, work: Callable[[str], None], digests: list[str]) -> None:
        """Works on many side by side, and on one right here."""
        if len(digests) == 1:
            work(digests[0])
            return
        for _ in self._pool.map(work, digests):  # raises what one of them raised
            pass

    def elsewhere(self) -> frozenset[str]:
        """Trials that others have claimed and that are alive, as of the last look."""
        if time.monotonic() - self._looked > (10 * self._looking if self._looking > SLOW else LOOK_AGAIN):
            started = time.monotonic()
            claims = self._claims()
            # Of those without a claim too: one may have died before its first.
            owners = (name.removesuffix(".json") for name in self.store.names_in(self.store.owners_folder))
            others = {*owners, *(owner for owners in claims.values() for owner in owners)} - {self.owner}
            lost = {digest for digest in self.held if self.owner not in claims.get(digest, ())}
            self.held, self.lost = self.held - lost, self.lost | lost
            self._alive = alive = {owner for owner in sorted(others) if self._is_alive(owner)}
            for owner in sorted(others - alive):
                with contextlib.suppress(
                    PermissionError
                ):  # of S3 too; a dead one's claims count for nothing, there or not
                    self._bury(owner, claims)
            self._elsewhere = frozenset(digest for digest, owners in claims.items() if alive.intersection(owners))
            self._looked = time.monotonic()
            self._looking = self._looked - started
        return self._elsewhere

    @property
    def is_hopeless(self) -> bool:
        """Whether the store has not taken a beat for as long as `PATIENCE`."""
        since = self.failing_since
        return since is not None and time.monotonic() - since > PATIENCE

    def check(self) -> None:
        """Looks whether what is held is held still. Raises StoreUnavailableError where the store is hopeless."""
        if self.is_hopeless:
            raise StoreUnavailableError(f"The store {self.store} has not taken a file for {PATIENCE:.0f} s.")
        if time.monotonic() - self._looked > BEAT:
            self.elsewhere()

    def check_alone(self) -> None:
        """Raises ValueError where another owner is alive."""
        self._looked = float("-inf")
        self.elsewhere()
        if self._alive:
            raise ValueError(
                f"A sweep is running on {self.store}, and may need what would be removed. Wait for its end."
            )

    def _claims(self) -> dict[str, list[str]]:
        """Owners by trial."""
        claims: dict[str, list[str]] = {}
        for name in self.store.names_in(self.store.claims_folder):
            digest, _, owner = name.partition(".")
            if owner:
                claims.setdefault(digest, []).append(owner)
        return claims

    def _is_alive(self, owner: str) -> bool:
        try:
            beat = self.store.read(self.store.owner_file(owner))
            if _has_ended(json.loads(beat)):
                return False
        except (FileNotFoundError, ValueError):  # its beat is written before its first claim and removed after its last
            return False
        last, since = self._seen.get(owner, (b"", 0.0))
        if beat != last:
            self._seen[owner] = (beat, time.monotonic())
            return True
        return time.monotonic() - since < LEASE

    def _bury(self, owner: str, claims: dict[str, list[str]]) -> None:
        """Removes what a dead owner left."""
        for digest, owners in claims.items():
            if owner in owners:
                self.store.remove_file(self.store.claim_file(digest, owner))
        self.store.remove_file(self.store.owner_file(owner))

    def _live(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                self._beat()
            except OSError as error:
                if self.failing_since is None:
                    self.failing_since = time.monotonic()
                    self.on_trouble(f"The store {self.store} does not take files: {error}. It is tried again.")
            else:
                if self.failing_since is not None:
                    self.failing_since = None
                    self.on_trouble(f"The store {self.store} takes files again.")

    def _beat(self, *, patiently: bool = False) -> None:
        self._beats += 1
        content = {"beat": self._beats, "process": _this_process()}
        write = self.store.write if patiently else self.store.write_once
        write(self.store.owner_file(self.owner), json.dumps(content).encode())


def _this_process() -> dict[str, Any]:
    """What tells this process from all others, here and on other machines."""
    return {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def _has_ended(owner: Any) -> bool:
    """Whether the process of an owner's beat is known to have ended. In doubt it is not, and its lease decides."""
    try:
        process = owner["process"]
        if process["machine"] != _machine():  # of which nothing is known
            return False
        os.kill(process["pid"], 0)
        started = _started(process["pid"])
    except ProcessLookupError:
        return True
    except (OSError, LookupError, TypeError, OverflowError):  # another user's, or the beat of another version
        return False
    return started is not None and started != process["started"]


def _machine() -> list[str]:
    """Host, boot, and the namespace in which process numbers count (containers share the first two)."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return [socket.gethostname(), boot, str((PROC / "self/ns/pid").readlink())]
    except OSError:
        return [uuid.uuid4().hex]  # like no other: leases alone


def _started(pid: int) -> str | None:
    """When a process was started, in the kernel's ticks; empty where it has ended, None where that cannot be seen.

    Other users' processes cannot, where `/proc` is mounted with `hidepid`.
    """
    try:
        fields = (PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in "ZX" else fields[19]
