"""The training loop of CLS, RE and REKD. It knows nothing of Ray, and nothing of where results go."""

import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rekd.method.backbones import Inputs
from rekd.method.equations import (
    distillation_loss,
    gumbel_noise,
    gumbel_softmax,
    prediction_distillation_loss,
    prediction_loss,
    rationale_distillation_loss,
    rationale_ratio,
    re_loss,
    rekd_loss,
    selection_loss,
    straight_through,
    temperature_at,
    token_ratio,
)
from rekd.method.models import RationaleModel
from rekd.method.samples import as_tensor
from rekd.method.streams import Streams
from rekd.method.teacher import BATCH, Teacher
from rekd.method.views import Views, crop_flip
from rekd.store.checkpoints import Checkpoints
from rekd.trial import Trial

COLLAPSED_EPOCHS = 3
"""Epochs in a row with nothing, or everything, selected after which a trial has diverged."""

COLLAPSED_FEATURES = 0.05
"""A generator that selects fewer features a sample than this (or leaves fewer unselected) selects nothing (everything)."""


class Samples(Protocol):
    """Inputs by name, "sample …", and their labels, "sample"."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]: ...
    @property
    def labels(self) -> np.ndarray: ...


@dataclass
class Trained:
    """What `train` returns: the best version by dev loss, loaded into the model, and how the run went."""

    model: RationaleModel
    records: list[dict[str, Any]]
    """One an epoch, as yielded."""
    best_epoch: int | None
    diverged: str
    """Why the run ended early; empty where it did not."""
    seconds: float


class DeviceSamples:
    """Samples that live on the device as they are (8-bit images, token ids), taken by index without a trip to the host."""

    def __init__(self, samples: Samples, device: torch.device, indices: np.ndarray | None = None) -> None:
        chosen = slice(None) if indices is None else indices
        self.inputs = {name: as_tensor(array[chosen]).to(device) for name, array in samples.arrays.items()}
        self.labels = as_tensor(samples.labels[chosen]).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> tuple[Inputs, Tensor]:
        """Inputs and labels of the given rows."""
        return {name: values[rows] for name, values in self.inputs.items()}, self.labels[rows]


def train(
    trial: Trial,
    model: RationaleModel,
    *,
    pool: Samples,
    train_indices: np.ndarray,
    dev_indices: np.ndarray,
    teacher: Teacher | None = None,
    streams: Streams,
    checkpoints: Checkpoints | None = None,
    device: torch.device,
) -> Generator[dict[str, Any], None, Trained]:
    """Trains `model` as `trial` says and yields one record an epoch (columns: `rekd.store.ledger.EPOCHS_SCHEMA`).

    `pool` holds train and dev, told apart by indices; `teacher` is needed by rekd alone. With `checkpoints` the run
    starts after the newest one and yields the records up to it again, so that whoever collects them has all. Returns
    (as the generator's value) `Trained`.
    """
    if (trial.objective == "rekd") != (teacher is not None):
        raise ValueError(f"A teacher is needed by objective 'rekd' and by no other, got {trial.objective!r}.")
    model = model.to(device)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=trial.learning_rate, weight_decay=trial.weight_decay, fused=True)
    train_samples = DeviceSamples(pool, device, train_indices)
    dev_samples = DeviceSamples(pool, device, dev_indices)
    pool_rows = torch.as_tensor(train_indices).to(device)  # where a train row stands in the pool, for the teacher
    num_batches = math.ceil(len(train_samples) / trial.batch_size)
    num_steps = trial.epochs * num_batches

    run, attempt = _Progress(), 1
    if checkpoints is not None and (saved := checkpoints.latest()) is not None:
        run = _restore(saved, model, optimizer, streams)
        attempt = run.records[-1]["attempt"] + 1
        yield from run.records

    while run.epoch < trial.epochs and not run.diverged:
        started = time.perf_counter()
        totals: dict[str, Tensor] = {}
        temperature = None
        views = None
        if trial.augmentation == "crop_flip_seeded" and "image" in pool.arrays:
            num_samples, _, height, _ = pool.arrays["image"].shape
            views = Views.of_epoch(run.epoch + 1, num_samples, height=height).to(device)
        if teacher is not None:
            teacher.begin_epoch(run.epoch + 1)
        model.train()
        with streams.training():
            order = torch.randperm(len(train_samples), generator=streams.data_order).to(device)
            for rows in order.split(trial.batch_size):
                temperature = _temperature(trial, run.step, num_steps)
                inputs, labels = train_samples.take(rows)
                if views is not None:
                    inputs = {**inputs, "image": views[pool_rows[rows]].of(inputs["image"])}
                elif trial.augmentation == "crop_flip" and "image" in inputs:
                    inputs = {**inputs, "image": crop_flip(inputs["image"], generator=streams.data_order)}
                batch = step(trial, model, optimizer, inputs, labels, pool_rows[rows], temperature, streams, teacher)
                run.step += 1
                for name, value in batch.items():  # on the device: reading a value here would stop it every step
                    totals[name] = totals.get(name, 0) + value.detach()
        run.epoch += 1

        means = {f"train_{name}": total.item() / num_batches for name, total in totals.items()}
        dev = evaluate(model, dev_samples, trial, streams=streams)
        record = {
            "attempt": attempt,
            "epoch": run.epoch,
            "step": run.step,
            "temperature": temperature,
            **means,
            **{f"dev_{name}": value for name, value in dev.items()},
            "seconds": time.perf_counter() - started,
        }
        run.records.append(record)
        run.diverged = _divergence(run.records, num_features=model.num_features(dev_samples.inputs))
        if not run.diverged and is_better(record["dev_loss"], run.best_loss, rule=trial.best_epoch_rule):
            run.best_loss, run.best_epoch = record["dev_loss"], run.epoch
            run.best = {name: value.detach().clone() for name, value in model.state_dict().items()}
        if checkpoints is not None and not run.diverged:
            _save(checkpoints, run, model, optimizer, streams)
        yield record

    if run.best:
        model.load_state_dict(run.best)
    seconds = sum(record["seconds"] for record in run.records)
    return Trained(model.eval(), run.records, run.best_epoch, run.diverged, seconds)


def step(
    trial: Trial,
    model: RationaleModel,
    optimizer: torch.optim.Optimizer,
    inputs: Inputs,
    labels: Tensor,
    pool_rows: Tensor,
    temperature: float | None,
    streams: Streams,
    teacher: Teacher | None = None,
) -> dict[str, Tensor]:
    """One optimisation step. Returns the batch's losses (`losses`), on the device."""
    batch = losses(trial, model, inputs, labels, pool_rows, temperature, streams, teacher)
    optimizer.zero_grad()
    batch["loss"].backward()
    optimizer.step()
    return batch


def losses(
    trial: Trial,
    model: RationaleModel,
    inputs: Inputs,
    labels: Tensor,
    pool_rows: Tensor,
    temperature: float | None,
    streams: Streams,
    teacher: Teacher | None = None,
) -> dict[str, Tensor]:
    """Every loss of one batch, under the paper's names; `loss` is the one to minimise.

    `pool_rows` says where the batch's samples stand in the pool, for the teacher; `temperature` is None for cls.
    """
    if model.generator is None or temperature is None:
        l_pred = prediction_loss(model.predictor(inputs), labels)
        return {"loss": l_pred, "prediction_loss": l_pred}

    assert trial.p_target is not None  # `Trial` asks re and rekd for both
    assert trial.lambda_select is not None
    selection_logits = model.generator(inputs)
    noise = gumbel_noise(selection_logits.shape, generator=streams.student_noise, device=selection_logits.device)
    mask = straight_through(gumbel_softmax(selection_logits, noise, temperature=temperature))
    logits = model.predictor(inputs, mask)

    l_pred = prediction_loss(logits, labels)
    l_select = selection_loss(mask, p_target=trial.p_target, form=trial.selection_loss_form)
    l_re = re_loss(l_pred, l_select, lambda_select=trial.lambda_select)
    terms = {
        "loss": l_re,
        "prediction_loss": l_pred,
        "selection_loss": l_select,
        "rationale_ratio": rationale_ratio(mask).mean(),
    }
    if teacher is None:
        return terms

    assert trial.alpha is not None  # and rekd for these
    assert trial.lambda_rationale is not None
    teacher_selection_logits, teacher_logits = teacher(pool_rows, inputs, mask.detach())
    teacher_noise = gumbel_noise(noise.shape, generator=streams.teacher_noise, device=noise.device)
    l_rationale = rationale_distillation_loss(
        selection_logits, noise, teacher_selection_logits, teacher_noise, temperature=temperature
    )
    l_prediction = prediction_distillation_loss(logits, teacher_logits, temperature=temperature)
    l_kd = distillation_loss(
        l_rationale, l_prediction, lambda_rationale=trial.lambda_rationale, temperature=temperature
    )
    terms["loss"] = rekd_loss(l_re, l_kd, alpha=trial.alpha)
    terms["rationale_distillation_loss"] = l_rationale
    terms["prediction_distillation_loss"] = l_prediction
    return terms


@torch.no_grad()
def evaluate(model: RationaleModel, samples: DeviceSamples, trial: Trial, *, streams: Streams) -> dict[str, float]:
    """Means over all samples: `loss` (L_RE; L_pred for cls), its parts, `accuracy`, `rationale_ratio`, `token_ratio`.

    Leaves parameters, buffers, the training mode and every random stream as they were.
    """
    was_training = model.training
    model.eval()
    generator = streams.evaluation_noise() if trial.evaluation_mask == "sampled" else None
    sums: dict[str, Tensor | float] = dict.fromkeys(
        ("prediction", "correct", "squares", "differences", "ratio", "token_ratio"), 0.0
    )
    for rows in torch.arange(len(samples), device=samples.labels.device).split(BATCH):
        inputs, labels = samples.take(rows)
        prediction = model.predict(inputs, sampled_by=generator)
        mask, logits = prediction.mask, prediction.logits
        difference = mask.sum(dim=-1) - mask.shape[-1] * (trial.p_target or 0)
        sums["prediction"] += F.cross_entropy(logits, labels, reduction="sum")
        sums["correct"] += (logits.argmax(dim=-1) == labels).sum()
        sums["squares"] += difference.double().square().sum()
        sums["differences"] += difference.double().sum()
        sums["ratio"] += rationale_ratio(mask).double().sum()
        sums["token_ratio"] += token_ratio(mask, inputs.get("valid", torch.ones_like(mask)).to(mask)).double().sum()
    model.train(was_training)
    means = {name: float(value) / len(samples) for name, value in sums.items()}
    result = {
        "loss": means["prediction"],
        "accuracy": means["correct"],
        "rationale_ratio": means["ratio"],
        "token_ratio": means["token_ratio"],
    }
    if model.generator is not None and trial.lambda_select is not None:
        squares = means["squares"] if trial.selection_loss_form == "per_sample" else means["differences"] ** 2
        result["prediction_loss"] = means["prediction"]
        result["selection_loss"] = squares
        result["loss"] = means["prediction"] + trial.lambda_select * squares
    return result


def is_better(loss: float, best: float | None, *, rule: str) -> bool:
    """Whether an epoch replaces the best so far: lowest and earliest, or lowest to 3 decimals and latest."""
    if best is None:
        return True
    return round(loss, 3) <= round(best, 3) if rule == "rounded_latest" else loss < best


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, one thread: sums then run in one order, so a result does not depend on how many cores are free."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Progress:
    """How far a run has come."""

    epoch: int = 0
    step: int = 0
    best_loss: float | None = None
    best_epoch: int | None = None
    diverged: str = ""

    def __post_init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}


def _temperature(trial: Trial, step: int, num_steps: int) -> float | None:
    if trial.temperature_initial is None or trial.temperature_final is None or trial.temperature_every is None:
        return None
    return temperature_at(
        step,
        num_steps=num_steps,
        initial=trial.temperature_initial,
        final=trial.temperature_final,
        every=trial.temperature_every,
    )


def _divergence(records: list[dict[str, Any]], *, num_features: int) -> str:
    """Why the run is over, or an empty text."""
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


def _save(
    checkpoints: Checkpoints, run: _Progress, model: RationaleModel, optimizer: torch.optim.Optimizer, streams: Streams
) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in run.best.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    tensors |= streams.state()
    state = {name: getattr(run, name) for name in ("epoch", "step", "best_loss", "best_epoch", "diverged", "records")}
    checkpoints.save(run.epoch, tensors, state)


def _restore(
    saved: tuple[dict[str, Tensor], dict[str, Any]],
    model: RationaleModel,
    optimizer: torch.optim.Optimizer,
    streams: Streams,
) -> _Progress:
    tensors, state = saved
    records = state.pop("records")
    run = _Progress(**state)
    run.records = records
    run.best = {name.removeprefix("best."): value for name, value in tensors.items() if name.startswith("best.")}
    model.load_state_dict(
        {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    )
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, moment = name.split(".")
            moments.setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    streams.load_state(tensors)
    return run
