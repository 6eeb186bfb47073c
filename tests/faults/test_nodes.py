"""Nodes that go and come, on a cluster of several Ray nodes on this machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from disturbed import MARK
from sweep import assert_same_ledger, epochs_begun_again, wait_until
from watched import PLACES

from analysis import load_trials
from rekd.cluster.ray_cluster import free_port

RAY = str(Path(sys.executable).parent / "ray")


class Nodes:
    """A head without CPUs for trials, and workers, each a `ray start` of its own.

    Workers have GPUs in name, and the head has none, so that a teacher's pass over a task is theirs, as on a real cluster.
    """

    def __init__(self, mark: str) -> None:
        self.environment = {
            **os.environ,
            MARK: mark,
            "RAY_AUTH_MODE": "disabled",
            # Smaller objects go to the driver and are not kept where they were made. The stand-ins' targets are 21 kB; Tune,
            # which cannot lose its own, sends less.
            "RAY_max_direct_call_object_size": "10000",
        }
        self.processes: list[subprocess.Popen] = []
        self.port = free_port()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start_head(self, cpus: int = 0) -> subprocess.Popen:
        return self._start(f"--head --port={self.port} --num-cpus={cpus} --include-dashboard=false")

    def start_worker(self) -> subprocess.Popen:
        return self._start(f"--address={self.address} --num-cpus=2 --num-gpus=2")

    def kill(self, node: subprocess.Popen) -> None:
        """A power cut: all processes of a node at once."""
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def _start(self, options: str) -> subprocess.Popen:
        command = [RAY, "start", "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats", *options.split()]
        node = subprocess.Popen(
            command,
            env=self.environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.processes.append(node)
        return node


@pytest.fixture
def nodes(sweep):
    made = Nodes(sweep.mark)
    sweep.arguments = ("--address", made.address)
    sweep.environment = {"RAY_AUTH_MODE": "disabled"}
    yield made
    for node in made.processes:
        if node.poll() is None:
            made.kill(node)


def num_nodes(nodes: Nodes) -> int:
    """Nodes that are alive, as the head says."""
    code = (
        "import ray, sys; ray.init(sys.argv[1], logging_level=50, log_to_driver=False);"
        "print(sum(node['Alive'] for node in ray.nodes()))"
    )
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, nodes.address],
        env=nodes.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return int(found.stdout.split()[-1]) if found.returncode == 0 else 0


def lines_of(places: Path) -> list[list[str]]:
    """What `watched.py` wrote: the head, then the nodes on which the targets lay."""
    return [line.split() for line in places.read_text().splitlines()] if places.exists() else []


@pytest.mark.long
def test_nodes_are_lost_and_others_join_with_the_teacher_on_them(sweep, nodes, undisturbed, report, tmp_path):
    """One while the teacher is trained, one while students are: what the second held of the teacher comes back."""
    places = tmp_path / "places"
    sweep.script, sweep.environment[PLACES] = "tests/faults/watched.py", str(places)
    sweep.arguments += ("--gpus-per-trial", "0.5")
    trials = load_trials(undisturbed.store)
    students = set(trials.loc[trials["objective"] == "rekd", "digest"])

    def a_student_runs() -> bool:
        return any(file.parent.name in students for file in sweep.started_epochs())

    nodes.start_head()
    workers = [nodes.start_worker()]
    wait_until(lambda: num_nodes(nodes) == 2, "head and worker are there")
    process = sweep.start()
    waits = []
    for begun, what in ((sweep.started_epochs, "a trial runs"), (a_student_runs, "a student of the teacher runs")):
        wait_until(begun, what)
        lying = lines_of(places)
        nodes.kill(workers.pop())
        workers.append(nodes.start_worker())
        waits.append(sweep.wait_for_an_epoch())
    sweep.finish(process)
    assert_same_ledger(sweep.store, undisturbed.store)
    trials = load_trials(sweep.store)
    assert (trials["attempt"] <= 3).all(), "one epoch at most is begun again for each loss"
    head, *victims = lying[-1]
    assert len(victims) == 1, "the targets lay on one node"
    assert head not in victims, "and it was the worker that was lost"
    assert any(set(nodes_of) - {head, *victims} for _, *nodes_of in lines_of(places)), "they were made again elsewhere"
    report("two nodes lost, another one joining each time", epochs=epochs_begun_again(sweep.store), recovery=max(waits))


@pytest.mark.long
def test_the_head_restarts_and_the_command_is_typed_again(sweep, nodes, undisturbed, report):
    """A job's driver runs on the head and goes with it."""
    head = nodes.start_head(cpus=2)
    wait_until(lambda: num_nodes(nodes) == 1, "the head is there")
    process = sweep.start()
    wait_until(lambda: sweep.num_ended() >= 2 and sweep.started_epochs(), "trials run")
    nodes.kill(head)
    sweep.kill(process)
    nodes.start_head(cpus=2)
    wait_until(lambda: num_nodes(nodes) == 1, "the head is there again")
    sweep.run()
    assert_same_ledger(sweep.store, undisturbed.store)
    report(
        "the head killed with its driver, and started again",
        epochs=epochs_begun_again(sweep.store),
        recovery="typed again",
    )
