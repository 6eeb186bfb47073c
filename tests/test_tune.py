"""How Ray Tune is driven: every slot works, and what another sweep has taken over ends."""

from dataclasses import asdict, replace
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


def conductor_of(planned, store, monkeypatch):
    """What conducts a plan of these trials, without Ray: whatever they need is there."""
    shelf = SimpleNamespace(data=print, targets=lambda *arguments: "there", has=lambda reference: True)
    monkeypatch.setattr(tune_module, "Shelf", lambda *arguments, **options: shelf)
    quiet = SimpleNamespace(
        say=print, expect=lambda **kw: None, lost=print, start=print, end=lambda *a, **kw: None, elsewhere=0
    )
    tasks, cluster = {"digits": load_task("digits")}, SimpleNamespace(num_gpus=0)
    conductor = _Conductor(fixed_plan(planned), store, tasks, cluster=cluster, progress=quiet, gpus=0)
    conductor.slots = 4
    return conductor


@pytest.fixture
def conductor(store, monkeypatch):
    """One trial that an earlier run left as failed, started."""
    (trial,) = trials(1)
    Ledger(store).write(trial, Outcome(status="failed", error="earlier"))
    conductor = conductor_of([trial], store, monkeypatch)
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


# --- Teachers without a model ---------------------------------------------------------------------------------------


@pytest.fixture
def taught(store, monkeypatch):
    """A teacher's good row in a store that was copied without its models; what conducts the teacher and one student."""
    task = load_task("digits")
    teacher = task.trial("re", task.teacher, seed=2026)
    student = task.trial("rekd", task.students[0], seed=2026, teacher_digest=teacher.digest)
    Ledger(store).write(teacher, Outcome(status="ok", dev_loss=0.25))
    return teacher, student, conductor_of([teacher, student], store, monkeypatch)


def keep_a_model(store, trial):
    for name in ("model.safetensors", "config.json"):
        store.write(f"{store.model_folder(trial.digest)}/{name}", b"")


def test_a_teacher_whose_model_is_gone_is_trained_again_first_and_its_row_stays_until_then(store, taught):
    teacher, student, conductor = taught
    assert conductor.suggest("1") == asdict(teacher)
    assert conductor.suggest("2") is None
    assert conductor.ledger.row(teacher.digest)["dev_loss"] == 0.25
    keep_a_model(store, teacher)
    conductor.ledger.write(teacher, Outcome(status="ok", dev_loss=0.5))
    conductor.on_trial_complete("1")
    assert conductor.suggest("2") == asdict(student)
    assert conductor.num_trained == 1
    assert conductor.swept().results.set_index("digest")["dev_loss"][teacher.digest] == 0.5


def test_where_that_is_lost_it_is_tried_again_and_where_it_fails_it_is_told(store, taught):
    teacher, student, conductor = taught
    assert conductor.suggest("1") == asdict(teacher)
    conductor.on_trial_complete("1", error=True)
    assert conductor.suggest("2") == asdict(teacher), "its old row is no sign that it has ended"
    conductor.ledger.write(teacher, Outcome(status="failed", error="why"))
    conductor.on_trial_complete("2")
    assert conductor.swept().failed["error"].tolist() == ["why"]
    assert conductor.ledger.row(teacher.digest)["status"] == "ok"
    assert conductor.suggest("3") == asdict(student), "it says why it cannot be trained"


def test_a_teacher_whose_model_is_there_is_not_trained_again(store, taught, monkeypatch):
    teacher, student, _ = taught
    keep_a_model(store, teacher)
    conductor = conductor_of([teacher, student], store, monkeypatch)
    assert conductor.suggest("1") == asdict(student)
    conductor.claims.release(student.digest)


def test_a_teacher_of_another_version_of_the_task_is_not_trained_again(store, monkeypatch):
    task = load_task("digits")
    teacher = replace(task.trial("re", task.teacher, seed=2026), task_digest="another")
    student = task.trial("rekd", task.students[0], seed=2026, teacher_digest=teacher.digest)
    Ledger(store).write(teacher, Outcome(status="ok"))
    assert conductor_of([student], store, monkeypatch).suggest("1") == asdict(student)
