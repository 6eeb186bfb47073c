"""What a sweep wants run, and what has become of it."""

from dataclasses import replace

import pandas as pd
import pytest

from rekd.running.estimate import ENDING, QUICK, SLOW, Estimator
from rekd.running.plan import LaterTrials, Plan, SweepResult, fixed_plan, to_run
from rekd.store.ledger import Ledger, Outcome
from rekd.tasks.task import load_task
from rekd.trial import Trial

TASK = load_task("digits")
TRIALS = [TASK.trial("re", TASK.teacher, seed=seed) for seed in range(4)]
OUTCOMES = {"ok": Outcome(status="ok"), "diverged": Outcome(status="diverged"), "failed": Outcome(status="failed")}


@pytest.fixture
def ledger(store):
    return Ledger(store)


def results(ledger: Ledger, **statuses: Trial) -> pd.DataFrame:
    """The ledger's rows after these trials ended so."""
    for status, trial in statuses.items():
        ledger.write(trial, OUTCOMES[status])
    return ledger.trials().to_pandas()


# --- What runs ------------------------------------------------------------------------------------------------------


def test_what_has_not_ended_runs_and_what_failed_runs_again(ledger):
    plan = Plan(trials=TRIALS)
    assert to_run(plan, results(ledger)) == TRIALS
    rows = results(ledger, ok=TRIALS[0], diverged=TRIALS[1], failed=TRIALS[2])
    assert to_run(plan, rows) == [TRIALS[2], TRIALS[3]]


def test_a_trial_that_is_asked_for_twice_runs_once_where_it_was_asked_for_first(ledger):
    plan = Plan(trials=[TRIALS[2], TRIALS[0], replace(TRIALS[2]), TRIALS[1]])
    assert to_run(plan, results(ledger)) == [TRIALS[2], TRIALS[0], TRIALS[1]]
    assert list(plan.unique_trials()) == [trial.digest for trial in (TRIALS[2], TRIALS[0], TRIALS[1])]


def test_results_of_other_sweeps_do_not_count(ledger):
    other = TASK.trial("re", TASK.students[0], seed=0)
    rows = results(ledger, ok=other)
    assert to_run(Plan(trials=TRIALS), rows) == TRIALS
    assert to_run(Plan(trials=[*TRIALS, other]), rows) == TRIALS  # whichever sweep asked for it, it is done


def test_a_fixed_plan_is_the_same_whatever_the_results(ledger):
    plan = fixed_plan(TRIALS)
    assert plan(results(ledger)).trials == plan(results(ledger, ok=TRIALS[0])).trials == TRIALS


def test_plans_do_not_share_their_lists():
    first, second = Plan(), Plan()
    first.trials.append(TRIALS[0])
    first.stopped.append("why")
    assert second == Plan()


# --- What became of it ----------------------------------------------------------------------------------------------


def test_a_sweep_is_complete_when_every_trial_ended_without_an_error(ledger):
    plan = Plan(trials=TRIALS[:2])
    result = SweepResult.of(plan, results(ledger, ok=TRIALS[0]))
    assert not result.is_complete
    assert result.missing == [TRIALS[1]]

    result = SweepResult.of(plan, results(ledger, failed=TRIALS[1]))
    assert not result.is_complete
    assert result.missing == []
    assert result.failed["digest"].tolist() == [TRIALS[1].digest]

    result = SweepResult.of(plan, results(ledger, diverged=TRIALS[1]))
    assert result.is_complete  # diverged is a result
    assert len(result.failed) == 0


def test_a_sweep_with_something_waiting_or_stopped_is_not_complete(ledger):
    rows = results(ledger, ok=TRIALS[0])
    postponed = LaterTrials(what="REKD", num_trials=3, needs="the teacher", like=TRIALS[0])
    assert SweepResult.of(Plan(trials=TRIALS[:1]), rows).is_complete
    assert not SweepResult.of(Plan(trials=TRIALS[:1], postponed=[postponed]), rows).is_complete
    assert not SweepResult.of(Plan(trials=TRIALS[:1], stopped=["nothing was eligible"]), rows).is_complete


def test_a_sweeps_results_are_its_own_rows(ledger):
    rows = results(ledger, ok=TRIALS[0], diverged=TRIALS[1], failed=TRIALS[2])
    result = SweepResult.of(Plan(trials=[TRIALS[1], TRIALS[3]]), rows)
    assert result.rows["digest"].tolist() == [TRIALS[1].digest]
    assert result.missing == [TRIALS[3]]


# --- How long it takes ----------------------------------------------------------------------------------------------


def test_a_measured_run_takes_the_place_of_a_guess(ledger):
    trial = replace(TRIALS[0], epochs=10)
    guess = Estimator(results(ledger), [TASK], device="cpu")
    assert guess.basis([trial]) == "arithmetic"
    assert 0 < guess.seconds(trial).low < guess.seconds(trial).expected < guess.seconds(trial).high

    for seed, seconds in ((1, 20.0), (2, 40.0)):
        ledger.write(replace(trial, seed=seed), Outcome(status="ok", num_epochs=10, train_seconds=seconds))
    ledger.write(replace(trial, seed=3), Outcome(status="diverged", num_epochs=2, train_seconds=500.0))
    measured = Estimator(results(ledger), [TASK], device="cpu")
    assert measured.basis([trial]) == "ledger"
    seconds = measured.seconds(trial)
    assert (seconds.low, seconds.expected, seconds.high) == pytest.approx(
        (20 * QUICK, 30, 40 * SLOW * 11 / 10 + ENDING)
    )
    assert measured.seconds(replace(trial, epochs=20)).expected == pytest.approx(60)
    assert measured.total([trial, trial]).expected == pytest.approx(60)
    assert measured.basis([trial, TASK.trial("re", TASK.students[0], seed=0)]) == "arithmetic"


def test_a_convolutional_network_is_guessed_by_its_stages(ledger):
    task = load_task("hidden-digits-students")
    estimator = Estimator(results(ledger), [task], device="cpu")
    resnet, vit = (task.trial("re", model, seed=0) for model in ("resnet", "vit-teacher"))
    assert estimator.seconds(resnet).expected < 4 * estimator.seconds(vit).expected
    assert estimator.num_parameters(resnet) < 10 * 2 * 5272  # it has 5,272 an encoder


def test_a_classifier_is_half_of_an_re_model(ledger):
    estimator = Estimator(results(ledger), [TASK], device="cpu")
    re, cls = (estimator.seconds(TASK.trial(each, TASK.teacher, seed=0, epochs=5)) for each in ("re", "cls"))
    assert cls.expected == pytest.approx(re.expected / 2)


def test_the_papers_backbones_are_ordered_as_their_sizes():
    task = load_task("cifar10")
    empty = pd.DataFrame(columns=["task", "model", "objective", "epochs", "num_epochs", "status", "train_seconds"])
    estimator = Estimator(empty, [task], device="cuda")
    base, small, tiny = (
        estimator.seconds(task.trial("re", f"vit-{size}", seed=0)) for size in ("base", "small", "tiny")
    )
    assert base.expected > 3 * small.expected > 3 * tiny.expected
