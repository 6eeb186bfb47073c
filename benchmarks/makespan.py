"""The paper's 880 trials: how far from the best possible is their wall time?

`python -m benchmarks.makespan simulate [--slots 120]` by discrete-event simulation, `python -m benchmarks.makespan run
[--slots 12]` for real, with trials that only wait, their durations scaled down, and the simulation of the same beside it.

The plan, the order (first seeds first, then the longest; beside it seed by seed, and the longest whatever its seed) and the
moments at which stages open are the real ones: `sweeps.reproduce`'s plan is asked, or another sweep's (`--sweep
lambda_sweep`), with made-up results. Durations are the estimator's for an L40S, each with noise of a tenth. The best
possible is the larger of work / slots and the critical path, which is the wall time on as many slots as there are trials.
"""

import argparse
import heapq
import importlib
import os
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from ray import tune
from rich.console import Console

import rekd.running.tune
from rekd.cluster.connect import connect, disconnect
from rekd.running.agenda import in_order
from rekd.running.estimate import COLUMNS, Estimator
from rekd.running.plan import Plan, PlanFunction, to_run
from rekd.running.progress import Progress
from rekd.store.files import Store
from rekd.store.ledger import TRIALS_SCHEMA, Ledger, Outcome
from rekd.tasks.task import Task
from rekd.trial import Trial, canonical_json
from sweeps.options import Options

SCALE = "REKD_BENCHMARK_SCALE"
"""Names, for the processes that Ray starts, the fraction of its real duration that a trial takes."""


@cache
def paper(sweep: str = "reproduce") -> tuple[PlanFunction, list[Task]]:
    """The plan function of a sweep of the paper, caught where it would be started, and its tasks."""
    module = importlib.import_module(f"sweeps.{sweep}")
    with patch.object(module, "start", return_value=0) as start:
        getattr(module, sweep)(Options())
    plan, tasks = start.call_args.args[:2]
    return plan, tasks


@cache
def estimator() -> Estimator:
    return Estimator(pd.DataFrame(columns=list(COLUMNS)), paper()[1], device="cuda")


def duration(trial: Trial) -> float:
    """Seconds on an L40S, with noise of a tenth that belongs to the trial."""
    return estimator().seconds(trial).expected * _rng(trial).normal(1, 0.1)


def outcome(trial: Trial, **times: Any) -> Outcome:
    """A dev loss that makes the paper's middle values win, so that every rule finds something."""
    loss = abs(np.log10(trial.lambda_select or 1e-3) + 3) + abs((trial.alpha or 0.3) - 0.3)
    loss += 1e-3 * _rng(trial).normal()
    return Outcome(status="ok", dev_loss=loss, dev_rationale_ratio=trial.p_target or 1.0, **times)


def _rng(trial: Trial) -> np.random.Generator:
    # By what is seeded, not by the digest: that of a student would change with its teacher's.
    return np.random.default_rng(zlib.crc32(f"{trial.task} {trial.model} {trial.objective} {trial.seed}".encode()))


@dataclass
class Run:
    """What a run came to, in seconds."""

    wall: float
    work: float
    """The seconds of all trials together."""
    count: int
    picture: float = 0.0
    """When every setting that could be named at the start had its first result."""

    def above(self, slots: int, critical_path: float) -> float:
        """Percent above the best possible."""
        return 100 * (self.wall / max(self.work / slots, critical_path) - 1)


def longest_first(to_do: Sequence[Trial], plan: Plan, seconds: Callable[[Trial], float]) -> list[Trial]:
    """What `in_order` is compared with."""
    return sorted(to_do, key=lambda trial: -seconds(trial))


def seed_by_seed(to_do: Sequence[Trial], plan: Plan, seconds: Callable[[Trial], float]) -> list[Trial]:
    """What would give a table of two seeds, of three and so on as early as can be."""
    return sorted(to_do, key=lambda trial: (trial.seed, -seconds(trial)))


def simulate(
    slots: int,
    *,
    starts: Sequence[float] = (),
    handover: float = 0.0,
    scale: float = 1.0,
    sweep: str = "reproduce",
    order: Callable[..., list[Trial]] = in_order,
) -> Run:
    """`starts`: when each slot is ready for its first trial; `handover`: what it stands still between two trials."""
    plan_of, _ = paper(sweep)
    rows: list[dict[str, object]] = []
    running: list[tuple[float, int, Trial]] = []
    given: set[str] = set()
    idle = sorted(starts) or [0.0] * slots
    heapq.heapify(idle)
    now = work = 0.0
    queue: list[Trial] = []
    unseen: set[str] | None = None  # settings without a result, of those that could be named at the start
    picture = 0.0
    unfinished: Counter[str] = Counter()  # by setting
    opened = True
    while True:
        if opened:
            results = pd.DataFrame(rows, columns=TRIALS_SCHEMA.names)
            plan = plan_of(results)
            to_do = [trial for trial in to_run(plan, results) if trial.digest not in given]
            queue = order(to_do, plan, lambda trial: estimator().seconds(trial).expected)
            unseen = {_setting(trial) for trial in queue} if unseen is None else unseen
            unfinished = Counter(_setting(trial) for trial in (*queue, *(trial for _, _, trial in running)))
        while queue and idle:
            trial = queue.pop(0)
            seconds = scale * duration(trial)
            work += seconds
            given.add(trial.digest)
            heapq.heappush(running, (max(now, heapq.heappop(idle)) + seconds, len(given), trial))
        if not running:
            return Run(wall=now, work=work, count=len(rows), picture=picture)
        now, _, trial = heapq.heappop(running)
        heapq.heappush(idle, now + handover)
        rows.append({"digest": trial.digest, **asdict(trial), **asdict(outcome(trial))})
        # A stage opens with the last trial of a setting: all seeds of all that it chooses from have to be there.
        if unseen and _setting(trial) in unseen:
            unseen.remove(_setting(trial))
            picture = now
        unfinished[_setting(trial)] -= 1
        opened = not unfinished[_setting(trial)]


def _setting(trial: Trial) -> str:
    return canonical_json(trial.setting)


class _BareShelf:
    """Trials that wait need nothing from the object store."""

    directory = None

    def __init__(self, *arguments: Any, **options: Any) -> None: ...

    def check(self, *arguments: Any) -> None: ...

    def supplies(self, *arguments: Any) -> bool:
        return True


def wait(config: dict[str, Any], *, store_uri: str, **shared: Any) -> None:
    """What takes the place of training. `device` says which process it was."""
    trial = Trial(**config)
    seconds = float(os.environ[SCALE]) * duration(trial)
    time.sleep(seconds)
    times = {"train_seconds": seconds, "num_epochs": trial.epochs, "device": str(os.getpid())}
    times["finished_at"] = datetime.now(UTC).isoformat()
    made_up = outcome(trial, **times)
    Ledger(Store(store_uri)).write(trial, made_up, [{"epoch": trial.epochs, "dev_loss": made_up.dev_loss}])
    tune.report({"epoch": trial.epochs, "dev_loss": made_up.dev_loss})


def run(slots: int, scale: float) -> tuple[Run, list[float], float]:
    """The plan on Ray: what it came to, when each slot was ready, and the median of standing still between two trials."""
    os.environ[SCALE] = str(scale)
    plan, tasks = paper()
    cluster = connect(local=True, num_cpus=slots)
    try:
        with tempfile.TemporaryDirectory() as scratch, Path(os.devnull).open("w") as nowhere:
            store = Store(scratch)
            began = datetime.now(UTC)
            with patch.object(rekd.running.tune, "Shelf", _BareShelf):
                rekd.running.tune.run_sweep(
                    plan, store, tasks=tasks, cluster=cluster, progress=Progress(Console(file=nowhere)),
                    max_concurrent=slots, trainable=wait,
                )  # fmt: skip
            table = Ledger(store).trials().to_pandas()
    finally:
        disconnect()
    ended = (pd.to_datetime(table["finished_at"]) - began).dt.total_seconds()
    table = table.assign(ended=ended, started=ended - table["train_seconds"]).sort_values("started")
    gaps = table["started"] - table.groupby("device")["ended"].shift()
    starts = table.groupby("device")["started"].first().sort_values().tolist()
    return Run(wall=ended.max(), work=table["train_seconds"].sum(), count=len(table)), starts, gaps.median()


def _told(run: Run, slots: int, unlimited: Run) -> str:
    return (
        f"{run.wall / 3600:.2f} h; work / slots {run.work / slots / 3600:.2f} h, critical path {unlimited.wall / 3600:.2f} h; "
        f"{run.above(slots, unlimited.wall):.1f} % above the best possible; one seed everywhere after "
        f"{100 * run.picture / run.wall:.0f} % of it"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", choices=("simulate", "run"))
    parser.add_argument("--slots", type=int)
    parser.add_argument("--sweep", default="reproduce", help="a module of `sweeps`, for `simulate`")
    parser.add_argument("--minutes", type=float, default=5.0, help="that `run` would take at best")
    parser.add_argument("--startup", type=float, default=30.0, help="seconds until a slot of `simulate` is ready")
    parser.add_argument("--handover", type=float, default=1.0, help="seconds between two trials, for `simulate`")
    options = parser.parse_args()
    unlimited = simulate(10_000, sweep=options.sweep)
    if options.how == "simulate":
        slots = options.slots or 120
        orders = {"first seeds first": in_order, "seed by seed": seed_by_seed, "longest first": longest_first}
        for name, order in orders.items():
            simulated = simulate(
                slots, starts=[options.startup] * slots, handover=options.handover, sweep=options.sweep, order=order
            )
            told = _told(simulated, slots, unlimited)
            print(f"{simulated.count} trials of {options.sweep} on {slots} slots, {name}, simulated: {told}")
        return
    slots = options.slots or 12
    scale = 60 * options.minutes * slots / unlimited.work
    real, starts, handover = run(slots, scale)
    simulated = simulate(slots, starts=starts, handover=handover, scale=scale)
    print(
        f"{real.count} trials on {slots} slots, durations scaled to a mean of {real.work / real.count:.1f} s: "
        f"{real.wall:.0f} s, {real.above(slots, scale * unlimited.wall):.1f} % above the best possible; simulated with "
        f"its {len(starts)} processes (ready after {starts[0]:.0f} to {starts[-1]:.0f} s) and its handover of "
        f"{1000 * handover:.0f} ms: {simulated.wall:.0f} s"
    )


if __name__ == "__main__":
    import benchmarks.makespan  # under its own name, where the processes that Ray starts find it too

    benchmarks.makespan.main()
