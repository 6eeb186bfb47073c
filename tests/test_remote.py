"""What a sweep makes of a cluster that `ray up` started, up to the point where there has to be one."""

import contextlib
import http.server
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import aiohttp
import pytest
import yaml
from rich.console import Console

from rekd.cluster import job, ray_cluster
from rekd.cluster.job import PAUSES, Command, hand_over
from rekd.cluster.ray_cluster import CLEAN, ROOT, RayCluster, Tunnel, cluster_from, find, take_down

CONFIG = {
    "cluster_name": "mine",
    "provider": {"type": "local", "head_ip": "127.0.0.2", "worker_ips": []},
    "auth": {"ssh_user": "me", "ssh_private_key": "~/.ssh/rekd"},
    "metadata": {"store": "s3://bucket/rekd"},
}


@pytest.fixture
def cluster():
    return RayCluster(file="cluster.yaml", head="127.0.0.2", config=CONFIG)


@pytest.fixture
def typed(monkeypatch, cluster):
    """What becomes of a command line, with the store that it names."""

    def typed(*arguments: str, store: str = "results", script: str = "sweeps/alpha_sweep.py") -> Command:
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *arguments])
        return Command.typed(cluster, store=store, default_store="results")

    return typed


def test_results_go_where_the_cluster_keeps_them_unless_told_otherwise(typed):
    command = typed("--task", "digits")
    assert command.script == "sweeps/alpha_sweep.py"
    assert command.arguments == ("--task", "digits", "--store", "s3://bucket/rekd")
    command = typed("--store", "/shared/mine", store="/shared/mine")
    assert command.arguments == ("--store", "/shared/mine")
    assert command.store == "/shared/mine"


def test_a_folder_of_this_machine_is_refused(typed):
    with pytest.raises(ValueError, match=r"--store here is a folder of this machine.*bucket"):
        typed("--store", "here", store="here")


def test_a_store_has_to_be_known(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "sweeps/alpha_sweep.py")])
    cluster = RayCluster(file="cluster.yaml", head="127.0.0.2", config={**CONFIG, "metadata": {}})
    with pytest.raises(ValueError, match=r"metadata.store, or use --store"):
        Command.typed(cluster, store="results", default_store="results")


def test_only_a_script_of_the_working_tree_can_be_handed_over(typed):
    with pytest.raises(ValueError, match=r"takes commands such as `python sweeps/alpha_sweep.py`"):
        typed(script="../elsewhere.py")


def test_a_job_is_named_by_command_and_store(typed):
    assert typed("--task", "digits").name == typed("--task", "digits").name
    names = {
        typed("--task", "digits").name,
        typed("--task", "imdb").name,
        typed("--task", "digits", script="sweeps/seed_sweep.py").name,
        typed("--task", "digits", "--store", "/shared", store="/shared").name,
    }
    assert len(names) == 4


def test_there_is_no_cluster_where_nobody_filled_a_file_in():
    assert find() is None


def test_a_file_that_is_no_cluster_file_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "ROOT", tmp_path)
    (tmp_path / "cluster.yaml").write_text("provider: [")
    with pytest.raises(ValueError, match=r"cluster.yaml is not a cluster file"):
        cluster_from("cluster.yaml")
    with pytest.raises(ValueError, match=r"cluster.yaml is not a cluster file"):
        take_down("cluster.yaml", print)
    with pytest.raises(ValueError, match=r"other.yaml is not a cluster file"):
        take_down("other.yaml", print)


def test_a_head_that_does_not_answer_is_said_with_what_to_do(cluster, typed):
    command = typed("--task", "digits")
    said: list[str] = []
    with pytest.raises(ValueError, match=r"127.0.0.2 of cluster.yaml does not answer: .*--local"):
        hand_over(cluster, command, said.append)
    assert said == ["Running on the cluster of cluster.yaml, head 127.0.0.2."]


@contextlib.contextmanager
def http_server(status: int = 200, **answer: object) -> Iterator[tuple[int, list[tuple[str, str | None]]]]:
    """A server that answers everything alike: its port, and the path and the token of each question."""
    asked: list[tuple[str, str | None]] = []
    content = json.dumps(answer).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, asked
        server.shutdown()


class OpenTunnel(Tunnel):
    """A tunnel whose other end is on this machine."""

    def __init__(self, port: int = 0, client: object = None) -> None:
        self.port, self.token, self._client = port, "0123", client

    def client(self):
        return self._client or super().client()

    def close(self) -> None:
        pass


def test_no_proxy_gets_the_token(monkeypatch):
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "example.org")
    with http_server(ray_version="2.60.0") as (port, asked), http_server() as (proxy, seen):
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
        OpenTunnel(port).client()
    assert seen == []
    assert set(asked) == {("/api/version", "Bearer 0123")}
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "example.org,127.0.0.1"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, r"refuses the token in its ~/.rekd/token: Authentication required.*rekd down cluster.yaml"),
        (403, r"refuses the token in its ~/.rekd/token: Authentication failed.*rekd down cluster.yaml"),
        (404, r"has not taken the sweep: Version check returned 404.*Type the same command again"),
        (500, r"has not taken the sweep: 500 .*Type the same command again"),
    ],
)
def test_a_head_that_answers_otherwise_is_said_in_one_line(cluster, typed, monkeypatch, status, words):
    command = typed("--task", "digits")
    with http_server(status) as (port, _):
        monkeypatch.setattr(job, "Tunnel", lambda cluster: OpenTunnel(port))
        with pytest.raises(ValueError, match=rf"^The head 127.0.0.2 of cluster.yaml {words}") as error:
            hand_over(cluster, command, print)
    assert "\n" not in str(error.value)
    assert status in (401, 403) or "ray up" not in str(error.value)  # it would end what runs there


class Client:
    """A cluster's job server with one job, as far as `_Job` asks it."""

    def __init__(self, *, texts: list[str], exit_code: int | None, is_running: bool = False) -> None:
        self.texts, self.exit_code = texts, exit_code
        self.jobs = [self._details("sweep-other-1", ended=True)]
        self.is_running = is_running

    def _details(self, name: str, *, ended: bool) -> SimpleNamespace:
        status = SimpleNamespace(is_terminal=lambda: ended, value="FAILED")
        return SimpleNamespace(submission_id=name, status=status, driver_exit_code=self.exit_code, message="no\nroom")

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.jobs

    def submit_job(self, *, submission_id: str, **arguments) -> None:
        self.jobs.append(self._details(submission_id, ended=not self.is_running))
        self.submitted = arguments

    def get_job_logs(self, name: str) -> str:
        return "".join(self.texts)

    def get_job_info(self, name: str) -> SimpleNamespace:
        return self._details(name, ended=True)

    async def tail_job_logs(self, name: str):
        for text in self.texts:
            yield text


@pytest.mark.parametrize(("exit_code", "status"), [(0, 0), (1, 1), (2, 2), (None, 1), (-9, 1)])
def test_the_exit_status_is_the_jobs_own(typed, capsys, exit_code, status):
    said: list[str] = []
    client = Client(texts=["a\n", "b\n"], exit_code=exit_code)
    assert job._Job(typed("--task", "it's"), said.append, {}).follow(client) == status
    assert capsys.readouterr().out == "a\nb\n"
    assert client.submitted["entrypoint"].startswith("python sweeps/alpha_sweep.py --task 'it'\"'\"'s' --store")
    assert said == ([] if exit_code in (0, 1, 2) else ["[red]The job has ended as FAILED:[/] no room"])


def test_a_running_job_is_met_again_and_nothing_is_shown_twice(typed, capsys):
    command = typed("--task", "digits")
    client = Client(texts=["".join(f"{line}\n" for line in range(100)), "100\n"], exit_code=0, is_running=True)
    job._Job(command, print, {}).follow(client)
    capsys.readouterr()
    said: list[str] = []
    again = job._Job(command, said.append, {})
    again.follow(client)
    assert said == [f"It runs there already, as job {command.name}-1. This is what it said last:"]
    assert capsys.readouterr().out == "".join(f"{line}\n" for line in range(81, 101))
    again.follow(client)  # a connection that was lost and made again: the stream starts at its beginning
    assert capsys.readouterr().out == ""
    client.texts.append("101\n")
    again.follow(client)
    assert capsys.readouterr().out == "101\n"


def test_a_command_that_has_ended_runs_anew(typed):
    command = typed("--task", "digits")
    client = Client(texts=[], exit_code=0)
    for _ in range(2):
        job._Job(command, print, {}).follow(client)
    assert [job.submission_id for job in client.jobs[1:]] == [f"{command.name}-1", f"{command.name}-2"]


def test_a_command_typed_twice_at_once_is_one_job(typed, capsys):
    """Both have looked before either has handed over; the cluster refuses the second for its name."""
    command = typed("--task", "digits")

    class Raced(Client):
        def submit_job(self, *, submission_id: str, **arguments) -> None:
            super().submit_job(submission_id=submission_id, **arguments)
            raise RuntimeError(f"Request failed with status code 400: {submission_id} already exists.")

    said: list[str] = []
    assert job._Job(command, said.append, {}).follow(Raced(texts=["a\n"], exit_code=0, is_running=True)) == 0
    assert said == [f"It runs there already, as job {command.name}-1. This is what it said last:"]
    assert capsys.readouterr().out == "a\n"
    with pytest.raises(RuntimeError, match="already exists"):  # and ran to its end: not this command's end
        job._Job(command, said.append, {}).follow(Raced(texts=[], exit_code=0))


class Lost(Client):
    """A job server that takes the job, and is not there for its output."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(texts=[], exit_code=0, is_running=True)
        self.error = error

    async def tail_job_logs(self, name: str):
        raise self.error
        yield


@pytest.mark.parametrize("error", [RuntimeError("close code 1006"), aiohttp.ServerDisconnectedError()])
def test_a_lost_connection_is_tried_again_and_a_try_is_the_last_thing(cluster, typed, monkeypatch, error):
    command = typed("--task", "digits")
    done: list[object] = []
    client = Lost(error)

    def tunnel(cluster: RayCluster) -> OpenTunnel:
        done.append("try")
        return OpenTunnel(client=client)

    monkeypatch.setattr(job, "Tunnel", tunnel)
    monkeypatch.setattr(job.time, "sleep", done.append)
    monkeypatch.setattr(RayCluster, "is_down", False)
    said: list[str] = []
    assert hand_over(cluster, command, said.append) == 1
    assert done == ["try", *(step for pause in PAUSES for step in (pause, "try"))]
    assert sum(PAUSES) == 120
    assert "does not answer.[/] Trying again for two to five minutes." in said[1]
    assert f"does not answer any more: {error}" in said[-2]
    assert "The same command follows it again" in said[-1]


def test_a_cluster_that_was_taken_down_is_not_waited_for(cluster, typed, monkeypatch):
    """Its file names none any more. Where nobody can tell, it may still be there."""
    command = typed("--task", "digits")
    monkeypatch.setattr(job, "Tunnel", lambda cluster: OpenTunnel(client=Lost(RuntimeError("close code 1006"))))
    monkeypatch.setattr(ray_cluster, "cluster_from", lambda file: None)
    said: list[str] = []
    assert hand_over(cluster, command, said.append) == 1
    assert said[-1].startswith("\nThe cluster of cluster.yaml was taken down. What has ended is in s3://bucket/rekd; ")

    def unknown(file: str) -> None:
        raise ValueError("no way to AWS")

    monkeypatch.setattr(ray_cluster, "cluster_from", unknown)
    assert not cluster.is_down


def test_what_others_say_is_no_markup(typed, monkeypatch):
    command = typed("--store", "/tmp/[/x]", store="/tmp/[/x]")
    output = io.StringIO()
    console = Console(file=output, width=500)
    monkeypatch.setattr(job, "Tunnel", lambda cluster: OpenTunnel(client=Lost(KeyboardInterrupt())))
    hand_over(RayCluster(file="cluster.yaml", head="[/head]", config=CONFIG), command, console.print)
    client = Client(texts=[], exit_code=None)
    monkeypatch.setattr(client, "get_job_info", lambda name: client._details(name, ended=True))
    monkeypatch.setattr(client, "_details", lambda *_, **__: SimpleNamespace(
        status=SimpleNamespace(is_terminal=lambda: True, value="FAILED"), driver_exit_code=None, message="[/no] room"
    ))  # fmt: skip
    job._Job(command, console.print, {}).follow(client)
    for text in ("head [/head].", "with results in /tmp/[/x].", "The job has ended as FAILED: [/no] room"):
        assert text in output.getvalue()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:{port}", "lets in who has its token: Token authentication is enabled but no"),
        ("nonsense", "cannot be used: Invalid address format: nonsense. Name another"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_said_without_advice_to_start_another(tmp_path, address, words):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = address.format(port=listener.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-c", f"from rekd.cluster.connect import connect; connect('{address}')"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RAY_AUTH_MODE": "token"},  # and no token
            capture_output=True,
            text=True,
            timeout=60,
        )
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ValueError: The Ray cluster at {address} {words}"), done.stderr
    assert "ray up" not in last


# Stands for SSH: notes whom it was to reach, through the head and directly, and does not get to those in $DEAD.
SSH = """#!/bin/sh
for word; do target=$command; command=$word; done
onward=$(echo "$command" | grep -o 'me@10[.][0-9.]*' | head -n 1)
echo "$target${onward:+ $onward}" >> "$NOTED"
case " $DEAD " in *" $target "* | *" ${onward:-nobody} "*) echo "no way to [/it]" >&2; exit 255;; esac
"""
HEAD, WORKERS = "me@10.0.0.1", ["me@10.0.0.2", "me@10.0.0.3"]


@pytest.fixture
def down(tmp_path, monkeypatch):
    """What `rekd down` says and does where some machines are dead: whether all is gone, what is said, SSH's ways."""
    monkeypatch.setattr(ray_cluster, "ROOT", tmp_path)
    config = {
        "cluster_name": "mine",
        "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]},
        "auth": {"ssh_user": "me"},
    }
    (tmp_path / "file.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "ssh").write_text(SSH)
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "cluster-mine.state").write_text("{}")

    def down(*dead: str) -> tuple[bool, str, list[str]]:
        noted, output = tmp_path / "noted", io.StringIO()
        noted.unlink(missing_ok=True)
        monkeypatch.setenv("NOTED", str(noted))
        monkeypatch.setenv("DEAD", " ".join(dead) or "nobody's")
        is_gone = take_down("file.yaml", Console(file=output, width=500).print)
        assert (tmp_path / "ray" / "cluster-mine.state").exists() == any(worker in dead for worker in WORKERS)
        return is_gone, output.getvalue(), noted.read_text().splitlines()

    return down


def test_down_leaves_the_head_to_the_end_and_a_way_to_a_worker_that_was_out_of_reach(down):
    through_head = [f"{HEAD} {worker}" for worker in WORKERS]
    is_gone, said, ways = down(WORKERS[1])
    assert not is_gone
    assert "10.0.0.3 could not be cleaned up: no way to [/it]" in said
    assert "The head 10.0.0.1 keeps its key and token until these are clean: 10.0.0.3. Type the same command" in said
    assert ways == [*through_head, WORKERS[1]]  # not the head
    assert down() == (True, "", [*through_head, HEAD])


def test_down_goes_straight_to_the_workers_of_a_dead_head(down):
    is_gone, said, ways = down(HEAD)
    assert not is_gone
    assert said == "10.0.0.1 could not be cleaned up: no way to [/it]\n"
    assert [way for way in ways if way in WORKERS] == WORKERS


@pytest.mark.parametrize("status", [0, 7])
def test_cleaning_up_takes_every_step_and_tells_one_that_fails(tmp_path, status):
    home, folder = tmp_path / "home", tmp_path / f"rekd-{os.getuid()}"
    ray = home / ".rekd" / "venv" / "bin" / "ray"
    ray.parent.mkdir(parents=True)
    ray.write_text(f"#!/bin/sh\necho stopping\nexit {status}\n")
    ray.chmod(0o755)
    (folder / "ray").mkdir(parents=True)
    installed = home / ".rekd" / "installed"
    gone = [home / ".rekd" / "token", home / "ray_bootstrap_key.pem", folder / "ray" / "log"]
    for file in [installed, *gone]:
        file.touch()
    (home / ".bashrc").write_text("alias\nexport PATH # rekd\n")
    command = ["sh", "-c", CLEAN.replace("/tmp/", f"{tmp_path}/")]
    done = subprocess.run(command, env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (int(status != 0), "", "")
    assert installed.exists()
    assert not any(file.exists() for file in [*gone, folder])
    assert (home / ".bashrc").read_text() == "alias\n"


def test_down_has_a_word_for_a_file_without_machines():
    done = subprocess.run(
        [sys.executable, "-m", "rekd", "down", "clusters/on_premises.yaml"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "head_ip" in done.stderr
