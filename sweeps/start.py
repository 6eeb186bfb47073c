"""From a plan to its results: what is done, what would run, running it, and showing what came out."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis import load_trials
from rekd.estimate import COLUMNS as ESTIMATOR_COLUMNS
from rekd.estimate import Estimator, Seconds
from rekd.launched import find
from rekd.plan import Plan, PlanFunction, Swept, to_run
from rekd.progress import Progress, duration
from rekd.remote import Command, hand_over
from rekd.store import Store, StoreUnavailableError
from rekd.tasks import Task
from rekd.trial import Trial
from sweeps.options import RESULTS, Options

TOO_LONG = 12 * 3600.0
"""Seconds on a machine without a GPU beyond which a sweep wants to be asked for twice."""

BASES = {
    "arithmetic": "a guess from arithmetic; --calibrate times a few steps of each model",
    "calibration": "from a few steps of each model, timed just now",
    "ledger": "measured in runs of the ledger",
}
"""What an estimate rests on, for people."""

Show = Callable[[Swept, list[Task], Store, Console], None]
"""Prints a sweep's results and writes its pictures."""


def start(plan: PlanFunction, tasks: list[Task], options: Options, *, show: Show, price: float | None = None) -> int:
    """Runs a sweep as the options say. Returns the exit status: 0 where every trial has a result, else 1; 2 where it
    was not started.

    Raises ValueError on bad input, before anything is started or written.
    """
    console = Console(highlight=False)
    named = options.local or options.address or os.environ.get("RAY_ADDRESS")
    if not named and not options.dry_run and (launched := find()) is not None:
        command = Command.typed(launched, store=options.store, default_store=RESULTS)
        return hand_over(launched, command, partial(console.print, soft_wrap=True))
    store = Store(options.store)
    results = load_trials(store)
    current = plan(results)
    waiting = to_run(current, results)

    on_cluster = not options.local and bool(options.address or os.environ.get("RAY_ADDRESS"))
    num_gpus = 0 if on_cluster else _local_gpus()
    slots = options.max_concurrent or (None if on_cluster else num_gpus or os.cpu_count() or 1)
    estimator = Estimator(results, tasks, device="cuda" if on_cluster or num_gpus else "cpu")
    if options.calibrate:
        from rekd.calibrate import calibrate

        likes = [*waiting, *(group.like for group in current.waiting)]
        unknown = [trial for trial in likes if estimator.basis([trial]) != "ledger"]
        estimator = Estimator(results, tasks, device=estimator.device, steps=calibrate(tasks, unknown))
    work = _work(current, waiting, estimator)
    if options.dry_run:
        _print_plan(console, current, waiting, estimator, work, slots, store, price)
        return 0
    too_long = not on_cluster and not num_gpus and work.expected / (slots or 1) > TOO_LONG
    if waiting and too_long and not options.yes:
        _print_plan(console, current, waiting, estimator, work, slots, store, price)
        console.print(
            "\n[bold]Nothing was started:[/] this machine has no GPU, and there is no cluster. "
            "[bold]--task digits[/] is the size for this machine; [bold]--address[/] names a cluster; "
            "[bold]--yes[/] starts here all the same."
        )
        return 2

    swept = Swept.of(current, results)
    if waiting:
        try:
            swept = _run(plan, current, waiting, tasks, options, store, console)
        except StoreUnavailableError as error:
            console.print(
                f"[red]Stopped:[/] {escape(str(error))} What had ended before is in the ledger; type the same command "
                "again when the store takes files, and running trials go on from their last epoch.",
                soft_wrap=True,
            )
            return 1
    elif swept.results.empty:
        raise ValueError("The sweep has no trials. Check --models and the grid.")
    else:
        console.print(f"All {len(swept.results)} trials are in the ledger {store}; nothing is trained.")
    return _report(swept, tasks, store, console, show)


def _run(
    plan: PlanFunction,
    current: Plan,
    waiting: list[Trial],
    tasks: list[Task],
    options: Options,
    store: Store,
    console: Console,
) -> Swept:
    from rekd.cluster import connect, disconnect  # Ray and torch take seconds, and a finished sweep needs neither
    from rekd.tune import run_sweep

    callbacks = []
    if options.log:
        from rekd.loggers import make_loggers  # loads W&B, where that is installed

        callbacks = make_loggers(options.log, store)
    cluster = connect(options.address, local=options.local)
    try:
        console.print(f"Running on {cluster.description}. Results go to {store}.")
        num_done = len(current.unique_trials()) - len(waiting)
        later = sum(group.num_trials for group in current.waiting)
        console.print(f"{len(waiting) + later} trials to run, {num_done} in the ledger already.")
        for needs in dict.fromkeys(group.needs for group in current.waiting):
            num_trials = sum(group.num_trials for group in current.waiting if group.needs == needs)
            console.print(f"  {num_trials} of them once there is the {needs}.", style="dim")
        return run_sweep(
            plan,
            store,
            tasks=tasks,
            cluster=cluster,
            progress=Progress(console),
            gpus_per_trial=options.gpus_per_trial,
            max_concurrent=options.max_concurrent,
            callbacks=callbacks,
        )
    finally:
        disconnect()


def _report(swept: Swept, tasks: list[Task], store: Store, console: Console, show: Show) -> int:
    if len(swept.results):
        show(swept, tasks, store, console)
    for reason in swept.plan.stopped:
        console.print(f"[yellow]Stopped:[/] {escape(reason)}")
    for _, row in swept.failed.iterrows():
        console.print(
            f"[red]Failed:[/] {row['digest']} {row['task']} {row['model']} seed {row['seed']}: {escape(row['error'])}"
        )
    num_missing = len(swept.missing) + sum(group.num_trials for group in swept.plan.waiting)
    if swept.interrupted:
        console.print(
            f"\nInterrupted. {len(swept.results)} finished trials are in the ledger {store}, {num_missing} are missing. "
            "Type the same command again to go on; running trials go on from their last epoch."
        )
    console.print(f"\nLedger: {store} (`python -m analysis status {store}`)")
    return 0 if swept.is_complete else 1


def _work(plan: Plan, waiting: list[Trial], estimator: Estimator) -> Seconds:
    work = estimator.total(waiting)
    for group in plan.waiting:
        work = work + estimator.seconds(group.like) * group.num_trials
    return work


def _print_plan(
    console: Console,
    plan: Plan,
    waiting: list[Trial],
    estimator: Estimator,
    work: Seconds,
    slots: int | None,
    store: Store,
    price: float | None,
) -> None:
    undone = {trial.digest for trial in waiting}
    table = Table(title="Plan", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "grid"):
        table.add_column(name, no_wrap=True)
    for name in ("trials", "done", "to run", "each takes"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [(name, group, len(group), sum(trial.digest not in undone for trial in group), "")
            for name, group in _by_model(plan.unique_trials().values())]  # fmt: skip
    for name, group in _by_model(waiting.like for waiting in plan.waiting):
        num_trials = sum(waiting.num_trials for waiting in plan.waiting if waiting.like in group)
        if num_trials:
            rows.append((name, group, num_trials, 0, "dim"))
    for task in dict.fromkeys(name[0] for name, *_ in rows):
        table.add_row(f"[bold]{task}[/]")
        for (_, model, objective), group, num_trials, num_done, style in (row for row in rows if row[0][0] == task):
            numbers = (str(num_trials), str(num_done), str(num_trials - num_done))
            table.add_row(f"  {objective} {model}", _grid(group), *numbers, _about(estimator, group[0]), style=style)
    console.print(table)

    num_later = sum(group.num_trials for group in plan.waiting)
    num_unique = len(plan.unique_trials()) + num_later
    num_asked = len(plan.trials) + num_later + sum(group.num_shared for group in plan.waiting)
    shared = f", {num_asked - num_unique} shared between parts of the sweep" if num_asked > num_unique else ""
    console.print(
        f"{num_unique} trials{shared}: {len(plan.unique_trials()) - len(waiting)} in the ledger {store}, "
        f"{len(waiting) + num_later} to run."
    )
    needs = list(dict.fromkeys(group.needs for group in plan.waiting))
    if needs:
        console.print(f"Dim rows follow once these are chosen: {', '.join(needs)}.", style="dim")
    for reason in plan.stopped:
        console.print(f"[yellow]Stopped:[/] {escape(reason)}")
    if not work.expected:
        return
    basis = estimator.basis([*waiting, *(group.like for group in plan.waiting)])
    source = BASES[basis]
    wall = f", {duration(work.expected / slots)} with {slots} at a time" if slots else ""
    console.print(f"Time: {_span(work)}{wall}; {source}.")
    if basis == "arithmetic" and estimator.device == "cpu" and work.expected > TOO_LONG:
        gpu = Estimator(pd.DataFrame(columns=ESTIMATOR_COLUMNS), estimator.tasks.values(), device="cuda")
        work = _work(plan, waiting, gpu)
        console.print(
            f"On L40S GPUs: {_gpu_hours(work)}, {duration(work.expected / 120)} with 120 of them; a guess too."
        )
    if price is not None:
        low, expected, high = (value / 3600 * price for value in (work.low, work.expected, work.high))
        console.print(f"Price: {expected:,.0f} ({low:,.0f} to {high:,.0f}) at {price:g} a GPU-hour.")


def _span(work: Seconds) -> str:
    return f"{duration(work.expected)} of work ({duration(work.low)} to {duration(work.high)})"


def _gpu_hours(work: Seconds) -> str:
    low, expected, high = (value / 3600 for value in (work.low, work.expected, work.high))
    return f"{expected:,.0f} GPU-hours ({low:,.0f} to {high:,.0f})"


def _by_model(trials: Iterable[Trial]) -> list[tuple[tuple[str, str, str], list[Trial]]]:
    def key(trial: Trial) -> tuple[str, str, str]:
        return trial.task, trial.model, trial.objective

    return [(name, list(group)) for name, group in groupby(sorted(trials, key=key), key=key)]


def _grid(trials: list[Trial]) -> str:
    """What varies among trials, such as `6 lambda_select x 10 seeds`."""
    counts = {name: len({getattr(trial, name) for trial in trials}) for name in ("p_target", "lambda_select", "alpha")}
    counts["seed"] = len({trial.seed for trial in trials})
    parts = [f"{count} {name.removesuffix('_select')}s" for name, count in counts.items() if count > 1]
    return " x ".join(parts)


def _about(estimator: Estimator, trial: Trial) -> str:
    seconds = estimator.seconds(trial)
    return ("~" if estimator.basis([trial]) == "arithmetic" else "") + duration(seconds.expected)


def _local_gpus() -> int:
    """GPUs of this machine, without paying for an import of torch where there is no driver."""
    if not Path("/dev/nvidiactl").exists():
        return 0
    import torch

    return torch.cuda.device_count()
