"""The compact copies of the ledger are made again while a sweep runs."""

import io
import time
from dataclasses import replace

import pyarrow.parquet as pq
from test_conductor import OK, SHORT, conductor_of

from rekd.running import compacting
from rekd.running.compacting import CompactCopies
from rekd.store import table
from rekd.store.ledger import Ledger


def wait(copying: CompactCopies) -> None:
    deadline = time.monotonic() + 30
    while copying.is_copying and time.monotonic() < deadline:
        time.sleep(0.01)


def test_so_many_trials_after_the_last_copy_there_is_another(store, monkeypatch):
    for module in (compacting, table):
        monkeypatch.setattr(module, "WORTHWHILE", 3)
    ledger = Ledger(store)
    conductor = conductor_of(ledger, [replace(SHORT, seed=seed) for seed in range(7)], slots=7)
    copied = []
    for number in range(7):
        trial = conductor.next_trial(str(number))
        assert trial is not None
        ledger.write(trial, OK)
        conductor.ended(str(number))
        wait(conductor.copies)
        path = store.compact_file("trials")
        copied.append(pq.ParquetFile(io.BytesIO(store.read(path))).metadata.num_rows if store.exists(path) else 0)
    assert copied == [0, 0, 3, 3, 3, 6, 6]
    assert Ledger(store).trials().num_rows == 7


def test_a_store_that_fails_meanwhile_ends_no_sweep(store, monkeypatch):
    def fails() -> None:
        raise OSError("the disk is full")

    ledger = Ledger(store)
    monkeypatch.setattr(ledger, "compact", fails)
    monkeypatch.setattr(compacting, "WORTHWHILE", 1)
    copying = CompactCopies(ledger)
    copying.ended()
    wait(copying)
    copying.ended()
    wait(copying)
