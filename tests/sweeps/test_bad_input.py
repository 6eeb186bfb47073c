"""A table of wrong inputs. Each gives one line that says what is wrong and what to do, status 2, and leaves nothing behind."""

import json
import re
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
    "a grid that is no grid": Case("a grid is numbers with commas between", ("--alphas", "0,half")),
    "a value twice": Case("names a value twice", ("--alphas", "0,0.3,0.3")),
    "alpha above 1": Case("alpha is a share in [0, 1], got 1.5", ("--alphas", "1.5")),
    "alpha that is not a number": Case("alpha is a finite number", ("--alphas", "nan")),
    "a negative lambda_select": Case("lambda_select is 0 or more", ("--lambdas", "-1"), sweep=lambda_sweep),
    "p_target in per cent": Case("For 15 % write 0.15", ("--p-targets", "15"), sweep=p_target_sweep),
    "seeds backwards": Case("seeds from 2030 to 2026 are none", ("--seeds", "2030-2026")),
    "a seed twice": Case("twice", ("--seeds", "1,1")),
    "seeds that are no numbers": Case("seeds", ("--seeds", "all")),
    "a negative seed": Case("seeds", ("--seeds", "-3")),
    "an unknown model": Case("--models names 'vit-huge'", ("--models", "vit-huge")),
    "no epochs": Case("epochs", ("--epochs", "0")),
    "a teacher that is not trained": Case("--teacher-seed 1 is none of", ("--teacher-seed", "1")),
    "an unknown preset": Case("fidelity", ("--fidelity", "exact")),
    "an unknown logger": Case("log", ("--log", "excel")),
    "an unknown option": Case("No such option", ("--learning-speed", "3")),
    "two tasks of one name": Case("told apart by name", ("--task", "digits", "--task", "digits")),
    "GPUs that are not there": Case("asks for 3 GPUs", ("--gpus-per-trial", "3")),
    "GPUs below nothing": Case("a number from 0, or auto", ("--gpus-per-trial", "-1")),
    "auto without GPUs": Case("asks for auto GPUs", ("--gpus-per-trial", "auto")),
    "a stage that is none": Case("only", ("--only", "beta"), sweep=reproduce),
    "a choice for no model": Case("--lambda-select", ("--lambda-select", "vit-huge=0.1"), sweep=reproduce),
    "a range upside down": Case("lambda", ("--lambda-select", "1,0.1"), sweep=search),
    # Tasks.
    "a task that is not there": Case("There is no task 'digit'", ("--task", "digit")),
    "a file that is not there": Case("cannot be read", ("--task", "no-such-file.toml")),
    "a file that is no TOML": Case("is not valid TOML", prepare=edit("extends =", "extends")),
    "a key that does not exist": Case("num_clases", prepare=add("num_clases = 3")),
    "a number as text": Case("num_classes", prepare=add('num_classes = "ten"')),
    "a default that is no field": Case("lambda_sel", prepare=edit("epochs = 2", "lambda_sel = 1")),
    "a default out of range": Case(
        "learning_rate is above 0", prepare=edit("learning_rate = 1e-3", "learning_rate = 0.0")
    ),
    "a path out of its folder": Case("folder", prepare=edit('dataset = "data"', 'dataset = "../../../etc"')),
    "a teacher that is no model": Case("teacher", prepare=add('teacher = "vit-huge"')),
    # Datasets.
    "no dataset": Case("no-data", prepare=edit('dataset = "data"', 'dataset = "no-data"')),
    "a column that is not there": Case("pixels", prepare=add('input_column = "pixels"')),
    "a split that is not there": Case("validation", prepare=add('dev_split = "validation"')),
    "too many classes": Case("num_classes is 11", prepare=add("num_classes = 11")),
    "one class": Case("num_classes", prepare=table(images(GOOD), IMAGES.replace("num_classes = 2", "num_classes = 1"))),
    "a class that no sample has": Case("none of class 1", prepare=table(images(GOOD, [0] * 40), IMAGES)),
    "a label out of range": Case("label", prepare=table(images(GOOD, [7, 1] * 20), IMAGES)),
    "a label that is missing": Case("label", prepare=table(images(GOOD, [None, *[1, 0, 1] * 13]), IMAGES)),
    "a pixel that is no number": Case("row 0", prepare=table(images(np.full((8, 8), np.nan).tolist()), IMAGES)),
    "a pixel out of range": Case("row 0", prepare=table(images(np.full((8, 8), 300).tolist()), IMAGES)),
    "images of two sizes": Case("Set image_size", prepare=table(images(np.zeros((9, 9), int).tolist()), IMAGES)),
    "images of another mode": Case("image_mode", prepare=add('image_mode = "L"')),
    "empty texts": Case("row 3", kind="text", prepare=table(texts(["a", "b", "c", "", *"defg"] * 5), "")),
    "no samples": Case("no samples", kind="text", prepare=table(texts([]), "")),
    "a text of no length": Case("max_length", kind="text", prepare=edit("max_length = 24", "max_length = 0")),
    "texts longer than the model": Case("positions", kind="text", prepare=edit("max_length = 24", "max_length = 5000")),
    # Models.
    "a model of no known family": Case(
        "bert, deit, distilbert, electra, roberta, vit", prepare=spoil_json("vit-tiny/config.json", model_type="resnet")
    ),
    "a model without weights": Case("vit-tiny", prepare=remove("vit-tiny/*.safetensors")),
    "a model with half its weights": Case("vit-tiny", prepare=cut("vit-tiny/model.safetensors")),
    "a model of another size": Case("vit-tiny", prepare=spoil_json("vit-tiny/config.json", hidden_size=24)),
    "a tokenizer of another model": Case(
        "tokens", kind="text", prepare=spoil_json("bert-mini/config.json", vocab_size=3)
    ),
    "no tokenizer": Case("tokenizer", kind="text", prepare=remove("bert-base/*token*", "bert-base/vocab*")),
    "an image model for texts": Case(
        "reads images",
        kind="text",
        prepare=lambda folder: edit('source = "bert-mini"', 'config = {model_type = "vit"}')(folder),
    ),
    # Places.
    "a store that nothing opens": Case("cannot be opened", ("--store", "gopher://x/y")),
    "a store below a file": Case("cannot be written", ("--store", "{file}/store")),
}


@pytest.fixture(scope="module")
def ray_here():
    """One Ray for all: a sweep that finds it started uses it."""
    from rekd.cluster import connect, disconnect

    connect(local=True, num_cpus=2)
    yield
    disconnect()


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, request, tmp_path, monkeypatch, capsys):
    case = CASES[name]
    task = Path(request.getfixturevalue(f"{case.kind}_task"))
    folder = shutil.copytree(task.parent, tmp_path / "task")
    if case.prepare is not None:
        case.prepare(folder)
    (tmp_path / "file").write_text("a file")
    monkeypatch.setattr("rekd.cluster.disconnect", lambda: None)
    arguments = [part.format(file=tmp_path / "file") for part in case.arguments]
    if "--task" not in arguments:
        arguments += ["--task", str(folder / task.name)]
    if "--store" not in arguments:
        arguments += ["--store", str(tmp_path / "store")]
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments, "--yes", "--local"])
    with pytest.raises(SystemExit) as ended:
        run_command(case.sweep)
    captured = capsys.readouterr()
    said = re.sub(r"[\s│╭╮╰╯─]+", " ", captured.err)
    print(f"{name}: {said}")
    assert ended.value.code == 2
    assert case.message in said
    assert said.count("Error:") == 1
    assert "Traceback" not in said
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
