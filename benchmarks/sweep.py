"""What running a trial costs beyond the trial: ours, Ray Tune as it comes, and plain Ray actors that pull trials.

`python -m benchmarks.sweep startup` times stub trials on 12 logical slots; `driver` shows how the driver's time and
memory grow with the number of trials, half of them done already or none; `again` asks for a finished sweep once more;
`efficiency` runs the digits sweep (7 minutes) and sets it against its training alone.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from rich.console import Console

from rekd.cluster.connect import connect
from rekd.running.plan import Plan
from rekd.running.progress import Progress
from rekd.running.tune import run_sweep
from rekd.store.files import Store
from rekd.store.ledger import Ledger, Outcome
from rekd.tasks.task import load_task
from rekd.trial import Trial

DURATION = "REKD_BENCHMARK_SECONDS"
"""Names, for the processes that Ray starts, how long a stub trial takes."""


def duration() -> float:
    return float(os.environ.get(DURATION, "0.3"))


def trials(count: int) -> list[Trial]:
    first = load_task("digits").trial("re", "vit-student", seed=0)
    return [replace(first, seed=seed) for seed in range(count)]


def work(trial: Trial, store: Store, slot: str = "") -> None:
    """A stub trial: it waits, and writes the ledger. `device` says which process it was."""
    time.sleep(duration())
    outcome = Outcome(
        status="ok", dev_loss=1.0, train_seconds=duration(), num_epochs=1, device=slot or str(os.getpid())
    )
    Ledger(store).write(trial, outcome, [{"epoch": 1, "dev_loss": 1.0}])


def stub(config: dict[str, Any], *, store_uri: str, **shared: Any) -> None:
    work(Trial(**config), Store(store_uri))
    tune.report({"epoch": 1, "dev_loss": 1.0, "dev_rationale_ratio": 0.1})


def ours(wanted: list[Trial], store: Store, slots: int) -> None:
    cluster = connect(local=True, num_cpus=slots)
    with Path(os.devnull).open("w") as nowhere:
        progress = Progress(Console(file=nowhere))
        run_sweep(
            lambda results: Plan(trials=wanted), store, tasks=[load_task("digits")], cluster=cluster, progress=progress,
            max_concurrent=slots, trainable=stub,
        )  # fmt: skip


def tune_as_it_comes(wanted: list[Trial], store: Store, slots: int, **config: Any) -> None:
    from dataclasses import asdict

    connect(local=True, num_cpus=slots)
    uri = store.uri_for_workers
    grid = {"trial": tune.grid_search([asdict(trial) for trial in wanted])}

    def run(config: dict[str, Any]) -> None:
        work(Trial(**config["trial"]), Store(uri))
        tune.report({"dev_loss": 1.0})

    with tempfile.TemporaryDirectory() as scratch:
        tuner = tune.Tuner(
            run,
            param_space=grid,
            tune_config=tune.TuneConfig(**config),
            run_config=tune.RunConfig(storage_path=scratch, verbose=0),
        )
        tuner.fit()


def plain_actors(wanted: list[Trial], store: Store, slots: int) -> None:
    connect(local=True, num_cpus=slots)
    uri = store.uri_for_workers

    @ray.remote(num_cpus=1)
    class Puller:
        def run(self, trial: Trial) -> None:
            work(trial, Store(uri))

    pool = ray.util.ActorPool([Puller.remote() for _ in range(slots)])
    for _ in pool.map_unordered(lambda actor, trial: actor.run.remote(trial), wanted):
        pass


RUNNERS = {
    "rekd": ours,
    "plain Ray actors": plain_actors,
    "Tune, reused actors": lambda *arguments: tune_as_it_comes(*arguments, reuse_actors=True),
    "Tune as it comes": tune_as_it_comes,
}


def measured(runner: Any, wanted: list[Trial], slots: int, store: Store | None = None) -> dict[str, float]:
    """Wall seconds without Ray's own start, driver CPU seconds, busy slots, peak memory of the driver in MB."""
    connect(local=True, num_cpus=slots)
    with tempfile.TemporaryDirectory() as scratch:
        store = store or Store(scratch)
        before = len(Ledger(store).done())
        started, cpu = time.perf_counter(), time.process_time()
        runner(wanted, store, slots)
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        table = Ledger(store).trials()
        done = table.num_rows - before
        slots_used = len(set(table["device"].to_pylist()))
    ray.shutdown()
    return {
        "wall": wall,
        "overhead": (wall - done * duration() / slots) / max(done, 1),
        "driver": cpu,
        "processes": slots_used,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def startup(count: int, slots: int, seconds: float) -> None:
    os.environ[DURATION] = str(seconds)
    print(f"{count} stub trials of {seconds:g} s on {slots} slots")
    for name, runner in RUNNERS.items():
        figures = measured(runner, trials(count), slots)
        print(
            f"{name:20s} {1000 * figures['overhead']:6.0f} ms a trial beyond its work; wall {figures['wall']:.1f} s; "
            f"{figures['processes']:.0f} processes; driver {1000 * figures['driver'] / count:.0f} ms CPU a trial",
            flush=True,
        )


def driver(counts: list[int]) -> None:
    os.environ[DURATION], slots = "0.05", 2  # the driver is what is looked at
    for count in counts:
        for share in (0.0, 0.5):
            with tempfile.TemporaryDirectory() as scratch:
                store = Store(scratch)
                wanted = trials(count)
                for trial in wanted[: int(count * share)]:
                    Ledger(store).write(trial, Outcome(status="ok", dev_loss=1.0), [{"epoch": 1}])
                figures = measured(ours, wanted, slots, store)
            run = count - int(count * share)
            print(
                f"{count} trials, {int(100 * share)} % done: driver {figures['driver']:.1f} s CPU, "
                f"{1000 * figures['driver'] / run:.0f} ms a trial that runs, {figures['memory']:.0f} MB; "
                f"wall {figures['wall']:.0f} s",
                flush=True,
            )


def again(count: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        ledger = Ledger(scratch)
        task = load_task("digits")
        ok = Outcome(status="ok", dev_loss=1.0, dev_rationale_ratio=0.25, test_accuracy=0.9, test_rationale_ratio=0.25)
        for seed in range(count):
            trial = task.trial("re", "vit-student", seed=seed, lambda_select=0.01)
            ledger.write(trial, ok, [])
        command = [sys.executable, "sweeps/lambda_sweep.py", "--task", "digits", "--models", "vit-student"]
        command += ["--lambdas", "0.01", "--seeds", f"0-{count - 1}", "--store", scratch]
        for label in ("files of single trials", "compact"):
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            print(f"a finished sweep of {count} trials, {label}: answered in {time.perf_counter() - started:.1f} s")
            ledger.compact()


def efficiency() -> None:
    """The digits sweep with the seeds of the demo: its wall time, beside its training steps alone spread over the cores."""
    command = [sys.executable, "sweeps/alpha_sweep.py", "--task", "digits", "--local"]
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        subprocess.run([*command, "--store", scratch], check=True, capture_output=True)
        wall = time.perf_counter() - started
        alone = sum(Ledger(scratch).trials()["train_seconds"].to_pylist()) / (os.cpu_count() or 1)
    print(
        f"digits sweep: {wall:.0f} s; its training alone over {os.cpu_count()} cores {alone:.0f} s; {alone / wall:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("startup", "driver", "again", "efficiency"))
    parser.add_argument("--trials", type=int, nargs="*")
    parser.add_argument("--slots", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a stub trial of `startup`")
    options = parser.parse_args()
    if options.what == "startup":
        startup((options.trials or [120])[0], options.slots, options.seconds)
    elif options.what == "driver":
        driver(options.trials or [100, 1000, 3000])
    elif options.what == "efficiency":
        efficiency()
    else:
        again((options.trials or [1000])[0])


if __name__ == "__main__":
    main()
