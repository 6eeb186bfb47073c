"""Schedules of several processes on one store, one after another by seed: every interleaving can be had again.

An actor is a thread that stops before each operation on the store. A scheduler with a seed chooses who goes on, who is
killed there, who stalls for longer than a lease, and whose operation fails although it was, or was not, done. Store,
claims and ledger are the real ones; below them are files in memory, a clock that only moves here, and a list of the
processes that have ended.
"""

import errno
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pyarrow.fs as pafs
import pytest

import rekd.store.claims as claims_module
import rekd.store.files as files_module
import rekd.store.table as tables_module
from rekd.store.files import Store

MOST_STEPS = 50_000
"""Steps after which a schedule is taken for one without an end."""


class Killed(BaseException):
    """Ends the thread of an actor that was killed; no code of a process that is gone runs."""


class _Baton:
    """One thread waits in `take` until another calls `give`; a lock does it faster than a semaphore."""

    def __init__(self) -> None:
        lock = threading.Lock()
        lock.acquire()
        self.take, self.give = lock.acquire, lock.release


class Actor:
    """A process: its work goes on one step at a time."""

    def __init__(self, schedule: "Schedule", name: str, work: Callable[[], None], *, is_safe: bool) -> None:
        self.schedule, self.name, self.work, self.is_safe = schedule, name, work, is_safe
        self.is_dead = self.is_done = False
        self.asleep_until = self.stalled_at = float("-inf")
        self.error: Exception | None = None
        self._turn, self._back = _Baton(), _Baton()
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    def step(self) -> None:
        """Lets it go on until it stops before its next operation, or ends."""
        self._turn.give()
        self._back.take()

    def kill(self) -> None:
        """It does nothing more."""
        self.is_dead = True
        self.step()

    def stop_before(self, what: str) -> None:
        """Called by its own thread."""
        self.schedule.trace.append(f"{self.name}: {what}")
        self._back.give()
        self._turn.take()
        if self.is_dead:
            raise Killed

    def _live(self) -> None:
        self.schedule.here.actor = self
        self._turn.take()
        try:
            if not self.is_dead:
                self.work()
        except Killed:
            pass
        except Exception as error:
            self.error = error
        self.is_done = True
        self._back.give()


class Schedule:
    """One order of events, by its seed."""

    def __init__(self, seed: int, *, kills: float = 0.0, stalls: float = 0.0, failures: float = 0.0) -> None:
        """Chances, at each step, that an actor is killed or stalls, and that its operation fails."""
        self.chance, self.kills, self.stalls, self.failures = random.Random(seed), kills, stalls, failures
        self.now, self.trace, self.actors = 1000.0, [f"seed {seed}"], list[Actor]()
        self.here = threading.local()
        self.files: dict[str, tuple[bytes, int]] = {}
        self._num_writes = 0

    def add(self, name: str, work: Callable[[], None], *, is_safe: bool = False) -> None:
        """`is_safe`: it is not killed and does not stall."""
        self.actors.append(Actor(self, name, work, is_safe=is_safe))

    def run(self) -> None:
        """Until all have ended. Raises what an actor raised, and AssertionError where there is no end."""
        try:
            for _ in range(MOST_STEPS):
                living = [actor for actor in self.actors if not actor.is_done]
                if not living:
                    return
                self._advance(living)
            self.check(False, "it does not end")
        finally:
            for actor in self.actors:
                if not actor.is_done:
                    actor.kill()

    def check(self, holds: bool, what: str) -> None:
        """Raises AssertionError, with the seed and the last steps, where something does not hold."""
        if not holds:
            raise AssertionError("\n".join([what, self.trace[0], *self.trace[1:][-80:]]))

    def store(self) -> Store:
        """The store as one process sees it."""
        store = Store("mock:///s")
        store.file_system = Files(self)  # pyright: ignore[reportAttributeAccessIssue]
        return store

    def has_ended(self, name: str) -> bool:
        return any(actor.name == name and (actor.is_dead or actor.is_done) for actor in self.actors)

    def actor(self) -> Actor | None:
        """Whose thread this is; None outside of all."""
        return getattr(self.here, "actor", None)

    def sleep(self, seconds: float) -> None:
        if (actor := self.actor()) is None:
            self.now += seconds
            return
        actor.asleep_until = self.now + seconds
        actor.stop_before(f"sleeps {seconds:.1f} s")

    def stop_before(self, what: str) -> bool:
        """Before an operation on the store; whether the operation is to fail."""
        if (actor := self.actor()) is None:
            return False
        actor.stop_before(what)
        return self.chance.random() < self.failures

    def write(self, path: str, content: bytes) -> None:
        self._num_writes += 1
        self.files[path] = content, self._num_writes

    def _advance(self, living: list[Actor]) -> None:
        awake = [actor for actor in living if actor.asleep_until <= self.now]
        if not awake:
            self.now = min(actor.asleep_until for actor in living)
            return
        actor = self.chance.choice(awake)
        self._move(actor)
        self.now += self.chance.uniform(0, 0.02)
        if actor.error is not None:
            self.check(isinstance(actor.error, AssertionError), f"{actor.name} had an error: {actor.error!r}")
            raise actor.error

    def _move(self, actor: Actor) -> None:
        if not actor.is_safe and self.chance.random() < self.kills:
            self.trace.append(f"{actor.name} IS KILLED")
            actor.kill()
        elif not actor.is_safe and self.chance.random() < self.stalls:
            actor.stalled_at = self.now
            actor.asleep_until = self.now + self.chance.choice([50, 100, 200, 400])
            self.trace.append(f"{actor.name} STALLS")
        else:
            actor.step()


class Files:
    """What `Store` needs of `pyarrow.fs`, in memory: whole objects, as an object store has them."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def get_file_info(self, what: str | pafs.FileSelector) -> Any:
        if isinstance(what, str):
            return self._do(f"look for {what}", lambda: SimpleNamespace(type=self._type(what)))
        return self._do(f"list {what.base_dir}", lambda: list(self._listed(what)))

    def open_input_file(self, path: str) -> Any:
        return _Opened(lambda num_bytes=None: self._do(f"read {path}", lambda: self._found(path)[0][:num_bytes]))

    def open_output_stream(self, path: str) -> Any:
        return _Opened(write=lambda content: self._do(f"write {path}", lambda: self.schedule.write(path, content)))

    def delete_file(self, path: str) -> None:
        self._do(f"remove {path}", lambda: (self._found(path), self.schedule.files.pop(path)))

    def delete_dir(self, folder: str) -> None:
        def delete() -> None:
            for path in [path for path in self.schedule.files if path.startswith(f"{folder}/")]:
                del self.schedule.files[path]

        self._do(f"remove {folder}", delete)

    def _do(self, what: str, operation: Callable[[], Any]) -> Any:
        if not self.schedule.stop_before(what):
            return operation()
        if self.schedule.chance.random() < 0.5:  # it was done, and the answer lost
            operation()
        raise OSError(f"AWS Error INTERNAL_FAILURE during {what}")

    def _found(self, path: str) -> tuple[bytes, int]:
        if path not in self.schedule.files:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return self.schedule.files[path]

    def _type(self, path: str) -> pafs.FileType:
        is_folder = any(other.startswith(f"{path}/") for other in self.schedule.files)
        kinds = pafs.FileType
        return kinds.File if path in self.schedule.files else kinds.Directory if is_folder else kinds.NotFound

    def _listed(self, selector: pafs.FileSelector) -> Iterator[SimpleNamespace]:
        seen = set()
        for path, (content, time) in self.schedule.files.items():
            name, _, rest = path.removeprefix(f"{selector.base_dir}/").partition("/")
            if path.startswith(f"{selector.base_dir}/") and name not in seen:
                seen.add(name)
                yield SimpleNamespace(
                    base_name=name,
                    path=f"{selector.base_dir}/{name}",
                    is_file=not rest,
                    size=len(content),
                    mtime_ns=time,
                )


class _Opened:
    """An open file."""

    def __init__(self, read: Callable[..., bytes] | None = None, write: Callable[[bytes], None] | None = None) -> None:
        self.read, self.write = read, write

    def __enter__(self) -> "_Opened":
        return self

    def __exit__(self, *exception: object) -> None:
        """What was written is there already."""


class _Alone:
    """In the place of threads that read at the same time: an actor has one."""

    def __init__(self, num_threads: int) -> None:
        """As `ThreadPoolExecutor`."""

    def __enter__(self) -> "_Alone":
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing was started."""

    def map(self, function: Callable[[Any], Any], values: Any) -> Any:
        return map(function, values)


_parsed = lru_cache(20_000)(tables_module.parsed)


@contextmanager
def world_of(schedule: Schedule, *, knows_processes: bool) -> Iterator[None]:
    """Store, claims and ledger with the clock and the processes of a schedule; `knows_processes`: as on one machine."""
    clock = SimpleNamespace(monotonic=lambda: schedule.now, sleep=schedule.sleep, time=lambda: schedule.now)

    def this_process() -> dict[str, Any]:
        actor = schedule.actor()
        return {"name": actor.name if actor else "outside"}

    def has_ended(owner: dict[str, Any]) -> bool:
        return knows_processes and schedule.has_ended(owner["process"]["name"])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(claims_module, "time", clock)
        patched.setattr(files_module, "time", clock)
        patched.setattr(claims_module, "_this_process", this_process)
        patched.setattr(claims_module, "_has_ended", has_ended)
        names = SimpleNamespace(uuid4=lambda: UUID(int=schedule.chance.getrandbits(128)))
        patched.setattr(claims_module, "uuid", names)
        patched.setattr(files_module, "uuid", names)
        patched.setattr(claims_module, "random", schedule.chance)
        patched.setattr(files_module, "random", schedule.chance)
        patched.setattr(tables_module, "ThreadPoolExecutor", _Alone)
        patched.setattr(tables_module, "parsed", _parsed)
        yield
