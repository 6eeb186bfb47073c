"""One file for many trials: the same rows, read faster, and nothing lost with it."""

import logging

import pytest

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
