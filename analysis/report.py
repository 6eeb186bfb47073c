"""The report: one HTML file that needs no network, for a screen, a phone and a printer."""

import base64
import hashlib
import importlib.resources
import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from analysis import figures, tables
from analysis.experiment import Stages, family_columns, split_stages
from analysis.frames import as_ledger, load_epochs, load_trials
from analysis.rationales import students_of
from analysis.selection import lambda_rule, select_alpha, select_lambda_select, select_teacher
from analysis.settings import labels, matching, percent, setting_columns
from analysis.verdicts import audit_sentence, audit_table, load_audits
from rekd.messages import number
from rekd.store.files import Store
from rekd.store.ledger import Ledger

AGREES = (
    "F1, precision, recall, IoU and AUPRC compare rationales with a truth that the data brings along: more is better. "
    "Where people marked it, agreement is no objective measure of a rationale (Section 3.4 of the paper): a model may have "
    "other reasons than theirs, and good ones. Where whoever made the data planted the evidence, there are no others."
)
"""What is said beside numbers of agreement."""

JUDGE_SAYS = (
    "The judge is a classifier that was trained on random parts of inputs, at all ratios, so that no mask is strange to it. "
    "Good rationales: it is right about them nearly as often as about whole inputs, far more often than about another "
    "input's rationale, one mask for all or random features of the same number; and seldom about all but them. The swap shows "
    "a model the content of one class under a mask that was made for another: above its control, it reads the mask."
)
"""How to read the table of audits."""


@dataclass(frozen=True)
class Sheet:
    """A table of the page: text to read, and values to sort by."""

    title: str
    stacked: bool
    """Whether a row becomes a list of names and values on a phone: for tables with sentences in them."""
    notes: tuple[str, ...]
    columns: list[dict[str, Any]]
    rows: list[dict[str, Any]]


def report(
    store: Ledger | Store | str,
    *,
    tolerance: float = 0.01,
    baseline: str = "same",
    method: str = "student",
    title: str = "Rationale extraction and its distillation",
    now: datetime | None = None,
    live: str = "",
) -> str:
    """The report on everything that a store holds, as the text of one HTML file.

    REKD is compared with RE as `tables.comparison_table` does for `baseline` and `method`.
    Every text that comes from the store is escaped, and the page's policy runs no script but its own. `now` is for
    tests; it is the time otherwise. With `live`, which names this version of it, the page asks its server what runs now.
    Raises ValueError where the store has no trials.
    """
    ledger = as_ledger(store)
    trials = load_trials(ledger)
    if trials.empty:
        raise ValueError(f"The store {ledger.store} holds no finished trial, so that there is nothing to report.")
    stages = split_stages(trials, tolerance)
    epochs = load_epochs(ledger, stages.finals["digest"].tolist())
    found = audit_table(stages.finals, load_audits(ledger))
    script = source("report.js")
    live_script = source("live.js") if live else ""
    return rendered(
        "report.html",
        title=title,
        store=str(ledger.store),
        written=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        counts=_counts(trials),
        findings=_findings(stages, tables.comparison_table(stages, baseline=baseline, method=method)),
        asked=sheet("", tables.asked_table(trials)),
        within=lambda_rule(tolerance).within,
        choices=_choices(stages),
        notes=_notes(stages),
        parts=_parts(tables.all_tables(stages, baseline=baseline, method=method), figures.all_pictures(stages, epochs)),
        students=students_of(ledger.store, stages),
        audited=[f"{row['task']}, {row['label']}: {audit_sentence(row)}." for _, row in found.iterrows()],
        audit=sheet("", found, notes=(JUDGE_SAYS,)) if len(found) else None,
        agrees=[AGREES] if stages.finals["test_rationale_f1"].notna().any() else [],
        made_with=sheet("", _made_with(trials), stacked=True),
        style=Markup(source("report.css")),
        script=Markup(script),
        script_hash=hash_of(script),
        live=live,
        live_script=Markup(live_script),
        live_hash=hash_of(live_script),
    )


def rendered(name: str, **values: Any) -> str:
    """A template with these values, in which every text is escaped and none may be missing."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source(name)).render(**values)


def source(name: str) -> str:
    """The text of a template, style or script."""
    return (importlib.resources.files("analysis") / "templates" / name).read_text(encoding="utf-8")


def hash_of(script: str) -> str:
    """The name by which a page's policy knows a script that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def sheet(title: str, frame: pd.DataFrame, *, stacked: bool = False, notes: tuple[str, ...] = ()) -> Sheet:
    """A frame as a table of the page, notes below; a column `chosen` marks rows."""
    names = tables.printed_columns(frame)
    text = tables.printable(frame)
    numeric = [pd.api.types.is_numeric_dtype(frame[name]) and frame[name].dtype != bool for name in names]
    columns = [{"header": header, "numeric": is_number} for header, is_number in zip(text, numeric, strict=True)]
    chosen = frame["chosen"].tolist() if "chosen" in frame else [False] * len(frame)
    values = [["" if pd.isna(value) else str(value) for value in frame[name]] for name in names]
    rows = []
    for index, cells in enumerate(text.itertuples(index=False, name=None)):
        row = [
            {
                "text": cell,
                "value": values[column][index],
                "kind": _kind(cell, numeric[column]),
                "header": columns[column]["header"],
            }
            for column, cell in enumerate(cells)
        ]
        rows.append({"cells": row, "chosen": bool(chosen[index])})
    return Sheet(title, stacked, notes, columns, rows)


def _kind(text: str, is_number: bool) -> str:
    return "number" if is_number else "words" if len(text) > 30 else ""


def _counts(trials: pd.DataFrame) -> list[dict[str, Any]]:
    of = trials["status"].value_counts()
    counts: list[dict[str, Any]] = [{"name": "trials", "number": len(trials)}]
    counts += [{"name": name, "number": int(of.get(name, 0))} for name in ("ok", "diverged", "failed")]
    hours = trials["train_seconds"].sum() / 3600
    return [*counts, {"name": "hours of training", "number": f"{hours:.1f}"}]


def _findings(stages: Stages, differences: pd.DataFrame) -> list[str]:
    names = labels(differences)
    return [
        f"{row['task']}, {name}: {tables.comparison_sentence(row)} {tables.longer_sentence(stages, row)}".rstrip()
        for name, (_, row) in zip(names, differences.iterrows(), strict=True)
    ]


def _choices(stages: Stages) -> list[Sheet]:
    choices = [
        ("lambda_select", "lambda_select", select_lambda_select(stages.lambdas, stages.tolerance)),
        ("alpha", "alpha", select_alpha(stages.alphas)),
        ("seed", "Teacher: the run that the rule would take", select_teacher(stages.teachers, stages.tolerance)),
    ]
    # In words already.
    told = ["num_settings", "num_eligible", "nearest_lambda_select", "nearest_seed"]
    sheets = []
    for name, title, frame in choices:
        if len(frame):
            shown = tables.telling(frame.drop(columns=told, errors="ignore"))
            shown[name] = ["none" if pd.isna(value) else number(value) for value in frame[name]]
            sheets.append(sheet(title, shown, stacked=True))
    return sheets


def _notes(stages: Stages) -> list[str]:
    """Where what was done is not what the rules say, and what the tables leave out."""
    notes = _overridden(stages)
    ruled = set(select_teacher(stages.teachers, stages.tolerance)["digest"].dropna())
    serving = set(stages.trials["teacher_digest"].dropna())
    teachers = stages.trials[stages.trials["digest"].isin(serving)]
    for label, (_, row) in zip(labels(teachers), teachers.iterrows(), strict=True):
        agrees = "the rule's choice" if row["digest"] in ruled else "not the rule's choice"
        notes.append(f"{row['task']}: the teacher is {label}, seed {row['seed']} ({row['digest']}), {agrees}.")
    if unknown := sorted(serving - set(stages.trials["digest"])):
        notes.append(f"Teachers that are not in this store: {', '.join(unknown)}.")
    notes += [*_warnings(stages.finals), *_shared_samples(stages.finals)]
    notes += [*_said_by_trials(stages.trials), *_of_hub(stages.trials)]
    for task, rows in stages.lambdas.groupby("task"):
        targets = ", ".join(percent(target) for target in sorted(rows["p_target"].unique()))
        notes.append(f"{task}: the table of lambda_select is about p_target {targets}.")
    return notes


def _overridden(stages: Stages) -> list[str]:
    """Where later stages went on with another `lambda_select` than the rule's."""
    choices = select_lambda_select(stages.lambdas, stages.tolerance)
    family = [name for name in family_columns(choices) if name in stages.used]
    notes = []
    for label, (index, row) in zip(labels(choices), choices.iterrows(), strict=True):
        used = matching(stages.used, choices.loc[[index]], family)["lambda_select"].tolist()
        if used and row["lambda_select"] not in used:
            rule = "nothing" if pd.isna(row["lambda_select"]) else number(row["lambda_select"])
            others = ", ".join(number(value) for value in used)
            notes.append(
                f"{row['task']}, {label}: later stages went on with lambda_select {others}; the rule chooses {rule}."
            )
    return notes


COLLAPSED = 0.01
"""Different masks a sample at or below which a generator has collapsed: one mask serves a hundred inputs or more."""


def _warnings(finals: pd.DataFrame) -> list[str]:
    """Collapse and leak among the final trials, where the ledger has their columns."""
    warnings = []
    for column, is_bad, what in (
        (
            "test_distinct_masks",
            lambda values: values <= COLLAPSED,
            "have collapsed to (nearly) one mask for every input",
        ),
        ("dev_teacher_train_share", lambda values: values > 0, "have dev samples that their teacher was trained on"),
    ):
        if column not in finals:
            continue
        known = finals.assign(label=labels(finals))[finals[column].notna()]
        for _, rows in known.groupby(setting_columns(known), dropna=False) if len(known) else ():
            num_bad = int(is_bad(rows[column]).sum())
            if num_bad:
                where = f"{rows['task'].iloc[0]}, {rows['label'].iloc[0]}"
                mean = rows[column].mean() * 100
                warnings.append(f"{where}: {num_bad} of {len(rows)} final trials {what} (mean {mean:.3g} %).")
    return warnings


def _shared_samples(finals: pd.DataFrame) -> list[str]:
    """Samples that stand in train and in dev or test, where the ledger has counted them; the most of a task's trials."""
    notes = []
    for task, rows in finals.groupby("task"):
        shown = []
        for name in ("dev", "test"):
            counts = rows.get(f"num_{name}_in_train", pd.Series(dtype=float)).dropna()
            if len(counts) and counts.max() > 0:
                shown.append(f"{counts.max():.0f} samples of {name}")
        if shown:
            notes.append(f"{task}: {' and '.join(shown)} stand in train too, with the same content.")
    return notes


MOST_SETTINGS = 10
"""Settings of whose trials a page repeats what they said."""


def _said_by_trials(trials: pd.DataFrame) -> list[str]:
    """The warnings that rows hold, by setting: how many have one, and the first."""
    if "warning" not in trials or not trials["warning"].notna().any():
        return []
    named = trials.assign(label=labels(trials))
    notes = []
    for (task, label), rows in named.groupby(["task", "label"], sort=False):
        said = rows["warning"].dropna()
        if len(said):
            how_many = f"{len(said)} of {len(rows)} trials {'has' if len(said) == 1 else 'have'}"
            notes.append(f"{task}, {label}: {how_many} a warning. {said.iloc[0]}")
    num_left = len(notes) - MOST_SETTINGS
    return [*notes[:MOST_SETTINGS], *([f"So have trials of {num_left} more settings."] if num_left > 0 else [])]


def _of_hub(trials: pd.DataFrame) -> list[str]:
    """The commits of what the trials took from the hub, most trials first; more than one where a name moved meanwhile."""
    counts: dict[str, Counter[str]] = {}
    for commits in trials.get("commits", pd.Series(dtype=object)).dropna():
        for name, commit in json.loads(commits).items():
            counts.setdefault(name, Counter())[commit] += 1
    notes = []
    for name, of in sorted(counts.items()):
        each = ", ".join(f"{commit[:12]} ({num} of {of.total()} trials)" for commit, num in of.most_common())
        notes.append(f"The {name} was at commit {each}{': it has moved between them' if len(of) > 1 else ''}.")
    return notes


def _parts(sheets: list[tables.Table], pictures: list[figures.Picture]) -> list[dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {}
    for table in sheets:
        part = parts.setdefault(table.task, {"task": table.task, "pictures": [], "sheets": []})
        part["sheets"].append(
            sheet(table.title, table.shown, stacked=table.name.startswith("stopped"), notes=table.notes)
        )
    for picture in pictures:
        labels = {f"{picture.name}--{gid}": texts for gid, texts in picture.labels.items()}
        # matplotlib escapes the text in an SVG.
        drawn = {"title": picture.title, "svg": Markup(picture.inline_svg()), "labels": json.dumps(labels)}
        parts[picture.task]["pictures"].append(drawn)
    return list(parts.values())


def _made_with(trials: pd.DataFrame) -> pd.DataFrame:
    """A row is a combination of versions, device and preset, most trials first."""
    by = ["versions", "device", "fidelity"]
    counts = trials.groupby(by, dropna=False).agg(num_trials=("digest", "size"), last=("finished_at", "max"))
    counts = counts.reset_index().sort_values("num_trials", ascending=False, kind="stable")
    return counts.rename(columns={"num_trials": "trials", "last": "last finished"})
