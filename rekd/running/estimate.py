"""How long trials take: from the ledger where it has such runs, from arithmetic where it has none."""

import contextlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from rekd.tasks.counting import num_train_samples
from rekd.tasks.task import Model, Task
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

NUM_FEATURES = {"image": 196, "text": 256}

VOCABULARY = 30_522
"""Words of a text model whose configuration is not at hand: BERT's."""

FLOPS = {"cuda": 4e13, "cpu": 5e10}
"""Floating-point operations a second that training is assumed to reach: on an L40S in bfloat16 (about a fifth of its
peak), and on one CPU core. A guess, hence `SPREAD`; a measured run replaces it."""

LAUNCHES = {"cuda": 1.5e-4, "cpu": 4e-3}
"""Seconds a layer and step below which nothing gets however small the model: what it costs to start its operations."""

COLUMNS = (
    "task_digest",
    "model_digest",
    "objective",
    "num_epochs",
    "status",
    "train_seconds",
    "device",
    "num_parameters",
)
"""What an estimate reads of `trials`. Digests, not names: the same data and model under another name take as long."""

OBJECTIVES = ("re", "rekd", "cls")

Kind = tuple[str, str]
"""Digests of a task and of one of its models."""

EVALUATION = 1.1
"""An epoch takes so much of its steps' time: dev is a quarter of train, forward only."""

SHORT, LONG = 0.6, 2.0
"""A trial may take so much less or more than a few timed steps say: other trials run beside it, and the machine warms up."""

SPREAD = 3.0
"""A guess from arithmetic may be off by this factor either way."""

QUICK, SLOW = 0.7, 1.5
"""A trial may take so much less or more than others of its kind: other trials run beside it."""

ENDING = 3.0
"""Seconds that a trial may take beside its training, for what grows with neither samples nor epochs. What does, its tests and
measures at the end, may take as long as an epoch."""

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
        steps: Mapping[Kind, Seconds] | None = None,
    ) -> None:
        """`results` has the columns `COLUMNS`; `device` is `cuda` or `cpu`; `steps` is what `calibrate` measured."""
        self.tasks = {task.name: task for task in tasks}
        self.device = device
        self.steps = dict(steps or {})
        results = results.reindex(columns=list(COLUMNS))
        is_alike = [_kinds_of_device(named) == {device} for named in results["device"].astype(object).fillna("")]
        alike = results.loc[pd.Series(is_alike, index=results.index, dtype=bool)]
        finished = alike[(alike["status"] == "ok") & (alike["train_seconds"] > 0)]
        kinds = [results[name] for name in ("task_digest", "model_digest", "objective")]
        self._parameters: dict[Any, float] = results["num_parameters"].groupby(kinds).max().dropna().to_dict()
        seconds_an_epoch = finished["train_seconds"] / finished["num_epochs"]
        by_kind = seconds_an_epoch.groupby([finished[name] for name in ("task_digest", "model_digest", "objective")])
        self.measured: dict[Any, tuple[float, float, float]] = {
            kind: (group.mean(), group.min(), group.max()) for kind, group in by_kind
        }

    def seconds(self, trial: Trial) -> Seconds:
        """Estimates one trial: by its kind (task, model, objective) where such a run was measured."""
        training = self._training(trial)
        return Seconds(training.expected, training.low, training.high * (1 + 1 / trial.epochs) + ENDING)

    def _training(self, trial: Trial) -> Seconds:
        for objective in (trial.objective, *OBJECTIVES):
            measured = self.measured.get((*kind_of(trial), objective))
            if measured is not None:
                scale = trial.epochs * HALVES[trial.objective] / HALVES[objective]
                mean, fastest, slowest = (value * scale for value in measured)
                return Seconds(mean, fastest * QUICK, slowest * SLOW)
        step = self.steps.get(kind_of(trial))
        if step is not None:
            num_steps = trial.epochs * math.ceil(self._num_samples(trial) / trial.batch_size)
            timed = step * (num_steps * HALVES[trial.objective] / 2 * EVALUATION)
            return Seconds(timed.expected, timed.low * SHORT, timed.high * LONG)
        guess = self._guess(trial) * HALVES[trial.objective] * self.correction
        return Seconds(guess, guess / SPREAD, guess * SPREAD)

    def num_parameters(self, trial: Trial) -> float:
        """Trainable parameters: those of such a trial in the ledger, else what layers and embeddings of this shape have."""
        if (known := self._parameters.get((*kind_of(trial), trial.objective))) is not None:
            return known
        task = self.tasks[trial.task]
        model = task.models[trial.model]
        layers, width, features = _shape(task, model)
        vocabulary = _whole(settings_at_hand(model), VOCABULARY, "vocab_size") if task.kind == "text" else 3 * 16**2
        return HALVES[trial.objective] * width * (12 * layers * width + vocabulary + features)

    def basis(self, trials: Iterable[Trial]) -> str:
        """What the estimates of trials rest on, the weakest first: `arithmetic`, `calibration` or `ledger`."""
        found = {self._basis(trial) for trial in trials}
        return next((basis for basis in ("arithmetic", "calibration") if basis in found), "ledger")

    def _basis(self, trial: Trial) -> str:
        if any((*kind_of(trial), objective) in self.measured for objective in OBJECTIVES):
            return "ledger"
        return "calibration" if kind_of(trial) in self.steps else "arithmetic"

    def _num_samples(self, trial: Trial) -> int:
        return self._samples[trial.task]

    @cached_property
    def _samples(self) -> dict[str, int]:
        """Holds the samples by task; they are counted when they are first asked for."""
        return {name: num_train_samples(task) for name, task in self.tasks.items()}

    def total(self, trials: Iterable[Trial]) -> Seconds:
        """Adds up many trials, one after another on one slot."""
        return sum((self.seconds(trial) for trial in trials), Seconds(0, 0, 0))

    @cached_property
    def correction(self) -> float:
        """What arithmetic is to be multiplied by, as the measured kinds tell: this device, these datasets."""
        ratios = []
        for like in (
            task.trial("re", model, seed=0, epochs=1) for task in self.tasks.values() for model in task.models
        ):
            for objective in OBJECTIVES:
                if (measured := self.measured.get((*kind_of(like), objective))) is not None:
                    ratios.append(measured[0] / (self._guess(like) * HALVES[objective]))
        return median(ratios) if ratios else 1.0

    def _guess(self, trial: Trial) -> float:
        """Seconds of training one encoder: 6 operations a parameter, token and sample for forward and backward."""
        task = self.tasks[trial.task]
        model = task.models[trial.model]
        layers, width, features = _shape(task, model)
        num_samples = self._num_samples(trial) * trial.epochs
        parameters = layers * (12 * width**2 + 2 * features * width)
        operations = 6.0 * parameters * features * num_samples
        return operations / FLOPS[self.device] + LAUNCHES[self.device] * layers * num_samples / trial.batch_size


def _kinds_of_device(named: str) -> set[str]:
    """Whether a row was made on CPUs, on GPUs or, where the trial went on elsewhere, on both: its time is then of neither."""
    return {"cpu" if name.strip() in ("cpu", "") else "cuda" for name in named.split(";")}


def kind_of(trial: Trial) -> Kind:
    """What a trial's time depends on, beside its own settings."""
    return trial.task_digest, trial.model_digest


def _shape(task: Task, model: Model) -> tuple[int, int, int]:
    """Layers, width and features of a sample, as far as they can be told without a download."""
    config = settings_at_hand(model)
    own = _whole(config, 4, "num_hidden_layers", "n_layers"), _whole(config, 256, "hidden_size", "dim")
    cell = _whole(config, 16, "patch_size")
    stages = _listed(config, "hidden_sizes")
    if stages:  # of a convolutional network, each of which halves the grid of the one before
        own = max(1, sum(_listed(config, "depths"))), stages[-1]
        cell = _whole(config, 4, "patch_size") * 2 ** (len(stages) - 1)
    layers, width = SHAPES.get(model.source or "", own)
    features = task.max_length or NUM_FEATURES[task.kind]
    if task.kind == "image" and "image_size" in config:
        features = max(1, _whole(config, 224, "image_size") // cell) ** 2
    return layers, width, features


def _listed(config: Mapping[str, Any], name: str) -> list[int]:
    """The numbers above 0 of a setting that lists some."""
    found = config.get(name)
    return [each for each in found if isinstance(each, int) and each > 0] if isinstance(found, list) else []


def _whole(config: Mapping[str, Any], otherwise: int, *names: str) -> int:
    """The first of these settings that is a number above 0. What is wrong with one is said where the model is read."""
    found = (config.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), otherwise)


def settings_at_hand(model: Model) -> dict[str, Any]:
    """A model's configuration: the task file's, or that of a folder; empty for one of the hub."""
    if model.config is not None:
        return model.config
    if model.is_local:
        assert model.source is not None
        with contextlib.suppress(OSError, ValueError):  # reading the model says what is wrong, in due time
            config = json.loads((Path(model.source) / "config.json").read_text(encoding="utf-8"))
            return config if isinstance(config, dict) else {}
    return {}
