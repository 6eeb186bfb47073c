"""What a model is worth on a split: its losses and accuracy, and what it does with its rationales."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekd.method.equations import rationale_ratio, selection_difference, token_ratio
from rekd.method.losses import re_terms
from rekd.method.models import Prediction, RationaleModel
from rekd.method.samples import DeviceSamples, batches
from rekd.method.streams import Streams, evaluation_noise
from rekd.store.predictions import StoredPredictions
from rekd.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a model says of all samples of a split, in their order."""

    logits: Float[Tensor, "sample class"]
    mask: Float[Tensor, "sample feature"]
    """Rationales; all ones for cls."""
    labels: Tensor
    valid: Float[Tensor, "sample feature"]
    """1 for real features, 0 for padding."""
    selection_difference: Float[Tensor, "sample feature"]
    """Z[selected] - Z[not selected]; infinity for cls."""

    @property
    def ratios(self) -> dict[str, float]:
        """The rationale ratio in two ways: `expected`, the mean over samples as training draws them, and `argmax`.

        A Gumbel sample selects a feature with the probability that a softmax gives it, whatever the temperature.
        """
        difference = self.selection_difference.double()
        return {"expected": difference.sigmoid().mean().item(), "argmax": (difference > 0).double().mean().item()}

    def kept(self) -> StoredPredictions:
        """Gives it as it is stored."""
        return StoredPredictions(
            labels=self.labels.cpu().numpy(),
            probabilities=self.logits.softmax(dim=-1).cpu().numpy(),
            mask=self.mask.bool().cpu().numpy(),
        )

    def split(self, size: int) -> Iterator["Predictions"]:
        """Those of `size` samples at a time, and of what is left."""
        for start in range(0, len(self.labels), size):
            rows = slice(start, start + size)
            yield Predictions(**{own.name: getattr(self, own.name)[rows] for own in fields(self)})


def rationale_noise(trial: Trial, *, device: torch.device) -> torch.Generator | None:
    """What rationales that are measured and shown are sampled by; None where they are the argmax."""
    return evaluation_noise(trial.seed, device) if trial.evaluation_mask == "sampled_everywhere" else None


@torch.no_grad()
def predictions(
    model: RationaleModel, samples: DeviceSamples, *, sampled_by: torch.Generator | None = None
) -> Predictions:
    """One pass over a split in evaluation mode; the training mode is given back as it was."""
    was_training = model.training
    model.eval()
    logits, masks, differences = [], [], []
    for batch in samples.batches():
        prediction = model.predict(batch.inputs, sampled_by=sampled_by)
        logits.append(prediction.logits)
        masks.append(prediction.mask)
        differences.append(_difference(prediction))
    model.train(was_training)
    mask = torch.cat(masks)
    valid = samples.inputs.get("valid", torch.ones_like(mask)).to(mask)
    return Predictions(
        logits=torch.cat(logits),
        mask=mask,
        labels=samples.labels,
        valid=valid,
        selection_difference=torch.cat(differences),
    )


def _difference(prediction: Prediction) -> Tensor:
    if prediction.selection_logits is None:
        return torch.full_like(prediction.mask, math.inf)
    return selection_difference(prediction.selection_logits)


def tested(model: RationaleModel, samples: DeviceSamples, trial: Trial, *, streams: Streams) -> Predictions:
    """What the model says of a split as its trial evaluates: the mask by argmax, or by the same sample every time."""
    generator = None if trial.evaluation_mask == "argmax" else streams.evaluation_noise()
    return predictions(model, samples, sampled_by=generator)


def evaluate(model: RationaleModel, samples: DeviceSamples, trial: Trial, *, streams: Streams) -> dict[str, float]:
    """`measures` of what the model says of a split.

    Leaves parameters, buffers, the training mode and every random stream as they were.
    """
    return measures(tested(model, samples, trial, streams=streams), trial)


def measures(found: Predictions, trial: Trial) -> dict[str, float]:
    """Means over all samples: `loss` (L_RE; L_pred for cls), its parts, `accuracy`, `rationale_ratio`, `token_ratio`.

    With `dev_means` over batches all but the accuracy are means of the batches' means, as in the authors' code.
    """
    size = len(found.labels) if trial.dev_means == "over_samples" else trial.batch_size
    each = [_means(trial, batch, selects=trial.objective != "cls") for batch in found.split(size)]
    means = {name: torch.stack([batch[name] for batch in each]).mean() for name in each[0]}
    means["accuracy"] = (found.logits.argmax(dim=-1) == found.labels).double().mean()
    return {name: value.item() for name, value in means.items()}


def _means(trial: Trial, found: Predictions, *, selects: bool) -> dict[str, Tensor]:
    # In double precision: a split has many samples, and dev loss decides between epochs that hardly differ.
    mask = found.mask.double()
    terms = re_terms(trial, found.logits.double(), found.labels, mask if selects else None)
    ratios = {
        "rationale_ratio": rationale_ratio(mask).mean(),
        "token_ratio": token_ratio(mask, found.valid.double()).mean(),
    }
    return terms | ratios


@torch.no_grad()
def faithfulness(
    model: RationaleModel,
    inputs: Mapping[str, np.ndarray],
    *,
    device: torch.device,
    sampled_by: torch.Generator | None = None,
) -> dict[str, float]:
    """ERASER's measures and the variety of masks, over all samples.

    `eraser_sufficiency`: probability of a class from the whole input minus that from the rationale; at or below 0 the
    rationale suffices. `eraser_comprehensiveness`: from the whole input minus that from everything but the rationale; high
    where the rationale holds what the prediction needs. The class is the one that the model predicts from the whole input,
    as in ERASER's own code. `sufficiency` and `comprehensiveness`, which 0.1.0 had, follow the class that the model
    predicts from its rationale, and their signs may be the other way round.

    All four ask the model's own predictor about inputs that it never saw in training, which was of rationales: a predictor
    may well do worse on the whole. What a rationale holds is asked of the judge (`rekd.method.judge`).

    `distinct_masks`: number of different masks a sample; 1 / samples where one mask serves every input (collapse).
    """
    if model.generator is None:
        return {}
    sums: dict[str, float] = {}
    masks = []
    for batch in batches(inputs, device=device):
        prediction = model.predict(batch, sampled_by=sampled_by)
        whole, rest = model.predictor(batch), model.predictor(batch, 1 - prediction.mask)
        for prefix, decides in (("", prediction.logits), ("eraser_", whole)):
            for name, value in faithful(decides.argmax(dim=-1), whole, prediction.logits, rest).items():
                sums[prefix + name] = sums.get(prefix + name, 0.0) + value
        masks.append(prediction.mask.bool().cpu().numpy())
    mask = np.concatenate(masks)
    num_distinct = len(np.unique(np.packbits(mask, axis=1), axis=0))
    return {name: total / len(mask) for name, total in sums.items()} | {"distinct_masks": num_distinct / len(mask)}


def faithful(chosen: Tensor, whole: Tensor, rationale: Tensor, rest: Tensor) -> dict[str, float]:
    """Sums over a batch of what the chosen classes lose in probability, from logits on the whole, the rationale, the rest."""
    of_whole, of_rationale, of_rest = (
        logits.softmax(dim=-1).gather(-1, chosen[:, None]) for logits in (whole, rationale, rest)
    )
    return {
        "sufficiency": (of_whole - of_rationale).sum().item(),
        "comprehensiveness": (of_whole - of_rest).sum().item(),
    }


def overlap(first: Bool[np.ndarray, "sample feature"], second: Bool[np.ndarray, "sample feature"]) -> float:
    """Mean over samples of intersection over union of two masks; 1 where both are empty."""
    intersection, union = (first & second).sum(axis=1), (first | second).sum(axis=1)
    return float(np.where(union == 0, 1.0, intersection / np.maximum(union, 1)).mean())


@torch.no_grad()
def masks_of(
    model: RationaleModel,
    inputs: Mapping[str, np.ndarray],
    *,
    device: torch.device,
    sampled_by: torch.Generator | None = None,
) -> tuple[Bool[np.ndarray, "sample feature"], np.ndarray]:
    """Rationales and predicted classes of all samples."""
    masks, classes = [], []
    for batch in batches(inputs, device=device):
        prediction = model.predict(batch, sampled_by=sampled_by)
        masks.append(prediction.mask.bool().cpu().numpy())
        classes.append(prediction.logits.argmax(dim=-1).cpu().numpy())
    return np.concatenate(masks), np.concatenate(classes)
