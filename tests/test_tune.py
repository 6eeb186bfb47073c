"""How Ray Tune is driven: every slot works, what was taken over ends, and what Tune does not say is noticed."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from ray.exceptions import RayTaskError
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

import rekd.running.tune as tune_module
from benchmarks.sweep import DURATION, measured, ours, trials
from rekd.running.object_store import _check_models
from rekd.running.tune import _check, _GivenOut, _InTurn, _Reporter
from rekd.store.files import StoreRefusedError
from rekd.tasks.commits import as_text
from rekd.tasks.data import load_data
from rekd.tasks.task import load_task


def test_every_slot_works_though_trials_are_shorter_than_the_start_of_a_process(monkeypatch):
    """Left to itself Tune would run nearly all of them in one or two processes."""
    monkeypatch.setenv(DURATION, "0.3")
    figures = measured(ours, trials(30), slots=4)
    assert figures["processes"] == 4


@pytest.mark.parametrize(("taken_over", "decision"), [(True, TrialScheduler.STOP), (False, TrialScheduler.CONTINUE)])
def test_a_trial_that_another_sweep_has_taken_over_ends_at_its_next_epoch(taken_over, decision):
    conductor = SimpleNamespace(is_taken_over=lambda key: key == "1" and taken_over)
    assert _InTurn(_GivenOut(conductor)).on_trial_result(None, SimpleNamespace(trial_id="1"), {"epoch": 3}) == decision


@pytest.mark.parametrize(
    ("cause", "is_told"),
    [(StoreRefusedError("The store refuses reading x: 403"), True), (OSError(28, "No space"), False), (None, False)],
)
def test_why_a_worker_may_not_use_the_store_is_told(cause, is_told):
    told = []
    error = None if cause is None else RayTaskError("train", "", cause)
    trial = SimpleNamespace(trial_id="1", get_pickled_error=lambda: error)
    _InTurn(_GivenOut(SimpleNamespace(refused=told.append))).on_trial_error(None, trial)
    assert told == ["The store refuses reading x: 403"] * is_told


def test_what_is_to_be_known_of_the_data_is_said_before_a_trial_starts(text_task, tmp_path):
    task = load_task(text_task)
    said = []
    asked = []

    def pinned(task, models):
        asked.append(models)
        return replace(task, commit="b" * 40)

    checked = SimpleNamespace(
        pinned=pinned,
        check=lambda task, trials: _check_models._function(str(tmp_path), task, load_data(task), trials),
    )
    of_before = as_text({f"dataset {task.dataset} (main)": "a" * 40})
    agenda = SimpleNamespace(
        kinds=lambda: [task.trial("re", "bert-mini", seed=1), task.trial("re", "bert-small", seed=1)],
        results=pd.DataFrame({"commits": [of_before, None]}),
    )
    tasks = {task.name: task}
    _check(agenda, tasks, checked, SimpleNamespace(say=said.append))
    assert asked == [["bert-mini", "bert-small"]]
    assert tasks[task.name].commit == "b" * 40, "it is the one that is run"
    assert len(said) == 3
    assert "is at commit bbbbbbbbbbbb, and was at aaaaaaaaaaaa in 1 trials of this store" in said[1]
    assert "1 of what" in said[2]
    assert "is not read: split 'unsupervised'." in said[2]


class OneTrial:
    """A conductor with one trial, that runs."""

    def __init__(self) -> None:
        self.live = {"1": trials(1)[0]}
        self.claims = SimpleNamespace(check=lambda: None)
        self.look_at_limit = lambda: None
        self.hangs = lambda key: False
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
