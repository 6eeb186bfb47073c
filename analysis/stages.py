"""Which trials of a ledger belong to which part of the experiment.

A ledger holds the trials of every sweep, and a trial may belong to several: the RE runs at the chosen `lambda_select` are
in Table 4, in Table 1 and in Table 8. All of these take and return rows of `trials`, in their old order.
"""

from collections.abc import Mapping

import pandas as pd

from analysis import paper
from analysis.frames import narrow, require_columns
from analysis.selection import select_alpha, select_lambda_select

NEEDED = ("task", "objective", "model", "seed", "p_target", "lambda_select", "alpha", "teacher_digest", "digest")


def main_p_targets(trials: pd.DataFrame) -> dict[str, float]:
    """The `p_target` that each task is about: where most REKD trials aim, else where most `lambda_select` were tried.

    Ties: more trials, then the smaller. Tasks without RE are left out.
    """
    require_columns(trials, NEEDED, "main_p_targets")
    targets = {}
    for task, rows in trials[trials["p_target"].notna()].groupby("task"):
        candidates = rows.groupby("p_target").agg(
            num_rekd=("objective", lambda objectives: (objectives == "rekd").sum()),
            num_lambdas=("lambda_select", "nunique"),
            num_trials=("lambda_select", "size"),
        )
        best = candidates.sort_values(["num_rekd", "num_lambdas", "num_trials"], ascending=False, kind="stable")
        targets[str(task)] = float(best.index[0])
    return targets


def lambda_stage(trials: pd.DataFrame) -> pd.DataFrame:
    """RE trials at their task's main `p_target` (Tables 4 and 5)."""
    return _at_main_p_target(trials, "re")


def alpha_stage(trials: pd.DataFrame) -> pd.DataFrame:
    """REKD trials at their task's main `p_target`, with the `lambda_select` that was used (Tables 6 and 7)."""
    return _at_used_lambda(_at_main_p_target(trials, "rekd"), used_lambdas(trials))


def ratio_stage(trials: pd.DataFrame) -> pd.DataFrame:
    """CLS trials, and RE trials of any `p_target` with the `lambda_select` that was used (Table 8, Figure 2)."""
    re = _at_used_lambda(narrow(trials, objective="re"), used_lambdas(trials))
    return trials[trials["digest"].isin(re["digest"]) | (trials["objective"] == "cls")]


def teacher_stage(trials: pd.DataFrame) -> pd.DataFrame:
    """RE trials at their task's main `p_target` with the `lambda_select` that was used: who may be a teacher."""
    return _at_used_lambda(lambda_stage(trials), used_lambdas(trials))


def final_stage(
    trials: pd.DataFrame, re_p_targets: Mapping[tuple[str, str], float] = paper.FINAL_P_TARGETS
) -> pd.DataFrame:
    """CLS, RE at the `lambda_select` that was used, and REKD at the chosen `alpha` (Tables 1-3).

    `re_p_targets` gives, by task and model, the `p_target` of the RE runs where it is not the task's main one; it counts
    where there are such runs. Otherwise RE is at the main `p_target`, or at the nearest that was run.
    """
    used = used_lambdas(trials)
    digests = set(narrow(trials, objective="cls")["digest"])
    targets = main_p_targets(trials)
    re = _at_used_lambda(narrow(trials, objective="re"), used)
    for key, rows in re.groupby(["task", "model"]):
        present = sorted(rows["p_target"].unique())
        wanted = re_p_targets.get((str(key[0]), str(key[1])))
        main = targets[str(key[0])]
        target = wanted if wanted in present else min(present, key=lambda value: abs(value - main))
        digests |= set(rows.loc[rows["p_target"] == target, "digest"])
    rekd = alpha_stage(trials)
    choices = select_alpha(rekd)
    keys = [*choices.columns[: list(choices.columns).index("alpha")], "alpha"]
    digests |= set(rekd.merge(choices[choices["alpha"].notna()][keys], on=keys)["digest"])
    return trials[trials["digest"].isin(digests)]


def used_lambdas(trials: pd.DataFrame, tolerance: float = 0.01) -> dict[tuple[str, str], float]:
    """The `lambda_select` that each task and model went on with.

    Whatever later stages used comes first, since a choice may be overridden: that of most REKD trials, else that of the
    trials that serve as teachers; else the rule's choice; else the only one that was tried. Ties: the smaller. A model
    where none of these gives one is left out.
    """
    require_columns(trials, NEEDED, "used_lambdas")
    used: dict[tuple[str, str], float] = {}
    re = narrow(trials, objective="re")
    teachers = re[re["digest"].isin(trials["teacher_digest"].dropna())]
    for rows in (narrow(trials, objective="rekd"), teachers):
        for key, values in rows.groupby(["task", "model"])["lambda_select"]:
            used.setdefault((str(key[0]), str(key[1])), float(values.mode().iloc[0]))
    choices = select_lambda_select(lambda_stage(trials), tolerance).dropna(subset="lambda_select")
    for key, values in choices.groupby(["task", "model"])["lambda_select"]:
        used.setdefault((str(key[0]), str(key[1])), float(values.mode().iloc[0]))
    for key, values in re.groupby(["task", "model"])["lambda_select"]:
        if len(set(values)) == 1:
            used.setdefault((str(key[0]), str(key[1])), float(values.iloc[0]))
    return used


def _at_main_p_target(trials: pd.DataFrame, objective: str) -> pd.DataFrame:
    rows = narrow(trials, objective=objective)
    return rows[rows["p_target"] == rows["task"].map(main_p_targets(trials))]


def _at_used_lambda(rows: pd.DataFrame, used: Mapping[tuple[str, str], float]) -> pd.DataFrame:
    lambdas = [used.get((task, model)) for task, model in zip(rows["task"], rows["model"], strict=True)]
    return rows[rows["lambda_select"] == pd.Series(lambdas, index=rows.index, dtype=float)]
