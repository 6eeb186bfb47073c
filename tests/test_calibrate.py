"""A few timed steps tell how long trials take."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import pandas as pd
import pytest

from rekd.running.calibrate import calibrate
from rekd.running.estimate import COLUMNS, ENDING, EVALUATION, QUICK, SLOW, Estimator, kind_of, settings_at_hand
from rekd.tasks.counting import num_train_samples
from rekd.tasks.task import load_task


@pytest.mark.parametrize(("file", "model"), [("image_task", "vit-tiny"), ("text_task", "bert-mini")])
def test_local_models_are_timed_in_the_shape_of_their_task(file, model, request):
    task = load_task(request.getfixturevalue(file))
    trial = task.trial("re", model, seed=0, batch_size=4)
    steps = calibrate([task], [trial])
    seconds = steps[kind_of(trial)]
    assert 0 < seconds.low <= seconds.expected <= seconds.high
    assert list(steps) == [kind_of(trial)]  # the models that were asked for, not all of the task's


def test_what_was_timed_takes_the_place_of_arithmetic_and_scales_with_epochs_and_objective():
    task = load_task("digits")
    trial = task.trial("re", "vit-student", seed=0, epochs=10)
    nothing = pd.DataFrame(columns=list(COLUMNS))
    estimator = Estimator(nothing, [task], device="cpu", steps=calibrate([task], [trial]))
    assert estimator.basis([trial]) == "calibration"
    assert estimator.basis([trial, task.trial("re", "vit-teacher", seed=0)]) == "arithmetic"
    step = estimator.steps[kind_of(trial)]
    # 1,078 samples, 32 at a time, and dev
    assert estimator.seconds(trial).expected == pytest.approx(step.expected * 10 * 34 * EVALUATION)
    classifier = task.trial("cls", "vit-student", seed=0, epochs=10)
    assert estimator.seconds(classifier).expected == pytest.approx(estimator.seconds(trial).expected / 2)


def test_a_measured_run_corrects_the_arithmetic_of_other_models():
    """Where one model took a tenth of what arithmetic says, the others are taken to do the same."""
    task = load_task("digits")
    teacher = task.trial("re", "vit-teacher", seed=0, epochs=1)
    guess = Estimator(pd.DataFrame(columns=list(COLUMNS)), [task], device="cpu").seconds(teacher).expected
    student = task.trial("re", "vit-student", seed=0, epochs=1)
    uncorrected = Estimator(pd.DataFrame(columns=list(COLUMNS)), [task], device="cpu").seconds(student).expected
    row = dict(zip(COLUMNS, (*kind_of(teacher), "re", 1, "ok", guess / 10, "cpu", 1000), strict=True))
    corrected = Estimator(pd.DataFrame([row]), [task], device="cpu")
    assert corrected.seconds(teacher).expected == pytest.approx(guess / 10)
    assert corrected.seconds(student).expected == pytest.approx(uncorrected / 10)
    assert corrected.basis([student]) == "arithmetic"


def test_the_range_of_what_was_measured_leaves_room_for_other_trials_and_for_a_trials_end():
    """Of one run nobody knows how far others are from it; and its seconds of training are not all that a trial takes."""
    task = load_task("digits")
    trial = task.trial("re", "vit-student", seed=0, epochs=10)
    row = measured_row(replace(trial, epochs=1), 2.0)
    said = Estimator(pd.DataFrame([row]), [task], device="cpu").seconds(trial)
    assert said.expected == pytest.approx(20)
    assert said.low == pytest.approx(20 * QUICK)
    assert said.high == pytest.approx((20 + 2) * SLOW + ENDING)


def measured_row(trial, seconds, device="cpu") -> dict:
    return dict(zip(COLUMNS, (*kind_of(trial), trial.objective, 1, "ok", seconds, device, 1000), strict=True))


def test_the_same_data_and_model_under_another_name_take_as_long(image_task):
    task = load_task(image_task)
    renamed = replace(task, name="mine")
    row = measured_row(task.trial("re", "vit-tiny", seed=0, epochs=1), 7.0)
    estimator = Estimator(pd.DataFrame([row]), [renamed], device="cpu")
    assert estimator.seconds(renamed.trial("re", "vit-tiny", seed=0, epochs=1)).expected == pytest.approx(7)


def test_what_a_gpu_took_says_nothing_of_a_cpu():
    trial = load_task("digits").trial("re", "vit-teacher", seed=0, epochs=1)
    rows = pd.DataFrame([measured_row(trial, 1.0, "NVIDIA L40S"), measured_row(trial, 100.0, "cpu")])
    for device, seconds in (("cuda", 1), ("cpu", 100)):
        estimator = Estimator(rows, [load_task("digits")], device=device)
        assert estimator.seconds(trial).expected == pytest.approx(seconds)


def test_the_papers_dataset_under_another_name_has_the_papers_size(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('extends = "cifar10"\n')
    assert num_train_samples(replace(load_task("cifar10"), name="mine")) == 40_000
    assert num_train_samples(load_task("digits")) == 1_078


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "jsonl", "json", "saved"])
def test_local_samples_are_counted_not_guessed(text_task, suffix, tmp_path):
    task = load_task(text_task)
    rows = pd.DataFrame({"text": [f"text\n{number}" for number in range(50)], "label": [0, 1] * 25})
    if suffix == "saved":
        datasets.DatasetDict({"train": datasets.Dataset.from_pandas(rows)}).save_to_disk(tmp_path)
    else:
        write = {
            "parquet": rows.to_parquet,
            "csv": lambda path: rows.to_csv(path, index=False),
            "tsv": lambda path: rows.to_csv(path, index=False, sep="\t"),
            "jsonl": lambda path: rows.to_json(path, orient="records", lines=True),
            "json": lambda path: rows.to_json(path, orient="records"),
        }[suffix]
        write(tmp_path / f"train.{suffix}")
    here = replace(task, dataset=str(tmp_path), test_fraction=0.5, dev_fraction=0.2)
    assert num_train_samples(here) == 20


def test_images_in_folders_are_counted(image_task, tmp_path):
    for number in range(20):
        file = tmp_path / "train" / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    task = replace(load_task(image_task), dataset=str(tmp_path), test_fraction=0.5)
    assert num_train_samples(task) == round(20 * 0.5 * (1 - task.dev_fraction))


def test_the_shape_of_a_local_model_is_read_from_its_folder(image_task):
    task = load_task(image_task)
    model = task.models["vit-tiny"]
    config = json.loads((Path(model.source) / "config.json").read_text())
    assert settings_at_hand(model)["hidden_size"] == config["hidden_size"]
    wide = {**config, "hidden_size": 64 * config["hidden_size"], "num_hidden_layers": 12}
    larger = replace(task, models={**task.models, "vit-tiny": replace(model, source=None, config=wide)})
    nothing = pd.DataFrame(columns=list(COLUMNS))
    small, large = (
        Estimator(nothing, [each], device="cpu").seconds(each.trial("re", "vit-tiny", seed=0)).expected
        for each in (task, larger)
    )
    assert large > 5 * small


def test_the_time_of_a_trial_that_ran_on_both_is_of_neither_device():
    task = load_task("digits")
    trial = task.trial("re", "vit-student", seed=1)
    row = {
        "task_digest": trial.task_digest,
        "model_digest": trial.model_digest,
        "objective": "re",
        "num_epochs": trial.epochs,
        "status": "ok",
        "train_seconds": 1e6,
    }
    for devices, basis in {
        "cpu": ("ledger", "arithmetic"),
        "NVIDIA L40S; NVIDIA A100": ("arithmetic", "ledger"),
        "cpu; NVIDIA L40S": ("arithmetic", "arithmetic"),
    }.items():
        rows = pd.DataFrame([row | {"device": devices}])
        found = [Estimator(rows, [task], device=device).basis([trial]) for device in ("cpu", "cuda")]
        assert tuple(found) == basis, devices
