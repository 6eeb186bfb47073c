"""The forms in which an exported model runs, compared on the test split: as it is, without what is not selected, as ONNX, and
as ONNX with 8-bit weights."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from rekd.handover.modeling_rekd import RekdModel
from rekd.method.samples import Samples
from rekd.method.train import one_thread
from rekd.tasks.hub import quiet

Arrays = Mapping[str, np.ndarray]
Form = Callable[[Arrays], tuple[np.ndarray, np.ndarray]]
"""Gives the logits, "sample class", and the masks, "sample feature", of a batch of inputs."""

BATCH = 64

TIMED = 50
"""Calls of one sample each, of which the median counts."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a form of a model is, beside the model as it was trained."""

    form: str
    num_bytes: int
    """The size of its files."""
    milliseconds: float
    """The median time of one sample on one thread of this CPU."""
    accuracy: float
    """The accuracy on the samples that were compared."""
    equal_masks: float
    """The share of samples whose rationale is the same, feature by feature, where there is no padding."""
    logit_difference: float
    """The largest difference of a logit."""
    num_samples: int


def torch_form(folder: Path, *, drop: bool = False) -> Form:
    """The exported folder as its own modeling file runs it."""
    model = load_exported(folder)

    def answer(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        found = model(**{own: torch.from_numpy(array) for own, array in as_given(arrays).items()}, drop=drop)
        return found.logits.numpy(), found.mask.numpy()

    return answer


def load_exported(folder: Path) -> Any:
    """The model of a folder, by the modeling file of this program, not by the folder's."""
    with quiet():
        return RekdModel.from_pretrained(folder, local_files_only=True).eval()


def as_given(arrays: Arrays) -> dict[str, np.ndarray]:
    """Inputs by the names of the modeling file: int64 tokens with an `attention_mask`, or 8-bit images."""
    if "image" in arrays:
        return {"image": np.array(arrays["image"])}
    return {
        "input_ids": arrays["input_ids"].astype(np.int64),
        "attention_mask": arrays["valid"].astype(np.int64),
    }


def compare(forms: Mapping[str, tuple[Form, int]], samples: Samples) -> list[Comparison]:
    """Every form with its size in bytes, by name, beside the first of them."""
    with one_thread(torch.device("cpu")):  # as the sessions of ONNX do that are compared
        answers = {name: _answers(form, samples) for name, (form, _) in forms.items()}
        times = _milliseconds({name: form for name, (form, _) in forms.items()}, samples.arrays)
    logits, masks = next(iter(answers.values()))
    real = samples.arrays.get("valid", np.ones_like(masks)).astype(bool)
    return [
        Comparison(
            form=name,
            num_bytes=size,
            milliseconds=times[name],
            accuracy=float((answers[name][0].argmax(axis=1) == samples.labels).mean()),
            equal_masks=float(((answers[name][1] == masks) | ~real).all(axis=1).mean()),
            logit_difference=float(np.abs(answers[name][0] - logits).max()),
            num_samples=len(samples.labels),
        )
        for name, (_, size) in forms.items()
    ]


def _answers(form: Form, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    found = [
        form({name: array[start : start + BATCH] for name, array in samples.arrays.items()})
        for start in range(0, len(samples.labels), BATCH)
    ]
    return np.concatenate([logits for logits, _ in found]), np.concatenate([mask for _, mask in found])


def _milliseconds(forms: Mapping[str, Form], arrays: Arrays) -> dict[str, float]:
    """The median time of one sample by each form. They take turns, so that what else the machine does meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for row in range(min(TIMED, len(next(iter(arrays.values()))))):
        one = {name: array[row : row + 1] for name, array in arrays.items()}
        for name, form in forms.items():
            start = time.perf_counter()
            form(one)
            taken[name].append(1000 * (time.perf_counter() - start))
    return {name: median(times) for name, times in taken.items()}
