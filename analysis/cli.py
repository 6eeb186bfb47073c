"""`python -m analysis`: everything after training, from the command line."""

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import typer
from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from analysis import figures, tables
from analysis.experiment import Stages, split_stages
from analysis.frames import load_epochs, load_trials
from analysis.query import query as run_query
from analysis.report import report as write_report
from analysis.selection import select_alpha, select_lambda_select, select_teacher
from analysis.settings import labels
from analysis.status import status as status_of
from rekd.command_line import PlainConsole, print_error
from rekd.messages import cell, duration, plain
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


class Drawing(StrEnum):
    """File formats of figures."""

    pdf = "pdf"
    svg = "svg"
    png = "png"


@app.command()
def select(store: StoreArgument, tolerance: ToleranceOption = 0.01, task: TaskOption = None) -> None:
    """Shows which lambda_select, alpha and teacher the rules choose, and why."""
    with _bad_input():
        stages = _stages(store, tolerance, task)
        _show_choices("lambda_select", select_lambda_select(stages.lambdas, tolerance))
        _show_choices("alpha", select_alpha(stages.alphas))
        _show_choices("teacher", select_teacher(stages.teachers, tolerance))


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
    with _bad_input():
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
    with _bad_input():
        stages = _stages(store, tolerance, task)
        pictures = figures.all_pictures(stages, load_epochs(store, stages.finals["digest"].tolist()))
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
) -> None:
    """Writes the report: one HTML file that needs no network."""
    with _bad_input():
        content = write_report(store, tolerance=tolerance, baseline=baseline.value, method=interval.value).encode()
        if out is None:
            place = Store(store)
            path = f"{place.pictures_folder}/report.html"
            place.write(path, content)
        else:
            path = str(out)
            _write(out, content)
        console.print(f"The report is {path} ({len(content) / 1e6:.1f} MB).", soft_wrap=True)


@app.command("query")
def query_command(
    store: StoreArgument,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="A SELECT over the tables trials and epochs.")],
    out: Annotated[Path | None, typer.Option(help="A .csv or .parquet file for all rows.")] = None,
) -> None:
    """Answers SQL over the ledger: a table in a terminal, CSV where the output is not one."""
    with _bad_input():
        if out is not None and out.suffix not in (".csv", ".parquet"):
            raise ValueError(f"--out is a .csv or a .parquet file, got {out}.")
        _require_store(store)
        answer = run_query(store, sql)
        if out is not None:
            sink = pa.BufferOutputStream()
            if out.suffix == ".csv":
                pacsv.write_csv(_harmless(answer), sink)
            else:
                pq.write_table(answer, sink)
            _write(out, sink.getvalue().to_pybytes())
            console.print(f"{answer.num_rows} rows are in {out}.", soft_wrap=True)
        elif console.is_terminal:
            frame = answer.slice(0, MOST_ROWS).to_pandas()
            _show("", frame.map(lambda value: "" if pd.api.types.is_scalar(value) and pd.isna(value) else str(value)))
            if answer.num_rows > MOST_ROWS:
                console.print(f"{MOST_ROWS} of {answer.num_rows} rows; --out FILE.csv writes all.")
        else:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(answer.column_names)
            for row in zip(*(column.to_pylist() for column in _harmless(answer).columns), strict=True):
                writer.writerow([plain(each) if isinstance(each, str) else each for each in row])


@app.command("status")
def status_command(store: StoreArgument) -> None:
    """Shows what is done, running, diverged and failed, and how long the running trials will take."""
    with _bad_input():
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


def _harmless(answer: pa.Table) -> pa.Table:
    """Texts that a spreadsheet would compute begin with an apostrophe."""
    for number, field in enumerate(answer.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            texts = pa.array([cell(text) for text in answer.column(number).to_pylist()], field.type)
            answer = answer.set_column(number, field.name, texts)
    return answer


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


@contextmanager
def _bad_input() -> Iterator[None]:
    """What a user can put right is one message and exit status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        print_error(error)
        raise typer.Exit(2) from error
