"""A sweep on Ray: the ledger decides what runs, Ray Tune runs it, the object store holds what trials share."""

import json
import logging
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from rich.markup import escape

from rekd.cluster.connect import Cluster
from rekd.running.estimate import Estimator
from rekd.running.gpu_shares import Shares, measured_shares
from rekd.running.object_store import Shelf
from rekd.running.plan import PlanFunction, Swept, fixed_plan, to_run
from rekd.running.progress import Progress
from rekd.store.claims import Claims
from rekd.store.files import Store
from rekd.store.ledger import TRIALS_SCHEMA, Ledger, Outcome
from rekd.store.saved_model import is_saved
from rekd.store.upkeep import clear_ended
from rekd.tasks.task import Task
from rekd.trial import Trial

logger = logging.getLogger(__name__)

MAX_FAILURES = 8
"""Times that a trial may lose its process or node without finishing an epoch in between, before it is given up.

To Ray a preempted node is a failure like any other, so what counts is standing still.
"""

LOOK_AGAIN = 5.0
"""Seconds between two looks for trials that have ended without a word."""


def run_sweep(
    plan: PlanFunction | Sequence[Trial],
    store: Store,
    *,
    tasks: Iterable[Task],
    cluster: Cluster,
    progress: Progress,
    gpus_per_trial: float | Literal["auto"] | None = None,
    max_concurrent: int | None = None,
    callbacks: Sequence[tune.Callback] = (),
    trainable: Callable[..., None] | None = None,
) -> Swept:
    """Runs what a plan asks for and the ledger does not have, until the plan has nothing more to ask.

    A trial starts as soon as the results that it depends on are there. One that `failed` in an earlier run is tried
    again. One that another sweep on this store is running is left to it, and its result awaited. `trainable` takes the
    place of training, for measurements: called with a trial's fields and what trials share, it writes the ledger.

    Raises ValueError, before a trial starts, where more GPUs are asked for than the cluster has, where data or a model is
    not what its task says, or where nothing can be written, and
    StoreUnavailableError where the store fails for long while trials run.
    """
    function = plan if callable(plan) else fixed_plan(plan)
    shares = _fixed_shares(gpus_per_trial, cluster)
    conductor = _Conductor(
        function, store, {task.name: task for task in tasks}, cluster=cluster, progress=progress, gpus=shares.default
    )
    if conductor.has_work():
        conductor.check()
        if gpus_per_trial == "auto":
            shares = measured_shares(conductor.tasks.values(), conductor.kinds())
            progress.say(f"Trials on one GPU, by measured memory: {_described(shares)}.")
        gpus = shares.smallest
        slots = max_concurrent or max(1, int(cluster.num_gpus / gpus) if gpus else int(cluster.num_cpus))
        conductor.slots = slots
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
        function_of_trial = tune.with_parameters(
            trainable or _trainable,
            tasks=conductor.tasks,
            store_uri=store.uri_for_workers,
            directory=conductor.shelf.directory,
            commit=_commit(),
        )
        with tempfile.TemporaryDirectory() as scratch, conductor.claims, progress:
            clear_ended(store, conductor.claims, conductor.with_result())
            tuner = tune.Tuner(
                tune.with_resources(function_of_trial, _resources(shares, conductor.tasks)),
                tune_config=tune.TuneConfig(
                    search_alg=conductor,
                    scheduler=_InTurn(conductor),
                    num_samples=-1,
                    reuse_actors=True,
                    trial_name_creator=_digest,
                    trial_dirname_creator=_digest,
                ),
                run_config=tune.RunConfig(
                    name="sweep",
                    storage_path=scratch,  # nothing is restored from it: the ledger is what lasts
                    verbose=0,
                    # Tune tries a lost trial again only once it has run: one that is lost while it starts has ended.
                    failure_config=tune.FailureConfig(max_failures=0),
                    callbacks=[_Reporter(conductor), *callbacks],
                ),
            )
            tuner.fit()
    conductor.ledger.compact()
    return conductor.swept()


class _Conductor(Searcher):
    """Hands trials to Tune, one at a time, when a slot is free and what they need is there."""

    def __init__(
        self,
        plan: PlanFunction,
        store: Store,
        tasks: Mapping[str, Task],
        *,
        cluster: Cluster,
        progress: Progress,
        gpus: float,
    ) -> None:
        super().__init__(metric="dev_loss", mode="min")
        self.plan_function, self.store, self.tasks = plan, store, dict(tasks)
        self.progress, self.slots = progress, 1
        self.device = "cuda" if cluster.num_gpus else "cpu"
        self.ledger = Ledger(store)
        self.results = self.ledger.trials().to_pandas()
        self.news: list[dict[str, Any]] = []  # rows that are not among the results yet
        self.live: dict[str, Trial] = {}  # by Tune's trial_id
        self.losses = Losses()
        self.given: set[str] = set()  # digests that this run has started
        self.again: dict[str, Trial] = {}  # teachers that have a result and no model, until they have one
        self.teachers: set[str] = set()  # digests of those that were looked at
        self.ended: list[Trial] = []
        self.num_trained = 0  # of those, the ones that were run here
        self.interrupted = False
        self.trouble: OSError | None = None
        self.claims = Claims(store, on_trouble=lambda text: progress.say(f"[yellow]{escape(text)}[/]"))
        self.shelf = Shelf(store, gpus=min(gpus, 1))
        self._replan()

    def has_work(self) -> bool:
        return bool(self.queue)

    def with_result(self) -> set[str]:
        """Digests of trials that have a result and are not to be run again."""
        return set(self.results.loc[self.results["status"] != "failed", "digest"]) - set(self.again)

    def check(self) -> None:
        """Raises ValueError where a trial could not start, before any does: its data or its model is not as it says."""
        kinds = self.kinds()
        for task in self.tasks.values():
            trials = [trial for trial in kinds if trial.task == task.name]
            if trials and not task.is_embedded:
                self.progress.say(f"[dim]Looking at the data and the models of {escape(task.name)}.[/]")
                self.shelf.check(task, trials)

    def kinds(self) -> list[Trial]:
        """A trial of each task and model that this run may train."""
        trials = [*self.queue, *(group.like for group in self.plan.waiting)]
        return list({(trial.task, trial.model): trial for trial in trials}.values())

    def suggest(self, trial_id: str) -> Any:
        """The next trial as a plain dictionary; None for "not now"; FINISHED when no result can bring another one."""
        if self.interrupted:
            return Searcher.FINISHED
        # A large plan takes a third of a second: it may have a twentieth of the time, unless slots wait for it.
        if self.stale and (not self.queue or time.monotonic() - self.planned_at > 20 * self.plan_seconds):
            self._replan()
        if not self.queue:
            return None if self.live else Searcher.FINISHED
        if len(self.live) >= self.slots:
            return None
        trial = self._next()
        if trial is None:
            return None
        self.live[trial_id] = trial
        self.given.add(trial.digest)
        self.progress.start(trial)
        return asdict(trial)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id in self.live and "epoch" in result:
            self.losses.reached(self.live[trial_id], result["epoch"])
            self.progress.epoch(self.live[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self.live.pop(trial_id, None)
        if trial is None or self.interrupted:
            return
        try:
            self._ended(trial, error=error)
        except OSError as trouble:  # Tune would swallow it
            self.trouble = trouble
            raise

    def _ended(self, trial: Trial, *, error: bool) -> None:
        row = self._row(trial)
        if (row is None or row["status"] == "failed") and trial.digest in self.claims.lost:
            self._put_back(trial)
            return
        if row is None or (error and row["status"] == "failed"):
            if self.losses.once_more(trial):
                self._put_back(trial)
                return
            reason = (
                f"its process ended {MAX_FAILURES + 1} times without an epoch in between: a lost node, or too little memory; "
                "try fewer trials at once (--max-concurrent) or a smaller batch_size"
            )
            self.ledger.write(trial, Outcome(status="failed", error=reason))
            row = self._row(trial)
            assert row is not None
        self.claims.release(trial.digest)
        self.num_trained += 1
        self._take_in(trial, row)

    def _row(self, trial: Trial) -> dict[str, Any] | None:
        """What a trial has come to; of a teacher that is trained again, what it has come to since."""
        if trial.digest in self.again and not is_saved(self.store, trial.digest):
            return self.ledger.failure(trial.digest)
        return self.ledger.row(trial.digest)

    def _put_back(self, trial: Trial) -> None:
        """It did not end, and is to be run again: here, or where another sweep has taken it over."""
        self.claims.release(trial.digest)
        self.given.remove(trial.digest)
        self.queue.insert(0, trial)
        self.progress.lost(trial)

    def _take_in(self, trial: Trial, row: dict[str, Any]) -> None:
        """A trial has ended, here or in another sweep, with this row."""
        self.again.pop(trial.digest, None)
        self.news.append(row)
        self.ended.append(trial)
        self.progress.end(trial, status=row["status"], dev_loss=row["dev_loss"], error=row["error"])
        self.stale = True

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher to restore a run from it; here the ledger is what a later run starts from."""
        return {}

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """See `__getstate__`."""

    def save(self, checkpoint_path: str) -> None:
        """See `__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """See `__getstate__`."""

    def swept(self) -> Swept:
        if self.stale:
            self._replan()
        return Swept.of(self.plan, self.results, num_trained=self.num_trained, interrupted=self.interrupted)

    def _replan(self) -> None:
        started = time.monotonic()
        if self.news:
            rows = pa.Table.from_pylist(self.news, schema=TRIALS_SCHEMA).to_pandas()
            known = self.results[~self.results["digest"].isin(rows["digest"])]
            self.results, self.news = pd.concat([known, rows], ignore_index=True), []
        self.plan = self.plan_function(self.results)
        self.estimator = Estimator(self.results, self.tasks.values(), device=self.device)
        left = to_run(self.plan, self.results)
        waiting = [trial for trial in [*self._teachers_again(left), *left] if trial.digest not in self.given]
        # Longest first, so that no long trial is left alone at the end; equal ones in the plan's order.
        self.queue = sorted(waiting, key=lambda trial: -self.estimator.seconds(trial).expected)
        later = sum(group.num_trials for group in self.plan.waiting)
        work = [self.estimator.seconds(trial).expected for trial in [*self.queue, *self.live.values()]]
        work += [self.estimator.seconds(group.like).expected * group.num_trials for group in self.plan.waiting]
        self.progress.expect(
            num_total=len(self.ended) + len(self.queue) + len(self.live) + later,
            work_done=sum(self.estimator.seconds(trial).expected for trial in self.ended),
            work_left=sum(work),
        )
        self.stale, self.planned_at = False, time.monotonic()
        self.plan_seconds = self.planned_at - started

    def _teachers_again(self, students: Sequence[Trial]) -> list[Trial]:
        """Teachers whose models are gone, as from a store that was copied without them; their rows stay until then."""
        for digest in {trial.teacher_digest for trial in students if trial.teacher_digest} - self.teachers:
            self.teachers.add(digest)
            rows = self.results.loc[(self.results["digest"] == digest) & (self.results["status"] == "ok"), "config"]
            if len(rows) and not is_saved(self.store, digest):
                teacher = Trial.from_record(json.loads(rows.iloc[0]))
                if _can_train(self.tasks.get(teacher.task), teacher):
                    self.again[digest] = teacher
        return list(self.again.values())

    def _next(self) -> Trial | None:
        """Takes the first trial from the queue that is supplied and that no other sweep has claimed."""
        elsewhere = self.claims.elsewhere()
        self.progress.elsewhere = sum(trial.digest in elsewhere for trial in self.queue)
        for trial in list(self.queue):
            if trial.digest in elsewhere or not self._is_supplied(trial) or not self.claims.take(trial.digest):
                continue
            self.queue.remove(trial)
            if not self._ended_meanwhile(trial):
                return trial
        return None

    def _ended_meanwhile(self, trial: Trial) -> bool:
        """Whether another sweep has run a trial since the ledger was read."""
        if not self.store.exists(self.store.trial_file(trial.digest)):
            return False
        row = self._row(trial)
        if row is None or row["status"] == "failed":
            return False
        self.claims.release(trial.digest)
        self.given.add(trial.digest)
        self._take_in(trial, row)
        return True

    def _is_supplied(self, trial: Trial) -> bool:
        """Whether what a trial needs is in the object store; asks for it where it is not."""
        task = self.tasks[trial.task]
        self.shelf.data(task)
        # Students wait here, not in their slots: on a full cluster the teacher's pass would find no GPU.
        if trial.teacher_digest is None:
            return True
        if trial.teacher_digest in self.again:
            return False
        needed = [self.shelf.targets(task, trial.teacher_digest)]
        if num_epochs := task.num_view_epochs(trial):
            needed.append(self.shelf.view_targets(task, trial.teacher_digest, num_epochs))
        return all(self.shelf.has(reference) for reference in needed)  # all were asked for above


def _can_train(task: Task | None, trial: Trial) -> bool:
    """Whether a task is what the trial was made of: its data, and its model under that name."""
    if task is None or trial.model not in task.models:
        return False
    return (trial.task_digest, trial.model_digest) == (task.digest, task.models[trial.model].digest)


class Losses:
    """How often trials have lost their process since they last came further than ever before."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._furthest: dict[str, int] = {}

    def reached(self, trial: Trial, epoch: int) -> None:
        """An epoch was reported; one that is only reported again, from a checkpoint, is no step forward."""
        if epoch > self._furthest.get(trial.digest, 0):
            self._furthest[trial.digest] = epoch
            self._count[trial.digest] = 0

    def once_more(self, trial: Trial) -> bool:
        """The process or its node was lost: whether the trial is tried again."""
        self._count[trial.digest] = self._count.get(trial.digest, 0) + 1
        return self._count[trial.digest] <= MAX_FAILURES


class _InTurn(FIFOScheduler):
    """Trials start in the order in which they were given.

    Tune's own choice is the first trial whose process has not started yet. It would be handed each process that becomes
    free, and its own, half started, be thrown away: with short trials nearly all slots would stay empty for good.
    """

    def __init__(self, conductor: _Conductor) -> None:
        super().__init__()
        self.conductor = conductor

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """No trial goes before its turn: a free process takes the next trial that is given."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """A trial that another sweep has taken over ends here."""
        ours = self.conductor.live.get(trial.trial_id)
        taken_over = ours is not None and ours.digest in self.conductor.claims.lost
        return TrialScheduler.STOP if taken_over else TrialScheduler.CONTINUE


class _Reporter(tune.Callback):
    """Notices what Tune does not: Ctrl-C (to Tune an end like any other), a store that fails, trials it says nothing of."""

    def __init__(self, conductor: _Conductor) -> None:
        self.conductor, self.looked = conductor, time.monotonic()

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        if self.conductor.trouble is not None:
            raise self.conductor.trouble
        self.conductor.claims.check()
        # Of a process that could not be given its next trial Tune tells the searcher nothing.
        if time.monotonic() - self.looked > LOOK_AGAIN:
            self.looked = time.monotonic()
            for trial in trials:
                if trial.trial_id in self.conductor.live and trial.is_finished():
                    self.conductor.on_trial_complete(trial.trial_id, error=True)

    def setup(self, *arguments: Any, **info: Any) -> None:
        handler = signal.getsignal(signal.SIGINT)

        def interrupted(number: int, frame: Any) -> None:
            self.conductor.interrupted = True
            if callable(handler):
                handler(number, frame)

        if callable(handler):
            signal.signal(signal.SIGINT, interrupted)


def _trainable(config: dict[str, Any], **shared: Any) -> None:
    """What Ray Tune runs. The import is here, so that the driver does without torch."""
    from rekd.running.worker import train_and_report

    train_and_report(Trial(**config), **shared)


def _digest(tune_trial: Any) -> str:
    """What a trial is called in Tune and its loggers: the same name as in the ledger."""
    return Trial(**tune_trial.config).digest


def _fixed_shares(asked: float | Literal["auto"] | None, cluster: Cluster) -> Shares:
    """The same share for all trials; whole GPUs until `auto` has measured."""
    gpus = (1.0 if cluster.num_gpus else 0.0) if asked is None else 1.0 if asked == "auto" else asked
    if gpus < 0:
        raise ValueError(f"--gpus-per-trial is 0 or more, got {gpus:g}.")
    if gpus > cluster.num_gpus:
        raise ValueError(
            f"--gpus-per-trial asks for {asked if asked == 'auto' else f'{gpus:g}'} GPUs, {cluster.description} are all "
            "there is. Ask for less, or for 0."
        )
    return Shares(default=gpus)


def _resources(shares: Shares, tasks: Mapping[str, Task]) -> Callable[[dict[str, Any]], tune.PlacementGroupFactory]:
    """What Tune asks Ray for, for a trial of this configuration."""

    def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        trial = Trial(**config)
        # A teacher that runs live lies on the same GPU, and was not measured.
        is_alone = tasks[trial.task].teacher_mode(trial) in ("live", "live_predictor")
        gpus = shares.default if is_alone else shares.by_kind.get((trial.task, trial.model), shares.default)
        return tune.PlacementGroupFactory([{"CPU": 1, "GPU": gpus}])

    return resources


def _described(shares: Shares) -> str:
    return ", ".join(f"{round(1 / share)} of {model} ({task})" for (task, model), share in shares.by_kind.items())


def _commit() -> str:
    """The commit of this project's checkout, where it is one."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
