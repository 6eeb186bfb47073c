"""From a plan to its results: what is done, what would run, running it, and showing what came out."""

import os
from collections.abc import Callable, Iterable
from itertools import groupby

import pandas as pd
from rich.console import Console
from rich.table import Table

from analysis import load_trials
from rekd.estimate import Estimator, Seconds
from rekd.plan import Plan, PlanFunction, Swept, to_run
from rekd.progress import Progress, duration
from rekd.store import Store
from rekd.tasks import Task
from rekd.trial import Trial
from sweeps.options import Options

TOO_LONG = 12 * 3600.0
"""Seconds on a machine without a GPU beyond which a sweep wants to be asked for twice."""

Show = Callable[[Swept, list[Task], Store, Console], None]
"""Prints a sweep's results and writes its pictures."""


def start(plan: PlanFunction, tasks: list[Task], options: Options, *, show: Show) -> int:
    """Runs a sweep as the options say. Returns the exit status: 0 where every trial has a result, else 1; 2 where it
    was not started.

    Raises ValueError on bad input, before anything is started or written.
    """
    console = Console(highlight=False)
    store = Store(options.store)
    results = load_trials(store)
    current = plan(results)
    waiting = to_run(current, results)

    on_cluster = not options.local and bool(options.address or os.environ.get("RAY_ADDRESS"))
    num_gpus = 0 if on_cluster else _local_gpus()
    slots = options.max_concurrent or (None if on_cluster else num_gpus or os.cpu_count() or 1)
    estimator = Estimator(results, tasks, device="cuda" if on_cluster or num_gpus else "cpu")
    work = _work(current, waiting, estimator)
    if options.dry_run:
        _print_plan(console, current, results, waiting, estimator, work, slots, store)
        return 0
    too_long = not on_cluster and not num_gpus and work.expected / (slots or 1) > TOO_LONG
    if waiting and too_long and not options.yes:
        _print_plan(console, current, results, waiting, estimator, work, slots, store)
        console.print(
            "\n[bold]Nothing was started:[/] this machine has no GPU, and there is no cluster. "
            "[bold]--task digits[/] is the size for this machine; [bold]--address[/] names a cluster; "
            "[bold]--yes[/] starts here all the same."
        )
        return 2

    swept = Swept.of(current, results)
    if waiting:
        swept = _run(plan, current, waiting, tasks, options, store, console)
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

    cluster = connect(options.address, local=options.local)
    try:
        console.print(f"Running on {cluster.description}. Results go to {store}.")
        num_done = len(current.unique_trials()) - len(waiting)
        later = sum(group.num_trials for group in current.waiting)
        console.print(f"{len(waiting) + later} trials to run, {num_done} in the ledger already.")
        for group in current.waiting:
            console.print(f"  {group.what}: {group.num_trials} trials once there is {group.needs}.", style="dim")
        return run_sweep(
            plan,
            store,
            tasks=tasks,
            cluster=cluster,
            progress=Progress(console),
            gpus_per_trial=options.gpus_per_trial,
            max_concurrent=options.max_concurrent,
        )
    finally:
        disconnect()


def _report(swept: Swept, tasks: list[Task], store: Store, console: Console, show: Show) -> int:
    if len(swept.results):
        show(swept, tasks, store, console)
    for reason in swept.plan.stopped:
        console.print(f"[yellow]Stopped:[/] {reason}")
    for _, row in swept.failed.iterrows():
        console.print(
            f"[red]Failed:[/] {row['digest']} {row['task']} {row['model']} seed {row['seed']}: {row['error']}"
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
    results: pd.DataFrame,
    waiting: list[Trial],
    estimator: Estimator,
    work: Seconds,
    slots: int | None,
    store: Store,
) -> None:
    undone = {trial.digest for trial in waiting}
    table = Table(title="Plan", title_justify="left")
    for name in ("task", "model", "objective", "setting"):
        table.add_column(name)
    for name in ("trials", "done", "to run", "a trial takes"):
        table.add_column(name, justify="right")
    for (task, model, objective, setting), group in _by_setting(plan.unique_trials().values()):
        num_done = sum(trial.digest not in undone for trial in group)
        seconds = _about(estimator.seconds(group[0]), estimator.is_measured(group[0]))
        table.add_row(
            task, model, objective, setting, str(len(group)), str(num_done), str(len(group) - num_done), seconds
        )
    for group in plan.waiting:
        trial = group.like
        seconds = _about(estimator.seconds(trial), estimator.is_measured(trial))
        table.add_row(
            trial.task, trial.model, trial.objective, _setting(trial), str(group.num_trials), "0",
            str(group.num_trials), seconds, style="dim",
        )  # fmt: skip
    console.print(table)
    later = sum(group.num_trials for group in plan.waiting)
    console.print(
        f"{len(plan.unique_trials()) + later} trials: {len(plan.unique_trials()) - len(waiting)} in the ledger {store}, "
        f"{len(waiting) + later} to run."
    )
    for needs in dict.fromkeys(group.needs for group in plan.waiting):
        console.print(f"Dim rows follow once there is {needs}.")
    for reason in plan.stopped:
        console.print(f"[yellow]Stopped:[/] {reason}")
    if work.expected:
        total = f"{duration(work.low)} to {duration(work.high)}, expected {duration(work.expected)}"
        if slots:
            total += f" of work; {duration(work.expected / slots)} with {slots} at a time"
        source = "from runs in the ledger" if all(map(estimator.is_measured, waiting)) else "from arithmetic, a guess"
        console.print(f"Time: {total} ({source}).")


def _by_setting(trials: Iterable[Trial]) -> Iterable[tuple[tuple[str, str, str, str], list[Trial]]]:
    def key(trial: Trial) -> tuple[str, str, str, str]:
        return trial.task, trial.model, trial.objective, _setting(trial)

    return [(name, list(group)) for name, group in groupby(sorted(trials, key=key), key=key)]


def _setting(trial: Trial) -> str:
    names = ("p_target", "lambda_select", "alpha")
    return " ".join(f"{name}={getattr(trial, name):g}" for name in names if getattr(trial, name) is not None)


def _about(seconds: Seconds, is_measured: bool) -> str:
    return duration(seconds.expected) if is_measured else f"{duration(seconds.low)} - {duration(seconds.high)}"


def _local_gpus() -> int:
    """GPUs of this machine, without paying for an import of torch where there is no driver."""
    if not os.path.exists("/dev/nvidiactl") and "CUDA_VISIBLE_DEVICES" not in os.environ:  # noqa: PTH110
        return 0
    import torch

    return torch.cuda.device_count()
