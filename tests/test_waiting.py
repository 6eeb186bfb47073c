"""What a sweep says while it waits for machines, and when it gives up: from made-up answers of Ray's, and from a real Ray."""

import time
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from ray.autoscaler.v2.schema import ClusterStatus, LaunchRequest, NodeInfo, NodeUsage, ResourceUsage
from rich.console import Console

from benchmarks.sweep import stub, trials
from rekd.cluster.orders import Notes
from rekd.cluster.waiting import NEWS_FOR, Watch, machines_of
from rekd.running.limits import Limits
from rekd.running.progress import Progress
from rekd.running.tune import _why_none_is_ordered
from rekd.store.files import Store
from rekd.tasks.task import load_task

REFUSED = (
    "An error occurred (InsufficientInstanceCapacity) when calling the RunInstances operation (reached max retries: 4): We "
    "currently do not have sufficient capacity in the Availability Zone you requested."
)


def node(name: str, kind: str = "one_gpu", **resources: float) -> NodeInfo:
    usage = NodeUsage(usage=[ResourceUsage(*each, 0.0) for each in resources.items()], idle_time_ms=0)
    address = f"10.0.0.{len(name)}"
    return NodeInfo("", kind, name, address, node_status="RUNNING", node_id=name, resource_usage=usage)


def pending(name: str, kind: str = "one_gpu") -> NodeInfo:
    return NodeInfo("", kind, name, "")


def asked(count: int, kind: str = "one_gpu") -> LaunchRequest:
    return LaunchRequest("", kind, count, LaunchRequest.Status.PENDING, 0)


def refused(at: float, details: str, kind: str = "one_gpu") -> LaunchRequest:
    return LaunchRequest("", kind, 1, LaunchRequest.Status.FAILED, int(at), int(at), details)


HEAD = node("head", "head", CPU=4)


class MadeUp:
    """A cluster whose states are made up, and its clock."""

    def __init__(self) -> None:
        self.now, self.status, self.nodes, self.note = 1000.0, ClusterStatus(active_nodes=[HEAD]), [], None
        self.watch = Watch(
            lambda: machines_of(self.status, self.nodes), needs="GPU", notes=lambda: self.note, clock=lambda: self.now
        )

    def said(self, **state) -> str:
        self.status = ClusterStatus(**{"active_nodes": [HEAD], **state})
        return self.watch.said()


@pytest.fixture
def cluster() -> MadeUp:
    return MadeUp()


def test_it_says_that_there_is_no_machine_and_what_is_on_its_way(cluster):
    assert cluster.said() == "no machine yet: none is ordered"
    assert cluster.said(pending_launches=[asked(60), asked(2, "four_gpus")]) == (
        "no machine yet: asking for 60 one_gpu, asking for 2 four_gpus"
    )
    assert cluster.said(pending_launches=[asked(58)], pending_nodes=[pending("a"), pending("b")]) == (
        "no machine yet: asking for 58 one_gpu, 2 one_gpu being set up"
    )
    both = [node("a", GPU=1), node("b", GPU=1)]
    assert cluster.said(active_nodes=[HEAD, *both], pending_launches=[asked(2)]) == "asking for 2 one_gpu"
    assert cluster.said(active_nodes=[HEAD], idle_nodes=both) == ""


def test_a_refused_order_is_told_in_the_clouds_own_word_and_forgotten_when_it_is_old(cluster):
    failed = [refused(900, "quota"), refused(990, REFUSED)]
    told = cluster.said(failed_launches=failed, pending_launches=[asked(60)])
    assert told == "no machine yet: InsufficientInstanceCapacity, asking for 60 one_gpu"
    cluster.now += NEWS_FOR
    assert "InsufficientInstanceCapacity" not in cluster.said(failed_launches=failed)


def test_what_the_head_noted_goes_before_what_ray_says(cluster):
    cluster.note = "InsufficientInstanceCapacity (spot), asking on demand"
    told = cluster.said(failed_launches=[refused(990, "launch failed")])
    assert told == "no machine yet: InsufficientInstanceCapacity (spot), asking on demand"


def test_what_the_head_noted_is_what_a_sweep_on_it_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    notes = Notes()
    assert _why_none_is_ordered() is None
    notes.write_refused("No g6e.xlarge: InsufficientInstanceCapacity (spot)")
    assert _why_none_is_ordered() == "No g6e.xlarge: InsufficientInstanceCapacity (spot)"
    notes.write_hold("3 setups in a row have failed")
    assert _why_none_is_ordered() == "3 setups in a row have failed"


def test_a_setup_that_fails_is_told_and_one_that_succeeds_is_not(cluster):
    cluster.said(pending_nodes=[pending("a"), pending("b")])
    assert "could not be set up" not in cluster.said(
        pending_nodes=[pending("b")], active_nodes=[HEAD, node("a", GPU=1)]
    )
    assert cluster.said(active_nodes=[HEAD, node("a", GPU=1)]) == "1 machine could not be set up"


@pytest.mark.parametrize(("reason", "is_told"), [(2, True), (0, True), (3, True), (1, False), (4, False)])
def test_a_lost_machine_is_told_and_one_that_was_given_back_is_not(cluster, reason, is_told):
    cluster.said(active_nodes=[HEAD, node("a", GPU=1)])
    cluster.nodes = [
        {"NodeID": "a", "Alive": False, "NodeManagerAddress": "10.0.0.7"}
        | {"DeathReason": reason, "DeathReasonMessage": "health check failed."}
    ]
    told = cluster.said()
    assert ("lost 10.0.0.7 (health check failed)" in told) == is_told
    cluster.now += NEWS_FOR
    assert "lost" not in cluster.said()


def test_a_head_that_does_not_answer_is_no_end(cluster):
    cluster.said(pending_launches=[asked(1)])
    cluster.nodes = [{"NodeID": "a"}]  # makes no sense
    assert cluster.watch.said() == "no machine yet: asking for 1 one_gpu"


def test_the_wait_is_counted_from_the_last_machine_on_and_ends_with_what_to_do(cluster):
    limits = Limits(wait_minutes=30)
    cluster.said(active_nodes=[HEAD, node("a", GPU=1)])
    cluster.now += 3600
    cluster.said(active_nodes=[HEAD, node("a", GPU=1)])
    assert limits.reached(cluster.watch, started=0.0) == ""
    cluster.said()
    cluster.now += 29 * 60
    assert limits.reached(cluster.watch, started=0.0) == ""
    cluster.now += 60
    cluster.note = "VcpuLimitExceeded (on demand)"
    why = limits.reached(cluster.watch, started=0.0)
    assert why.startswith("there was no machine for 30 min (VcpuLimitExceeded (on demand)). Ask for other machines")


def test_machines_cost_from_the_moment_they_are_set_up_and_idle_ones_too(cluster):
    prices = {"head": 0.2, "one_gpu": 2.0}
    cluster.said()
    cluster.now += 3600
    cluster.said(pending_nodes=[pending("b")], idle_nodes=[node("a", GPU=1)])
    assert cluster.watch.cost(prices) == pytest.approx(0.2 + 2 * 2)
    assert Limits(max_cost=4.2, prices=prices).reached(cluster.watch, 0.0).startswith("--max-cost 4.2 is reached")
    assert Limits(max_cost=4.3, prices=prices).reached(cluster.watch, 0.0) == ""


def test_a_sum_of_money_without_prices_is_refused():
    with pytest.raises(ValueError, match="--max-cost needs machines of known prices"):
        Limits(max_cost=5)


@dataclass(frozen=True, kw_only=True)
class OnceOneRuns(Limits):
    """A limit that is reached when a trial has begun."""

    mark: Path

    def reached(self, watch, started, **of_a_trial) -> str:
        return "one has begun" if self.mark.exists() else ""


@pytest.fixture
def sweep(store, monkeypatch):
    """Runs five stub trials on a Ray of one CPU, for which a cluster file promises GPUs that never come."""
    from rekd.cluster.connect import connect, disconnect
    from rekd.running.tune import run_sweep

    monkeypatch.setenv("REKD_MOST_GPUS", "2")
    monkeypatch.setattr("rekd.running.progress.LOOK_EVERY", 0.1)
    monkeypatch.setattr("rekd.running.progress.LINE_EVERY", 0.5)
    console = Console(file=StringIO(), width=300)
    cluster = connect(local=True, num_cpus=1)

    def run(**how):
        progress, task = Progress(console), load_task("digits")
        return run_sweep(
            trials(5), store, tasks=[task], cluster=cluster, progress=progress, **how
        ), console.file.getvalue()

    yield run
    disconnect()


def test_on_a_real_ray_the_sweep_gives_up_waiting_and_at_a_limit_withdraws_what_waits(sweep, store):
    result, said = sweep(trainable=stub, limits=Limits(wait_minutes=0.05))
    assert "0 of 5 trials" in said
    assert "no machine yet: none is ordered" in said
    assert result.held.startswith("there was no machine")
    assert len(result.missing) == 5
    assert not result.is_complete

    def begins_and_lasts(config, *, store_uri, **shared) -> None:
        Store(store_uri).write_once(f"{store_uri}/begun", b"")
        time.sleep(1)
        stub(config, store_uri=store_uri, **shared)

    limits = OnceOneRuns(mark=Path(store.root) / "begun")
    result, _ = sweep(trainable=begins_and_lasts, limits=limits, gpus_per_trial=0, max_concurrent=3)
    assert result.held == "one has begun"
    assert result.num_trained == len(result.rows) == 1  # it went on to its end; two had a place in the line
    assert len(result.missing) == 4
