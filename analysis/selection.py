"""Selection rules (Appendices C.1 and C.2): from dev results to a setting. None of them reads a test column.

A rule takes one row a run, or one row a setting that holds means over seeds. What it needs:

- `model`, the number that is being chosen (`lambda_select`, `alpha` or `seed`) and `dev_loss`; where the ratio decides,
  `dev_rationale_ratio` and `p_target` too;
- `task`, `objective`, `status`, `seed`, `num_seeds`, `digest` and the other fields of a trial where the frame has them.

Rows whose `status` is not `ok`, or that have no dev loss, are counted and not averaged. Without `seed`, a row is the
mean of `num_seeds` runs, or one run where `num_seeds` is absent too.

Runs of different settings are never averaged and never ranked together. A group, and a row of the result, has one value in
every field of a trial that the frame has, but for the one that is chosen, the objective (a rule is about one) and the seed.
Results have `task`, `model` and `p_target` first, then what the rule says, then the other fields. `analysis.narrow` picks
one group beforehand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.evidence import ERROR, chance_above_zero
from analysis.frames import require_columns
from analysis.settings import grouping_columns, percent, setting_columns, shown, with_settings
from analysis.statistics import MIN_PAIRS, student
from rekd.messages import number

PLAIN_RE = 1.0
"""The alpha at which REKD is RE (Eq. 11): the baseline, so no candidate."""

SIGNIFICANT = 0.05
"""Settings are told apart whose paired differences have a smaller p-value (Student's t)."""


@dataclass(frozen=True, kw_only=True)
class SelectionRule:
    """A rule that picks: what it looks at, what it refuses, and what it says of itself.

    Another rule is another instance: `choices(rule, trials)` and `judged(rule, trials)` are the same for all.
    """

    name: str
    """The function that applies it, for messages."""
    chosen: str
    """The column whose value it picks."""
    objective: str
    """Rows of other objectives do not count, where the frame has the column."""
    score: str = "dev_loss"
    """The column that decides, by its mean over seeds."""
    highest: bool = False
    """Whether the highest score is the best, instead of the lowest."""
    says: str = "Lowest mean dev loss"
    """How it decides, in words."""
    tolerance: float | None = None
    """How far the mean ratio may be from `p_target`; None where the ratio does not decide."""
    refused: Callable[[pd.DataFrame], pd.Series] | None = None
    """What gives the reason why a setting is no candidate, whatever its results; empty where it is one."""
    picks_a_run: bool = False
    """Whether it picks one run (by its seed) and not a setting of several."""

    def __post_init__(self) -> None:
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ValueError(
                f"tolerance is a fraction of features, 0 or more, got {self.tolerance!r}. One point is 0.01."
            )

    @property
    def needed(self) -> list[str]:
        """Columns that a frame must have."""
        ratio = ["dev_rationale_ratio", "p_target"] if self.tolerance is not None else []
        return list(dict.fromkeys(["model", self.chosen, self.score, "dev_loss", *ratio]))

    @property
    def within(self) -> str:
        """How far the ratio may be, in words; empty where it does not decide."""
        if self.tolerance is None:
            return ""
        points = percent(self.tolerance).removesuffix(" %")
        return f"within {points} {'point' if points == '1' else 'points'} of p_target"

    @property
    def averaged(self) -> list[str]:
        """Columns that have a mean and a deviation in the result."""
        return list(dict.fromkeys(["dev_loss", "dev_rationale_ratio", self.score]))

    def group_columns(self, trials: pd.DataFrame) -> list[str]:
        """The columns that hold one value in each group: every setting column but what is chosen."""
        leading = ("task", "model", "p_target")
        names = setting_columns(trials, but=("objective", self.chosen))
        return [name for name in dict.fromkeys((*leading, *names)) if name in names]

    def beyond_tolerance(self, settings: pd.DataFrame) -> pd.Series:
        """Tells by how many basis points the mean ratios lie beyond the tolerance; 0 or less is near enough."""
        assert self.tolerance is not None
        return off_target(settings).abs() - round(self.tolerance * 10_000)

    def named(self, value: Any) -> str:
        """A value of what is chosen, in words."""
        return f"{self.chosen} {number(int(value) if self.picks_a_run else value)}"


def lambda_rule(tolerance: float = 0.01) -> SelectionRule:
    """The rule of C.1."""
    return SelectionRule(name="select_lambda_select", chosen="lambda_select", objective="re", tolerance=tolerance)


def alpha_rule() -> SelectionRule:
    """The rule of C.2."""
    return SelectionRule(name="select_alpha", chosen="alpha", objective="rekd", refused=_plain_re)


def teacher_rule(tolerance: float = 0.01) -> SelectionRule:
    """The best run of one setting is the teacher."""
    return SelectionRule(
        name="select_teacher",
        chosen="seed",
        objective="re",
        says="Lowest dev loss",
        tolerance=tolerance,
        picks_a_run=True,
    )


def select_lambda_select(trials: pd.DataFrame, tolerance: float = 0.01) -> pd.DataFrame:
    """The `lambda_select` of the lowest mean dev loss among those whose mean ratio is near enough to `p_target` (C.1).

    Near enough: at most `tolerance` away (a fraction: 0.01 is one percentage point), inclusive, both rounded to basis
    points. Only rows of objective `re` count where the frame has an `objective`. `p_target` is what the runs were
    given: Table 5 tunes BERT Small at 10 %, and its later runs at 9.5 % are a group of their own.

    A row is a group (see the module), sorted. Columns: `task`, `model`, `p_target`, as far as the frame has them; then

    - `lambda_select`, `dev_loss`, `dev_rationale_ratio`: the choice and its means, missing where nothing is eligible;
    - `num_seeds`, `num_seeds_expected`: runs averaged, and the most that a setting of the group was tried with;
    - `few_seeds`: whether the choice rests on fewer than half of these;
    - `num_settings`, `num_eligible`;
    - `num_tied`: eligible settings that a paired test over the shared seeds cannot tell from the choice;
    - `nearest_lambda_select`: the setting whose mean ratio is nearest to `p_target`, eligible or not;
    - `why`: what decided, what is tied, and why others were not eligible, in words;

    then the other columns of the group. Ties: the smaller `lambda_select`; for the nearest, the lower dev loss and then the
    smaller `lambda_select`. Raises ValueError on missing columns, on a seed that occurs twice in a setting and on a
    tolerance below 0.
    """
    return choices(lambda_rule(tolerance), trials)


def select_alpha(trials: pd.DataFrame) -> pd.DataFrame:
    """The `alpha` of the lowest mean dev loss, which is L_RE (C.2).

    Only rows of objective `rekd` count where the frame has an `objective`; an alpha of 1 is plain RE and never chosen.
    The ratio does not decide: `dev_rationale_ratio` is reported where the frame has it.

    A row is a group (see the module), sorted; columns as in `select_lambda_select`, without `nearest_...`. Ties: the
    smaller `alpha`. Raises ValueError as there.
    """
    return choices(alpha_rule(), trials)


def select_teacher(trials: pd.DataFrame, tolerance: float = 0.01) -> pd.DataFrame:
    """The run of the best dev loss among those whose ratio is near enough to `p_target`: no test result decides.

    Only rows of objective `re` count where the frame has an `objective`. Runs of several `lambda_select` are groups of
    their own: the dev loss contains `lambda_select`, so that it does not compare across them.

    A row is a group (see the module), sorted; columns as in `select_lambda_select`, with `seed` (Int64), `digest` (missing
    where the frame has none) and `nearest_seed`; `num_seeds` are runs with a result and `num_seeds_expected` runs at all.
    Ties: the smaller `seed`. Raises ValueError as there.
    """
    picked = choices(teacher_rule(tolerance), trials)
    num_runs = picked.pop("num_settings")
    picked["num_seeds"] = num_runs - picked.pop("num_without_result")
    picked["num_seeds_expected"] = num_runs
    return picked.drop(columns=["few_seeds", "num_tied"])


def lambda_settings(trials: pd.DataFrame, tolerance: float = 0.01) -> pd.DataFrame:
    """What `select_lambda_select` decides on: one row a group and `lambda_select`, sorted by both.

    Columns: `task`, `model`, `p_target`, as far as the frame has them; `lambda_select`; `dev_loss`, `dev_loss_std`,
    `dev_rationale_ratio`, `dev_rationale_ratio_std` (over seeds, ddof 1, missing below two); `num_seeds`,
    `num_seeds_expected`; `off_target` (ratio less `p_target`, in basis points); `eligible`, `chosen`; `tied`, `tied_p`,
    `tied_pairs` (whether a paired test cannot tell an eligible setting from the choice, its p-value, the seeds it rests
    on); `reason` (why not eligible, else empty); then the other columns of the group.
    """
    return judged(lambda_rule(tolerance), trials)


def alpha_settings(trials: pd.DataFrame) -> pd.DataFrame:
    """What `select_alpha` decides on: one row a group and `alpha`, sorted by both; columns as in `lambda_settings`."""
    return judged(alpha_rule(), trials)


def judged(rule: SelectionRule, trials: pd.DataFrame) -> pd.DataFrame:
    """What a rule decides on: one row a group and value, as `lambda_settings` says."""
    runs = _candidates(rule, trials)
    names = rule.group_columns(runs)
    _refuse_twice(rule, runs, [*names, rule.chosen])
    keys = grouping_columns(runs, names)
    by = [*keys, rule.chosen]
    runs = _with_results(rule, runs)
    settings = _averages(rule, runs, keys, by)
    alike = runs[[name for name in names if name not in keys]].iloc[[0] * len(settings)].reset_index(drop=True)
    settings = _off_target(pd.concat([settings, alike], axis=1))
    settings["reason"] = _reasons(rule, settings)
    scores = _scores(rule, runs, by) if "seed" in runs and not rule.picks_a_run else None
    if scores is not None:
        settings["reason"] = _left_behind(rule, settings, scores, keys, by)
    settings["eligible"] = settings["reason"] == ""
    best = settings[settings["eligible"]].sort_values(rule.score, ascending=not rule.highest, kind="stable")
    settings["chosen"] = settings.index.isin(best.drop_duplicates(keys).index)
    settings = settings.assign(tied=False, tied_p=np.nan, tied_pairs=0)
    if scores is not None:
        _mark_ties(settings, scores, keys, by)
    return settings[[*_leading(names), rule.chosen, *_verdict(rule), *_trailing(names)]]


def choices(rule: SelectionRule, trials: pd.DataFrame) -> pd.DataFrame:
    """What a rule picks: one row a group, as `select_lambda_select` says."""
    settings = judged(rule, trials)
    keys = rule.group_columns(settings)
    groups = settings.groupby(grouping_columns(settings, keys), dropna=False, sort=True) if len(settings) else ()
    rows = [_choice(rule, group) for _, group in groups]
    names = list(_choice(rule, settings.iloc[:0]))
    said = pd.DataFrame({name: [row[name] for row in rows] for name in names}, columns=names)
    kind: Any = "Int64" if rule.picks_a_run else float
    said = said.astype({name: kind for name in (rule.chosen, f"nearest_{rule.chosen}") if name in names})
    of_groups = settings.loc[[group.index[0] for _, group in groups], keys].reset_index(drop=True)
    return pd.concat([of_groups, said], axis=1)[[*_leading(keys), *names, *_trailing(keys)]]


def off_target(settings: pd.DataFrame) -> pd.Series:
    """Ratio less `p_target` in basis points, whole numbers: in floats abs(.16 - .15) > .01 holds."""
    ratio, target = (settings[name].astype("Float64") * 10_000 for name in ("dev_rationale_ratio", "p_target"))
    return ratio.round().astype("Int64") - target.round().astype("Int64")


def _plain_re(settings: pd.DataFrame) -> pd.Series:
    return (settings["alpha"] == PLAIN_RE).map({True: "plain RE, the baseline", False: ""})


def _leading(keys: Sequence[str]) -> list[str]:
    return [name for name in ("task", "model", "p_target") if name in keys]


def _trailing(keys: Sequence[str]) -> list[str]:
    return [name for name in keys if name not in ("task", "model", "p_target")]


def _verdict(rule: SelectionRule) -> list[str]:
    digest = ["digest"] if rule.picks_a_run else []
    numbers = [name for value in rule.averaged for name in (value, f"{value}_std")]
    counts = ["num_seeds", "num_seeds_expected", "off_target"]
    return [*digest, *numbers, *counts, "eligible", "chosen", "tied", "tied_p", "tied_pairs", "reason"]


def _candidates(rule: SelectionRule, trials: pd.DataFrame) -> pd.DataFrame:
    """The rows that a rule looks at, with no column that it has no business with."""
    require_columns(trials, rule.needed, rule.name)
    runs = with_settings(trials)
    if "objective" in runs:
        runs = runs[runs["objective"] == rule.objective]
    known = {"seed", "num_seeds", "status", "digest", *rule.averaged, *setting_columns(runs)}
    runs = runs[[name for name in runs.columns if name in known]].copy()
    for name, missing in (("dev_rationale_ratio", np.nan), ("digest", None)):
        if name not in runs:
            runs[name] = missing
    return runs


def _refuse_twice(rule: SelectionRule, runs: pd.DataFrame, by: Sequence[str]) -> None:
    if "seed" not in runs and "num_seeds" not in runs:
        return
    unique = [*by, "seed"] if "seed" in runs and not rule.picks_a_run else list(by)
    twice = runs[runs.duplicated(unique, keep=False)]
    if len(twice):
        first = twice.iloc[0]
        row = ", ".join(f"{name}={number(first[name])}" for name in unique if not pd.isna(first[name]))
        raise ValueError(
            f"{len(twice)} rows stand for the same runs, such as {row}. Drop the copies, or keep in the frame the "
            "columns in which they differ."
        )


def _with_results(rule: SelectionRule, runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with what counts of each: no numbers where it has no result, and why."""
    finished = np.isfinite(runs[rule.score].astype(float)) & np.isfinite(runs["dev_loss"].astype(float))
    if "status" in runs:
        finished &= runs["status"] == "ok"
    if rule.tolerance is not None:
        finished &= np.isfinite(runs["dev_rationale_ratio"].astype(float))
    # Means of several seeds count as many; a bad one of them counts as one that has no result.
    weight = runs["num_seeds"] if "num_seeds" in runs and "seed" not in runs else pd.Series(1, index=runs.index)
    numbers = {name: runs[name].astype(float).where(finished) for name in rule.averaged}
    stopped = _stopped(runs).where(~finished, "")
    return runs.assign(num_seeds=np.where(finished, weight, 0), num_rows=1, stopped=stopped, **numbers)


def _stopped(runs: pd.DataFrame) -> pd.Series:
    """Why a run has no result: `diverged`, `failed`, or `no dev result` where its status is ok or unknown."""
    if "status" not in runs:
        return pd.Series("no dev result", index=runs.index, dtype="str")
    return runs["status"].where(runs["status"].isin(["diverged", "failed"]), "no dev result").astype("str")


def _averages(rule: SelectionRule, runs: pd.DataFrame, keys: list[str], by: list[str]) -> pd.DataFrame:
    """One row a group and value: means and deviations of its finished runs, and counts."""
    aggregations: dict[str, tuple[str, str]] = {}
    for name in rule.averaged:
        aggregations |= {name: (name, "mean"), f"{name}_std": (name, "std")}
    settings = runs.groupby(by, dropna=False, sort=True).agg(
        **aggregations,
        num_seeds=("num_seeds", "sum"),
        num_rows=("num_rows", "sum"),
        stopped=("stopped", "max"),
        digest=("digest", "first"),
    )
    settings = settings.reset_index().sort_values(by, ignore_index=True)
    settings["num_seeds"] = settings["num_seeds"].astype("int64")
    tried = settings[["num_seeds", "num_rows"]].max(axis=1)
    if len(settings):
        tried = tried.groupby([settings[name] for name in keys], dropna=False).transform("max")
    settings["num_seeds_expected"] = tried.astype("int64")
    return settings


def _off_target(settings: pd.DataFrame) -> pd.DataFrame:
    missing = pd.Series(pd.array([pd.NA] * len(settings), dtype="Int64"), index=settings.index)
    return settings.assign(off_target=off_target(settings) if "p_target" in settings else missing)


def _reasons(rule: SelectionRule, settings: pd.DataFrame) -> pd.Series:
    """Why a setting is not eligible; empty where it is."""
    none_of = "" if rule.picks_a_run else "none of " + settings["num_rows"].astype(str) + " runs has a result: "
    reasons = (none_of + settings["stopped"]).where(settings["num_seeds"] == 0, "").astype(object)
    if rule.tolerance is not None:
        reasons = reasons.mask(settings["p_target"].isna(), "its p_target is missing")
        far = (rule.beyond_tolerance(settings) > 0).fillna(False).astype(bool)
        reasons = reasons.mask(far, settings[far].apply(_off, axis=1) if far.any() else "")
    if rule.refused is not None:
        reasons = reasons.mask(reasons == "", rule.refused(settings))
    return reasons


def _off(setting: pd.Series) -> str:
    ratio, points = setting["dev_rationale_ratio"] * 100, abs(setting["off_target"]) / 100
    return f"ratio {ratio:.4g} %, {points:g} points from {shown('p_target', setting['p_target'])}"


def _scores(rule: SelectionRule, runs: pd.DataFrame, by: list[str]) -> dict[tuple[Any, ...], pd.Series]:
    """The scores by seed of each setting."""
    scored = runs[runs["num_seeds"] > 0]
    return {_key(key): group.set_index("seed")[rule.score] for key, group in scored.groupby(by, dropna=False)}


def _left_behind(
    rule: SelectionRule,
    settings: pd.DataFrame,
    scores: dict[tuple[Any, ...], pd.Series],
    keys: list[str],
    by: list[str],
) -> pd.Series:
    """The reasons, and where a setting has fewer seeds than another, and by those that both have could not win with all.

    Means over other seeds do not compare: a setting that got no more seeds, because it was behind, may have had easy ones.
    """
    reasons, found = settings["reason"], {}
    if (settings["num_rows"] == settings["num_seeds_expected"]).all():
        return reasons
    sign = -1 if rule.highest else 1
    for _, group in settings[reasons == ""].groupby(keys, dropna=False):
        for index, setting in group[group["num_rows"] < group["num_seeds_expected"]].iterrows():
            for _, other in group[group["num_rows"] > setting["num_rows"]].iterrows():
                behind_by = sign * (scores[_key(setting[by])] - scores[_key(other[by])]).dropna().to_numpy()
                if chance_above_zero(behind_by, setting["num_seeds_expected"]) >= 1 - ERROR:
                    behind = f"behind {rule.named(other[rule.chosen])} on them"
                    found[index] = f"{setting['num_rows']} of {setting['num_seeds_expected']} seeds, {behind}"
    return pd.Series(reasons.to_dict() | found, dtype=object)


def _mark_ties(
    settings: pd.DataFrame, scores: dict[tuple[Any, ...], pd.Series], keys: list[str], by: list[str]
) -> None:
    """Compares every eligible setting with the choice of its group, on the seeds that both have."""
    rivals = settings[settings["eligible"]]
    for _, group in rivals.groupby(keys, dropna=False):
        best = scores[_key(group[group["chosen"]][by].iloc[0])]
        for index, setting in group[~group["chosen"]].iterrows():
            pairs = pd.concat([best, scores[_key(setting[by])]], axis=1, join="inner").to_numpy(dtype=float)
            p_value = student(pairs[:, 1] - pairs[:, 0]).p_value
            settings.loc[index, ["tied", "tied_p", "tied_pairs"]] = [not p_value < SIGNIFICANT, p_value, len(pairs)]


def _key(values: Any) -> tuple[Any, ...]:
    return tuple(None if pd.isna(value) else value for value in values)


def _choice(rule: SelectionRule, group: pd.DataFrame) -> dict[str, Any]:
    """What is said of one group, from its rows of `judged`."""
    best = group[group["chosen"]]
    row: dict[str, Any] = {rule.chosen: best[rule.chosen].iloc[0] if len(best) else None}
    if rule.picks_a_run:
        row["digest"] = best["digest"].iloc[0] if len(best) else None
    for name in rule.averaged:
        row[name] = float(best[name].iloc[0]) if len(best) else np.nan
    row["num_seeds"] = int(best["num_seeds"].iloc[0]) if len(best) else 0
    row["num_seeds_expected"] = int(group["num_seeds_expected"].max()) if len(group) else 0
    row["few_seeds"] = bool(len(best)) and row["num_seeds"] * 2 < row["num_seeds_expected"]
    row["num_settings"] = len(group)
    row["num_eligible"] = int(group["eligible"].sum())
    row["num_tied"] = int(group["tied"].sum())
    nearest = None if rule.tolerance is None else nearest_to_target(group, rule.chosen)
    if rule.tolerance is not None:
        row[f"nearest_{rule.chosen}"] = None if nearest is None else nearest[rule.chosen]
    if rule.picks_a_run:
        row["num_without_result"] = int((group["num_seeds"] == 0).sum())
    row["why"] = " ".join(_why(rule, group, row, nearest))
    return row


def nearest_to_target(group: pd.DataFrame, chosen: str) -> pd.Series | None:
    """The row of `judged` whose ratio is nearest to `p_target`: then the lower dev loss, then the smaller value."""
    near = group[group["off_target"].notna()]
    near = near.assign(distance=near["off_target"].abs()).sort_values(["distance", "dev_loss", chosen])
    return near.iloc[0] if len(near) else None


def _why(rule: SelectionRule, group: pd.DataFrame, row: dict[str, Any], nearest: pd.Series | None) -> list[str]:
    """What decided, in sentences."""
    sentences = [_decision(rule, row["num_eligible"], nearest)]
    if row["few_seeds"]:
        sentences.append(f"It rests on {row['num_seeds']} of {row['num_seeds_expected']} seeds, fewer than half.")
    tied = [f"{rule.named(setting[rule.chosen])} ({_tie(setting)})" for _, setting in group[group["tied"]].iterrows()]
    if tied:
        sentences.append(f"Not told apart from it by a paired test: {'; '.join(tied)}.")
    out = group[~group["eligible"]]
    if len(out):
        reasons = zip(out[rule.chosen], out["reason"], strict=True)
        sentences.append("Not eligible: " + "; ".join(f"{rule.named(value)} ({why})" for value, why in reasons) + ".")
    few = group[(group["num_seeds"] > 0) & (group["num_seeds"] < group["num_seeds_expected"])]
    if len(few) and not rule.picks_a_run:
        counts = zip(few[rule.chosen], few["num_seeds"], few["num_seeds_expected"], strict=True)
        sentences.append("Fewer seeds: " + "; ".join(f"{rule.named(v)} ({n} of {of})" for v, n, of in counts) + ".")
    return sentences


def _decision(rule: SelectionRule, num_eligible: int, nearest: pd.Series | None) -> str:
    if num_eligible:
        return f"{rule.says} of {num_eligible} eligible{f' ({rule.within})' if rule.within else ''}."
    if nearest is None:
        return "Nothing is eligible."
    ratio = nearest["dev_rationale_ratio"] * 100
    return f"Nothing is {rule.within}; nearest is {rule.named(nearest[rule.chosen])} with {ratio:.4g} %."


def _tie(setting: pd.Series) -> str:
    if setting["tied_pairs"] < MIN_PAIRS:
        return f"{setting['tied_pairs']} shared seed{'' if setting['tied_pairs'] == 1 else 's'}, too few to tell"
    return f"p {setting['tied_p']:.2g} on {setting['tied_pairs']} seeds"
