"""What a sweep prints and draws when it has ended."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis import figures, load_epochs, tables
from analysis.advice import advised
from analysis.experiment import Stages, split_stages
from analysis.gallery import gallery
from analysis.rationales import students_of
from analysis.report import report
from analysis.selection import alpha_settings, lambda_rule, select_alpha, select_lambda_select
from analysis.settings import (
    labels,
    matching,
    percent,
    setting_columns,
    shown,
    telling_columns,
    variants,
    with_settings,
)
from analysis.verdicts import audit_sentence, audit_table, load_audits
from rekd.command_line import print_table
from rekd.messages import number, one_line
from rekd.running.plan import SweepResult
from rekd.store.files import Store
from rekd.store.ledger import BUDGET_COLUMNS
from rekd.tasks.task import Task, load_task
from sweeps.options import Options
from sweeps.typed import next_command

NO_ROOM_FOR = ("is_teacher", "p_target", "lambda_select", "num_pairs", "change_note")
"""What a terminal has no room for, the paper's numbers beside; `python -m analysis tables` has it all."""

OBJECTIVES = {"cls": "CLS", "re": "RE", "rekd": "REKD"}


def show_alpha(result: SweepResult, tasks: list[Task], store: Store, console: Console, options: Options) -> None:
    """A table a student: RE, which is alpha = 1, then REKD at every alpha, the choice marked; what REKD gains; a picture."""
    for task in tasks:
        runs = with_settings(result.rows[result.rows["task"] == task.name])
        rekd = runs[(runs["objective"] == "rekd") & (runs["status"] != "failed")]
        _teacher_line(console, task, runs, rekd)
        choices = select_alpha(rekd)
        for student in dict.fromkeys(runs.loc[runs["model"] != task.teacher, "model"]):
            rows = runs[runs["model"] == student].fillna({"alpha": 1.0})
            chosen = choices[choices["model"] == student]
            print_table(console, _settings_table(f"{student} on {task.name}", rows, "alpha", chosen))
            _say_steps(console, rows, store)
            _say_choices(console, chosen, "alpha")
        if len(rekd):
            stages = split_stages(runs, options.tolerance)
            _comparisons(console, stages)
            _draw(figures.alpha_picture, stages, task, store, console)
            _draw(lambda stages, name: gallery(students_of(store, stages), name), stages, task, store, console)


def show_lambda(result: SweepResult, tasks: list[Task], store: Store, console: Console, options: Options) -> None:
    """A table a model over lambda_select, the choice marked, the reason below; a picture."""
    for task in tasks:
        runs = with_settings(result.rows[result.rows["task"] == task.name])
        if runs.empty:
            continue
        choices = select_lambda_select(runs, options.tolerance)
        for model in dict.fromkeys(runs["model"]):
            chosen = choices[choices["model"] == model]
            title = f"{model} on {task.name}, p_target {', '.join(map(percent, chosen['p_target'].unique()))}"
            print_table(console, _settings_table(title, runs[runs["model"] == model], "lambda_select", chosen))
            _say_choices(console, chosen, "lambda_select")
            _say_next(console, runs[runs["model"] == model], task, model, options)
            console.print()
        _draw(figures.lambda_picture, split_stages(runs, options.tolerance), task, store, console)


def show_p_target(result: SweepResult, tasks: list[Task], store: Store, console: Console, options: Options) -> None:
    """Ratio and accuracy at every p_target, CLS last; Figure 2."""
    for task in tasks:
        runs = with_settings(result.rows[result.rows["task"] == task.name])
        for model in dict.fromkeys(runs["model"]):
            rows = runs[runs["model"] == model].fillna({"p_target": 1.0})
            print_table(console, _settings_table(f"{model} on {task.name}", rows, "p_target"))
        if len(runs):
            _draw(figures.ratio_picture, split_stages(runs, options.tolerance), task, store, console)


def show_performance(result: SweepResult, tasks: list[Task], store: Store, console: Console, options: Options) -> None:
    """Tables 1 to 3: accuracy and ratio of CLS, RE and REKD; what REKD gains; every seed drawn."""
    for task in tasks:
        runs = result.rows[result.rows["task"] == task.name]
        if runs.empty:
            continue
        stages = split_stages(runs, options.tolerance)
        performance = tables.telling(tables.performance_table(stages).drop(columns="task"))
        paper = [name for name in performance if str(name).startswith(("paper_", "difference_"))]
        performance = performance.drop(columns=[*NO_ROOM_FOR, *paper], errors="ignore")
        _print(console, f"CLS, RE and REKD on {task.name}", performance)
        _comparisons(console, stages)
        _draw(figures.seeds_picture, stages, task, store, console)


def show_budgets(result: SweepResult, tasks: list[Task], store: Store, console: Console, options: Options) -> None:
    """What each setting reaches by itself, at exactly `p_target`, and over all budgets; the curves."""
    for task in tasks:
        runs = with_settings(result.rows[result.rows["task"] == task.name])
        table = tables.budget_table(runs)
        if table.empty:
            continue
        table = tables.telling(table.drop(columns=["task", *BUDGET_COLUMNS], errors="ignore"))
        _print(console, f"At exact budgets on {task.name}", table.drop(columns=[*NO_ROOM_FOR], errors="ignore"))
        _draw(figures.budget_picture, split_stages(runs, options.tolerance), task, store, console)


def show_reproduction(result: SweepResult, tasks: list[Task], store: Store, console: Console, options: Options) -> None:
    """What was chosen, Tables 1 to 3, and the report with everything else."""
    stages = split_stages(result.rows, options.tolerance)
    settings = alpha_settings(stages.alphas)
    for frame, name in ((stages.used, "lambda_select"), (settings[settings["chosen"]], "alpha")):
        for label, (_, row) in zip(labels(frame), frame.iterrows(), strict=True):
            console.print(f"{row['task']}, {label}: {name} = [bold]{number(row[name])}[/]")
    show_performance(result, tasks, store, console, options)
    path = f"{store.pictures_folder}/report.html"
    _write("Report", path, report(store, tolerance=options.tolerance).encode(), store, console)


def show_best(
    result: SweepResult,
    task: Task,
    store: Store,
    console: Console,
    options: Options,
    *,
    lambdas: Mapping[str, float],
    audited: bool,
    to: Path,
) -> None:
    """What was tuned, the students beside their RE at the chosen `lambdas`, what audits find, and where the best model is.

    With `audited` the final runs are audited now; the best model is exported into a folder under `to`.
    """
    runs = result.rows[result.rows["task"] == task.name]
    re = runs["objective"] == "re"
    show_lambda(replace(result, rows=runs[re]), [task], store, console, options)
    at_choice = runs["lambda_select"] == runs["model"].map(lambdas)
    served = runs["digest"].isin(set(runs["teacher_digest"].dropna()))
    finals = runs[served | (at_choice & ~(re & (runs["model"] == task.teacher)))]
    show_alpha(replace(result, rows=finals), [task], store, console, options)
    if not (finals["objective"] == "rekd").any():
        return
    candidates = _candidates(with_settings(finals), task)
    if audited:
        _audit(task, pd.concat([candidates, runs[served]]), store, console)
    found = audit_table(finals, load_audits(store))
    for _, row in found.iterrows():
        console.print(f"{row['label']}: {audit_sentence(row)}", soft_wrap=True)
    if found.empty:
        named = next((name for name in options.task or () if load_task(name).name == task.name), task.name)
        command = shlex.join(["python", "-m", "rekd", "audit", "--task", named, "--store", str(store)])
        console.print(f"Not audited. Next: `{escape(command)}`", soft_wrap=True)
    best = _best_runs(candidates)
    for _, row in best.iterrows():
        console.print(
            f"Best of {row['model']}: {OBJECTIVES[str(row['objective'])]}, seed {row['seed']}, dev accuracy "
            f"{row['dev_accuracy']:.3f}, test accuracy {row['test_accuracy']:.3f}: {escape(store.model_folder(row['digest']))}",
            soft_wrap=True,
        )
    folder = _export(best.iloc[0], to, store, console)
    console.print(
        f"[bold]Best student:[/] {best.iloc[0]['model']}. `python -m rekd explain {escape(folder)} INPUT` shows what it "
        "selects.",
        soft_wrap=True,
    )


def _audit(task: Task, rows: pd.DataFrame, store: Store, console: Console) -> None:
    """Audits these trials, unless they ran on GPUs and this machine has none: its judge would take too long."""
    from rekd.running.auditor import audit_task
    from rekd.running.supplies import Supplies, default_device

    device = default_device()
    if device.type == "cpu" and not rows["device"].isin(["cpu", ""]).all():
        return
    try:
        num_audited = sum(1 for _ in audit_task(task, Supplies(store, device=device), only=set(rows["digest"])))
    except (ValueError, OSError) as error:  # what is trained and chosen is told anyhow
        console.print(f"The audit ended early: {escape(one_line(error))}", soft_wrap=True)
    else:
        console.print(f"{num_audited} trials audited now.", style="dim")


def _export(row: pd.Series, to: Path, store: Store, console: Console) -> str:
    """Exports the model of a row into a folder of its own, which it returns; that of the trial where it cannot be."""
    from rekd.handover.export import export_model

    folder = to / f"{row['task']}-{row['model']}-{row['digest']}"
    try:
        if not folder.exists():
            export_model(row["digest"], folder, store=str(store))
    except (ValueError, OSError) as error:
        console.print(f"Not exported: {escape(one_line(error))}", soft_wrap=True)
        return store.model_folder(row["digest"])
    console.print(
        f"Exported to {escape(str(folder))}; its card is {escape(str(folder / 'README.md'))}.", soft_wrap=True
    )
    return str(folder)


def _candidates(finals: pd.DataFrame, task: Task) -> pd.DataFrame:
    """The students' runs of RE and of the chosen alpha, those that have ended well."""
    rekd = finals[finals["objective"] == "rekd"]
    at_alpha = matching(rekd, select_alpha(rekd).dropna(subset="alpha"), ["model", "alpha"])
    both = pd.concat([finals[(finals["objective"] == "re") & (finals["model"] != task.teacher)], at_alpha])
    return both[both["status"] == "ok"]


def _best_runs(candidates: pd.DataFrame) -> pd.DataFrame:
    """A run for each student: of its best setting, RE's or that of the chosen alpha, the one of the lowest dev loss; the best
    student, by dev accuracy over seeds, first.

    Dev losses compare within a student, whose settings have one lambda_select, and accuracies everywhere.
    """
    means = candidates.groupby(["model", "objective"])[["dev_loss", "dev_accuracy"]].mean().reset_index()
    best = means.sort_values("dev_loss").drop_duplicates("model").sort_values("dev_accuracy", ascending=False)
    runs = candidates.sort_values("dev_loss").drop_duplicates(["model", "objective"])
    return best[["model", "objective"]].merge(runs, on=["model", "objective"])


def _settings_table(title: str, rows: pd.DataFrame, by: str, chosen: pd.DataFrame | None = None) -> Table:
    """One row a setting, by objective and `by`; what a rule chose is marked, `chosen` being rows of its result.

    Where the truth of rationales is known, their F1 with it stands beside the accuracy, in the place of the test ratio.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    others = telling_columns(rows, but=[by])
    for name in ("", *others):
        table.add_column(name, no_wrap=True)
    has_truth = "test_rationale_f1" in rows and rows["test_rationale_f1"].notna().any()
    last = ("test accuracy", "rationale F1") if has_truth else ("test ratio %", "test accuracy")
    for name in (by, "seeds", "dev loss", "dev ratio %", *last):
        table.add_column(name, justify="right", no_wrap=True)
    keys = ["objective", *others, by, *setting_columns(rows, but=("objective", *others, by))]
    marked = matching(rows, chosen, setting_columns(chosen)).index if chosen is not None else rows.index[:0]
    for _, group in rows.groupby(keys, dropna=False, sort=True):
        ok = group[group["status"] == "ok"]
        accuracy = _mean_std(ok["test_accuracy"], "{:.3f}")
        ratio = _mean_std(100 * ok["test_rationale_ratio"], "{:.1f}")
        first, is_chosen = group.iloc[0], group.index.isin(marked).all()
        table.add_row(
            ("→ " if is_chosen else "  ") + OBJECTIVES[str(first["objective"])],
            *("" if pd.isna(first[name]) else shown(name, first[name]) for name in others),
            number(first[by]),
            str(len(ok)) if len(ok) == len(group) else f"{len(ok)} of {len(group)}",
            _mean_std(ok["dev_loss"], "{:.3f}"),
            _mean_std(100 * ok["dev_rationale_ratio"], "{:.1f}"),
            *((accuracy, _mean_std(ok["test_rationale_f1"], "{:.3f}")) if has_truth else (ratio, accuracy)),
            style="bold" if is_chosen else "",
        )
    return table


def _say_steps(console: Console, rows: pd.DataFrame, store: Store) -> None:
    """How many steps of training the epochs of a student are."""
    trained = rows[rows["status"] == "ok"]
    epochs = load_epochs(store, trained["digest"].tolist())
    last = epochs.sort_values("step").drop_duplicates("digest", keep="last")
    steps = last.merge(trained[["digest", "epochs"]], on="digest")[["epochs", "step"]].drop_duplicates()
    told = [f"{row['epochs']} epochs are {row['step']:,}" for row in steps.sort_values("step").to_dict("records")]
    if told:
        console.print(f"Steps of training: {', '.join(told)}.", style="dim")


def _say_choices(console: Console, choices: pd.DataFrame, name: str) -> None:
    """What a rule chose for a model, and why: a line a group."""
    for variant, (_, row) in zip(variants(choices), choices.iterrows(), strict=True):
        value = "none" if pd.isna(row[name]) else f"{name} = {number(row[name])}"
        whom = f"{row['model']}, {variant}" if variant else row["model"]
        console.print(f"Choice for {whom}: [bold]{value}[/]. {row['why']}")


def _say_next(console: Console, runs: pd.DataFrame, task: Task, model: str, options: Options) -> None:
    """What to type where the rule has found no lambda_select for a model, and why: a line a group."""
    for _, advice in advised(lambda_rule(options.tolerance), runs):
        command = next_command(options, task, model, advice)
        console.print(f"{advice.why} [bold]Next:[/] {escape(command)}", soft_wrap=True)


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
    table = tables.comparison_table(stages)
    for variant, (_, row) in zip(variants(table), table.iterrows(), strict=True):
        who = f"{row['model']} on {row['task']}" + (f", {variant}" if variant else "")
        console.print(f"{who}: {tables.comparison_sentence(row)} {tables.longer_sentence(stages, row)}".rstrip())
    for note in tables.notes_on(stages.finals):
        console.print(note, style="dim")


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


def show_search(path: Path, studies: Callable[[], Sequence[tuple[Any, str]]]) -> Callable[..., None]:
    """Shows the best settings of the studies of a search, those within the tolerance first.

    With each study comes a word on why none may be within it.
    """

    def show(result: SweepResult, tasks: list[Task], store: Store, console: Console, options: Options) -> None:
        for study, why_none in studies():
            ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
            console.print(f"{escape(study.study_name)}, best of {len(ended)}", soft_wrap=True)
            print_table(console, _best_table(ended))
            if ended and not any(map(_is_feasible, ended)):
                console.print(f"No setting is {lambda_rule(options.tolerance).within}.{why_none}", soft_wrap=True)
        if path.exists():
            console.print(
                f"Studies: {escape(str(path))} (`optuna-dashboard {escape(address_of(path))}`)", soft_wrap=True
            )

    return show


def address_of(path: Path) -> str:
    """What Optuna and its dashboard open, whatever characters a path has."""
    from sqlalchemy import URL

    address = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    return address.replace("{", "%7B").replace("}", "%7D")  # Optuna fills in templates


def _is_feasible(trial: Any) -> bool:
    return all(value <= 0 for value in trial.constraints.values())


def _best_table(ended: Sequence[Any], most: int = 10) -> Table:
    table = Table()
    names = sorted({name for trial in ended for name in trial.params})
    for name in ("", *names, "seeds", "dev loss", "dev ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    order = sorted(ended, key=lambda trial: (not _is_feasible(trial), trial.value))
    for rank, trial in enumerate(order[:most]):
        feasible = _is_feasible(trial)
        ratio = trial.user_attrs.get("dev_rationale_ratio", float("nan"))
        table.add_row(
            "→" if rank == 0 and feasible else "" if feasible else "off",
            *(f"{trial.params[name]:.3g}" for name in names),
            str(trial.user_attrs.get("num_seeds", "")),
            f"{trial.value:.4f}",
            f"{ratio:.1%}",
            style="" if feasible else "dim",
        )
    return table
