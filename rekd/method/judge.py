"""The judge of a task: a classifier to which no mask is strange.

A model's own predictor has only ever seen its own generator's rationales, and a plain classifier only whole inputs: what
either says of some other part of an input says little about that part. The judge is trained on inputs from which random
parts were removed, at all ratios, by the same product that masks a rationale. So it can be asked of any rationale, of what
a rationale leaves out, and of masks that nobody learnt.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekd.method.equations import prediction_loss
from rekd.method.models import Predictor, RationaleModel, saliency_of
from rekd.method.samples import BATCH, DeviceSamples
from rekd.method.streams import Streams
from rekd.trial import Trial

JUDGE_SEED = 0

JUDGE_PATIENCE = 4
"""How many times the epochs of a classifier a judge is trained: it sees each sample in many states."""


def train_judge(model: RationaleModel, samples: DeviceSamples, trial: Trial, streams: Streams) -> RationaleModel:
    """Trains a classifier on random parts of the samples, as long as `trial` (a cls trial) says, four times over.

    The share of features that a sample keeps is drawn uniformly from [0, 1], anew whenever the sample is seen.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=trial.learning_rate, weight_decay=trial.weight_decay, fused=True
    )
    device = samples.labels.device
    model.train()
    for _ in range(JUDGE_PATIENCE * trial.epochs):
        with streams.training():
            order = torch.randperm(len(samples), generator=streams.data_order).to(device)
            for rows in order.split(trial.batch_size):
                batch = samples.take(rows)
                mask = _random_parts(model.full_mask(batch.inputs), streams.student_noise)
                loss = prediction_loss(model.predictor(batch.inputs, mask), batch.labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.requires_grad_(False).eval()


def _random_parts(whole: Tensor, generator: torch.Generator | None) -> Float[Tensor, "batch feature"]:
    kept = torch.rand(len(whole), 1, generator=generator, device=whole.device)
    return (torch.rand(whole.shape, generator=generator, device=whole.device) < kept).to(whole.dtype)


@torch.no_grad()
def answers(
    predictor: Predictor, samples: DeviceSamples, mask: Bool[np.ndarray, "sample feature"] | None = None
) -> np.ndarray:
    """The class that a predictor sees in each sample, of which it is shown what the mask keeps; None keeps everything."""
    found = []
    for rows in torch.arange(len(samples)).split(BATCH):
        inputs = samples.take(rows.to(samples.labels.device)).inputs
        shown = None
        if mask is not None:
            shown = torch.from_numpy(mask[rows.numpy()].astype(np.float32)).to(samples.labels.device)
        found.append(predictor(inputs, shown).argmax(dim=-1).cpu())
    return torch.cat(found).numpy()


def saliency(predictor: Predictor, samples: DeviceSamples) -> Float[np.ndarray, "sample feature"]:
    """Gradient times input of the class that a predictor sees in the whole of each sample (`saliency_of`)."""
    return torch.cat([saliency_of(predictor, batch.inputs).cpu() for batch in samples.batches()]).numpy()
