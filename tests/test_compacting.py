"""The compact copies of the ledger are made again while a sweep runs."""

import io
import time
from dataclasses import replace

import pyarrow.parquet as pq
from rich.console import Console

from rekd.running import compacting
from rekd.running.agenda import Agenda
from rekd.running.compacting import CompactCopies
from rekd.running.conductor import Conductor
from rekd.running.plan import fixed_plan
from rekd.running.progress import Progress
from rekd.store import table
from rekd.store.claims import Claims
from rekd.store.ledger import Ledger, Outcome
from rekd.tasks.task import load_task

DIGITS = load_task("digits")
TRIAL = DIGITS.trial("re", "vit-student", seed=0, epochs=2)
OK = Outcome(status="ok", dev_loss=0.5, num_epochs=2, train_seconds=1.0)


def wait(copying: CompactCopies) -> None:
    deadline = time.monotonic() + 30
    while copying.is_copying and time.monotonic() < deadline:
        time.sleep(0.01)


def test_so_many_trials_after_the_last_copy_there_is_another(store, monkeypatch):
    for module in (compacting, table):
        monkeypatch.setattr(module, "WORTHWHILE", 3)
    ledger = Ledger(store)
    trials = [replace(TRIAL, seed=seed) for seed in range(7)]
    agenda = Agenda(fixed_plan(trials), ledger, {"digits": DIGITS}, device="cpu")
    progress = Progress(Console(quiet=True))
    conductor = Conductor(agenda, ledger, Claims(store), progress=progress, is_supplied=lambda trial: True)
    conductor.slots = 7
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
