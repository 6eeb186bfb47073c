"""A short calibration: a few training steps of a model, to tell how long its trials take and how much memory."""

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from rekd.method.losses import Learner, step
from rekd.method.models import RationaleModel
from rekd.method.pretrained import read_config
from rekd.method.samples import DeviceSamples
from rekd.method.streams import Streams
from rekd.method.train import one_thread
from rekd.running.estimate import NUM_FEATURES, SHAPES, Kind, Seconds, kind_of
from rekd.running.supplies import default_device
from rekd.tasks.data import Split
from rekd.tasks.task import Model, Task
from rekd.tasks.task_file import Kind as SampleKind
from rekd.trial import Trial

STEPS = 3
"""After one that warms up."""


def calibrate(tasks: Iterable[Task], trials: Iterable[Trial]) -> dict[Kind, Seconds]:
    """Seconds of one RE step by kind (digests), for every model that the trials train: expected, and the range seen.

    Weights are random and samples are noise: neither changes how long a step takes, and nothing is downloaded.
    """
    return {kind_of(like[2]): _step_seconds(*like) for like in _kinds(tasks, trials).values()}


def measure_memory(tasks: Iterable[Task], trials: Iterable[Trial]) -> tuple[dict[tuple[str, str], int], int]:
    """Peak bytes of an RE step by task and model, on the GPU at hand, and the bytes that this GPU has.

    What torch has reserved counts, not only what its tensors fill. Raises ValueError where torch sees no GPU.
    """
    if not torch.cuda.is_available():
        raise ValueError("--gpus-per-trial auto measures on a GPU, and torch sees none. Give a number.")
    peaks = {}
    for kind, like in _kinds(tasks, trials).items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        rehearsal = _Rehearsal(*like)
        for _ in range(1 + STEPS):
            rehearsal.step()
        peaks[kind] = torch.cuda.max_memory_reserved()
        del rehearsal
    return peaks, torch.cuda.mem_get_info()[1]


def _kinds(tasks: Iterable[Task], trials: Iterable[Trial]) -> dict[tuple[str, str], tuple[Task, Model, Trial]]:
    """One trial of each task and model, with both."""
    by_name = {task.name: task for task in tasks}
    return {
        (trial.task, trial.model): (by_name[trial.task], by_name[trial.task].models[trial.model], trial)
        for trial in trials
    }


class _Rehearsal:
    """A trial's RE step with random weights on noise."""

    def __init__(self, task: Task, model: Model, trial: Trial) -> None:
        self.device = default_device()
        settings = _settings(model, task.kind)
        samples = DeviceSamples(_noise(task, settings, trial.batch_size), self.device)
        self.batch = samples.take(torch.arange(trial.batch_size, device=self.device))
        re_trial = task.trial("re", model.name, seed=0, batch_size=trial.batch_size, precision=trial.precision)
        streams = Streams(0, device=self.device)
        with streams.initialising():
            student = RationaleModel.build(
                objective="re",
                num_classes=task.num_classes,
                dropout=re_trial.dropout,
                precision=re_trial.precision,
                config=settings,
            )
        self.learner = Learner.of(re_trial, student.to(self.device).train(), streams=streams)

    def step(self) -> float:
        """Runs it. Seconds that it took."""
        started = time.perf_counter()
        step(self.learner, self.batch, 1.0)["loss"].item()  # waits for the device
        return time.perf_counter() - started


def _step_seconds(task: Task, model: Model, trial: Trial) -> Seconds:
    with one_thread(default_device()):
        rehearsal = _Rehearsal(task, model, trial)
        rehearsal.step()
        timed = sorted(rehearsal.step() for _ in range(STEPS))
    return Seconds(timed[len(timed) // 2], timed[0], timed[-1])


def _settings(model: Model, kind: SampleKind) -> dict[str, Any]:
    """A Hugging Face configuration of the model's shape."""
    if model.config is not None:
        return model.config
    if model.source in SHAPES:
        layers, width = SHAPES[model.source]
        return {
            "model_type": "vit" if kind == "image" else "bert",
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
