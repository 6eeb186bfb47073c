"""What a sweep prints and draws when it has ended."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis import figures, tables
from analysis.report import report
from analysis.selection import alpha_settings, select_alpha, select_lambda_select
from analysis.stages import Stages, split_stages
from rekd.command_line import print_table
from rekd.messages import one_line
from rekd.running.plan import SweepResult
from rekd.store.files import Store
from rekd.tasks.task import Task

RESAMPLING_SEED = 0
"""Of intervals and tests, so that the same ledger prints the same numbers."""

PERFORMANCE = (
    "objective",
    "model",
    "alpha",
    "test_accuracy",
    "test_accuracy_std",
    "change",
    "test_rationale_ratio",
    "test_rationale_ratio_std",
    "num_seeds",
    "num_seeds_expected",
)
"""What a terminal has room for; `python -m analysis tables` has the rest, the paper's numbers too."""

OBJECTIVES = {"cls": "CLS", "re": "RE", "rekd": "REKD"}


def show_alpha(result: SweepResult, tasks: list[Task], store: Store, console: Console) -> None:
    """A table a student: RE, which is alpha = 1, then REKD at every alpha, the choice marked; what REKD gains; a picture."""
    for task in tasks:
        runs = result.rows[result.rows["task"] == task.name]
        rekd = runs[(runs["objective"] == "rekd") & (runs["status"] != "failed")]
        _teacher_line(console, task, runs, rekd)
        choices = select_alpha(rekd)
        for student in dict.fromkeys(runs.loc[runs["model"] != task.teacher, "model"]):
            rows = runs[runs["model"] == student].fillna({"alpha": 1.0})
            chosen = choices[choices["model"] == student]
            alpha = chosen.iloc[0]["alpha"] if len(chosen) else np.nan
            print_table(console, _settings_table(f"{student} on {task.name}", rows, "alpha", alpha, "rekd"))
            if len(chosen):
                console.print(f"Choice for {student}: [bold]alpha = {alpha:g}[/]. {chosen.iloc[0]['why']}")
        if len(rekd):
            stages = split_stages(runs)
            _comparisons(console, stages)
            _draw(figures.alpha_picture, stages, task, store, console)


def show_lambda(result: SweepResult, tasks: list[Task], store: Store, console: Console) -> None:
    """A table a model over lambda_select, the choice marked, the reason below; a picture."""
    for task in tasks:
        runs = result.rows[result.rows["task"] == task.name]
        if runs.empty:
            continue
        choices = select_lambda_select(runs)
        for model in dict.fromkeys(runs["model"]):
            chosen = choices[choices["model"] == model].iloc[0]
            value = chosen["lambda_select"]
            title = f"{model} on {task.name}, p_target {chosen['p_target']:.0%}"
            print_table(console, _settings_table(title, runs[runs["model"] == model], "lambda_select", value, "re"))
            name = "none" if pd.isna(value) else f"lambda_select = {value:g}"
            console.print(f"Choice for {model}: [bold]{name}[/]. {chosen['why']}\n")
        _draw(figures.lambda_picture, split_stages(runs), task, store, console)


def show_p_target(result: SweepResult, tasks: list[Task], store: Store, console: Console) -> None:
    """Ratio and accuracy at every p_target, CLS last; Figure 2."""
    for task in tasks:
        runs = result.rows[result.rows["task"] == task.name]
        for model in dict.fromkeys(runs["model"]):
            rows = runs[runs["model"] == model].fillna({"p_target": 1.0})
            print_table(console, _settings_table(f"{model} on {task.name}", rows, "p_target", np.nan, ""))
        if len(runs):
            _draw(figures.ratio_picture, split_stages(runs), task, store, console)


def show_performance(result: SweepResult, tasks: list[Task], store: Store, console: Console) -> None:
    """Tables 1 to 3: accuracy and ratio of CLS, RE and REKD, the paper's beside; what REKD gains; every seed drawn."""
    for task in tasks:
        runs = result.rows[result.rows["task"] == task.name]
        if runs.empty:
            continue
        stages = split_stages(runs)
        performance = tables.performance_table(stages)
        _print(console, f"CLS, RE and REKD on {task.name}", performance[[n for n in PERFORMANCE if n in performance]])
        _comparisons(console, stages)
        _draw(figures.seeds_picture, stages, task, store, console)


def show_reproduction(result: SweepResult, tasks: list[Task], store: Store, console: Console) -> None:
    """What was chosen, Tables 1 to 3, and the report with everything else."""
    stages = split_stages(result.rows)
    for (name, model), value in stages.used_lambdas.items():
        console.print(f"{name}, {model}: lambda_select = [bold]{value:g}[/]")
    settings = alpha_settings(stages.alphas)
    for _, row in settings[settings["chosen"]].iterrows() if len(settings) else ():
        console.print(f"{row['task']}, {row['model']}: alpha = [bold]{row['alpha']:g}[/]")
    show_performance(result, tasks, store, console)
    path = f"{store.pictures_folder}/report.html"
    _write("Report", path, report(store, rng=np.random.default_rng(RESAMPLING_SEED)).encode(), store, console)


def _settings_table(title: str, rows: pd.DataFrame, by: str, chosen: float, of: str) -> Table:
    """One row a value of `by` and objective; `chosen` is marked among those of objective `of`."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in (by, "seeds", "dev loss", "dev ratio %", "test ratio %", "test accuracy"):
        table.add_column(name, justify="right", no_wrap=True)
    for (objective, value), group in rows.groupby(["objective", by], sort=True):
        ok = group[group["status"] == "ok"]
        is_chosen = objective == of and value == chosen
        table.add_row(
            ("→ " if is_chosen else "  ") + OBJECTIVES[str(objective)],
            f"{value:g}",
            str(len(ok)) if len(ok) == len(group) else f"{len(ok)} of {len(group)}",
            _mean_std(ok["dev_loss"], "{:.3f}"),
            _mean_std(100 * ok["dev_rationale_ratio"], "{:.1f}"),
            _mean_std(100 * ok["test_rationale_ratio"], "{:.1f}"),
            _mean_std(ok["test_accuracy"], "{:.3f}"),
            style="bold" if is_chosen else "",
        )
    return table


def _mean_std(values: pd.Series, form: str) -> str:
    if values.empty:
        return "-"
    mean = form.format(values.mean())
    return mean if len(values) == 1 else f"{mean} ± {form.format(values.std())}"


def _teacher_line(console: Console, task: Task, runs: pd.DataFrame, rekd: pd.DataFrame) -> None:
    for _, row in runs[runs["digest"].isin(rekd["teacher_digest"])].iterrows():
        console.print(
            f"\nTeacher of {task.name}: {row['model']}, seed {row['seed']}, dev loss {row['dev_loss']:.3f}, "
            f"dev ratio {row['dev_rationale_ratio']:.1%}, test accuracy {row['test_accuracy']:.3f} ({row['digest']})."
        )


def _comparisons(console: Console, stages: Stages) -> None:
    for _, row in tables.comparison_table(stages, rng=np.random.default_rng(RESAMPLING_SEED)).iterrows():
        console.print(
            f"{row['model']} on {row['task']}: REKD {row['rekd']:.3f}, RE {row['re']:.3f} in test accuracy; "
            f"difference [bold]{row['difference']:+.3f}[/], 95 % interval {row['low']:+.3f} to {row['high']:+.3f}, "
            f"ahead on {row['num_better']} of {row['num_seeds']} seeds."
        )


def _draw(
    draw: Callable[[Stages, str], figures.Picture | None], stages: Stages, task: Task, store: Store, console: Console
) -> None:
    picture = draw(stages, task.name)
    if picture is not None:
        _write("Picture", f"{store.pictures_folder}/{picture.name}.png", picture.render("png"), store, console)


def _write(what: str, path: str, content: bytes, store: Store, console: Console) -> None:
    """Writes a file of the store that shows results. Without it the results are what they are, so failing is a word."""
    try:
        store.write_once(path, content)  # not patiently: whoever waits is a person, and can type the command again
    except OSError as error:
        console.print(f"{what} not written: {escape(one_line(error))}", soft_wrap=True)
    else:
        console.print(f"{what}: {escape(path)}", soft_wrap=True)


def _print(console: Console, title: str, frame: pd.DataFrame) -> None:
    text = tables.printable(frame)
    table = Table(title=title, title_justify="left")
    for name in text.columns:
        table.add_column(str(name))
    for row in text.to_numpy().tolist():
        table.add_row(*row)
    print_table(console, table)


def show_search(path: Path) -> Callable[[SweepResult, list[Task], Store, Console], None]:
    """The best settings of every study, those within the tolerance first."""

    def show(result: SweepResult, tasks: list[Task], store: Store, console: Console) -> None:
        import optuna

        if path.exists():
            for name in optuna.get_all_study_names(f"sqlite:///{path}"):
                print_table(console, _best_table(optuna.load_study(study_name=name, storage=f"sqlite:///{path}")))
            console.print(
                f"Studies: {escape(str(path))} (`optuna-dashboard sqlite:///{escape(str(path))}`)", soft_wrap=True
            )

    return show


def _best_table(study: Any, most: int = 10) -> Table:
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    table = Table(title=f"{study.study_name}, best of {len(ended)}", title_justify="left")
    names = sorted({name for trial in ended for name in trial.params})
    for name in ("", *names, "dev loss", "dev ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    order = sorted(ended, key=lambda trial: (any(value > 0 for value in trial.constraints.values()), trial.value))
    for rank, trial in enumerate(order[:most]):
        feasible = all(value <= 0 for value in trial.constraints.values())
        ratio = trial.user_attrs.get("dev_rationale_ratio", float("nan"))
        table.add_row(
            "→" if rank == 0 and feasible else "" if feasible else "off",
            *(f"{trial.params[name]:.3g}" for name in names),
            f"{trial.value:.4f}",
            f"{ratio:.1%}",
            style="" if feasible else "dim",
        )
    return table
