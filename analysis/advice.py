"""What to try where a rule has found nothing: another grid, a wider tolerance, one run by its seed; and why."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.selection import SelectionRule, judged, nearest_to_target
from analysis.settings import grouping_columns
from rekd.messages import number

ALPHAS = (0.0, 0.3, 0.5, 0.7)
"""Tables 6 and 7."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to type next, as values of options."""

    why: str
    """What was seen that speaks for it, in sentences."""
    lambdas: tuple[float, ...] = ()
    """A grid of lambda_select; empty where none is of use."""
    tolerance: float | None = None
    """The least with which the nearest would be eligible."""
    seed: int | None = None
    """The seed of the nearest run, where a run is to be picked."""
    alphas: tuple[float, ...] = ()
    """A grid of alpha, where none was tried that REKD has."""


def advise(rule: SelectionRule, settings: pd.DataFrame) -> Advice:
    """What to try after a rule has chosen none of these rows of `judged`, which are one group."""
    nearest = None if rule.tolerance is None else nearest_to_target(settings, rule.chosen)
    if nearest is None and settings["num_seeds"].sum():
        return Advice(why="Only plain RE was tried.", alphas=ALPHAS)
    if nearest is None:
        tried = settings["lambda_select"].dropna().unique() if "lambda_select" in settings else []
        return _none_has_a_result(tried)
    tolerance = abs(int(nearest["off_target"])) / 10_000
    if not rule.picks_a_run:
        lambdas, why = another_grid(settings["lambda_select"].tolist(), settings["off_target"].abs().tolist())
        return Advice(why=why, lambdas=lambdas, tolerance=tolerance)
    lambdas, _ = (
        another_grid(settings["lambda_select"].unique().tolist(), [0]) if "lambda_select" in settings else ((), "")
    )
    mean = settings["dev_rationale_ratio"].mean()
    why = (
        f"The ratios of single runs lie around {mean:.2%}; seed {nearest['seed']} is the nearest one and can be taken as it "
        "is. Another lambda_select may hold every run nearer."
    )
    return Advice(why=why, lambdas=lambdas, tolerance=tolerance, seed=int(nearest["seed"]))


def advised(rule: SelectionRule, trials: pd.DataFrame) -> list[tuple[pd.Series, Advice]]:
    """What to try for each group of trials in which a rule finds nothing, with a row that says which group it is."""
    settings = judged(rule, trials)
    keys = grouping_columns(settings, rule.group_columns(settings))
    groups = settings.groupby(keys, dropna=False) if len(settings) else ()
    return [(group.iloc[0], advise(rule, group)) for _, group in groups if not group["chosen"].any()]


def another_grid(tried: Sequence[float], distances: Sequence[float]) -> tuple[tuple[float, ...], str]:
    """A grid beyond what was tried, or finer, by where the ratio came nearest to `p_target`; and why.

    `distances` belong to the values of `tried`, and are missing where a value has no result.

    >>> another_grid([0.001, 0.01, 0.1], [900, 300, 200])
    ((1.0, 10.0), 'The ratio comes nearest at the largest lambda_select that was tried.')
    >>> another_grid([0.001, 0.01, 0.1], [900, 200, 300])[0]
    (0.003, 0.03)
    """
    order = np.argsort(np.asarray(tried, dtype=float))
    values = np.asarray(tried, dtype=float)[order]
    if len(values) == 1:
        around = values[0] * np.array([0.1, 10, 100])
        return _rounded(around), f"One lambda_select was tried, {number(float(values[0]))}."
    best = int(np.nanargmin(np.asarray(distances, dtype=float)[order]))
    if best == len(values) - 1:
        return _rounded(values[-1] * np.array([10, 100])), _nearest_at("largest")
    if best == 0:
        return _rounded(values[0] * np.array([0.01, 0.1])), _nearest_at("smallest")
    between = np.sqrt(values[best] * values[[best - 1, best + 1]])
    return _rounded(between), "The ratio comes nearest between the ends of the grid: a finer one may meet it."


def _none_has_a_result(tried: Sequence[float]) -> Advice:
    why = "No run has a result: what they say is in the table."
    if not len(tried):
        return Advice(why=why)
    smallest = min(tried)
    return Advice(
        why=f"{why} A smaller lambda_select diverges less.", lambdas=_rounded(smallest * np.array([0.01, 0.1]))
    )


def _nearest_at(end: str) -> str:
    return f"The ratio comes nearest at the {end} lambda_select that was tried."


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    """Values of one digit: a grid is to be read and typed."""
    return tuple(float(f"{value:.0e}") for value in values)
