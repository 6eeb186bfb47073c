"""Which trials of a ledger belong to which part of the experiment.

A ledger holds the trials of every sweep, and a trial may belong to several: the RE runs at the chosen `lambda_select` are
in Table 4, in Table 1 and in Table 8.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import paper
from analysis.frames import narrow, require_columns
from analysis.selection import select_alpha, select_lambda_select

NEEDED = (
    "digest",
    "task",
    "objective",
    "model",
    "seed",
    "p_target",
    "lambda_select",
    "alpha",
    "teacher_digest",
    "dev_loss",
    "dev_rationale_ratio",
)


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Rows of `trials` by the part that they play, each in their old order."""

    trials: pd.DataFrame
    """All of them."""
    tolerance: float
    """How far from `p_target` a mean ratio may be."""
    p_targets: dict[str, float]
    """The `p_target` that each task is about: where most REKD trials aim, else where most `lambda_select` were tried,
    else where most trials aim, else the smallest. Tasks without RE are left out."""
    used_lambdas: dict[tuple[str, str], float]
    """The `lambda_select` that each task and model went on with. What later stages used comes first, since a choice may
    be overridden: that of most REKD trials, else that of most teachers; else the rule's choice; else the only one that
    was tried. Ties: the smaller. Where none of these gives one, the model is left out."""
    lambdas: pd.DataFrame
    """RE trials at their task's `p_target` (Tables 4 and 5)."""
    teachers: pd.DataFrame
    """Of these, the ones with the `lambda_select` that was used: who may be a teacher."""
    alphas: pd.DataFrame
    """REKD trials at their task's `p_target`, with the `lambda_select` that was used (Tables 6 and 7)."""
    ratios: pd.DataFrame
    """CLS trials, and RE trials of any `p_target` with the `lambda_select` that was used (Table 8, Figure 2)."""
    finals: pd.DataFrame
    """CLS, RE with the `lambda_select` that was used, and REKD at the chosen `alpha` (Tables 1-3)."""


def split_stages(
    trials: pd.DataFrame,
    tolerance: float = 0.01,
    *,
    re_p_targets: Mapping[tuple[str, str], float] = paper.FINAL_P_TARGETS,
) -> Stages:
    """The parts of an experiment, from rows of `trials`.

    `re_p_targets` gives, by task and model, the `p_target` of the final RE runs where it is not their task's; it counts
    where there are such runs. Otherwise final RE runs are at their task's `p_target`, or at the nearest that was run.
    Raises ValueError on missing columns.
    """
    require_columns(trials, NEEDED, "split_stages")
    p_targets = _p_targets(trials)
    at_p_target = trials[trials["p_target"] == trials["task"].map(p_targets)]
    lambdas = narrow(at_p_target, objective="re")
    used = _used_lambdas(trials, lambdas, tolerance)

    teachers = _with_lambda(lambdas, used)
    alphas = _with_lambda(narrow(at_p_target, objective="rekd"), used)
    re = _with_lambda(narrow(trials, objective="re"), used)
    cls = trials["objective"] == "cls"

    final = set()
    for key, rows in re.groupby(["task", "model"]):
        task, model = str(key[0]), str(key[1])
        present = sorted(rows["p_target"].unique())
        wanted = re_p_targets.get((task, model))
        target = wanted if wanted in present else min(present, key=lambda value: abs(value - p_targets[task]))
        final |= set(rows.loc[rows["p_target"] == target, "digest"])
    choices = select_alpha(alphas)
    keys = [*choices.columns[: list(choices.columns).index("alpha")], "alpha"]
    final |= set(alphas.merge(choices[choices["alpha"].notna()][keys], on=keys)["digest"])
    return Stages(
        trials=trials,
        tolerance=tolerance,
        p_targets=p_targets,
        used_lambdas=used,
        lambdas=lambdas,
        teachers=teachers,
        alphas=alphas,
        ratios=trials[cls | trials["digest"].isin(set(re["digest"]))],
        finals=trials[cls | trials["digest"].isin(final)],
    )


def _p_targets(trials: pd.DataFrame) -> dict[str, float]:
    rows = trials[trials["p_target"].notna()]
    rows = rows.assign(is_rekd=(rows["objective"] == "rekd").astype(int))
    counts = rows.groupby(["task", "p_target"]).agg(
        num_rekd=("is_rekd", "sum"), num_lambdas=("lambda_select", "nunique"), num_trials=("is_rekd", "size")
    )
    counts = counts.sort_values(["num_rekd", "num_lambdas", "num_trials"], ascending=False, kind="stable").reset_index()
    best = counts.drop_duplicates("task")
    return {str(task): float(target) for task, target in zip(best["task"], best["p_target"], strict=True)}


def _used_lambdas(trials: pd.DataFrame, lambdas: pd.DataFrame, tolerance: float) -> dict[tuple[str, str], float]:
    re = narrow(trials, objective="re")
    serving = re[re["digest"].isin(set(trials["teacher_digest"].dropna()))]
    chosen = select_lambda_select(lambdas, tolerance).dropna(subset="lambda_select")
    alone = re[re.groupby(["task", "model"])["lambda_select"].transform("nunique") == 1]
    used: dict[tuple[str, str], float] = {}
    for rows in (narrow(trials, objective="rekd"), serving, chosen, alone):
        counts = rows.groupby(["task", "model", "lambda_select"]).size().rename("count").reset_index()
        counts = counts.sort_values("count", ascending=False, kind="stable").drop_duplicates(["task", "model"])
        for task, model, value in zip(counts["task"], counts["model"], counts["lambda_select"], strict=True):
            used.setdefault((str(task), str(model)), float(value))
    return used


def _with_lambda(rows: pd.DataFrame, used: Mapping[tuple[str, str], float]) -> pd.DataFrame:
    wanted = [used.get((task, model), np.nan) for task, model in zip(rows["task"], rows["model"], strict=True)]
    return rows[rows["lambda_select"] == pd.Series(wanted, index=rows.index, dtype=float)]
