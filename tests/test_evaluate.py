"""What a trained model does with its rationales, and which samples are shown."""

import numpy as np
import pytest
import tiny
import torch

from rekd.method.evaluate import faithfulness, masks_of, overlap
from rekd.tasks.data import shown_samples


@pytest.mark.parametrize("family", ["vit", "bert"])
@torch.no_grad()
def test_sufficiency_and_comprehensiveness_are_erasers(family):
    model, arrays = tiny.build(family, num_classes=2), tiny.SAMPLES[family](300).arrays
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    prediction = model.predict(inputs)
    chosen = prediction.logits.argmax(dim=-1, keepdim=True)
    whole, rationale, rest = (
        logits.softmax(-1).gather(-1, chosen)
        for logits in (model.predictor(inputs), prediction.logits, model.predictor(inputs, 1 - prediction.mask))
    )
    result = faithfulness(model, arrays, device=tiny.CPU)
    assert result["sufficiency"] == pytest.approx((whole - rationale).mean().item(), abs=1e-5)
    assert result["comprehensiveness"] == pytest.approx((whole - rest).mean().item(), abs=1e-5)
    assert result["sufficiency"] != pytest.approx(result["comprehensiveness"], abs=1e-4)
    assert result["distinct_masks"] == pytest.approx(len(prediction.mask.unique(dim=0)) / 300)


def test_a_rationale_of_everything_is_sufficient_and_one_mask_for_all_is_seen_as_collapse():
    model = tiny.build("vit")
    with torch.no_grad():
        model.generator.head[1].bias[1] = 1000
    result = faithfulness(model, tiny.images(50).arrays, device=tiny.CPU)
    assert result["sufficiency"] == 0
    assert result["comprehensiveness"] != 0
    assert result["distinct_masks"] == 1 / 50


def test_a_classifier_has_no_rationale_to_measure():
    assert faithfulness(tiny.build("vit", "cls"), tiny.images(4).arrays, device=tiny.CPU) == {}


def test_masks_and_classes_are_those_of_predict():
    model, arrays = tiny.build("bert", num_classes=2), tiny.texts(300).arrays
    masks, classes = masks_of(model, arrays, device=tiny.CPU)
    with torch.no_grad():
        prediction = model.predict({name: torch.from_numpy(array) for name, array in arrays.items()})
    assert np.array_equal(masks, prediction.mask.bool().numpy())
    assert np.array_equal(classes, prediction.logits.argmax(-1).numpy())


def test_overlap_is_intersection_over_union_of_each_sample():
    first = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    second = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    assert overlap(first, second) == pytest.approx((1 / 3 + 0 + 1) / 3)
    assert overlap(first, first) == 1
    assert overlap(first[1:2], second[1:2]) == 0


# --- Samples to look at ---------------------------------------------------------------------------------------------


def test_samples_are_the_first_four_of_each_class_and_64_at_most():
    labels = np.array([1, 0, 1, 1, 1, 1, 0, 2])
    assert shown_samples(labels).tolist() == [0, 1, 2, 3, 4, 6, 7]  # row 5 is the fifth of its class
    many = np.arange(400) % 100
    chosen = shown_samples(many)
    assert len(chosen) == 64 == len(set(many[chosen]))  # one of each class before a second of any
