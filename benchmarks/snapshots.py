"""What a trial's training waits for its checkpoints: written beside it, and one after the other as it was.

`python -m benchmarks.snapshots` gives an RE model of ViT-Small's size epochs of a minute (multiplications of matrices, on the
model's device) and a store that takes 200 MB a second; each epoch is better than the last, so that all is written. On two
epochs and a last one this takes seven minutes.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rekd.method.losses import Learner, step
from rekd.method.models import RationaleModel
from rekd.method.run_state import RunState
from rekd.method.samples import DeviceSamples
from rekd.method.streams import Streams
from rekd.method.train import one_thread
from rekd.running.calibrate import _noise
from rekd.running.supplies import default_device
from rekd.store.checkpoints import Best, Checkpoints, CheckpointWriter
from rekd.store.files import Store
from rekd.tasks.task import load_task

SHAPE = {"num_hidden_layers": 12, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}


class Throttled(Store):
    """A store that takes so many bytes a second, and does nothing else meanwhile."""

    def __init__(self, folder: str, bytes_a_second: float) -> None:
        super().__init__(folder)
        self.bytes_a_second = bytes_a_second
        self.num_bytes = 0

    def write_once(self, path: str, content: bytes) -> None:
        started = time.monotonic()
        super().write_once(path, content)
        self.num_bytes += len(content)
        time.sleep(max(0.0, len(content) / self.bytes_a_second - (time.monotonic() - started)))


class Synchronous(CheckpointWriter):
    """Waits for each checkpoint."""

    def save(self, epoch: int, tensors: Mapping[str, Tensor], state: dict[str, Any], best: Best | None = None) -> None:
        super().save(epoch, tensors, state, best)
        started = time.monotonic()
        self.wait()
        self.seconds_waited += time.monotonic() - started


def learner_of_vit_small() -> Learner:
    """After one step, so that the optimizer has its moments."""
    task, device = load_task("cifar10"), default_device()
    settings = {"model_type": "vit", **SHAPE}
    trial = task.trial("re", "vit-small", seed=0, batch_size=2)
    streams = Streams(0, device=device)
    with streams.initialising():
        model = RationaleModel.build(objective="re", num_classes=10, dropout=trial.dropout, config=settings).to(device)
    learner = Learner.of(trial, model.train(), streams=streams)
    batch = DeviceSamples(_noise(task, settings, 2), device).take(torch.arange(2, device=device))
    step(learner, batch, 1.0)["loss"].item()
    return learner


def train(seconds: float) -> int:
    """An epoch of so many seconds; how much was done in it."""
    matrix, done, started = torch.randn(512, 512, device=default_device()), 0, time.monotonic()
    while time.monotonic() - started < seconds:
        matrix = torch.nn.functional.normalize(matrix @ matrix)
        done += 1
        matrix[0, 0].item()
    return done


def measured(kind: type[CheckpointWriter], learner: Learner, *, epochs: int, seconds: float, rate: float) -> str:
    """Trains with this kind of writer, and says what was waited."""
    with tempfile.TemporaryDirectory() as scratch:
        store = Throttled(scratch, rate)
        state = RunState()
        started = time.monotonic()
        with kind(Checkpoints(store, "benchmark")) as writer:
            done = []
            for epoch in range(1, epochs + 1):
                done.append(train(seconds))
                state.epoch = epoch
                record = {"epoch": epoch, "train_loss": 1.0, "dev_loss": 1.0 / epoch}
                state.take_in(record, learner.model, learner.trial, num_features=196)
                state.save(writer, learner)
        waited = writer.seconds_waited
        total = time.monotonic() - started
        at_end = total - waited - epochs * seconds
        largest = max(path.stat().st_size for path in Path(scratch).rglob("epoch-*"))
        each = store.num_bytes / epochs
    return (
        f"{kind.__name__}: {epochs} epochs of {seconds:g} s, {each / 1e6:.0f} MB a checkpoint (of which {largest / 1e6:.0f} MB "
        f"without the best version): {waited:.2f} s waited in training ({waited / total:.2%}), {at_end:.2f} s at its end "
        f"({(waited + at_end) / total:.2%} of all); steps an epoch {done}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=200e6, help="bytes a second that the store takes")
    options = parser.parse_args()
    with one_thread(default_device()):
        learner = learner_of_vit_small()
        for kind in (Synchronous, CheckpointWriter):
            how = {"epochs": options.epochs, "seconds": options.seconds, "rate": options.rate}
            print(measured(kind, learner, **how), flush=True)


if __name__ == "__main__":
    main()
