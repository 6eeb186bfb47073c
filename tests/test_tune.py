"""How Ray Tune is driven: every slot works, and what another sweep has taken over ends."""

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from benchmarks.sweep import DURATION, measured, ours, trials
from rekd.tune import _InTurn


def test_every_slot_works_though_trials_are_shorter_than_the_start_of_a_process(monkeypatch):
    """Left to itself Tune would run nearly all of them in one or two processes."""
    monkeypatch.setenv(DURATION, "0.3")
    figures = measured(ours, trials(30), slots=4)
    assert figures["processes"] == 4


@pytest.mark.parametrize(("lost", "decision"), [({"a"}, TrialScheduler.STOP), ({"b"}, TrialScheduler.CONTINUE)])
def test_a_trial_that_another_sweep_has_taken_over_ends_at_its_next_epoch(lost, decision):
    conductor = SimpleNamespace(live={"1": SimpleNamespace(digest="a")}, claims=SimpleNamespace(lost=lost))
    assert _InTurn(conductor).on_trial_result(None, SimpleNamespace(trial_id="1"), {"epoch": 3}) == decision
