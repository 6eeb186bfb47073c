"""What is to be run next: the plan, asked again with each new result, against what the ledger has."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from rekd.running.estimate import Estimator
from rekd.running.plan import Plan, PlanFunction, to_run
from rekd.store.ledger import TRIALS_SCHEMA, Ledger
from rekd.store.saved_model import is_saved
from rekd.tasks.task import Task
from rekd.trial import Trial


def in_order(to_do: Sequence[Trial], plan: Plan, seconds: Callable[[Trial], float]) -> list[Trial]:
    """Trials in the order in which they are to run: the first seed of every setting, for an early picture, then the others.

    Among these the longest goes first, so that no long one is left alone at the end, and what others wait for is soon there;
    equal ones are in the plan's order. (All second seeds before all third ones would make the paper take a third longer on
    120 GPUs: see docs/performance.md.) Which seed is the first is the plan's order too, for each task, model and objective.
    """
    first: dict[tuple[str, ...], int] = {}
    for trial in plan.trials:
        first.setdefault((trial.task, trial.model, trial.objective), trial.seed)

    def place(trial: Trial) -> tuple[bool, float]:
        return first.get((trial.task, trial.model, trial.objective), trial.seed) != trial.seed, -seconds(trial)

    return sorted(to_do, key=place)


class Agenda:
    """The trials that a plan asks for, that have no result and that were not given out, in their order."""

    def __init__(self, plan: PlanFunction, ledger: Ledger, tasks: Mapping[str, Task], *, device: str) -> None:
        self.plan_function, self.tasks, self.device, self.store = plan, tasks, device, ledger.store
        self.results = ledger.trials().to_pandas()
        self.given: set[str] = set()
        """Digests that were given out, here or by another sweep."""
        self.again: dict[str, Trial] = {}
        """Teachers that have a result and no model, until they have been run again; their students wait for them."""
        self._teachers: set[str] = set()  # that were looked at
        self._news: list[dict[str, Any]] = []  # rows that are not among the results yet
        self.replan()

    def take_in(self, row: dict[str, Any]) -> None:
        """A trial has ended with this row: the plan is to be asked again."""
        self.again.pop(row["digest"], None)
        self._news.append(row)
        self.is_stale = True

    def replan_if_due(self) -> bool:
        """Asks the plan again where there is news; whether it did.

        A large plan takes a third of a second: it may have a twentieth of the time, unless slots wait for it.
        """
        if not self.is_stale or (self.queue and time.monotonic() - self._planned_at <= 20 * self._plan_seconds):
            return False
        self.replan()
        return True

    def replan(self) -> None:
        """Asks the plan with all results, and sorts what it asks for."""
        started = time.monotonic()
        self._join_news()
        self.plan = self.plan_function(self.results)
        self.estimator = Estimator(self.results, self.tasks.values(), device=self.device)
        asked_for = to_run(self.plan, self.results)
        to_do = [trial for trial in [*self._teachers_again(asked_for), *asked_for] if trial.digest not in self.given]
        self.queue = in_order(to_do, self.plan, self.seconds)
        self.is_stale, self._planned_at = False, time.monotonic()
        self._plan_seconds = self._planned_at - started

    def give(self, trial: Trial) -> None:
        """The trial is run from now on, here or by another sweep."""
        self.given.add(trial.digest)
        if trial in self.queue:
            self.queue.remove(trial)

    def put_back(self, trial: Trial) -> None:
        """The trial is to be run again, before all others."""
        self.given.remove(trial.digest)
        self.queue.insert(0, trial)

    def seconds(self, trial: Trial) -> float:
        """How long the trial takes, by the results so far."""
        return self.estimator.seconds(trial).expected

    @property
    def num_postponed(self) -> int:
        """Trials that cannot be named yet."""
        return sum(group.num_trials for group in self.plan.postponed)

    @property
    def seconds_left(self) -> float:
        """Slot-seconds of what is queued and of what cannot be named yet."""
        queued = sum(self.seconds(trial) for trial in self.queue)
        return queued + sum(self.seconds(group.like) * group.num_trials for group in self.plan.postponed)

    @property
    def with_result(self) -> set[str]:
        """Digests of trials that have a result, and are not to be run again."""
        return set(self.results.loc[self.results["status"] != "failed", "digest"]) - set(self.again)

    def kinds(self) -> list[Trial]:
        """A trial of each task and model that may still be run."""
        trials = [*self.queue, *(group.like for group in self.plan.postponed)]
        return list({(trial.task, trial.model): trial for trial in trials}.values())

    def _teachers_again(self, students: Sequence[Trial]) -> list[Trial]:
        """Teachers whose models are gone, as from a store that was copied without them. Their rows stay until then."""
        for digest in {digest for trial in students for digest in trial.teachers} - self._teachers:
            self._teachers.add(digest)
            rows = self.results.loc[(self.results["digest"] == digest) & (self.results["status"] == "ok"), "config"]
            if len(rows) and not is_saved(self.store, digest):
                teacher = Trial.from_record(json.loads(rows.iloc[0]))
                if self._can_be_run(teacher):
                    self.again[digest] = teacher
        return list(self.again.values())

    def _can_be_run(self, trial: Trial) -> bool:
        """Whether a task is here that is what the trial was made of: its data, and its model under that name."""
        task = self.tasks.get(trial.task)
        if task is None or trial.model not in task.models:
            return False
        known = task.seen_by(trial.model).digest, task.models[trial.model].digest
        return (trial.task_digest, trial.model_digest) == known

    def _join_news(self) -> None:
        if self._news:
            rows = pa.Table.from_pylist(self._news, schema=TRIALS_SCHEMA).to_pandas()
            known = self.results[~self.results["digest"].isin(rows["digest"])]
            self.results, self._news = pd.concat([known, rows], ignore_index=True), []
