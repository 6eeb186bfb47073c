"""The sweep over estimators: what it asks for, and that a classifier comes before what its saliency selects."""

from dataclasses import asdict

import pandas as pd
import pytest

import sweeps.estimator_sweep as estimator_sweep_module
from analysis import load_trials
from rekd.store.ledger import TRIALS_SCHEMA
from sweeps.estimator_sweep import ESTIMATORS, estimator_sweep
from sweeps.options import Options

NOTHING = load_trials("/nonexistent/store")


def planned(monkeypatch: pytest.MonkeyPatch, results: pd.DataFrame, **options):
    plans = []
    monkeypatch.setattr(estimator_sweep_module, "start", lambda plan, *_, **__: plans.append(plan(results)) or 0)
    asked = Options(seeds=(2026, 2027), models=("vit-student",), **options)
    assert estimator_sweep(asked, estimators=ESTIMATORS) == 0
    return plans[0]


def test_every_estimator_and_both_baselines(monkeypatch):
    before = planned(monkeypatch, NOTHING)
    told = [(trial.objective, trial.estimator, trial.encoder) for trial in before.trials]
    assert told[:-2:2] == [("re", name, "own") for name in ESTIMATORS] + [("re", "gumbel", "shared")]
    classifiers = [trial for trial in before.trials if trial.objective == "cls"]
    assert [trial.seed for trial in classifiers] == [2026, 2027]
    assert sum(group.num_trials for group in before.postponed) == 2

    rows = [{"digest": trial.digest, **asdict(trial), "status": "ok"} for trial in classifiers]
    rows[1] |= {"status": "diverged", "error": "dev_loss was nan in epoch 2"}
    plan = planned(monkeypatch, pd.DataFrame(rows).reindex(columns=TRIALS_SCHEMA.names))
    (staged,) = [trial for trial in plan.trials if trial.estimator == "saliency"]
    assert (staged.seed, staged.teacher_digest) == (2026, classifiers[0].digest)
    assert "diverged: dev_loss was nan in epoch 2." in plan.stopped[0]


def test_an_estimator_for_all_trials_is_that_of_those_that_select(monkeypatch):
    plan = planned(monkeypatch, NOTHING, estimator="top_k")
    assert {trial.estimator for trial in plan.trials if trial.objective == "cls"} == {None}
    assert {trial.estimator for trial in plan.trials if trial.encoder == "shared"} == {"top_k"}
