"""Frames of a store."""

from pathlib import Path

import made_up
import pandas as pd
import pytest

from analysis import load_epochs, load_trials, narrow, select_alpha, select_lambda_select, select_teacher
from rekd.store.files import Store
from rekd.store.ledger import EPOCHS_SCHEMA, TRIALS_SCHEMA, Ledger


def test_a_row_is_a_trial_and_a_row_is_an_epoch(tmp_path: Path) -> None:
    ledger = made_up.fill(str(tmp_path))
    trials, epochs = load_trials(tmp_path), load_epochs(tmp_path)
    assert trials.columns.tolist() == TRIALS_SCHEMA.names
    assert epochs.columns.tolist() == EPOCHS_SCHEMA.names
    assert trials["digest"].is_monotonic_increasing
    assert len(trials) == len(made_up.paper_trials()) + 2
    assert len(epochs) == 5 * len(made_up.paper_trials())
    assert trials["best_epoch"].dtype == "Int64"
    assert trials["seed"].dtype == "int64"
    for same in (ledger, Store(tmp_path), str(tmp_path)):
        pd.testing.assert_frame_equal(load_trials(same), trials)


def test_epochs_of_the_given_trials(tmp_path: Path) -> None:
    first, second, _ = [made_up.trial(seed=seed) for seed in (1, 2, 3)]
    made_up.fill(str(tmp_path), [first, second])
    epochs = load_epochs(tmp_path, [first.digest])
    assert set(epochs["digest"]) == {first.digest}
    assert epochs["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert len(load_epochs(tmp_path, [])) == 0
    assert load_trials(tmp_path, [second.digest])["seed"].tolist() == [2]


def test_an_empty_store_has_all_columns(tmp_path: Path) -> None:
    trials = load_trials(tmp_path / "none")
    assert len(trials) == 0
    assert trials.columns.tolist() == TRIALS_SCHEMA.names
    assert len(select_alpha(trials)) == len(select_lambda_select(trials)) == len(select_teacher(trials)) == 0
    assert len(load_epochs(Ledger(str(tmp_path)))) == 0


def test_the_rules_on_a_ledger_of_every_stage(tmp_path: Path) -> None:
    made_up.fill(str(tmp_path))
    trials = load_trials(tmp_path)
    lambdas = select_lambda_select(narrow(trials, p_target=0.15))
    assert lambdas["lambda_select"].tolist() == [made_up.BEST_LAMBDA] * 3
    assert select_alpha(trials)["alpha"].tolist() == [made_up.BEST_ALPHA] * 2
    teacher = select_teacher(narrow(trials, model="vit-base", p_target=0.15, lambda_select=made_up.BEST_LAMBDA))
    assert teacher["digest"].item() in set(narrow(trials, model="vit-base", objective="re")["digest"])


def test_narrow() -> None:
    frame = pd.DataFrame({"digest": list("abc"), "model": ["x", "y", "y"], "alpha": [None, 0.3, 0.5]})
    assert narrow(frame, model="y")["digest"].tolist() == ["b", "c"]
    assert narrow(frame, alpha=None)["digest"].tolist() == ["a"]
    assert narrow(frame, alpha=[None, 0.5])["digest"].tolist() == ["a", "c"]
    assert narrow(frame, digests=["c"], model="x").empty
    with pytest.raises(ValueError, match="narrow needs the columns colour, which the frame lacks"):
        narrow(frame, colour="red")
