"""A short calibration: a few training steps of a model on this machine, to tell how long its trials take."""

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from rekd.backbones import read_config
from rekd.data import Split
from rekd.estimate import NUM_FEATURES, SHAPES, Seconds
from rekd.models import RationaleModel
from rekd.streams import Streams
from rekd.supplies import default_device
from rekd.tasks import Model, Task
from rekd.train import DeviceSamples, one_thread, step
from rekd.trial import Trial

STEPS = 3
"""After one that warms up."""


def calibrate(tasks: Iterable[Task], trials: Iterable[Trial]) -> dict[tuple[str, str], Seconds]:
    """Seconds of one RE step by task and model, for every model that the trials train: expected, and the range seen.

    Weights are random and samples are noise: neither changes how long a step takes, and nothing is downloaded.
    """
    by_name = {task.name: task for task in tasks}
    kinds = {(trial.task, trial.model): trial for trial in trials}
    return {
        kind: _step_seconds(by_name[trial.task], by_name[trial.task].models[trial.model], trial)
        for kind, trial in kinds.items()
    }


def _step_seconds(task: Task, model: Model, trial: Trial) -> Seconds:
    device = default_device()
    settings = _settings(model)
    samples = DeviceSamples(_noise(task, settings, trial.batch_size), device)
    rows = torch.arange(trial.batch_size, device=device)
    re = task.trial("re", model.name, seed=0, batch_size=trial.batch_size, precision=trial.precision)
    seconds = []
    with one_thread(device):
        streams = Streams(0, device=device)
        with streams.initialising():
            built = RationaleModel.build(
                objective="re",
                num_classes=task.num_classes,
                dropout=re.dropout,
                precision=re.precision,
                config=settings,
            )
        built.to(device).train()
        optimizer = torch.optim.AdamW(built.parameters(), lr=re.learning_rate, fused=True)
        for _ in range(1 + STEPS):
            started = time.perf_counter()
            inputs, labels = samples.take(rows)
            step(re, built, optimizer, inputs, labels, rows, 1.0, streams)["loss"].item()  # waits for the device
            seconds.append(time.perf_counter() - started)
    timed = sorted(seconds[1:])
    return Seconds(timed[len(timed) // 2], timed[0], timed[-1])


def _settings(model: Model) -> dict[str, Any]:
    """A Hugging Face configuration of the model's shape."""
    if model.config is not None:
        return model.config
    if model.source in SHAPES:
        layers, width = SHAPES[model.source]
        return {
            "model_type": "vit" if "vit" in model.source else "bert",
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": width // 64,
            "intermediate_size": 4 * width,
        }
    return read_config(model.source, revision=model.revision).to_dict()


def _noise(task: Task, settings: dict[str, Any], count: int) -> Split:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, task.num_classes, count)
    if task.kind == "image":
        side = task.image_size or min(32, settings.get("image_size", 32))
        channels = settings.get("num_channels", 3)
        return Split({"image": rng.integers(0, 256, (count, channels, side, side), dtype=np.uint8)}, labels)
    length = task.max_length or NUM_FEATURES["text"]
    ids = rng.integers(0, settings.get("vocab_size", 30_000), (count, length), dtype=np.int32)
    return Split({"input_ids": ids, "valid": np.ones((count, length), np.uint8)}, labels)
