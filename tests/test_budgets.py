"""Accuracy at exact budgets: what it is of, what it costs, and that it is no part of anything else."""

import math

import numpy as np
import pytest
import tiny
import torch

from rekd.method.budgets import budget_curve
from rekd.method.evaluate import predictions
from rekd.method.samples import DeviceSamples
from rekd.store.ledger import BUDGET_COLUMNS, BUDGETS, TRIALS_SCHEMA


def curve_of(model, pool, **options):
    samples = DeviceSamples(pool, tiny.CPU)
    return budget_curve(model.predictor, samples, predictions(model, samples), p_target=0.25, **options)


@pytest.mark.parametrize("family", ["vit", "bert"])
def test_at_a_budget_the_largest_logits_are_kept(family):
    model, pool = tiny.build(family, num_classes=2, seed=2), tiny.SAMPLES[family](60)
    inputs = {name: torch.from_numpy(array) for name, array in pool.arrays.items()}
    found = curve_of(model, pool)
    with torch.no_grad():
        logits = model.generator(inputs)
        score = logits[..., 1] - logits[..., 0]
        for column, budget in {**BUDGET_COLUMNS, "test_accuracy_at_p_target": 0.25}.items():
            size = max(1, round(budget * score.shape[1]))
            mask = torch.zeros_like(score).scatter(1, score.topk(size, dim=1).indices, 1.0)
            right = model.predictor(inputs, mask).argmax(dim=1).numpy() == pool.labels
            assert found[column] == right.mean()
    with torch.no_grad():
        whole = model.predictor(inputs).argmax(dim=1).numpy() == pool.labels
    assert found["test_accuracy_at_100"] == whole.mean()
    assert set(found) <= set(TRIALS_SCHEMA.names)
    assert len(found) == len(BUDGETS) + 2


def test_a_model_with_a_budget_has_its_own_accuracy_there():
    model, pool = tiny.build("vit", num_classes=2, budget=0.25), tiny.images(60)
    found = predictions(model, DeviceSamples(pool, tiny.CPU))
    own = (found.logits.argmax(dim=1).numpy() == pool.labels).mean()
    assert curve_of(model, pool)["test_accuracy_at_p_target"] == own


def test_the_area_is_that_of_the_ratios_which_there_are():
    """Of 16 features 1, 2 and 5 % are one each: the curve begins at a sixteenth."""
    found = curve_of(tiny.build("vit", num_classes=2, seed=5), tiny.images(60))
    sizes, columns = [1, 2, 3, 5, 8, 16], [1, 10, 20, 30, 50, 100]
    values = [found[f"test_accuracy_at_{column}"] for column in columns]
    steps = [(b - a) * (u + v) / 2 for a, b, u, v in zip(sizes, sizes[1:], values, values[1:], strict=False)]
    assert math.isclose(found["test_accuracy_area"], sum(steps) / 15)
    assert found["test_accuracy_at_1"] == found["test_accuracy_at_5"]


def test_each_number_of_features_is_one_pass_of_the_predictor_and_none_of_the_generator(monkeypatch):
    model, pool = tiny.build("vit", num_classes=2), tiny.images(60)
    samples = DeviceSamples(pool, tiny.CPU)
    found = predictions(model, samples)
    asked = []
    model.generator.register_forward_hook(lambda *_: pytest.fail("The generator has been asked already."))
    model.predictor.register_forward_hook(lambda module, given, answer: asked.append(given[1].sum(dim=1)))
    budget_curve(model.predictor, samples, found, p_target=0.25)
    assert [int(one[0]) for one in asked] == [1, 2, 3, 4, 5, 8, 16]
    assert all((one == one[0]).all() for one in asked)


def test_it_moves_no_random_stream_and_no_parameter():
    model, pool = tiny.build("vit", num_classes=2), tiny.images(60)
    state, weights = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    curve_of(model, pool)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert tiny.same_tensors(dict(model.state_dict()), weights)
