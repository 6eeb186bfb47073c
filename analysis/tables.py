"""The paper's tables from the trials at hand, beside the paper's numbers where it has them.

Tables take `Stages`, the trials of a ledger split by `split_stages`. Each is a frame of numbers; `printable` makes text
of it, `to_markdown` and `to_latex` a file.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import paper
from analysis.frames import narrow, varying_columns
from analysis.selection import alpha_settings, lambda_settings
from analysis.stages import Stages
from analysis.statistics import paired_differences, summarize

OBJECTIVES = ("cls", "re", "rekd")

BEHAVIOUR = (
    "test_token_ratio",
    "test_sufficiency",
    "test_comprehensiveness",
    "test_teacher_overlap",
    "dev_teacher_overlap",
    "test_distinct_masks",
    "dev_teacher_train_share",
)
"""Columns of `trials` about what a model does with its rationales; a ledger need not have them."""


@dataclass(frozen=True)
class Table:
    """A table with what it is called."""

    name: str
    """Fit for a file name, such as `performance-digits`."""
    task: str
    title: str
    """Without the task."""
    frame: pd.DataFrame

    @property
    def caption(self) -> str:
        return f"{self.task}: {self.title}"


def asked_table(trials: pd.DataFrame) -> pd.DataFrame:
    """What was run: the grids of each kind of trial.

    A row is a task, objective and model, by size. Columns: these; `num_ok`, `num_diverged`, `num_failed`; `seeds`,
    `p_target`, `lambda_select`, `alpha`, `epochs`, `fidelity` (the values, as text); `hours` (training, all together).
    """
    rows = []
    for key, group in trials.groupby(["task", "objective", "model"]):
        counts = {f"num_{name}": int((group["status"] == name).sum()) for name in ("ok", "diverged", "failed")}
        grids = {name: _values(group[name]) for name in ("p_target", "lambda_select", "alpha", "epochs", "fidelity")}
        identity = dict(zip(("task", "objective", "model"), key, strict=True))
        hours = group["train_seconds"].sum() / 3600
        rows.append(identity | counts | {"seeds": _values(group["seed"])} | grids | {"hours": hours})
    table = pd.DataFrame(rows)
    return _ordered(table, trials, by_objective=True) if rows else table


def performance_table(stages: Stages) -> pd.DataFrame:
    """Tables 1-3: what CLS, RE and REKD reach at the settings that were chosen.

    A row is a task, objective and model, and whatever else varies among their final trials (such as `teacher_digest`);
    sorted by task, objective (cls, re, rekd) and number of parameters, largest first. Columns: these, `is_teacher`
    (one of the row's trials is a teacher); `p_target`, `lambda_select`, `alpha`; `test_accuracy`, `test_accuracy_std`;
    `change` (RE less CLS, REKD less RE of the same model; missing where that is not one row);
    `test_rationale_ratio`, `test_rationale_ratio_std`; `num_seeds`, `num_seeds_expected`; `paper_...` and
    `difference_...` (ours less the paper's) of accuracy and ratio.
    """
    trials, final = stages.trials, stages.finals
    identity = ["task", "objective", "model"]
    numbers = ["p_target", "lambda_select", "alpha"]
    others = varying_columns(final, identity, ignore=numbers)
    by = [*identity, *others, *numbers]
    table = _whole_input(summarize(final, by, ["test_accuracy", "test_rationale_ratio"]))
    teachers = final[final["digest"].isin(set(trials["teacher_digest"].dropna()))][by].drop_duplicates()
    table["is_teacher"] = table.merge(teachers, on=by, how="left", indicator=True)["_merge"].eq("both").to_numpy()
    table["change"] = np.nan
    for baseline, treatment in (("cls", "re"), ("re", "rekd")):
        before = table[table["objective"] == baseline].set_index(["task", "model"])["test_accuracy"]
        before = before[~before.index.duplicated(keep=False)]
        after = pd.MultiIndex.from_frame(table[["task", "model"]])
        change = table["test_accuracy"].to_numpy() - before.reindex(after).to_numpy()
        table["change"] = table["change"].where(table["objective"] != treatment, pd.Series(change, index=table.index))
    printed = pd.concat([paper.performance(number) for number in (1, 2, 3)])
    table = _beside_paper(table, printed, identity, ["test_accuracy", "test_rationale_ratio"])
    first = [*identity, *others, "is_teacher", *numbers, "test_accuracy", "test_accuracy_std", "change"]
    table = table[[*first, *(name for name in table.columns if name not in first)]]
    return _ordered(table, trials, by_objective=True)


def lambda_table(stages: Stages) -> pd.DataFrame:
    """Tables 4 and 5: `lambda_settings` of `stages.lambdas`, beside the paper's.

    A row is a task, model and `lambda_select` (and what else varies), in this order, models by size. Further columns:
    `paper_...` and `difference_...` of `dev_rationale_ratio` and `dev_loss`.
    """
    table = lambda_settings(stages.lambdas, stages.tolerance)
    printed = pd.concat([paper.lambda_sweep(4), paper.lambda_sweep(5)])
    by = ["task", "model", "p_target", "lambda_select"]
    return _ordered(_beside_paper(table, printed, by, ["dev_rationale_ratio", "dev_loss"]), stages.trials)


def alpha_table(stages: Stages) -> pd.DataFrame:
    """Tables 6 and 7: `alpha_settings` of `stages.alphas`, beside the paper's.

    A row is a task, model and `alpha` (and what else varies), in this order, models by size. Further columns:
    `paper_dev_loss` and `difference_dev_loss`.
    """
    table = alpha_settings(stages.alphas)
    printed = pd.concat([paper.alpha_sweep(6), paper.alpha_sweep(7)])
    return _ordered(_beside_paper(table, printed, ["task", "model", "alpha"], ["dev_loss"]), stages.trials)


def ratio_table(stages: Stages) -> pd.DataFrame:
    """Table 8: what RE reaches at each `p_target`, and CLS, whose `p_target` is missing, last.

    A row is a task, model and `p_target` (and what else varies), in this order, models by size. Columns: these;
    `objective`; `test_rationale_ratio`, `test_accuracy` and their deviations; `num_seeds`, `num_seeds_expected`;
    `paper_...` and `difference_...` of ratio and accuracy.
    """
    rows = stages.ratios
    others = varying_columns(rows, ["task", "model", "objective"], ignore=["p_target"])
    values = ["test_rationale_ratio", "test_accuracy"]
    table = _whole_input(summarize(rows, ["task", "model", *others, "p_target", "objective"], values))
    return _ordered(_beside_paper(table, paper.ratio_sweep(), ["task", "model", "p_target"], values), stages.trials)


def comparison_table(stages: Stages, *, rng: np.random.Generator, value: str = "test_accuracy") -> pd.DataFrame:
    """`paired_differences` of REKD and RE of the same student at the settings that were chosen.

    A row is a task and student (and what else varies among the REKD trials, such as `teacher_digest`), models by size.
    """
    final = stages.finals
    rekd, plain = narrow(final, objective="rekd"), narrow(final, objective="re")
    others = varying_columns(rekd, ["task", "model"])
    # The same RE runs stand beside each variant of REKD.
    variants = rekd[["task", "model", *others]].drop_duplicates()
    paired = pd.concat([rekd, plain.drop(columns=others).merge(variants, on=["task", "model"])])
    baseline_varies = varying_columns(plain, ["task", "model"])
    by = ["task", "model", *others, *(name for name in baseline_varies if name not in others)]
    return _ordered(paired_differences(paired, rng=rng, value=value, by=by), stages.trials)


def behaviour_table(stages: Stages) -> pd.DataFrame:
    """Faithfulness and behaviour of the final RE and REKD trials, as far as the ledger has it.

    A row is a task, objective and model (and what else varies), in this order, models by size. Columns: these; means over
    seeds of `test_rationale_ratio` and of those of `BEHAVIOUR` that the frame has and that are not all missing;
    `num_seeds`.
    """
    final = stages.finals
    final = final[final["objective"] != "cls"]
    identity = ["task", "objective", "model"]
    by = [*identity, *varying_columns(final, identity, ignore=["p_target", "lambda_select", "alpha"])]
    values = ["test_rationale_ratio", *(name for name in BEHAVIOUR if name in final and final[name].notna().any())]
    return _ordered(summarize(final, by, values)[[*by, *values, "num_seeds"]], stages.trials, by_objective=True)


def stopped_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials that diverged or failed, with the reason. A row is a trial, sorted by task, model, objective and seed."""
    columns = ["task", "objective", "model", "seed", "p_target", "lambda_select", "alpha", "status", "error", "digest"]
    stopped = trials[trials["status"] != "ok"]
    return stopped.sort_values(["task", "model", "objective", "seed"], ignore_index=True)[columns]


def all_tables(stages: Stages, *, rng: np.random.Generator) -> list[Table]:
    """Every table of every task that has rows, tasks in alphabetical order; named `<kind>-<task>`."""
    kinds: list[tuple[str, str, dict[str, int], pd.DataFrame]] = [
        ("performance", "Predictive performance of CLS, RE and REKD", {"cifar10": 1, "cifar100": 2, "imdb": 3},
         performance_table(stages)),
        ("comparison", "REKD against RE on the same seeds", {}, comparison_table(stages, rng=rng)),
        ("lambda", "Tuning lambda_select", {"cifar10": 4, "imdb": 5}, lambda_table(stages)),
        ("alpha", "Tuning alpha", {"cifar10": 6, "cifar100": 7}, alpha_table(stages)),
        ("ratio", "Rationale ratio and accuracy", {"cifar10": 8}, ratio_table(stages)),
        ("behaviour", "Faithfulness and behaviour of the rationales", {}, behaviour_table(stages)),
        ("stopped", "Trials that diverged or failed", {}, stopped_table(stages.trials)),
    ]  # fmt: skip
    tables = []
    for task in sorted(stages.trials["task"].unique()):
        for kind, title, numbers, frame in kinds:
            rows = frame[frame["task"] == task].drop(columns="task")
            rows = rows.loc[:, ~(rows.isna() | (rows == "")).all()]
            if len(rows):
                number = f" (the paper's Table {numbers[task]})" if task in numbers else ""
                tables.append(Table(file_name(kind, task), task, f"{title}{number}", rows.reset_index(drop=True)))
    return tables


def file_name(kind: str, task: str) -> str:
    """`<kind>-<task>`, fit for a file and for an id in a page, whatever a task is called."""
    return f"{kind}-{re.sub('[^A-Za-z0-9_-]+', '-', task)}"


def _values(column: pd.Series) -> str:
    """The different values in order, runs of whole numbers as `2026-2035`."""
    values = sorted(column.dropna().unique())
    if len(values) > 2 and pd.api.types.is_integer_dtype(column) and values[-1] - values[0] == len(values) - 1:
        return f"{values[0]}-{values[-1]}"
    return ", ".join(value if isinstance(value, str) else f"{value:g}" for value in values)


def _whole_input(table: pd.DataFrame) -> pd.DataFrame:
    """CLS reads the whole input: its ratio is 1 by definition, without a deviation."""
    cls = table["objective"] == "cls"
    ratio = table["test_rationale_ratio"].mask(cls, 1.0)
    return table.assign(
        test_rationale_ratio=ratio, test_rationale_ratio_std=table["test_rationale_ratio_std"].mask(cls)
    )


def _beside_paper(table: pd.DataFrame, printed: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    names = [name for value in values for name in (value, f"{value}_std") if name in printed]
    printed = printed.assign(model=printed["model"].map(paper.MODEL_NAMES))[[*by, *names]]
    printed = printed.rename(columns={name: f"paper_{name}" for name in names})
    table = table.merge(printed, on=list(by), how="left")
    for name in values:
        table[f"difference_{name}"] = table[name] - table[f"paper_{name}"]
    return table


def _ordered(table: pd.DataFrame, trials: pd.DataFrame, *, by_objective: bool = False) -> pd.DataFrame:
    """By task, objective where asked for, and number of parameters, largest first; otherwise as before."""
    sizes = trials.groupby("model")["num_parameters"].max().astype(float).fillna(0)
    order = pd.DataFrame({"task": table["task"], "objective": 0, "size": -table["model"].map(sizes).astype(float)})
    if by_objective:
        order["objective"] = table["objective"].map({name: index for index, name in enumerate(OBJECTIVES)})
    order["model"] = table["model"]
    order = order.sort_values(["task", "objective", "size", "model"], kind="stable")
    return table.loc[order.index].reset_index(drop=True)


def _plain(value: float) -> str:
    return f"{value:g}"


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
    "num_ok": ("ok", _plain),
    "num_diverged": ("diverged", _plain),
    "num_failed": ("failed", _plain),
    "hours": ("hours", lambda value: f"{value:.2f}"),
    "is_teacher": ("teacher", _yes),
    "lambda_select": ("lambda_select", _plain),
    "test_accuracy": ("accuracy", _share),
    "dev_loss": ("dev loss", _loss),
    "dev_rationale_ratio": ("dev ratio", _percent),
    "test_rationale_ratio": ("ratio", _percent),
    "p_target": ("p_target", _percent),
    "num_seeds": ("seeds", _plain),
    "off_target": ("off target, points", lambda value: f"{value / 100:+g}"),
    "eligible": ("eligible", _yes),
    "chosen": ("chosen", _yes),
    "reason": ("why not eligible", str),
    "change": ("change", _signed),
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
    "num_better": ("seeds ahead", _plain),
    "p_value": ("p (sign flips)", lambda value: f"{value:.2g}"),
    "test_token_ratio": ("ratio over real tokens", _percent),
    "test_sufficiency": ("sufficiency", _signed),
    "test_comprehensiveness": ("comprehensiveness", _signed),
    "test_teacher_overlap": ("overlap with teacher", _percent),
    "dev_teacher_overlap": ("overlap with teacher, dev", _percent),
    "test_distinct_masks": ("distinct masks", _percent),
    "dev_teacher_train_share": ("dev in teacher's train", _percent),
}  # fmt: skip


def printed_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that `printable` makes one of its own for, in order."""
    return [
        str(name)
        for name in frame.columns
        if name != "num_seeds_expected" and not (name.endswith("_std") and name.removesuffix("_std") in frame)
    ]


def printable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as text, with headers for people: deviations in brackets behind their mean, seeds as `9 of 10`."""
    columns: dict[str, list[str]] = {}
    for name in printed_columns(frame):
        header, show = _HEADERS.get(name, (name, _plain if pd.api.types.is_float_dtype(frame[name]) else str))
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
    """The table as GitHub's Markdown, title above."""
    text = printable(table.frame)
    # A bar or a line break in a cell would end it; markup would be taken for markup.
    rows = [[_escape_markdown(cell) for cell in row] for row in [list(text), *text.to_numpy().tolist()]]
    right = [pd.api.types.is_numeric_dtype(table.frame[name]) for name in printed_columns(table.frame)]
    rule = ["---:" if numeric else "---" for numeric in right]
    lines = ["| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]]]
    return f"**{_escape_markdown(f'{table.task}: {table.title}')}**\n\n" + "\n".join(lines) + "\n"


def to_latex(table: Table) -> str:
    """The table as a LaTeX `table` with booktabs' rules, for `\\usepackage{booktabs}`."""
    text = printable(table.frame)
    text.columns = [_escape_latex(name) for name in text.columns]
    text = text.map(_escape_latex)
    right = [pd.api.types.is_numeric_dtype(table.frame[name]) for name in printed_columns(table.frame)]
    columns = "".join("r" if numeric else "l" for numeric in right)
    lines = [" & ".join(row) + r" \\" for row in [list(text), *text.to_numpy().tolist()]]
    body = "\n".join(["\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule"])
    label = f"tab:{table.name}"
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{_escape_latex(f'{table.task}: {table.title}')}}}\n\\label{{{label}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _escape_markdown(text: str) -> str:
    for character in "\\`*_|<>[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    character: f"\\{character}" for character in "&%$#_{}"
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
