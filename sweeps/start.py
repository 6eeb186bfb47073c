"""What leads from a plan to its results: what is done, what would run, running it, and showing what came out."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import FrameType

import pandas as pd
from rich.console import Console
from rich.markup import escape

from analysis import load_trials
from rekd.cluster import autodown
from rekd.cluster.job import Command, hand_over
from rekd.cluster.ray_cluster import FILES, ROOT, find, read_cluster_file
from rekd.command_line import PlainConsole
from rekd.messages import duration, one_line
from rekd.running.estimate import Estimator
from rekd.running.plan import PlanFunction, SweepResult, to_run
from rekd.running.progress import Progress
from rekd.store.files import Store
from rekd.tasks.task import Task
from sweeps.options import RESULTS, Options
from sweeps.planned import TOO_LONG, Outlook, print_cost, print_limits, print_plan, print_price

Show = Callable[..., None]
"""Prints a sweep's results and writes its pictures: called with the result, the tasks, the store, a console and `options`."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep as it was typed: its plan, and what the options say of how it runs."""

    plan: PlanFunction
    tasks: list[Task]
    options: Options
    store: Store
    console: Console
    show: Show

    @cached_property
    def is_on_cluster(self) -> bool:
        """Whether it runs on machines that are not this one."""
        return not self.options.local and bool(self.options.address or os.environ.get("RAY_ADDRESS"))

    @cached_property
    def num_gpus(self) -> int:
        """GPUs of this machine, if it runs here."""
        return 0 if self.is_on_cluster else _local_gpus()

    @property
    def slots(self) -> int | None:
        """Trials at a time, as far as that is known before it runs."""
        return self.options.max_concurrent or (None if self.is_on_cluster else self.num_gpus or os.cpu_count() or 1)

    def outlook(self, results: pd.DataFrame) -> Outlook:
        """What is to do, by what the ledger measured."""
        current = self.plan(results)
        device = "cuda" if self.is_on_cluster or self.num_gpus else "cpu"
        estimator = Estimator(results, self.tasks, device=device)
        return Outlook(plan=current, to_do=to_run(current, results), estimator=estimator)

    def is_slow(self, outlook: Outlook) -> bool:
        """Whether it wants to be asked for twice: there is something to do here, without a GPU, for long."""
        no_gpu = not self.is_on_cluster and not self.num_gpus
        return bool(outlook.to_do) and no_gpu and outlook.work.expected / (self.slots or 1) > TOO_LONG


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
    if not named and not options.dry_run and (cluster := find()) is not None:
        # Its clock may be of another zone.
        more = () if options.until is None else ("--until", options.until.isoformat(timespec="minutes"))
        command = Command.typed(cluster, store=options.store, default_store=RESULTS, more=more)
        return hand_over(cluster, command, partial(console.print, soft_wrap=True))
    sweep = Sweep(plan=plan, tasks=tasks, options=options, store=Store(options.store), console=console, show=show)
    results = load_trials(sweep.store)
    outlook = sweep.outlook(results)
    # A guess is no reason to refuse: a few steps of each model take seconds.
    if options.calibrate or (sweep.is_slow(outlook) and not options.yes and not options.dry_run):
        outlook = outlook.by(_calibrated(outlook, results, tasks))
    every = options.checkpoint_every
    if options.dry_run:
        print_plan(console, outlook, slots=sweep.slots, store=sweep.store, checkpoint_every=every)
        print_limits(console, options, outlook, slots=sweep.slots)
        if outlook.to_do and (options.cluster or sweep.is_slow(outlook) or price is not None):
            _print_cost(sweep, outlook.by(Estimator(results, tasks, device="cuda")), price)
        return 0
    if sweep.is_slow(outlook) and not options.yes:
        print_plan(console, outlook, slots=sweep.slots, store=sweep.store, checkpoint_every=every)
        console.print(
            "\n[bold]Nothing was started:[/] this machine has no GPU, and there is no cluster. "
            "[bold]--task digits[/] is the size for this machine; [bold]--address[/] names a cluster; "
            "[bold]--yes[/] starts here all the same."
        )
        return 2

    if not options.autodown:
        return _finish(sweep, outlook, results)
    autodown.check()
    try:
        return _finish(sweep, outlook, results)
    finally:
        autodown.end_later()
        console.print(f"The cluster ends itself in {autodown.DELAY:.0f} s, unless another sweep runs on it.")


def _finish(sweep: Sweep, outlook: Outlook, results: pd.DataFrame) -> int:
    """Runs what is to do and shows what came out; returns the exit status."""
    store, console = sweep.store, sweep.console
    result = SweepResult.of(outlook.plan, results)
    if outlook.to_do:
        try:
            result = _run(sweep, outlook)
        except KeyboardInterrupt:  # before the first trial, or a second time
            result = SweepResult.of(outlook.plan, load_trials(store), is_interrupted=True)
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
    return _report(sweep, result)


def _calibrated(outlook: Outlook, results: pd.DataFrame, tasks: list[Task]) -> Estimator:
    """Returns an estimator that knows the steps of models that the ledger does not know, timed now."""
    from rekd.running.calibrate import calibrate

    unknown = [trial for trial in outlook.likes if outlook.estimator.basis([trial]) != "ledger"]
    return Estimator(results, tasks, device=outlook.estimator.device, steps=calibrate(tasks, unknown))


def _print_cost(sweep: Sweep, outlook: Outlook, price: float | None) -> None:
    """Prints what it would take and cost on the machines of a cluster file, and at a price of one's own."""
    options = sweep.options
    file = options.cluster or FILES[0]
    if options.cluster or (ROOT / file).exists():
        gpus = options.gpus_of_a_trial
        print_cost(sweep.console, file, read_cluster_file(file), outlook.work, outlook.basis, gpus)
    if price is not None:
        print_price(sweep.console, outlook.work, price)


def _run(sweep: Sweep, outlook: Outlook) -> SweepResult:
    from rekd.cluster.connect import (  # Ray and torch take seconds, and a finished sweep needs neither
        connect,
        disconnect,
    )
    from rekd.running.tune import run_sweep

    options, console = sweep.options, sweep.console
    limits = options.limits()
    callbacks = []
    if options.log:
        from rekd.running.loggers import make_loggers  # loads W&B, where that is installed

        callbacks = make_loggers(options.log, sweep.store)
    cluster = connect(options.address, local=options.local)
    # Ray would end at once. Slurm, say, sends it before it takes the machine away.
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    try:
        afterwards = " The cluster ends itself afterwards (--autodown)." if options.autodown else ""
        place = escape(str(sweep.store))
        console.print(f"Running on {cluster.description}. Results go to {place}.{afterwards}", soft_wrap=True)
        _print_number(console, outlook)
        return run_sweep(
            sweep.plan,
            sweep.store,
            tasks=sweep.tasks,
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


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    """Does what Ctrl-C does, also where that is ignored: as in a command that a script has put into the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def _print_number(console: Console, outlook: Outlook) -> None:
    number, postponed = outlook.num_to_run, outlook.plan.postponed
    console.print(f"{number} trial{'' if number == 1 else 's'} to run, {outlook.num_done} in the ledger already.")
    for needs in dict.fromkeys(group.needs for group in postponed):
        num_trials = sum(group.num_trials for group in postponed if group.needs == needs)
        console.print(f"  {num_trials} of them once there is the {needs}.", style="dim")


def _report(sweep: Sweep, result: SweepResult) -> int:
    store, console = sweep.store, sweep.console
    if len(result.rows):
        sweep.show(result, sweep.tasks, store, console, sweep.options)
    for reason in result.plan.stopped:
        console.print(f"[yellow]Stopped:[/] {escape(reason)}", soft_wrap=True)
    for _, row in result.failed.iterrows():
        console.print(
            f"[red]Failed:[/] {row['digest']} {row['task']} {row['model']} seed {row['seed']}: {escape(row['error'])}"
        )
    if result.held:
        console.print(f"[yellow]Stopped:[/] {escape(result.held)}", soft_wrap=True)
        console.print(_left_line(sweep, result))
    num_missing = len(result.missing) + sum(group.num_trials for group in result.plan.postponed)
    if result.is_interrupted:
        console.print(
            f"\nInterrupted. {len(result.rows)} finished trials are in the ledger {escape(str(store))}, {num_missing} are "
            "missing. Type the same command again to go on; running trials go on from their last epoch."
        )
    console.print(f"\nLedger: {escape(str(store))} (`python -m analysis status {escape(str(store))}`)")
    return 0 if result.is_complete else 1


def _left_line(sweep: Sweep, result: SweepResult) -> str:
    """What a sweep that was held has left, by its plan and by what its trials took."""
    outlook = sweep.outlook(result.rows)
    return (
        f"{len(result.rows)} trials have ended, {outlook.num_to_run} are left, about {duration(outlook.work.expected)} of "
        "work; --dry-run tells which."
    )


def _local_gpus() -> int:
    """GPUs of this machine, without paying for an import of torch where there is no driver."""
    if not Path("/dev/nvidiactl").exists():
        return 0
    import torch

    return torch.cuda.device_count()
