"""How far a training run has come: its records, its best version, whether it has diverged; saved and restored."""

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rekd.method.losses import Learner
from rekd.method.models import RationaleModel
from rekd.store.checkpoints import BEST, Best, Checkpoints, CheckpointWriter
from rekd.trial import Trial

COLLAPSED_EPOCHS = 3
"""Epochs in a row with nothing, or everything, selected after which a trial has diverged."""

COLLAPSED_FEATURES = 0.05
"""A generator that selects fewer features a sample than this (or leaves fewer unselected) selects nothing (everything)."""

_PLAIN = ("epoch", "step", "best_loss", "best_epoch", "diverged", "records", "made_with")
"""Names of what is saved as JSON. Checkpoints of 0.1.0 lack `made_with`."""

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What Adam keeps of a parameter."""


@dataclass
class RunState:
    """Everything of a run that is neither a parameter, nor the optimizer's, nor a random stream."""

    epoch: int = 0
    """Epochs that have ended."""
    step: int = 0
    """Steps that have been taken."""
    best_loss: float | None = None
    best_epoch: int | None = None
    diverged: str = ""
    """Why the run is over before its time; empty where it is not."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """One an epoch."""
    made_with: list[dict[str, str]] = field(default_factory=list)
    """Devices and versions that the run had, in order: one more where it went on with others."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The best version's parameters and buffers by name."""

    def take_in(self, record: dict[str, Any], model: RationaleModel, trial: Trial, *, num_features: int) -> None:
        """An epoch has ended with this record: notes it, whether the run has diverged, and the model if it is the best."""
        self.records.append(record)
        self.diverged = divergence(self.records, num_features=num_features)
        better = is_better(record["dev_loss"], self.best_loss, rule=trial.best_epoch_rule, objective=trial.objective)
        if better and not self.diverged:
            self.best_loss, self.best_epoch = record["dev_loss"], self.epoch
            self.best = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def save(self, writer: CheckpointWriter, learner: Learner) -> None:
        """Gives a checkpoint to be written, from which the run goes on as if it had not stopped."""
        tensors = {f"model.{name}": value for name, value in learner.model.state_dict().items()}
        for index, values in learner.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        tensors |= learner.streams.state()
        plain = {name: copy(getattr(self, name)) for name in _PLAIN}  # the lists grow while it is being written
        best = None if self.best_epoch is None else Best(self.best_epoch, self.best)
        writer.save(self.epoch, tensors, plain, best)

    @classmethod
    def restored(cls, checkpoints: Checkpoints, learner: Learner) -> "RunState":
        """The state of the newest checkpoint that fits, whose model, optimizer and streams the learner gets; or a new one.

        The learner stays as it is until all of the checkpoint is known to fit.
        """
        saved = checkpoints.latest(lambda tensors, plain: misfit(tensors, plain, learner))
        if saved is None:
            return cls()
        tensors, plain = saved
        learner.model.load_state_dict(_below("model.", tensors))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _below("optimizer.", tensors).items():
            index, moment = name.split(".")
            moments.setdefault(int(index), {})[moment] = value
        learner.optimizer.load_state_dict({**learner.optimizer.state_dict(), "state": moments})
        learner.streams.load_state(tensors)
        return cls(**plain, best=_below(BEST, tensors))


def misfit(tensors: Mapping[str, Tensor], plain: Mapping[str, Any], learner: Learner) -> str:
    """Why a checkpoint is not one of this learner; an empty text where it is."""
    if wrong := sorted(set(plain) ^ set(_PLAIN) - ({"made_with"} - set(plain))):
        return f"its state {'has' if wrong[0] in plain else 'lacks'} {wrong[0]}"
    expected = _expected(tensors, learner)
    if wrong := sorted(set(tensors) ^ set(expected)):
        return f"it {'has' if wrong[0] in tensors else 'lacks'} {wrong[0]}"
    for name, like in expected.items():
        value = tensors[name]
        if (value.shape, value.dtype) != (like.shape, like.dtype):
            return f"{name} is {_described(value)}, not {_described(like)}"
    return ""


def _expected(tensors: Mapping[str, Tensor], learner: Learner) -> dict[str, Tensor]:
    """Tensors of the names, shapes and types that a checkpoint of this learner has."""
    model = learner.model.state_dict()
    expected = {f"model.{name}": value for name, value in model.items()}
    if any(name.startswith(BEST) for name in tensors):  # none where no epoch was the best
        expected |= {f"{BEST}{name}": value for name, value in model.items()}
    seen = {name.split(".")[1] for name in tensors if name.startswith("optimizer.")}
    parameters = [parameter for group in learner.optimizer.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(parameters):
        if str(index) in seen:  # a parameter without a gradient has no moments
            like = dict.fromkeys(_MOMENTS, parameter) | {"step": torch.zeros(())}
            expected |= {f"optimizer.{index}.{name}": value for name, value in like.items()}
    return expected | learner.streams.state()


def _described(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def is_better(loss: float, best: float | None, *, rule: str, objective: str) -> bool:
    """Whether an epoch replaces the best so far, by `Trial.best_epoch_rule`."""
    if best is None:
        return True
    if rule == "lowest":
        return loss < best
    if rule == "logged_latest" and objective == "cls":  # the one loss that the authors' log does not round
        return loss <= best
    return round(loss, 3) <= round(best, 3)


def divergence(records: list[dict[str, Any]], *, num_features: int) -> str:
    """Why a run with these records is over, or an empty text."""
    last = records[-1]
    for name in ("train_loss", "dev_loss"):
        if not math.isfinite(last[name]):
            return f"{name} was {last[name]} in epoch {last['epoch']}"
    recent = records[-COLLAPSED_EPOCHS:]
    if len(recent) < COLLAPSED_EPOCHS or "train_rationale_ratio" not in last:  # cls has no generator
        return ""
    selected = [record["train_rationale_ratio"] * num_features for record in recent]
    since = f"in epochs {last['epoch'] - COLLAPSED_EPOCHS + 1} to {last['epoch']}"
    if all(count < COLLAPSED_FEATURES for count in selected):
        return f"the generator selected nothing {since}"
    if all(count > num_features - COLLAPSED_FEATURES for count in selected):
        return f"the generator selected everything {since}"
    return ""


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
