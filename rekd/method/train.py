"""The training loop of CLS, RE and REKD. It knows nothing of Ray, and nothing of where results go."""

import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rekd.method.equations import temperature_at
from rekd.method.evaluate import evaluate
from rekd.method.losses import Learner, step
from rekd.method.models import RationaleModel
from rekd.method.run_state import RunState
from rekd.method.samples import Batch, DeviceSamples
from rekd.method.streams import Streams
from rekd.method.views import Views, crop_flip
from rekd.schedule import SCHEDULED
from rekd.store.checkpoints import CheckpointWriter
from rekd.trial import Trial


@dataclass
class TrainResult:
    """What `train` returns: the best version by dev loss, loaded into the model, and how the run went."""

    model: RationaleModel
    records: list[dict[str, Any]]
    """One an epoch, as yielded."""
    best_epoch: int | None
    diverged: str
    """Why the run ended early; empty where it did not."""
    seconds: float
    made_with: list[dict[str, str]]
    """What `train` was told of devices and versions, in order, by this attempt and by those that it went on from."""


def train(
    learner: Learner,
    *,
    train_samples: DeviceSamples,
    dev_samples: DeviceSamples,
    writer: CheckpointWriter | None = None,
    made_with: Mapping[str, str] | None = None,
) -> Generator[dict[str, Any], None, TrainResult]:
    """Trains the learner's model as its trial says and yields one record an epoch (columns: `EPOCHS_SCHEMA`).

    The model lies on the samples' device. With a `writer` of checkpoints the run starts after the newest one that fits and
    yields the records up to it again, so that whoever collects them has all. `made_with` names device and versions. Returns
    (as the generator's value) a `TrainResult`.
    """
    trial, model, streams, teacher = learner.trial, learner.model, learner.streams, learner.teacher
    if (trial.objective == "rekd") != (teacher is not None):
        raise ValueError(f"A teacher is needed by objective 'rekd' and by no other, got {trial.objective!r}.")
    num_batches = math.ceil(len(train_samples) / trial.batch_size)
    num_steps = trial.epochs * num_batches
    num_features = model.num_features(dev_samples.inputs)
    state = RunState() if writer is None else RunState.restored(writer.checkpoints, learner)
    if made_with is not None and dict(made_with) not in state.made_with:
        state.made_with.append(dict(made_with))
    attempt = state.records[-1]["attempt"] + 1 if state.records else 1
    yield from state.records

    while state.epoch < trial.epochs and not state.diverged:
        started = time.perf_counter()
        totals: dict[str, Tensor] = {}
        temperature, now = None, trial
        views = _views(trial, train_samples, epoch=state.epoch + 1)
        if teacher is not None:
            teacher.begin_epoch(state.epoch + 1)
        model.train()
        with streams.training():
            order = streams.order(len(train_samples)).to(train_samples.labels.device)
            for rows in order.split(trial.batch_size):
                temperature = _temperature(trial, state.step, num_steps)
                batch = _augmented(trial, train_samples.take(rows), views, streams)
                now = trial.at(state.step / max(num_steps - 1, 1))
                terms = step(replace(learner, trial=now), batch, temperature)
                state.step += 1
                for name, value in terms.items():  # on the device: reading a value here would stop it every step
                    totals[name] = totals.get(name, 0) + value.detach()
        state.epoch += 1

        dev = evaluate(model, dev_samples, trial, streams=streams)
        record = {
            "attempt": attempt,
            "epoch": state.epoch,
            "step": state.step,
            "temperature": temperature,
            **{f"train_{name}": value for name in SCHEDULED if (value := getattr(now, name)) is not None},
            **{f"train_{name}": total.item() / num_batches for name, total in totals.items()},
            **{f"dev_{name}": value for name, value in dev.items()},
            "seconds": time.perf_counter() - started,
        }
        state.take_in(record, model, trial, num_features=num_features)
        if writer is not None and writer.is_due and not state.diverged:
            state.save(writer, learner)
        yield record

    if state.best:
        model.load_state_dict(state.best)
    seconds = sum(record["seconds"] for record in state.records)
    return TrainResult(model.eval(), state.records, state.best_epoch, state.diverged, seconds, state.made_with)


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Keeps a CPU to one thread: sums then run in one order, so a result does not depend on how many cores are free."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _temperature(trial: Trial, step: int, num_steps: int) -> float | None:
    """The temperature of the step after `step` others; None for cls."""
    if trial.temperature_initial is None or trial.temperature_final is None or trial.temperature_every is None:
        return None
    return temperature_at(
        step + (trial.temperature_step == "from_1"),
        num_steps=num_steps,
        initial=trial.temperature_initial,
        final=trial.temperature_final,
        every=trial.temperature_every,
    )


def _views(trial: Trial, samples: DeviceSamples, *, epoch: int) -> Views | None:
    """The views of the pool's images in an epoch (from 1), where they are drawn by sample and epoch."""
    if trial.augmentation != "crop_flip_seeded" or "image" not in samples.inputs:
        return None
    image = samples.inputs["image"]
    return Views.of_epoch(epoch, samples.pool_size, height=image.shape[-2]).to(image.device)


def _augmented(trial: Trial, batch: Batch, views: Views | None, streams: Streams) -> Batch:
    """The batch as it is seen in training."""
    image = batch.inputs.get("image")
    if image is None or trial.augmentation == "none":
        return batch
    seen = crop_flip(image, generator=streams.augmentation) if views is None else views[batch.pool_rows].of(image)
    return replace(batch, inputs={**batch.inputs, "image": seen})
