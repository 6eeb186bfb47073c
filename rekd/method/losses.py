"""The losses of one batch, from a model's outputs: Eq. 6 for CLS and RE, Eq. 11 for REKD."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rekd.method.equations import (
    distillation_loss,
    gumbel_noise,
    prediction_distillation_loss,
    prediction_loss,
    rationale_distillation_loss,
    rationale_ratio,
    re_loss,
    rekd_loss,
    selection_loss,
)
from rekd.method.estimators import estimator_of
from rekd.method.models import RationaleModel
from rekd.method.samples import Batch
from rekd.method.streams import Streams
from rekd.method.teacher import Teacher, Teachers
from rekd.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Who learns in a training step, and from what."""

    trial: Trial
    model: RationaleModel
    optimizer: torch.optim.Optimizer
    streams: Streams
    teacher: Teacher | Teachers | None = None
    """Whom the student hears; None but for rekd."""

    @classmethod
    def of(
        cls, trial: Trial, model: RationaleModel, *, streams: Streams, teacher: Teacher | Teachers | None = None
    ) -> "Learner":
        """A learner that begins: AdamW over the model's trainable parameters (Appendix C.3)."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=trial.learning_rate, weight_decay=trial.weight_decay, fused=True)
        return cls(trial=trial, model=model, optimizer=optimizer, streams=streams, teacher=teacher)


def step(learner: Learner, batch: Batch, temperature: float | None) -> dict[str, Tensor]:
    """Takes one optimisation step. Returns the losses of the batch (`losses`), on the device."""
    terms = losses(learner, batch, temperature)
    learner.optimizer.zero_grad()
    terms["loss"].backward()
    learner.optimizer.step()
    return terms


def losses(learner: Learner, batch: Batch, temperature: float | None) -> dict[str, Tensor]:
    """Every loss of one batch, under the paper's names; `loss` is the one to minimise. `temperature` is None for cls."""
    trial, model, streams = learner.trial, learner.model, learner.streams
    if model.generator is None or temperature is None:
        return re_terms(trial, model.predictor(batch.inputs), batch.labels, mask=None)
    estimator = estimator_of(trial)
    selection_logits = model.generator(batch.inputs)
    noise = gumbel_noise(selection_logits.shape, generator=streams.student_noise, device=selection_logits.device)
    mask = estimator.mask(selection_logits, noise, temperature=temperature)
    logits = model.predictor(batch.inputs, mask)
    terms = re_terms(trial, logits, batch.labels, mask)
    terms["rationale_ratio"] = rationale_ratio(mask).mean()
    teacher_logits = None
    if learner.teacher is not None:
        teacher_selection_logits, teacher_logits = learner.teacher(batch.pool_rows, batch.inputs, mask.detach())
        teacher_noise = gumbel_noise(noise.shape, generator=streams.teacher_noise, device=noise.device)
        l_rationale = None
        if trial.distils != "prediction":
            l_rationale = rationale_distillation_loss(
                selection_logits, noise, teacher_selection_logits, teacher_noise, temperature=temperature
            )
        terms = rekd_terms(trial, terms, l_rationale, logits, teacher_logits, temperature=temperature)
    if estimator.needs_costs:
        costs = mask_costs(trial, logits, batch.labels, mask, teacher_logits, temperature=temperature)
        terms["loss"] = terms["loss"] + estimator.score_loss(selection_logits, mask, costs)
    return terms


def rekd_terms(
    trial: Trial,
    terms: dict[str, Tensor],
    l_rationale: Tensor | None,
    logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
) -> dict[str, Tensor]:
    """The terms of L_RE and of what is distilled, with L_REKD of Eq. 11 as `loss`."""
    assert trial.alpha is not None  # `Trial` asks rekd for both
    assert trial.lambda_rationale is not None
    l_prediction = None
    if trial.distils != "rationale":
        l_prediction = prediction_distillation_loss(logits, teacher_logits, temperature=temperature)
    l_kd = distillation_loss(
        l_rationale, l_prediction, lambda_rationale=trial.lambda_rationale, temperature=temperature
    )
    distilled = {"rationale_distillation_loss": l_rationale, "prediction_distillation_loss": l_prediction}
    terms = terms | {name: loss for name, loss in distilled.items() if loss is not None}
    return terms | {"loss": rekd_loss(terms["loss"], l_kd, alpha=trial.alpha)}


@torch.no_grad()
def mask_costs(
    trial: Trial,
    logits: Tensor,
    labels: Tensor,
    mask: Tensor,
    teacher_logits: Tensor | None,
    *,
    temperature: float,
) -> Float[Tensor, " batch"]:
    """What each sample's mask costs: the loss of a batch of that sample alone, but for L_KD^R, in which no mask has a part."""
    nothing = torch.zeros((), device=logits.device)

    def cost(row: int) -> Tensor:
        own = slice(row, row + 1)
        terms = re_terms(trial, logits[own], labels[own], mask[own])
        if teacher_logits is not None:
            terms = rekd_terms(trial, terms, nothing, logits[own], teacher_logits[own], temperature=temperature)
        return terms["loss"]

    return torch.stack([cost(row) for row in range(len(labels))])


def re_terms(trial: Trial, logits: Tensor, labels: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """L_RE of Eq. 6 as `loss`, and its parts; without a mask, which is cls, L_pred alone (Eq. 5).

    Training minimises it and dev selects by it (footnote 3): both call this.
    """
    l_pred = prediction_loss(logits, labels)
    if mask is None:
        return {"loss": l_pred, "prediction_loss": l_pred}
    assert trial.p_target is not None  # `Trial` asks re and rekd for both
    assert trial.lambda_select is not None
    l_select = selection_loss(mask, p_target=trial.p_target, form=trial.selection_loss_form)
    l_re = re_loss(l_pred, l_select, lambda_select=trial.lambda_select)
    return {"loss": l_re, "prediction_loss": l_pred, "selection_loss": l_select}
