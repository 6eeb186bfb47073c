"""Optuna's storage remembers what was asked, the ledger what came of it; the ratio is a constraint."""

import io
import re
from dataclasses import asdict, dataclass, replace

import optuna
import pandas as pd
import pytest
from rich.console import Console
from test_plans import NOTHING, finished

from rekd.running.plan import to_run
from rekd.store.files import Store
from rekd.trial import Trial, grown
from sweeps import search
from sweeps.options import Options
from sweeps.search import storage_of
from sweeps.show import address_of
from sweeps.stages import Stage


@pytest.fixture
def started(monkeypatch):
    """What a search starts: the plan, and what shows it in the end."""

    def started(options, **how):
        caught = {}
        monkeypatch.setattr(search, "start", lambda plan, tasks, options, show: caught.update(it=(plan, show)) or 0)
        assert search.search(options, **how) == 0
        return caught["it"]

    return started


@pytest.fixture
def plan_of(started):
    return lambda options, **how: started(options, **how)[0]


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


def names_of(store) -> list[str]:
    return optuna.get_all_study_names(address_of(storage_of(Store(store))))


@pytest.mark.parametrize(
    "changes",
    [{"epochs": 3}, {"seeds": (3, 4)}, {"fidelity": "authors"}, {"precision": "bfloat16"}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_differs_in_more_than_is_searched_is_another_study(plan_of, options, changes):
    searched(plan_of(options, **HOW), rounds=1)
    searched(plan_of(options, **HOW), rounds=1)
    assert len(names_of(options.store)) == 1
    other = searched(plan_of(replace(options, **changes), **HOW), rounds=1)
    assert len(names_of(options.store)) == 2
    for name in names_of(options.store):
        found = optuna.load_study(study_name=name, storage=address_of(storage_of(Store(options.store))))
        assert len(found.get_trials()) <= 4
    assert len(other)


def test_an_edited_task_is_another_study(plan_of, options, tmp_path):
    searched(plan_of(options, **HOW), rounds=1)
    (tmp_path / "digits.toml").write_text('extends = "digits"\nname = "digits"\ntest_fraction = 0.3\n')
    searched(plan_of(replace(options, task=[str(tmp_path / "digits.toml")]), **HOW), rounds=1)
    assert len(names_of(options.store)) == 2


def test_another_value_of_a_field_that_is_born_later_is_another_study(plan_of, options, monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class GrownTrial(Trial):
        lambda_sparse: float = grown(default=0.0, neutral=0.0)

    made = Stage.trials
    for value in (0.0, 0.5):
        monkeypatch.setattr(
            Stage,
            "trials",
            lambda *how, value=value, **names: [
                replace(GrownTrial.from_record(asdict(trial)), lambda_sparse=value) for trial in made(*how, **names)
            ],
        )
        searched(plan_of(options, **HOW), rounds=1)
    monkeypatch.setattr(Stage, "trials", made)
    searched(plan_of(options, **HOW), rounds=1)  # which is what the neutral value means
    assert len(names_of(options.store)) == 2


@pytest.mark.parametrize("folder", ["a%20b", "a?x=1", "a#b", "a b", "a{b}c", "ä"])
def test_a_study_lies_in_its_store_whatever_the_path_is_called(plan_of, options, tmp_path, folder):
    place = tmp_path / folder
    searched(plan_of(replace(options, store=str(place)), **HOW), rounds=1)
    assert (place / "search.db").exists()
    assert [path.name for path in tmp_path.iterdir()] == [folder]
    assert len(names_of(place)) == 1


def test_stores_with_a_uri_have_a_file_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = storage_of(Store("mock:///bucket/one")), storage_of(Store("mock:///bucket/two?anonymous=true"))
    assert one != other
    assert one == storage_of(Store("mock:///bucket/one"))
    assert one.parent == tmp_path
    assert one.name.startswith("search-mock-bucket-one-")
    assert storage_of(Store(f"file://{tmp_path}/store")) == tmp_path / "store" / "search.db"


@pytest.mark.parametrize(("epochs", "is_short"), [(1, True), (None, False)])
def test_where_no_setting_is_within_the_tolerance_it_is_said_and_that_the_runs_were_short(
    started, options, epochs, is_short
):
    options = replace(options, epochs=epochs)
    plan, show = started(options, **HOW)
    searched(plan, ratio=lambda trial: 0.9)
    console = Console(width=200, record=True, file=io.StringIO())
    show(None, [], Store(options.store), console, options)
    text = console.export_text()
    assert "No setting is within 1 point of p_target." in text
    assert ("These trials have 1 of the task's 50 epochs (--epochs)" in text) == is_short


@pytest.mark.parametrize(("epochs", "is_short"), [(1, True), (None, False)])
def test_where_no_teacher_is_eligible_a_short_run_is_said_to_be_short(plan_of, options, epochs, is_short):
    options = replace(options, epochs=epochs)
    plan = plan_of(options, **{**HOW, "objective": "rekd"})
    results = searched(plan, ratio=lambda trial: 0.9)
    (reason,) = plan(results).stopped
    assert ("These trials have 1 of the task's 50 epochs (--epochs)" in reason) == is_short


def test_only_the_studies_of_this_search_are_shown(started, options):
    shown = []
    for changes in ({}, {"epochs": 3}):
        plan, show = started(replace(options, **changes), **HOW)
        searched(plan)
        console = Console(width=200, record=True, file=io.StringIO())
        show(None, [], Store(options.store), console, options)
        shown.append(console.export_text())
    (first, second) = (re.findall(r"over lambda_select \((\w+)\), best of 6", text) for text in shown)
    assert len(first) == len(second) == 1
    assert first != second
