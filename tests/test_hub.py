"""The hub: read once, quiet, and quick where it cannot be reached. A hub of this machine stands in for it."""

import json
import shutil
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import stand_ins
import tiny
from transformers import AutoModel

from rekd.method.pretrained import load_backbone, read_config
from rekd.running.one_trial import run_trial
from rekd.running.supplies import Supplies
from rekd.store.ledger import Ledger
from rekd.tasks.commits import as_text, commits, moved, pinned
from rekd.tasks.data import load_data
from rekd.tasks.hub import quiet
from rekd.tasks.task import load_task


@pytest.fixture
def loopback_hub(tmp_path, monkeypatch):
    """A hub on this machine with one dataset, `uoft-cs/cifar10`, once `cifar10`, and one model, `me/vit`.

    Set `status` to make it fail, `commit` to have it moved.
    """
    import datasets
    from huggingface_hub import constants

    split = datasets.load_from_disk(str(stand_ins.save_cifar(tmp_path / "saved")))
    files = {}
    for name in ("train", "test"):
        split[name].to_parquet(tmp_path / f"{name}.parquet")
        files[f"plain_text/{name}-00000-of-00001.parquet"] = (tmp_path / f"{name}.parquet").read_bytes()

    class Hub(BaseHTTPRequestHandler):
        status = 200
        commit = "a" * 40
        content = files
        paths: list[str] = []

        def answer(self):
            path = self.path.split("?")[0]
            Hub.paths.append(path)
            content, headers = b"", {"X-Repo-Commit": Hub.commit}
            name = path.partition(f"/resolve/{Hub.commit}/")[2]
            status = Hub.status
            if status == 200 and path.startswith("/api/datasets/uoft-cs/cifar10/tree/"):
                folder = path.partition(Hub.commit)[2].strip("/").replace("%2F", "/")
                entries = [{"type": "file", "path": p, "size": len(c), "oid": "b" * 40} for p, c in files.items()]
                if not folder:
                    entries.append({"type": "directory", "path": "plain_text", "oid": "c" * 40})
                content = json.dumps(entries).encode()
            elif status == 200 and path.startswith(("/api/datasets/cifar10", "/api/datasets/uoft-cs/cifar10")):
                siblings = [{"rfilename": file} for file in files]
                content = json.dumps({"id": "uoft-cs/cifar10", "sha": Hub.commit, "siblings": siblings}).encode()
            elif status == 200 and path.startswith("/api/models/me/vit"):
                content = json.dumps({"id": "me/vit", "sha": Hub.commit, "siblings": []}).encode()
            elif status == 200 and name in files:
                content = files[name]
                headers["ETag"] = f'"{len(content)}"'
            elif status == 200:
                status = 404
                known = "cifar10" in path or "me/vit" in path
                headers["X-Error-Code"] = "EntryNotFound" if known else "RepoNotFound"
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = answer  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
    monkeypatch.setattr(datasets.config, "HUB_DATASETS_URL", address + "/datasets/{repo_id}/resolve/{revision}/{path}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    yield Hub
    server.shutdown()
    server.server_close()


def test_a_dataset_of_the_hub_is_downloaded_once_and_read_without_it(loopback_hub, image_task, capfd):
    task = load_task("cifar10")
    data = load_data(task)
    assert data.fingerprint == load_data(load_task(image_task)).fingerprint
    assert data.fingerprint == load_data(replace(task, dataset="cifar10")).fingerprint
    loopback_hub.status = 503
    assert data.fingerprint == load_data(task).fingerprint
    assert capfd.readouterr() == ("", "")


def test_without_the_hub_one_quick_line_says_what_to_do(loopback_hub, text_task, capfd):
    loopback_hub.status = 503
    start = time.monotonic()
    with pytest.raises(
        ValueError,
        match=r"Looked for the dataset 'uoft-cs/cifar100' on .*cannot be reached.*extends = 'cifar100' and dataset =",
    ):
        load_data(load_task("cifar100"))
    with pytest.raises(ValueError, match=r"Looked for the model 'nobody/bert' .*cannot be reached.*and tokenizer ="):
        load_data(replace(load_task(text_task), tokenizer="nobody/bert"))
    assert time.monotonic() - start < 5
    assert capfd.readouterr() == ("", "")


def test_a_table_of_the_hub_names_downloaded_files_only(loopback_hub, tmp_path):
    """Not a file of this machine, nor an address: not even through `..` out of the folder of downloads."""
    import datasets
    import pyarrow.parquet as pq
    from PIL import Image

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=2)})

    def read(path):
        for folder in ("hub", "datasets"):  # else the first download serves
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
        (tmp_path / "hub").mkdir()
        for place in (tmp_path / "secret.png", tmp_path / "hub/known.png"):
            Image.new("RGB", (4, 4), (9, 0, 0)).save(place)
        (tmp_path / "hub/link.png").symlink_to(tmp_path / "secret.png")
        columns = {"img": [{"bytes": None, "path": str(path)}] * 10, "label": [0, 1] * 5}
        table = datasets.Dataset.from_dict(columns, features=features).data.table
        for name in loopback_hub.content:
            pq.write_table(table, tmp_path / "table.parquet")
            loopback_hub.content[name] = (tmp_path / "table.parquet").read_bytes()
        return load_data(replace(load_task("cifar10"), num_classes=2))

    for path in (
        tmp_path / "secret.png",
        tmp_path / "hub/../secret.png",
        tmp_path / "hub/link.png",
        "secret.png",
        f"file://{tmp_path}/secret.png",
        "http://127.0.0.1:1/x.png",
        f"hf://datasets/a/b@main/x.zip::file://{tmp_path}/secret.png",
    ):
        with pytest.raises(ValueError, match="row 0: the image is the path ") as caught:
            read(path)
        assert f"{str(path)!r}, not its bytes. Write the dataset" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert (read(tmp_path / "hub/known.png").pool.arrays["image"][:, 0] == 9).all()
    with pytest.raises(ValueError, match="row 0: the image cannot be decoded"):
        read("hf://datasets/uoft-cs/cifar10@main/x.png")  # it is asked for, and the hub does not have it


def test_a_name_that_the_hub_does_not_know(loopback_hub):
    with pytest.raises(ValueError, match=r"Looked for the dataset 'nobody/nothing' on .*: it is not there"):
        load_data(replace(load_task("cifar10"), dataset="nobody/nothing"))


def test_without_the_hub_a_backbone_is_refused_as_quickly(loopback_hub, capfd):
    loopback_hub.status = 503
    start = time.monotonic()
    with pytest.raises(
        ValueError, match=r"Looked for the model 'nobody/vit' .*cannot be reached.*write source ="
    ) as one:
        load_backbone("nobody/vit")
    assert "\n" not in str(one.value)
    assert time.monotonic() - start < 5
    assert len(loopback_hub.paths) == 1
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def hub_task(loopback_hub, tmp_path):
    """CIFAR-10 of the hub, with one model of the hub."""
    folder = stand_ins.save_vit(tmp_path / "vit")
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        loopback_hub.content[name] = (folder / name).read_bytes()
    task = load_task("cifar10")
    models = {"vit-tiny": replace(task.models["vit-tiny"], source="me/vit")}
    return replace(task, models=models, teacher="vit-tiny", students=())


def test_a_name_is_resolved_once_and_its_commit_stays_the_one_that_is_read(loopback_hub, hub_task):
    task = pinned(hub_task, ["vit-tiny"])
    assert commits(task, ["vit-tiny"]) == {
        "dataset uoft-cs/cifar10 (main)": "a" * 40,
        "model me/vit (main)": "a" * 40,
    }
    trials = [each.trial("cls", "vit-tiny", seed=1) for each in (task, hub_task)]
    assert trials[0].digest == trials[1].digest
    asked = len(loopback_hub.paths)
    assert pinned(task, ["vit-tiny"]) == task
    assert len(loopback_hub.paths) == asked

    backbone = load_backbone("me/vit", revision=task.models["vit-tiny"].commit)
    assert {path.split("/")[4] for path in loopback_hub.paths if path.startswith("/me/vit/resolve/")} == {"a" * 40}
    loopback_hub.status = 503  # by commit, or by the name that stood for it
    for revision in ("a" * 40, None):
        again = load_backbone("me/vit", revision=revision)
        assert tiny.same_tensors(again.state_dict(), backbone.state_dict())
    assert commits(pinned(hub_task, ["vit-tiny"]), ["vit-tiny"]) == commits(task, ["vit-tiny"])


def test_a_pinned_dataset_is_read_again_without_the_hub(loopback_hub, hub_task):
    data = load_data(pinned(hub_task, []))
    loopback_hub.status = 503
    for task in (hub_task, pinned(hub_task, [])):
        assert load_data(task).fingerprint == data.fingerprint


def test_the_row_holds_the_commits_and_a_later_run_says_what_has_moved(loopback_hub, hub_task, store):
    trial = hub_task.trial("cls", "vit-tiny", seed=1, epochs=1)
    list(run_trial(trial, task=hub_task, store=store, supplies=Supplies(store, device=tiny.CPU)))
    (row,) = Ledger(store).trials().to_pylist()
    assert (row["status"], row["error"]) == ("ok", "")
    then = commits(pinned(hub_task, ["vit-tiny"]), ["vit-tiny"])
    assert row["commits"] == as_text(then)
    assert moved(then, [row["commits"], None]) == []

    loopback_hub.commit = "b" * 40
    now = commits(pinned(hub_task, ["vit-tiny"]), ["vit-tiny"])
    assert moved(now, [row["commits"]] * 2 + [None])[1] == (
        "The model me/vit (main) is at commit bbbbbbbbbbbb, and was at aaaaaaaaaaaa in 2 trials of this store. "
        "Give that as its revision in a task file to stay with it."
    )
    assert as_text(commits(load_task("digits"), ["vit-student"])) is None


def test_whether_a_file_is_missing_is_not_guessed_without_the_hub(loopback_hub, hub_task):
    """A ViT whose processor was not downloaded is not taken for one that has none."""
    kept = loopback_hub.content.pop("preprocessor_config.json")
    load_backbone("me/vit")  # the hub says that there is none
    loopback_hub.status = 503
    assert load_backbone("me/vit").get_buffer("std").unique().tolist() == [127.5]

    loopback_hub.status, loopback_hub.commit = 200, "b" * 40
    loopback_hub.content["preprocessor_config.json"] = kept
    read_config("me/vit")
    with quiet():
        AutoModel.from_pretrained("me/vit", revision="b" * 40)
    loopback_hub.status = 503
    with pytest.raises(
        ValueError, match=r"preprocessor_config.json of the model me/vit could not be read: it was not d"
    ):
        load_backbone("me/vit")


def test_quiet_leaves_bars_and_log_levels_as_they_were():
    import datasets
    import huggingface_hub.utils as hub_utils
    from transformers.utils import logging

    def state():
        return (
            datasets.are_progress_bars_disabled(),
            hub_utils.are_progress_bars_disabled(),
            logging.is_progress_bar_enabled(),
            logging.get_verbosity(),
        )

    before = state()
    hub_utils.disable_progress_bars()
    try:
        muted = state()
        with quiet():
            assert state()[:3] == (True, True, False)
        assert state() == muted
    finally:
        hub_utils.enable_progress_bars()
    with quiet():
        pass
    assert state() == before
