"""One file for many trials: the same rows, read faster, and nothing lost with it."""

import logging
import os
import shutil

import pyarrow.parquet as pq
import pytest

import rekd.store.table as tables
from rekd.store.files import Store
from rekd.store.ledger import Ledger, Outcome
from rekd.trial import Trial


def trial(seed: int) -> Trial:
    return Trial(
        task="digits", task_digest="a", model="m", model_digest="b", objective="cls", seed=seed, epochs=2
    )  # fmt: skip


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(str(tmp_path))
    for seed in range(6):
        status = "failed" if seed == 5 else "diverged" if seed == 4 else "ok"
        ledger.write(trial(seed), Outcome(status=status, dev_loss=float(seed)), [{"epoch": epoch} for epoch in (1, 2)])
    return ledger


def test_compacting_changes_no_row(ledger):
    before = ledger.trials(), ledger.epochs()
    ledger.compact(at_least=1)
    assert ledger.store.exists(ledger.store.compact_file("trials"))
    assert (ledger.trials(), ledger.epochs()) == before


def test_a_few_trials_are_not_worth_a_copy(ledger):
    ledger.compact(at_least=100)
    assert not ledger.store.exists(ledger.store.compact_file("trials"))


def test_rows_written_after_compacting_are_read_too(ledger):
    ledger.compact(at_least=1)
    ledger.write(trial(7), Outcome(status="ok"), [])
    assert trial(7).digest in ledger.done()
    assert ledger.trials([trial(7).digest, trial(0).digest]).num_rows == 2


def test_a_failed_trial_stays_out_and_may_still_become_ok(ledger):
    ledger.compact(at_least=1)
    assert trial(5).digest not in ledger.done()
    ledger.write(trial(5), Outcome(status="ok"), [])
    assert trial(5).digest in ledger.done()


def test_a_damaged_copy_is_set_aside_and_the_trials_files_serve(ledger, caplog):
    before = ledger.trials()
    ledger.compact(at_least=1)
    path = ledger.store.compact_file("trials")
    content = bytearray(ledger.store.read(path))
    content[len(content) // 2 :] = b""
    ledger.store.write(path, bytes(content))
    with caplog.at_level(logging.WARNING):
        assert ledger.trials() == before
    assert "compact" in caplog.text
    assert not ledger.store.exists(path)


def test_a_row_that_was_written_again_is_read_from_its_own_file(ledger):
    ledger.compact(at_least=1)
    ledger.write(trial(0), Outcome(status="ok", dev_loss=77.0), [{"epoch": 1}])
    assert ledger.trials([trial(0).digest])["dev_loss"].to_pylist() == [77.0]
    rows = {row["digest"]: row["dev_loss"] for row in ledger.trials().to_pylist()}
    assert rows[trial(0).digest] == 77.0
    assert ledger.epochs().num_rows == 9  # one for this trial, two for four others


def test_what_is_withdrawn_while_a_copy_is_made_stays_withdrawn(ledger, monkeypatch):
    """The rows are read, then one is withdrawn, then the copy is written."""
    write = Store.write

    def write_late(self: Store, path: str, content: bytes) -> None:
        if path == self.compact_file("trials"):
            monkeypatch.setattr(Store, "write", write)
            ledger.withdraw(trial(0).digest, "it is to run again")
        write(self, path, content)

    monkeypatch.setattr(Store, "write", write_late)
    Ledger(ledger.store).compact(at_least=1)
    assert trial(0).digest not in ledger.done()
    assert ledger.row(trial(0).digest)["error"] == "it is to run again"
    ledger.compact(at_least=0)
    assert trial(0).digest not in ledger.done()


def test_a_copy_that_lacks_columns_is_no_source(ledger):
    """An earlier version made it, of rows that hold more than it knows."""
    before = ledger.trials()
    ledger.compact(at_least=1)
    path = ledger.store.compact_file("trials")
    pq.write_table(pq.read_table(path).drop_columns(["test_accuracy"]), path)
    assert ledger.trials() == before
    assert ledger.store.exists(path)
    ledger.compact(at_least=1)
    assert "test_accuracy" in pq.read_schema(path).names


def test_a_copy_of_a_later_version_is_read_where_its_columns_are_ours_and_left_alone(ledger, caplog):
    before = ledger.trials()
    ledger.compact(at_least=1)
    path = ledger.store.compact_file("trials")
    table = pq.read_table(path)
    pq.write_table(table.append_column("later", table["dev_loss"]), path)
    assert ledger.trials() == before
    place = table.column_names.index("seed")
    pq.write_table(table.set_column(place, "seed", table["seed"].cast("string")), path)
    assert ledger.trials() == before
    assert (caplog.records, ledger.store.exists(path)) == ([], True)


def test_a_copied_store_is_read_whether_its_times_are_kept_or_not(ledger, tmp_path):
    before = ledger.trials(), ledger.epochs()
    ledger.compact(at_least=1)
    shutil.copytree(ledger.store.root, tmp_path / "kept")
    shutil.copytree(ledger.store.root, tmp_path / "not kept", copy_function=shutil.copyfile)
    for name in ("kept", "not kept"):
        other = Ledger(str(tmp_path / name))
        assert (other.trials(), other.epochs()) == before


def test_the_copy_is_what_is_read(ledger, monkeypatch):
    ledger.compact(at_least=1)
    read, asked = Store.read, []
    monkeypatch.setattr(Store, "read", lambda self, path: (asked.append(path), read(self, path))[1])
    _ = ledger.trials(), ledger.epochs()
    assert sorted(os.path.relpath(path, ledger.store.root) for path in asked) == [
        *("compact/epochs.parquet", "compact/failures.parquet", "compact/trials.parquet")
    ]
    asked.clear()
    ledger.epochs([trial(0).digest])
    assert asked == [ledger.store.epochs_file(trial(0).digest)], "a few trials are read by themselves"


def test_copying_while_a_sweep_runs_is_worth_it_for_a_tenth_more(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "WORTHWHILE", 5)
    monkeypatch.setattr(tables, "SHARE", 2)
    ledger, written = Ledger(str(tmp_path)), []
    write = Store.write
    monkeypatch.setattr(Store, "write", lambda self, path, content: (written.append(path), write(self, path, content)))
    copied_at = []
    for count in range(1, 31):
        ledger.write(trial(count), Outcome(status="ok"), [])
        ledger.compact()
        if ledger.store.compact_file("trials") in written:
            copied_at.append(count)
        written.clear()
    assert copied_at == [5, 10, 15, 22]
