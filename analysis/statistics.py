"""Statistics over seeds. Arithmetic is scipy's; randomness is an argument."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from analysis.frames import require_columns

EXACT_PAIRS = 13
"""Up to so many pairs every one of the 2^n sign flips is tried; beyond, a random sample of them."""

NUM_RESAMPLES = 9_999


class Interval(NamedTuple):
    """Both ends are NaN where the data cannot tell."""

    low: float
    high: float


def interquartile_mean(scores: ArrayLike, axis: int = -1) -> np.ndarray:
    """Mean of what is left when the lowest and the highest quarter (rounded down) of the scores are cut off."""
    return np.asarray(stats.trim_mean(np.asarray(scores, dtype=float), 0.25, axis=axis))


def bootstrap_interval(
    scores: ArrayLike,
    statistic: Callable[..., np.ndarray] = np.mean,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """Bootstrap interval of `statistic` over seeds: BCa, or percentiles where that is undefined.

    `statistic` takes an array and `axis`. Scores that are all equal give an interval of no width; fewer than two, or a
    score that is not finite, give NaN.
    """
    values = np.asarray(scores, dtype=float)
    if values.size < 2 or not np.isfinite(values).all():
        return Interval(np.nan, np.nan)
    # BCa divides by the spread of the statistic with one score left out, which a median or equal scores do not have.
    left_out = np.array([statistic(np.delete(values, index), axis=-1) for index in range(values.size)])
    spread = np.ptp(left_out) > 1e-9 * np.abs(left_out).max()
    method = "BCa" if spread else "percentile"
    result = stats.bootstrap(
        (values,), statistic, confidence_level=confidence, n_resamples=num_resamples, method=method, rng=rng
    )
    return Interval(float(result.confidence_interval.low), float(result.confidence_interval.high))


def sign_flip_test(differences: ArrayLike, *, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES) -> float:
    """Two-sided p-value of paired differences whose signs carry no information under the null hypothesis.

    Exact up to `EXACT_PAIRS` differences, so that 10 seeds that all agree give 2/1024. NaN for fewer than two, or where
    one is not finite.
    """
    values = np.asarray(differences, dtype=float)
    if values.size < 2 or not np.isfinite(values).all():
        return np.nan
    # scipy tries every flip where these are no more than the resamples asked for.
    resamples = 2**values.size if values.size <= EXACT_PAIRS else num_resamples
    result = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=resamples, vectorized=True, rng=rng
    )
    return float(result.pvalue)


def summarize(frame: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Mean and deviation of `values` over the seeds of each group of `by`.

    A row is a group, sorted by `by`. Columns: `by`; for each value its mean under its own name and its deviation under
    `<value>_std` (ddof 1, missing below two); `num_seeds` and `num_seeds_expected`, rows averaged and rows at all. Rows
    whose `status` is not ok, where the frame has one, are counted and not averaged.
    """
    require_columns(frame, [*by, *values], "summarize")
    ok = frame["status"] == "ok" if "status" in frame else pd.Series(True, index=frame.index)
    kept = frame.assign(num_seeds=ok.astype("int64"), **{name: frame[name].astype(float).where(ok) for name in values})
    groups = kept.groupby(list(by), dropna=False, sort=True)
    aggregations: dict[str, tuple[str, str]] = {}
    for name in values:
        aggregations |= {name: (name, "mean"), f"{name}_std": (name, "std")}
    return groups.agg(
        **aggregations, num_seeds=("num_seeds", "sum"), num_seeds_expected=("num_seeds", "size")
    ).reset_index()


def paired_differences(
    trials: pd.DataFrame,
    *,
    rng: np.random.Generator,
    value: str = "test_accuracy",
    baseline: str = "re",
    treatment: str = "rekd",
    by: Sequence[str] = ("task", "model"),
    confidence: float = 0.95,
) -> pd.DataFrame:
    """How much better `treatment` is than `baseline` on the same seeds.

    `trials` holds one setting of each objective in each group of `by`; columns: `by`, `objective`, `seed`, `value`, and
    `status` where there is one (only ok counts). A row is a group that has both objectives, sorted by `by`. Columns:
    `by`; `<baseline>` and `<treatment>`, the means over the shared seeds; `difference` (treatment less baseline);
    `low`, `high` (bootstrap interval of the mean difference); `interquartile_difference` (interquartile mean);
    `num_better` (seeds on which the treatment is ahead); `p_value` (sign flips); `num_seeds` (shared seeds).

    Raises ValueError on missing columns and on a seed that occurs twice for an objective in a group.
    """
    require_columns(trials, [*by, "objective", "seed", value], "paired_differences")
    rows = trials[trials["objective"].isin([baseline, treatment])]
    if "status" in rows:
        rows = rows[rows["status"] == "ok"]
    twice = rows[rows.duplicated([*by, "objective", "seed"], keep=False)]
    if len(twice):
        first = ", ".join(f"{name}={twice.iloc[0][name]}" for name in (*by, "objective", "seed"))
        raise ValueError(
            f"paired_differences got {len(twice)} rows for the same seeds, such as {first}. Keep one setting of each "
            "objective, for example with analysis.narrow."
        )
    columns = [*by, baseline, treatment, "difference", "low", "high", "interquartile_difference"]
    columns += ["num_better", "p_value", "num_seeds"]
    results = []
    for key, group in rows.groupby(list(by), dropna=False, sort=True):
        scores = {name: rows_of.set_index("seed")[value] for name, rows_of in group.groupby("objective", observed=True)}
        if len(scores) < 2:
            continue
        pairs = pd.concat([scores[baseline], scores[treatment]], axis=1, join="inner").dropna().astype(float)
        pairs.columns = [baseline, treatment]
        if pairs.empty:
            continue
        difference = (pairs[treatment] - pairs[baseline]).to_numpy()
        interval = bootstrap_interval(difference, rng=rng, confidence=confidence)
        results.append(
            (
                *key,
                *pairs.mean(),
                difference.mean(),
                *interval,
                float(interquartile_mean(difference)),
                int((difference > 0).sum()),
                sign_flip_test(difference, rng=rng),
                len(pairs),
            )
        )
    return pd.DataFrame(results, columns=columns)
