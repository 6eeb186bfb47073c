"""Which columns make a setting: the one place that everything that averages, compares, ranks or draws asks.

A setting is a trial without its seed. Two runs are averaged where they agree in every field of `Trial` but the seed, those
that were born later included, and are kept apart where they differ in one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pandas as pd

from rekd.messages import number
from rekd.trial import Trial, is_read, neutral_values

LEADING = ("task", "objective", "model", "p_target", "lambda_select", "alpha")
"""What a table says first of a setting, and always; it says the other columns where they tell settings apart."""

TUNED = ("learning_rate", "lambda_select")
"""What may be searched for RE and for REKD apart: what is best for one is not for the other."""

WITHIN = ("task", "objective", "model")
"""Settings of other tasks, objectives and models are told apart by these already."""

DIGESTS = ("task_digest", "model_digest", "teacher_digest", "teacher")
"""Columns whose values are for machines: people see the first eight digits where space is short."""


def with_settings(trials: pd.DataFrame, *, teachers: pd.DataFrame | None = None) -> pd.DataFrame:
    """The rows, ready to be grouped by `setting_columns`. Frames that have only some of the columns are as good.

    A field that was born after a row was written has its neutral value there. Where the frame has a `teacher_digest`,
    a column `teacher` takes its place: the digest, or the rule that gave every seed a teacher of its own (see
    `_teachers`). `teachers` are rows of `trials` that hold the teachers, where these are not among the rows themselves.
    """
    trials = with_neutral_values(trials)
    if "teacher_digest" not in trials or "teacher" in trials:
        return trials
    return trials.assign(teacher=_teachers(trials, trials if teachers is None else teachers))


def with_neutral_values(trials: pd.DataFrame) -> pd.DataFrame:
    """The rows, with the neutral value of every later-born field where it is missing and the objective reads it."""
    for name, neutral in neutral_values(Trial).items():
        if name not in trials or neutral is None:
            continue
        missing = trials[name].isna()
        if "objective" in trials:
            missing &= trials["objective"].map(lambda objective, name=name: is_read(name, str(objective))).astype(bool)
        if missing.any():
            trials = trials.assign(**{name: trials[name].astype(object).where(~missing, neutral).infer_objects()})
    return trials


def setting_columns(trials: pd.DataFrame, *, but: Sequence[str] = ()) -> list[str]:
    """The columns of a frame of `with_settings` that make a setting, those of `but` left out; `LEADING` ones first."""
    names = [own.name for own in fields(Trial) if own.name != "seed"]
    if "teacher" in trials:
        names[names.index("teacher_digest")] = "teacher"
    return [name for name in dict.fromkeys((*LEADING, *names)) if name in trials and name not in but]


def grouping_columns(rows: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Keeps of columns to group by those that have several values, or the first: the groups are the same, and found faster."""
    several = [name for name in columns if len(rows[name]) and len(rows[name].drop_duplicates()) > 1]
    return several or list(columns[:1])


def columns_read(trials: pd.DataFrame, objective: str, *, but: Sequence[str] = ()) -> list[str]:
    """Keeps of `setting_columns` those that trials of an objective read, but for the objective itself."""
    names = setting_columns(trials, but=("objective", *but))
    return [name for name in names if is_read("teacher_digest" if name == "teacher" else name, objective)]


def telling_columns(trials: pd.DataFrame, within: Sequence[str] = WITHIN, *, but: Sequence[str] = ()) -> list[str]:
    """Setting columns that take several values within a group of `within`."""
    within = [name for name in within if name in trials]
    others = setting_columns(trials, but=(*within, *but))
    if trials.empty or not others:
        return []
    groups = trials.groupby(within, dropna=False) if within else trials.groupby(lambda _: 0)
    counts = groups[others].nunique(dropna=False)
    return [name for name in others if (counts[name] > 1).any()]


def described(settings: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """What the rows have in some columns, in words: `epochs 2, teacher 47aab9a7`. Missing values are left out."""
    words = [
        ", ".join(
            f"{name} {shown(name, value)}" for name, value in zip(columns, row, strict=True) if not pd.isna(value)
        )
        for row in settings[list(columns)].itertuples(index=False)
    ]
    return pd.Series(words, index=settings.index, dtype=object)


def variants(trials: pd.DataFrame, within: Sequence[str] = WITHIN, *, but: Sequence[str] = ()) -> pd.Series:
    """What tells the setting of each row from the others of its `within`, in words; empty where there is one only.

    That is where it differs from what is most common among the rows of its task and objective, and everything that tells
    settings apart where it does not differ.
    """
    apart = [name for name in within if name in trials and name != "model"]
    groups = trials.groupby(apart, dropna=False) if apart and len(trials) else [((), trials)]
    parts = [_variants(group, telling_columns(group, within, but=but)) for _, group in groups]
    return pd.concat(parts).reindex(trials.index)


def _variants(trials: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    if not columns:
        return pd.Series("", index=trials.index, dtype=object)
    settings = trials[list(columns)].drop_duplicates()
    usual = {name: settings[name].mode(dropna=False).iloc[0] for name in columns}
    names = []
    for row in settings.to_dict("records"):
        unusual = [name for name in columns if not _equal(row[name], usual[name])]
        here = unusual or [name for name in columns if not pd.isna(row[name])]
        names.append(
            ", ".join(f"no {name}" if pd.isna(row[name]) else f"{name} {shown(name, row[name])}" for name in here)
        )
    named = settings.assign(variant=pd.Series(names, index=settings.index, dtype=object))
    return trials[list(columns)].merge(named, on=list(columns), how="left")["variant"].set_axis(trials.index)


def _equal(one: Any, other: Any) -> bool:
    return bool(pd.isna(other)) if pd.isna(one) else bool(not pd.isna(other) and one == other)


def labels(trials: pd.DataFrame, *, but: Sequence[str] = ()) -> pd.Series:
    """The setting of each row in words: `REKD vit-tiny, alpha 0.3`, as far as the frame's settings have to be told apart."""
    known = [name for name in ("objective", "model") if name in trials]
    names = pd.Series("", index=trials.index, dtype=object)
    for name in known:
        names += " " + (trials[name].str.upper() if name == "objective" else trials[name])
    return (names.str.strip() + ", " + variants(trials, but=but)).str.strip(", ")


def matching(rows: pd.DataFrame, wanted: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows that agree in `columns` with one of `wanted`; a missing value agrees with a missing value."""
    names = list(columns)
    marked = rows[names].merge(wanted[names].drop_duplicates(), on=names, how="left", indicator=True)
    return rows[marked["_merge"].eq("both").to_numpy()]


def shown(name: str, value: object) -> str:
    """A value of a setting column for people: two values that differ are two texts, but for digests, which are short."""
    if name in DIGESTS:
        return str(value)[:8] if str(value).isalnum() else str(value)
    if name == "p_target":
        return percent(float(str(value)))
    return str(value) if isinstance(value, str) else number(value)


MOST_PARTS = 1000
"""Features up to which a fraction is told as a share of them, where its digits do not end."""

LONGEST = 8
"""Characters of a number in percent that are read at a glance."""


def percent(fraction: float) -> str:
    """A fraction in percent, to its last digit: `15 %`, `30.000000000000004 %`; a share such as 3 of 36 as `8.33 % (1/12)`."""
    text = f"{Decimal(repr(float(fraction))) * 100:f}"
    share = Fraction(float(fraction)).limit_denominator(MOST_PARTS)
    if len(text) > LONGEST and float(share) == float(fraction):
        return f"{float(fraction) * 100:.2f} % ({share})"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def _teachers(trials: pd.DataFrame, known: pd.DataFrame) -> pd.Series:
    """The digest of each row's teacher; `of the same seed (...)` where every seed of a setting learns from its own.

    That is a rule and not a choice by chance where, among rows that agree in all else, two seeds or more have each a
    teacher of their own seed that teaches no other, and these teachers are of one setting, whose name is in brackets.
    """
    named = trials["teacher_digest"].astype(object)
    if not {"seed"} <= set(trials) or not {"digest", "seed"} <= set(known):
        return named
    rows = trials[trials["teacher_digest"].notna()]
    teachers = known[known["digest"].isin(set(rows["teacher_digest"]))].drop_duplicates("digest").set_index("digest")
    own = rows["teacher_digest"].map(teachers["seed"]) == rows["seed"]
    if own.sum() < 2:
        return named
    kinds = {str(digest): _kind(row) for digest, row in teachers[setting_columns(teachers)].iterrows()}
    rows = rows.assign(teacher_kind=rows["teacher_digest"].map(kinds))
    alike = [*setting_columns(rows, but=("teacher_digest",)), "teacher_kind"]
    serves = rows.groupby([*alike, "teacher_digest"], dropna=False)["seed"].transform("nunique")
    rows = rows[own & (serves == 1)]
    rows = rows[rows.groupby(alike, dropna=False)["seed"].transform("nunique") > 1]
    return named.where(~named.index.isin(rows.index), named.map(kinds).map("of the same seed ({})".format))


def _kind(setting: pd.Series) -> str:
    """A name for the setting of a teacher."""
    text = "; ".join(f"{name}={value}" for name, value in setting.items() if not pd.isna(value))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
