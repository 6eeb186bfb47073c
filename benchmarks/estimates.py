"""Whether sweeps take as long as they were said to take: `python -m benchmarks.estimates` (minutes on one core).

Each sweep is small and of another kind: a task, a model, an objective, a number of epochs. It is estimated in the three ways
in which a plan is (by arithmetic, by a few timed steps, by the first trial that has ended), and then its trials run one
after another, as `rekd train` runs them. Inside is a sweep whose time lies in the range that the plan prints.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analysis.frames import load_trials
from rekd.messages import duration
from rekd.running.calibrate import calibrate
from rekd.running.estimate import COLUMNS, Estimator, Seconds
from rekd.running.one_trial import run_trial
from rekd.running.supplies import Supplies
from rekd.store.files import Store
from rekd.tasks.task import Task, load_task
from rekd.trial import Objective, Trial

SWEEPS: tuple[tuple[str, Objective, str, int], ...] = (
    ("digits", "cls", "vit-student", 4),
    ("digits", "re", "vit-student", 2),
    ("digits", "re", "vit-teacher", 4),
    ("digits", "rekd", "vit-student", 4),
    ("hidden-digits", "cls", "vit-teacher", 2),
    ("hidden-digits", "re", "vit-student", 1),
    ("hidden-digits", "rekd", "vit-student", 2),
    ("planted-reviews", "cls", "bert-student", 2),
    ("planted-reviews", "re", "bert-student", 2),
    ("planted-reviews", "re", "bert-teacher", 1),
)
"""Task, objective, model and epochs."""

SEEDS = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was said of a sweep, and what it took."""

    name: str
    basis: str
    said: Seconds
    took: float

    @property
    def is_inside(self) -> bool:
        return self.said.low <= self.took <= self.said.high

    def __str__(self) -> str:
        low, expected, high = (duration(value) for value in (self.said.low, self.said.expected, self.said.high))
        verdict = "inside" if self.is_inside else "OUTSIDE"
        return (
            f"{self.name:38} {self.basis:12} {expected:>9} ({low} to {high}), took {duration(self.took):>9}  {verdict}"
        )


def estimated(task_name: str, objective: Objective, model: str, epochs: int, store: Store) -> Iterator[Comparison]:
    """Each estimate of a sweep, beside what it took."""
    task = load_task(task_name)
    name = f"{objective} {model} on {task_name}, {epochs} epochs"
    supplies = Supplies(store, device=torch.device("cpu"))
    more: dict[str, Any] = {}
    if objective == "rekd":
        teacher = task.trial("re", task.teacher, seed=1, epochs=1)
        list(run_trial(teacher, task=task, store=store, supplies=supplies))
        more["teacher_digest"] = teacher.digest
    trials = [task.trial(objective, model, seed=seed, epochs=epochs, **more) for seed in SEEDS]
    supplies.data(task)
    nothing = pd.DataFrame(columns=list(COLUMNS))
    estimators = [
        Estimator(nothing, [task], device="cpu"),
        Estimator(nothing, [task], device="cpu", steps=calibrate([task], trials)),
    ]
    seconds = [_seconds(trial, task, store, supplies) for trial in trials]
    for estimator in estimators:
        yield Comparison(name=name, basis=estimator.basis(trials), said=estimator.total(trials), took=sum(seconds))
    rows = load_trials(store)
    first = Estimator(rows[rows["digest"] == trials[0].digest], [task], device="cpu")
    rest = trials[1:]
    yield Comparison(name=name, basis=first.basis(rest), said=first.total(rest), took=sum(seconds[1:]))


def _seconds(trial: Trial, task: Task, store: Store, supplies: Supplies) -> float:
    started = time.perf_counter()
    list(run_trial(trial, task=task, store=store, supplies=supplies))
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweeps", type=int, nargs="*", default=range(len(SWEEPS)), help="Numbers from 0; all of them.")
    found: list[Comparison] = []
    for sweep in (SWEEPS[number] for number in parser.parse_args().sweeps):
        with tempfile.TemporaryDirectory() as folder:
            for one in estimated(*sweep, store=Store(Path(folder))):
                print(one, flush=True)
                found.append(one)
    for basis in ("arithmetic", "calibration", "ledger"):
        of_basis = [one.is_inside for one in found if one.basis == basis]
        print(f"{basis}: {sum(of_basis)} of {len(of_basis)} inside")


if __name__ == "__main__":
    main()
