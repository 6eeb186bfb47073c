"""What a sweep makes of a cluster that `ray up` started, up to the point where there has to be one."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from rekd import launched, remote
from rekd.launched import ROOT, Launched, find, launched_from, take_down
from rekd.remote import Command, hand_over

CONFIG = {
    "cluster_name": "mine",
    "provider": {"type": "local", "head_ip": "127.0.0.2", "worker_ips": []},
    "auth": {"ssh_user": "me", "ssh_private_key": "~/.ssh/rekd"},
    "metadata": {"store": "s3://bucket/rekd"},
}


@pytest.fixture
def cluster():
    return Launched(file="cluster.yaml", head="127.0.0.2", config=CONFIG)


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
    cluster = Launched(file="cluster.yaml", head="127.0.0.2", config={**CONFIG, "metadata": {}})
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
    monkeypatch.setattr(launched, "ROOT", tmp_path)
    (tmp_path / "cluster.yaml").write_text("provider: [")
    with pytest.raises(ValueError, match=r"cluster.yaml is not a cluster file"):
        launched_from("cluster.yaml")
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
    assert remote._Job(typed("--task", "it's"), said.append, {}).follow(client) == status
    assert capsys.readouterr().out == "a\nb\n"
    assert client.submitted["entrypoint"].startswith("python sweeps/alpha_sweep.py --task 'it'\"'\"'s' --store")
    assert said == ([] if exit_code in (0, 1, 2) else ["[red]The job has ended as FAILED:[/] no room"])


def test_a_running_job_is_met_again_and_nothing_is_shown_twice(typed, capsys):
    command = typed("--task", "digits")
    client = Client(texts=["".join(f"{line}\n" for line in range(100)), "100\n"], exit_code=0, is_running=True)
    remote._Job(command, print, {}).follow(client)
    capsys.readouterr()
    said: list[str] = []
    again = remote._Job(command, said.append, {})
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
        remote._Job(command, print, {}).follow(client)
    assert [job.submission_id for job in client.jobs[1:]] == [f"{command.name}-1", f"{command.name}-2"]


def test_down_has_a_word_for_a_file_without_machines():
    done = subprocess.run(
        [sys.executable, "-m", "rekd", "down", "clusters/on_premises.yaml"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "head_ip" in done.stderr
