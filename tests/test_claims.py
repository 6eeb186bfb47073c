"""Of several sweeps on one store, one runs a trial; the claims of a dead one are taken over."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import rekd.store.claims as claims_module
from rekd.store.claims import Claims
from rekd.store.files import Store, StoreUnavailableError

HOLDER = """
import sys, time
from rekd.store.claims import Claims
from rekd.store.files import Store
with Claims(Store(sys.argv[1])) as claims:
    print(claims.take("a"), flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(claims_module, "LOOK_AGAIN", 0.0)


def test_a_trial_is_had_by_one_until_it_is_released(store):
    with Claims(store) as first, Claims(store) as second:
        assert first.take("a")
        assert first.take("a")
        assert not second.take("a")
        assert second.take("b")
        assert second.elsewhere() == {"a"}
        first.release("a")
        assert second.take("a")


def test_at_the_end_nothing_is_left_of_it(store):
    with Claims(store) as first:
        first.take("a")
    assert store.names_in(store.claims_folder) == []
    assert store.names_in(store.owners_folder) == []
    with Claims(store) as second:
        assert second.take("a")


def test_never_two_have_a_trial_however_they_meet(store):
    """Eight owners ask for forty trials, all at once, until each trial is had by somebody."""
    digests = [f"trial-{number}" for number in range(40)]
    had: Counter[str] = Counter()
    lock, together = threading.Lock(), threading.Barrier(8)

    def ask(claims: Claims) -> None:
        together.wait()
        for _ in range(200):
            for digest in digests:
                with lock:
                    if had[digest]:
                        continue
                if claims.take(digest):
                    with lock:
                        had[digest] += 1
            with lock:
                if len([digest for digest in digests if had[digest]]) == len(digests):
                    return

    owners = [Claims(store) for _ in range(8)]
    for owner in owners:
        owner._beat()  # alive, without a thread each
    threads = [threading.Thread(target=ask, args=(owner,)) for owner in owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert had == dict.fromkeys(digests, 1)
    assert sum(len(owner.held) for owner in owners) == len(digests)


def test_the_claim_of_a_killed_process_is_taken_over_at_once(store):
    with subprocess.Popen([sys.executable, "-c", HOLDER, store.root], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with Claims(store) as claims:
            assert not claims.take("a")
            holder.kill()
            holder.wait()
            started = time.monotonic()
            assert claims.take("a")
            assert time.monotonic() - started < 5
            assert store.names_in(store.owners_folder) == [f"{claims.owner}.json"]


def test_what_a_process_left_that_died_before_its_first_claim_is_removed(store):
    with subprocess.Popen([sys.executable, "-c", HOLDER, store.root], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
    for name in store.names_in(store.claims_folder):
        store.remove_file(f"{store.claims_folder}/{name}")
    with Claims(store) as claims:
        claims.elsewhere()
        assert store.names_in(store.owners_folder) == [f"{claims.owner}.json"]


def test_an_owner_on_another_machine_is_dead_once_its_beat_has_stood_still(store, monkeypatch):
    def beat(number: int) -> None:
        content = {"beat": number, "process": {"machine": ["elsewhere"], "pid": 1, "started": "1"}}
        store.write(store.owner_file("far"), json.dumps(content).encode())

    beat(1)
    store.write(store.claim_file("a", "far"), b"")
    now = [1000.0]
    with Claims(store) as claims:
        monkeypatch.setattr(claims_module.time, "monotonic", lambda: now[0])
        assert not claims.take("a")
        now[0] += claims_module.LEASE - 1
        beat(2)
        assert not claims.take("a")
        now[0] += claims_module.LEASE - 1
        assert not claims.take("a"), "its last beat was seen less than a lease ago"
        now[0] += 2
        assert claims.take("a")


def test_one_that_only_stood_still_finds_what_was_taken_over(store):
    """A suspended laptop wakes up, or a store is in reach again, after another sweep has given its owner up."""
    with Claims(store) as first, Claims(store) as second:
        assert first.take("a")
        assert first.take("b")
        second._bury(first.owner, {"a": [first.owner]})
        first._beat()
        assert second.take("a")
        first.elsewhere()
        assert first.held == {"b"}
        assert first.lost == {"a"}
        assert not first.take("a")
        second.release("a")
        assert first.take("a")
        assert first.lost == set()


def test_what_cannot_be_removed_of_a_dead_one_is_left(store, monkeypatch):
    store.write(store.owner_file("dead"), b"not json")
    store.write(store.claim_file("a", "dead"), b"")

    def refuse(self: Store, path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    with Claims(store) as claims:
        with monkeypatch.context() as patched:
            patched.setattr(Store, "remove_file", refuse)
            assert claims.take("a")
        claims.release("a")


def test_a_store_that_fails_is_told_once_and_is_hopeless_after_a_while(store, monkeypatch):
    monkeypatch.setattr(claims_module, "BEAT", 0.01)
    monkeypatch.setattr(claims_module, "PATIENCE", 0.2)
    told: list[str] = []
    fails = threading.Event()
    write_once = Store.write_once

    def write(self: Store, path: str, content: bytes) -> None:
        if fails.is_set():
            raise OSError(28, "No space left on device")
        write_once(self, path, content)

    monkeypatch.setattr(Store, "write_once", write)
    with Claims(store, on_trouble=told.append) as claims:
        fails.set()
        time.sleep(0.1)
        claims.check()
        fails.clear()
        time.sleep(0.1)
        assert [("No space left" in text, "again" in text) for text in told] == [(True, True), (False, True)]
        fails.set()
        time.sleep(0.5)
        with pytest.raises(StoreUnavailableError, match="has not taken a file"):
            claims.check()


def test_a_store_that_cannot_be_written_is_bad_input_at_once(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    started = time.monotonic()
    with pytest.raises(ValueError, match="cannot be written"), Claims(Store(tmp_path / "file" / "store")):
        pass
    assert time.monotonic() - started < 5


# --- Which process is alive -----------------------------------------------------------------------------------------


def beat_of(process: object) -> bytes:
    return json.dumps({"beat": 1, "process": process}).encode()


@pytest.fixture
def holder(store):
    """A living process that holds the trial `a`."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, store.root], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_a_process_that_proc_hides_is_alive(store, holder, monkeypatch, tmp_path):
    """Another user's, where `/proc` is mounted with `hidepid`: it has no folder there, and may not be asked."""
    hidden = tmp_path / "proc"
    (hidden / "sys/kernel/random").mkdir(parents=True)
    (hidden / "self/ns").mkdir(parents=True)
    (hidden / "sys/kernel/random/boot_id").write_text(Path("/proc/sys/kernel/random/boot_id").read_text())
    (hidden / "self/ns/pid").symlink_to(Path("/proc/self/ns/pid").readlink())
    monkeypatch.setattr(claims_module, "PROC", hidden)
    kill = os.kill

    def not_permitted(pid: int, number: int) -> None:
        kill(pid, number)  # ESRCH where it has ended
        if number == 0:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(claims_module.os, "kill", not_permitted)
    with Claims(store) as claims:
        assert not claims.take("a")
        holder.kill()
        holder.wait()
        assert claims.take("a"), "that it has ended is known all the same"


def test_where_proc_is_out_of_reach_the_lease_decides(store, holder, monkeypatch, tmp_path):
    monkeypatch.setattr(claims_module, "PROC", tmp_path / "no proc")
    now = [1000.0]
    with Claims(store) as claims:
        monkeypatch.setattr(claims_module.time, "monotonic", lambda: now[0])
        assert not claims.take("a")
        holder.kill()
        holder.wait()
        now[0] += claims_module.LEASE - 1
        assert not claims.take("a")
        now[0] += 2
        assert claims.take("a")


def test_two_processes_without_proc_share_a_store(store):
    """Two real ones, in a mount namespace of their own where `/proc` is empty, as on a system that has none."""
    command = 'mount -t tmpfs none /proc && exec "$@"'
    alone = ["unshare", "--mount", "--map-root-user", "sh", "-c", command, "sh"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    start = [*alone, sys.executable, "-c", HOLDER, store.root]
    with subprocess.Popen(start, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "True\n"
        with subprocess.Popen(start, stdout=subprocess.PIPE, text=True) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "False\n"
            second.kill()
        first.kill()


@pytest.mark.parametrize(
    "beat",
    [
        b"[]",
        b'{"beat": 7}',
        beat_of("x"),
        beat_of({"machine": None}),
        beat_of({"machine": claims_module._machine(), "pid": "x"}),
        beat_of({"machine": claims_module._machine(), "pid": 2**80}),
    ],
)
def test_of_a_beat_of_another_version_the_lease_decides(store, monkeypatch, beat):
    now = [1000.0]
    store.write(store.owner_file("other"), beat)
    store.write(store.claim_file("a", "other"), b"")
    with Claims(store) as claims:
        monkeypatch.setattr(claims_module.time, "monotonic", lambda: now[0])
        assert not claims.take("a")
        now[0] += claims_module.LEASE + 1
        assert claims.take("a")
