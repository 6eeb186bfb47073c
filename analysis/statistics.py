"""Statistics over seeds.

An inference is about the mean of paired differences: its interval and its p-value are of one method, so that an interval
holds 0 exactly where p is above 1 - confidence. All methods work on the last axis; what they draw at random depends on the
data alone. No method holds where single seeds collapse (see `collapsed`): such pairs are counted.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from analysis.frames import require_columns
from analysis.settings import columns_read, described, grouping_columns, setting_columns, with_settings
from rekd.messages import number

MIN_PAIRS = 3
"""Fewer have no interval: two pairs know next to nothing of their own spread."""

EXACT_PAIRS = 13
"""Up to so many pairs every one of the 2^n sign flips is tried; beyond, a random sample of them."""

NUM_RESAMPLES = 9_999

GAP = 5.0
"""Seeds have collapsed that lie beyond a gap so many times as wide as all the other seeds take (see `collapsed`). Of five
scores that are normal, 3 in 100 sets look so by chance; of ten, none in 1,000."""

LEAST = 0.05
"""The gap is at least this share of the largest score."""


class Inference(NamedTuple):
    """About a mean difference. Numbers that the data cannot give are NaN."""

    low: Any
    high: Any
    p_value: Any
    """Two-sided, of no difference."""


def interquartile_mean(scores: ArrayLike, axis: int = -1) -> np.ndarray:
    """Mean of what is left when the lowest and the highest quarter (rounded down) of the scores are cut off."""
    return np.asarray(stats.trim_mean(np.asarray(scores, dtype=float), 0.25, axis=axis))


def student(differences: ArrayLike, *, confidence: float = 0.95) -> Inference:
    """Student's t: exact where differences are normal, and near enough where they are not too far from it."""
    values = _in_order(differences)
    mean, error = _mean_and_error(values)
    reach = stats.t.ppf((1 + confidence) / 2, values.shape[-1] - 1) * error
    p_value = 2 * stats.t.sf(np.abs(_ratio(mean, error)), values.shape[-1] - 1)
    return _where_possible(values, mean - reach, mean + reach, p_value)


def sign_flips(differences: ArrayLike, *, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES) -> Inference:
    """The sign-flip test and the interval of all means that it does not reject: exact where differences are symmetric.

    The means of the 2^n - 1 subsets cut the line into pieces that are equally likely to hold the true mean (Hartigan 1969).
    Up to `EXACT_PAIRS` pairs all subsets are taken, beyond a random sample. Below six pairs the test cannot reach 5 %, and
    there is no interval.
    """
    values = _in_order(differences)
    subsets = _subsets(values, num_resamples)
    means = np.sort(values @ subsets.T / subsets.sum(axis=-1), axis=-1)
    count = means.shape[-1] + 1
    noise = 1e-12 * np.abs(values).max(axis=-1, keepdims=True, initial=0)  # a sum of 0 may come out as 1e-17
    tail = np.minimum((means <= noise).sum(axis=-1), (means >= -noise).sum(axis=-1))
    rank = int((1 - confidence) / 2 * count + 1e-9)
    nothing = np.full(values.shape[:-1], np.nan)
    low, high = (means[..., rank - 1], means[..., -rank]) if rank else (nothing, nothing)
    return _where_possible(values, low, high, np.minimum(2 * (1 + tail) / count, 1.0))


def bootstrap(differences: ArrayLike, *, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES) -> Inference:
    """The studentized bootstrap: quantiles of t over resamples take the place of Student's."""
    values = _in_order(differences)
    mean, error = _mean_and_error(values)
    if not values.shape[-1]:
        return _where_possible(values, mean, mean, mean)
    drawn = generator_of(values).integers(values.shape[-1], size=(num_resamples, values.shape[-1]))
    means, errors = _mean_and_error(values[..., drawn])
    resampled = np.sort(_ratio(means - mean[..., None], errors), axis=-1)
    rank = int((1 - confidence) / 2 * num_resamples)
    observed = _ratio(mean, error)[..., None]
    tail = np.minimum((resampled >= observed).mean(axis=-1), (resampled <= observed).mean(axis=-1))
    # A quantile is infinite where too many resamples are one value over and over.
    ends = (resampled[..., -1 - rank], resampled[..., rank])
    low, high = (mean - np.where(np.isfinite(end), end, np.nan) * error for end in ends)
    return _where_possible(values, low, high, np.minimum(2 * tail, 1.0))


METHODS: Mapping[str, Callable[..., Inference]] = {"student": student, "exact": sign_flips, "bootstrap": bootstrap}
"""The methods by the name that a caller gives. Student's t is the default everywhere."""


def collapsed(scores: ArrayLike, *, lower_is_better: bool = False) -> np.ndarray:
    """Which seeds have collapsed: the worse of two groups, where the seeds fall into two.

    They do where their widest gap is more than `GAP` times as wide as the range of the larger group, which has three seeds
    or more, and more than `LEAST` of the largest score: seeds that are nearly equal have not fallen apart. Such scores have
    no interval that holds: what there is at small n depends on how many of them collapsed.
    """
    values = np.asarray(scores, dtype=float)
    ordered = np.sort(-values if lower_is_better else values)
    gaps = np.diff(ordered)
    if len(values) <= MIN_PAIRS or not np.isfinite(values).all():
        return np.zeros(len(values), dtype=bool)
    split = int(gaps.argmax()) + 1
    larger = max(ordered[:split], ordered[split:], key=len)
    if len(larger) < MIN_PAIRS or gaps.max() <= GAP * np.ptp(larger) or gaps.max() <= LEAST * np.abs(ordered).max():
        return np.zeros(len(values), dtype=bool)
    return (-values if lower_is_better else values) < ordered[split]


def generator_of(values: np.ndarray) -> np.random.Generator:
    """A generator that the data alone determine: who shows the same numbers draws the same."""
    content = np.ascontiguousarray(np.sort(values, axis=-1), dtype="<f8").tobytes()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(content).digest()[:16], "little"))


def _in_order(differences: ArrayLike) -> np.ndarray:
    """Sorted along the last axis: rounding, too, shall not depend on the order of seeds."""
    return np.sort(np.asarray(differences, dtype=float), axis=-1)


def _mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error of the last axis; NaN below two values."""
    if values.shape[-1] < 2:
        nothing = np.full(values.shape[:-1], np.nan)
        return nothing, nothing
    mean = values.mean(axis=-1)
    error = values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])
    return mean, np.where(error <= 1e-14 * np.abs(mean), 0.0, error)


def _ratio(mean: np.ndarray, error: np.ndarray) -> np.ndarray:
    """t; infinite, or 0, where values that are all equal have no spread to measure them by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((error == 0) & (mean == 0), 0.0, mean / error)


def _subsets(values: np.ndarray, num_resamples: int) -> np.ndarray:
    """All subsets that are not empty, or a random sample: a row a subset, 1 for what is in it."""
    size = values.shape[-1]
    if size <= EXACT_PAIRS:
        return (np.arange(1, 2**size)[:, None] >> np.arange(size)) & 1
    drawn = generator_of(values).integers(2, size=(num_resamples, size))
    return drawn[drawn.any(axis=-1)]


def _where_possible(values: np.ndarray, *numbers: np.ndarray) -> Inference:
    """NaN in place of the numbers where pairs are too few or a value is not finite."""
    possible = np.isfinite(values).all(axis=-1) & (values.shape[-1] >= MIN_PAIRS)
    kept = [np.where(possible, number, np.nan) for number in numbers]
    return Inference(*(float(number) if number.ndim == 0 else number for number in kept))


def summarize(frame: pd.DataFrame, values: Sequence[str], by: Sequence[str] | None = None) -> pd.DataFrame:
    """Mean and deviation of `values` over the seeds of each setting, or of each group of `by`.

    A row is a group, sorted by `by`. Columns: `by`; for each value its mean under its own name and its deviation under
    `<value>_std` (ddof 1, missing below two); `num_seeds` and `num_seeds_expected`, rows averaged and rows at all. Rows
    whose `status` is not ok, where the frame has one, are counted and not averaged.
    """
    frame = with_settings(frame)
    by = setting_columns(frame) if by is None else list(by)
    require_columns(frame, [*by, *values], "summarize")
    ok = frame["status"] == "ok" if "status" in frame else pd.Series(True, index=frame.index)
    kept = frame.assign(num_seeds=ok.astype("int64"), **{name: frame[name].astype(float).where(ok) for name in values})
    groups = kept.groupby(by, dropna=False, sort=True)
    aggregations: dict[str, tuple[str, str]] = {}
    for name in values:
        aggregations |= {name: (name, "mean"), f"{name}_std": (name, "std")}
    return groups.agg(
        **aggregations, num_seeds=("num_seeds", "sum"), num_seeds_expected=("num_seeds", "size")
    ).reset_index()


def paired_differences(
    trials: pd.DataFrame,
    *,
    value: str = "test_accuracy",
    baseline: str = "re",
    treatment: str = "rekd",
    free: Sequence[str] = (),
    method: str = "student",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """How much better each setting of `treatment` is than `baseline`, seed by seed.

    The baseline of a setting are the runs that have the same value in every field that the baseline's objective reads.
    In the fields of `free` it may differ, if it is one setting all the same: field by field, those that do not differ are
    kept, where there are any. Where there is no such baseline there is no difference, and `note` says why.

    `trials` needs `objective`, `seed` and `value`; the fields of a trial count as far as the frame has them, and of a
    `status` only ok. A row is a setting of the treatment, sorted. Columns: those of the setting but `objective`, leading ones
    first; `baseline_<field>` for each of `free`; `<baseline>` and `<treatment>`, the means over the shared seeds;
    `difference` (treatment less baseline); `low`, `high`, `p_value` (of `method`, one of `METHODS`);
    `interquartile_difference`; `num_better` (seeds on which the treatment is ahead); `num_pairs` (shared seeds);
    `num_collapsed` (pairs in which a run has collapsed); `note` (why there is no difference or no interval, or why it does
    not hold; else empty).

    Raises ValueError on missing columns, on an unknown method and on a seed that occurs twice in a setting.
    """
    require_columns(trials, ["objective", "seed", value], "paired_differences")
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}, got {method!r}.")
    rows = with_settings(trials)
    rows = rows[rows["objective"].isin([baseline, treatment]) & rows[value].notna()]
    if "status" in rows:
        rows = rows[rows["status"] == "ok"]
    settings = setting_columns(rows)
    _refuse_twice(rows, [*settings, "seed"])
    keys = [name for name in settings if name != "objective"]
    baselines = Baselines(rows, baseline, free=free)
    results = []
    for key, group in _groups(rows[rows["objective"] == treatment], keys):
        setting = dict(zip(keys, key, strict=True))
        plain, why = baselines.of(setting)
        at = {f"baseline_{name}": plain[name].iloc[0] if len(plain) else np.nan for name in baselines.free}
        scores = {
            name: runs.set_index("seed")[value].astype(float) for name, runs in ((baseline, plain), (treatment, group))
        }
        results.append(setting | at | _compared(scores, why, value=value, method=method, confidence=confidence))
    columns = [*keys, *(f"baseline_{name}" for name in baselines.free), baseline, treatment, *_NUMBERS]
    return pd.DataFrame(results, columns=columns).astype({name: rows[name].dtype for name in keys})


_NUMBERS = ("difference", "low", "high", "p_value", "interquartile_difference")
_NUMBERS += ("num_better", "num_pairs", "num_collapsed", "note")


def _compared(
    scores: Mapping[str, pd.Series], why: str, *, value: str, method: str, confidence: float
) -> dict[str, Any]:
    """The numbers of one row of `paired_differences`, from the scores of baseline and treatment by seed."""
    names = list(scores)
    pairs = pd.concat(scores, axis=1, join="inner").sort_index()
    if pairs.empty:
        seeds = [f"{name.upper()} {_seeds(scores[name])}" for name in names]
        nothing = dict.fromkeys([*names, *_NUMBERS[:5]], np.nan)
        counts = {"num_better": 0, "num_pairs": 0, "num_collapsed": 0}
        return nothing | counts | {"note": why or f"no seed in common: {', '.join(seeds)}"}
    difference = (pairs[names[1]] - pairs[names[0]]).to_numpy()
    worse = [collapsed(pairs[name], lower_is_better=value.endswith("loss")) for name in names]
    num_collapsed = int(np.logical_or(*worse).sum())
    inference = METHODS[method](difference, confidence=confidence)
    return {
        **pairs.mean(),
        "difference": difference.mean(),
        **inference._asdict(),
        "interquartile_difference": float(interquartile_mean(difference)),
        "num_better": int((difference > 0).sum()),
        "num_pairs": len(pairs),
        "num_collapsed": num_collapsed,
        "note": _note(len(pairs), num_collapsed, inference, method),
    }


def _note(num_pairs: int, num_collapsed: int, inference: Inference, method: str) -> str:
    if num_pairs < MIN_PAIRS:
        return f"no interval below {MIN_PAIRS} pairs"
    if num_collapsed:
        return f"{num_collapsed} of {num_pairs} pairs have a run that collapsed: no interval holds"
    return f"no interval by {method} with {num_pairs} pairs" if np.isnan(inference.low) else ""


class Baselines:
    """The runs of one objective, by the settings of another that they are the baseline of (see `paired_differences`)."""

    def __init__(self, trials: pd.DataFrame, objective: str, *, free: Sequence[str] = ()) -> None:
        """`trials` are rows of `with_settings`; those of other objectives do not count."""
        self.name = objective.upper()
        self.free = [name for name in free if name in trials]
        self._runs = trials[trials["objective"] == objective]
        self._alike = columns_read(trials, objective, but=free)
        self._groups = {_key(key): group for key, group in _groups(self._runs, self._alike)}

    def of(self, setting: Mapping[str, Any] | pd.Series) -> tuple[pd.DataFrame, str]:
        """The runs that a setting is compared with, all of one setting; none, and the reason, where there are none."""
        candidates = self._groups.get(_key([setting[name] for name in self._alike]))
        if candidates is None:
            return self._runs.iloc[:0], self._why_none(setting)
        if not self.free:
            return candidates, ""
        for name in self.free:
            alike = candidates[candidates[name] == setting[name]]
            candidates = candidates if alike.empty else alike
        different = candidates[self.free].drop_duplicates()
        if len(different) == 1:
            return candidates, ""
        choices = described(different, self.free)
        return self._runs.iloc[:0], f"{self.name} has {len(choices)} settings: {'; '.join(choices)}"

    def _why_none(self, setting: Mapping[str, Any] | pd.Series) -> str:
        """That there is none of its model, or in what the nearest one differs."""
        runs = self._runs
        for column in ("task", "model"):
            if column in self._alike:
                runs = runs[runs[column] == setting[column]]
        if runs.empty:
            return f"no {self.name} of this model"
        choices = runs[self._alike].drop_duplicates()
        here = _key([setting[name] for name in self._alike])
        apart = [[own != other for own, other in zip(_key(row), here, strict=True)] for row in choices.to_numpy()]
        nearest = min(range(len(apart)), key=lambda index: sum(apart[index]))
        names = [name for name, differs in zip(self._alike, apart[nearest], strict=True) if differs]
        there = described(choices.iloc[[nearest]], names).iloc[0] or f"no {', '.join(names)}"
        return f"{self.name} has {there}, this {described(pd.DataFrame([setting]), names).iloc[0]}"


def _groups(rows: pd.DataFrame, columns: Sequence[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Groups of rows with their keys, sorted; one group of all rows where there are no columns to tell them apart."""
    if rows.empty:
        return []
    if not columns:
        return [((), rows)]
    groups = rows.groupby(grouping_columns(rows, columns), dropna=False, sort=True)
    return [(tuple(group[name].iloc[0] for name in columns), group) for _, group in groups]


def _key(values: Iterable[Any]) -> tuple[Any, ...]:
    """Values that compare equal where they are missing alike: NaN is not even equal to itself."""
    return tuple(None if pd.isna(value) else value for value in values)


def _seeds(scores: pd.Series) -> str:
    return ", ".join(number(seed) for seed in sorted(scores.index)) or "none"


def _refuse_twice(rows: pd.DataFrame, columns: Sequence[str]) -> None:
    twice = rows[rows.duplicated(list(columns), keep=False)]
    if len(twice):
        raise ValueError(
            f"paired_differences got {len(twice)} rows for the same seed of one setting, such as "
            f"{described(twice.iloc[:1], columns).iloc[0]}. Drop the copies, or keep in the frame the columns in which "
            "they differ."
        )
