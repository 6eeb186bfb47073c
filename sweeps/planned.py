"""What a sweep would do, before it does it: trials, time, money, and how students hear their teacher."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rekd.cluster.prices import dollars, kind_for, kinds_of, read_prices
from rekd.command_line import print_table
from rekd.messages import duration, size
from rekd.running.estimate import Estimator, Seconds
from rekd.running.plan import Plan
from rekd.running.written import written
from rekd.store.files import Store
from rekd.trial import Trial

TOO_LONG = 12 * 3600.0
"""Seconds on a machine without a GPU beyond which a sweep wants to be asked for twice."""

BASES = {
    "arithmetic": "a guess from arithmetic; --calibrate times a few steps of each model",
    "calibration": "from a few steps of each model, timed just now",
    "ledger": "measured in runs of the ledger",
}
"""What an estimate rests on, for people."""


def work_of(plan: Plan, to_do: list[Trial], estimator: Estimator) -> Seconds:
    """Estimates all that is still to run, on one slot."""
    work = estimator.total(to_do)
    for group in plan.postponed:
        work = work + estimator.seconds(group.like) * group.num_trials
    return work


def print_plan(
    console: Console,
    plan: Plan,
    to_do: list[Trial],
    estimator: Estimator,
    work: Seconds,
    slots: int | None,
    store: Store,
    *,
    checkpoint_every: float,
) -> None:
    """Trials by task, model and objective, what is done of them, and what the rest will take."""
    undone = {trial.digest for trial in to_do}
    table = Table(title="Plan", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "grid"):
        table.add_column(name, no_wrap=True)
    for name in ("trials", "done", "to run", "each takes"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [(name, group, len(group), sum(trial.digest not in undone for trial in group), "")
            for name, group in _by_model(plan.unique_trials().values())]  # fmt: skip
    for name, group in _by_model(later.like for later in plan.postponed):
        num_trials = sum(later.num_trials for later in plan.postponed if later.like in group)
        if num_trials:
            rows.append((name, group, num_trials, 0, "dim"))
    for task in dict.fromkeys(name[0] for name, *_ in rows):
        table.add_row(f"[bold]{task}[/]")
        for (_, model, objective), group, num_trials, num_done, style in (row for row in rows if row[0][0] == task):
            numbers = (str(num_trials), str(num_done), str(num_trials - num_done))
            table.add_row(f"  {objective} {model}", _grid(group), *numbers, _about(estimator, group[0]), style=style)
    print_table(console, table)

    num_later = sum(group.num_trials for group in plan.postponed)
    num_unique = len(plan.unique_trials()) + num_later
    num_asked = len(plan.trials) + num_later + sum(group.num_shared for group in plan.postponed)
    shared = f", {num_asked - num_unique} shared between parts of the sweep" if num_asked > num_unique else ""
    console.print(
        f"{num_unique} trials{shared}: {len(plan.unique_trials()) - len(to_do)} in the ledger {escape(str(store))}, "
        f"{len(to_do) + num_later} to run."
    )
    needs = list(dict.fromkeys(group.needs for group in plan.postponed))
    if needs:
        console.print(f"Dim rows follow once these are chosen: {', '.join(needs)}.", style="dim")
    for reason in plan.stopped:
        console.print(f"[yellow]Stopped:[/] {escape(reason)}")
    if not work.expected:
        return
    to_come = [*to_do, *(group.like for group in plan.postponed)]
    for line in _teacher_lines(to_come, estimator):
        console.print(line)
    basis = estimator.basis(to_come)
    source = BASES[basis]
    wall = f", {duration(work.expected / slots)} with {slots} at a time" if slots else ""
    console.print(f"Time: {_span(work)}{wall}; {source}.")
    counted = [(trial, 1) for trial in to_do] + [(group.like, group.num_trials) for group in plan.postponed]
    bytes_of = written(counted, estimator, checkpoint_every=checkpoint_every)
    console.print(
        f"Writes: up to {size(bytes_of.checkpoints)} of checkpoints, the largest {size(bytes_of.largest)}, of which a trial "
        f"keeps two while it runs; {size(bytes_of.models)} of models.",
        soft_wrap=True,
    )


def print_price(console: Console, work: Seconds, price: float) -> None:
    """What work on GPUs costs at a price of one's own."""
    low, expected, high = (value / 3600 * price for value in (work.low, work.expected, work.high))
    console.print(f"Price: {expected:,.0f} ({low:,.0f} to {high:,.0f}) at {price:g} a GPU-hour.")


def print_cost(
    console: Console, file: str, config: Mapping[str, Any], work: Seconds, basis: str, gpus_per_trial: float
) -> None:
    """GPU-hours and money of work on the machines of a cluster file, before any of them is ordered."""
    kinds, prices = kinds_of(config), read_prices()
    kind = kind_for(kinds, gpus_per_trial)
    if kind is None:
        console.print(f"{escape(file)} has no machine with {gpus_per_trial:g} GPUs.")
        return
    gpus = work * gpus_per_trial
    num_gpus = kind.gpus * kind.most
    wall = gpus.expected / num_gpus if num_gpus else 0.0
    console.print(
        f"On {escape(file)}: {_gpu_hours(gpus)}, {duration(wall)} with all {num_gpus:g} GPUs "
        f"({kind.machine or kind.name}); {BASES[basis].partition(';')[0]}.",
        soft_wrap=True,
    )
    if kind.on_demand is None:
        reason = (
            f"the table of prices ({prices.date}) does not have {kind.machine}" if kind.machine else "it rents nothing"
        )
        console.print(f"Cost: not known, {reason}.")
        return
    head = sum(other.on_demand or 0.0 for other in kinds if other.is_head) * wall / 3600
    parts = [f"{_money(gpus, kind.on_demand / kind.gpus, head)} on demand"]
    if kind.spot is not None:
        parts.append(f"about {_money(gpus, kind.spot / kind.gpus, head)} on the spot market")
    region = (config.get("provider") or {}).get("region", prices.region)
    elsewhere = f", which differ in {region}" if region != prices.region else ""
    console.print(
        f"Cost: {', '.join(parts)}, the head included; disks, traffic and idle minutes are not. Prices of {prices.region}"
        f"{elsewhere}, {prices.date}.",
        soft_wrap=True,
    )


def _money(gpus: Seconds, price: float, head: float) -> str:
    low, expected, high = (value / 3600 * price + head for value in (gpus.low, gpus.expected, gpus.high))
    return f"{dollars(expected, expected)} ({dollars(low, high)})"


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
    """What varies among trials, such as `6 lambdas x 10 seeds`: whichever fields of a trial that are, the seed last."""
    values: dict[str, set[Any]] = {}
    for trial in trials:
        for name, value in asdict(trial).items():
            values.setdefault(name, set()).add(value)
    values["seed"] = values.pop("seed", set())
    counts = {name: len(found) for name, found in values.items() if name not in ("task_digest", "model_digest")}
    varied = {name: count for name, count in counts.items() if count > 1}
    parts = [f"{count} {_plural(name)}" for name, count in varied.items()]
    return (" x " if math.prod(varied.values()) == len(trials) else ", ").join(parts)


def _plural(name: str) -> str:
    name = name.removesuffix("_select").removesuffix("_digest").replace("_", " ")
    return name if name.endswith("s") else f"{name}s"


def _about(estimator: Estimator, trial: Trial) -> str:
    seconds = estimator.seconds(trial)
    return ("~" if estimator.basis([trial]) == "arithmetic" else "") + duration(seconds.expected)


def _teacher_lines(trials: list[Trial], estimator: Estimator) -> list[str]:
    """How the students of each task hear their teacher, and what that costs."""
    lines = []
    students = {(trial.task, estimator.tasks[trial.task].teacher_mode(trial)): trial for trial in trials}
    for (name, mode), trial in students.items():
        if mode is None:
            continue
        task = estimator.tasks[name]
        like = task.trial("re", task.teacher, seed=0, epochs=1, precision=trial.precision)
        forward = estimator.seconds(like) * (1 / 3)  # a step is a forward pass and a backward one of twice its cost
        num_epochs = task.num_view_epochs(trial)
        lines.append(
            f"Teacher of {name}: "
            + {
                "stored": f"its targets are computed once ({duration(forward.expected)}) and kept.",
                "stored_views": f"its targets are computed once for the views of each of {num_epochs} epochs "
                f"({duration(forward.expected * num_epochs)}) and kept.",
                "live_predictor": "its predictor runs in every step, under the student's mask: "
                f"{duration(forward.expected / 2)} more an epoch of each student.",
                "live": "it runs in every step, because each run draws its own views: "
                f"{duration(forward.expected)} more an epoch of each student. --augmentation crop_flip_seeded stores them.",
            }[mode]
        )
    return lines
