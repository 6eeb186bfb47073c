"""How Ray Tune is driven: every slot works, and what another sweep has taken over ends."""

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

import rekd.running.tune as tune_module
from benchmarks.sweep import DURATION, measured, ours, trials
from rekd.running.plan import fixed_plan
from rekd.running.tune import _Conductor, _InTurn, _Reporter
from rekd.store.ledger import Ledger, Outcome
from rekd.tasks.task import load_task


def test_every_slot_works_though_trials_are_shorter_than_the_start_of_a_process(monkeypatch):
    """Left to itself Tune would run nearly all of them in one or two processes."""
    monkeypatch.setenv(DURATION, "0.3")
    figures = measured(ours, trials(30), slots=4)
    assert figures["processes"] == 4


@pytest.mark.parametrize(("lost", "decision"), [({"a"}, TrialScheduler.STOP), ({"b"}, TrialScheduler.CONTINUE)])
def test_a_trial_that_another_sweep_has_taken_over_ends_at_its_next_epoch(lost, decision):
    conductor = SimpleNamespace(live={"1": SimpleNamespace(digest="a")}, claims=SimpleNamespace(lost=lost))
    assert _InTurn(conductor).on_trial_result(None, SimpleNamespace(trial_id="1"), {"epoch": 3}) == decision


@pytest.fixture
def conductor(store, monkeypatch):
    """One trial that an earlier run left as failed, started."""
    monkeypatch.setattr(tune_module, "Shelf", lambda *arguments, **options: None)
    (trial,) = trials(1)
    Ledger(store).write(trial, Outcome(status="failed", error="earlier"))
    quiet = SimpleNamespace(say=print, expect=lambda **kw: None, lost=print, end=lambda *a, **kw: None)
    cluster = SimpleNamespace(num_gpus=0)
    conductor = _Conductor(
        fixed_plan([trial]), store, {"digits": load_task("digits")}, cluster=cluster, progress=quiet, gpus=0
    )
    conductor.queue.remove(trial)
    conductor.live["1"] = trial
    conductor.given.add(trial.digest)
    return conductor


@pytest.mark.parametrize("error", [False, True])
def test_a_trial_that_was_taken_over_waits_for_the_others_result_not_its_own_old_failure(conductor, error):
    trial = conductor.live["1"]
    conductor.claims.lost.add(trial.digest)
    conductor.on_trial_complete("1", error=error)
    assert conductor.queue == [trial]
    assert not conductor.given
    assert conductor.num_trained == 0


def test_a_trial_of_whose_end_tune_says_nothing_is_noticed(conductor, monkeypatch):
    monkeypatch.setattr(tune_module, "LOOK_AGAIN", 0.0)
    monkeypatch.setattr(conductor.claims, "check", lambda: None)
    trial, ended = conductor.live["1"], SimpleNamespace(trial_id="1", is_finished=lambda: True)
    _Reporter(conductor).on_step_begin(1, [ended])
    assert not conductor.live
    assert conductor.queue == [trial]


def test_a_store_that_fails_at_a_trials_end_ends_the_sweep(conductor, monkeypatch):
    def fail(digest: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(conductor.ledger, "row", fail)
    with pytest.raises(PermissionError):
        conductor.on_trial_complete("1")
    with pytest.raises(PermissionError):  # Tune has swallowed the first
        _Reporter(conductor).on_step_begin(1, [])
