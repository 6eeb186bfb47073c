"""Accuracy by group of test samples."""

import pandas as pd
import pytest

from analysis.groups import group_accuracy


@pytest.fixture
def predictions() -> pd.DataFrame:
    """Two trials of four samples: one is wrong on the last two, the other on the first."""
    return pd.DataFrame(
        {
            "digest": ["a"] * 4 + ["b"] * 4,
            "sample": [0, 1, 2, 3] * 2,
            "label": [0, 1, 0, 1] * 2,
            "prediction": [0, 1, 1, 0, 1, 1, 0, 1],
        }
    )


def test_each_trial_has_its_worst_group(predictions):
    found = group_accuracy(predictions, pd.Series(["x", "y", "y", "x"]))
    assert found["accuracy"].tolist() == [0.5, 0.5, 0.5, 1.0]
    found = group_accuracy(predictions, pd.Series({3: "late", 2: "late", 1: "early", 0: "early"}))
    assert found["num_samples"].tolist() == [2, 2, 2, 2]
    assert found[found["is_worst"]].set_index("digest")["group"].to_dict() == {"a": "late", "b": "early"}


def test_a_sample_without_a_group_is_an_error(predictions):
    with pytest.raises(ValueError, match="no group of 2 samples, such as 2"):
        group_accuracy(predictions, pd.Series(["x", "y"]))
