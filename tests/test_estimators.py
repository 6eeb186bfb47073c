"""Estimators: what each draws, and that its gradient is the one its formula says."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import tiny
import torch

from rekd.handover.forms import as_given, load_exported
from rekd.method.audit import top
from rekd.method.equations import (
    argmax_mask,
    at_budget,
    gumbel_noise,
    gumbel_softmax,
    selection_difference,
    selection_loss,
    straight_through,
)
from rekd.method.estimators import ESTIMATORS, HardKuma, Reinforce, estimator_of
from rekd.method.judge import saliency
from rekd.method.losses import Learner, losses, mask_costs
from rekd.method.samples import DeviceSamples
from rekd.method.streams import Streams, evaluation_noise
from rekd.store.checkpoints import Checkpoints
from rekd.trial import Trial, num_selected

P_TARGET = 0.3

LEARNT = tuple(name for name in ESTIMATORS if name != "saliency")
"""Those by which a generator learns."""


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return gumbel_noise(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- What is drawn --------------------------------------------------------------------------------------------------


def test_the_neutral_one_is_the_papers_equations_bitwise():
    z, g = drawn(4, 9, 2).float(), noise(4, 9, 2).float()
    found = ESTIMATORS["gumbel"](P_TARGET).mask(z, g, temperature=0.7)
    assert torch.equal(found, straight_through(gumbel_softmax(z, g, temperature=0.7)))
    assert tiny.trial().estimator == "gumbel"
    assert tiny.trial().digest == tiny.trial(estimator="gumbel").digest != tiny.trial(estimator="top_k").digest


@pytest.mark.parametrize("temperature", [0.1, 5.0])
@pytest.mark.parametrize("spread", [0.0, 1.0, 1e4])
def test_top_k_has_exactly_the_budget_ties_too(spread, temperature):
    z, g = spread * drawn(50, 10, 2).float(), noise(50, 10, 2).float()
    for given in (g, torch.zeros_like(g)):
        mask = ESTIMATORS["top_k"](P_TARGET).mask(z, given, temperature=temperature)
        assert mask.sum(dim=1).tolist() == [3.0] * 50
        assert (mask * (1 - mask) == 0).all()
        perturbed = selection_difference(z + given)
        least, most = perturbed.masked_fill(mask == 0, 1e9).amin(1), perturbed.masked_fill(mask == 1, -1e9).amax(1)
        assert (least >= most).all()


@pytest.mark.parametrize("budget", [0.01, 0.05, 0.3, 0.5, 0.99])
def test_logits_at_a_budget_keep_their_order_and_their_distances(budget):
    z = drawn(6, 10, 2).float()
    moved = at_budget(z, budget)
    assert argmax_mask(moved).sum(dim=1).tolist() == [num_selected(budget, 10)] * 6
    shift = selection_difference(moved) - selection_difference(z)
    assert torch.allclose(shift, shift[:, :1].expand_as(shift), atol=1e-3)


def test_reinforce_samples_as_often_as_the_softmax_says():
    z = drawn(1, 6, 2).expand(20_000, 6, 2)
    mask = ESTIMATORS["reinforce"](P_TARGET).mask(z, noise(20_000, 6, 2), temperature=0.1)
    assert torch.allclose(mask.mean(dim=0), z[0].softmax(dim=-1)[:, 1], atol=0.02)
    assert (
        not ESTIMATORS["reinforce"](P_TARGET).mask(z.requires_grad_(), noise(20_000, 6, 2), temperature=1).requires_grad
    )


def test_hard_kuma_is_0_a_half_and_1_as_often_as_its_distribution_says():
    """1 - (1 - x^a)^b is the share below x; what is stretched beyond 0 and 1 is cut."""
    z = drawn(1, 8, 2).expand(20_000, 8, 2)
    kuma = HardKuma(P_TARGET)
    mask = kuma.variable(z, noise(20_000, 8, 2))
    a, b = (shape[0] for shape in kuma.shapes(z))
    for value, below in ((0.0, (mask <= 0)), (0.5, (mask <= 0.5)), (1.0, (mask < 1))):
        x = (value - kuma.LOWER) / (kuma.UPPER - kuma.LOWER)
        assert torch.allclose(below.double().mean(dim=0), 1 - (1 - x**a) ** b, atol=0.02)
    assert torch.allclose((mask > 0.5).double().mean(dim=0), z[0].softmax(dim=-1)[:, 1], atol=0.02)
    assert (mask == 0).any()
    assert (mask == 1).any()
    assert ((mask > 0) & (mask < 1)).any()


# --- Gradients ------------------------------------------------------------------------------------------------------


def test_the_gradient_of_top_k_is_that_of_the_soft_selection_around_the_budgets_end():
    z, g, weight = drawn(2, 5, 2).requires_grad_(), noise(2, 5, 2), drawn(2, 5, seed=5)
    mask = ESTIMATORS["top_k"](0.4).mask(z, g, temperature=0.7)
    (found,) = torch.autograd.grad((mask * weight).sum(), z)
    difference = selection_difference(z.detach() + g)
    second, third = difference.sort(dim=1, descending=True).values[:, 1:3].unbind(1)
    soft = ((difference - (second + third)[:, None] / 2) / 0.7).sigmoid()
    by_difference = weight * soft * (1 - soft) / 0.7
    assert torch.allclose(found, torch.stack((-by_difference, by_difference), dim=-1))


def test_the_gradient_of_hard_kuma_agrees_with_finite_differences():
    z, g = drawn(3, 6, 2).requires_grad_(), noise(3, 6, 2)
    kuma = HardKuma(P_TARGET)
    variable = kuma.variable(z, g)
    assert ((variable > 0) & (variable < 1)).sum() >= 6
    assert torch.autograd.gradcheck(lambda z: kuma.variable(z, g), z)
    mask = kuma.mask(z, g, temperature=1.0)
    assert torch.equal(mask, (variable > 0.5).double())
    for found, expected in zip(*(torch.autograd.grad(one.sum(), z) for one in (mask, variable)), strict=True):
        assert torch.equal(found, expected)


def test_hard_kuma_is_finite_at_the_ends():
    ends = torch.cartesian_prod(*[torch.tensor([-1e3, -50.0, 0.0, 50.0, 1e3])] * 2)[None].requires_grad_()
    for uniform in (0.0, 1.0):
        g = gumbel_noise(ends.shape) * 0 + (-4.5 if uniform else 16.0) * torch.tensor([1.0, -1.0])
        mask = HardKuma(P_TARGET).mask(ends, g, temperature=0.1)
        (gradient,) = torch.autograd.grad(mask.sum(), ends)
        assert mask.isfinite().all()
        assert gradient.isfinite().all()


def every_mask(num_features: int) -> torch.Tensor:
    return torch.tensor(list(product((0.0, 1.0), repeat=num_features)), dtype=torch.float64)


def test_the_mean_gradient_of_reinforce_is_that_of_the_expected_cost():
    """All masks of two samples of three features, each as likely as it is: the baseline takes nothing away and adds nothing."""
    z = drawn(2, 3, 2).requires_grad_()
    masks, cost = every_mask(3), drawn(2, 8, seed=3) + 7
    log_p = -torch.nn.functional.softplus(-(2 * masks - 1) * selection_difference(z)[:, None]).sum(dim=-1)
    (expected,) = torch.autograd.grad((log_p.exp() * cost).sum(dim=1).mean(), z)

    reinforce, probability, found = Reinforce(P_TARGET), log_p.detach().exp(), torch.zeros_like(z)
    for i, j in product(range(8), repeat=2):
        loss = reinforce.score_loss(z, torch.stack((masks[i], masks[j])), torch.stack((cost[0, i], cost[1, j])))
        assert loss == 0
        found += probability[0, i] * probability[1, j] * torch.autograd.grad(loss, z)[0]
    assert torch.allclose(found, expected)


def test_a_batch_of_one_is_its_own_cost():
    z = drawn(1, 3, 2).requires_grad_()
    loss = Reinforce(P_TARGET).score_loss(z, torch.ones(1, 3, dtype=torch.float64), torch.tensor([2.0]).double())
    (gradient,) = torch.autograd.grad(loss, z)
    assert torch.allclose(gradient[..., 1], 2 * (1 - z.softmax(dim=-1)[..., 1]))


@pytest.mark.parametrize("objective", ["re", "rekd"])
def test_costs_of_masks_add_up_to_what_the_loss_has_of_them(objective):
    trial = tiny.trial(objective)
    logits, labels, mask = drawn(6, 2), torch.tensor([0, 1, 1, 0, 0, 1]), (drawn(6, 9, seed=1) > 0).double()
    teacher_logits = drawn(6, 2, seed=2) if objective == "rekd" else None
    costs = mask_costs(trial, logits, labels, mask, teacher_logits, temperature=0.8)
    l_re = torch.nn.functional.cross_entropy(logits, labels) + 0.1 * selection_loss(mask, p_target=0.15)
    if teacher_logits is None:
        assert torch.allclose(costs.mean(), l_re)
        return
    soft, of_teacher = (x.div(0.8).log_softmax(dim=-1) for x in (logits, teacher_logits))
    l_prediction = (of_teacher.exp() * (of_teacher - soft)).sum(dim=-1).mean()
    assert torch.allclose(costs.mean(), 0.3 * l_re + 0.7 * 0.8**2 * l_prediction)


@pytest.mark.parametrize("objective", ["re", "rekd"])
@pytest.mark.parametrize("estimator", LEARNT)
def test_every_parameter_gets_a_gradient_that_is_finite(estimator, objective, teachers):
    trial = tiny.trial(objective, estimator=estimator)
    streams = Streams(trial.seed, device=tiny.CPU)
    teacher = teachers["vit"].for_training() if objective == "rekd" else None
    learner = Learner.of(trial, tiny.model_for(trial, streams), streams=streams, teacher=teacher)
    samples = DeviceSamples(tiny.images(), tiny.CPU)
    losses(learner, samples.take(torch.arange(32)), 1.0)["loss"].backward()
    for name, parameter in learner.model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert any(parameter.grad.abs().max() > 0 for parameter in learner.model.generator.parameters())


# --- Runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", LEARNT[1:])
def test_a_stopped_run_goes_on_as_if_it_had_not(estimator, store, teachers):
    trial = tiny.trial("rekd", estimator=estimator, epochs=2)
    whole = tiny.run(trial, teacher=teachers["vit"].for_training())
    checkpoints = Checkpoints(store, trial.digest)
    for stop_after in (1, None):
        run = tiny.run(trial, teacher=teachers["vit"].for_training(), checkpoints=checkpoints, stop_after=stop_after)
    assert run.numbers == whole.numbers
    assert tiny.same_tensors(run.weights, whole.weights)


@pytest.mark.parametrize("evaluation_mask", ["argmax", "sampled"])
def test_rationales_of_top_k_have_the_budget_on_dev_whatever_is_trained(evaluation_mask):
    trial = tiny.trial(estimator="top_k", evaluation_mask=evaluation_mask, epochs=1, p_target=0.2)
    (record,) = tiny.run(trial).records
    assert record["dev_rationale_ratio"] == pytest.approx(3 / 16)
    assert record["train_rationale_ratio"] == pytest.approx(3 / 16)


@pytest.mark.parametrize("estimator", LEARNT[1:])
def test_a_toy_problem_is_learned(estimator):
    trial = tiny.trial(estimator=estimator, epochs=25, learning_rate=2e-3, lambda_select=0.02, p_target=0.25, seed=4)
    records = tiny.run(trial, pool=tiny.images(256)).records
    assert records[0]["dev_accuracy"] < 0.8
    assert records[-1]["dev_accuracy"] > 0.95
    assert records[-1]["dev_rationale_ratio"] < 0.3


@pytest.mark.parametrize("family", ["vit", "bert"])
def test_a_saved_model_keeps_its_budget_and_so_does_an_exported_one(family, tmp_path):
    model = tiny.build(family, budget=0.25)
    inputs = tiny.tensors(family)
    model.save(tmp_path)
    loaded, exported = type(model).load(tmp_path), load_exported(tmp_path)
    given = {
        name: torch.from_numpy(array) for name, array in as_given({n: v.numpy() for n, v in inputs.items()}).items()
    }
    for sampled in (False, True):
        with torch.no_grad():
            expected, found = (
                of.predict(inputs, sampled_by=evaluation_noise(3, tiny.CPU) if sampled else None)
                for of in (model, loaded)
            )
        theirs = exported(**given, sampled_by=evaluation_noise(3, tiny.CPU) if sampled else None)
        size = num_selected(0.25, expected.mask.shape[1])
        assert expected.mask.sum(dim=1).tolist() == [size] * len(expected.mask)
        assert torch.equal(found.mask, expected.mask)
        assert torch.equal(theirs.mask, expected.mask)


# --- What a classifier finds salient ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["vit", "bert"])
def test_saliency_selects_what_a_classifiers_answer_hangs_on_most(family, tmp_path):
    classifier = tiny.build(family, "cls", seed=4)
    model = tiny.build(family, budget=0.25, selects_by="saliency")
    model.generator.take(classifier)
    inputs, samples = tiny.tensors(family), tiny.SAMPLES[family](4)
    given = {name: torch.from_numpy(array) for name, array in samples.arrays.items()}
    expected = top(
        saliency(classifier.predictor, DeviceSamples(samples, tiny.CPU)),
        np.full(4, num_selected(0.25, 16 if family == "vit" else 8)),
    )
    with torch.no_grad():
        assert (model.train().predict(given).mask.bool().numpy() == expected).all()  # dropout or not

    model.save(tmp_path)
    loaded = type(model).load(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.predict(inputs).logits, model.eval().predict(inputs).logits)
    with pytest.raises(ValueError, match="Saliency is that of a plain classifier, got a model of rationales"):
        model.generator.take(model)
    with pytest.raises(ValueError, match="The classifier is of another architecture"):
        model.generator.take(tiny.build(family, "cls", num_classes=7))


def test_a_predictor_learns_on_what_is_salient_and_its_classifier_does_not(store):
    trial = tiny.trial(estimator="saliency", teacher_digest="c", p_target=0.25, epochs=3)
    streams = Streams(trial.seed, device=tiny.CPU)
    model = tiny.model_for(trial, streams)
    learner = Learner.of(trial, model, streams=streams)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = DeviceSamples(tiny.images(), tiny.CPU).take(torch.arange(32))
    losses(learner, batch, 1.0)["loss"].backward()
    learner.optimizer.step()
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"predictor"}
    assert all(parameter.grad is not None for parameter in model.predictor.parameters())

    whole, checkpoints = tiny.run(trial), Checkpoints(store, trial.digest)
    for stop_after in (1, None):
        run = tiny.run(trial, checkpoints=checkpoints, stop_after=stop_after)
    assert run.numbers == whole.numbers
    assert {record["dev_rationale_ratio"] for record in run.records} == {0.25}


# --- Bad input ------------------------------------------------------------------------------------------------------


def test_what_an_estimator_cannot_do_is_refused():
    with pytest.raises(
        ValueError, match="estimator is one of gumbel, top_k, reinforce, hard_kuma, saliency, got 'kuma'"
    ):
        tiny.trial(estimator="kuma")
    with pytest.raises(ValueError, match="estimator is not used by objective 'cls', got 'top_k'"):
        tiny.trial("cls", estimator="top_k")
    with pytest.raises(ValueError, match="estimator 'reinforce' asks what each sample's own mask costs"):
        tiny.trial(estimator="reinforce", selection_loss_form="batch_mean")
    assert replace(tiny.trial("cls"), estimator="gumbel").estimator is None
    with pytest.raises(
        ValueError, match="estimator 'saliency' goes with objective 're' and with the digest of a classifier"
    ):
        tiny.trial(estimator="saliency")
    with pytest.raises(ValueError, match="estimator 'saliency' goes with objective 're'"):
        tiny.trial("rekd", estimator="saliency")
    with pytest.raises(ValueError, match="encoder 'shared' is learnt by both its parts"):
        tiny.trial(estimator="saliency", teacher_digest="c", encoder="shared")
    with pytest.raises(ValueError, match="teacher_digest is not used by objective 're'"):
        tiny.trial(teacher_digest="c")


def test_every_estimator_of_a_trial_has_its_class():
    assert {type(estimator_of(tiny.trial(estimator=name))) for name in LEARNT} < set(ESTIMATORS.values())
    assert ESTIMATORS.keys() == set(Trial.__annotations__["estimator"].__args__[0].__args__)
