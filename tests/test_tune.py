"""How Ray Tune is driven: every slot works, what was taken over ends, and what Tune does not say is noticed."""

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

import rekd.running.tune as tune_module
from benchmarks.sweep import DURATION, measured, ours, trials
from rekd.running.tune import _GivenOut, _InTurn, _Reporter


def test_every_slot_works_though_trials_are_shorter_than_the_start_of_a_process(monkeypatch):
    """Left to itself Tune would run nearly all of them in one or two processes."""
    monkeypatch.setenv(DURATION, "0.3")
    figures = measured(ours, trials(30), slots=4)
    assert figures["processes"] == 4


@pytest.mark.parametrize(("taken_over", "decision"), [(True, TrialScheduler.STOP), (False, TrialScheduler.CONTINUE)])
def test_a_trial_that_another_sweep_has_taken_over_ends_at_its_next_epoch(taken_over, decision):
    conductor = SimpleNamespace(is_taken_over=lambda key: key == "1" and taken_over)
    assert _InTurn(_GivenOut(conductor)).on_trial_result(None, SimpleNamespace(trial_id="1"), {"epoch": 3}) == decision


class OneTrial:
    """A conductor with one trial, that runs."""

    def __init__(self) -> None:
        self.live = {"1": trials(1)[0]}
        self.claims = SimpleNamespace(check=lambda: None)
        self.errors: list[bool] = []
        self.is_over = False

    def next_trial(self, key: str) -> None:
        return None

    def ended(self, key: str, *, error: bool) -> None:
        del self.live[key]
        self.errors.append(error)


def test_not_now_and_nothing_more_are_told_apart():
    conductor = OneTrial()
    assert _GivenOut(conductor).suggest("2") is None
    conductor.is_over = True
    assert _GivenOut(conductor).suggest("2") == Searcher.FINISHED


def test_a_trial_of_whose_end_tune_says_nothing_is_noticed(monkeypatch):
    monkeypatch.setattr(tune_module, "LOOK_AGAIN", 0.0)
    conductor = OneTrial()
    reporter = _Reporter(_GivenOut(conductor))
    reporter.on_step_begin(1, [SimpleNamespace(trial_id="1", is_finished=lambda: False)])
    assert conductor.live
    reporter.on_step_begin(1, [SimpleNamespace(trial_id="1", is_finished=lambda: True)])
    assert not conductor.live
    assert conductor.errors == [True]


def test_a_store_that_fails_at_a_trials_end_ends_the_sweep():
    def fail(key: str, *, error: bool) -> None:
        raise PermissionError(13, "Permission denied")

    searcher = _GivenOut(SimpleNamespace(ended=fail))
    with pytest.raises(PermissionError):
        searcher.on_trial_complete("1")
    with pytest.raises(PermissionError):  # Tune has swallowed the first
        _Reporter(searcher).on_step_begin(1, [])
