"""Every family of encoders and every estimator, a row each: how right it is, how much it selects, what an audit says.

`python -m benchmarks.every_family --store FOLDER --seeds 2026,2027` takes the options of a sweep, and what has ended from its
store. The encoders stand in `benchmarks/every/`, small and without pretrained weights: the table shows that each of them
runs and what it learns at one setting for all, and not which is the best. It is Markdown.
"""

from pathlib import Path

import pandas as pd
from rich.console import Console

from analysis.settings import with_settings
from analysis.verdicts import load_audits
from rekd.running.auditor import audit_task
from rekd.running.plan import Plan, SweepResult
from rekd.running.supplies import Supplies, default_device
from rekd.store.files import Store
from rekd.tasks.task import Task
from sweeps.estimator_sweep import ESTIMATORS
from sweeps.options import Options, run_command
from sweeps.stages import Stage, add_staged
from sweeps.start import start

FAMILIES = tuple(str(Path(__file__).parent / "every" / f"{kind}.toml") for kind in ("images", "texts"))

NUMBERS = ("test_accuracy", "test_rationale_ratio", "test_rationale_f1", "train_seconds")

VERDICTS = ("follows", "is_sufficient", "leaks")

WAYS = (*ESTIMATORS, "FR", "saliency")
"""Rows of the paper's estimator first, a family each."""

HEAD = "| | encoder | seeds | accuracy | ratio | F1 with the truth | follows | suffices | leaks | s |"


def every_family(options: Options) -> int:
    """RE of an encoder of every family, and of the first of each task by every estimator and baseline."""
    tasks = options.tasks(FAMILIES)

    def plan(results: pd.DataFrame) -> Plan:
        plan = Plan()
        for task in tasks:
            stage = Stage(task=task, options=options, results=results, plan=plan)
            for family in options.students_of(task):
                plan.trials += stage.trials("re", family)
            for estimator in ESTIMATORS:
                plan.trials += stage.trials("re", task.teacher, estimator=estimator)
            plan.trials += stage.trials("re", task.teacher, encoder="shared")
            add_staged(stage, task.teacher)
        return plan

    return start(plan, tasks, options, show=show)


def show(result: SweepResult, tasks: list[Task], store: Store, console: Console, options: Options) -> None:
    """Audits what has ended, and prints the table of each task."""
    supplies, asked = Supplies(store, device=default_device()), set(result.rows["digest"])
    for task in tasks:
        for _ in audit_task(task, supplies, only=asked):
            pass
        rows = with_settings(result.rows[result.rows["task"] == task.name])
        console.print(f"{task.name}\n\n" + "\n".join(table(rows, load_audits(store))), soft_wrap=True, markup=False)


def table(trials: pd.DataFrame, audits: pd.DataFrame) -> list[str]:
    """The lines of a task's table: a row a way to a rationale and encoder, by `WAYS` and the encoder's name."""
    selecting = trials[(trials["objective"] == "re") & (trials["status"] == "ok")]
    known = selecting.assign(way=pd.Categorical(ways(selecting), WAYS)).sort_values(["way", "model"])
    known = known.merge(audits[["digest", *VERDICTS]], on="digest", how="left")
    lines = [HEAD, "|---" * HEAD.count(" |") + "|"]
    for (way, model), rows in known.groupby(["way", "model"], sort=False, observed=True):
        numbers = [cell(rows[name], percent=name == "test_rationale_ratio") for name in NUMBERS[:-1]]
        found = ["-" if rows[name].isna().all() else f"{int(rows[name].sum())} of {len(rows)}" for name in VERDICTS]
        cells = [way, model, len(rows), *numbers, *found, f"{rows['train_seconds'].mean():.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def ways(trials: pd.DataFrame) -> pd.Series:
    """How each trial comes to a rationale: its estimator, or FR where both parts share an encoder."""
    estimators = trials["estimator"].fillna("gumbel")
    return estimators.where(trials["encoder"] != "shared", "FR")


def cell(values: pd.Series, *, percent: bool) -> str:
    """A mean and, of several, the deviation."""
    told = [values.mean(), *([values.std()] if len(values) > 1 else [])]
    first, *deviation = [f"{100 * value:.1f} %" if percent else f"{value:.3f}".removeprefix("0") for value in told]
    return " ".join([first, *(f"({part})" for part in deviation)])


if __name__ == "__main__":
    run_command(every_family, prog_name="python -m benchmarks.every_family")
