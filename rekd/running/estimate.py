"""How long trials take: from the ledger where it has such runs, from arithmetic where it has none."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from rekd.tasks.task import Task
from rekd.trial import Trial

SHAPES = {
    "bert-base-uncased": (12, 768),
    "prajjwal1/bert-small": (4, 512),
    "prajjwal1/bert-mini": (4, 256),
    "google/vit-base-patch16-224": (12, 768),
    "WinKawaks/vit-small-patch16-224": (12, 384),
    "WinKawaks/vit-tiny-patch16-224": (12, 192),
}
"""Layers and width of the paper's backbones, so that a plan needs no download."""

TRAIN_SAMPLES = {
    "digits": 1_078,
    "hidden-digits": 4_296,
    "planted-reviews": 3_000,
    "cifar10": 40_000,
    "cifar100": 40_000,
    "imdb": 20_000,
}
"""Of the embedded tasks; the paper's are those of its Section 3.2."""

NUM_FEATURES = {"image": 196, "text": 256}

FLOPS = {"cuda": 4e13, "cpu": 5e10}
"""Floating-point operations a second that training is assumed to reach: on an L40S in bfloat16 (about a fifth of its
peak), and on one CPU core. A guess, hence `SPREAD`; a measured run replaces it."""

LAUNCHES = {"cuda": 1.5e-4, "cpu": 4e-3}
"""Seconds a layer and step below which nothing gets however small the model: what it costs to start its operations."""

COLUMNS = ("task", "model", "objective", "num_epochs", "status", "train_seconds")
"""Of `trials`, what an estimate reads."""

SPREAD = 2.0
"""A guess from arithmetic may be off by this factor either way."""


HALVES = {"cls": 1, "re": 2, "rekd": 2}
"""A classifier is a predictor alone: half of an RE step. Stored targets make a REKD step an RE step."""


@dataclass(frozen=True)
class Seconds:
    """How long something takes on one slot: the expected value and a range around it."""

    expected: float
    low: float
    high: float

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.expected + other.expected, self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> "Seconds":
        return Seconds(self.expected * factor, self.low * factor, self.high * factor)


class Estimator:
    """Estimates for the trials of a sweep."""

    def __init__(
        self,
        results: pd.DataFrame,
        tasks: Iterable[Task],
        *,
        device: str,
        steps: Mapping[tuple[str, str], Seconds] | None = None,
    ) -> None:
        """`results` needs the columns `COLUMNS`; `device` is `cuda` or `cpu`; `steps` is what `calibrate` measured."""
        self.tasks = {task.name: task for task in tasks}
        self.device = device
        self.steps = dict(steps or {})
        finished = results[(results["status"] == "ok") & (results["train_seconds"] > 0)]
        seconds_an_epoch = finished["train_seconds"] / finished["num_epochs"]
        by_kind = seconds_an_epoch.groupby([finished["task"], finished["model"], finished["objective"]])
        self.measured: dict[Any, tuple[float, float, float]] = {
            kind: (group.mean(), group.min(), group.max()) for kind, group in by_kind
        }
        self.correction = self._correction()

    def seconds(self, trial: Trial) -> Seconds:
        """Of one trial: by its kind (task, model, objective) where such a run was measured."""
        for objective in (trial.objective, "re", "rekd", "cls"):
            measured = self.measured.get((trial.task, trial.model, objective))
            if measured is not None:
                scale = trial.epochs * HALVES[trial.objective] / HALVES[objective]
                return Seconds(*(value * scale for value in measured))
        step = self.steps.get((trial.task, trial.model))
        if step is not None:
            num_steps = trial.epochs * math.ceil(self._num_samples(trial) / trial.batch_size)
            return step * (num_steps * HALVES[trial.objective] / 2)
        guess = self._guess(trial) * HALVES[trial.objective] * self.correction
        return Seconds(guess, guess / SPREAD, guess * SPREAD)

    def basis(self, trials: Iterable[Trial]) -> str:
        """What the estimates of trials rest on, the weakest first: `arithmetic`, `calibration` or `ledger`."""
        found = {self._basis(trial) for trial in trials}
        return next((basis for basis in ("arithmetic", "calibration") if basis in found), "ledger")

    def _basis(self, trial: Trial) -> str:
        if any((trial.task, trial.model, objective) in self.measured for objective in ("cls", "re", "rekd")):
            return "ledger"
        return "calibration" if (trial.task, trial.model) in self.steps else "arithmetic"

    def _num_samples(self, trial: Trial) -> int:
        return TRAIN_SAMPLES.get(trial.task, 10_000)

    def total(self, trials: Iterable[Trial]) -> Seconds:
        """Of many trials, one after another on one slot."""
        return sum((self.seconds(trial) for trial in trials), Seconds(0, 0, 0))

    def _correction(self) -> float:
        """What arithmetic is to be multiplied by, as the measured kinds tell: this device, these datasets."""
        ratios = []
        for (task, model, objective), (mean, _, _) in self.measured.items():
            if task in self.tasks and model in self.tasks[task].models:
                like = self.tasks[task].trial("re", model, seed=0, epochs=1)
                ratios.append(mean / (self._guess(like) * HALVES[objective]))
        return median(ratios) if ratios else 1.0

    def _guess(self, trial: Trial) -> float:
        """Seconds of training one encoder: 6 operations a parameter, token and sample for forward and backward."""
        task = self.tasks[trial.task]
        model = task.models[trial.model]
        config = model.config or {}
        layers, width = SHAPES.get(
            model.source or "", (config.get("num_hidden_layers", 4), config.get("hidden_size", 256))
        )
        features = NUM_FEATURES[task.kind]
        if task.kind == "image" and "image_size" in config:
            features = (config["image_size"] // config.get("patch_size", 16)) ** 2
        num_samples = self._num_samples(trial) * trial.epochs
        parameters = layers * (12 * width**2 + 2 * features * width)
        operations = 6.0 * parameters * features * num_samples
        return operations / FLOPS[self.device] + LAUNCHES[self.device] * layers * num_samples / trial.batch_size
