"""Tasks: what they are called, and the trials that they make."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import stand_ins

from rekd.tasks.task import load_task, task_names


@pytest.mark.parametrize(
    ("task", "model", "p_target", "rekd_p_target", "lambda_select", "weight_decay", "dropout"),
    [
        ("cifar10", "vit-base", 0.15, 0.15, 5e-3, 1e-3, 0.1),
        ("cifar10", "vit-small", 0.15, 0.15, 1e-2, 1e-3, 0.1),
        ("cifar10", "vit-tiny", 0.15, 0.15, 5e-2, 1e-3, 0.1),
        ("cifar100", "vit-tiny", 0.15, 0.15, 5e-2, 1e-3, 0.1),
        ("imdb", "bert-base", 0.10, 0.10, 5e-5, 0.0, 0.5),
        ("imdb", "bert-small", 0.095, 0.10, 1e-4, 0.0, 0.5),
        ("imdb", "bert-mini", 0.10, 0.10, 1e-4, 0.0, 0.5),
    ],
)
def test_the_papers_settings(task, model, p_target, rekd_p_target, lambda_select, weight_decay, dropout):
    task = load_task(task)
    re = task.trial("re", model, seed=2026)
    rekd = task.trial("rekd", model, seed=2026, teacher_digest="t")
    cls = task.trial("cls", model, seed=2026)
    assert (re.p_target, rekd.p_target, cls.p_target) == (p_target, rekd_p_target, None)
    assert re.lambda_select == rekd.lambda_select == lambda_select
    assert (re.epochs, rekd.epochs, cls.epochs) == (35, 35, 20)
    assert (rekd.alpha, rekd.lambda_rationale, re.alpha) == (0.3, 0.5, None)
    assert (re.temperature_initial, re.temperature_final, re.temperature_every) == (5.0, 0.1, 100)
    for trial in (re, rekd, cls):
        assert (trial.learning_rate, trial.batch_size) == (1e-5, 32)
        assert (trial.weight_decay, trial.dropout) == (weight_decay, dropout)


def test_the_papers_sources():
    sources = {model.source for name in ("cifar10", "cifar100", "imdb") for model in load_task(name).models.values()}
    assert sources == {
        "bert-base-uncased",
        "prajjwal1/bert-small",
        "prajjwal1/bert-mini",
        "google/vit-base-patch16-224",
        "WinKawaks/vit-small-patch16-224",
        "WinKawaks/vit-tiny-patch16-224",
    }
    cifar100, imdb = load_task("cifar100"), load_task("imdb")
    assert (cifar100.dataset, cifar100.label_column, cifar100.num_classes) == ("uoft-cs/cifar100", "coarse_label", 20)
    assert (imdb.dataset, imdb.max_length, imdb.tokenizer_source) == (
        "stanfordnlp/imdb",
        256,
        ("bert-base-uncased", None),
    )


def test_every_embedded_task_makes_trials_and_other_names_are_listed():
    assert task_names() == [
        "cifar10",
        "cifar100",
        "digits",
        "hidden-digits",
        "hidden-digits-shortcut",
        "hidden-digits-students",
        "imdb",
        "planted-reviews",
    ]
    for name in task_names():
        task = load_task(name)
        assert task.name == name
        for model in (task.teacher, *task.students):
            assert task.trial("re", model, seed=1).task_digest == task.digest
    with pytest.raises(
        ValueError,
        match=r"no task 'mnist'.*cifar10, cifar100, digits, hidden-digits, .*, imdb, planted-reviews.*\.toml",
    ):
        load_task("mnist")


def test_planning_imports_neither_models_nor_datasets():
    code = "import sys; from rekd.tasks.task import load_task; load_task('imdb').trial('re', 'bert-base', seed=1); "
    code += "print(*{'torch', 'transformers', 'datasets', 'sklearn', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_an_override_wins_and_an_unknown_one_is_refused():
    task = load_task("digits")
    trial = task.trial("re", "vit-student", seed=3, p_target=0.3, epochs=2)
    assert (trial.seed, trial.p_target, trial.epochs) == (3, 0.3, 2)
    assert trial == replace(task.trial("re", "vit-student", seed=3), p_target=0.3, epochs=2)
    with pytest.raises(ValueError, match=r"override is one of epochs.*got 'lambda_sel'"):
        task.trial("re", "vit-student", seed=3, lambda_sel=0.3)
    with pytest.raises(ValueError, match=r"model is one of vit-teacher, vit-student, got 'vit-tiny'"):
        task.trial("re", "vit-tiny", seed=3)
    with pytest.raises(ValueError, match=r"fidelity is one of paper, authors, got 'exact'"):
        task.trial("re", "vit-student", seed=3, fidelity="exact")
    with pytest.raises(ValueError, match="alpha is not used by objective 're'"):
        task.trial("re", "vit-student", seed=3, alpha=0.3)
    with pytest.raises(ValueError, match="teacher_digest is needed by objective 'rekd'"):
        task.trial("rekd", "vit-student", seed=3)


def test_a_preset_settles_the_open_points_and_an_override_unsettles_one():
    task = load_task("digits")
    assert task.trial("re", "vit-student", seed=1).fidelity == "paper"
    assert task.trial("re", "vit-student", seed=1, fidelity="authors").fidelity == "authors"
    assert task.trial("re", "vit-student", seed=1, fidelity="authors", split="fixed").fidelity == "mixed"


def test_the_digest_follows_content_and_not_the_place(image_task, tmp_path):
    original = load_task(image_task)
    moved = Path(shutil.copytree(image_task.parent, tmp_path / "elsewhere"))
    copy = load_task(moved / image_task.name)
    assert copy.digest == original.digest
    assert [model.digest for model in copy.models.values()] == [model.digest for model in original.models.values()]
    assert len({model.digest for model in original.models.values()}) == 3

    stand_ins.save_cifar(moved / "data", num_train=190)
    stand_ins.save_vit(moved / "vit-tiny", hidden_size=8, seed=77)
    changed = load_task(moved / image_task.name)
    assert changed.digest != original.digest
    assert changed.models["vit-tiny"].digest != original.models["vit-tiny"].digest
    assert changed.models["vit-base"].digest == original.models["vit-base"].digest


def test_the_digest_is_of_data_and_not_of_training(tmp_path):
    imdb = load_task("imdb")
    assert replace(imdb, name="x", defaults={}, students=()).digest == imdb.digest
    for change in (
        {"dataset": "other/imdb"},
        {"revision": "abc"},
        {"input_column": "review"},
        {"train_split": "all"},
        {"dev_fraction": 0.1},
        {"max_length": 128},
        {"tokenizer": "roberta-base"},
    ):
        assert replace(imdb, **change).digest != imdb.digest
    model = imdb.models["bert-base"]
    assert replace(model, defaults={}, name="x").digest == model.digest
    assert replace(model, revision="abc").digest != model.digest
    assert replace(model, source=None, config={"model_type": "bert"}).digest != model.digest


def test_images_that_are_known_to_be_larger_than_a_models_make_another_trial(image_task):
    task = load_task(image_task)  # its models read 32 x 32 pixels
    for size in (None, 16, 32):
        trial = replace(task, image_size=size).trial("re", "vit-tiny", seed=1)
        assert trial.downscaling is None
        assert trial.digest == replace(trial, downscaling=None).digest
    larger = replace(task, image_size=64)
    assert larger.trial("re", "vit-tiny", seed=1).downscaling == "antialiased"
    config = {"model_type": "vit", "image_size": [64, 48]}
    models = {"vit-tiny": replace(task.models["vit-tiny"], source=None, config=config)}
    assert replace(larger, models=models).trial("re", "vit-tiny", seed=1).downscaling == "antialiased"
    assert replace(larger, models=models, image_size=48).trial("re", "vit-tiny", seed=1).downscaling is None
    assert load_task("cifar10").trial("re", "vit-tiny", seed=1).downscaling is None  # of the hub
    assert task.trial("re", "vit-tiny", seed=1, downscaling="antialiased").downscaling == "antialiased"
    with pytest.raises(ValueError, match="downscaling is one of antialiased, got 'plain'"):
        task.trial("re", "vit-tiny", seed=1, downscaling="plain")
