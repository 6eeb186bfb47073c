"""Weights and datasets that are fetched once: what the hub gave, on a machine that does not ask it. A hub of this machine."""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread

import pytest
import stand_ins
from rich.console import Console

from rekd.running.downloads import bring, fetch, repositories
from rekd.running.progress import Progress
from rekd.running.tune import _stock
from rekd.store.files import Store
from rekd.tasks.task import load_task

SHA = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """Repositories by their path in the API, as files by name."""

    repositories: dict[str, dict[str, bytes]]
    num_questions = 0

    def answer(self) -> None:
        type(self).num_questions += 1
        path = self.path.split("?")[0].strip("/").replace("%2F", "/")
        status, content, headers = self.found(path)
        self.send_response(status)
        for name, value in {"X-Repo-Commit": SHA, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def found(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        for name, files in self.repositories.items():
            if path in (f"api/{name}", f"api/{name}/revision/main", f"api/{name}/revision/{SHA}"):
                siblings = [{"rfilename": file} for file in files]
                said = {"id": name.partition("/")[2], "sha": SHA, "siblings": siblings}
                return 200, json.dumps(said).encode(), {}
            if path.startswith(f"api/{name}/tree/"):
                entries = [{"type": "file", "path": p, "size": len(c), "oid": "b" * 40} for p, c in files.items()]
                return 200, json.dumps(entries).encode(), {}
            file = (
                path.removeprefix("models/").partition(f"{name.removeprefix('models/')}/resolve/")[2].partition("/")[2]
            )
            if file in files:
                return 200, files[file], {"ETag": f'"{len(files[file])}"'}
        return 404, b"", {"X-Error-Code": "EntryNotFound"}

    do_GET = do_HEAD = do_POST = answer  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one dataset and one model, and a task that names both."""
    import datasets
    import transformers

    from rekd.tasks.hub import quiet

    split = datasets.load_from_disk(str(stand_ins.save_cifar(tmp_path / "saved")))
    data = {}
    for name in ("train", "test"):
        split[name].to_parquet(tmp_path / f"{name}.parquet")
        data[f"{name}-00000-of-00001.parquet"] = (tmp_path / f"{name}.parquet").read_bytes()
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8, patch_size=4
    )
    with quiet():
        transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    model = {file.name: file.read_bytes() for file in (tmp_path / "vit").iterdir()}
    Hub.repositories = {"datasets/somebody/images": data, "models/somebody/vit": model}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    yield Hub
    server.shutdown()
    server.server_close()


TASK = """
kind = "image"
dataset = "somebody/images"
input_column = "img"
num_classes = 10
teacher = "vit"
students = ["vit"]

[defaults]
p_target = 0.25
lambda_select = 1.0

[models.vit]
source = "somebody/vit"
"""

READ = """
import sys
from rekd.running.downloads import bring
from rekd.store.files import Store
from rekd.tasks.task import load_task
from rekd.tasks.data import load_data
from rekd.method.pretrained import load_backbone
task = load_task(sys.argv[1])
bring(task, Store(sys.argv[2]))
load_backbone("somebody/vit")
print(len(load_data(task).pool))
"""


@pytest.mark.slow
def test_what_was_fetched_is_read_on_another_machine_without_a_word_to_the_hub(hub, tmp_path):
    file, store = tmp_path / "task.toml", Store(tmp_path / "store")
    file.write_text(TASK)
    console = Console(file=StringIO(), width=200)
    _stock([load_task(file)], store, Progress(console))  # as a sweep on a cluster does
    assert console.file.getvalue() == "In the store for all machines: somebody/vit, somebody/images.\n"
    asked = hub.num_questions
    assert fetch(load_task(file), store) == []
    assert hub.num_questions == asked  # nor for what is there
    for _ in range(2):  # the second process finds it on the machine
        done = subprocess.run(
            [sys.executable, "-c", READ, file, tmp_path / "store"],
            env=os.environ | {"HF_HOME": str(tmp_path / "other")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) > 0
    assert hub.num_questions == asked
    subprocess.run(
        [sys.executable, "-c", READ, file, tmp_path / "empty"],
        env=os.environ | {"HF_HOME": str(tmp_path / "third")},
        capture_output=True,
    )
    assert hub.num_questions > asked  # the negative: a store that has nothing


@pytest.mark.slow
def test_what_the_hub_does_not_have_is_one_line(hub, tmp_path):
    (tmp_path / "task.toml").write_text(TASK.replace("somebody/vit", "nobody/vit"))
    task, store = load_task(tmp_path / "task.toml"), Store(tmp_path / "store")
    with pytest.raises(ValueError, match=r"the model 'nobody/vit'"):
        fetch(task, store)
    console = Console(file=StringIO(), width=300)
    _stock([task], store, Progress(console))  # a sweep goes on: its machines may have it
    assert "Each machine looks for the weights and data of task itself: " in console.file.getvalue()


def test_a_task_of_this_machine_needs_no_download(tmp_path):
    assert repositories(load_task("digits")) == []
    assert fetch(load_task("digits"), Store(tmp_path)) == []
    bring(load_task("digits"), Store(tmp_path))
    assert list(Path(tmp_path).iterdir()) == []


def test_the_papers_tasks_name_their_weights_and_data():
    names = {each.name for each in repositories(load_task("cifar10"))}
    assert "uoft-cs/cifar10" in names
    assert len(names) == 1 + len(load_task("cifar10").models)
