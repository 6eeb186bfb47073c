"""Which trials of a ledger belong to which part of the experiment.

A ledger holds the trials of every sweep, and a trial may belong to several: the RE runs at the chosen `lambda_select` are
in Table 4, in Table 1 and in Table 8. It holds tries beside real runs too: every part keeps the settings of both apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import published
from analysis.frames import narrow, require_columns
from analysis.selection import alpha_rule, select_alpha, select_lambda_select
from analysis.settings import columns_read, matching, with_settings

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
    """Rows of `trials` by the part that they play, each in their old order, ready for `setting_columns`."""

    trials: pd.DataFrame
    """All of them."""
    tolerance: float
    """How far from `p_target` a mean ratio may be."""
    used: pd.DataFrame
    """The `lambda_select` that each family went on with. A family are the settings that agree in what RE reads, but for
    `p_target` and `lambda_select`; its columns are these. What later stages used comes first, since a choice may be
    overridden: those of REKD trials, else those of teachers; else the rule's choices; else the only one that was tried.
    Where none of these gives one, the family is left out."""
    lambdas: pd.DataFrame
    """RE trials at a `p_target` at which several `lambda_select` were tried, or that their family is about (Tables 4 and 5).
    A family is about those at which its REKD trials aim, else those of its teachers; else those at which several
    `lambda_select` were tried; else those at which REKD trials of the task aim; else the one with most trials, else the
    smallest."""
    teachers: pd.DataFrame
    """Those of them with a `lambda_select` that was used: who may be a teacher."""
    alphas: pd.DataFrame
    """REKD trials (Tables 6 and 7)."""
    ratios: pd.DataFrame
    """CLS trials, and RE trials of any `p_target` with a `lambda_select` that was used (Table 8, Figure 2)."""
    finals: pd.DataFrame
    """CLS, RE with a `lambda_select` that was used, and REKD at the chosen `alpha` (Tables 1-3)."""


def split_stages(
    trials: pd.DataFrame,
    tolerance: float = 0.01,
    *,
    re_p_targets: Mapping[tuple[str, str], float] = published.FINAL_P_TARGETS,
) -> Stages:
    """The parts of an experiment, from rows of `trials`.

    `re_p_targets` gives, by task and model, the `p_target` of the final RE runs where it is not their family's; it counts
    where there are such runs. Otherwise final RE runs are at what their family is about, or at the nearest that was run.
    Raises ValueError on missing columns.
    """
    require_columns(trials, NEEDED, "split_stages")
    trials = with_settings(trials)
    family = family_columns(trials)
    about = _about(trials, family)
    re, rekd = narrow(trials, objective="re"), narrow(trials, objective="rekd")
    lambdas = matching(re, pd.concat([about, _tuned(re, family)]), [*family, "p_target"])
    used = _used(trials, lambdas, family, tolerance)
    re = matching(re, used, [*family, "lambda_select"])
    at_alpha = matching(rekd, _chosen_alphas(rekd), [*alpha_rule().group_columns(rekd), "alpha"])
    final = {*_final_re(re, about, family, re_p_targets), *at_alpha["digest"]}
    cls = trials["objective"] == "cls"
    return Stages(
        trials=trials,
        tolerance=tolerance,
        used=used,
        lambdas=lambdas,
        teachers=matching(lambdas, used, [*family, "lambda_select"]),
        alphas=rekd,
        ratios=trials[cls | trials["digest"].isin(set(re["digest"]))],
        finals=trials[cls | trials["digest"].isin(final)],
    )


def family_columns(trials: pd.DataFrame) -> list[str]:
    """What RE reads but for `p_target` and `lambda_select`: where RE and REKD trials agree in it, they belong together."""
    return columns_read(trials, "re", but=("p_target", "lambda_select"))


def _chosen_alphas(rekd: pd.DataFrame) -> pd.DataFrame:
    choices = select_alpha(rekd)
    return choices[choices["alpha"].notna()]


def _about(trials: pd.DataFrame, family: list[str]) -> pd.DataFrame:
    """The `p_target` that each family is about, a row each; several where later stages aim at several."""
    re, rekd = narrow(trials, objective="re"), narrow(trials, objective="rekd")
    serving = re[re["digest"].isin(set(trials["teacher_digest"].dropna()))]
    counts = re.groupby([*family, "p_target"], dropna=False).size().rename("num_trials").reset_index()
    counts = counts.sort_values(["num_trials", "p_target"], ascending=[False, True], kind="stable")
    of_task = [name for name in ("task", "task_digest", "p_target") if name in counts]
    orders = (rekd, serving, _tuned(re, family), matching(counts, rekd, of_task), counts.drop_duplicates(family))
    return _first_known(orders, family, "p_target")


def _tuned(re: pd.DataFrame, family: list[str]) -> pd.DataFrame:
    """Where several `lambda_select` were tried: a row a family and `p_target`."""
    columns = [*family, "p_target"]
    counts = re.groupby(columns, dropna=False)["lambda_select"].nunique().reset_index()
    return counts.loc[counts["lambda_select"] > 1, columns]


def _used(trials: pd.DataFrame, lambdas: pd.DataFrame, family: list[str], tolerance: float) -> pd.DataFrame:
    """The `lambda_select` that each family went on with, a row each."""
    re = narrow(trials, objective="re")
    serving = re[re["digest"].isin(set(trials["teacher_digest"].dropna()))]
    chosen = select_lambda_select(lambdas, tolerance).dropna(subset="lambda_select")
    tried = re.groupby(family, dropna=False)["lambda_select"].transform("nunique") if len(re) else re["lambda_select"]
    orders = (narrow(trials, objective="rekd"), serving, chosen, re[tried == 1])
    return _first_known(orders, family, "lambda_select")


def _first_known(orders: Sequence[pd.DataFrame], family: list[str], name: str) -> pd.DataFrame:
    """Gives for each family the values of a column in the first of the frames that know the family; sorted."""
    columns = [*family, name]
    known = orders[0][columns].drop_duplicates()
    for rows in orders[1:]:
        new = rows[columns].drop_duplicates()
        known = pd.concat([known, new.drop(matching(new, known, family).index)])
    return known.sort_values(columns, ignore_index=True)


def _final_re(
    re: pd.DataFrame, about: pd.DataFrame, family: list[str], re_p_targets: Mapping[tuple[str, str], float]
) -> set[str]:
    """Digests of the RE trials of Tables 1-3."""
    final: set[str] = set()
    for _, rows in re.groupby(family, dropna=False) if len(re) else ():
        present = rows["p_target"].unique()
        wanted = [re_p_targets.get((rows["task"].iloc[0], rows["model"].iloc[0]))]
        if wanted[0] not in present:
            wanted = matching(about, rows, family)["p_target"].tolist()
        targets = {min(present, key=lambda value, want=want: (abs(value - want), value)) for want in wanted}
        final |= set(rows.loc[rows["p_target"].isin(targets), "digest"])
    return final
