"""Selection rules (Appendices C.1 and C.2): from dev results to a setting. None of them reads a test column.

A rule takes one row a run, or one row a setting that holds means over seeds. What it needs:

- `model`, the number that is being chosen (`lambda_select`, `alpha` or `seed`) and `dev_loss`; where the ratio decides,
  `dev_rationale_ratio` and `p_target` too;
- `task`, `objective`, `status`, `seed`, `num_seeds`, `digest` and the other fields of a trial where the frame has them.

Rows whose `status` is not `ok`, or that have no dev loss, are counted and not averaged. Without `seed`, a row is the
mean of `num_seeds` runs, or one run where `num_seeds` is absent too.

Runs of different settings are never averaged. A group, and a row of the result, is a `task`, `model` and `p_target`;
where another field of a trial takes several values within a model of a task (a ledger may hold two learning rates),
that field is a column of the result too and each of its values a group. `analysis.narrow` picks one beforehand.
"""

from typing import Any

import numpy as np
import pandas as pd

from analysis.frames import SETTING_COLUMNS, require_columns, varying_columns

PLAIN_RE = 1.0
"""The alpha at which REKD is RE (Eq. 11): the baseline, so no candidate."""


def select_lambda_select(trials: pd.DataFrame, tolerance: float = 0.01) -> pd.DataFrame:
    """The `lambda_select` of the lowest mean dev loss among those whose mean ratio is near enough to `p_target` (C.1).

    Near enough: at most `tolerance` away (a fraction: 0.01 is one percentage point), inclusive, both rounded to basis
    points. Only rows of objective `re` count where the frame has an `objective`. `p_target` is what the runs were
    given: Table 5 tunes BERT Small at 10 %, and its later runs at 9.5 % are a group of their own.

    A row is a group (see the module), sorted by its columns: `task`, `model`, `p_target`, ...; then

    - `lambda_select`, `dev_loss`, `dev_rationale_ratio`: the choice and its means, missing where nothing is eligible;
    - `num_seeds`, `num_seeds_expected`: runs averaged, and the most that a setting of the group was tried with;
    - `num_settings`, `num_eligible`;
    - `nearest_lambda_select`: the setting whose mean ratio is nearest to `p_target`, eligible or not;
    - `why`: what decided, and why others were not eligible, in words.

    Ties: the smaller `lambda_select`; for the nearest, the lower dev loss and then the smaller `lambda_select`. Raises
    ValueError on missing columns, on a seed that occurs twice in a setting and on a tolerance below 0.
    """
    return _choices(lambda_settings(trials, tolerance), "lambda_select", _within(tolerance))


def select_alpha(trials: pd.DataFrame) -> pd.DataFrame:
    """The `alpha` of the lowest mean dev loss, which is L_RE (C.2).

    Only rows of objective `rekd` count where the frame has an `objective`; an alpha of 1 is plain RE and never chosen.
    The ratio does not decide: `dev_rationale_ratio` is reported where the frame has it.

    A row is a group (see the module), sorted by its columns; then `alpha`, `dev_loss`, `dev_rationale_ratio`,
    `num_seeds`, `num_seeds_expected`, `num_settings`, `num_eligible` and `why`, as in `select_lambda_select`. Ties: the
    smaller `alpha`. Raises ValueError as there.
    """
    return _choices(alpha_settings(trials), "alpha", "")


def select_teacher(trials: pd.DataFrame, tolerance: float = 0.01) -> pd.DataFrame:
    """The run of the best dev loss among those whose ratio is near enough to `p_target`: no test result decides.

    Only rows of objective `re` count where the frame has an `objective`. Runs of several `lambda_select` are groups of
    their own: the dev loss contains `lambda_select`, so that it does not compare across them.

    A row is a group (see the module), sorted by its columns; then `seed` (Int64), `digest` (missing where the frame has
    none), `dev_loss`, `dev_rationale_ratio`, `num_seeds` (runs with a result), `num_seeds_expected` (runs at all),
    `num_eligible`, `nearest_seed` and `why`, as in `select_lambda_select`. Ties: the smaller `seed`. Raises ValueError
    as there.
    """
    needed = ["model", "seed", "dev_loss", "dev_rationale_ratio", "p_target"]
    runs = _candidates(trials, needed, "select_teacher", "re")
    if "digest" not in runs:
        runs["digest"] = None
    keys = _group_columns(runs, "seed")
    runs = _with_choice(_judge_by_ratio(_settings(runs, keys, "seed"), tolerance), keys, "seed")
    choices = _choices(runs, "seed", _within(tolerance))
    num_runs = choices.pop("num_settings")
    choices["num_seeds"] = num_runs - choices.pop("num_without_result")
    choices["num_seeds_expected"] = num_runs
    return choices


def lambda_settings(trials: pd.DataFrame, tolerance: float = 0.01) -> pd.DataFrame:
    """What `select_lambda_select` decides on: one row a group and `lambda_select`, sorted by both.

    Columns: those of the group; `lambda_select`; `dev_loss`, `dev_loss_std`, `dev_rationale_ratio`,
    `dev_rationale_ratio_std` (over seeds, ddof 1, missing below two); `num_seeds`, `num_seeds_expected`; `off_target`
    (ratio less `p_target`, in basis points); `eligible`, `chosen`; `reason` (why not eligible, else empty).
    """
    needed = ["model", "lambda_select", "dev_loss", "dev_rationale_ratio", "p_target"]
    runs = _candidates(trials, needed, "select_lambda_select", "re")
    keys = _group_columns(runs, "lambda_select")
    settings = _judge_by_ratio(_settings(runs, keys, "lambda_select"), tolerance)
    return _with_choice(settings, keys, "lambda_select")


def alpha_settings(trials: pd.DataFrame) -> pd.DataFrame:
    """What `select_alpha` decides on: one row a group and `alpha`, sorted by both; columns as in `lambda_settings`."""
    runs = _candidates(trials, ["model", "alpha", "dev_loss"], "select_alpha", "rekd")
    if "dev_rationale_ratio" not in runs:
        runs["dev_rationale_ratio"] = np.nan
    keys = _group_columns(runs, "alpha")
    settings = _settings(runs, keys, "alpha")
    settings["off_target"] = pd.array([pd.NA] * len(settings), dtype="Int64")
    if "p_target" in keys:
        settings["off_target"] = _basis_points(settings["dev_rationale_ratio"]) - _basis_points(settings["p_target"])
    plain = settings["alpha"] == PLAIN_RE
    settings.loc[plain & (settings["reason"] == ""), "reason"] = "plain RE, the baseline"
    settings["eligible"] = settings["reason"] == ""
    return _with_choice(settings, keys, "alpha")


def _candidates(trials: pd.DataFrame, needed: list[str], where: str, objective: str) -> pd.DataFrame:
    """The rows that a rule looks at, with no column that it has no business with."""
    require_columns(trials, needed, where)
    known = {*SETTING_COLUMNS, "seed", "num_seeds", "status", "digest", "dev_loss", "dev_rationale_ratio"}
    runs = trials[[name for name in trials.columns if name in known]]
    if "objective" in runs:
        runs = runs[runs["objective"] == objective]
    return runs.copy()


def _group_columns(runs: pd.DataFrame, chosen: str) -> list[str]:
    """task, model and p_target, and every other setting column that varies within a model of a task."""
    names = [name for name in ("task", "model") if name in runs]
    others = varying_columns(runs, names, ignore=("p_target", chosen))
    return [*names, *(["p_target"] if "p_target" in runs else []), *others]


def _settings(runs: pd.DataFrame, keys: list[str], chosen: str) -> pd.DataFrame:
    """One row a group and value of `chosen`: means and deviations of its finished runs, and counts."""
    by = [*keys, chosen]
    if "seed" in runs or "num_seeds" in runs:
        unique = [*by, "seed"] if "seed" in runs and chosen != "seed" else by
        twice = runs[runs.duplicated(unique, keep=False)]
        if len(twice):
            row = ", ".join(f"{name}={_show(twice.iloc[0][name])}" for name in unique)
            raise ValueError(
                f"{len(twice)} rows stand for the same runs, such as {row}. Drop the copies, or keep in the frame the "
                "columns in which they differ."
            )

    finished = np.isfinite(runs["dev_loss"].astype(float))
    if "status" in runs:
        finished &= runs["status"] == "ok"
    if chosen != "alpha":
        finished &= np.isfinite(runs["dev_rationale_ratio"].astype(float))
    # Means of several seeds count as many; a bad one of them counts as one that has no result.
    weight = runs["num_seeds"] if "num_seeds" in runs and "seed" not in runs else pd.Series(1, index=runs.index)
    runs = runs.assign(
        num_seeds=np.where(finished, weight, 0),
        num_rows=1,
        dev_loss=runs["dev_loss"].astype(float).where(finished),
        dev_rationale_ratio=runs["dev_rationale_ratio"].astype(float).where(finished),
        stopped=_stopped(runs).where(~finished, ""),
    )
    groups = runs.groupby(by, dropna=False, sort=True)
    settings = groups.agg(
        dev_loss=("dev_loss", "mean"),
        dev_loss_std=("dev_loss", "std"),
        dev_rationale_ratio=("dev_rationale_ratio", "mean"),
        dev_rationale_ratio_std=("dev_rationale_ratio", "std"),
        num_seeds=("num_seeds", "sum"),
        num_rows=("num_rows", "sum"),
        stopped=("stopped", "max"),
        **({"digest": ("digest", "first")} if "digest" in runs and chosen == "seed" else {}),
    ).reset_index()
    settings["num_seeds"] = settings["num_seeds"].astype("int64")
    tried = settings[["num_seeds", "num_rows"]].max(axis=1)
    if keys:
        tried = tried.groupby([settings[name] for name in keys], dropna=False).transform("max")
    settings["num_seeds_expected"] = tried.astype("int64")
    count = settings["num_rows"].astype(str)
    settings["reason"] = np.where(
        settings["num_seeds"] > 0,
        "",
        settings["stopped"] if chosen == "seed" else "none of " + count + " runs has a result: " + settings["stopped"],
    )
    return settings.drop(columns=["num_rows", "stopped"])


def _stopped(runs: pd.DataFrame) -> pd.Series:
    """Why a run has no result: `diverged`, `failed`, or `no dev result` where its status is ok or unknown."""
    if "status" not in runs:
        return pd.Series("no dev result", index=runs.index, dtype="str")
    return runs["status"].where(runs["status"].isin(["diverged", "failed"]), "no dev result").astype("str")


def _judge_by_ratio(settings: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    if not tolerance >= 0:
        raise ValueError(f"tolerance is a fraction of features, 0 or more, got {tolerance!r}. One point is 0.01.")
    settings["off_target"] = _basis_points(settings["dev_rationale_ratio"]) - _basis_points(settings["p_target"])
    settings.loc[settings["p_target"].isna(), "reason"] = "its p_target is missing"
    far = (settings["off_target"].abs() > round(tolerance * 10_000)).fillna(False).astype(bool)
    settings.loc[far, "reason"] = [
        f"ratio {ratio * 100:.4g} %, {abs(points) / 100:g} points from {target * 100:g} %"
        for ratio, points, target in zip(
            settings.loc[far, "dev_rationale_ratio"],
            settings.loc[far, "off_target"],
            settings.loc[far, "p_target"],
            strict=True,
        )
    ]
    settings["eligible"] = settings["reason"] == ""
    return settings


def _basis_points(fractions: pd.Series) -> pd.Series:
    # In floats abs(.16 - .15) > .01 holds: hundredths of a percentage point are compared as whole numbers instead.
    return (fractions.astype("Float64") * 10_000).round().astype("Int64")


def _with_choice(settings: pd.DataFrame, keys: list[str], chosen: str) -> pd.DataFrame:
    """Marks the choice of every group; rows sorted by group and value."""
    settings = settings.sort_values([*keys, chosen], ignore_index=True)
    eligible = settings[settings["eligible"]].sort_values("dev_loss", kind="stable")
    best = eligible.drop_duplicates(keys).index
    settings["chosen"] = settings.index.isin(best)
    numbers = ["dev_loss", "dev_loss_std", "dev_rationale_ratio", "dev_rationale_ratio_std", "num_seeds"]
    digest = ["digest"] if chosen == "seed" else []
    verdict = ["num_seeds_expected", "off_target", "eligible", "chosen", "reason"]
    return settings[[*keys, chosen, *digest, *numbers, *verdict]]


def _choices(settings: pd.DataFrame, chosen: str, within: str) -> pd.DataFrame:
    """One row a group, from a frame of `_with_choice`, whose columns before `chosen` are the group's."""
    keys = list(settings.columns[: list(settings.columns).index(chosen)])
    rows = [
        dict(zip(keys, key, strict=True)) | _choice(group, chosen, within)
        for key, group in settings.groupby(keys, dropna=False, sort=True)
    ]
    columns = [*keys, *_choice(settings.iloc[:0], chosen, within)]
    frame = pd.DataFrame({name: [row[name] for row in rows] for name in columns}, columns=columns)
    frame = frame.astype({name: settings[name].dtype for name in keys})  # without rows, too
    if chosen == "seed":
        return frame.astype({"seed": "Int64", "nearest_seed": "Int64"})
    return frame.astype({name: float for name in (chosen, f"nearest_{chosen}") if name in columns})


def _choice(group: pd.DataFrame, chosen: str, within: str) -> dict[str, Any]:
    best = group[group["chosen"]]
    eligible = int(group["eligible"].sum())
    row: dict[str, Any] = {chosen: best[chosen].iloc[0] if len(best) else None}
    if chosen == "seed":
        row["digest"] = best["digest"].iloc[0] if len(best) else None
    for name in ("dev_loss", "dev_rationale_ratio"):
        row[name] = float(best[name].iloc[0]) if len(best) else np.nan
    row["num_seeds"] = int(best["num_seeds"].iloc[0]) if len(best) else 0
    row["num_seeds_expected"] = int(group["num_seeds_expected"].max()) if len(group) else 0
    row["num_settings"] = len(group)
    row["num_eligible"] = eligible
    nearest = None
    if chosen != "alpha":
        near = group[group["off_target"].notna()]
        near = near.assign(distance=near["off_target"].abs()).sort_values(["distance", "dev_loss", chosen])
        nearest = near.iloc[0] if len(near) else None
        row[f"nearest_{chosen}"] = None if nearest is None else nearest[chosen]
    if chosen == "seed":
        row["num_without_result"] = int((group["num_seeds"] == 0).sum())
    row["why"] = _why(group, chosen, within, eligible, nearest)
    return row


def _why(group: pd.DataFrame, chosen: str, within: str, eligible: int, nearest: pd.Series | None) -> str:
    name = f"{chosen} "
    if eligible:
        loss = "Lowest dev loss" if chosen == "seed" else "Lowest mean dev loss"
        sentences = [f"{loss} of {eligible} eligible ({within})." if within else f"{loss} of {eligible} eligible."]
    elif nearest is None:
        sentences = ["Nothing is eligible."]
    else:
        ratio = nearest["dev_rationale_ratio"] * 100
        sentences = [f"Nothing is {within}; nearest is {name}{_show(nearest[chosen])} with {ratio:.4g} %."]
    out = group[~group["eligible"]]
    if len(out):
        reasons = zip(out[chosen], out["reason"], strict=True)
        sentences.append("Not eligible: " + "; ".join(f"{name}{_show(value)} ({why})" for value, why in reasons) + ".")
    few = group[(group["num_seeds"] > 0) & (group["num_seeds"] < group["num_seeds_expected"])]
    if len(few) and chosen != "seed":
        counts = zip(few[chosen], few["num_seeds"], few["num_seeds_expected"], strict=True)
        sentences.append("Fewer seeds: " + "; ".join(f"{name}{_show(v)} ({n} of {of})" for v, n, of in counts) + ".")
    return " ".join(sentences)


def _within(tolerance: float) -> str:
    return f"within {tolerance * 100:g} {'point' if tolerance == 0.01 else 'points'} of p_target"


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (float, np.floating)) else str(value)  # a seed of 8 digits stays whole
