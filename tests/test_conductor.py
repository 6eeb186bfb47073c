"""What decides who runs what, without Ray."""

import time
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import pandas as pd
import pytest
from rich.console import Console

import rekd.running.conductor as conductor_module
import rekd.store.files as files_module
from rekd.cluster.waiting import Machines, Watch
from rekd.running.agenda import Agenda
from rekd.running.conductor import Conductor
from rekd.running.limits import Limits
from rekd.running.plan import Plan, fixed_plan
from rekd.running.progress import Progress
from rekd.running.retries import MAX_FAILURES
from rekd.store.claims import Claims
from rekd.store.ledger import Ledger, Outcome
from rekd.tasks.task import load_task

DIGITS = load_task("digits")
SHORT = DIGITS.trial("re", "vit-student", seed=1, epochs=2)
LONG, OTHER = replace(SHORT, epochs=9), replace(SHORT, lambda_select=2.0)
OK = Outcome(status="ok", dev_loss=0.5, num_epochs=2, train_seconds=1.0)


@pytest.fixture
def ledger(store):
    return Ledger(store)


def conductor_of(ledger, plan, *, slots=4, is_supplied=lambda trial: True) -> Conductor:
    agenda = Agenda(plan if callable(plan) else fixed_plan(plan), ledger, {"digits": DIGITS}, device="cpu")
    progress = Progress(Console(quiet=True))
    conductor = Conductor(agenda, ledger, Claims(ledger.store), progress=progress, is_supplied=is_supplied)
    conductor.slots = slots
    return conductor


def drained(conductor: Conductor) -> list:
    """What is given out now, until there is nothing."""
    given = []
    while (trial := conductor.next_trial(str(len(given)))) is not None:
        given.append(trial)
    return given


def test_among_first_seeds_the_longest_goes_first_and_equal_ones_in_the_plans_order(ledger):
    assert drained(conductor_of(ledger, [SHORT, LONG, OTHER])) == [LONG, SHORT, OTHER]


def test_every_setting_has_its_first_seed_before_one_has_its_second(ledger):
    grid = [replace(SHORT, epochs=epochs, seed=seed) for epochs in (2, 9) for seed in (7, 5)]
    assert [(trial.seed, trial.epochs) for trial in drained(conductor_of(ledger, grid))] == [
        (7, 9),
        (7, 2),
        (5, 9),
        (5, 2),
    ]


def test_no_more_run_than_there_are_slots(ledger):
    conductor = conductor_of(ledger, [SHORT, LONG, OTHER], slots=2)
    assert len(drained(conductor)) == 2
    ledger.write(LONG, OK)
    conductor.ended("0")
    assert conductor.next_trial("3") == OTHER


def test_a_trial_that_is_not_supplied_does_not_hold_up_those_that_are(ledger):
    ready = set()
    conductor = conductor_of(ledger, [SHORT, LONG], is_supplied=lambda trial: trial in ready)
    assert drained(conductor) == []
    assert not conductor.is_over
    ready.add(SHORT)
    assert drained(conductor) == [SHORT]


def test_a_result_brings_what_depends_on_it(ledger):
    def plan(results: pd.DataFrame) -> Plan:
        return Plan(trials=[SHORT, *([OTHER] if SHORT.digest in set(results["digest"]) else [])])

    conductor = conductor_of(ledger, plan)
    assert drained(conductor) == [SHORT]
    ledger.write(SHORT, OK)
    conductor.ended("0")
    assert drained(conductor) == [OTHER]
    ledger.write(OTHER, OK)
    conductor.ended("0")
    assert conductor.is_over
    assert conductor.result().is_complete
    assert conductor.result().num_trained == 2


def test_what_another_sweep_holds_is_left_to_it_and_its_result_awaited(ledger):
    with Claims(ledger.store) as other:
        other.take(SHORT.digest)
        conductor = conductor_of(ledger, [SHORT, OTHER])
        assert drained(conductor) == [OTHER]
        assert conductor.progress.elsewhere == 1
        ledger.write(SHORT, OK)
        other.release(SHORT.digest)
    conductor.claims._looked = float("-inf")  # looks of two seconds ago would serve
    assert conductor.next_trial("9") is None
    assert SHORT.digest in set(conductor.result().rows["digest"])
    assert conductor.num_trained == 0


def test_a_lost_trial_is_put_back_first_until_it_is_given_up(ledger):
    conductor = conductor_of(ledger, [SHORT, LONG], slots=1)
    for _ in range(MAX_FAILURES):
        assert conductor.next_trial("1") == LONG
        conductor.ended("1", error=True)
        assert conductor.agenda.queue[0] == LONG
    assert conductor.next_trial("1") == LONG
    conductor.ended("1", error=True)
    row = ledger.row(LONG.digest)
    assert row["status"] == "failed"
    assert row["error"].startswith(f"its process ended {MAX_FAILURES + 1} times without an epoch in between")
    assert conductor.next_trial("1") == SHORT


def test_an_epoch_further_than_ever_forgives_what_was_lost_before(ledger):
    conductor = conductor_of(ledger, [SHORT], slots=1)
    for lost in range(3 * MAX_FAILURES):
        conductor.next_trial("1")
        if lost % MAX_FAILURES == MAX_FAILURES - 1:
            conductor.reached("1", {"epoch": lost, "dev_loss": 1.0, "dev_rationale_ratio": 0.1})
        conductor.ended("1", error=True)
    assert ledger.row(SHORT.digest) is None


@pytest.mark.parametrize("error", [False, True])
def test_a_trial_that_was_taken_over_waits_for_the_others_result_not_its_own_old_failure(ledger, error):
    ledger.write(SHORT, Outcome(status="failed", error="earlier"))
    conductor = conductor_of(ledger, [SHORT])
    conductor.next_trial("1")
    conductor.claims.lost.add(SHORT.digest)
    assert conductor.is_taken_over("1")
    conductor.ended("1", error=error)
    assert conductor.agenda.queue == [SHORT]
    assert not conductor.agenda.given
    assert conductor.num_trained == 0


def test_a_failure_that_was_written_now_is_the_result(ledger):
    conductor = conductor_of(ledger, [SHORT])
    conductor.next_trial("1")
    ledger.write(SHORT, Outcome(status="failed", error="memory"))
    conductor.ended("1")
    assert conductor.is_over
    assert len(conductor.result().failed) == 1


def test_interrupted_nothing_more_is_given_out_and_ends_are_not_results(ledger):
    conductor = conductor_of(ledger, [SHORT, replace(SHORT, seed=8)], slots=1)
    conductor.next_trial("1")
    conductor.is_interrupted = True
    conductor.ended("1")
    assert conductor.next_trial("2") is None
    assert conductor.is_over
    assert conductor.result().is_interrupted


# --- Teachers without a model -----------------------------------------------------------------------------------------

TEACHER = DIGITS.trial("re", DIGITS.teacher, seed=2026)
STUDENT = DIGITS.trial("rekd", "vit-student", seed=2026, teacher_digest=TEACHER.digest)


def keep_a_model(ledger, trial):
    for name in ("model.safetensors", "config.json"):
        ledger.store.write(f"{ledger.store.model_folder(trial.digest)}/{name}", b"")


def test_a_teacher_whose_model_is_gone_is_run_again_first_and_its_row_stays_until_then(ledger):
    """As in a store that was copied without its models, and then one more alpha."""
    ledger.write(TEACHER, OK)
    conductor = conductor_of(ledger, [TEACHER, STUDENT])
    assert drained(conductor) == [TEACHER]
    assert ledger.row(TEACHER.digest)["dev_loss"] == 0.5
    assert conductor.agenda.with_result == set()
    keep_a_model(ledger, TEACHER)
    ledger.write(TEACHER, replace(OK, dev_loss=0.25))
    conductor.ended("0")
    assert drained(conductor) == [STUDENT]
    assert conductor.num_trained == 1
    assert conductor.result().rows.set_index("digest")["dev_loss"][TEACHER.digest] == 0.25


def test_where_that_is_lost_it_is_tried_again_and_where_it_fails_it_is_told(ledger):
    ledger.write(TEACHER, OK)
    conductor = conductor_of(ledger, [TEACHER, STUDENT])
    assert drained(conductor) == [TEACHER]
    conductor.ended("0", error=True)
    assert drained(conductor) == [TEACHER], "its old row is no sign that it has ended"
    ledger.write(TEACHER, Outcome(status="failed", error="why"))
    conductor.ended("0")
    assert conductor.result().failed["error"].tolist() == ["why"]
    assert ledger.row(TEACHER.digest)["status"] == "ok"
    assert drained(conductor) == [STUDENT], "it says why it cannot be trained"


def test_another_sweep_that_has_run_it_again_meanwhile_is_believed(ledger):
    ledger.write(TEACHER, OK)
    conductor = conductor_of(ledger, [TEACHER, STUDENT])
    keep_a_model(ledger, TEACHER)
    assert drained(conductor) == [STUDENT]
    assert conductor.num_trained == 0


def test_a_teacher_is_not_run_again_where_its_model_is_there_or_its_task_is_another(ledger):
    ledger.write(TEACHER, OK)
    keep_a_model(ledger, TEACHER)
    assert drained(conductor_of(ledger, [TEACHER, STUDENT])) == [STUDENT]
    other = replace(TEACHER, task_digest="another")
    ledger.write(other, OK)
    student = replace(STUDENT, teacher_digest=other.digest)
    assert drained(conductor_of(ledger, [student])) == [student]


def test_at_a_limit_nothing_more_starts_what_runs_ends_and_what_had_not_started_is_left(ledger):
    conductor = conductor_of(ledger, [SHORT, LONG, OTHER], slots=2)
    assert drained(conductor) == [LONG, SHORT]
    conductor.limit = lambda **asked: "--max-hours 2 is reached."
    assert conductor.next_trial("2") is None
    assert not conductor.is_over  # two still run
    ledger.write(LONG, OK)
    conductor.ended("0")
    assert conductor.next_trial("3") is None
    conductor.ended("1")  # it waited for a machine, and was told to end
    assert conductor.is_over
    result = conductor.result()
    assert result.held == "--max-hours 2 is reached."
    assert {trial.digest for trial in result.missing} == {SHORT.digest, OTHER.digest}
    assert not len(result.failed)


def test_what_fails_of_itself_after_a_limit_is_a_failure_and_not_left(ledger):
    conductor = conductor_of(ledger, [SHORT, LONG], slots=1)
    assert conductor.next_trial("0") == LONG
    conductor.begun("0", lambda: "here")
    conductor.limit = lambda **asked: "enough"
    assert conductor.next_trial("1") is None
    ledger.write(LONG, Outcome(status="failed", error="why"))
    conductor.ended("0")
    assert conductor.result().failed["error"].tolist() == ["why"]
    assert conductor.result().missing == [SHORT]


def test_where_the_store_refuses_a_machine_nothing_more_starts_and_what_runs_ends(ledger):
    conductor = conductor_of(ledger, [SHORT, LONG, OTHER], slots=2)
    assert drained(conductor) == [LONG, SHORT]
    conductor.refused("AWS Error ACCESS_DENIED during PutObject")
    conductor.ended("0", error=True)
    assert not conductor.is_over
    ledger.write(SHORT, OK)
    conductor.ended("1")
    assert conductor.is_over
    result = conductor.result()
    assert result.held.startswith("a machine may not use the store: AWS Error ACCESS_DENIED during PutObject. Give it")
    assert {trial.digest for trial in result.missing} == {LONG.digest, OTHER.digest}
    assert not len(result.failed)


def look_at_none() -> Machines:
    return Machines(up={}, setting_up={}, ordered={}, refused=(), lost={})


def limited(conductor: Conductor, **limits) -> Conductor:
    conductor.limit = partial(Limits(**limits).reached, Watch(look_at_none, needs="CPU"), time.monotonic())
    return conductor


def test_what_does_not_fit_into_the_budget_is_not_started_and_what_runs_ends(ledger):
    ledger.write(replace(SHORT, seed=9), replace(OK, train_seconds=3600.0))  # so long take two epochs
    conductor = limited(conductor_of(ledger, [LONG, SHORT, OTHER], slots=1), budget_hours=2.5)
    assert conductor.next_trial("1") == SHORT  # not the longest, which takes four and a half
    ledger.write(SHORT, replace(OK, train_seconds=3600.0))
    conductor.ended("1")
    assert conductor.next_trial("2") == OTHER
    assert not conductor.is_over
    ledger.write(OTHER, replace(OK, train_seconds=3600.0))
    conductor.ended("2")
    assert conductor.next_trial("3") is None
    assert conductor.is_over
    result = conductor.result()
    assert result.held.startswith("--budget 2.5h is spent")
    assert result.missing == [LONG]


def test_a_trial_takes_of_the_budget_what_it_takes_of_gpus(ledger):
    ledger.write(replace(SHORT, seed=9), replace(OK, train_seconds=3600.0))
    conductor = limited(conductor_of(ledger, [SHORT, OTHER]), budget_hours=1)
    conductor.gpus_of = lambda trial: 0.5
    assert drained(conductor) == [SHORT, OTHER]


def test_what_fails_at_once_takes_next_to_nothing_of_the_budget(ledger):
    ledger.write(replace(SHORT, seed=9), replace(OK, train_seconds=3600.0))
    conductor = limited(conductor_of(ledger, [SHORT, OTHER], slots=1), budget_hours=1.5)
    assert conductor.next_trial("1") == SHORT
    conductor.begun("1", lambda: "here")
    ledger.write(SHORT, Outcome(status="failed", error="why"))
    conductor.ended("1")
    assert conductor.next_trial("2") == OTHER


def test_what_would_not_have_ended_in_time_is_not_started(ledger):
    ledger.write(replace(SHORT, seed=9), replace(OK, train_seconds=3600.0))
    until = datetime.now().astimezone() + timedelta(hours=2)
    conductor = limited(conductor_of(ledger, [LONG, SHORT]), until=until)
    assert drained(conductor) == [SHORT]
    assert not conductor.held
    ledger.write(SHORT, replace(OK, train_seconds=3600.0))
    conductor.ended("0")
    assert drained(conductor) == []
    assert conductor.held.startswith(f"--until {until:%H:%M}")
    assert conductor.is_over


def test_students_of_a_teacher_that_does_not_fit_do_not_wait_for_ever(ledger):
    """Its model is gone, and there is no time to train it again."""
    ledger.write(TEACHER, replace(OK, train_seconds=3600.0))
    conductor = limited(conductor_of(ledger, [TEACHER, STUDENT]), budget_hours=0.5)
    assert drained(conductor) == []
    assert conductor.is_over
    assert conductor.held.startswith("--budget 0.5h is spent")


def test_what_a_result_may_bring_is_asked_for_before_nothing_fits(ledger):
    """A large plan is not asked at once."""
    ledger.write(replace(SHORT, seed=9), replace(OK, train_seconds=3600.0))  # so long take two epochs

    def plan(results: pd.DataFrame) -> Plan:
        return Plan(trials=[SHORT, LONG, *([OTHER] if SHORT.digest in set(results["digest"]) else [])])

    conductor = limited(conductor_of(ledger, plan, slots=1), budget_hours=2.5)
    conductor.agenda._plan_seconds = 1000.0
    assert conductor.next_trial("1") == SHORT  # and what is left takes four hours and a half
    ledger.write(SHORT, replace(OK, train_seconds=3600.0))
    conductor.ended("1")
    assert conductor.next_trial("2") == OTHER


def test_a_budget_waits_for_what_another_sweep_runs(ledger):
    ledger.write(replace(SHORT, seed=9), replace(OK, train_seconds=3600.0))
    with Claims(ledger.store) as other:
        other.take(SHORT.digest)
        conductor = limited(conductor_of(ledger, [LONG, SHORT]), budget_hours=2)
        assert drained(conductor) == []
        assert not conductor.is_over


# --- A slow store -----------------------------------------------------------------------------------------------------

SECONDS = 0.05


@pytest.fixture
def slow_calls(monkeypatch):
    """What a store is asked, each taking `SECONDS`."""
    calls = []
    patiently = files_module._patiently

    def slowly(work, what):
        calls.append(what)
        time.sleep(SECONDS)
        return patiently(work, what)

    monkeypatch.setattr(files_module, "_patiently", slowly)
    return calls


def test_filling_many_slots_takes_a_slow_store_a_few_calls_one_after_another(ledger, slow_calls):
    trials = [replace(SHORT, seed=seed) for seed in range(60)]
    conductor = conductor_of(ledger, trials, slots=60)
    slow_calls.clear()
    started = time.monotonic()
    assert drained(conductor) == trials
    # One by one it would be three calls a trial at least. Side by side it is a look, and two rounds each of claims and rows.
    assert len(slow_calls) >= 2 * len(trials)
    assert time.monotonic() - started < 0.25 * len(slow_calls) * SECONDS
    assert conductor.claims.held == {trial.digest for trial in trials}


def test_a_slow_store_is_asked_ahead_and_what_was_not_given_out_is_given_back(ledger, slow_calls, monkeypatch):
    monkeypatch.setattr(conductor_module, "SLOW", SECONDS)
    trials = [replace(SHORT, seed=seed) for seed in range(20)]
    conductor = conductor_of(ledger, trials, slots=8)
    assert drained(conductor) == trials[:8]
    ledger.write(trials[0], OK)
    conductor.ended("0")
    assert conductor.next_trial("8") == trials[8]
    assert conductor.claims.held == {trial.digest for trial in trials[1:11]}  # two of them for later
    ledger.write(trials[1], OK)
    conductor.ended("1")
    slow_calls.clear()
    assert conductor.next_trial("9") == trials[9]
    assert [call for call in slow_calls if call.startswith("writing")] == []
    conductor.limit = lambda **of_a_trial: "enough"
    assert conductor.next_trial("10") is None
    assert conductor.claims.held == {trial.digest for trial in trials[2:10]}
    assert trials[10] in conductor.agenda.queue
