"""Stores that fail: a full disk, S3 behind a connection that errs, files that are damaged."""

import contextlib
import random
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from sweep import Sweep, assert_same_ledger, epochs_begun_again, wait_until

from analysis import load_trials
from rekd.cluster.ray_cluster import free_port
from rekd.store.files import Store
from rekd.store.packed import pack, unpack

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}


# --- A full disk ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> Path:
    """Takes what is free."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0" * 65536)
            file.flush()
    return ballast


@pytest.mark.long
def test_a_full_disk_is_waited_for(sweep, small_disk, undisturbed, report):
    sweep.store = str(small_disk / "store")
    process = sweep.start()
    wait_until(sweep.started_epochs, "a trial is being trained")
    ballast = fill(small_disk)
    wait_until(lambda: "No space left on device" in sweep.log.read_text(), "the driver says so", seconds=60)
    ballast.unlink()
    recovery = sweep.wait_for_an_epoch()
    output = sweep.finish(process)
    assert "does not take files" in output
    assert_same_ledger(sweep.store, undisturbed.store)
    report("a full disk, cleared after a while", epochs=epochs_begun_again(sweep.store), recovery=recovery)


@pytest.mark.long
def test_a_disk_that_stays_full_ends_the_sweep_with_a_word(sweep, small_disk, undisturbed, report):
    sweep.store = str(small_disk / "store")
    sweep.environment = {"REKD_STORE_PATIENCE": "5"}
    process = sweep.start()
    wait_until(sweep.started_epochs, "a trial is being trained")
    ballast = fill(small_disk)
    output = sweep.finish(process, status=1)
    assert "Traceback" not in output
    assert "Stopped:" in output
    assert "type the same command again" in output
    ballast.unlink()
    sweep.environment = {}
    sweep.run()
    assert_same_ledger(sweep.store, undisturbed.store)
    report("a disk that stays full", epochs=epochs_begun_again(sweep.store), recovery="typed again")


@pytest.mark.long
def test_a_finished_sweep_on_a_disk_that_may_only_be_read(sweep, small_disk, undisturbed, report):
    sweep.store = str(small_disk / "store")
    shutil.copytree(undisturbed.store, sweep.store, ignore=shutil.ignore_patterns("figures"))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    output = sweep.run()
    assert "Choice for vit-tiny" in output
    assert "Picture not written" in output
    assert "Traceback" not in output
    report("a finished sweep on a disk that may only be read", epochs=0, recovery="shows its results")


# --- S3 -------------------------------------------------------------------------------------------------------------


class Connection(ThreadingHTTPServer):
    """Passes requests on to an S3 server, some of them late or not at all."""

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.upstream = upstream
        self.count = self.failed = 0
        self.every = 0  # every how many-th request fails; 0 is none
        self.slow = 0.0  # seconds that an answer takes at most
        self.refuses_writes = self.refuses_all = False
        self.chance = random.Random(0)
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """No words on connections that a killed client left."""

    def fails(self, method: str) -> bool:
        with self.lock:
            self.count += 1
            fails = bool(self.every and self.count % self.every == 0) or self.refuses_all
            fails = fails or (self.refuses_writes and method != "GET")
            self.failed += fails
            return fails


class Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Connection

    def handle_one(self) -> None:
        body = self.body()
        if self.server.fails(self.command):
            status, code = (403, "AccessDenied") if self.server.refuses_all else (500, "InternalError")
            self.answer(status, {}, f"<Error><Code>{code}</Code><Message>made to fail</Message></Error>".encode())
            return
        time.sleep(self.server.chance.uniform(0, self.server.slow))
        left_out = ("connection", "expect", "transfer-encoding")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
        request = urllib.request.Request(
            self.server.upstream + self.path, data=body or None, headers=headers, method=self.command
        )
        try:
            with urllib.request.urlopen(request) as answer:
                self.answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:  # S3's own "not found" among them
            self.answer(error.code, dict(error.headers), error.read())

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(parts)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # every method alike
            return self.handle_one
        raise AttributeError(name)

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name not in ("Connection", "Server", "Date", "Transfer-Encoding", "Content-Length"):
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """No line a request."""


@pytest.fixture(scope="module")
def s3_server():
    """moto's, with one bucket; its address."""
    pytest.importorskip("moto")
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: answers(url), "moto's server answers")
            request = urllib.request.Request(f"{url}/bucket", method="PUT", headers={"Host": f"127.0.0.1:{port}"})
            urllib.request.urlopen(request).close()
            yield url
        finally:
            server.kill()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url).close()
    except OSError:
        return False
    return True


@pytest.fixture
def connection(s3_server):
    made = Connection(s3_server)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def s3_sweep(sweep, connection, monkeypatch):
    """On a folder of its own in the bucket."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    port = connection.server_address[1]
    folder = sweep.mark
    sweep.store = f"s3://bucket/{folder}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    sweep.environment = KEYS
    return sweep


@pytest.mark.long
def test_a_whole_sweep_on_s3_that_errs_and_is_slow(s3_sweep, connection, undisturbed, report):
    connection.every, connection.slow = 10, 0.05
    output = s3_sweep.run()
    assert "Choice for vit-tiny" in output
    assert connection.failed > 50
    connection.every = 0
    assert_same_ledger(s3_sweep.store, undisturbed.store)
    store = Store(s3_sweep.store)
    for folder in (store.set_aside_folder, store.claims_folder):
        assert store.names_in(folder) == []
    report(
        f"S3 that errs on every tenth call ({connection.failed} of {connection.count}) and is slow",
        epochs=epochs_begun_again(s3_sweep.store),
        recovery="at once",
    )


@pytest.mark.long
def test_s3_that_refuses_writes_for_a_while(s3_sweep, connection, undisturbed, report):
    process = s3_sweep.start()
    wait_until(lambda: len(load_trials(s3_sweep.store)) >= 2, "trials have ended")
    connection.refuses_writes = True
    time.sleep(20)
    connection.refuses_writes = False
    before = len(load_trials(s3_sweep.store))
    recovery = wait_until(lambda: len(load_trials(s3_sweep.store)) > before, "a trial has ended")
    s3_sweep.finish(process)
    assert_same_ledger(s3_sweep.store, undisturbed.store)
    report("S3 that refuses writes for 20 s", epochs=epochs_begun_again(s3_sweep.store), recovery=recovery)


@pytest.mark.long
def test_s3_that_refuses_for_good_ends_the_sweep_at_once(s3_sweep, connection, undisturbed, report):
    """A key that is withdrawn while trials run."""
    process = s3_sweep.start()
    wait_until(lambda: len(load_trials(s3_sweep.store)) >= 2, "trials have ended")
    connection.refuses_all = True
    refused = time.monotonic()
    output = s3_sweep.finish(process, status=1)
    seconds = time.monotonic() - refused
    assert "Stopped: " in output
    assert "ACCESS_DENIED" in output
    assert "Traceback" not in output
    connection.refuses_all = False
    s3_sweep.run()
    assert_same_ledger(s3_sweep.store, undisturbed.store)
    report(
        f"S3 that refuses for good (403), told after {seconds:.0f} s",
        epochs=epochs_begun_again(s3_sweep.store),
        recovery="typed again",
    )


@pytest.mark.long
def test_two_sweeps_on_one_bucket_share_the_trials(s3_sweep, undisturbed, report, tmp_path):
    """What clusters/skypilot.yaml rests on: machines that know nothing of each other but the bucket."""
    other = Sweep(s3_sweep.task, s3_sweep.store, tmp_path / "other.log", environment=KEYS)
    processes = [s3_sweep.start(), other.start()]
    for each, process in zip((s3_sweep, other), processes, strict=True):
        assert "Choice for vit-tiny" in each.finish(process)
    assert_same_ledger(s3_sweep.store, undisturbed.store)
    trials = load_trials(s3_sweep.store)
    assert (trials["attempt"] == 1).all()  # nothing twice
    report("two sweeps on one bucket", epochs=0, recovery="at once")


# --- Damaged files --------------------------------------------------------------------------------------------------


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif file.suffix == ".parquet":
        # In a value. Whatever stands in a footer and is not read may change unnoticed, and changes no row.
        footer = pq.read_metadata(file).row_group(0)
        column = footer.column(footer.num_columns - 1)
        content[column.data_page_offset + column.total_compressed_size - 5] ^= 4
    else:
        content[len(content) // 2] ^= 4
    file.write_bytes(content)


@pytest.mark.long
@pytest.mark.parametrize("how", ["truncated", "one bit flipped"])
def test_damaged_results_are_set_aside_and_made_again(how, sweep, undisturbed, report):
    shutil.copytree(undisturbed.store, sweep.store)
    victim = sorted(Path(sweep.store).glob("trials/*"))[1]
    damage(victim, how)
    others = [file for file in Path(sweep.store).rglob("*.parquet") if victim.stem not in file.name]
    before = {file: file.stat().st_mtime_ns for file in others}
    sweep.run()
    assert_same_ledger(sweep.store, undisturbed.store)
    assert len(list(Path(sweep.store).glob("set-aside/*"))) == 1
    assert {file: file.stat().st_mtime_ns for file in others} == before, "nothing else is touched"
    report(f"a row's file {how}", epochs="one trial", recovery="typed again")


@pytest.mark.long
@pytest.mark.parametrize("how", ["truncated", "one bit flipped"])
def test_damaged_checkpoints_and_targets(how, sweep, undisturbed, report):
    process = sweep.start()
    wait_until(lambda: list(Path(sweep.store).glob("targets/*")) and sweep.started_epochs(), "students run")
    sweep.kill(process)
    victims = [*Path(sweep.store).glob("targets/*"), *sweep.started_epochs()[-1:]]
    for victim in victims:
        damage(victim, how)
    sweep.run()
    assert_same_ledger(sweep.store, undisturbed.store)
    set_aside = [file.name[9:] for file in Path(sweep.store).glob("set-aside/*")]
    assert set(set_aside) == {victim.name for victim in victims}
    report(f"targets and a checkpoint {how}", epochs=epochs_begun_again(sweep.store), recovery="typed again")


@pytest.mark.long
@pytest.mark.parametrize("how", ["truncated", "one bit flipped"])
def test_a_damaged_model_of_a_teacher(how, sweep, undisturbed, report):
    """Its students, which are all that is left to run, fail with a word; typed again, the command mends it all."""
    shutil.copytree(undisturbed.store, sweep.store)
    root, trials = Path(sweep.store), load_trials(sweep.store)
    students = trials.loc[trials["objective"] == "rekd", "digest"].tolist()
    (teacher,) = trials["teacher_digest"].dropna().unique()
    for student in students:
        (root / f"trials/{student}.parquet").unlink()
    shutil.rmtree(root / "targets")
    damage(root / f"models/{teacher}/model.safetensors", how)
    kept = [file for name in ("trials", "epochs", "models", "rationales") for file in (root / name).rglob("*.*")]
    others = [file for file in kept if not {teacher, *students} & {file.stem, file.parent.name}]
    before = {file: file.stat().st_mtime_ns for file in others}

    output = sweep.run(status=1)
    assert output.count("Failed:") == len(students)
    assert "Type its sweep's command again, which trains it first" in output
    assert "Traceback" not in output
    assert {file.name[9:] for file in root.glob("set-aside/*")} == {"config.json", "model.safetensors"}
    sweep.run()
    assert_same_ledger(sweep.store, undisturbed.store)
    assert {file: file.stat().st_mtime_ns for file in others} == before, "nothing else is touched"
    report(f"a teacher's model {how}", epochs="one trial", recovery="typed again")


# --- Files that are whole and of no use -----------------------------------------------------------------------------


@pytest.mark.long
def test_checkpoints_that_do_not_fit(sweep, undisturbed, report):
    """As of another version, or with random states of a device that is not here: those trials begin anew."""
    process = sweep.start()
    wait_until(lambda: len({file.parent for file in sweep.started_epochs()}) == 2, "two trials run")
    sweep.kill(process)
    epochs, victims = 0, sweep.started_epochs()
    for number, victim in enumerate(victims):
        tensors, state = unpack(victim.read_bytes())
        if number % 2:
            tensors["stream.global.cuda"] = torch.zeros(16, dtype=torch.uint8)
        else:
            del tensors[min(tensors)]
        victim.write_bytes(pack(tensors, state))
    for folder in {victim.parent for victim in victims}:
        epochs += max(int(file.stem.removeprefix("epoch-")) for file in folder.glob("epoch-*"))
    output = sweep.run()
    assert "failed" not in output
    assert_same_ledger(sweep.store, undisturbed.store)
    assert {file.name[9:] for file in Path(sweep.store).glob("set-aside/*")} == {victim.name for victim in victims}
    report("checkpoints of two trials that do not fit", epochs=epochs, recovery="typed again")


@pytest.mark.long
def test_a_store_without_its_models_and_with_what_killed_workers_left(sweep, undisturbed, report):
    """Copied without `models/`, and then one more alpha: the teacher is trained again in the same run, and then its students.

    A worker that was killed between its row and its checkpoints has left these.
    """
    shutil.copytree(undisturbed.store, sweep.store, ignore=shutil.ignore_patterns("models", "targets"))
    store, trials = Store(sweep.store), load_trials(sweep.store)
    students = trials.loc[trials["objective"] == "rekd", "digest"].tolist()
    for student in students:
        store.remove_file(store.trial_file(student))
    for digest in trials.loc[trials["objective"] != "rekd", "digest"]:
        store.write(f"{store.running_folder(digest)}/epoch-00008.safetensors", b"of no use any more")
    sweep.run()
    assert_same_ledger(sweep.store, undisturbed.store)
    report("a store without its models: a teacher is trained again", epochs="one trial", recovery="at once")


# --- Memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_trial_that_does_not_fit_fails_alone_with_a_word(sweep, report):
    """A student that would need 64 TB; its brothers go on."""
    folder = shutil.copytree(sweep.task.parent, sweep.log.parent / "task")
    sweep.task = folder / sweep.task.name
    text = (
        sweep.task.read_text()
        + '[models.vit-huge]\ndefaults.lambda_select = 0.05\n[models.vit-huge.config]\nmodel_type = "vit"\n'
    )
    text += "image_size = 224\npatch_size = 16\nhidden_size = 16\nintermediate_size = 1000000000000\n"
    text += "num_attention_heads = 1\nnum_hidden_layers = 1\n"
    sweep.task.write_text(text.replace('dataset = "data"', 'dataset = "data"\nstudents = ["vit-tiny", "vit-huge"]'))
    sweep.models = "vit-base,vit-tiny,vit-huge"
    output = sweep.run(status=1)
    trials = load_trials(sweep.store)
    failed = trials[trials["status"] == "failed"]
    assert set(failed["model"]) == {"vit-huge"}
    assert failed["error"].str.contains("The trial does not fit").all()
    assert (trials.loc[trials["model"] != "vit-huge", "status"] == "ok").all()
    assert "Choice for vit-tiny" in output
    assert output.count("Failed:") == len(failed)
    report("out of memory on one student's trials", epochs=0, recovery="the others go on")
