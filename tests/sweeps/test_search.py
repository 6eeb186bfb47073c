"""Optuna's storage remembers what was asked, the ledger what came of it; the ratio is a constraint."""

import optuna
import pandas as pd
import pytest
from test_plans import NOTHING, finished

from rekd.running.plan import to_run
from sweeps import search
from sweeps.options import Options


@pytest.fixture
def plan_of(monkeypatch):
    def plan_of(options, **how):
        caught = {}
        monkeypatch.setattr(search, "start", lambda plan, tasks, options, **_: caught.update(plan=plan) or 0)
        assert search.search(options, **how) == 0
        return caught["plan"]

    return plan_of


@pytest.fixture
def options(tmp_path):
    return Options(task=["digits"], seeds=(1, 2), store=str(tmp_path / "store"))


def searched(plan_function, results=NOTHING, *, ratio=lambda trial: trial.p_target, rounds=20) -> pd.DataFrame:
    """Gives every trial the loss |log10 lambda_select + 3| until the search asks for no more."""
    for _ in range(rounds):
        to_do = to_run(plan_function(results), results)
        if not to_do:
            break
        rows = finished(to_do, dev_loss=lambda trial: abs(trial.lambda_select - 1e-3), ratio=ratio)
        results = pd.concat([results, rows], ignore_index=True) if len(results) else rows
    return results


def study(options) -> optuna.Study:
    storage = f"sqlite:///{options.store}/search.db"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


HOW = {"settings": 6, "over": "lambda_select", "objective": "re", "at_a_time": 2}


def test_every_setting_is_tried_with_every_seed_and_told_its_mean(plan_of, options):
    results = searched(plan_of(options, **HOW))
    assert len(results) == 6 * 2
    assert results.groupby("lambda_select")["seed"].nunique().eq(2).all()
    values = {trial.params["lambda_select"]: trial.value for trial in study(options).trials}
    assert values == pytest.approx({value: abs(value - 1e-3) for value in results["lambda_select"]})


def test_what_is_off_the_ratio_is_not_feasible(plan_of, options):
    searched(plan_of(options, **HOW), ratio=lambda trial: 0.25 if trial.lambda_select > 1e-3 else 0.27)
    for trial in study(options).trials:
        feasible = all(value <= 0 for value in trial.constraints.values())
        assert feasible == (trial.params["lambda_select"] > 1e-3)


def test_a_search_goes_on_where_it_stopped(plan_of, options):
    first = searched(plan_of(options, **HOW), rounds=1)  # two settings have ended, the next two are not asked for yet
    results = searched(plan_of(options, **HOW), first)
    assert len(results) == 6 * 2
    assert set(first["digest"]) <= set(results["digest"])
    assert len(study(options).trials) == 6


def test_a_dry_run_leaves_no_storage(plan_of, options, tmp_path):
    from dataclasses import replace

    plan = plan_of(replace(options, dry_run=True), **HOW)(NOTHING)
    assert sum(group.num_trials for group in plan.postponed) == 6 * 2
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"over": "dropout"}, "--over names 'dropout', which has no range. Ranges: lambda_select"),
        ({"over": "alpha", "objective": "re"}, "--over names alpha, which RE does not use"),
        ({"objective": "cls"}, "--objective is re or rekd, got 'cls'"),
    ],
)
def test_what_cannot_be_searched_is_refused(plan_of, options, how, message):
    with pytest.raises(ValueError, match=message):
        plan_of(options, **how)
