"""What leads from a plan to its results: what is done, what would run, running it, and showing what came out."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape

from analysis import load_trials
from rekd.cluster import autodown
from rekd.cluster.job import Command, hand_over
from rekd.cluster.launched import FILES, ROOT, find, read_cluster_file
from rekd.command_line import PlainConsole
from rekd.messages import one_line
from rekd.running.estimate import Estimator
from rekd.running.plan import Plan, PlanFunction, SweepResult, to_run
from rekd.running.progress import Progress
from rekd.store.files import Store
from rekd.tasks.task import Task
from rekd.trial import Trial
from sweeps.options import RESULTS, Options
from sweeps.planned import TOO_LONG, print_cost, print_plan, print_price, work_of

Show = Callable[[SweepResult, list[Task], Store, Console], None]
"""Prints a sweep's results and writes its pictures."""


def start(plan: PlanFunction, tasks: list[Task], options: Options, *, show: Show, price: float | None = None) -> int:
    """Runs a sweep as the options say. Returns the exit status: 0 where every trial has a result, else 1; 2 where it
    was not started.

    Ctrl-C and SIGTERM end it with status 1, what has ended in the ledger and shown.

    Raises ValueError on bad input, before anything is started or written.
    """
    console = PlainConsole(highlight=False)
    if options.autodown and options.local:
        raise ValueError("--autodown ends a rented cluster, and --local runs on this machine. Leave one of them out.")
    named = options.local or options.address or os.environ.get("RAY_ADDRESS")
    if not named and not options.dry_run and (launched := find()) is not None:
        command = Command.typed(launched, store=options.store, default_store=RESULTS)
        return hand_over(launched, command, partial(console.print, soft_wrap=True))
    store = Store(options.store)
    results = load_trials(store)
    current = plan(results)
    to_do = to_run(current, results)

    on_cluster = not options.local and bool(options.address or os.environ.get("RAY_ADDRESS"))
    num_gpus = 0 if on_cluster else _local_gpus()
    slots = options.max_concurrent or (None if on_cluster else num_gpus or os.cpu_count() or 1)
    estimator = Estimator(results, tasks, device="cuda" if on_cluster or num_gpus else "cpu")
    work = work_of(current, to_do, estimator)
    is_slow = not on_cluster and not num_gpus and work.expected / (slots or 1) > TOO_LONG
    # A guess is no reason to refuse: a few steps of each model take seconds.
    if options.calibrate or (to_do and is_slow and not options.yes and not options.dry_run):
        estimator = _calibrated(estimator, current, to_do, results, tasks)
        work = work_of(current, to_do, estimator)
        is_slow &= work.expected / (slots or 1) > TOO_LONG
    every = options.checkpoint_every
    if options.dry_run:
        print_plan(console, current, to_do, estimator, work, slots, store, checkpoint_every=every)
        if to_do and (options.cluster or is_slow or price is not None):
            _print_cost(console, options, current, to_do, results, tasks, price)
        return 0
    if to_do and is_slow and not options.yes:
        print_plan(console, current, to_do, estimator, work, slots, store, checkpoint_every=every)
        console.print(
            "\n[bold]Nothing was started:[/] this machine has no GPU, and there is no cluster. "
            "[bold]--task digits[/] is the size for this machine; [bold]--address[/] names a cluster; "
            "[bold]--yes[/] starts here all the same."
        )
        return 2

    if not options.autodown:
        return _started(plan, current, to_do, results, tasks, options, store, console, show)
    autodown.check()
    try:
        return _started(plan, current, to_do, results, tasks, options, store, console, show)
    finally:
        autodown.end_later()
        console.print(f"The cluster ends itself in {autodown.DELAY:.0f} s, unless another sweep runs on it.")


def _started(
    plan: PlanFunction,
    current: Plan,
    to_do: list[Trial],
    results: pd.DataFrame,
    tasks: list[Task],
    options: Options,
    store: Store,
    console: Console,
    show: Show,
) -> int:
    """Runs what is to do and shows what came out; the exit status."""
    result = SweepResult.of(current, results)
    if to_do:
        try:
            result = _run(plan, current, to_do, tasks, options, store, console)
        except KeyboardInterrupt:  # before the first trial, or a second time
            result = SweepResult.of(current, load_trials(store), is_interrupted=True)
        except OSError as error:
            console.print(
                f"[red]Stopped:[/] {escape(one_line(error).rstrip('.'))}. What had ended before is in the ledger; type the "
                "same command again when the store takes files, and running trials go on from their last epoch.",
                soft_wrap=True,
            )
            return 1
    elif result.rows.empty:
        raise ValueError("The sweep has no trials. Check --models and the grid.")
    else:
        console.print(f"All {len(result.rows)} trials are in the ledger {escape(str(store))}; nothing is trained.")
    return _report(result, tasks, store, console, show)


def _calibrated(
    estimator: Estimator, plan: Plan, to_do: list[Trial], results: pd.DataFrame, tasks: list[Task]
) -> Estimator:
    """The same with the steps of models that the ledger does not know, timed now."""
    from rekd.running.calibrate import calibrate

    likes = [*to_do, *(group.like for group in plan.postponed)]
    unknown = [trial for trial in likes if estimator.basis([trial]) != "ledger"]
    return Estimator(results, tasks, device=estimator.device, steps=calibrate(tasks, unknown))


def _print_cost(
    console: Console,
    options: Options,
    plan: Plan,
    to_do: list[Trial],
    results: pd.DataFrame,
    tasks: list[Task],
    price: float | None,
) -> None:
    """What it would take and cost on the machines of a cluster file, and at a price of one's own."""
    on_gpus = Estimator(results, tasks, device="cuda")
    work = work_of(plan, to_do, on_gpus)
    file = options.cluster or FILES[0]
    if options.cluster or (ROOT / file).exists():
        basis = on_gpus.basis([*to_do, *(group.like for group in plan.postponed)])
        gpus = options.gpus_per_trial if isinstance(options.gpus_per_trial, float) else 1.0
        print_cost(console, file, read_cluster_file(file), work, basis, gpus)
    if price is not None:
        print_price(console, work, price)


def _run(
    plan: PlanFunction,
    current: Plan,
    to_do: list[Trial],
    tasks: list[Task],
    options: Options,
    store: Store,
    console: Console,
) -> SweepResult:
    from rekd.cluster.connect import (  # Ray and torch take seconds, and a finished sweep needs neither
        connect,
        disconnect,
    )
    from rekd.running.tune import run_sweep

    limits = options.limits()
    callbacks = []
    if options.log:
        from rekd.running.loggers import make_loggers  # loads W&B, where that is installed

        callbacks = make_loggers(options.log, store)
    cluster = connect(options.address, local=options.local)
    # Ray would end at once. Slurm, say, sends it before it takes the machine away.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        afterwards = " The cluster ends itself afterwards (--autodown)." if options.autodown else ""
        console.print(f"Running on {cluster.description}. Results go to {escape(str(store))}.{afterwards}")
        num_done = len(current.unique_trials()) - len(to_do)
        later = sum(group.num_trials for group in current.postponed)
        num_to_run = len(to_do) + later
        console.print(f"{num_to_run} trial{'' if num_to_run == 1 else 's'} to run, {num_done} in the ledger already.")
        for needs in dict.fromkeys(group.needs for group in current.postponed):
            num_trials = sum(group.num_trials for group in current.postponed if group.needs == needs)
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
            limits=limits,
            checkpoint_every=options.checkpoint_every,
        )
    finally:
        disconnect()


def _report(result: SweepResult, tasks: list[Task], store: Store, console: Console, show: Show) -> int:
    if len(result.rows):
        show(result, tasks, store, console)
    for reason in result.plan.stopped:
        console.print(f"[yellow]Stopped:[/] {escape(reason)}")
    for _, row in result.failed.iterrows():
        console.print(
            f"[red]Failed:[/] {row['digest']} {row['task']} {row['model']} seed {row['seed']}: {escape(row['error'])}"
        )
    if result.held:
        console.print(f"[yellow]Stopped:[/] {escape(result.held)}", soft_wrap=True)
        console.print(_left_line(result))
    num_missing = len(result.missing) + sum(group.num_trials for group in result.plan.postponed)
    if result.is_interrupted:
        console.print(
            f"\nInterrupted. {len(result.rows)} finished trials are in the ledger {escape(str(store))}, {num_missing} are "
            "missing. Type the same command again to go on; running trials go on from their last epoch."
        )
    console.print(f"\nLedger: {escape(str(store))} (`python -m analysis status {escape(str(store))}`)")
    return 0 if result.is_complete else 1


def _left_line(result: SweepResult) -> str:
    """What a sweep that was held has left, by its plan."""
    later = sum(group.num_trials for group in result.plan.postponed)
    return (
        f"{len(result.rows)} trials have ended, {len(result.missing) + later} are left; --dry-run tells what they take."
    )


def _local_gpus() -> int:
    """GPUs of this machine, without paying for an import of torch where there is no driver."""
    if not Path("/dev/nvidiactl").exists():
        return 0
    import torch

    return torch.cuda.device_count()
