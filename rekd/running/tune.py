"""A sweep on Ray: the conductor decides what runs, Ray Tune runs it, the object store holds what trials share."""

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from rich.markup import escape

from rekd.cluster.connect import Cluster, this_machine, worker_logs
from rekd.cluster.orders import Notes
from rekd.cluster.own_folder import OwnFolder
from rekd.cluster.waiting import Watch, look_at_ray
from rekd.command_line import PlainConsole
from rekd.messages import one_line
from rekd.running.agenda import Agenda
from rekd.running.conductor import Conductor
from rekd.running.downloads import fetch
from rekd.running.gpu_shares import Shares, measured_shares
from rekd.running.limits import Limits
from rekd.running.object_store import Shelf
from rekd.running.plan import PlanFunction, SweepResult, fixed_plan
from rekd.running.progress import Progress
from rekd.store.claims import Claims
from rekd.store.files import Store
from rekd.store.ledger import Ledger
from rekd.store.upkeep import clear_ended
from rekd.tasks.commits import commits, moved
from rekd.tasks.task import Task
from rekd.trial import Trial

logger = logging.getLogger(__name__)

LOOK_AGAIN = 5.0
"""Seconds between two looks for trials that have ended without a word, or hang."""


def run_sweep(
    plan: PlanFunction | Sequence[Trial],
    store: Store | str | Path = "results",
    *,
    tasks: Iterable[Task],
    cluster: Cluster | None = None,
    progress: Progress | None = None,
    gpus_per_trial: float | Literal["auto"] | None = None,
    max_concurrent: int | None = None,
    callbacks: Sequence[tune.Callback] = (),
    trainable: Callable[..., None] | None = None,
    limits: Limits = Limits(),  # noqa: B008 - it is frozen
    checkpoint_every: float = 0.0,
) -> SweepResult:
    """Runs what a plan asks for and the ledger does not have, until the plan has nothing more to ask.

    A trial starts as soon as the results that it depends on are there. One that `failed` in an earlier run is tried
    again. One that another sweep on this store is running is left to it, and its result awaited. `trainable` takes the
    place of training, for measurements: called with a trial's fields and what trials share, it writes the ledger. Once one of
    the `limits` is reached no trial is started any more, and the result says so. Trials write a checkpoint after each epoch,
    or where `checkpoint_every` so many seconds have passed since the one before.

    Without a `cluster` Ray is started on this machine, or met where it runs already; what was started is stopped at the
    end. Without a `progress` the terminal shows how far it is.

    Raises ValueError, before a trial starts, where more GPUs are asked for than the cluster has, where data or a model is
    not what its task says, or where nothing can be written, and
    StoreUnavailableError where the store fails for long while trials run.
    """
    store = store if isinstance(store, Store) else Store(str(store))
    progress = Progress(PlainConsole(highlight=False)) if progress is None else progress
    if cluster is None:
        with this_machine() as cluster:
            return run_sweep(
                plan,
                store,
                tasks=tasks,
                cluster=cluster,
                progress=progress,
                gpus_per_trial=gpus_per_trial,
                max_concurrent=max_concurrent,
                callbacks=callbacks,
                trainable=trainable,
                limits=limits,
                checkpoint_every=checkpoint_every,
            )
    by_name = {task.name: task for task in tasks}
    shares = _fixed_shares(gpus_per_trial, cluster)
    ledger = Ledger(store)
    function = plan if callable(plan) else fixed_plan(plan)
    agenda = Agenda(function, ledger, by_name, device="cuda" if cluster.num_gpus else "cpu")
    claims = Claims(store, on_trouble=lambda text: progress.say(f"[yellow]{escape(text)}[/]"))
    shelf = Shelf(store, gpus=min(shares.default, 1))
    conductor = Conductor(
        agenda, ledger, claims, progress=progress, is_supplied=lambda trial: shelf.supplies(by_name[trial.task], trial)
    )
    if agenda.queue:
        if cluster.is_shared:
            _stock({trial.task: by_name[trial.task] for trial in agenda.kinds()}.values(), store, progress)
        _check(agenda, by_name, shelf, progress)
        if gpus_per_trial == "auto":
            shares = measured_shares(by_name.values(), agenda.kinds())
            progress.say(f"Trials on one GPU, by measured memory: {_described(shares)}.")
        conductor.slots = max_concurrent or _slots(cluster, shares.smallest)
        function_of_trial = tune.with_parameters(
            trainable or _trainable,
            tasks=by_name,
            store_uri=store.uri_for_workers,
            directory=shelf.directory,
            commit=_commit(),
            checkpoint_every=checkpoint_every,
        )
        with_resources = tune.with_resources(function_of_trial, _resources(shares, by_name))
        watch = Watch(
            look_at_ray,
            needs="GPU" if shares.smallest else "CPU",
            notes=_why_none_is_ordered,
            given_up=Notes().given_up,
        )
        progress.reasons.append(watch.said)
        conductor.limit = partial(limits.reached, watch, time.monotonic())
        conductor.gpus_of = lambda trial: _share(shares, by_name, trial) or 1.0
        with claims, progress:
            clear_ended(store, claims, agenda.with_result)
            _fit(with_resources, conductor, callbacks)
    result = conductor.result()
    if failed := [digest for digest in result.failed["digest"] if digest in agenda.given]:
        _keep_logs(store, failed)
    conductor.copies.make()
    return result


def _stock(tasks: Iterable[Task], store: Store, progress: Progress) -> None:
    """Puts what tasks name on the hub into the store, where workers look first: all of them would meet the hub's limits."""
    for task in tasks:
        try:
            names = [] if task.is_embedded else fetch(task, store)
        except (ValueError, OSError) as error:  # what is wrong with a name is said where it is looked at
            why = escape(one_line(error))
            progress.say(f"[yellow]Each machine looks for the weights and data of {escape(task.name)} itself:[/] {why}")
            continue
        if names:
            progress.say(f"[dim]In the store for all machines: {escape(', '.join(names))}.[/]")


def _check(agenda: Agenda, tasks: dict[str, Task], shelf: Shelf, progress: Progress) -> None:
    """Says what is to be known of the data. Raises ValueError where a trial could not start, before any does.

    What their names stand for on the hub is settled here, for the whole run (`rekd.tasks.commits`).
    """
    kinds = agenda.kinds()
    for task in list(tasks.values()):
        trials = [trial for trial in kinds if trial.task == task.name]
        if trials and not task.is_embedded:
            progress.say(f"[dim]Looking at the data and the models of {escape(task.name)}.[/]")
            models = sorted({trial.model for trial in trials})
            tasks[task.name] = task = shelf.pinned(task, models)
            remarks = moved(commits(task, models), agenda.results["commits"])
            for remark in [*remarks, *shelf.check(task, trials)]:
                progress.say(f"[yellow]{escape(remark)}[/]")


def _slots(cluster: Cluster, gpus: float) -> int:
    return max(1, int(cluster.num_gpus / gpus) if gpus else int(cluster.num_cpus))


def _fit(trainable: Any, conductor: Conductor, callbacks: Sequence[tune.Callback]) -> None:
    """Lets Ray Tune run what the conductor gives out, until that is over."""
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(conductor.slots)
    _keep_keys_out_of_logs()
    searcher = _GivenOut(conductor)
    with OwnFolder() as scratch:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_InTurn(searcher),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_digest,
                trial_dirname_creator=_digest,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(scratch),  # nothing is restored from it: the ledger is what lasts
                verbose=0,
                # Tune tries a lost trial again only once it has run: one that is lost while it starts has ended.
                failure_config=tune.FailureConfig(max_failures=0),
                callbacks=[_Reporter(searcher), *callbacks],
            ),
        )
        tuner.fit()


def _why_none_is_ordered() -> str | None:
    """What the head of a rented cluster, where a sweep runs there, has noted of its orders."""
    return Notes().given_up() or Notes().hold() or Notes().refused()


def _keep_keys_out_of_logs() -> None:
    """Tune would hand AWS's keys on to workers, and Ray write them into its logs in plain text.

    Workers do without: those of this machine have the environment of who started Ray, those of a cluster a role.
    """
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE = {
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")
    }


def _keep_logs(store: Store, failed: Sequence[str]) -> None:
    """What trials' processes printed goes into the store where some failed: Ray's own folder is removed."""
    folder = f"{store.logs_folder}/failed/{failed[0]}"
    for name, content in worker_logs():
        with contextlib.suppress(OSError):
            store.write_once(f"{folder}/{name}", content)


class _GivenOut(Searcher):
    """The conductor as Tune sees it: a searcher that is asked for configurations and told of ends."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__(metric="dev_loss", mode="min")
        self.conductor = conductor
        self.trouble: OSError | None = None

    def suggest(self, trial_id: str) -> Any:
        """The next trial as a plain dictionary; None for "not now"; FINISHED when no result can bring another one."""
        trial = self.conductor.next_trial(trial_id)
        if trial is not None:
            return asdict(trial)
        return Searcher.FINISHED if self.conductor.is_over else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "epoch" in result:
            self.conductor.reached(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        try:
            self.conductor.ended(trial_id, error=error)
        except OSError as trouble:  # Tune would swallow it
            self.trouble = trouble
            raise

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher to restore a run from it; here the ledger is what a later run starts from."""
        return {}

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """See `__getstate__`."""

    def save(self, checkpoint_path: str) -> None:
        """See `__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """See `__getstate__`."""


class _InTurn(FIFOScheduler):
    """Trials start in the order in which they were given.

    Tune's own choice is the first trial whose process has not started yet. It would be handed each process that becomes
    free, and its own, half started, be thrown away: with short trials nearly all slots would stay empty for good.
    """

    def __init__(self, searcher: _GivenOut) -> None:
        super().__init__()
        self.searcher = searcher

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """No trial goes before its turn: a free process takes the next trial that is given.

        Where nothing more is to be started, those that wait for a machine end, and with them what Ray would rent for them.
        """
        if self.searcher.conductor.held:
            for trial in list(tune_controller.get_live_trials()):
                if trial.status == TuneTrial.PENDING:
                    # One that has never run has no folder yet, and Tune's list of results asks each for its path.
                    trial.storage.trial_dir_name = trial.storage.trial_dir_name or trial.trial_id
                    tune_controller.stop_trial(trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Looks at why; the searcher is told only that there was an error. A trial's own errors are rows, not raised."""
        cause = getattr(trial.get_pickled_error(), "cause", None)
        if isinstance(cause, PermissionError):
            self.searcher.conductor.refused(one_line(cause))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """A trial that another sweep has taken over ends here."""
        return TrialScheduler.STOP if self.searcher.conductor.is_taken_over(trial.trial_id) else TrialScheduler.CONTINUE


class _Reporter(tune.Callback):
    """Notices what Tune does not: Ctrl-C (to Tune an end like any other), a store that fails, trials it says nothing of,
    and processes that hang."""

    def __init__(self, searcher: _GivenOut) -> None:
        self.searcher, self.looked = searcher, time.monotonic()

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        if self.searcher.trouble is not None:
            raise self.searcher.trouble
        conductor = self.searcher.conductor
        conductor.claims.check()
        conductor.look_at_limit()
        # Of a process that could not be given its next trial Tune tells the searcher nothing.
        if time.monotonic() - self.looked > LOOK_AGAIN:
            self.looked = time.monotonic()
            for trial in trials:
                if trial.trial_id in conductor.live and trial.is_finished():
                    self.searcher.on_trial_complete(trial.trial_id, error=True)
                elif conductor.hangs(trial.trial_id) and (actor := trial.temporary_state.ray_actor) is not None:
                    ray.kill(actor)  # SIGKILL after 5 s where it does not end by itself; Tune then finds it lost

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Its process is there, and has been given the trial."""
        answer = trial.temporary_state.ray_actor.get_current_ip_pid.remote()
        self.searcher.conductor.begun(trial.trial_id, partial(_where, answer))

    def setup(self, *arguments: Any, **info: Any) -> None:
        handler = signal.getsignal(signal.SIGINT)

        def interrupted(number: int, frame: Any) -> None:
            self.searcher.conductor.is_interrupted = True
            if callable(handler):
                handler(number, frame)

        if callable(handler):
            signal.signal(signal.SIGINT, interrupted)


def _where(answer: ray.ObjectRef) -> str:
    """The machine of a process that was asked for it; it may hang since before it answered."""
    if not ray.wait([answer], timeout=0)[0]:
        return "a machine that does not say"
    return ray.get(answer)[0]


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
        return tune.PlacementGroupFactory([{"CPU": 1, "GPU": _share(shares, tasks, Trial(**config))}])

    return resources


def _share(shares: Shares, tasks: Mapping[str, Task], trial: Trial) -> float:
    """How much of a GPU a trial takes."""
    # A teacher that runs live lies on the same GPU, and was not measured.
    is_alone = tasks[trial.task].teacher_mode(trial) in ("live", "live_predictor")
    return shares.default if is_alone else shares.by_kind.get((trial.task, trial.model), shares.default)


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
