"""What a sweep would do, before it does it: trials, time, money, and how students hear their teacher."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rekd.cluster.prices import dollars, kind_for, kinds_of, read_prices
from rekd.command_line import print_table
from rekd.messages import duration, size
from rekd.running.agenda import in_order
from rekd.running.estimate import Estimator, Seconds
from rekd.running.plan import Plan
from rekd.running.written import written
from rekd.store.files import Store
from rekd.trial import Trial
from sweeps.options import Options

TOO_LONG = 12 * 3600.0
"""Seconds on a machine without a GPU beyond which a sweep wants to be asked for twice."""

BASES = {
    "arithmetic": "a guess from arithmetic; --calibrate times a few steps of each model",
    "calibration": "from a few steps of each model, timed just now",
    "ledger": "measured in runs of the ledger",
}
"""What an estimate rests on, for people."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a plan still has to do, and how long that takes."""

    plan: Plan
    to_do: list[Trial]
    estimator: Estimator

    @cached_property
    def likes(self) -> list[Trial]:
        """What is to be trained, and one such trial of each group that cannot be named yet."""
        return [*self.to_do, *(group.like for group in self.plan.postponed)]

    @cached_property
    def work(self) -> Seconds:
        """All that is still to run, on one slot."""
        work = self.estimator.total(self.to_do)
        for group in self.plan.postponed:
            work = work + self.estimator.seconds(group.like) * group.num_trials
        return work

    @property
    def basis(self) -> str:
        """What the estimate rests on: a key of `BASES`."""
        return self.estimator.basis(self.likes)

    @property
    def seconds_in_order(self) -> list[float]:
        """How long each trial takes, in the order in which they are run."""

        def seconds(trial: Trial) -> float:
            return self.estimator.seconds(trial).expected

        later = [seconds(group.like) for group in self.plan.postponed for _ in range(group.num_trials)]
        return [*map(seconds, in_order(self.to_do, self.plan, seconds)), *later]

    @property
    def num_later(self) -> int:
        """The number of trials that cannot be named yet."""
        return sum(group.num_trials for group in self.plan.postponed)

    @property
    def num_to_run(self) -> int:
        """The number of trials without a result."""
        return len(self.to_do) + self.num_later

    @property
    def num_done(self) -> int:
        """The number of the plan's trials that the ledger has."""
        return len(self.plan.unique_trials()) - len(self.to_do)

    def by(self, estimator: Estimator) -> "Outlook":
        """Returns the same by another estimator."""
        return replace(self, estimator=estimator)


def print_plan(console: Console, outlook: Outlook, *, slots: int | None, store: Store, checkpoint_every: float) -> None:
    """Prints trials by task, model and objective, what is done of them, and what the rest will take."""
    print_table(console, _table(outlook))
    console.print(_counts(outlook, store))
    needs = list(dict.fromkeys(group.needs for group in outlook.plan.postponed))
    if needs:
        console.print(f"Dim rows follow once these are chosen: {', '.join(needs)}.", style="dim")
    for reason in outlook.plan.stopped:
        console.print(f"[yellow]Stopped:[/] {escape(reason)}")
    work = outlook.work
    if not work.expected:
        return
    for line in _teacher_lines(outlook.likes, outlook.estimator):
        console.print(line)
    wall = f", {duration(work.expected / slots)} with {slots} at a time" if slots else ""
    console.print(f"Time: {_span(work)}{wall}; {BASES[outlook.basis]}.")
    console.print(_writes(outlook, checkpoint_every), soft_wrap=True)


def _writes(outlook: Outlook, checkpoint_every: float) -> str:
    """What the trials that are still to run write into the store."""
    counted = [(trial, 1) for trial in outlook.to_do]
    counted += [(group.like, group.num_trials) for group in outlook.plan.postponed]
    found = written(counted, outlook.estimator, checkpoint_every=checkpoint_every)
    return (
        f"Writes: up to {size(found.checkpoints)} of checkpoints, the largest {size(found.largest)}, of which a trial keeps "
        f"two while it runs; {size(found.models)} of models."
    )


def _table(outlook: Outlook) -> Table:
    """A row for each model and objective of a task; dim where its trials cannot be named yet."""
    table = Table(title="Plan", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "grid"):
        table.add_column(name, no_wrap=True)
    for name in ("trials", "done", "to run", "each takes"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = _rows(outlook)
    for task in dict.fromkeys(name[0] for name, *_ in rows):
        table.add_row(f"[bold]{task}[/]")
        for (_, model, objective), group, num_trials, num_done, style in (row for row in rows if row[0][0] == task):
            numbers = (str(num_trials), str(num_done), str(num_trials - num_done))
            each = _about(outlook.estimator, group[0])
            table.add_row(f"  {objective} {model}", _grid(group), *numbers, each, style=style)
    return table


def _rows(outlook: Outlook) -> list[tuple[tuple[str, str, str], list[Trial], int, int, str]]:
    """Task, model and objective; trials, or one of each group that cannot be named yet; their number; those done; style."""
    plan, undone = outlook.plan, {trial.digest for trial in outlook.to_do}
    rows = [(name, group, len(group), sum(trial.digest not in undone for trial in group), "")
            for name, group in _by_model(plan.unique_trials().values())]  # fmt: skip
    for name, group in _by_model(later.like for later in plan.postponed):
        num_trials = sum(later.num_trials for later in plan.postponed if later.like in group)
        if num_trials:
            rows.append((name, group, num_trials, 0, "dim"))
    return rows


def _counts(outlook: Outlook, store: Store) -> str:
    """How many trials there are, how many of them are asked for twice, and how many the ledger has."""
    plan = outlook.plan
    num_unique = len(plan.unique_trials()) + outlook.num_later
    num_shared = len(plan.trials) - len(plan.unique_trials()) + sum(group.num_shared for group in plan.postponed)
    shared = f", {num_shared} shared between parts of the sweep" if num_shared else ""
    return f"{num_unique} trials{shared}: {outlook.num_done} in the ledger {escape(str(store))}, {outlook.num_to_run} to run."


def print_limits(console: Console, options: Options, outlook: Outlook, *, slots: int | None) -> None:
    """Prints how much of the plan fits into a budget and until a time; nothing where there are none."""
    rooms = {}
    if options.budget is not None:
        rooms[f"--budget {options.budget:g}h"] = 3600 * options.budget / options.gpus_of_a_trial
    if options.until is not None and slots:
        rooms[f"--until {options.until:%H:%M}"] = slots * (options.until.timestamp() - datetime.now().timestamp())
    seconds = outlook.seconds_in_order
    for name, room in rooms.items():
        num_fit = sum(end <= room for end in accumulate(seconds))
        left = seconds[num_fit:]
        rest = f"; {len(left)} are left, {duration(sum(left))} of work" if left else ""
        console.print(f"{name}: about {num_fit} of {len(seconds)} trials fit{rest}.")


def print_price(console: Console, work: Seconds, price: float) -> None:
    """Prints what work on GPUs costs at a price of one's own."""
    low, expected, high = (value / 3600 * price for value in (work.low, work.expected, work.high))
    console.print(f"Price: {expected:,.0f} ({low:,.0f} to {high:,.0f}) at {price:g} a GPU-hour.")


def print_cost(
    console: Console, file: str, config: Mapping[str, Any], work: Seconds, basis: str, gpus_per_trial: float
) -> None:
    """Prints GPU-hours and money of the work on the machines of a cluster file, before any of them is ordered."""
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
