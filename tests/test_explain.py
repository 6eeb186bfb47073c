"""Prediction and rationale of new inputs, and the command line of one trial."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stand_ins
import tiny
import torch
from PIL import Image
from typer.testing import CliRunner

from rekd.command_line import run_app
from rekd.commands import app
from rekd.method.explain import Explainer
from rekd.method.models import mask_of
from rekd.method.streams import evaluation_noise
from rekd.running.one_trial import run_trial
from rekd.running.supplies import Supplies
from rekd.store.files import Store
from rekd.tasks.task import load_task

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


@pytest.mark.parametrize("mask", ["argmax", "sampled", "sampled_everywhere"])
def test_an_explanation_has_the_mask_by_which_its_trial_shows_rationales(mask, image_model, picture, tmp_path):
    """A sampled one is the same each time and whatever is asked beside it."""
    folder = Path(shutil.copytree(image_model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["details"]["trial"] |= {"evaluation_mask": mask, "seed": 5}
    del config["sha256"]
    (folder / "config.json").write_text(json.dumps(config))

    (argmax,) = Explainer(image_model)([picture])
    explainer = Explainer(folder)
    first, second = explainer([picture, picture])
    assert np.array_equal(first.patches, second.patches)
    assert np.array_equal(first.patches, argmax.patches) == (mask != "sampled_everywhere")
    with torch.no_grad():
        pixels = np.asarray(Image.open(picture).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
        logits = explainer.model.generator({"image": torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]})
    noise = evaluation_noise(5, tiny.CPU) if mask == "sampled_everywhere" else None
    assert first.patches.flatten().tolist() == mask_of(logits, sampled_by=noise)[0].bool().tolist()


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


def test_an_image_is_read_as_those_of_the_training_were(image_model, tmp_path):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "plain.png")
    explainer = Explainer(image_model)
    turned, plain = explainer([str(tmp_path / "turned.png"), str(tmp_path / "plain.png")])
    assert turned.probability == plain.probability
    assert np.array_equal(turned.patches, plain.patches)
    assert turned.probability != explainer._predict(batch_of(image)).logits[0].softmax(-1).max().item()


def batch_of(image: Image.Image) -> dict[str, torch.Tensor]:
    return {"image": torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())[None]}


@pytest.mark.parametrize(("dtype", "name"), [(np.uint16, "deep.png"), (np.float32, "deep.tiff")])
def test_more_than_eight_bits_are_refused_as_in_training(image_model, tmp_path, dtype, name):
    Image.fromarray(np.full((32, 32), 200, dtype=dtype)).save(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} cannot be read as an image: .* more than 8 bits a pixel"):
        Explainer(image_model)([str(tmp_path / name)])


@pytest.mark.parametrize("names", [["[neg]", "[pos]"], ["[/pos]", "[/neg]"]])
def test_a_class_may_have_any_name(text_model, tmp_path, names):
    config = json.loads((text_model / "config.json").read_text())
    folder = spoilt(text_model, tmp_path / "model", details={**config["details"], "class_names": names})
    assert explained(str(folder), TEXT).startswith(("[neg]", "[pos]", "[/neg]", "[/pos]"))


def test_bytes_that_are_no_utf_8_are_refused_in_one_line(text_model, image_model, capsys):
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    for model, message in (
        (text_model, r"The input 'caf\udce9.png' is not UTF-8"),
        (image_model, r"caf\udce9.png cannot"),
    ):
        with pytest.raises(SystemExit) as ended:
            run_app(app, ["explain", str(model), name])
        captured = capsys.readouterr()
        assert ended.value.code == 2
        assert message in captured.err
        assert captured.err.count("\n") == 1


def test_where_reading_ended_is_said(text_model):
    assert "Read:" not in explained(str(text_model), TEXT)
    long = "good film " * 30
    assert f"Read: [0:109] of {len(long)} characters; the model takes no more." in explained(str(text_model), long)
    assert json.loads(explained("--json", str(text_model), long))["read"] == [0, 109]


def test_what_is_no_saved_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        Explainer(tmp_path)


def spoilt(model: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a trained model with another config.json; None removes a key."""
    shutil.copytree(model, folder)
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    config.pop("sha256", None)
    text = json.dumps({name: value for name, value in config.items() if value is not None})
    (folder / "config.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": None}, "config.json has no 'objective'. Give a folder that a finished trial wrote."),
        ({"details": None}, "config.json has no 'details'. Give a folder that a finished trial wrote."),
        ({"details": {}}, "config.json has no details.inputs.input_ids, the shape of an input."),
        ({"details": {"inputs": {"image": [1, 4, 4]}}}, "config.json has no details.inputs.input_ids"),
        ({"model_type": "bert"}, "config.json describes a 'bert' model, not a rationale model."),
    ],
)
def test_a_saved_model_that_is_none_is_one_line_and_status_2(text_model, tmp_path, capsys, changes, message):
    folder = spoilt(text_model, tmp_path / "model", **changes)
    with pytest.raises(SystemExit) as ended:
        run_app(app, ["explain", str(folder), TEXT])
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.err.startswith(f"Error: {folder}/{message}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_model_of_another_kind_says_what_it_wants(image_model, text_model, picture):
    with pytest.raises(ValueError, match=r"film, was it cannot be read as an image: .* Give a PNG or JPEG file"):
        Explainer(image_model)([TEXT])
    (explanation,) = Explainer(text_model)([picture])  # a path is a text as any other
    assert explanation.words is not None


def test_a_shared_model_that_brings_code_is_read_without_it_or_refused(text_model, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *text: pytest.fail(f"asked: {text}"))
    folder = spoilt(text_model, tmp_path / "model", auto_map={"AutoConfig": "code.Mine", "AutoTokenizer": "code.Mine"})
    (folder / "code.py").write_text("raise AssertionError")
    assert Explainer(folder)([TEXT]) == Explainer(text_model)([TEXT])
    file = folder / "tokenizer_config.json"
    settings = {
        **json.loads(file.read_text()),
        "tokenizer_class": "Mine",
        "auto_map": {"AutoTokenizer": [None, "code.M"]},
    }
    file.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"The tokenizer in .*model cannot be read: .* Give a folder that") as caught:
        Explainer(folder)
    assert "\n" not in str(caught.value)


def test_a_text_of_megabytes_is_truncated_and_quick(text_model):
    start = time.monotonic()
    (explanation,) = Explainer(text_model)(["good film " * 200_000])
    assert time.monotonic() - start < 30
    assert explanation.words is not None
    assert len(explanation.words) == 22


def test_train_without_ray_prints_a_line_an_epoch_and_writes_the_ledger(tmp_path):
    arguments = ["train", "--task", "digits", "--model", "vit-student", "--epochs", "2", "--store", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "epoch   2/2" in result.output
    assert "test accuracy" in result.output
    again = CliRunner().invoke(app, arguments)
    assert "epoch" not in again.output.replace("Best epoch", "")  # it is in the ledger: nothing is trained


TRAIN = ("train", "--task", "digits", "--model", "vit-student")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*TRAIN[:-1], "vit"), "digits: model is one of vit-teacher, vit-student, got 'vit'."),
        (
            (*TRAIN, "--epochs", "0"),
            "Invalid value for '--epochs': Input should be greater than or equal to 1, got '0'.",
        ),
        ((*TRAIN, "--objective", "ree"), "Invalid value for '--objective': 'ree' is not one of 'cls', 're', 'rekd'."),
        ((*TRAIN, "--sede", "1"), "No such option: --sede (Possible options: --encoder, --seed, --store). Try --help."),
        (TRAIN[:3], "Missing option '--model'. Try --help."),
        (("trian",), "No such command 'trian'."),
        ((*TRAIN, "--objective", "rekd", "--teacher", "0123"), "The store {} has no model of a trial 0123. Train it"),
        ((*TRAIN, "--p-target", "15"), "p_target is a fraction"),
    ],
)
def test_train_refuses_what_it_does_not_know_in_one_line(tmp_path, capsys, arguments, message):
    store = tmp_path / "s"
    with pytest.raises(SystemExit) as ended:
        run_app(app, [*arguments, "--store", str(store)] if len(arguments) > 1 else arguments)
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.err.startswith(f"Error: {message.format(store)}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not store.exists()


def test_train_says_what_is_not_to_pass_in_silence(text_task, tmp_path):
    arguments = ["--task", str(text_task), "--model", "bert-mini", "--epochs", "1", "--store", str(tmp_path)]
    output = CliRunner().invoke(app, ["train", *arguments]).output
    assert "1 of what" in output
    assert "is not read: split 'unsupervised'." in output


def test_train_looks_at_data_and_model_before_it_writes(image_task, tmp_path, capsys):
    for name, spoil, message in (
        ("data", lambda folder: shutil.rmtree(folder / "data/test"), "cannot be read as a folder of save_to_disk"),
        ("model", lambda folder: (folder / "vit-tiny/model.safetensors").write_bytes(b"no weights"), "The weights of "),
        (
            "kind",
            lambda folder: stand_ins.save_bert(folder / "vit-tiny"),
            "reads texts, got image. Choose an encoder of",
        ),
    ):
        folder = shutil.copytree(image_task.parent, tmp_path / name)
        spoil(folder)
        arguments = ["--task", str(folder / image_task.name), "--model", "vit-tiny", "--store", str(tmp_path / "store")]
        with pytest.raises(SystemExit) as ended:
            run_app(app, ["train", *arguments])
        captured = capsys.readouterr()
        assert ended.value.code == 2
        assert captured.err.startswith("Error: ")
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
        assert not (tmp_path / "store").exists()


def test_help_is_printed_and_asked_for_by_no_arguments_too():
    asked = [
        subprocess.run([sys.executable, "-m", "rekd", *more], capture_output=True, text=True) for more in ([], ["-h"])
    ]
    assert [ended.returncode for ended in asked] == [0, 2]
    assert asked[0].stdout.startswith("Usage: python -m rekd [OPTIONS] COMMAND")
    assert asked[1].stderr == "Error: No such option: -h. Try --help.\n"
