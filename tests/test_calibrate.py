"""A few timed steps tell how long trials take."""

import pandas as pd
import pytest

from rekd.running.calibrate import calibrate
from rekd.running.estimate import COLUMNS, Estimator
from rekd.tasks.task import load_task


@pytest.mark.parametrize(("file", "model"), [("image_task", "vit-tiny"), ("text_task", "bert-mini")])
def test_local_models_are_timed_in_the_shape_of_their_task(file, model, request):
    task = load_task(request.getfixturevalue(file))
    trial = task.trial("re", model, seed=0, batch_size=4)
    steps = calibrate([task], [trial])
    seconds = steps[task.name, model]
    assert 0 < seconds.low <= seconds.expected <= seconds.high
    assert list(steps) == [(task.name, model)]  # the models that were asked for, not all of the task's


def test_what_was_timed_takes_the_place_of_arithmetic_and_scales_with_epochs_and_objective():
    task = load_task("digits")
    trial = task.trial("re", "vit-student", seed=0, epochs=10)
    nothing = pd.DataFrame(columns=list(COLUMNS))
    estimator = Estimator(nothing, [task], device="cpu", steps=calibrate([task], [trial]))
    assert estimator.basis([trial]) == "calibration"
    assert estimator.basis([trial, task.trial("re", "vit-teacher", seed=0)]) == "arithmetic"
    step = estimator.steps["digits", "vit-student"]
    assert estimator.seconds(trial).expected == pytest.approx(step.expected * 10 * 34)  # 1,078 samples, 32 at a time
    classifier = task.trial("cls", "vit-student", seed=0, epochs=10)
    assert estimator.seconds(classifier).expected == pytest.approx(estimator.seconds(trial).expected / 2)


def test_a_measured_run_corrects_the_arithmetic_of_other_models():
    """Where one model took a tenth of what arithmetic says, the others are taken to do the same."""
    task = load_task("digits")
    teacher = task.trial("re", "vit-teacher", seed=0, epochs=1)
    guess = Estimator(pd.DataFrame(columns=list(COLUMNS)), [task], device="cpu").seconds(teacher).expected
    student = task.trial("re", "vit-student", seed=0, epochs=1)
    uncorrected = Estimator(pd.DataFrame(columns=list(COLUMNS)), [task], device="cpu").seconds(student).expected
    row = dict(zip(COLUMNS, ("digits", "vit-teacher", "re", 1, "ok", guess / 10), strict=True))
    corrected = Estimator(pd.DataFrame([row]), [task], device="cpu")
    assert corrected.seconds(teacher).expected == pytest.approx(guess / 10)
    assert corrected.seconds(student).expected == pytest.approx(uncorrected / 10)
    assert corrected.basis([student]) == "arithmetic"
