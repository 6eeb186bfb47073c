"""How training draws a mask from the selection logits, and how a gradient comes back through it.

Predictor, losses and distillation do not know which estimator it is. Every one is given the same Gumbel noise, so that runs of
one seed are paired whatever they estimate by; the difference of a feature's two is logistic, which is all that a mask of
{not selected, selected} depends on.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rekd.method.equations import argmax_mask, at_budget, gumbel_softmax, selection_difference, straight_through
from rekd.trial import Trial


class MaskEstimator(ABC):
    """How a mask is drawn and differentiated."""

    needs_costs: ClassVar[bool] = False
    """Whether the gradient is not in the mask but in `score_loss`, which asks what each sample's mask costs."""

    def __init__(self, p_target: float) -> None:
        self.p_target = p_target

    @abstractmethod
    def mask(
        self,
        selection_logits: Float[Tensor, "batch feature 2"],
        noise: Float[Tensor, "batch feature 2"],
        *,
        temperature: float,
    ) -> Float[Tensor, "batch feature"]:
        """A mask with values in [0, 1], 1 for what is selected."""

    def score_loss(
        self,
        selection_logits: Float[Tensor, "batch feature 2"],
        mask: Float[Tensor, "batch feature"],
        costs: Float[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """A term that is added to the loss where the estimator needs costs."""
        raise NotImplementedError


class GumbelSoftmax(MaskEstimator):
    """The paper's: a straight-through Gumbel-softmax sample (Eq. 1 and 2; Jang et al. 2017, arXiv 1611.01144)."""

    def mask(self, selection_logits: Tensor, noise: Tensor, *, temperature: float) -> Tensor:
        return straight_through(gumbel_softmax(selection_logits, noise, temperature=temperature))


class TopK(MaskEstimator):
    """Exactly the budget: the features of the k largest perturbed logits, which is a sample without replacement (Kool et al.
    2019, arXiv 1903.06059, Section 2.3), straight through Eq. 1 of the logits' distance to where the k-th ends."""

    def mask(self, selection_logits: Tensor, noise: Tensor, *, temperature: float) -> Tensor:
        moved = at_budget(selection_logits + noise, self.p_target)
        return straight_through(torch.softmax(moved / temperature, dim=-1))


class Reinforce(MaskEstimator):
    """A Bernoulli sample without a gradient, and the score function: grad E[c] = E[(c - b) grad log p(M)] (Williams 1992, as
    Lei et al. 2016, arXiv 1606.04155, Section 3). The baseline b of a sample is the mean cost of the batch's others, which
    does not depend on its mask and so leaves the mean of the gradient as it is."""

    needs_costs = True

    def mask(self, selection_logits: Tensor, noise: Tensor, *, temperature: float) -> Tensor:
        return argmax_mask(selection_logits + noise).detach()

    def score_loss(self, selection_logits: Tensor, mask: Tensor, costs: Tensor) -> Tensor:
        """The loss whose gradient is the score function's. Its value is 0: the loss that is reported stays what it is."""
        others = max(len(costs) - 1, 1)
        advantage = costs - (costs.sum() - costs) / others
        log_probability = -F.binary_cross_entropy_with_logits(
            selection_difference(selection_logits), mask, reduction="none"
        ).sum(dim=-1)
        surrogate = (advantage.detach() * log_probability).mean()
        return surrogate - surrogate.detach()


class HardKuma(MaskEstimator):
    """A stretched and rectified Kumaraswamy variable, 0 and 1 with positive probability (Bastings et al. 2019, arXiv
    1905.08160, Section 3.2), by its inverse distribution function: x = (1 - (1 - u)^(1/b))^(1/a), which has a gradient.

    A feature's two logits are its two shapes. Their difference says, as in Eq. 1, how likely it is selected,
    P(z > 1/2) = (1 - 2^-a)^b = softmax(Z); their sum, on which a softmax does not depend, gives a by a softplus. So evaluation
    and distillation read the logits as those of every estimator. The temperature has no part in it.

    The mask is z rounded, straight through: a predictor that is shown z itself learns from a third of every feature, and then
    none is more likely selected than not (docs/estimators.md).
    """

    LOWER, UPPER = -0.1, 1.1
    """Ends of the stretched interval, as Bastings et al. have them."""

    MOST = 20.0
    """The difference of logits, and a, are held to this, beyond which powers of float32 overflow."""

    def mask(self, selection_logits: Tensor, noise: Tensor, *, temperature: float) -> Tensor:
        z = self.variable(selection_logits, noise)
        return (z > 0.5).to(z.dtype) + (z - z.detach())

    def variable(self, selection_logits: Tensor, noise: Tensor) -> Tensor:
        """z, in [0, 1]."""
        a, b = self.shapes(selection_logits)
        log_rest = F.logsigmoid(
            -selection_difference(noise)
        )  # log(1 - u): a logistic variable is the log-odds of a uniform
        x = torch.exp(torch.log(-torch.expm1(log_rest / b)) / a)
        return (self.LOWER + (self.UPPER - self.LOWER) * x).clamp(0, 1)

    def shapes(self, selection_logits: Tensor) -> tuple[Tensor, Tensor]:
        """The a and b of each feature."""
        a = F.softplus(selection_logits.sum(dim=-1)).clamp(1 / self.MOST, self.MOST)
        log_selected = F.logsigmoid(selection_difference(selection_logits).clamp(-self.MOST, self.MOST))
        return a, log_selected / torch.log1p(-torch.exp2(-a))


class Saliency(MaskEstimator):
    """No draw and no gradient: what the logits of a classifier's saliency select (Jain et al. 2020, arXiv 2005.00115)."""

    def mask(self, selection_logits: Tensor, noise: Tensor, *, temperature: float) -> Tensor:
        return argmax_mask(selection_logits)


ESTIMATORS: dict[str, type[MaskEstimator]] = {
    "gumbel": GumbelSoftmax,
    "top_k": TopK,
    "reinforce": Reinforce,
    "hard_kuma": HardKuma,
    "saliency": Saliency,
}
"""The estimators by the names of `Trial.estimator`."""


def estimator_of(trial: Trial) -> MaskEstimator:
    """The estimator of a trial of rationales."""
    assert trial.estimator is not None  # `Trial` asks re and rekd for both
    assert trial.p_target is not None
    return ESTIMATORS[trial.estimator](trial.p_target)
