"""What a trained model does with its rationales, beyond how often it is right."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekd.method.models import RationaleModel
from rekd.method.teacher import batches


@torch.no_grad()
def faithfulness(model: RationaleModel, inputs: Mapping[str, np.ndarray], *, device: torch.device) -> dict[str, float]:
    """ERASER's measures and the variety of masks, over all samples.

    `sufficiency`: probability of the predicted class from the whole input minus that from the rationale; at or below 0
    the rationale suffices. `comprehensiveness`: from the whole input minus that from everything but the rationale; high
    where the rationale holds what the prediction needs. `distinct_masks`: number of different masks a sample; 1 / samples
    where one mask serves every input (collapse).
    """
    if model.generator is None:
        return {}
    sums = {"sufficiency": 0.0, "comprehensiveness": 0.0}
    masks = []
    for batch in batches(inputs, device=device):
        prediction = model.predict(batch)
        chosen = prediction.logits.argmax(dim=-1, keepdim=True)

        def probability(logits: Tensor, chosen: Tensor = chosen) -> Float[Tensor, "batch 1"]:
            return logits.softmax(dim=-1).gather(-1, chosen)

        whole = probability(model.predictor(batch))
        sums["sufficiency"] += (whole - probability(prediction.logits)).sum().item()
        sums["comprehensiveness"] += (whole - probability(model.predictor(batch, 1 - prediction.mask))).sum().item()
        masks.append(prediction.mask.bool().cpu().numpy())
    mask = np.concatenate(masks)
    num_distinct = len(np.unique(np.packbits(mask, axis=1), axis=0))
    return {name: total / len(mask) for name, total in sums.items()} | {"distinct_masks": num_distinct / len(mask)}


def overlap(first: Bool[np.ndarray, "sample feature"], second: Bool[np.ndarray, "sample feature"]) -> float:
    """Mean over samples of intersection over union of two masks; 1 where both are empty."""
    intersection, union = (first & second).sum(axis=1), (first | second).sum(axis=1)
    return float(np.where(union == 0, 1.0, intersection / np.maximum(union, 1)).mean())


@torch.no_grad()
def masks_of(
    model: RationaleModel, inputs: Mapping[str, np.ndarray], *, device: torch.device
) -> tuple[Bool[np.ndarray, "sample feature"], np.ndarray]:
    """Rationales and predicted classes of all samples."""
    masks, classes = [], []
    for batch in batches(inputs, device=device):
        prediction = model.predict(batch)
        masks.append(prediction.mask.bool().cpu().numpy())
        classes.append(prediction.logits.argmax(dim=-1).cpu().numpy())
    return np.concatenate(masks), np.concatenate(classes)
