"""A table of wrong inputs. Each gives one line that says what is wrong and what to do, status 2, and leaves nothing behind."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import stand_ins

from sweeps.alpha_sweep import alpha_sweep
from sweeps.lambda_sweep import lambda_sweep
from sweeps.options import run_command
from sweeps.p_target_sweep import p_target_sweep
from sweeps.reproduce import reproduce
from sweeps.search import search

ROOT = Path(__file__).parents[2]


@dataclass
class Case:
    """What is typed, after `prepare` has spoiled a copy of a task's folder."""

    message: str
    """Parts of the one line, with " ... " between: what is wrong, the value that was got, and what to do."""
    arguments: tuple[str, ...] = ()
    kind: str = "image"
    prepare: Callable[[Path], Any] | None = None
    sweep: Callable[..., int] = alpha_sweep


def edit(old: str, new: str) -> Callable[[Path], None]:
    """Changes the text of the task file."""

    def change(folder: Path) -> None:
        (file,) = folder.glob("*.toml")
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return change


def add(lines: str) -> Callable[[Path], None]:
    """Puts lines in front of the task file's tables."""
    return edit("[defaults]", f"{lines}\n[defaults]")


def table(splits: dict[str, pd.DataFrame], columns: str = "") -> Callable[[Path], None]:
    """The dataset is these tables, in Parquet."""

    def change(folder: Path) -> None:
        shutil.rmtree(folder / "data")
        (folder / "data").mkdir()
        for name, frame in splits.items():
            frame.to_parquet(folder / "data" / f"{name}.parquet")
        add(columns)(folder)

    return change


def images(pixels: Any, labels: Any = None) -> dict[str, pd.DataFrame]:
    """Forty images of 8 x 8 in both splits, as nested lists; the first one is `pixels`."""
    rows = [np.full((8, 8), number % 256).tolist() for number in range(40)]
    rows[0] = pixels
    labels = [number % 2 for number in range(40)] if labels is None else labels
    frame = pd.DataFrame({"image": rows, "label": labels})
    return {"train": frame, "test": frame}


IMAGES = 'input_column = "image"\nlabel_column = "label"\nnum_classes = 2\nimage_mode = "L"'
GOOD = np.zeros((8, 8), int).tolist()


def images_at(path: str) -> dict[str, pd.DataFrame]:
    """Forty images that are named by a path."""
    rows = [{"bytes": None, "path": path}] * 40
    frame = pd.DataFrame({"image": rows, "label": [number % 2 for number in range(40)]})
    return {"train": frame, "test": frame}


def texts(values: list[str], labels: list[int] | None = None) -> dict[str, pd.DataFrame]:
    frame = pd.DataFrame({"text": values, "label": labels or [number % 2 for number in range(len(values))]})
    return {"train": frame, "test": frame}


def spoil_json(name: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            for path in folder.glob(name):
                path.unlink()

    return change


def cut(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / name
        file.write_bytes(file.read_bytes()[:1000])

    return change


CASES = {
    # Grids, seeds and options.
    "a grid that is no grid": Case(
        "'--alphas': a grid is numbers with commas between, such as 0,0.3,0.5, got '0,half'.", ("--alphas", "0,half")
    ),
    "a value twice": Case("'0,0.3,0.3' names a value twice. Give it once.", ("--alphas", "0,0.3,0.3")),
    "alpha above 1": Case("alpha is a share in [0, 1], got 1.5", ("--alphas", "1.5")),
    "alpha that is not a number": Case("alpha is a finite number, got nan", ("--alphas", "nan")),
    "a negative lambda_select": Case("lambda_select is 0 or more, got -1", ("--lambdas", "-1"), sweep=lambda_sweep),
    "p_target in per cent": Case(
        "p_target is a fraction ... got 15 ... For 15 % write 0.15", ("--p-targets", "15"), sweep=p_target_sweep
    ),
    "seeds backwards": Case("seeds from 2030 to 2026 are none. A range runs upwards", ("--seeds", "2030-2026")),
    "a seed twice": Case("seeds '1,1' name one twice. A seed runs once.", ("--seeds", "1,1")),
    "seeds that are no numbers": Case(
        "seeds are whole numbers such as 2026-2035 or 2026,2027, got 'all'.", ("--seeds", "all")
    ),
    "a negative seed": Case("seeds are whole numbers such as 2026-2035 or 2026,2027, got '-3'.", ("--seeds", "-3")),
    "an unknown model": Case(
        "--models names 'vit-huge', which cifar10 does not have. It has vit-base", ("--models", "vit-huge")
    ),
    "no epochs": Case(
        "'--epochs': Input should be greater than or equal to 1, got '0'. Try --help.", ("--epochs", "0")
    ),
    "epochs that are no number": Case(
        "'--epochs': ... a valid integer, ... got 'many'. Try --help.", ("--epochs", "many")
    ),
    "a teacher that is not trained": Case(
        "--teacher-seed 1 is none of the teacher's seeds on cifar10: 2026", ("--teacher-seed", "1")
    ),
    "a budget without its unit": Case(
        "a budget is hours or minutes of a GPU, such as 50h or 90min, got '50'.", ("--budget", "50")
    ),
    "a time that is none": Case("it is a time such as 07:00 or 2026-11-26T07:00, got 'soon'.", ("--until", "soon")),
    "a time that has passed": Case(
        "2020-01-01T07:00 has passed. Give a time that comes.", ("--until", "2020-01-01T07:00")
    ),
    "an unknown preset": Case(
        "'--fidelity': 'exact' is not one of 'paper', 'authors'. Try --help.", ("--fidelity", "exact")
    ),
    "an unknown logger": Case(
        "'--log': 'excel' is not one of 'tensorboard', 'mlflow', 'wandb'. Try --help.", ("--log", "excel")
    ),
    "an unknown option": Case("No such option: --learning-speed ... Try --help.", ("--learning-speed", "3")),
    "a switch with a value": Case("Option '--dry-run' does not take a value. Try --help.", ("--dry-run=3",)),
    "two tasks of one name": Case(
        "told apart by name, got digits, digits. Give each its own", ("--task", "digits", "--task", "digits")
    ),
    "GPUs that are not there": Case(
        "--gpus-per-trial asks for 3 GPUs, ... Ask for less, or for 0.", ("--gpus-per-trial", "3")
    ),
    "GPUs below nothing": Case("GPUs a trial are a number from 0, or auto, got '-1'.", ("--gpus-per-trial", "-1")),
    "auto without GPUs": Case(
        "--gpus-per-trial asks for auto GPUs, ... Ask for less, or for 0.", ("--gpus-per-trial", "auto")
    ),
    "a stage that is none": Case(
        "'--only': 'beta' is not one of 'cls', 'lambda', 're', 'alpha'", ("--only", "beta"), sweep=reproduce
    ),
    "a choice for no model": Case(
        "--lambda-select names the model 'vit-huge'. Models: vit-base",
        ("--lambda-select", "vit-huge=0.1"),
        sweep=reproduce,
    ),
    "a range that is none": Case(
        "--over names 'speed', which has no range. Ranges: lambda_select, alpha", ("--over", "speed"), sweep=search
    ),
    "an objective that is none": Case("--objective is re or rekd, got 'cls'.", ("--objective", "cls"), sweep=search),
    # Tasks.
    "a task that is not there": Case("There is no task 'digit'. The embedded ones are cifar10", ("--task", "digit")),
    "a file that is not there": Case(
        "no-such-file.toml cannot be read: ... No such file", ("--task", "no-such-file.toml")
    ),
    "a file that is no TOML": Case("cifar10.toml is not valid TOML: ... line 1", prepare=edit("extends =", "extends")),
    "a key that does not exist": Case(
        "num_clases is not a key of a task. Did you mean num_classes?", prepare=add("num_clases = 3")
    ),
    "a number as text": Case("num_classes is a whole number, got 'ten'.", prepare=add('num_classes = "ten"')),
    "a default that is no field": Case(
        "defaults.lambda_sel is not a default of these trials. Did you mean lambda_select?",
        prepare=edit("epochs = 2", "lambda_sel = 1"),
    ),
    "a default out of range": Case(
        "learning_rate is above 0, got 0", prepare=edit("learning_rate = 1e-3", "learning_rate = 0.0")
    ),
    "a path out of its folder": Case(
        "dataset = '../../../etc' leaves the folder of the task file. Move what it names there",
        prepare=edit('dataset = "data"', 'dataset = "../../../etc"'),
    ),
    "a teacher that is no model": Case(
        "teacher is one of vit-base, ... got 'vit-huge'.", prepare=add('teacher = "vit-huge"')
    ),
    # Datasets.
    "no dataset": Case(
        "Looked for the dataset 'no-data' on the Hugging Face Hub ... To use a local folder, write",
        prepare=edit('dataset = "data"', 'dataset = "no-data"'),
    ),
    "a column that is not there": Case(
        "has no column 'pixels', but ... Set input_column", prepare=add('input_column = "pixels"')
    ),
    "a split that is not there": Case(
        "has no split 'validation', but ... Set train_split, dev_split", prepare=add('dev_split = "validation"')
    ),
    "too many classes": Case(
        "num_classes is 11, but ... has 10 classes ... Correct num_classes", prepare=add("num_classes = 11")
    ),
    "one class": Case(
        "num_classes is 2 or more, got 1.",
        prepare=table(images(GOOD), IMAGES.replace("num_classes = 2", "num_classes = 1")),
    ),
    "a class that no sample has": Case(
        "has samples of 1 of 2 classes, none of class 1. Add some, or correct num_classes.",
        prepare=table(images(GOOD, [0] * 40), IMAGES),
    ),
    "a label out of range": Case(
        "row 0: label 7 is outside 0 to 1. Count classes from 0", prepare=table(images(GOOD, [7, 1, 0, 1] * 10), IMAGES)
    ),
    "a label that is missing": Case(
        "row 0: label None of column 'label' is neither a whole number nor a text. Correct it",
        prepare=table(images(GOOD, [None, *[1, 0, 1] * 13]), IMAGES),
    ),
    "a pixel that is no number": Case(
        "row 0: column 'image' holds [[None, None, ... which is no image. Set input_column to the images' column.",
        prepare=table(images(np.full((8, 8), np.nan).tolist()), IMAGES),
    ),
    "a pixel out of range": Case(
        "row 0: column 'image' has pixels of 300 to 300. Give 8-bit pixels: 0..255.",
        prepare=table(images(np.full((8, 8), 300).tolist()), IMAGES),
    ),
    "images of two sizes": Case(
        "row 1: the image has 8 x 8 pixels, the one of row 0 has 9 x 9. Set image_size",
        prepare=table(images(np.zeros((9, 9), int).tolist()), IMAGES),
    ),
    "an image outside of the dataset": Case(
        "row 0: the image is the path '/etc/x.png', not its bytes. Write the dataset with save_to_disk",
        prepare=table(images_at("/etc/x.png"), IMAGES),
    ),
    "images of another mode": Case(
        "reads 3 channels, the task's images have 1. Set image_mode", prepare=add('image_mode = "L"')
    ),
    "empty texts": Case(
        "row 3: column 'text' holds an empty text, from which nothing can be selected. Remove the row",
        kind="text",
        prepare=table(texts(["a", "b", "c", "", *"defg"] * 5), ""),
    ),
    "no samples": Case("split 'train' of ... has no samples. Fill it", kind="text", prepare=table(texts([]), "")),
    "a text of no length": Case(
        "max_length is 1 or more, got 0.", kind="text", prepare=edit("max_length = 24", "max_length = 0")
    ),
    "texts longer than the model": Case(
        "max_length is 5000, but the model bert-base has 64 positions. Give a max_length that it can take.",
        kind="text",
        prepare=edit("max_length = 24", "max_length = 5000"),
    ),
    # Models.
    "a model of no known family": Case(
        "is of the family 'swin', ... Families: albert, bert, convnext, deit, dinov2, distilbert, electra, modernbert, resnet, "
        "roberta, vit.",
        prepare=spoil_json("vit-tiny/config.json", model_type="swin"),
    ),
    "a finished trial for a pretrained model": Case(
        "vit-tiny is of a trial of ... whose predictor knows rationales alone. Give that of a cls trial",
        prepare=spoil_json("vit-tiny/config.json", model_type="rekd"),
    ),
    "a model of a text's width": Case(
        "vit-tiny could not be read: ... hidden_size ... Give one of the families",
        prepare=spoil_json("vit-tiny/config.json", hidden_size="wide"),
    ),
    "a model that brings code": Case(
        "vit-tiny could not be read: it needs code of its own, which is not run here. Give one of the families",
        prepare=spoil_json("vit-tiny/config.json", model_type="mine", auto_map={"AutoConfig": "code.Mine"}),
    ),
    "a model without weights": Case(
        "models.vit-tiny.source = ... is not a folder with config.json and *.safetensors or pytorch_model*.bin. Write one with",
        prepare=remove("vit-tiny/*.safetensors"),
    ),
    "a model with half its weights": Case(
        "vit-tiny could not be loaded: ... Fetch or save them anew.", prepare=cut("vit-tiny/model.safetensors")
    ),
    "a model of another size": Case(
        "vit-tiny do not fit its own config: 0 missing, ... of another shape, ... such as embeddings.cls_token. Is its",
        prepare=spoil_json("vit-tiny/config.json", hidden_size=24),
    ),
    "a tokenizer of another model": Case(
        "tokens, but the model bert-mini knows 3. Use the tokenizer that the model was trained with.",
        kind="text",
        prepare=spoil_json("bert-mini/config.json", vocab_size=3),
    ),
    "no tokenizer": Case(
        "the tokenizer ... bert-base cannot be read: there is none of tokenizer.json, ... Write the folder with",
        kind="text",
        prepare=remove("bert-base/*token*", "bert-base/vocab*"),
    ),
    "an image model for texts": Case(
        "reads images, got input_ids, valid. Choose an encoder of texts.",
        kind="text",
        prepare=lambda folder: edit('source = "bert-mini"', 'config = {model_type = "vit"}')(folder),
    ),
    "a text model for images": Case(
        "reads texts, got image. Choose an encoder of images.",
        prepare=lambda folder: stand_ins.save_bert(folder / "vit-tiny"),
    ),
    # Places.
    "a store that nothing opens": Case("The store gopher://x/y cannot be opened: ", ("--store", "gopher://x/y")),
    "a store below a file": Case(
        "file/store cannot be written: ... Give another one by --store.", ("--store", "{folder}/file/store")
    ),
    "a store in a folder that is not ours": Case(
        "locked/store cannot be written: ... Give another one by --store.", ("--store", "{folder}/locked/store")
    ),
}


@pytest.fixture(scope="module")
def ray_here():
    """One Ray for all: a sweep that finds it started uses it."""
    from rekd.cluster.connect import connect, disconnect

    connect(local=True, num_cpus=2)
    yield
    disconnect()


@pytest.fixture
def locked(tmp_path):
    """A folder that nobody can write into, not even root."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.geteuid() != 0:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", folder], check=True)
    yield
    subprocess.run(["umount", folder], check=True)


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, request, tmp_path, monkeypatch, capsys):
    case = CASES[name]
    task = Path(request.getfixturevalue(f"{case.kind}_task"))
    folder = shutil.copytree(task.parent, tmp_path / "task")
    if case.prepare is not None:
        case.prepare(folder)
    (tmp_path / "file").write_text("a file")
    if "locked" in case.message:
        request.getfixturevalue("locked")
    monkeypatch.setattr("rekd.cluster.connect.disconnect", lambda: None)
    arguments = [part.format(folder=tmp_path) for part in case.arguments]
    if "--task" not in arguments:
        arguments += ["--task", str(folder / task.name)]
    if "--store" not in arguments:
        arguments += ["--store", str(tmp_path / "store")]
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments, "--yes", "--local"])
    with pytest.raises(SystemExit) as ended:
        run_command(case.sweep)
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.err.startswith("Error: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    missing = [part for part in case.message.split(" ... ") if part not in captured.err]
    assert not missing, captured.err
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"


def test_a_cluster_that_does_not_answer(tmp_path):
    command = [sys.executable, "sweeps/alpha_sweep.py", "--task", "digits", "--address", "127.0.0.1:1"]
    ended = subprocess.run(
        [*command, "--store", str(tmp_path / "store")], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("Error: No Ray cluster answers at 127.0.0.1:1")
    assert ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_there_are_forty_of_them():
    assert len(CASES) >= 40
