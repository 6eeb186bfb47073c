"""The ledger: rows come back as they were written, and a damaged file costs its own trial only."""

import errno
import logging
import math
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekd.store.files import Store
from rekd.store.formats import FORMAT
from rekd.store.ledger import EPOCHS_SCHEMA, TRIALS_SCHEMA, Ledger, Outcome
from rekd.trial import Trial, canonical_json

TRIAL = Trial(
    task="toy",
    task_digest="a",
    model="vit",
    model_digest="b",
    objective="re",
    seed=1,
    epochs=3,
    p_target=0.15,
    lambda_select=0.1,
    temperature_initial=5.0,
    temperature_final=0.1,
    temperature_every=100,
)
OK = Outcome(status="ok", best_epoch=2, dev_loss=0.1, test_accuracy=0.9, device="cpu")
EPOCHS = [{"attempt": 1, "epoch": epoch, "step": 4 * epoch, "dev_loss": 1 / epoch} for epoch in (1, 2, 3)]


@pytest.fixture
def ledger(store):
    return Ledger(store)


@pytest.fixture
def three(ledger):
    """Trials of three seeds, written."""
    trials = [replace(TRIAL, seed=seed) for seed in range(3)]
    for trial in trials:
        ledger.write(trial, replace(OK, dev_loss=trial.seed / 10), EPOCHS)
    return trials


def test_a_failure_does_not_take_the_place_of_a_result(ledger):
    """Of two runs of one trial that overlap, the later one may find its checkpoints gone."""
    ledger.write(TRIAL, OK, EPOCHS)
    ledger.write(TRIAL, Outcome(status="failed", error="no such file"))
    assert ledger.row(TRIAL.digest)["status"] == "ok"
    assert ledger.epochs().num_rows == len(EPOCHS)


def test_a_failure_that_was_under_way_does_not_take_the_place_of_a_result(ledger, monkeypatch):
    """The failure has looked, and then another run's result is written before the failure is."""
    write = Store.write

    def write_late(self: Store, path: str, content: bytes) -> None:
        monkeypatch.setattr(Store, "write", write)
        Ledger(self.root).write(TRIAL, OK, EPOCHS)
        write(self, path, content)

    monkeypatch.setattr(Store, "write", write_late)
    ledger.write(TRIAL, Outcome(status="failed", error="no such file"))
    assert ledger.row(TRIAL.digest)["status"] == "ok"
    assert ledger.trials()["status"].to_pylist() == ["ok"]
    assert ledger.epochs().num_rows == len(EPOCHS)
    assert ledger.failure(TRIAL.digest)["error"] == "no such file"


def test_a_result_takes_the_place_of_a_failure(ledger):
    ledger.write(TRIAL, Outcome(status="failed", error="memory"))
    ledger.write(TRIAL, OK, EPOCHS)
    assert ledger.row(TRIAL.digest)["status"] == "ok"
    assert ledger.failure(TRIAL.digest) is None


def test_a_failure_that_an_earlier_version_put_among_the_results_is_one(ledger):
    ledger.write(TRIAL, Outcome(status="failed", error="memory"))
    store = ledger.store
    store.write(store.trial_file(TRIAL.digest), store.read(store.failure_file(TRIAL.digest)))
    ledger.write(TRIAL, Outcome(status="failed", error="a later one"))
    assert [row["error"] for row in ledger.trials().to_pylist()] == ["a later one"]
    store.remove_file(store.failure_file(TRIAL.digest))
    assert [row["error"] for row in ledger.trials().to_pylist()] == ["memory"]
    assert ledger.row(TRIAL.digest)["error"] == "memory"
    assert ledger.done() == set()
    ledger.write(TRIAL, OK, EPOCHS)
    assert ledger.trials()["status"].to_pylist() == ["ok"]


# --- Round trips ----------------------------------------------------------------------------------------------------


def test_a_row_holds_the_trial_its_outcome_and_its_epochs(ledger):
    ledger.write(TRIAL, OK, EPOCHS)
    (row,) = ledger.trials().to_pylist()
    assert row == {
        "digest": TRIAL.digest,
        **asdict(TRIAL),
        "fidelity": "paper",
        **asdict(OK),
        "config": canonical_json(asdict(TRIAL)),
        "format": FORMAT,
    }
    epochs = ledger.epochs().to_pylist()
    assert [(row["digest"], row["epoch"], row["dev_loss"]) for row in epochs] == [
        (TRIAL.digest, 1, 1.0),
        (TRIAL.digest, 2, 0.5),
        (TRIAL.digest, 3, 1 / 3),
    ]
    assert epochs[0]["temperature"] is None  # not recorded is null, not 0


def test_an_error_that_is_no_utf_8_is_written_all_the_same(ledger):
    ledger.write(TRIAL, Outcome(status="failed", error="no such file: /data/\udcff.png"))
    assert ledger.row(TRIAL.digest)["error"] == "no such file: /data/?.png"


finite = st.floats(allow_nan=False)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    learning_rate=st.floats(min_value=1e-12, max_value=1.0),
    task=st.text(min_size=1).filter(lambda text: text.isprintable()),
    status=st.sampled_from(["ok", "diverged", "failed"]),
    error=st.text(st.characters(exclude_categories=["Cs"])),
    dev_loss=st.none() | finite,
    best_epoch=st.none() | st.integers(1, 2**40),
    losses=st.lists(st.none() | finite, max_size=4),
)
def test_whatever_is_written_is_read(seed, learning_rate, task, status, error, dev_loss, best_epoch, losses):
    trial = replace(TRIAL, seed=seed, learning_rate=learning_rate, task=task)
    outcome = Outcome(status=status, error=error, dev_loss=dev_loss, best_epoch=best_epoch)
    records = [{"epoch": number, "dev_loss": loss} for number, loss in enumerate(losses, 1)]
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(folder)
        ledger.write(trial, outcome, records)
        (row,) = ledger.trials().to_pylist()
        epochs = ledger.epochs().to_pylist()
    assert {name: row[name] for name in asdict(outcome)} == asdict(outcome)
    assert Trial(**{name: row[name] for name in asdict(trial)}) == trial
    assert row["digest"] == trial.digest
    written = [] if status == "failed" else list(enumerate(losses, 1))  # what failed has no epochs
    assert [(row["epoch"], row["dev_loss"]) for row in epochs] == written


def test_a_loss_that_is_not_a_number_is_kept_as_one(ledger):
    ledger.write(TRIAL, Outcome(status="diverged"), [{"epoch": 1, "train_loss": math.nan, "dev_loss": math.inf}])
    (row,) = ledger.epochs().to_pylist()
    assert math.isnan(row["train_loss"])
    assert row["dev_loss"] == math.inf


def test_an_empty_store_has_the_columns_all_the_same(ledger):
    assert ledger.trials().schema.equals(TRIALS_SCHEMA)
    assert ledger.epochs().schema.equals(EPOCHS_SCHEMA)
    assert (ledger.trials().num_rows, ledger.epochs().num_rows, ledger.done()) == (0, 0, set())


def test_rows_are_sorted_and_can_be_asked_for_by_digest(ledger, three):
    digests = sorted(trial.digest for trial in three)
    assert ledger.trials()["digest"].to_pylist() == digests
    assert ledger.epochs()["digest"].to_pylist() == [digest for digest in digests for _ in range(3)]
    asked = [digests[2], digests[0], digests[0], "unknown"]
    assert ledger.trials(asked)["digest"].to_pylist() == [digests[0], digests[2]]
    assert set(ledger.epochs(asked)["digest"].to_pylist()) == {digests[0], digests[2]}
    assert ledger.trials([]).num_rows == 0


def test_a_ledger_that_is_not_a_local_folder():
    store = Store("mock:///results")
    for folder in (store.trials_folder, store.epochs_folder):
        store.file_system.create_dir(folder, recursive=True)
    ledger = Ledger(store)
    ledger.write(TRIAL, OK, EPOCHS)
    assert ledger.done() == {TRIAL.digest}
    assert ledger.epochs().num_rows == 3


# --- What runs again ------------------------------------------------------------------------------------------------


def test_failed_trials_run_again_and_diverged_ones_do_not(ledger):
    outcomes = {
        "ok": OK,
        "diverged": Outcome(status="diverged", error="x"),
        "failed": Outcome(status="failed", error="y"),
    }
    digests = {}
    for seed, (status, outcome) in enumerate(outcomes.items()):
        trial = replace(TRIAL, seed=seed)
        ledger.write(trial, outcome)
        digests[status] = trial.digest
    assert ledger.done() == {digests["ok"], digests["diverged"]}
    assert ledger.trials().num_rows == 3  # what failed is a row too, with its reason

    ledger.write(replace(TRIAL, seed=2), OK)
    assert ledger.done() == set(digests.values())
    assert ledger.trials().num_rows == 3


def test_epochs_are_there_before_the_row_of_the_trial(store, ledger):
    Path(store.root).mkdir()
    Path(store.trials_folder).write_text("in the way")  # writing the row fails
    with pytest.raises(OSError, match="trials"):
        ledger.write(TRIAL, OK, EPOCHS)
    assert ledger.epochs().num_rows == 3

    Path(store.trials_folder).unlink()
    Path(store.epochs_file(TRIAL.digest)).unlink()
    Path(store.epochs_folder).rmdir()
    Path(store.epochs_folder).write_text("in the way")  # writing the epochs fails
    with pytest.raises(OSError, match="epochs"):
        ledger.write(TRIAL, OK, EPOCHS)
    assert ledger.trials().num_rows == 0
    assert ledger.done() == set()


# --- Damage ---------------------------------------------------------------------------------------------------------


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "another file": lambda content: b"not parquet at all",
    "a bit in a page": lambda content: flipped(content, content.index(b"re", 100)),
    "a bit in the name of a column": lambda content: flipped(content, content.index(b"dev_loss")),
    "a bit in the length of the footer": lambda content: flipped(content, len(content) - 7),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["trials", "epochs"])
def test_a_damaged_file_is_set_aside_and_the_others_are_untouched(ledger, three, caplog, damage, kind):
    store, victim = ledger.store, three[1].digest
    path = store.trial_file(victim) if kind == "trials" else store.epochs_file(victim)
    content = store.read(path)
    if damage == "a bit in a page" and kind == "epochs":
        damaged = flipped(content, content.index(victim.encode()))
    else:
        damaged = DAMAGES[damage](content)
    Path(path).write_bytes(damaged)

    with caplog.at_level(logging.WARNING):
        table = ledger.trials() if kind == "trials" else ledger.epochs()
    assert set(table["digest"].to_pylist()) == {three[0].digest, three[2].digest}
    assert table["dev_loss"].null_count == 0
    (name,) = store.names_in(store.set_aside_folder)
    assert store.read(f"{store.set_aside_folder}/{name}") == damaged
    (record,) = caplog.records
    assert path in record.message
    assert "could not be read" in record.message
    assert name in record.message
    assert ledger.done() == ({three[0].digest, three[2].digest} if kind == "trials" else {t.digest for t in three})

    caplog.clear()
    assert (ledger.trials() if kind == "trials" else ledger.epochs()).equals(table)
    assert caplog.records == []  # once, not every time


def test_a_damaged_file_in_a_store_that_may_not_be_written_is_left_out(ledger, three, monkeypatch, caplog):
    Path(ledger.store.trial_file(three[1].digest)).write_bytes(b"")

    def write(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Store, "write_once", write)
    assert set(ledger.trials()["digest"].to_pylist()) == {three[0].digest, three[2].digest}
    assert ledger.row(three[1].digest) is None
    assert "cannot be set aside" in caplog.text


def test_what_is_set_aside_is_what_was_read(ledger, three, monkeypatch):
    """A good row that another process writes between a reader's look at a damaged one and its end stays."""
    victim, read = three[1], Store.read
    path = ledger.store.trial_file(victim.digest)
    Path(path).write_bytes(b"damaged")

    def read_and_lose_the_race(self: Store, which: str) -> bytes:
        content = read(self, which)
        if content == b"damaged":
            Ledger(self.root).write(victim, OK, EPOCHS)
        return content

    monkeypatch.setattr(Store, "read", read_and_lose_the_race)
    ledger.trials()
    (name,) = ledger.store.names_in(ledger.store.set_aside_folder)
    assert ledger.store.read(f"{ledger.store.set_aside_folder}/{name}") == b"damaged"
    assert ledger.row(victim.digest)["status"] == "ok"


def test_a_flipped_bit_never_passes_for_another_result(ledger, caplog):
    """Wherever it is: the file is set aside, or the bit is one that no value depends on."""
    ledger.write(TRIAL, OK)
    path = Path(ledger.store.trial_file(TRIAL.digest))
    content, row = path.read_bytes(), ledger.trials().to_pylist()
    outcomes = []
    for place in range(3, len(content), 97):
        path.write_bytes(flipped(content, place))
        outcomes.append(ledger.trials().to_pylist())
        path.write_bytes(content)
    assert all(outcome in ([], row) for outcome in outcomes)
    assert outcomes.count([]) > len(outcomes) / 4


def test_a_whole_store_of_damaged_files_is_an_empty_table(ledger, three, caplog):
    for trial in three:
        Path(ledger.store.trial_file(trial.digest)).write_bytes(b"")
    assert ledger.trials().schema.equals(TRIALS_SCHEMA)
    assert ledger.done() == set()
    assert len(ledger.store.names_in(ledger.store.set_aside_folder)) == 3


# --- Results that are of no use any more ----------------------------------------------------------------------------


@pytest.mark.parametrize("is_compact", [False, True])
def test_a_trial_that_is_withdrawn_keeps_its_numbers_and_runs_again(ledger, three, is_compact):
    if is_compact:
        ledger.compact(at_least=1)
    digest, others = three[1].digest, {three[0].digest, three[2].digest}
    before = ledger.row(digest)
    ledger.withdraw(digest, "its model is damaged")
    assert ledger.done() == others
    assert ledger.row(digest) == before | {"status": "failed", "error": "its model is damaged"}
    assert ledger.trials([digest]).to_pylist() == [ledger.row(digest)]
    ledger.write(three[1], OK, EPOCHS[:1])
    assert ledger.done() == {digest, *others}
    assert ledger.epochs([digest]).num_rows == 1


def test_what_has_no_result_is_not_withdrawn(ledger):
    ledger.write(TRIAL, Outcome(status="failed", error="why"))
    ledger.withdraw(TRIAL.digest, "it is to run again")
    ledger.withdraw("unknown", "it is to run again")
    assert [(row["status"], row["error"]) for row in ledger.trials().to_pylist()] == [("failed", "why")]


@pytest.mark.parametrize("is_compact", [False, True])
def test_a_trial_whose_file_is_deleted_runs_again(ledger, three, is_compact):
    if is_compact:
        ledger.compact(at_least=1)
    Path(ledger.store.trial_file(three[1].digest)).unlink()
    assert ledger.done() == {three[0].digest, three[2].digest}
    assert ledger.row(three[1].digest) is None


# --- Files of other versions ----------------------------------------------------------------------------------------


def test_a_column_that_an_earlier_version_did_not_write_is_null(ledger, three):
    path = ledger.store.trial_file(three[0].digest)
    pq.write_table(pq.read_table(path).drop_columns(["test_accuracy", "versions"]), path)
    rows = {row["digest"]: row for row in ledger.trials().to_pylist()}
    assert rows[three[0].digest]["test_accuracy"] is None
    assert rows[three[0].digest]["dev_loss"] == 0.0
    assert rows[three[1].digest]["test_accuracy"] == 0.9
    assert ledger.done() == {trial.digest for trial in three}


def test_a_column_that_a_later_version_adds_is_left_out(ledger, three):
    path = ledger.store.trial_file(three[0].digest)
    table = pq.read_table(path)
    pq.write_table(table.append_column("later", pa.array(["x"])), path)
    assert ledger.trials().schema.equals(TRIALS_SCHEMA)
    assert ledger.done() == {trial.digest for trial in three}


def test_a_type_that_a_later_version_changed_costs_that_column_only(ledger, three, caplog):
    """It is no damage: nothing is set aside, and the trial does not run again."""
    for trial in three[:2]:
        path = ledger.store.trial_file(trial.digest)
        table = pq.read_table(path)
        place = table.column_names.index("dev_loss")
        pq.write_table(table.set_column(place, "dev_loss", pa.array([[0.1, 0.2]])), path)
    assert ledger.done() == {trial.digest for trial in three}
    rows = {row["digest"]: row["dev_loss"] for row in ledger.trials().to_pylist()}
    assert rows == {three[0].digest: None, three[1].digest: None, three[2].digest: 0.2}
    assert ledger.store.names_in(ledger.store.set_aside_folder) == []
    (record,) = caplog.records
    assert "a newer version wrote dev_loss as list" in record.message


FOREIGN = {
    "a copy under another name": lambda content: content,
    "of another program": lambda content: written(pa.table({"a": [1]})),
    "a row without a status": lambda content: written(pq.read_table(pa.BufferReader(content)).drop_columns(["status"])),
    "numbers that int64 cannot hold": lambda content: written(
        pa.table({"digest": ["x"], "seed": pa.array([2**64 - 1], pa.uint64())})
    ),
    "two columns of one name": lambda content: written(pa.table([["x"], ["y"]], names=["digest", "digest"])),
    "no row": lambda content: written(pq.read_table(pa.BufferReader(content)).slice(0, 0)),
}


def written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("kind", ["trials", "epochs", "failures"])
@pytest.mark.parametrize("what", FOREIGN)
def test_every_reader_survives_any_file(ledger, three, what, kind):
    before = ledger.trials(), ledger.epochs(), ledger.done()
    store = ledger.store
    content = FOREIGN[what](store.read(store.trial_file(three[0].digest)))
    for name in ("0" * 16 + ".parquet", "notes.txt", "a copy.parquet"):
        store.write(f"{store.root}/{kind}/{name}", content)
    store.write(f"{store.root}/{kind}/{'1' * 16}.parquet/a file in a folder", b"")
    for _ in range(2):
        assert (ledger.trials(), ledger.epochs(), ledger.done()) == before
        assert ledger.row("0" * 16) is None
        ledger.compact(at_least=0)
