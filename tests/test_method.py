"""Equations 1 to 11, each beside its negative, a reference where there is one, and the ends of its range."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from rekd.method.equations import (
    argmax_mask,
    distillation_loss,
    gumbel_from_uniform,
    gumbel_noise,
    gumbel_softmax,
    prediction_distillation_loss,
    prediction_loss,
    rationale_distillation_loss,
    rationale_ratio,
    re_loss,
    rekd_loss,
    selection_loss,
    straight_through,
    temperature_at,
    token_ratio,
)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=stream(seed), dtype=dtype)


def selection(seed: int = 0) -> Tensor:
    """Logits Z of 3 samples and 5 features."""
    return normal(3, 5, 2, seed=seed)


# --- Eq. 1: Gumbel-Softmax ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_gumbel_softmax_is_torchs_own_on_the_same_noise(temperature):
    logits = selection()
    torch.manual_seed(0)
    expected = F.gumbel_softmax(logits, tau=temperature)
    torch.manual_seed(0)
    noise = -torch.empty_like(logits).exponential_().log()  # how torch draws it

    assert torch.allclose(gumbel_softmax(logits, noise, temperature=temperature), expected, rtol=1e-12)
    assert not torch.allclose(gumbel_softmax(logits, 0 * noise, temperature=temperature), expected, rtol=1e-3)


def test_gumbel_softmax_sharpens_as_the_temperature_falls():
    logits, noise = selection(), selection(seed=1)
    larger = [gumbel_softmax(logits, noise, temperature=temperature).amax(-1) for temperature in (5.0, 1.0, 0.1)]
    assert (larger[0] < larger[1]).all()
    assert (larger[1] < larger[2]).all()


def test_gumbel_noise_is_of_the_gumbel_distribution():
    noise = gumbel_noise((200_000,), generator=stream()).double()
    euler, deviation = 0.5772156649, math.pi / math.sqrt(6)
    assert abs(noise.mean() - euler) < 0.01
    assert abs(noise.std() - deviation) < 0.01
    below_zero = (noise < 0).double().mean()  # a normal distribution of this mean and deviation would have 0.326
    assert abs(below_zero - math.exp(-1)) < 0.01


def test_gumbel_samples_choose_as_often_as_the_softmax_says():
    logits = torch.tensor([0.3, 1.5])
    noise = gumbel_noise((100_000, 2), generator=stream())
    selected = argmax_mask((logits + noise)[None]).double().mean()
    assert abs(selected - logits.softmax(-1)[1]) < 0.01
    assert abs(selected - 0.5) > 0.2


def test_gumbel_noise_is_drawn_from_the_given_stream_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (gumbel_noise((50,), generator=stream(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_uniform_sample_of_exactly_0_or_1_gives_finite_noise(dtype):
    ends = gumbel_from_uniform(torch.tensor([0.0, 1.0], dtype=dtype))
    assert ends.isfinite().all()
    assert ends[0] < -3 < 3 < ends[1]  # still the rarest values, at their own ends
    raw = -torch.log(-torch.log(torch.tensor([0.0, 1.0], dtype=dtype)))
    assert raw.isinf().all()  # what the formula alone would give


def test_noise_in_bfloat16_is_drawn_in_float32():
    exact = gumbel_noise((10_000,), generator=stream())
    rounded = gumbel_noise((10_000,), generator=stream(), dtype=torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, exact.bfloat16())
    coarse = gumbel_from_uniform(torch.rand(10_000, generator=stream(), dtype=torch.bfloat16))
    assert len(coarse.unique()) < len(rounded.unique()) / 2


# --- Eq. 2: argmax, straight through --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_mask_is_exactly_0_or_1(dtype):
    soft = torch.softmax(normal(40, 50, 2, dtype=torch.float32), dim=-1).to(dtype)
    mask = straight_through(soft)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(mask.bool(), soft[..., 1] > soft[..., 0])

    assert len(soft[..., 1].unique()) > 50


def test_the_gradient_of_a_mask_is_that_of_the_soft_selection():
    logits, noise, weight = selection().requires_grad_(), selection(seed=1), normal(3, 5, seed=2)
    soft = gumbel_softmax(logits, noise, temperature=0.7)
    (of_mask,) = torch.autograd.grad((straight_through(soft) * weight).sum(), logits, retain_graph=True)
    (of_soft,) = torch.autograd.grad((soft[..., 1] * weight).sum(), logits, retain_graph=True)
    (of_other,) = torch.autograd.grad((soft[..., 0] * weight).sum(), logits)

    assert torch.equal(of_mask, of_soft)
    assert of_mask.abs().min() > 0  # argmax itself has none
    assert not torch.allclose(of_mask, of_other)


def test_a_tie_is_not_selected():
    assert argmax_mask(torch.zeros(1, 1, 2)).item() == 0
    assert straight_through(torch.full((1, 1, 2), 0.5)).item() == 0
    assert argmax_mask(torch.tensor([[[0.0, 1e-6]]])).item() == 1


def test_without_noise_the_mask_is_that_of_the_larger_logit():
    logits = selection()
    assert torch.equal(argmax_mask(logits), straight_through(gumbel_softmax(logits, 0 * logits, temperature=0.3)))
    assert not torch.equal(argmax_mask(logits), argmax_mask(-logits))


# --- Eq. 3, 5, 6: RE ------------------------------------------------------------------------------------------------


def test_selection_loss_is_the_squared_difference_of_counts():
    mask = torch.tensor([[1.0, 1, 0, 0, 0], [1, 1, 1, 1, 0]])
    assert selection_loss(mask, p_target=0.4) == pytest.approx((0**2 + 2**2) / 2)
    assert selection_loss(mask[:1], p_target=0.4) == 0
    assert selection_loss(mask[:1], p_target=0.6) == pytest.approx(1)  # too few costs as much
    assert selection_loss(mask[:1], p_target=0.2) == pytest.approx(1)  # as too many


def test_selection_loss_of_a_batch_mean_lets_samples_cancel():
    mask = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0]])
    assert selection_loss(mask, p_target=0.5, form="batch_mean") == 0
    assert selection_loss(mask, p_target=0.5, form="per_sample") == 1
    assert selection_loss(mask[1:], p_target=0.5, form="batch_mean") == 1


def test_selection_loss_pushes_towards_the_target_from_both_sides():
    for p_target, sign in ((0.2, 1), (0.8, -1)):
        mask = torch.tensor([[1.0, 1, 0, 0]], requires_grad=True)
        selection_loss(mask, p_target=p_target).backward()
        assert (mask.grad * sign > 0).all()


def test_prediction_loss_is_the_cross_entropy_of_equation_5():
    logits, labels = normal(4, 3), torch.tensor([0, 2, 1, 1])
    expected = -torch.log(logits.softmax(-1))[torch.arange(4), labels].mean()
    assert torch.allclose(prediction_loss(logits, labels), expected)
    assert not torch.allclose(prediction_loss(logits, labels.flip(0)), expected)


def test_re_loss_adds_the_weighted_selection_loss():
    l_pred, l_select = torch.tensor(0.7), torch.tensor(3.0)
    assert re_loss(l_pred, l_select, lambda_select=0.1) == pytest.approx(1.0)
    assert re_loss(l_pred, l_select, lambda_select=0.0) == l_pred


# --- Eq. 7 to 9: distillation ---------------------------------------------------------------------------------------


def test_rationale_distillation_is_the_sum_over_features_of_equation_7():
    student, teacher = selection(0), selection(1)
    noise_s, noise_t = selection(2), selection(3)
    loss = rationale_distillation_loss(student, noise_s, teacher, noise_t, temperature=0.8)

    s, t = (gumbel_softmax(z, g, temperature=0.8) for z, g in ((student, noise_s), (teacher, noise_t)))
    assert torch.allclose(loss, (t * (t / s).log()).sum(dim=(1, 2)).mean(), rtol=1e-12)
    assert torch.allclose(loss, F.kl_div(s.log(), t, reduction="sum") / 3, rtol=1e-12)
    assert not torch.allclose(loss, (s * (s / t).log()).sum(dim=(1, 2)).mean(), rtol=1e-3)  # from teacher to student
    assert not torch.allclose(loss, (t * (t / s).log()).mean(), rtol=1e-3)  # sum, not mean


def test_prediction_distillation_is_torchs_kl_div():
    student, teacher = normal(4, 3), normal(4, 3, seed=1)
    loss = prediction_distillation_loss(student, teacher, temperature=2.0)
    s, t = (student / 2).softmax(-1), (teacher / 2).softmax(-1)
    assert torch.allclose(loss, F.kl_div(s.log(), t, reduction="batchmean"), rtol=1e-12)
    assert not torch.allclose(loss, prediction_distillation_loss(teacher, student, temperature=2.0), rtol=1e-3)


def test_divergence_is_zero_only_at_equality():
    z, g = selection(), selection(seed=1)
    assert rationale_distillation_loss(z, g, z, g, temperature=0.5) == 0
    assert (
        rationale_distillation_loss(z, g, z + 1, g, temperature=0.5).abs() < 1e-12
    )  # a softmax ignores a common shift
    q = normal(4, 3)
    assert prediction_distillation_loss(q, q, temperature=0.5) == 0

    for seed in range(2, 12):
        other = z.clone()
        other[seed % 3, seed % 5, 1] += 0.01
        assert rationale_distillation_loss(z, g, other, g, temperature=0.5) > 0
        assert rationale_distillation_loss(z, g, z, selection(seed), temperature=0.5) > 0  # other noise, other sample
        assert prediction_distillation_loss(q, normal(4, 3, seed=seed), temperature=0.5) > 0


def test_distillation_scales_the_prediction_term_by_the_squared_temperature_and_no_other():
    l_rationale, l_prediction = torch.tensor(2.0), torch.tensor(3.0)
    loss = distillation_loss(l_rationale, l_prediction, lambda_rationale=0.5, temperature=4.0)
    assert loss == 0.5 * 2 + 16 * 3
    loss_when_hot = distillation_loss(l_rationale, 0 * l_prediction, lambda_rationale=0.5, temperature=100.0)
    assert loss_when_hot == 0.5 * 2


@pytest.mark.parametrize("temperature", [0.1, 0.7, 5.0])
def test_appendix_b_gradient_identity(temperature):
    """dL/dz = (q_S - q_T) / tau for the KL divergence of Gumbel-Softmax distributions."""
    student, teacher = selection(0).requires_grad_(), selection(1)
    noise_s, noise_t = selection(2), selection(3)
    rationale_distillation_loss(student, noise_s, teacher, noise_t, temperature=temperature).backward()

    q_s = gumbel_softmax(student.detach(), noise_s, temperature=temperature)
    q_t = gumbel_softmax(teacher, noise_t, temperature=temperature)
    identity = (q_s - q_t) / temperature / 3  # the loss is a mean over the 3 samples
    assert torch.allclose(student.grad, identity, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(student.grad, identity * temperature**2, rtol=1e-2) or temperature == 1


def test_no_gradient_reaches_the_noise_of_a_sample_other_than_its_own():
    student = selection(0).requires_grad_()
    loss = rationale_distillation_loss(
        student[:1], selection(2)[:1], selection(1)[:1], selection(3)[:1], temperature=1.0
    )
    loss.backward()
    assert student.grad[0].abs().min() > 0
    assert student.grad[1:].abs().max() == 0


# --- Eq. 10: temperature --------------------------------------------------------------------------------------------


def test_temperature_follows_equation_10():
    settings = {"num_steps": 1000, "initial": 5.0, "final": 0.1}
    assert temperature_at(0, **settings) == 5.0
    assert temperature_at(1000, **settings) == pytest.approx(0.1)
    assert temperature_at(500, **settings) == pytest.approx(math.sqrt(5.0 * 0.1))  # exponential: the geometric mean
    assert temperature_at(500, **settings) != pytest.approx((5.0 + 0.1) / 2)


def test_temperature_changes_every_100_steps():
    settings = {"num_steps": 1000, "initial": 5.0, "final": 0.1, "every": 100}
    assert temperature_at(99, **settings) == temperature_at(0, **settings) == 5.0
    assert temperature_at(100, **settings) < 5.0
    assert temperature_at(100, **settings) == temperature_at(100, num_steps=1000, initial=5.0, final=0.1)
    assert len({temperature_at(step, **settings) for step in range(1000)}) == 10


def test_temperature_never_falls_below_its_floor():
    settings = {"num_steps": 10, "initial": 5.0, "final": 0.1}
    values = [temperature_at(step, **settings) for step in range(30)]
    assert values == sorted(values, reverse=True)
    assert min(values) == values[-1] == 0.1
    assert values[9] > 0.1


def test_temperature_is_constant_where_both_ends_are_the_same():
    assert {temperature_at(step, num_steps=7, initial=2.0, final=2.0) for step in range(7)} == {2.0}


# --- Eq. 11: REKD ---------------------------------------------------------------------------------------------------


def rekd_of(logits: Tensor, labels: Tensor, teacher_logits: Tensor, *, alpha: float) -> Tensor:
    l_re = re_loss(prediction_loss(logits, labels), torch.zeros(()).double(), lambda_select=1.0)
    l_kd = prediction_distillation_loss(logits, teacher_logits, temperature=2.0)
    return rekd_loss(l_re, l_kd, alpha=alpha)


def test_alpha_1_is_plain_re():
    logits, labels = normal(4, 3).requires_grad_(), torch.tensor([0, 2, 1, 1])
    (gradient,) = torch.autograd.grad(rekd_of(logits, labels, normal(4, 3, seed=1), alpha=1.0), logits)
    (expected,) = torch.autograd.grad(prediction_loss(logits, labels), logits)
    assert torch.equal(gradient, expected)
    (mixed,) = torch.autograd.grad(rekd_of(logits, labels, normal(4, 3, seed=1), alpha=0.9), logits)
    assert not torch.allclose(mixed, expected)


def test_alpha_0_has_no_gradient_from_labels():
    logits, teacher = normal(4, 3).requires_grad_(), normal(4, 3, seed=1)
    labels = torch.tensor([0, 2, 1, 1])
    gradients = {}
    for alpha in (0.0, 0.3):
        for name, given in (("these", labels), ("others", (labels + 1) % 3)):
            (gradients[alpha, name],) = torch.autograd.grad(rekd_of(logits, given, teacher, alpha=alpha), logits)
    assert torch.equal(gradients[0.0, "these"], gradients[0.0, "others"])
    assert not torch.allclose(gradients[0.3, "these"], gradients[0.3, "others"])


def test_rekd_loss_is_linear_in_alpha():
    l_re, l_kd = torch.tensor(2.0), torch.tensor(10.0)
    assert [rekd_loss(l_re, l_kd, alpha=alpha).item() for alpha in (0.0, 0.25, 1.0)] == [10, 8, 2]


# --- Ratios ---------------------------------------------------------------------------------------------------------


def test_ratios_over_all_positions_and_over_real_tokens():
    mask = torch.tensor([[1.0, 0, 1, 1], [0, 0, 0, 0]])
    valid = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]])
    assert rationale_ratio(mask).tolist() == [0.75, 0]
    assert token_ratio(mask, valid).tolist() == [0.5, 0]  # padding counts neither above nor below; nothing real is 0
    assert torch.equal(token_ratio(mask, torch.ones_like(mask)), rationale_ratio(mask))


# --- Finite differences, and the ends of the range ------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 5.0])
def test_gradients_agree_with_finite_differences(temperature):
    noise_s, noise_t, teacher = selection(2), selection(3), selection(1)
    check = torch.autograd.gradcheck
    z = selection(0).requires_grad_()
    assert check(lambda z: gumbel_softmax(z, noise_s, temperature=temperature), z)
    assert check(lambda z: rationale_distillation_loss(z, noise_s, teacher, noise_t, temperature=temperature), z)
    q, labels = normal(4, 3).requires_grad_(), torch.tensor([0, 2, 1, 1])
    assert check(lambda q: prediction_distillation_loss(q, normal(4, 3, seed=1), temperature=temperature), q)
    assert check(lambda q: prediction_loss(q, labels), q)
    m = torch.rand(3, 5, generator=stream(), dtype=torch.float64).requires_grad_()
    for form in ("per_sample", "batch_mean"):
        assert check(lambda m, form=form: selection_loss(m, p_target=0.3, form=form), m)
    # The mask is a step: here finite differences say 0, and straight-through says otherwise on purpose.
    with pytest.raises(GradcheckError):
        check(lambda z: straight_through(gumbel_softmax(z, noise_s, temperature=temperature)), z)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.1, 5.0])
def test_the_whole_loss_is_finite_at_the_ends(dtype, temperature):
    """Logits of +-50 for and against each other, a uniform sample of exactly 0 and 1, the lowest temperature."""
    ends = torch.tensor([-50.0, 0.0, 50.0], dtype=dtype)
    pairs = torch.cartesian_prod(ends, ends)
    uniform = torch.tensor([0.0, 1.0, 0.5], dtype=dtype)
    noises = gumbel_from_uniform(torch.cartesian_prod(uniform, uniform))
    student = pairs.repeat_interleave(9, 0)[None].clone().requires_grad_()
    teacher = pairs.flip(0).repeat_interleave(9, 0)[None]
    noise_s, noise_t = noises.repeat(9, 1)[None], noises.flip(0).repeat(9, 1)[None]
    logits = torch.tensor([[50.0, -50.0]], dtype=dtype, requires_grad=True)
    teacher_logits, labels = -logits.detach(), torch.tensor([1])

    mask = straight_through(gumbel_softmax(student, noise_s, temperature=temperature))
    l_re = re_loss(prediction_loss(logits, labels), selection_loss(mask, p_target=0.15), lambda_select=0.05)
    l_kd = distillation_loss(
        rationale_distillation_loss(student, noise_s, teacher, noise_t, temperature=temperature),
        prediction_distillation_loss(logits, teacher_logits, temperature=temperature),
        lambda_rationale=0.5,
        temperature=temperature,
    )
    loss = rekd_loss(l_re, l_kd, alpha=0.3)
    loss.backward()

    assert set(mask.detach().unique().tolist()) == {0.0, 1.0}
    for value in (l_re, l_kd, loss, student.grad, logits.grad):
        assert value.isfinite().all()
    assert student.grad.abs().max() > 0
    assert logits.grad.abs().max() > 0

    if temperature == 0.1:  # from probabilities instead of logits it would not be: they underflow
        s, t = (gumbel_softmax(z, g, temperature=0.1) for z, g in ((student, noise_s), (teacher, noise_t)))
        assert not (t * (t / s).log()).sum().isfinite()
