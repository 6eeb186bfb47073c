"""The paper's tables from the trials at hand, beside the paper's numbers where it has them.

Tables take `Stages`, the trials of a ledger split by `split_stages`. Each is a frame of numbers; `printable` makes text
of it, `to_markdown` and `to_latex` a file.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import published
from analysis.experiment import Stages
from analysis.frames import narrow
from analysis.selection import alpha_settings, lambda_rule, lambda_settings, nearest_to_target
from analysis.settings import (
    LEADING,
    TUNED,
    WITHIN,
    columns_read,
    labels,
    matching,
    percent,
    setting_columns,
    shown,
    telling_columns,
    with_settings,
)
from analysis.statistics import paired_differences, summarize
from rekd.messages import number
from rekd.store.ledger import BUDGET_COLUMNS

OBJECTIVES = ("cls", "re", "rekd")

BEHAVIOUR = (
    "test_token_ratio",
    "test_sufficiency",
    "test_comprehensiveness",
    "test_teacher_overlap",
    "dev_teacher_overlap",
    "test_distinct_masks",
    "dev_teacher_train_share",
    "test_rationale_f1",
    "test_rationale_precision",
    "test_rationale_recall",
    "test_rationale_iou",
    "test_rationale_auprc",
    "test_eraser_sufficiency",
    "test_eraser_comprehensiveness",
    "test_expected_ratio",
)
"""Columns of `trials` about what a model does with its rationales; a ledger need not have them."""


BASELINES = ("same", "chosen")
"""RE runs that REKD is compared with: those at the same setting, or, where there are none, those that differ in `TUNED`
alone; or those at RE's own choice of `lambda_select`."""

INTERVALS = {
    "student": "Intervals and p are Student's, of the paired differences.",
    "exact": "Intervals and p are of exact sign flips of the paired differences.",
    "bootstrap": "Intervals and p are of the studentized bootstrap of the paired differences.",
}
"""What is said of intervals, by the method of `analysis.statistics.METHODS`."""

PAIRING = {
    "same": "RE has the same value in every field that it reads, but where its own learning rate or lambda_select is named.",
    "chosen": "RE is at the lambda_select of its own choice by rule; all else is the same.",
}
"""What is said of the comparison, by its baseline."""


@dataclass(frozen=True)
class Table:
    """A table with what it is called."""

    name: str
    """Fit for a file name, such as `performance-digits`."""
    task: str
    title: str
    """Without the task."""
    frame: pd.DataFrame
    """The table with every column of a setting; the same columns whatever the ledger holds."""
    notes: tuple[str, ...] = ()
    """What a reader has to know before the numbers are believed, a sentence each."""

    @property
    def caption(self) -> str:
        return f"{self.task}: {self.title}"

    @property
    def shown(self) -> pd.DataFrame:
        """What people see: without the task, columns that are empty, and columns that tell no settings apart."""
        return telling(self.frame.drop(columns="task", errors="ignore"))


def telling(table: pd.DataFrame) -> pd.DataFrame:
    """A table without what says nothing: empty columns, warnings that do not apply, and setting columns that tell no two of
    its settings apart.

    Those that do stand behind `LEADING`. A mean keeps its number of seeds and a difference its number of pairs.
    """
    table = table.loc[:, ~(table.isna() | (table == "")).all()]
    table = table.drop(
        columns=[name for name in ("few_seeds", "tied", "num_tied") if name in table and not table[name].any()]
    )
    leading = [name for name in (*LEADING, "is_teacher") if name in table]
    others = telling_columns(table, but=LEADING)
    hidden = {*setting_columns(table), *leading}
    return table[[*leading, *others, *(name for name in table.columns if name not in hidden)]]


def asked_table(trials: pd.DataFrame) -> pd.DataFrame:
    """What was run: the grids of each kind of trial.

    A row is a task, objective and model, by size. Columns: these; `num_ok`, `num_diverged`, `num_failed`; `seeds`,
    `p_target`, `lambda_select`, `alpha`, `epochs`, `fidelity` (the values, as text); `also` (values of the other fields that
    take several); `hours` (training, all together).
    """
    trials = with_settings(trials)
    grids = ("p_target", "lambda_select", "alpha", "epochs", "fidelity")
    rows = []
    for key, group in trials.groupby(list(WITHIN)):
        counts = {f"num_{name}": int((group["status"] == name).sum()) for name in ("ok", "diverged", "failed")}
        identity = dict(zip(WITHIN, key, strict=True))
        others = [name for name in telling_columns(group) if name not in grids]
        also = "; ".join(f"{name} {_values(group[name])}" for name in others)
        values = {"seeds": _values(group["seed"])} | {name: _values(group[name]) for name in grids} | {"also": also}
        rows.append(identity | counts | values | {"hours": group["train_seconds"].sum() / 3600})
    table = pd.DataFrame(rows)
    if rows and not table["also"].any():
        table = table.drop(columns="also")
    return _ordered(table, trials, by_objective=True) if rows else table


def performance_table(stages: Stages) -> pd.DataFrame:
    """Tables 1-3: what CLS, RE and REKD reach at the settings that were chosen.

    A row is a setting, sorted by task, objective (cls, re, rekd) and number of parameters, largest first. Columns: its
    leading ones, `is_teacher` (one of the row's trials is a teacher); `test_accuracy`, `test_accuracy_std`; `change` (RE
    less CLS, REKD less RE, seed by seed, each against the same setting; CLS may differ in its `epochs`), `num_pairs`,
    `change_note` (against what, or why there is none); `test_rationale_ratio`, `test_rationale_ratio_std`; `num_seeds`,
    `num_seeds_expected`; `paper_...` and `difference_...` (ours less the paper's) of accuracy and ratio; then the other
    columns of the setting.
    """
    trials, final = stages.trials, stages.finals
    keys = setting_columns(final)
    table = _whole_input(summarize(final, ["test_accuracy", "test_rationale_ratio"]))
    teachers = final[final["digest"].isin(set(trials["teacher_digest"].dropna()))]
    table["is_teacher"] = table.index.isin(matching(table, teachers, keys).index)
    changes = pd.concat([_changes(stages, "cls", "re", free=["epochs"]), _changes(stages, "re", "rekd", free=TUNED)])
    table = table.merge(changes, on=keys, how="left")
    printed = pd.concat([published.performance(number) for number in (1, 2, 3)])
    table = _beside_paper(table, printed, list(WITHIN), ["test_accuracy", "test_rationale_ratio"])
    numbers = ["is_teacher", "test_accuracy", "test_accuracy_std", "change", "num_pairs", "change_note"]
    return _ordered(_arranged(table, numbers), trials, by_objective=True)


def _changes(stages: Stages, baseline: str, treatment: str, *, free: Sequence[str] = ()) -> pd.DataFrame:
    """How far a treatment's final settings are from their baseline, as columns of `performance_table`."""
    pairs = paired_differences(_pool(stages, baseline, treatment), baseline=baseline, treatment=treatment, free=free)
    note = pairs["note"].where(pairs["num_pairs"] == 0, "")
    for name in _baseline_names(pairs, free):
        words = f"{baseline.upper()} has {name} " + pairs[f"baseline_{name}"].map(number)
        note = note.mask(_is_apart(pairs, name) & (note == ""), words)
    pairs = pairs.assign(objective=treatment, change=pairs["difference"], change_note=note)
    return pairs[[*setting_columns(pairs), "change", "num_pairs", "change_note"]]


def _baseline_names(pairs: pd.DataFrame, free: Sequence[str]) -> list[str]:
    """Keeps of the fields in which a baseline may differ those that the trials have."""
    return [name for name in free if f"baseline_{name}" in pairs]


def _is_apart(pairs: pd.DataFrame, name: str) -> pd.Series:
    """Whether the baseline of each row differs from it in a field."""
    return pairs[f"baseline_{name}"].notna() & (pairs[f"baseline_{name}"] != pairs[name])


def _pool(stages: Stages, baseline: str, treatment: str) -> pd.DataFrame:
    """The final trials of the treatment, and all of the baseline's: whichever of them has the same setting."""
    return pd.concat([narrow(stages.finals, objective=treatment), narrow(stages.trials, objective=baseline)])


def lambda_table(stages: Stages) -> pd.DataFrame:
    """Tables 4 and 5: `lambda_settings` of `stages.lambdas`, beside the paper's.

    A row is a setting, by task, model (by size) and `lambda_select`. Further columns: `paper_...` and `difference_...` of
    `dev_rationale_ratio` and `dev_loss`.
    """
    table = lambda_settings(stages.lambdas, stages.tolerance)
    printed = pd.concat([published.lambda_sweep(4), published.lambda_sweep(5)])
    by = ["task", "model", "p_target", "lambda_select"]
    return _ordered(_beside_paper(table, printed, by, ["dev_rationale_ratio", "dev_loss"]), stages.trials)


def alpha_table(stages: Stages) -> pd.DataFrame:
    """Tables 6 and 7: `alpha_settings` of `stages.alphas`, beside the paper's.

    A row is a setting, by task, model (by size) and `alpha`. Further columns: `paper_dev_loss` and `difference_dev_loss`.
    """
    table = alpha_settings(stages.alphas)
    printed = pd.concat([published.alpha_sweep(6), published.alpha_sweep(7)])
    return _ordered(_beside_paper(table, printed, ["task", "model", "alpha"], ["dev_loss"]), stages.trials)


def ratio_table(stages: Stages) -> pd.DataFrame:
    """Table 8: what RE reaches at each `p_target`, and CLS, whose `p_target` is missing, last.

    A row is a setting, by task, model (by size) and `p_target`. Columns: its leading ones; `test_rationale_ratio`,
    `test_accuracy` and their deviations; `num_seeds`, `num_seeds_expected`; `paper_...` and `difference_...` of ratio and
    accuracy; then the other columns of the setting.
    """
    values = ["test_rationale_ratio", "test_accuracy"]
    table = _whole_input(summarize(stages.ratios, values)).sort_values("p_target", kind="stable", ignore_index=True)
    table = _beside_paper(table, published.ratio_sweep(), ["task", "model", "p_target"], values)
    return _ordered(_arranged(table, []), stages.trials)


def comparison_table(
    stages: Stages, *, value: str = "test_accuracy", baseline: str = "same", method: str = "student"
) -> pd.DataFrame:
    """`paired_differences` of REKD, at the settings that were chosen, and RE of the same student; models by size.

    `baseline` is `same` (RE at the same setting; where there is none, at the one that differs in `TUNED` alone, which
    is in `baseline_learning_rate` and `baseline_lambda_select`) or `chosen` (RE at the `lambda_select` of its own choice
    by rule, which is in `baseline_lambda_select`; where nothing is eligible the nearest, which `note` says).
    """
    if baseline not in BASELINES:
        raise ValueError(f"baseline is one of {', '.join(BASELINES)}, got {baseline!r}.")
    if baseline == "same":
        table = paired_differences(_pool(stages, "re", "rekd"), value=value, method=method, free=TUNED)
        alike = [name for name in _baseline_names(table, TUNED) if not _is_apart(table, name).any()]
        return _ordered(table.drop(columns=[f"baseline_{name}" for name in alike]), stages.trials)
    pool, nearest = _chosen_re(stages)
    pool = pd.concat([narrow(stages.finals, objective="rekd"), pool])
    table = paired_differences(pool, value=value, method=method, free=["lambda_select"])
    baselines = table.assign(lambda_select=table["baseline_lambda_select"])
    marked = table.index.isin(matching(baselines, nearest, columns_read(nearest, "re")).index)
    said = "nothing of RE is eligible: its nearest"
    table["note"] = [
        "; ".join(filter(None, (said if is_marked else "", note)))
        for is_marked, note in zip(marked, table["note"], strict=True)
    ]
    return _ordered(table, stages.trials)


def _chosen_re(stages: Stages) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The RE trials at the `lambda_select` that the rule chooses, or at the nearest; and the settings that are nearest."""
    re = narrow(stages.trials, objective="re")
    settings = lambda_settings(re, stages.tolerance)
    keys = lambda_rule().group_columns(settings)
    groups = [group for _, group in settings.groupby(keys, dropna=False)] if len(settings) else []
    near = [nearest_to_target(group, "lambda_select") for group in groups if not group["chosen"].any()]
    nearest = settings.loc[[setting.name for setting in near if setting is not None]]
    taken = pd.concat([settings[settings["chosen"]], nearest])
    return matching(re, taken, [*keys, "lambda_select"]), nearest


def behaviour_table(stages: Stages) -> pd.DataFrame:
    """Faithfulness and behaviour of the final RE and REKD trials, as far as the ledger has it.

    A row is a setting, by task, objective and model (by size). Columns: its leading ones; means over seeds of
    `test_rationale_ratio` and of those of `BEHAVIOUR` that the frame has; `num_seeds`, `num_seeds_expected`; then the
    other columns of the setting.
    """
    final = stages.finals[stages.finals["objective"] != "cls"]
    values = ["test_rationale_ratio", *(name for name in BEHAVIOUR if name in final and final[name].notna().any())]
    table = summarize(final, values).drop(columns=[f"{name}_std" for name in values])
    return _ordered(_arranged(table, []), stages.trials, by_objective=True)


def budget_table(trials: pd.DataFrame) -> pd.DataFrame:
    """What RE and REKD reach at exactly the same ratio, whatever ratio they chose themselves.

    A row is a setting, by task, objective and model (by size). Columns: its leading ones; means over seeds of what they
    reach by themselves (`test_accuracy`, `test_rationale_ratio`), of `test_accuracy_at_p_target`, `test_accuracy_area`, and
    of those that the frame has of the F1 with the truth and of each budget (`BUDGET_COLUMNS`); `train_seconds`;
    `num_seeds`, `num_seeds_expected`; then the other columns of the setting. Empty where no trial was measured so.
    """
    measured = trials.get("test_accuracy_area", pd.Series(index=trials.index, dtype=float)).notna()
    rows = trials[(trials["objective"] != "cls") & (measured | (trials["status"] != "ok"))]
    if not measured.any():
        return trials.iloc[:0]
    values = ["test_accuracy", "test_rationale_ratio", "test_accuracy_at_p_target", "test_accuracy_area"]
    values += [name for name in ("test_rationale_f1", *BUDGET_COLUMNS) if name in rows and rows[name].notna().any()]
    table = summarize(rows, [*values, "train_seconds"])
    table = table.drop(columns=[f"{name}_std" for name in ("train_seconds", *BUDGET_COLUMNS)], errors="ignore")
    return _ordered(_arranged(table, []), trials, by_objective=True)


def stopped_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials that diverged or failed, with the reason. A row is a trial, sorted by task, model, objective and seed.

    Columns: the leading ones of its setting, `seed`, `status`, `error`, `digest`, then the other columns of the setting.
    """
    trials = with_settings(trials)
    stopped = trials[trials["status"] != "ok"].sort_values(["task", "model", "objective", "seed"], ignore_index=True)
    columns = ["seed", "status", "error", "digest"]
    return _arranged(stopped[[*setting_columns(stopped), *columns]], columns)


def all_tables(stages: Stages, *, baseline: str = "same", method: str = "student") -> list[Table]:
    """Every table of every task that has rows, tasks in alphabetical order; named `<kind>-<task>`."""
    comparison = comparison_table(stages, baseline=baseline, method=method)
    kinds: list[tuple[str, str, dict[str, int], pd.DataFrame, pd.DataFrame]] = [
        ("performance", "Predictive performance of CLS, RE and REKD", {"cifar10": 1, "cifar100": 2, "imdb": 3},
         performance_table(stages), stages.finals),
        ("comparison", "REKD against RE on the same seeds", {}, comparison, stages.finals),
        ("lambda", "Tuning lambda_select", {"cifar10": 4, "imdb": 5}, lambda_table(stages), stages.lambdas),
        ("alpha", "Tuning alpha", {"cifar10": 6, "cifar100": 7}, alpha_table(stages), stages.alphas),
        ("ratio", "Rationale ratio and accuracy", {"cifar10": 8}, ratio_table(stages), stages.ratios),
        ("behaviour", "Faithfulness and behaviour of the rationales", {}, behaviour_table(stages), stages.finals),
        ("budgets", "Accuracy at exact budgets", {}, budget_table(stages.trials), stages.trials.iloc[:0]),
        ("stopped", "Trials that diverged or failed", {}, stopped_table(stages.trials), stages.trials.iloc[:0]),
    ]  # fmt: skip
    tables = []
    for task in sorted(stages.trials["task"].unique()):
        for kind, title, numbers, frame, runs in kinds:
            rows = frame[frame["task"] == task].reset_index(drop=True)
            if len(rows):
                number = f" (the paper's Table {numbers[task]})" if task in numbers else ""
                notes = notes_on(runs[runs["task"] == task])
                if kind == "comparison":
                    notes.insert(0, f"{INTERVALS[method]} {PAIRING[baseline]}")
                tables.append(Table(file_name(kind, task), task, f"{title}{number}", rows, tuple(notes)))
    return tables


def notes_on(runs: pd.DataFrame, most: int = 3) -> list[str]:
    """Where seeds of one setting ran on different kinds of device or with other versions: a sentence each.

    Takes rows of `trials`; names `most` of the settings.
    """
    runs = runs[runs["status"] == "ok"]
    notes = []
    for column, what in (("device", "on different kinds of device"), ("versions", "with different versions")):
        if runs.empty or column not in runs:
            continue
        groups = runs.assign(label=labels(runs)).groupby(setting_columns(runs), dropna=False)
        mixed = [group for _, group in groups if len(group[column].drop_duplicates()) > 1]
        if mixed:
            told = [f"{group['label'].iloc[0]} ({_counts(group[column])})" for group in mixed[:most]]
            more = f"; and {len(mixed) - most} more" if len(mixed) > most else ""
            notes.append(f"Seeds of one setting ran {what}: {'; '.join(told)}{more}.")
    return notes


def _counts(column: pd.Series) -> str:
    """How many of each value, but for the parts that all of them have: `3 torch 2.13.0, 2 torch 2.14.0`."""
    counts = column.fillna("unknown").value_counts(sort=False).sort_index()
    parts = [str(value).split(", ") for value in counts.index]
    common = set.intersection(*map(set, parts))
    own = [", ".join(part for part in each if part not in common) or "unknown" for each in parts]
    return ", ".join(f"{count} {text}" for text, count in zip(own, counts, strict=True))


def comparison_sentence(row: pd.Series, *, interval: str = "95 % interval") -> str:
    """One row of `comparison_table`, of accuracy, in words: the same in a terminal and in the report."""
    if not row["num_pairs"]:
        return f"REKD is not compared with RE: {row['note']}."
    apart = [name for name in TUNED if not pd.isna(row.get(f"baseline_{name}"))]
    re, rekd = (", ".join(f"{name} {number(row[of + name])}" for name in apart) for of in ("baseline_", ""))
    against = f" (RE at {re}; REKD at {rekd})" if apart else ""
    bounds = "" if pd.isna(row["low"]) else f"{interval} {_signed(row['low'])} to {_signed(row['high'])}, "
    note = f"; {row['note']}" if row["note"] else ""
    return (
        f"REKD {_share(row['rekd'])}, RE {_share(row['re'])} in test accuracy{against}; difference "
        f"{_signed(row['difference'])}, {bounds}ahead on {row['num_better']} of {row['num_pairs']} "
        f"seed{'' if row['num_pairs'] == 1 else 's'}{note}."
    )


def longer_sentence(stages: Stages, row: pd.Series) -> str:
    """What RE of the same student reaches with more epochs than the REKD of one row of `comparison_table`, in words.

    Empty where it was given no more.
    """
    columns = columns_read(stages.trials, "re", but=[*TUNED, "epochs"])
    re = narrow(stages.trials, objective="re", status="ok")
    wanted = pd.DataFrame([row])[columns].astype({name: re[name].dtype for name in columns})
    longer = matching(re, wanted, columns)
    longer = longer[longer["epochs"] > row["epochs"]].groupby("epochs")["test_accuracy"].agg(["mean", "size"])
    told = [f"with {at} it reaches {_share(of['mean'])} (n = {of['size']:.0f})" for at, of in longer.iterrows()]
    return f"RE was also given more than {row['epochs']} epochs: {', '.join(told)}." if told else ""


def file_name(kind: str, task: str) -> str:
    """`<kind>-<task>`, fit for a file and for an id in a page, whatever a task is called."""
    return f"{kind}-{re.sub('[^A-Za-z0-9_-]+', '-', task)}"


def _values(column: pd.Series) -> str:
    """The different values in order, runs of whole numbers as `2026-2035`."""
    values = sorted(column.dropna().unique())
    if len(values) > 2 and pd.api.types.is_integer_dtype(column) and values[-1] - values[0] == len(values) - 1:
        return f"{values[0]}-{values[-1]}"
    return ", ".join(shown(str(column.name), value) for value in values)


def _whole_input(table: pd.DataFrame) -> pd.DataFrame:
    """CLS reads the whole input: its ratio is 1 by definition, without a deviation."""
    cls = table["objective"] == "cls"
    ratio = table["test_rationale_ratio"].mask(cls, 1.0)
    return table.assign(
        test_rationale_ratio=ratio, test_rationale_ratio_std=table["test_rationale_ratio_std"].mask(cls)
    )


def _beside_paper(table: pd.DataFrame, printed: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    names = [name for value in values for name in (value, f"{value}_std") if name in printed]
    printed = printed.assign(model=printed["model"].map(published.MODEL_NAMES))[[*by, *names]]
    printed = printed.rename(columns={name: f"paper_{name}" for name in names})
    table = table.merge(printed, on=list(by), how="left")
    for name in values:
        table[f"difference_{name}"] = table[name] - table[f"paper_{name}"]
    return table


def _arranged(table: pd.DataFrame, first: Sequence[str]) -> pd.DataFrame:
    """Leading columns of the setting, then `first`, then all else, the other columns of the setting last."""
    settings = setting_columns(table)
    leading = [name for name in LEADING if name in table]
    others = [name for name in settings if name not in leading]
    rest = [name for name in table.columns if name not in {*settings, *first}]
    return table[[*leading, *first, *rest, *others]]


def _ordered(table: pd.DataFrame, trials: pd.DataFrame, *, by_objective: bool = False) -> pd.DataFrame:
    """Orders by task, objective where asked for, and number of parameters, largest first; otherwise as before."""
    sizes = trials.groupby("model")["num_parameters"].max().astype(float).fillna(0)
    order = pd.DataFrame({"task": table["task"], "objective": 0, "size": -table["model"].map(sizes).astype(float)})
    if by_objective:
        order["objective"] = table["objective"].map({name: index for index, name in enumerate(OBJECTIVES)})
    order["model"] = table["model"]
    order = order.sort_values(["task", "objective", "size", "model"], kind="stable")
    return table.loc[order.index].reset_index(drop=True)


def _share(value: float) -> str:
    return f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # -0.0 + 0.0 is 0.0


def _loss(value: float) -> str:
    return f"{value:.4f}"


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"


def _points(value: float) -> str:
    return f"{round(value * 100, 1) + 0.0:+.1f}"


def _yes(value: object) -> str:
    return "yes" if value else ""


_HEADERS: dict[str, tuple[str, Callable[..., str]]] = {
    "num_ok": ("ok", number),
    "num_diverged": ("diverged", number),
    "num_failed": ("failed", number),
    "hours": ("hours", lambda value: f"{value:.2f}"),
    "is_teacher": ("teacher", _yes),
    "lambda_select": ("lambda_select", number),
    "test_accuracy": ("accuracy", _share),
    "dev_loss": ("dev loss", _loss),
    "dev_rationale_ratio": ("dev ratio", _percent),
    "test_rationale_ratio": ("ratio", _percent),
    "p_target": ("p_target", percent),
    "baseline_learning_rate": ("RE's learning_rate", number),
    "baseline_lambda_select": ("RE's lambda_select", number),
    "teacher": ("taught by", str),
    "test_accuracy_at_p_target": ("at p_target", _share),
    "test_accuracy_area": ("area", _share),
    **{name: (f"at {percent(budget)}", _share) for name, budget in BUDGET_COLUMNS.items()},
    "train_seconds": ("seconds", lambda value: f"{value:.0f}"),
    "num_seeds": ("seeds", number),
    "off_target": ("off target, points", lambda value: f"{value / 100:+g}"),
    "eligible": ("eligible", _yes),
    "chosen": ("chosen", _yes),
    "few_seeds": ("fewer than half of the seeds", _yes),
    "tied": ("tied with the choice", _yes),
    "num_tied": ("tied with it", number),
    "reason": ("why not eligible", str),
    "change": ("change", _signed),
    "num_pairs": ("pairs", number),
    "num_collapsed": ("collapsed", number),
    "change_note": ("change against", str),
    "paper_test_accuracy": ("paper: accuracy", _share),
    "paper_dev_loss": ("paper: dev loss", _loss),
    "paper_test_rationale_ratio": ("paper: ratio", _percent),
    "paper_dev_rationale_ratio": ("paper: dev ratio", _percent),
    "difference_test_accuracy": ("ours - paper, accuracy", _signed),
    "difference_dev_loss": ("ours - paper, dev loss", lambda value: f"{value:+.4f}"),
    "difference_test_rationale_ratio": ("ours - paper, ratio, points", _points),
    "difference_dev_rationale_ratio": ("ours - paper, dev ratio, points", _points),
    "cls": ("CLS", _share),
    "re": ("RE", _share),
    "rekd": ("REKD", _share),
    "difference": ("difference", _signed),
    "low": ("95 % from", _signed),
    "high": ("95 % to", _signed),
    "interquartile_difference": ("interquartile mean", _signed),
    "num_better": ("seeds ahead", number),
    "p_value": ("p", lambda value: f"{value:.2g}"),
    "test_token_ratio": ("ratio over real tokens", _percent),
    "test_sufficiency": ("sufficiency", _signed),
    "test_comprehensiveness": ("comprehensiveness", _signed),
    "test_teacher_overlap": ("overlap with teacher", _percent),
    "dev_teacher_overlap": ("overlap with teacher, dev", _percent),
    "test_distinct_masks": ("distinct masks", _percent),
    "dev_teacher_train_share": ("dev in teacher's train", _percent),
    "test_expected_ratio": ("ratio as sampled", _percent),
    "test_eraser_sufficiency": ("sufficiency, whole input's class", _signed),
    "test_eraser_comprehensiveness": ("comprehensiveness, whole input's class", _signed),
    "test_rationale_precision": ("precision", _share),
    "test_rationale_recall": ("recall", _share),
    "test_rationale_f1": ("F1 with the truth", _share),
    "test_rationale_iou": ("IoU", _share),
    "test_rationale_auprc": ("AUPRC", _share),
    "label": ("model", str),
    "num_follow": ("follow the input", number),
    "num_sufficient": ("sufficient", number),
    "num_leak": ("leak", number),
    "judge_whole": ("judge: whole input", _share),
    "judge_rationale": ("rationale", _share),
    "judge_rest": ("all but it", _share),
    "judge_dealt": ("another input's", _share),
    "judge_fixed": ("best one mask", _share),
    "judge_random": ("random", _share),
    "judge_saliency": ("saliency", _share),
    "swap_excess": ("swap, above control", _signed),
    "rationale_f1": ("F1 with the truth", _share),
}  # fmt: skip


def printed_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that `printable` makes one of its own for, in order."""
    return [
        str(name)
        for name in frame.columns
        if name not in ("num_seeds_expected", "tied_p", "tied_pairs")
        and not (name.endswith("_std") and name.removesuffix("_std") in frame)
    ]


def printable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as text, with headers for people: deviations in brackets behind their mean, seeds as `9 of 10`."""
    columns: dict[str, list[str]] = {}
    for name in printed_columns(frame):
        header, show = _HEADERS.get(name, (name, number if pd.api.types.is_float_dtype(frame[name]) else str))
        if not pd.api.types.is_numeric_dtype(frame[name]):  # a grid in words
            show = str
        cells = ["" if pd.isna(value) else show(value) for value in frame[name]]
        if f"{name}_std" in frame:
            spread = frame[f"{name}_std"]
            cells = [c if pd.isna(s) else f"{c} ({show(s)})" for c, s in zip(cells, spread, strict=True)]
        if name == "num_seeds" and "num_seeds_expected" in frame:
            of = frame["num_seeds_expected"]
            cells = [c if n == e else f"{c} of {e}" for c, n, e in zip(cells, frame[name], of, strict=True)]
        columns[header] = cells
    return pd.DataFrame(columns, index=frame.index)


def to_markdown(table: Table) -> str:
    """The table as GitHub's Markdown, title above, notes below."""
    text = printable(table.shown)
    # A bar or a line break in a cell would end it; markup would be taken for markup.
    rows = [[_escape_markdown(cell) for cell in row] for row in [list(text), *text.to_numpy().tolist()]]
    rule = ["---:" if numeric else "---" for numeric in _numeric(table.shown)]
    lines = ["| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]]]
    notes = "".join(f"\n{_escape_markdown(note)}\n" for note in table.notes)
    return f"**{_escape_markdown(table.caption)}**\n\n" + "\n".join(lines) + "\n" + notes


def to_latex(table: Table) -> str:
    """The table as a LaTeX `table` with booktabs' rules, for `\\usepackage{booktabs}`; notes stand in the caption."""
    text = printable(table.shown)
    text.columns = [_escape_latex(name) for name in text.columns]
    text = text.map(_escape_latex)
    columns = "".join("r" if numeric else "l" for numeric in _numeric(table.shown))
    lines = [" & ".join(row) + r" \\" for row in [list(text), *text.to_numpy().tolist()]]
    body = "\n".join(["\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule"])
    caption = _escape_latex(". ".join([table.caption, *table.notes]))
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n\\label{{tab:{table.name}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _numeric(frame: pd.DataFrame) -> list[bool]:
    """Which of the printed columns hold numbers, and stand at the right."""
    return [pd.api.types.is_numeric_dtype(frame[name]) for name in printed_columns(frame)]


def _escape_markdown(text: str) -> str:
    for character in "\\`*_|<>[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    character: f"\\{character}" for character in "&%$#_{}"
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
