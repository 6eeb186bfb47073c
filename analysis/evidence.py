"""Seeds by evidence: which settings need another seed before one of them is chosen. Arithmetic on scores, no frames.

All settings begin with a few seeds. After each seed the one that is ahead is compared with every other, paired by seed, and
a setting that can no longer win gets no more. What counts is the choice that all seeds would make: N of them, of which n are
seen. If the differences d of two settings are normal, the mean of all N lies around the mean of the n that are seen as
Student's t with n - 1 degrees of freedom does, by a standard error of s sqrt(1/n - 1/N), which is the usual one with the
correction for a finite population (Cochran, Sampling Techniques, section 2.6). So the chance that the order is another once
all seeds are seen is the tail of t beyond mean / error. It is 0 at n = N, so that ties, too, end before all seeds.

Not Wilcoxon's test, which below six pairs cannot reach 5 % two-sided, where most is to be saved; nor an anytime-valid one:
these need scores within known bounds, or many more seeds than ten. What looking again and again does to the error is
measured instead: `python -m benchmarks.seeds_by_evidence`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

ERROR = 0.05
"""The chance that a setting which is left out would be ahead with all seeds, at each comparison."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """Settings by what is known of them after some seeds."""

    num_seen: int
    """Seeds that all settings in the race have been seen with."""
    in_race: np.ndarray
    """Which settings get another seed; none where the choice is made."""
    asked: np.ndarray
    """The number of seeds for which each setting has been asked so far."""


def race(
    scores: ArrayLike,
    beyond: ArrayLike | None = None,
    *,
    has_ended: ArrayLike | None = None,
    first: int = 3,
    error: float = ERROR,
) -> Race:
    """What became of a race over settings (rows) and seeds (columns), the seeds in the order in which they are run.

    `scores`: lower is better; missing where a run has no result. `beyond`: how far the ratio of each run lies above and below
    what is tolerated, as two arrays of that shape, where the ratio decides too: a setting is out whose mean is surely above 0.
    `has_ended`: which runs have ended, with a result or without; all that have a score where it is not given.
    """
    scores = np.asarray(scores, dtype=float)
    has_ended = np.isfinite(scores) if has_ended is None else np.asarray(has_ended, dtype=bool)
    num_settings, num_seeds = scores.shape
    sides = () if beyond is None else tuple(np.asarray(side, dtype=float) for side in np.asarray(beyond, dtype=float))
    alive, asked = np.ones(num_settings, dtype=bool), np.full(num_settings, min(first, num_seeds))
    for seen in range(min(first, num_seeds), num_seeds + 1):
        if not has_ended[alive, :seen].all():
            return Race(num_seen=seen - 1 if seen > first else 0, in_race=alive, asked=asked)
        alive = alive & _may_win(scores, sides, alive, seen, error)
        if seen == num_seeds or not alive.any():
            break
        asked = np.where(alive, seen + 1, asked)
    return Race(num_seen=int(asked.max(initial=0)), in_race=np.zeros(num_settings, dtype=bool), asked=asked)


def _may_win(
    scores: np.ndarray, sides: tuple[np.ndarray, ...], alive: np.ndarray, seen: int, error: float
) -> np.ndarray:
    """Which settings of a race may still be the choice of all seeds; none where that is decided."""
    num_seeds = scores.shape[1]
    has_result = alive & np.isfinite(scores[:, :seen]).any(axis=1)
    chances = [chance_above_zero(side[:, :seen], num_seeds) for side in sides]
    surely_out = (
        np.any([chance >= 1 - error for chance in chances], axis=0) if sides else np.zeros(len(scores), dtype=bool)
    )
    surely_in = np.all([chance <= error for chance in chances], axis=0) if sides else np.ones(len(scores), dtype=bool)
    may = has_result & ~surely_out
    # Who is ahead of those that are surely eligible decides; as long as none is, all that may be stay.
    means = np.where(may & surely_in, _means(scores[:, :seen]), np.inf)
    if not np.isfinite(means).any():
        return may
    best = int(means.argmin())
    behind = chance_above_zero(scores[:, :seen] - scores[best, :seen], num_seeds) >= 1 - error
    may &= ~behind
    return may if may.sum() > 1 else np.zeros_like(may)


def chance_above_zero(values: np.ndarray, num_all: int) -> np.ndarray:
    """The chance that the mean of all values is above 0, of which the last axis has some; 1/2 where that is not known."""
    count = np.isfinite(values).sum(axis=-1)
    mean = _means(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(np.nansum((values - mean[..., None]) ** 2, axis=-1) / (count - 1))
        error = spread * np.sqrt(np.maximum(1 / count - 1 / num_all, 0))
        ratio = np.where(error > 0, mean / error, np.sign(mean) * np.inf)
        chance = stats.t.cdf(ratio, count - 1)
    return np.where((count < 2) | ~np.isfinite(chance), 0.5, chance)


def _means(values: np.ndarray) -> np.ndarray:
    """Means of what is there of the last axis; missing where nothing is."""
    count = np.isfinite(values).sum(axis=-1)
    return np.where(count, np.nansum(values, axis=-1) / np.maximum(count, 1), np.nan)
