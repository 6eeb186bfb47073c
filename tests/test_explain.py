"""Prediction and rationale of new inputs, and the command line of one trial."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from typer.testing import CliRunner

from rekd.cli import app
from rekd.explain import Explainer
from rekd.run import run_trial
from rekd.store import Store
from rekd.supplies import Supplies
from rekd.tasks import load_task

TEXT = "A truly  wonderful film, was it"


def trained(task_file: Path, store: Store, model: str) -> Path:
    task = load_task(task_file)
    trial = task.trial("re", model, seed=1, epochs=1)
    for _ in run_trial(trial, task=task, store=store, supplies=Supplies(store, device=tiny.CPU)):
        pass
    return Path(store.model_folder(trial.digest))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("explain"))


@pytest.fixture(scope="module")
def text_model(text_task, store):
    return trained(text_task, store, "bert-mini")


@pytest.fixture(scope="module")
def image_model(image_task, store):
    return trained(image_task, store, "vit-tiny")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "large.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 4), dtype=np.uint8)).save(path)
    return str(path)


def explained(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, ["explain", *arguments])
    assert result.exit_code == status, result.output
    return result.output


def test_words_are_whole_and_stand_where_they_say(text_model):
    (explanation,) = Explainer(text_model)([TEXT])
    assert explanation.words is not None
    assert [word.text for word in explanation.words] == ["A", "truly", "wonderful", "film", ",", "was", "it"]
    assert all(TEXT[word.start : word.end] == word.text for word in explanation.words)
    assert explanation.label in ("neg", "pos")
    assert 0.5 <= explanation.probability <= 1


def test_the_rationale_is_the_models_own_mask(text_model):
    explainer = Explainer(text_model)
    (explanation,) = explainer([TEXT])
    selected = sum(word.selected for word in explanation.words or ())
    length = explainer.shapes["input_ids"][0]
    # Special tokens and padding are positions too, and may be selected, but they are no words.
    assert selected <= round(explanation.rationale_ratio * length)


def test_an_image_of_any_size_and_mode_is_explained_by_patches(image_model, picture):
    (explanation,) = Explainer(image_model)([picture])
    assert explanation.patches is not None
    assert explanation.patches.shape == (4, 4)
    assert explanation.patches.mean() == pytest.approx(explanation.rationale_ratio)


def test_a_text_is_printed_with_its_rationale(text_model):
    output = explained(str(text_model), TEXT)
    assert "of the features" in output
    assert "Rationale:" in output


def test_json_has_one_object_an_input(text_model, image_model, picture):
    lines = explained("--json", str(text_model), TEXT, "good").splitlines()
    assert [json.loads(line)["source"] for line in lines] == [TEXT, "good"]
    assert "patches" not in json.loads(lines[0])
    assert np.array(json.loads(explained("--json", str(image_model), picture))["patches"]).shape == (4, 4)


@pytest.mark.parametrize(
    ("source", "message"),
    [("", "an empty text"), ("   ", "an empty text")],
)
def test_an_empty_text_is_refused(text_model, source, message):
    with pytest.raises(ValueError, match=message):
        Explainer(text_model)([source])


def test_what_is_no_image_is_refused(image_model, tmp_path):
    (tmp_path / "notes.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"notes\.png cannot be read as an image"):
        Explainer(image_model)([str(tmp_path / "notes.png")])


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        Explainer(tmp_path)


def test_train_without_ray_prints_a_line_an_epoch_and_writes_the_ledger(tmp_path):
    arguments = ["train", "--task", "digits", "--model", "vit-student", "--epochs", "2", "--store", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "epoch   2/2" in result.output
    assert "test accuracy" in result.output
    again = CliRunner().invoke(app, arguments)
    assert "epoch" not in again.output.replace("Best epoch", "")  # it is in the ledger: nothing is trained


def test_train_refuses_what_it_does_not_know(tmp_path):
    result = CliRunner().invoke(app, ["train", "--task", "digits", "--model", "vit", "--store", str(tmp_path / "s")])
    assert result.exit_code == 2
    assert not (tmp_path / "s").exists()
