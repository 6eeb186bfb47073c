"""`python -m analysis`: everything after training, from the command line."""

import csv
import re
import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from analysis import figures, tables
from analysis.advice import advised
from analysis.copies import encoded, harmless, ledger_files, trackio_files
from analysis.experiment import Stages, split_stages
from analysis.frames import load_epochs, load_trials
from analysis.gallery import gallery
from analysis.macros import to_macros
from analysis.query import query as run_query
from analysis.rationales import students_of
from analysis.report import report as write_report
from analysis.selection import (
    SelectionRule,
    lambda_rule,
    select_alpha,
    select_lambda_select,
    select_teacher,
    teacher_rule,
)
from analysis.settings import labels
from analysis.status import status as status_of
from rekd.command_line import PlainConsole, bad_input
from rekd.messages import cell, duration, number, plain
from rekd.store.files import Store

MOST_ROWS = 100
"""Rows of a query that a terminal shows."""

app = typer.Typer(
    name="analysis",
    help="Selections, tables, figures and the report of a store.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
console = PlainConsole(highlight=False, markup=False)

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="Folder or URI with the results.")]
ToleranceOption = Annotated[
    float, typer.Option(help="How far a mean rationale ratio may be from p_target; 0.01 is one percentage point.")
]
TaskOption = Annotated[list[str] | None, typer.Option("--task", help="Only this task; may be repeated.")]


class Baseline(StrEnum):
    """Which RE runs REKD is compared with."""

    same = "same"
    chosen = "chosen"


class Method(StrEnum):
    """Where intervals and p-values come from."""

    student = "student"
    exact = "exact"
    bootstrap = "bootstrap"


BaselineOption = Annotated[
    Baseline, typer.Option(help="RE to compare REKD with: at the same setting, or at its own choice by rule.")
]
MethodOption = Annotated[
    Method, typer.Option("--interval", help="Student's t, exact sign flips, or the studentized bootstrap.")
]


class Layout(StrEnum):
    """File formats of tables."""

    markdown = "markdown"
    latex = "latex"
    csv = "csv"


class Copy(StrEnum):
    """File formats of the ledger's tables."""

    csv = "csv"
    parquet = "parquet"
    trackio = "trackio"


class Drawing(StrEnum):
    """File formats of figures."""

    pdf = "pdf"
    svg = "svg"
    png = "png"


@app.command()
def select(store: StoreArgument, tolerance: ToleranceOption = 0.01, task: TaskOption = None) -> None:
    """Shows which lambda_select, alpha and teacher the rules choose, and why."""
    with bad_input():
        stages = _stages(store, tolerance, task)
        _show_choices("lambda_select", select_lambda_select(stages.lambdas, tolerance))
        _show_choices("alpha", select_alpha(stages.alphas))
        _show_choices("teacher", select_teacher(stages.teachers, tolerance))
        _say_next(lambda_rule(tolerance), stages.lambdas, store)
        _say_next(teacher_rule(tolerance), stages.teachers, store)


@app.command("tables")
def tables_command(
    store: StoreArgument,
    out: Annotated[Path | None, typer.Option(help="Folder for one file a table and format.")] = None,
    format: Annotated[list[Layout] | None, typer.Option(help="With --out; may be repeated [default: all].")] = None,
    tolerance: ToleranceOption = 0.01,
    task: TaskOption = None,
    baseline: BaselineOption = Baseline.same,
    interval: MethodOption = Method.student,
) -> None:
    """Shows the paper's tables with the trials at hand, the paper's numbers beside them; or writes them to files."""
    with bad_input():
        made = tables.all_tables(_stages(store, tolerance, task), baseline=baseline.value, method=interval.value)
        if out is None:
            for table in made:
                _show(table.caption, tables.printable(table.shown), table.notes)
            return
        for table in made:
            for layout in format or list(Layout):
                if layout is Layout.markdown:
                    _write(out / f"{table.name}.md", tables.to_markdown(table).encode())
                elif layout is Layout.latex:
                    _write(out / f"{table.name}.tex", tables.to_latex(table).encode())
                else:
                    _write(out / f"{table.name}.csv", table.frame.map(cell).to_csv(index=False).encode())
        console.print(f"{len(made)} tables are in {out}.")


@app.command("figures")
def figures_command(
    store: StoreArgument,
    out: Annotated[Path | None, typer.Option(help="Folder for the files [default: STORE/figures].")] = None,
    format: Annotated[list[Drawing] | None, typer.Option(help="May be repeated [default: pdf and png].")] = None,
    tolerance: ToleranceOption = 0.01,
    task: TaskOption = None,
) -> None:
    """Writes the figures: ratio against accuracy, the sweeps with the chosen point, training curves, seeds."""
    with bad_input():
        stages = _stages(store, tolerance, task)
        pictures = figures.all_pictures(stages, load_epochs(store, stages.finals["digest"].tolist()))
        students = students_of(Store(store), stages)
        drawn = (gallery(students, task) for task in sorted({student.task for student in students}))
        pictures += [picture for picture in drawn if picture is not None]
        for picture in pictures:
            for drawing in format or [Drawing.pdf, Drawing.png]:
                name, content = f"{picture.name}.{drawing.value}", picture.render(drawing.value)
                if out is None:
                    Store(store).write(f"{Store(store).pictures_folder}/{name}", content)
                else:
                    _write(out / name, content)
        console.print(f"{len(pictures)} figures are in {out or Store(store).pictures_folder}.")


@app.command("report")
def report_command(
    store: StoreArgument,
    out: Annotated[Path | None, typer.Option(help="The HTML file [default: STORE/figures/report.html].")] = None,
    tolerance: ToleranceOption = 0.01,
    baseline: BaselineOption = Baseline.same,
    interval: MethodOption = Method.student,
    watch: Annotated[
        bool, typer.Option("--watch/--once", help="Serve it to this machine, with what runs now; or write the file.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --watch; 0 is any free one.")] = 8643,
) -> None:
    """Writes the report: one HTML file that needs no network; or serves it while a sweep runs."""
    options = {"tolerance": tolerance, "baseline": baseline.value, "method": interval.value}
    with bad_input():
        if watch:
            _watch(store, options, port)
            return
        content = write_report(store, **options).encode()
        if out is None:
            place = Store(store)
            path = f"{place.pictures_folder}/report.html"
            place.write(path, content)
        else:
            path = str(out)
            _write(out, content)
        console.print(f"The report is {path} ({len(content) / 1e6:.1f} MB).", soft_wrap=True)


def _watch(store: str, options: dict[str, Any], port: int) -> None:
    from analysis.live import LiveReport
    from rekd.loopback import serve

    _require_store(store)
    ready = partial(_say, "The report is {} and follows what runs (Ctrl-C ends it).")
    serve(LiveReport(store, options).app(), port=port, ready=ready)


def _say(sentence: str, what: str) -> None:
    console.print(sentence.format(what), soft_wrap=True)


@app.command("export-ledger")
def export_ledger_command(
    store: StoreArgument,
    to: Annotated[
        Copy, typer.Option(help="The format of the files; trackio is CSV and a script that puts it there.")
    ] = Copy.csv,
    out: Annotated[Path, typer.Option(help="Folder for a file a table: trials, epochs, audits.")] = Path("ledger"),
) -> None:
    """Writes the ledger for other programs: all trials, epochs and audits, as CSV or Parquet."""
    with bad_input():
        _require_store(store)
        names = []
        for name, content in trackio_files(store) if to is Copy.trackio else ledger_files(store, to.value):
            _write(out / name, content)
            names.append(name)
        console.print(f"{', '.join(names)} are in {out}.", soft_wrap=True)
        if to is Copy.trackio:
            console.print(f"Where trackio is installed, `python {out / names[-1]}` puts them there.", soft_wrap=True)


@app.command("macros")
def macros_command(store: StoreArgument, tolerance: ToleranceOption = 0.01, task: TaskOption = None) -> None:
    """Prints a LaTeX macro for every number of the main tables: `rekd macros STORE > numbers.tex`."""
    with bad_input():
        print(to_macros(_stages(store, tolerance, task), source=f"the store {store}"), end="")


@app.command("query")
def query_command(
    store: StoreArgument,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="A SELECT over the tables trials and epochs.")],
    out: Annotated[Path | None, typer.Option(help="A .csv or .parquet file for all rows.")] = None,
) -> None:
    """Answers SQL over the ledger: a table in a terminal, CSV where the output is not one."""
    with bad_input():
        if out is not None and out.suffix not in (".csv", ".parquet"):
            raise ValueError(f"--out is a .csv or a .parquet file, got {out}.")
        _require_store(store)
        answer = run_query(store, sql)
        if out is not None:
            _write(out, encoded(answer, "csv" if out.suffix == ".csv" else "parquet"))
            console.print(f"{answer.num_rows} rows are in {out}.", soft_wrap=True)
        elif console.is_terminal:
            frame = answer.slice(0, MOST_ROWS).to_pandas()
            _show("", frame.map(lambda value: "" if pd.api.types.is_scalar(value) and pd.isna(value) else str(value)))
            if answer.num_rows > MOST_ROWS:
                console.print(f"{MOST_ROWS} of {answer.num_rows} rows; --out FILE.csv writes all.")
        else:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(answer.column_names)
            for row in zip(*(column.to_pylist() for column in harmless(answer).columns), strict=True):
                writer.writerow([plain(each) if isinstance(each, str) else each for each in row])


@app.command("status")
def status_command(store: StoreArgument) -> None:
    """Shows what is done, running, diverged and failed, and how long the running trials will take."""
    with bad_input():
        _require_store(store)
        now = status_of(store)
        names = {"num_ok": "done", "num_running": "running", "num_failed": "failed", "num_diverged": "diverged"}
        kinds = now.kinds[["task", "objective", "model", *names, "seconds_each", "seconds_left"]]
        kinds = kinds.assign(
            seconds_each=[duration(seconds) for seconds in kinds["seconds_each"]],
            seconds_left=[duration(seconds) for seconds in kinds["seconds_left"]],
        ).rename(columns={**names, "seconds_each": "each takes", "seconds_left": "left, one by one"})
        _show("", kinds.astype(str))
        for _, trial in now.running.iterrows():
            known = trial[["task", "model", "objective"]].dropna()
            what = " ".join(map(str, known)) if len(known) else "trial"
            seed = "" if pd.isna(trial["seed"]) else f" seed={trial['seed']}"
            of = "" if pd.isna(trial["epochs"]) else f" of {trial['epochs']}"
            last = f", last checkpoint {duration(trial['idle_seconds'])} ago" if trial["epoch"] else ""
            stopped = "; it has probably been stopped, and goes on when its sweep is started again"
            if trial["is_claimed"]:  # its sweep sees to it, where that lives
                stopped = "; it hangs, or its sweep was killed"
            console.print(
                f"{trial['digest']} {what}{seed}: epoch {trial['epoch']}{of}{last}{stopped if trial['is_idle'] else ''}."
            )
        if len(now.running):
            left = duration(now.seconds_left)
            console.print(f"Left for what is running: {left}." if left else "Left for what is running: not known yet.")


def _stages(store: str, tolerance: float, tasks: list[str] | None) -> Stages:
    _require_store(store)
    trials = load_trials(store)
    if trials.empty:
        raise ValueError(
            f"The store {store} holds no finished trial. `python -m analysis status` shows what is running."
        )
    unknown = sorted(set(tasks or []) - set(trials["task"]))
    if unknown:
        have = ", ".join(sorted(trials["task"].unique()))
        raise ValueError(f"The store {store} has no trials of the task {', '.join(unknown)}. It has {have}.")
    return split_stages(trials[trials["task"].isin(tasks)] if tasks else trials, tolerance)


def _require_store(store: str) -> None:
    place = Store(store)
    if not place.exists(place.root):
        raise ValueError(f"There is no store at {store}. Give the folder or URI that the sweep's --store named.")


def _show_choices(title: str, choices: pd.DataFrame) -> None:
    """What a rule chose, its reasons below: a sentence has no room in a column of a terminal."""
    table = tables.telling(choices)
    if not console.is_terminal:
        _show(title, tables.printable(table))
        return
    told = ["why", "num_settings", "num_eligible", "nearest_lambda_select", "nearest_seed"]
    _show(title, tables.printable(table.drop(columns=told, errors="ignore")))
    for label, (_, row) in zip(labels(choices), choices.iterrows(), strict=True):
        console.print(f"{row.get('task', '')} {label}: {row['why']}".strip())
    console.print()


def _say_next(rule: SelectionRule, trials: pd.DataFrame, store: str) -> None:
    """What to type for each group in which a rule finds nothing, and why."""
    for group, advice in advised(rule, trials):
        told = []
        if advice.lambdas:
            words = [
                "--task",
                group["task"],
                "--models",
                group["model"],
                "--lambdas",
                ",".join(map(number, advice.lambdas)),
            ]
            told.append(f"python sweeps/lambda_sweep.py {shlex.join([*words, '--store', store])}")
        told += [f"--teacher-seed {advice.seed} of the sweep"] if advice.seed is not None else []
        told += [f"--tolerance {number(advice.tolerance)}"] if advice.tolerance is not None else []
        console.print(f"{group['task']} {group['model']}: {advice.why} Next: {', or '.join(told)}", soft_wrap=True)


def _show(title: str, text: pd.DataFrame, notes: Sequence[str] = ()) -> None:
    """A table in a terminal, in parts side under side where it is too wide; tab-separated lines elsewhere."""
    if not console.is_terminal:
        if title:
            print(f"# {title}")
        for row in [list(text.columns), *text.to_numpy().tolist()]:
            print("\t".join(plain(re.sub(r"\s+", " ", str(each))) for each in row))
        for note in notes:
            print(f"# {plain(note)}")
        print()
        return
    if title:
        console.print(title, style="bold")
    for names in _parts_that_fit(text, console.width):
        shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in names:
            shown.add_column(Text(name))
        for row in text[names].to_numpy().tolist():
            shown.add_row(*(Text(cell) for cell in row))
        console.print(shown)
    for note in notes:
        console.print(note, style="dim")


def _parts_that_fit(text: pd.DataFrame, width: int) -> list[list[str]]:
    """Columns for each part of a table; the leading ones that say what a row is about are in every part."""
    widths = {str(name): 3 + max([len(str(name)), *text[name].str.len()]) for name in text}
    leading = [name for name in ("task", "objective", "model") if name in widths]
    parts = [list(leading)]
    for name in [name for name in widths if name not in leading]:
        if len(parts[-1]) > len(leading) and 1 + sum(widths[kept] for kept in [*parts[-1], name]) > width:
            parts.append(list(leading))
        parts[-1].append(name)
    return parts


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
