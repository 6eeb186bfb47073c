"""The report: one HTML file that needs no network, for a screen, a phone and a printer."""

import base64
import hashlib
import importlib.resources
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from analysis import figures, tables
from analysis.frames import as_ledger, load_epochs, load_trials
from analysis.rationales import students_of
from analysis.selection import select_alpha, select_lambda_select, select_teacher
from analysis.stages import alpha_stage, final_stage, lambda_stage, main_p_targets, teacher_stage, used_lambdas
from rekd.ledger import Ledger
from rekd.store import Store


@dataclass(frozen=True)
class Sheet:
    """A table of the page: text to read, and values to sort by."""

    title: str
    columns: list[dict[str, Any]]
    rows: list[dict[str, Any]]


def report(
    store: Ledger | Store | str,
    *,
    rng: np.random.Generator,
    tolerance: float = 0.01,
    title: str = "Rationale extraction and its distillation",
    now: datetime | None = None,
) -> str:
    """The report on everything that a store holds, as the text of one HTML file.

    Every text that comes from the store is escaped, and the page's policy runs no script but its own. `now` is for
    tests; it is the time otherwise. Raises ValueError where the store has no trials.
    """
    ledger = as_ledger(store)
    trials = load_trials(ledger)
    if trials.empty:
        raise ValueError(f"The store {ledger.store} holds no finished trial, so that there is nothing to report.")
    epochs = load_epochs(ledger, final_stage(trials)["digest"].tolist())
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder = importlib.resources.files("analysis") / "templates"
    script = (folder / "report.js").read_text(encoding="utf-8")
    script_hash = "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment.from_string((folder / "report.html").read_text(encoding="utf-8"))
    sheets = tables.all_tables(trials, rng=rng, tolerance=tolerance)
    return template.render(
        title=title,
        store=str(ledger.store),
        written=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        counts=_counts(trials),
        findings=_findings(tables.comparison_table(trials, rng=rng)),
        asked=sheet("", tables.asked_table(trials)),
        tolerance="1 percentage point" if tolerance == 0.01 else f"{tolerance * 100:g} percentage points",
        choices=_choices(trials, tolerance),
        notes=_notes(trials, tolerance),
        parts=_parts(trials, epochs, sheets, tolerance),
        students=students_of(ledger.store, trials),
        made_with=sheet("", _made_with(trials)),
        style=Markup((folder / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=script_hash,
    )


def sheet(title: str, frame: pd.DataFrame) -> Sheet:
    """A frame as a table of the page; a column `chosen` marks rows."""
    names = tables.printed_columns(frame)
    text = tables.printable(frame)
    numeric = [pd.api.types.is_numeric_dtype(frame[name]) and frame[name].dtype != bool for name in names]
    columns = [{"header": header, "numeric": is_number} for header, is_number in zip(text, numeric, strict=True)]
    chosen = frame["chosen"].tolist() if "chosen" in frame else [False] * len(frame)
    values = [["" if pd.isna(value) else str(value) for value in frame[name]] for name in names]
    rows = []
    for index, cells in enumerate(text.itertuples(index=False, name=None)):
        row = [
            {"text": cell, "value": values[column][index], "kind": _kind(cell, numeric[column])}
            for column, cell in enumerate(cells)
        ]
        rows.append({"cells": row, "chosen": bool(chosen[index])})
    return Sheet(title, columns, rows)


def _kind(text: str, is_number: bool) -> str:
    return "number" if is_number else "words" if len(text) > 40 else ""


def _counts(trials: pd.DataFrame) -> list[dict[str, Any]]:
    of = trials["status"].value_counts()
    counts: list[dict[str, Any]] = [{"name": "trials", "number": len(trials)}]
    counts += [{"name": name, "number": int(of.get(name, 0))} for name in ("ok", "diverged", "failed")]
    hours = trials["train_seconds"].sum() / 3600
    return [*counts, {"name": "hours of training", "number": f"{hours:.1f}"}]


def _findings(differences: pd.DataFrame) -> list[str]:
    findings = []
    for _, row in differences.iterrows():
        word = "ahead of" if row["difference"] > 0 else "behind"
        seeds = f"{row['num_seeds']} shared seed" + ("" if row["num_seeds"] == 1 else "s")
        interval = "" if pd.isna(row["low"]) else f", 95 % interval {row['low']:+.3f} to {row['high']:+.3f}"
        findings.append(
            f"{row['task']}, {row['model']}: REKD is {word} RE by {abs(row['difference']):.3f} in test accuracy "
            f"({row['rekd']:.3f} against {row['re']:.3f}; {seeds}{interval})."
        )
    return findings


def _choices(trials: pd.DataFrame, tolerance: float) -> list[Sheet]:
    choices = [
        ("lambda_select", select_lambda_select(lambda_stage(trials), tolerance)),
        ("alpha", select_alpha(alpha_stage(trials))),
        ("Teacher: the run that the rule would take", select_teacher(teacher_stage(trials), tolerance)),
    ]
    return [sheet(title, frame.dropna(axis=1, how="all")) for title, frame in choices if len(frame)]


def _notes(trials: pd.DataFrame, tolerance: float) -> list[str]:
    """Where what was done is not what the rules say, and what the tables leave out."""
    notes = []
    used = used_lambdas(trials, tolerance)
    for _, row in select_lambda_select(lambda_stage(trials), tolerance).iterrows():
        went_on = used.get((row["task"], row["model"]))
        if went_on is not None and went_on != row["lambda_select"]:
            rule = "none" if pd.isna(row["lambda_select"]) else f"{row['lambda_select']:g}"
            notes.append(
                f"{row['task']}, {row['model']}: later stages used lambda_select {went_on:g}, the rule: {rule}."
            )
    ruled = set(select_teacher(teacher_stage(trials), tolerance)["digest"].dropna())
    serving = trials[trials["digest"].isin(set(trials["teacher_digest"].dropna()))]
    for _, row in serving.iterrows():
        agrees = "which is the rule's choice" if row["digest"] in ruled else "which is not the rule's choice"
        notes.append(f"{row['task']}: the teacher is {row['model']}, seed {row['seed']} ({row['digest']}), {agrees}.")
    for task, target in main_p_targets(trials).items():
        notes.append(f"{task}: tables other than that of ratios are about p_target {target * 100:g} %.")
    unknown = set(trials["teacher_digest"].dropna()) - set(trials["digest"])
    if unknown:
        notes.append(f"Teachers that are not in this store: {', '.join(sorted(unknown))}.")
    return notes


def _parts(
    trials: pd.DataFrame, epochs: pd.DataFrame, sheets: list[tables.Table], tolerance: float
) -> list[dict[str, Any]]:
    parts = []
    for task in sorted(trials["task"].unique()):
        drawn = figures.all_pictures(trials, epochs, tolerance=tolerance, tasks=[task])
        pictures = [
            {
                "title": picture.title,
                "svg": Markup(picture.inline_svg()),  # matplotlib escapes the text in it
                "labels": json.dumps({f"{picture.name}--{gid}": texts for gid, texts in picture.labels.items()}),
            }
            for picture in drawn
        ]
        own = [sheet(table.title, table.frame) for table in sheets if table.task == task]
        parts.append({"task": task, "pictures": pictures, "sheets": own})
    return parts


def _made_with(trials: pd.DataFrame) -> pd.DataFrame:
    """A row is a combination of versions, device and preset, most trials first."""
    by = ["versions", "device", "fidelity"]
    counts = trials.groupby(by, dropna=False).agg(num_trials=("digest", "size"), last=("finished_at", "max"))
    counts = counts.reset_index().sort_values("num_trials", ascending=False, kind="stable")
    return counts.rename(columns={"num_trials": "trials", "last": "last finished"})
