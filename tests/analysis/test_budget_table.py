"""Accuracy at exact budgets: the table and the picture of it."""

import made_up
import pandas as pd
import pytest

from analysis.experiment import split_stages
from analysis.figures import all_pictures, budget_picture, epochs_picture
from analysis.frames import load_trials
from analysis.tables import Table, all_tables, budget_table, to_markdown
from rekd.store.ledger import BUDGET_COLUMNS


@pytest.fixture
def trials(tmp_path) -> pd.DataFrame:
    """Two seeds each of two estimators and of cls; the second estimator is better at a small budget."""
    made = [
        made_up.trial(seed=seed, estimator=estimator) for estimator in ("gumbel", "top_k") for seed in (2026, 2027)
    ] + [made_up.trial(objective="cls", seed=2026)]
    frame = load_trials(made_up.fill(tmp_path, made))
    re = frame["objective"] == "re"
    for name, budget in BUDGET_COLUMNS.items():
        frame.loc[re, name] = 0.5 + budget / 2 - 0.1 * (frame["estimator"] == "gumbel") + 0.02 * (frame["seed"] - 2026)
    frame.loc[re, "test_accuracy_at_p_target"] = 0.7
    frame.loc[re, "test_accuracy_area"] = 0.8
    return frame


def test_the_table_has_a_row_a_setting_of_those_that_select(trials):
    table = budget_table(trials)
    assert table["estimator"].tolist() == ["gumbel", "top_k"]
    assert table["test_accuracy_at_10"].tolist() == pytest.approx([0.46, 0.56])
    assert table["num_seeds"].tolist() == [2, 2]
    text = to_markdown(Table("budgets", "cifar10", "Accuracy at exact budgets", table))
    assert "| at p\\_target | area | at 1 % |" in text
    assert "budgets-cifar10" in [one.name for one in all_tables(split_stages(trials))]


def test_the_picture_has_a_line_a_setting_through_what_can_be_kept(trials):
    stages = split_stages(trials)
    picture = budget_picture(stages, "cifar10")
    assert picture is not None
    first, second = picture.labels.values()
    assert first[0] == "RE vit-tiny, estimator gumbel, at 1.0 %: accuracy 0.415, 2 runs"
    assert len(second) == len(BUDGET_COLUMNS)
    few = trials.assign(num_features=16)  # of which 1, 2 and 5 % are one each, as are 15 and 10 %
    picture = budget_picture(split_stages(few), "cifar10")
    assert picture is not None
    assert [len(points) for points in picture.labels.values()] == [6, 6]
    assert picture.render("svg")


def test_a_ledger_of_before_has_neither(trials):
    before = trials.drop(columns=[*BUDGET_COLUMNS, "test_accuracy_at_p_target", "test_accuracy_area"])
    for frame in (before, trials.assign(test_accuracy_area=None)):
        stages = split_stages(frame)
        assert not [one.name for one in all_tables(stages) if one.name.startswith("budgets")]
        assert not [one.name for one in all_pictures(stages, pd.DataFrame({"digest": []})) if "budgets" in one.name]


def test_what_was_given_more_epochs_is_a_line_over_them(tmp_path):
    """RE with once and four times the epochs, two seeds; another setting with one number of epochs is no line."""
    longer = [made_up.trial(seed=seed, epochs=epochs) for epochs in (5, 20) for seed in (2026, 2027)]
    stages = split_stages(load_trials(made_up.fill(tmp_path, [*longer, made_up.trial(seed=2026, learning_rate=1e-4)])))
    picture = epochs_picture(stages, "cifar10")
    assert picture is not None
    (points,) = picture.labels.values()
    assert [point.split(": ")[0] for point in points] == [
        f"RE vit-tiny, learning_rate 1e-05, {epochs} epochs" for epochs in (5, 20)
    ]
    assert all(point.endswith("2 runs") for point in points)
    assert "epochs-cifar10" in [one.name for one in all_pictures(stages, pd.DataFrame({"digest": []}))]
    alike = split_stages(load_trials(made_up.fill(tmp_path / "other", longer[:2])))
    assert epochs_picture(alike, "cifar10") is None
