"""What `--log` writes, by sweeps as a user types them; MLflow and W&B where their extras are installed."""

import os
import sqlite3
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from analysis import load_epochs
from rekd.running.loggers import make_loggers
from rekd.store.files import Store

ROOT = Path(__file__).parents[2]
TOY = ("--task", "digits", "--models", "vit-student", "--lambdas", "0.01", "--seeds", "2026,2027", "--epochs", "2")

needs = {
    name: pytest.mark.skipif(find_spec(name) is None, reason=f"needs the extra: pip install -e '.[{name}]'")
    for name in ("mlflow", "wandb")
}


def sweep(store: Path, *arguments: str, status: int = 0, **environment: str) -> str:
    """Two trials of two epochs; what the sweep printed."""
    command = [sys.executable, "sweeps/lambda_sweep.py", *TOY, "--local", "--store", str(store), *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "MLFLOW_"))}
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env={**kept, **environment})
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def expected(store: Path) -> dict[tuple[str, int], float]:
    """Dev losses of the ledger by digest and epoch, as 4-byte floats: loggers keep no more."""
    epochs = load_epochs(store)
    assert len(epochs) == 4
    keys = zip(epochs["digest"], epochs["epoch"], strict=True)
    return dict(zip(keys, epochs["dev_loss"].astype("float32"), strict=True))


def scalars(file: Path, tag: str) -> dict[int, float]:
    """Values by step of a TensorBoard file: records of a length, a checksum, an event, a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    content, values = file.read_bytes(), {}
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        for value in event.summary.value:
            if value.tag == tag:
                values[event.step] = value.simple_value
        content = content[16 + length :]
    return values


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The store of a sweep that was logged by all loggers that are installed, side by side; the words of the sweep."""
    store = tmp_path_factory.mktemp("logged")
    names = ["tensorboard", *(name for name in needs if find_spec(name) is not None)]
    return store, sweep(store, *(word for name in names for word in ("--log", name)), WANDB_MODE="offline")


@pytest.mark.slow
def test_tensorboard_has_the_epochs_of_the_ledger_in_a_folder_a_trial(logged):
    store, output = logged
    values = {
        (file.parent.name, step): value
        for file in Path(Store(store).logs_folder).glob("tensorboard/*/events.out.tfevents.*")
        for step, value in scalars(file, "ray/tune/dev_loss").items()
    }
    assert values == expected(store)
    for noise in ("WARNING", "Traceback"):
        assert noise not in output


@pytest.mark.slow
@needs["mlflow"]
def test_mlflow_has_the_epochs_of_the_ledger_in_a_local_database(logged):
    store, _ = logged
    with sqlite3.connect(f"{Store(store).logs_folder}/mlflow/mlflow.db") as database:
        rows = database.execute(
            "SELECT name, step, value FROM metrics JOIN runs USING (run_uuid) WHERE key = 'dev_loss'"
        ).fetchall()
        (status,) = database.execute("SELECT DISTINCT status FROM runs").fetchone()
        seeds = database.execute("SELECT value FROM params WHERE key = 'seed' ORDER BY value").fetchall()
    assert {(name, step): pytest.approx(value) for name, step, value in rows} == expected(store)
    assert status == "FINISHED"
    assert seeds == [("2026",), ("2027",)]


@pytest.mark.slow
@needs["mlflow"]
def test_mlflow_goes_where_its_own_variable_says(tmp_path):
    elsewhere = tmp_path / "elsewhere" / "runs.db"
    sweep(tmp_path / "store", "--log", "mlflow", MLFLOW_TRACKING_URI=f"sqlite:///{elsewhere}")
    assert elsewhere.exists()
    assert not Path(Store(tmp_path / "store").logs_folder).exists()


@pytest.mark.slow
@needs["wandb"]
def test_wandb_offline_needs_neither_network_nor_login(logged):
    store, _ = logged
    folders = list(Path(Store(store).logs_folder).glob("wandb/offline-run-*"))
    assert len(folders) == 2
    content = b"".join(file.read_bytes() for folder in folders for file in folder.glob("*.wandb"))
    assert b"dev_loss" in content
    for digest in {digest for digest, _ in expected(store)}:
        assert digest.encode() in content


@pytest.mark.slow
@needs["wandb"]
def test_wandb_without_a_login_is_refused_before_anything_starts(tmp_path):
    output = sweep(tmp_path / "store", "--log", "wandb", status=2, HOME=str(tmp_path))
    assert "--log wandb has no login" in output
    assert not (tmp_path / "store").exists()


HIDES_MLFLOW = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "mlflow" else find(name, *rest)
"""


def test_a_missing_extra_is_one_line_and_status_2_before_anything_starts(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HIDES_MLFLOW)
    output = sweep(tmp_path / "store", "--log", "mlflow", status=2, PYTHONPATH=str(tmp_path))
    assert output.splitlines() == [output.strip()]
    assert "pip install -c constraints.txt -e '.[mlflow]'" in output
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_every_extra_is_named_with_its_command(store, monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: None)
    with pytest.raises(ValueError, match=rf"pip install .* '\.\[{name}\]'"):
        make_loggers([name], store)


def test_files_need_a_folder(store):
    store.is_local = False
    with pytest.raises(ValueError, match="--log tensorboard writes to a folder of this machine"):
        make_loggers(["tensorboard"], store)
