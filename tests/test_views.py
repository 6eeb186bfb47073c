"""Augmented views: crops and flips, and those that are known before a run."""

from dataclasses import replace

import pytest
import tiny
import torch

from rekd.method.teacher import Teacher, compute_targets
from rekd.method.views import Views, crop_flip


def test_crops_and_flips_are_of_the_image_itself():
    image = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).repeat(200, 1, 1, 1)
    views = crop_flip(image, generator=torch.Generator().manual_seed(0))
    assert views.shape == image.shape
    assert views.dtype == torch.uint8
    padded = torch.nn.functional.pad(image[0, 0], (1, 1, 1, 1))
    expected = {
        tuple((crop.flip(1) if flip else crop).flatten().tolist())
        for row in range(3)
        for column in range(3)
        for crop in [padded[row : row + 8, column : column + 8]]
        for flip in (False, True)
    }
    assert len(expected) == 18
    assert {tuple(view.flatten().tolist()) for view in views} == expected  # each of them, and nothing else


def test_views_of_an_epoch_are_the_same_in_every_run_and_others_in_the_next():
    image = torch.from_numpy(tiny.images().arrays["image"]).repeat(1, 1, 2, 2)
    first, again, second = (Views.of_epoch(epoch, len(image), height=8) for epoch in (1, 1, 2))
    assert torch.equal(first.of(image), again.of(image))
    assert not torch.equal(first.of(image), second.of(image))
    assert not torch.equal(first.of(image), image)
    rows = torch.tensor([5, 100, 0])
    assert torch.equal(first[rows].of(image[rows]), first.of(image)[rows])


def seeded_targets(teacher: tiny.MadeTeacher, num_epochs: int):
    return [
        compute_targets(teacher.model, tiny.images().arrays, replace(tiny.ASKED, view_epoch=epoch), device=tiny.CPU)
        for epoch in range(1, num_epochs + 1)
    ]


def test_a_run_on_stored_views_is_the_run_with_the_teacher_live(image_teacher):
    """Same views, same noise: whether the teacher was asked before or is asked now changes rounding alone."""
    trial = tiny.trial("rekd", augmentation="crop_flip_seeded", epochs=3)
    views = seeded_targets(image_teacher, 3)
    stored = tiny.run(trial, teacher=Teacher(image_teacher.targets, views=views, device=tiny.CPU))
    live = tiny.run(trial, teacher=image_teacher.for_training(model=image_teacher.model, augmented=True))
    originals = tiny.run(trial, teacher=image_teacher.for_training())
    for name in ("train_loss", "train_rationale_distillation_loss", "train_prediction_distillation_loss"):
        for a, b, c in zip(stored.records, live.records, originals.records, strict=True):
            assert a[name] == pytest.approx(b[name], rel=1e-6)
            if name != "train_loss":
                assert a[name] != pytest.approx(c[name], rel=1e-5)


def test_all_runs_see_the_same_views_and_their_seeds_still_differ(image_teacher):
    trial = tiny.trial(augmentation="crop_flip_seeded", epochs=1)
    assert tiny.run(trial).numbers == tiny.run(trial).numbers
    assert tiny.run(trial).numbers != tiny.run(replace(trial, seed=4)).numbers
    assert tiny.run(trial).numbers != tiny.run(replace(trial, augmentation="crop_flip")).numbers


def test_targets_of_one_epochs_views_do_not_pass_for_anothers(store, image_teacher):
    first, second = seeded_targets(image_teacher, 2)
    assert len({targets.asked.fingerprint for targets in (first, second, image_teacher.targets)}) == 3
    with pytest.raises(ValueError, match="targets belong to the epoch of views 1, the trial needs 2"):
        first.check(second.asked)
