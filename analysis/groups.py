"""Accuracy by group of test samples, from what the store keeps of each trial: nothing is trained or read again."""

import pandas as pd

from analysis.frames import require_columns


def group_accuracy(predictions: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """What each trial reaches on each group of the test split.

    Takes rows of `load_predictions`, and the name of each sample's group, indexed by `sample`. A row is a group of a trial,
    sorted by `digest` and `group`. Columns: `digest`, `group`, `num_samples`, `accuracy`, and `is_worst`, which is true of
    one row a trial, the first of the lowest. Raises ValueError where a sample has no group.
    """
    require_columns(predictions, ["digest", "sample", "label", "prediction"], "group_accuracy")
    of_sample = predictions["sample"].map(groups)
    if of_sample.isna().any():
        missing = sorted(predictions.loc[of_sample.isna(), "sample"].unique())
        raise ValueError(f"groups names no group of {len(missing)} samples, such as {missing[0]}.")
    rows = predictions.assign(group=of_sample, is_right=predictions["label"] == predictions["prediction"])
    found = rows.groupby(["digest", "group"], as_index=False).agg(
        num_samples=("is_right", "size"), accuracy=("is_right", "mean")
    )
    worst = found.groupby("digest")["accuracy"].idxmin()
    return found.assign(is_worst=found.index.isin(worst))
