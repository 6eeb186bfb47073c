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


def test_a_result_takes_the_place_of_a_failure(ledger):
    ledger.write(TRIAL, Outcome(status="failed", error="memory"))
    ledger.write(TRIAL, OK, EPOCHS)
    assert ledger.row(TRIAL.digest)["status"] == "ok"


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


finite = st.floats(allow_nan=False)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**62),
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
    assert [(row["epoch"], row["dev_loss"]) for row in epochs] == list(enumerate(losses, 1))


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


@pytest.mark.parametrize("how", ["the store may not be written", "another process was quicker"])
def test_a_damaged_file_that_cannot_be_moved_is_left_out(ledger, three, monkeypatch, caplog, how):
    path = Path(ledger.store.trial_file(three[1].digest))
    path.write_bytes(b"")

    def move(*arguments: object) -> None:
        if how == "the store may not be written":
            raise PermissionError(errno.EACCES, "Permission denied")
        path.unlink()
        raise FileNotFoundError(errno.ENOENT, "gone")

    monkeypatch.setattr(Store, "_move", move)
    assert set(ledger.trials()["digest"].to_pylist()) == {three[0].digest, three[2].digest}
    assert ledger.row(three[1].digest) is None
    assert ("cannot be set aside" in caplog.text) == (how == "the store may not be written")


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


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_trial_without_a_model_is_not_withdrawn(ledger, status):
    ledger.write(TRIAL, Outcome(status=status, error="why"))
    ledger.withdraw(TRIAL.digest, "it has no model")
    ledger.withdraw("unknown", "it has no model")
    assert [(row["status"], row["error"]) for row in ledger.trials().to_pylist()] == [(status, "why")]


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
