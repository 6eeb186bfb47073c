"""What a sweep prints when it has ended."""

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from analysis import select_alpha
from rekd.plan import Swept
from rekd.store import Store
from rekd.tasks import Task


def show_alpha(swept: Swept, tasks: list[Task], store: Store, console: Console) -> None:
    """A table a student: RE as the baseline, then REKD at every alpha, the choice marked."""
    runs = swept.results
    for task in tasks:
        of_task = runs[(runs["task"] == task.name) & (runs["model"] != task.teacher)]
        rekd = of_task[(of_task["objective"] == "rekd") & (of_task["status"] != "failed")]
        choices = select_alpha(rekd) if len(rekd) else pd.DataFrame()
        teachers = runs[(runs["task"] == task.name) & (runs["model"] == task.teacher)]
        _teacher_line(console, task, teachers, rekd)
        for student in dict.fromkeys(of_task["model"]):
            rows = of_task[of_task["model"] == student]
            chosen = choices[choices["model"] == student] if len(choices) else choices
            alpha = chosen.iloc[0]["alpha"] if len(chosen) else np.nan
            table = _settings_table(f"{task.name}, {student}", rows.fillna({"alpha": 1.0}), "alpha", alpha)
            console.print(table)
            if len(chosen):
                console.print(f"Choice for {student}: [bold]alpha = {alpha:g}[/]. {chosen.iloc[0]['why']}\n")


def _settings_table(title: str, rows: pd.DataFrame, by: str, chosen: float) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("", "objective", by, "seeds", "dev loss", "dev ratio", "test ratio", "test accuracy"):
        table.add_column(name, justify="left" if name in ("", "objective") else "right")
    for (objective, value), group in rows.groupby(["objective", by], sort=True):
        ok = group[group["status"] == "ok"]
        is_chosen = objective == "rekd" and value == chosen
        table.add_row(
            "→" if is_chosen else "",
            f"{objective} (baseline)" if objective == "re" else str(objective),
            f"{value:g}",
            str(len(ok)) if len(ok) == len(group) else f"{len(ok)} of {len(group)}",
            _mean_std(ok["dev_loss"], "{:.4f}"),
            _mean_std(100 * ok["dev_rationale_ratio"], "{:.1f}", unit=" %"),
            _mean_std(100 * ok["test_rationale_ratio"], "{:.1f}", unit=" %"),
            _mean_std(ok["test_accuracy"], "{:.3f}"),
            style="bold" if is_chosen else "",
        )
    return table


def _mean_std(values: pd.Series, form: str, *, unit: str = "") -> str:
    if values.empty:
        return "-"
    mean = form.format(values.mean())
    return f"{mean}{unit}" if len(values) == 1 else f"{mean} ± {form.format(values.std())}{unit}"


def _teacher_line(console: Console, task: Task, teachers: pd.DataFrame, rekd: pd.DataFrame) -> None:
    used = teachers[teachers["digest"].isin(rekd["teacher_digest"])]
    for _, row in used.iterrows():
        console.print(
            f"{task.name}: teacher {row['model']} of seed {row['seed']} (digest {row['digest']}), dev loss "
            f"{row['dev_loss']:.4f}, dev ratio {row['dev_rationale_ratio']:.1%}, test accuracy {row['test_accuracy']:.3f}."
        )
