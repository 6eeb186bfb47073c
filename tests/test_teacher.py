"""The teacher: what it says once serves as well as asking it every step, and only for its own samples."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from disturbed import DAMAGES, damaged

from rekd.method.equations import (
    argmax_mask,
    gumbel_noise,
    prediction_distillation_loss,
    rationale_distillation_loss,
)
from rekd.method.samples import batches
from rekd.method.teacher import Targets, Teacher, Teachers, compute_targets, selection_difference
from rekd.store.ledger import Ledger, Outcome
from rekd.store.saved_model import Weights, is_saved, saved_sha256

FAMILIES = ("vit", "bert")


def batch_of(family: str, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array)[rows] for name, array in tiny.SAMPLES[family]().arrays.items()}


# --- Targets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_targets_and_the_live_teacher_give_the_same_loss_on_the_same_noise(teachers, family):
    teacher = teachers[family]
    rows = torch.tensor([5, 100, 0, 64])
    inputs = batch_of(family, rows)
    cached_z, cached_q = teacher.for_training()(rows, inputs, torch.ones(4, teacher.model.num_features(inputs)))
    with torch.no_grad():
        live = teacher.model.predict(inputs)

    generator = torch.Generator().manual_seed(0)
    student_z = torch.randn(live.selection_logits.shape, generator=generator)
    student_q = torch.randn(live.logits.shape, generator=generator)
    noise_s, noise_t = (gumbel_noise(student_z.shape, generator=generator) for _ in range(2))
    for temperature in (0.1, 1.0, 5.0):
        of_cached, of_live, of_other = (
            rationale_distillation_loss(student_z, noise_s, teacher_z, noise_t, temperature=temperature)
            for teacher_z in (cached_z, live.selection_logits, live.selection_logits.flip(0))
        )
        torch.testing.assert_close(of_cached, of_live, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(of_other, of_live, rtol=1e-3)
        torch.testing.assert_close(
            prediction_distillation_loss(student_q, cached_q, temperature=temperature),
            prediction_distillation_loss(student_q, live.logits, temperature=temperature),
            rtol=1e-5,
            atol=1e-5,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_hold_the_rationale_and_the_prediction_under_it(teachers, family):
    teacher, arrays = teachers[family], tiny.SAMPLES[family]().arrays
    with torch.no_grad():
        live = teacher.model.predict({name: torch.from_numpy(array) for name, array in arrays.items()})
    assert teacher.targets.selection_difference.dtype == teacher.targets.logits.dtype == np.float32
    assert np.array_equal(teacher.targets.selection_difference > 0, live.mask.bool().numpy())
    np.testing.assert_allclose(teacher.targets.logits, live.logits.numpy(), rtol=1e-4, atol=1e-5)


def test_a_selection_difference_decides_as_the_logits_do():
    logits = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    difference = selection_difference(logits)
    assert torch.equal((difference > 0).float(), argmax_mask(logits))
    torch.testing.assert_close(torch.sigmoid(difference), logits.softmax(-1)[..., 1])
    assert torch.equal(selection_difference(torch.tensor([[[1.0, 3.0]]])), torch.tensor([[2.0]]))


def test_targets_do_not_depend_on_the_mode_that_the_teacher_was_left_in(image_teacher):
    arrays = tiny.images().arrays
    image_teacher.model.train()
    again = compute_targets(image_teacher.model, arrays, tiny.ASKED, device=tiny.CPU)
    assert np.array_equal(again.logits, image_teacher.targets.logits)  # with dropout they would differ
    assert not image_teacher.model.training


def test_a_classifier_says_nothing_of_selection():
    model, arrays = tiny.build("vit", "cls"), tiny.images(4).arrays
    targets = compute_targets(model, arrays, tiny.ASKED, device=tiny.CPU)
    assert targets.selection_difference.shape == (4, 0)
    assert not targets.selects
    with torch.no_grad():
        np.testing.assert_allclose(
            targets.logits, model.predictor({"image": torch.from_numpy(arrays["image"])}), rtol=1e-5
        )
    assert targets.on_grid((4, 4), (2, 2)) is targets


def test_batches_are_all_samples_in_order():
    arrays = {"a": np.arange(10), "b": np.arange(20).reshape(10, 2)}
    seen = list(batches(arrays, device=tiny.CPU, size=4))
    assert [len(batch["a"]) for batch in seen] == [4, 4, 2]
    assert torch.equal(torch.cat([batch["b"] for batch in seen]), torch.from_numpy(arrays["b"]))


# --- In a store -----------------------------------------------------------------------------------------------------


OTHERS = [
    replace(tiny.ASKED, teacher_digest="another"),
    replace(tiny.ASKED, teacher_sha256="another"),
    replace(tiny.ASKED, data_fingerprint="another"),
    replace(tiny.ASKED, view_epoch=1),
]
"""Each asks another teacher, the teacher as it was trained anew, or about other samples or views."""


def test_stored_targets_are_the_same_and_known_by_teacher_weights_and_data(store, image_teacher):
    targets = image_teacher.targets
    targets.save(store)
    loaded = Targets.load(store, tiny.ASKED)
    assert np.array_equal(loaded.selection_difference, targets.selection_difference)
    assert np.array_equal(loaded.logits, targets.logits)
    assert all(Targets.load(store, asked) is None for asked in OTHERS)


def test_damaged_targets_are_set_aside_and_count_as_none(store, image_teacher, caplog):
    image_teacher.targets.save(store)
    path = Path(tiny.ASKED.file_in(store))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert Targets.load(store, tiny.ASKED) is None
    assert "is damaged" in caplog.text
    assert len(store.names_in(store.set_aside_folder)) == 1


def test_targets_of_another_teacher_or_other_data_are_refused(store, image_teacher):
    targets = image_teacher.targets
    targets.check(tiny.ASKED)
    for asked, what in zip(OTHERS, ("teacher", "saved model", "data", "epoch of views"), strict=True):
        with pytest.raises(ValueError, match=f"targets belong to the {what} .*, the trial needs (another|1)"):
            targets.check(asked)

    other = OTHERS[2]
    replace(targets, asked=other).save(store)  # a file under a name that is not its own
    Path(other.file_in(store)).rename(tiny.ASKED.file_in(store))
    with pytest.raises(ValueError, match="targets belong to the data another"):
        Targets.load(store, tiny.ASKED)


def test_withdrawing_a_teachers_row_withdraws_its_targets(store, image_teacher):
    trial = tiny.trial("re")
    mine = replace(tiny.ASKED, teacher_digest=trial.digest)
    for asked in (mine, replace(mine, view_epoch=1), tiny.ASKED):
        replace(image_teacher.targets, asked=asked).save(store)
    Ledger(store).write(trial, Outcome(status="ok"))
    Ledger(store).withdraw(trial.digest, "its model is gone")
    assert [Targets.load(store, asked) is None for asked in (mine, replace(mine, view_epoch=1), tiny.ASKED)] == [
        True,
        True,
        False,
    ]


@pytest.fixture
def stored_teacher(store, image_teacher):
    """The digest of a finished trial whose model is in the store."""
    trial = tiny.trial("re")
    image_teacher.model.save(Path(store.model_folder(trial.digest)))
    Ledger(store).write(trial, Outcome(status="ok"))
    return trial.digest


def test_a_stored_model_is_read_as_it_was_saved(store, image_teacher, stored_teacher):
    arrays = Weights.load(store, stored_teacher).arrays
    assert tiny.same_tensors(
        {name: torch.tensor(array) for name, array in arrays.items()}, image_teacher.model.state_dict()
    )
    assert Ledger(store).done() == {stored_teacher}
    assert store.names_in(store.set_aside_folder) == []


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_model_is_set_aside_and_its_row_stays(store, stored_teacher, caplog, name, how):
    path = Path(store.model_folder(stored_teacher)) / name
    content = damaged(path.read_bytes(), how)
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"(?s)^The trial {stored_teacher} has a damaged saved model \(.*command again"
    ):
        Weights.load(store, stored_teacher)
    assert Ledger(store).done() == {stored_teacher}
    assert not is_saved(store, stored_teacher)
    moved = {file[9:]: f"{store.set_aside_folder}/{file}" for file in store.names_in(store.set_aside_folder)}
    assert set(moved) == {"model.safetensors", "config.json"}
    assert store.read(moved[name]) == content
    assert all("is of no use: the trial has a damaged saved model" in record.message for record in caplog.records)

    with pytest.raises(ValueError, match=f"^The trial {stored_teacher} has no saved model.*command again"):
        Weights.load(store, stored_teacher)


def test_a_trial_whose_model_is_gone_keeps_its_row(store, stored_teacher):
    (Path(store.model_folder(stored_teacher)) / "config.json").unlink()
    with pytest.raises(ValueError, match="has no saved model"):
        Weights.load(store, stored_teacher)
    assert Ledger(store).done() == {stored_teacher}
    assert not is_saved(store, stored_teacher)
    # It may be on its way there: the trial may be running again.
    assert "model.safetensors" in store.names_in(store.model_folder(stored_teacher))


def test_a_model_that_was_saved_without_a_checksum_is_read(store, stored_teacher):
    file = Path(store.model_folder(stored_teacher)) / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in config.items() if name != "sha256"}))
    weights = Weights.load(store, stored_teacher)
    assert weights.arrays
    assert weights.sha256 == saved_sha256(store, stored_teacher) == config["sha256"]


# --- In a training step ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_under_the_students_mask_predicts_what_its_predictor_sees_there(teachers, family):
    teacher = teachers[family]
    rows = torch.tensor([3, 1])
    inputs = batch_of(family, rows)
    mask = torch.zeros(2, teacher.model.num_features(inputs))
    mask[:, :3] = 1
    selection_logits, logits = teacher.for_training(model=teacher.model, student_mask=True)(rows, inputs, mask)
    own_selection_logits, own_logits = teacher.for_training()(rows, inputs, mask)
    with torch.no_grad():
        assert torch.equal(logits, teacher.model.predictor(inputs, mask))
    assert not torch.allclose(logits, own_logits)
    assert torch.equal(selection_logits, own_selection_logits)  # which features matter, it says as before


def test_a_teacher_of_augmented_views_sees_the_view_and_not_the_original(image_teacher):
    rows = torch.tensor([3, 1])
    view = {"image": batch_of("vit", rows)["image"].flip(-1)}
    mask = torch.ones(2, 16)
    selection_logits, logits = image_teacher.for_training(model=image_teacher.model, augmented=True)(rows, view, mask)
    with torch.no_grad():
        live = image_teacher.model.predict(view)
    assert torch.equal(selection_logits, live.selection_logits)
    assert torch.equal(logits, live.logits)
    assert not torch.allclose(logits, torch.from_numpy(image_teacher.targets.logits)[rows])


@pytest.mark.parametrize("augmented", [True, False])
def test_a_live_teacher_has_no_dropout(image_teacher, augmented):
    """Whoever had its model before may have left it in training mode."""
    rows = torch.arange(32)
    inputs, mask = batch_of("vit", rows), torch.ones(32, 16)
    options = {"student_mask": True, "augmented": augmented, "device": tiny.CPU}
    model = tiny.build("vit", num_classes=2, seed=7)
    expected = [model.generator(inputs), model.predictor(inputs, mask)]
    assert not torch.allclose(model.train().predictor(inputs, mask), expected[1])
    said = Teacher(image_teacher.targets, model=model, **options)(rows, inputs, mask)
    if augmented:
        torch.testing.assert_close(said[0], expected[0])
    torch.testing.assert_close(said[1], expected[1])


def test_what_a_teacher_says_carries_no_gradient(image_teacher):
    rows = torch.tensor([0])
    teacher = image_teacher.for_training(model=image_teacher.model, student_mask=True)
    selection_logits, logits = teacher(rows, batch_of("vit", rows), torch.ones(1, 16, requires_grad=True))
    assert not selection_logits.requires_grad
    assert not logits.requires_grad


def test_a_teacher_that_predicts_anew_needs_its_model(image_teacher):
    for option in ("student_mask", "augmented"):
        with pytest.raises(ValueError, match=r"a teacher predicts anew\. Give its model"):
            image_teacher.for_training(**{option: True})
    assert Teacher(image_teacher.targets, device=tiny.CPU).model is None


# --- Another grid, and several teachers -----------------------------------------------------------------------------


def test_on_its_own_grid_a_teacher_says_bitwise_what_it_said(image_teacher):
    assert image_teacher.targets.on_grid((4, 4), (4, 4)) is image_teacher.targets


def test_on_another_grid_it_selects_the_same_area(image_teacher):
    own = torch.from_numpy(image_teacher.targets.selection_difference)
    mapped = image_teacher.targets.on_grid((4, 4), (2, 2))
    assert mapped.selection_difference.dtype == np.float32
    quarters = own.sigmoid().view(-1, 2, 2, 2, 2).mean(dim=(2, 4)).view(-1, 4)
    torch.testing.assert_close(torch.from_numpy(mapped.selection_difference).sigmoid(), quarters)
    assert np.array_equal(mapped.logits, image_teacher.targets.logits)


def test_a_teacher_of_augmented_views_is_heard_on_the_students_grid(image_teacher):
    rows, model = torch.tensor([3, 1]), image_teacher.model
    inputs = batch_of("vit", rows)
    options = {"model": model, "augmented": True}
    own, own_logits = image_teacher.for_training(**options)(rows, inputs, torch.ones(2, 16))
    seen, logits = image_teacher.for_training(**options, grids=((4, 4), (2, 2)))(rows, inputs, torch.ones(2, 4))
    quarters = own.softmax(-1)[..., 1].view(-1, 2, 2, 2, 2).mean(dim=(2, 4)).view(-1, 4)
    torch.testing.assert_close(seen.softmax(-1)[..., 1], quarters)
    assert torch.equal(logits, own_logits)


def test_a_mask_of_one_grid_is_none_of_the_other(image_teacher):
    with pytest.raises(ValueError, match=r"among 4 x 4 features, the student among 2 x 2.*teacher_sees"):
        image_teacher.for_training(model=image_teacher.model, student_mask=True, grids=((4, 4), (2, 2)))


def test_teachers_are_averaged_in_probability_by_weight(image_teacher):
    rows = torch.tensor([5, 0])
    inputs, mask = batch_of("vit", rows), torch.ones(2, 16)
    other = tiny.build("vit", num_classes=2, seed=8)
    targets = compute_targets(other, tiny.images().arrays, tiny.ASKED, device=tiny.CPU)
    each = [image_teacher.for_training(), Teacher(targets, device=tiny.CPU)]
    (z_one, q_one), (z_two, q_two) = (teacher(rows, inputs, mask) for teacher in each)
    selection, logits = Teachers(each, [1.0, 3.0])(rows, inputs, mask)
    torch.testing.assert_close(selection.softmax(-1), 0.25 * z_one.softmax(-1) + 0.75 * z_two.softmax(-1))
    torch.testing.assert_close(logits.softmax(-1), 0.25 * q_one.softmax(-1) + 0.75 * q_two.softmax(-1))
    assert not torch.allclose(selection.softmax(-1), z_one.softmax(-1))

    alone, _ = Teachers([each[0], each[0]], [1.0, 1.0])(rows, inputs, mask)
    torch.testing.assert_close(alone.softmax(-1), z_one.softmax(-1))


def test_among_several_a_classifier_has_a_say_in_the_prediction_alone(image_teacher):
    rows = torch.tensor([5, 0])
    inputs, mask = batch_of("vit", rows), torch.ones(2, 16)
    model = tiny.build("vit", "cls", num_classes=2)
    classifier = Teacher(compute_targets(model, tiny.images().arrays, tiny.ASKED, device=tiny.CPU), device=tiny.CPU)
    own, q_own = image_teacher.for_training()(rows, inputs, mask)
    none, q_cls = classifier(rows, inputs, mask)
    assert none.shape == (2, 0, 2)
    selection, logits = Teachers([classifier, image_teacher.for_training()], [1.0, 1.0])(rows, inputs, mask)
    torch.testing.assert_close(selection.softmax(-1), own.softmax(-1))
    torch.testing.assert_close(logits.softmax(-1), (q_own.softmax(-1) + q_cls.softmax(-1)) / 2)
