"""What the trials of a sweep share, in Ray's object store: arrays of a task, a teacher's saved model, its targets.

The module itself is light: the processes that hold or fetch need not load torch.
"""

import logging
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rekd.running.downloads import bring
from rekd.store.files import Store
from rekd.store.saved_model import Weights
from rekd.tasks.commits import pinned
from rekd.tasks.data import Data, load_data, remarks_on
from rekd.tasks.task import Task
from rekd.trial import Trial

if TYPE_CHECKING:
    from rekd.method.teacher import Targets

logger = logging.getLogger(__name__)

Key = tuple[str, ...]
"""Such as ("data", name of a task's data) or ("targets", task digest, teacher digest)."""


@ray.remote(num_cpus=0)
class _Directory:
    """Where workers look up references by key. It holds references, not the objects."""

    def __init__(self) -> None:
        self.references: dict[Key, ray.ObjectRef] = {}

    def put(self, key: Key, boxed: list[ray.ObjectRef]) -> None:
        self.references[key] = boxed[0]

    def get(self, key: Key) -> list[ray.ObjectRef]:
        return [self.references[key]]


# These are tasks, not `ray.put`: an object that a task made is made again by Ray when its node is lost.
@ray.remote(num_cpus=0)
def _fetch_data(store_uri: str, task: Task) -> Data:
    bring(task, Store(store_uri))
    return load_data(task)


@ray.remote(num_cpus=0)
def _fetch_weights(store_uri: str, digest: str) -> Weights:
    return Weights.load(Store(store_uri), digest)


@ray.remote(num_cpus=0)
def _fetch_targets(
    store_uri: str, task: Task, teacher_digest: str, data: Data, weights: Weights, num_view_epochs: int = 0
) -> "Targets | list[Targets]":
    from rekd.running.supplies import Supplies, default_device

    bring(task, Store(store_uri))  # a teacher with a tokenizer of its own reads the texts again
    supplies = Supplies(Store(store_uri), device=default_device())
    supplies.keep(task, data, weights)
    if num_view_epochs:
        return supplies.fetch_view_targets(task, teacher_digest, num_view_epochs)
    return supplies.fetch_targets(task, teacher_digest)


@ray.remote(num_cpus=0)
def _check_models(store_uri: str, task: Task, data: Data, trials: list[Trial]) -> list[str]:
    from rekd.running.one_trial import check_model

    bring(task, Store(store_uri))
    for trial in trials:
        check_model(trial, task, data)
    return list(dict.fromkeys(remark for trial in trials for remark in remarks_on(data, task, trial)))


@ray.remote(num_cpus=0)
def _pinned(store_uri: str, task: Task, models: list[str]) -> Task:
    bring(task, Store(store_uri))
    return pinned(task, models)


class Shelf:
    """The driver's side: asks for objects once, and knows when they are there."""

    def __init__(self, store: Store, *, gpus: float) -> None:
        """`gpus`: share of a GPU for a teacher's pass over a task."""
        self.store_uri = store.uri_for_workers
        self.gpus = gpus
        # Beside the driver: on a worker it would be lost with it, and the sweep with both.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.directory: Any = _Directory.options(scheduling_strategy=here).remote()
        self._references: dict[Key, ray.ObjectRef] = {}

    def pinned(self, task: Task, models: list[str]) -> Task:
        """The task with commits for names of the hub (`rekd.tasks.commits`): those that a worker finds, and reads later.

        Raises ValueError where the hub does not know a name.
        """
        return _answer(_pinned.remote(self.store_uri, task, models))

    def data(self, task: Task) -> ray.ObjectRef:
        """The arrays of a task."""
        return self._once(("data", task.data_name), _fetch_data, self.store_uri, task)

    def check(self, task: Task, trials: list[Trial]) -> list[str]:
        """Remarks on the data. Raises ValueError where it is not what the task says, or a trial's model cannot read it."""
        views = {view.digest: view for view in (task.seen_by(trial.model) for trial in trials)}
        of_views = {digest: [trial for trial in trials if trial.task_digest == digest] for digest in views}
        remarks = [remark for digest, view in views.items() for remark in self._check(view, of_views[digest])]
        return list(dict.fromkeys(remarks))

    def _check(self, task: Task, trials: list[Trial]) -> list[str]:
        try:
            return _answer(_check_models.remote(self.store_uri, task, self.data(task), trials))
        except RayTaskError as error:
            # Such as memory: the row of each trial that it concerns will say so, and the others go on.
            logger.warning("The models of %s could not be looked at: %s", task.name, error.cause)
            return []

    def weights(self, teacher_digest: str) -> ray.ObjectRef:
        """The saved model of a teacher."""
        return self._once(("weights", teacher_digest), _fetch_weights, self.store_uri, teacher_digest)

    def targets(self, task: Task, teacher_digest: str) -> ray.ObjectRef:
        """What a teacher says of a task's training pool."""
        arguments = (self.store_uri, task, teacher_digest, self.data(task), self.weights(teacher_digest))
        fetch = _fetch_targets.options(num_gpus=self.gpus)
        return self._once(("targets", task.digest, teacher_digest), fetch, *arguments)

    def view_targets(self, task: Task, teacher_digest: str, num_epochs: int) -> ray.ObjectRef:
        """What a teacher says of the views of each epoch."""
        arguments = (self.store_uri, task, teacher_digest, self.data(task), self.weights(teacher_digest), num_epochs)
        fetch = _fetch_targets.options(num_gpus=self.gpus)
        return self._once(("views", task.digest, teacher_digest, str(num_epochs)), fetch, *arguments)

    def supplies(self, task: Task, trial: Trial) -> bool:
        """Whether what a trial needs is there; asks for it where it is not."""
        task = task.seen_by(trial.model)
        self.data(task)
        if trial.objective != "rekd":  # a classifier, whose saliency selects
            return all(self.has(reference) for reference in [self.weights(digest) for digest in trial.teachers])
        # Students wait here, not in their slots: on a full cluster the teacher's pass would find no GPU.
        needed = [self.targets(task, digest) for digest in trial.teachers]
        if num_epochs := task.num_view_epochs(trial):
            needed += [self.view_targets(task, digest, num_epochs) for digest in trial.teachers]
        return all(self.has(reference) for reference in needed)  # all were asked for above

    def has(self, reference: ray.ObjectRef) -> bool:
        """Whether an object is there (or will never be: fetching it then raises, in whoever needs it)."""
        return bool(ray.wait([reference], timeout=0, fetch_local=False)[0])

    def _once(self, key: Key, fetch: Any, *arguments: Any) -> ray.ObjectRef:
        if key not in self._references:
            self._references[key] = fetch.remote(*arguments)
            ray.get(self.directory.put.remote(key, [self._references[key]]))
        return self._references[key]


def _answer(reference: ray.ObjectRef) -> Any:
    """The object. A ValueError in its making, or in that of what it is made of, is raised as it would have been here."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause.cause if isinstance(error.cause, RayTaskError) else error.cause
        if isinstance(cause, ValueError):
            raise ValueError(str(cause)) from error
        raise


def take(directory: Any, key: Key) -> Any:
    """The object of that key, read where it lies. Raises ray.exceptions.RayError where it is lost for good."""
    (reference,) = ray.get(directory.get.remote(key))
    return ray.get(reference)
