"""The paper's equations 1 to 11, one function each: tensors and numbers in, a tensor or a number out.

Names: Z is `selection_logits`, S is `soft_selection`, M is `mask`, Q is `logits`, tau is `temperature`.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from rekd.trial import num_selected

SELECTED = 1
"""Index of the class "selected" in the last axis of Z and S (Eq. 2)."""

TIE = 1e-4
"""How far from 0 the logits of a tie are moved, where one of two that are equal is within a budget."""


def gumbel_noise(
    shape: tuple[int, ...],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """I.i.d. samples of Gumbel(0, 1) by -ln(-ln(U)) (footnote 1), always finite.

    Drawn in float32 at least: bfloat16 knows so few numbers below 1 that U = 1, an infinite sample, would be common.
    """
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    uniform = torch.rand(shape, generator=generator, device=device, dtype=compute)
    return gumbel_from_uniform(uniform).to(dtype)


def gumbel_from_uniform(uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """G = -ln(-ln(U)), with U held inside (0, 1) by the smallest step of its type so that G is finite."""
    info = torch.finfo(uniform.dtype)
    return -torch.log(-torch.log(uniform.clamp(info.tiny, 1 - info.eps)))


def gumbel_softmax(
    selection_logits: Float[Tensor, "batch feature 2"],
    noise: Float[Tensor, "batch feature 2"],
    *,
    temperature: float,
) -> Float[Tensor, "batch feature 2"]:
    """Eq. 1, S = softmax((Z + G) / tau) over {not selected, selected}."""
    return torch.softmax((selection_logits + noise) / temperature, dim=-1)


def straight_through(soft_selection: Float[Tensor, "batch feature 2"]) -> Float[Tensor, "batch feature"]:
    """Eq. 2, M = argmax(S), exactly 0 or 1, with the gradient of S for the "selected" class.

    A tie goes to "not selected", the first index, as argmax does.

    >>> straight_through(torch.tensor([[[0.3, 0.7], [0.5, 0.5]]]))
    tensor([[1., 0.]])
    """
    soft = soft_selection[..., SELECTED]
    hard = (soft_selection.argmax(dim=-1) == SELECTED).to(soft.dtype)
    # In this order the sum is exact whatever soft is; (hard - soft) + soft is so only while soft >= 1/2 where hard is 1.
    return hard + (soft - soft.detach())


def argmax_mask(selection_logits: Float[Tensor, "batch feature 2"]) -> Float[Tensor, "batch feature"]:
    """Eq. 2 without noise: the mask that is used to predict once training is over."""
    return (selection_logits.argmax(dim=-1) == SELECTED).to(selection_logits.dtype)


def selection_difference(
    selection_logits: Float[Tensor, "batch feature 2"],
) -> Float[Tensor, "batch feature"]:
    """Z[selected] - Z[not selected]."""
    return selection_logits[..., SELECTED] - selection_logits[..., 1 - SELECTED]


def at_budget(selection_logits: Float[Tensor, "batch feature 2"], budget: float) -> Float[Tensor, "batch feature 2"]:
    """Moves all logits of a sample by one number, so that argmax selects exactly the budget: its `num_selected` largest.

    A tie goes to the first. As the mask of a budget depends on no such number, only what is moved says how likely a feature
    is selected.

    >>> argmax_mask(at_budget(torch.tensor([[[0.0, 9.0], [0.0, 7.0], [0.0, 7.0], [0.0, 8.0]]]), 0.75))
    tensor([[1., 1., 0., 1.]])
    """
    difference = selection_difference(selection_logits)
    order = difference.argsort(dim=-1, descending=True, stable=True)
    num = num_selected(budget, difference.shape[-1])
    chosen = torch.zeros_like(difference, dtype=torch.bool).scatter(-1, order[..., :num], value=True)
    ends = difference.gather(
        -1, order[..., num - 1 : num + 1]
    ).detach()  # the last that is chosen, and the first that is not
    moved = difference - ends.mean(dim=-1, keepdim=True)
    apart = torch.where(chosen, moved.clamp(min=TIE), moved.clamp(max=-TIE))
    moved = moved + (apart - moved).detach()
    return torch.stack((torch.zeros_like(moved), moved), dim=-1)


def selection_loss(
    mask: Float[Tensor, "batch feature"], *, p_target: float, form: str = "per_sample"
) -> Float[Tensor, ""]:
    """Eq. 3, L_select = (sum of M - L * p_target)^2.

    Over a batch: the mean of the squares (`per_sample`), or the square of the mean difference (`batch_mean`).

    >>> one_and_three_of_four = torch.tensor([[1.0, 0, 0, 0], [1.0, 1, 1, 0]])
    >>> selection_loss(one_and_three_of_four, p_target=0.5).item()
    1.0
    >>> selection_loss(one_and_three_of_four, p_target=0.5, form="batch_mean").item()
    0.0
    """
    num_features = mask.shape[-1]
    difference = mask.sum(dim=-1) - num_features * p_target
    return difference.mean().square() if form == "batch_mean" else difference.square().mean()


def prediction_loss(logits: Float[Tensor, "batch class"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Eq. 5, L_pred (L_task): cross-entropy of softmax(Q) against the label, mean over the batch."""
    return F.cross_entropy(logits, labels)


def re_loss(
    prediction_loss: Float[Tensor, ""], selection_loss: Float[Tensor, ""], *, lambda_select: float
) -> Float[Tensor, ""]:
    """Eq. 6, L_RE = L_pred + lambda_select * L_select."""
    return prediction_loss + lambda_select * selection_loss


def rationale_distillation_loss(
    student_logits: Float[Tensor, "batch feature 2"],
    student_noise: Float[Tensor, "batch feature 2"],
    teacher_logits: Float[Tensor, "batch feature 2"],
    teacher_noise: Float[Tensor, "batch feature 2"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Eq. 7, L_KD^R = sum over features of KL(S^T || S^S), mean over the batch.

    From logits and in log space: at temperature 0.1 a probability underflows to 0 and its logarithm is lost.
    """
    student = torch.log_softmax((student_logits + student_noise) / temperature, dim=-1)
    teacher = torch.log_softmax((teacher_logits + teacher_noise) / temperature, dim=-1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True)
    return divergence.sum(dim=(-2, -1)).mean()  # sum, not mean, over features: Eq. 7


def prediction_distillation_loss(
    student_logits: Float[Tensor, "batch class"], teacher_logits: Float[Tensor, "batch class"], *, temperature: float
) -> Float[Tensor, ""]:
    """Eq. 8, L_KD^Y = KL(softmax(Q^T / tau) || softmax(Q^S / tau)), mean over the batch."""
    student = torch.log_softmax(student_logits / temperature, dim=-1)
    teacher = torch.log_softmax(teacher_logits / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def distillation_loss(
    rationale_distillation_loss: Float[Tensor, ""] | None,
    prediction_distillation_loss: Float[Tensor, ""] | None,
    *,
    lambda_rationale: float,
    temperature: float,
) -> Float[Tensor, ""]:
    """Eq. 9, L_KD = lambda_R * L_KD^R + tau^2 * L_KD^Y. No tau^2 on the first term: Appendix B.

    A term that is not distilled is None and left out; one of them is there.
    """
    if prediction_distillation_loss is None:
        assert rationale_distillation_loss is not None
        return lambda_rationale * rationale_distillation_loss
    if rationale_distillation_loss is None:
        return temperature**2 * prediction_distillation_loss
    return lambda_rationale * rationale_distillation_loss + temperature**2 * prediction_distillation_loss


def temperature_at(step: int, *, num_steps: int, initial: float, final: float, every: int = 1) -> float:
    """Eq. 10, tau_k = tau_0 * exp(-gamma * k) with gamma = ln(tau_0 / tau_K) / K.

    `step` is k; `num_steps` is K, all steps of the run. It changes every `every` steps (Section 3.3) and never falls
    below `final`.

    >>> [round(temperature_at(step, num_steps=400, initial=5.0, final=0.1, every=100), 3) for step in (0, 99, 100, 400)]
    [5.0, 5.0, 1.88, 0.1]
    """
    decay = math.log(initial / final) / num_steps
    return max(final, initial * math.exp(-decay * (step - step % every)))


def rekd_loss(re_loss: Float[Tensor, ""], distillation_loss: Float[Tensor, ""], *, alpha: float) -> Float[Tensor, ""]:
    """Eq. 11, L_REKD = alpha * L_RE + (1 - alpha) * L_KD.

    >>> rekd_loss(torch.tensor(2.0), torch.tensor(4.0), alpha=0.25).item()
    3.5
    """
    return alpha * re_loss + (1 - alpha) * distillation_loss


def rationale_ratio(mask: Float[Tensor, "batch feature"]) -> Float[Tensor, " batch"]:
    """Share of a sample's L features that are selected."""
    return mask.mean(dim=-1)


def token_ratio(mask: Float[Tensor, "batch feature"], valid: Float[Tensor, "batch feature"]) -> Float[Tensor, " batch"]:
    """Share of a sample's real features (`valid` = 1: not padding) that are selected."""
    return (mask * valid).sum(dim=-1) / valid.sum(dim=-1).clamp(min=1)
