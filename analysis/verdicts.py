"""What audits found (`python -m rekd audit`): a frame of them, a table of settings, and a sentence a setting."""

from pathlib import Path

import pandas as pd

from analysis.frames import as_ledger
from analysis.settings import labels, setting_columns
from rekd.store.audits import Audit, Audits
from rekd.store.files import Store
from rekd.store.ledger import Ledger

JUDGED = (
    "judge_whole",
    "judge_rationale",
    "judge_rest",
    "judge_dealt",
    "judge_fixed",
    "judge_random",
    "judge_saliency",
)
"""Columns that say how often the judge is right, by what it is shown."""


def load_audits(store: Ledger | Store | str | Path) -> pd.DataFrame:
    """The audits of a store's trials.

    A row is an audited trial, sorted by `digest`. Columns are those of `rekd.store.audits.AUDITS_SCHEMA`, then `follows`,
    `is_sufficient` and `leaks` (missing where the model could not be asked): its verdicts.
    """
    frame = Audits(as_ledger(store).store).read().to_pandas()
    audits = [Audit(**row) for row in Audits(as_ledger(store).store).read().drop(["digest"]).to_pylist()]
    verdicts = {
        "follows": [audit.follows for audit in audits],
        "is_sufficient": [audit.is_sufficient for audit in audits],
        "leaks": [audit.leaks for audit in audits],
    }
    return frame.assign(**{name: pd.array(values, "boolean") for name, values in verdicts.items()})


def audit_table(trials: pd.DataFrame, audits: pd.DataFrame) -> pd.DataFrame:
    """What was found in the rationales of settings.

    Takes rows of `trials` and of `load_audits`. A row is a setting with audited trials, by task and label. Columns: `task`,
    `label`, `num_seeds` (audited), `num_follow`, `num_sufficient`, `num_leak`, means over seeds of `JUDGED`, of
    `swap_excess` (the swap's rate above its control) and of `rationale_f1`.
    """
    known = trials.assign(label=labels(trials)).merge(audits, on="digest")
    if known.empty:
        return pd.DataFrame()
    known["swap_excess"] = known["swap_rate"] - known["swap_control"]
    grouped = known.groupby([*setting_columns(known, but=["label"]), "label"], dropna=False, sort=False)
    counts = grouped.agg(
        num_seeds=("digest", "size"),
        num_follow=("follows", "sum"),
        num_sufficient=("is_sufficient", "sum"),
        num_leak=("leaks", "sum"),
    )
    means = grouped[[*JUDGED, "swap_excess", "rationale_f1"]].mean()
    table = counts.join(means).reset_index()
    wanted = ["task", "label", *counts.columns, *means.columns]
    return table[wanted].sort_values(["task", "label"], ignore_index=True).dropna(axis=1, how="all")


def audit_sentence(row: pd.Series) -> str:
    """A row of `audit_table` in words: each verdict, with how many of the seeds it holds for."""
    seeds = row["num_seeds"]

    def of(count: int, yes: str, no: str) -> str:
        return yes if count == seeds else no if count == 0 else f"{yes} on {count} of {seeds} seeds"

    parts = [
        of(row["num_follow"], "follows the input", "does not follow the input"),
        of(row["num_sufficient"], "sufficient by the judge", "not sufficient by the judge"),
        of(row["num_leak"], "leaks the label", "no leak"),
    ]
    judged = (
        f"the judge is right about {row['judge_rationale']:.3f} of rationales, {row['judge_whole']:.3f} of whole inputs"
    )
    best = max(row["judge_fixed"], row["judge_dealt"])
    return f"{', '.join(parts)} ({judged}, {best:.3f} where one mask or another input's serves)"
