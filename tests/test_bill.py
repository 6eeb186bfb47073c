"""What a cluster costs, and how one ends itself."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import rekd_command
from rekd.cluster import autodown
from rekd.cluster.bill import GCS, Running, ask, lines
from rekd.cluster.prices import read_prices
from rekd.cluster.ray_cluster import RayCluster

KINDS = {
    "head": {"node_config": {"InstanceType": "m7i.xlarge"}},
    "one_gpu": {
        "node_config": {"InstanceType": "g6e.xlarge", "InstanceMarketOptions": {"MarketType": "spot"}},
        "resources": {"GPU": 1},
    },
}
CONFIG = {
    "cluster_name": "mine",
    "provider": {"type": "external", "region": "us-west-2"},
    "head_node_type": "head",
    "max_workers": 5,
    "available_node_types": KINDS,
}
CLUSTER = RayCluster(file="cluster.yaml", head="10.0.0.1", config=CONFIG)
SOME = Running(
    by_state={
        "working": {"head": 1, "one_gpu": 3},
        "idle": {"one_gpu": 1},
        "being set up": {},
        "asked for": {"one_gpu": 9},
    }
)


def test_what_runs_is_told_by_what_it_does_and_what_is_paid_for_by_the_hour():
    machines, cost = lines(CLUSTER, SOME)
    assert machines == (
        "Machines of cluster.yaml: 1 head (m7i.xlarge) working, 3 one_gpu (g6e.xlarge) working, 1 one_gpu (g6e.xlarge) idle, "
        "9 one_gpu (g6e.xlarge) asked for."
    )
    prices = read_prices()
    head = prices.on_demand["m7i.xlarge"]
    low, high = (head + 4 * price["g6e.xlarge"] for price in (prices.spot, prices.on_demand))
    assert f"They cost ${low:.2f} to ${high:.2f} an hour (spot to on demand)" in cost
    assert prices.date in cost


def test_a_machine_that_the_table_lacks_is_named_and_machines_of_ones_own_cost_nothing():
    unknown = json.loads(json.dumps(CONFIG).replace("g6e.xlarge", "x99.huge"))
    assert "without x99.huge, which the table does not have" in lines(replace(CLUSTER, config=unknown), SOME)[1]
    own = {"provider": {"type": "local"}, "cluster_name": "mine"}
    assert lines(replace(CLUSTER, config=own), SOME)[1] == "They are not rented."


@pytest.fixture
def here(monkeypatch, tmp_path):
    """SSH to the head is a shell of this machine, with a home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(RayCluster, "ssh", lambda self, command, *options: ["bash", "-c", command])
    (tmp_path / ".rekd").mkdir()
    return tmp_path


def test_the_head_is_asked_and_answers(here):
    import ray

    from rekd.cluster.connect import connect, disconnect

    connect(local=True, num_cpus=1)
    try:
        (here / ".rekd" / "token").write_text(os.environ.get("RAY_AUTH_TOKEN", ""))
        running = ask(CLUSTER, python=sys.executable, address=ray.get_runtime_context().gcs_address)
    finally:
        disconnect()
    assert sum(running.paid.values()) == 1


def test_a_head_that_does_not_answer_is_one_line(here):
    with pytest.raises(ValueError, match=r"What runs on the cluster of cluster.yaml cannot be told: .*cloud's console"):
        ask(CLUSTER, python="/nowhere/python", address=GCS)


def test_rekd_status_is_of_the_cluster_or_of_a_store(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("rekd.cluster.ray_cluster.find", lambda: CLUSTER)
    monkeypatch.setattr("rekd.cluster.bill.ask", lambda cluster: SOME)
    for arguments, said in (
        (["--cluster"], "3 one_gpu (g6e.xlarge) working"),
        ([str(tmp_path / "none")], "There is no store at"),
    ):
        monkeypatch.setattr(sys, "argv", ["rekd", "status", *arguments])
        with pytest.raises(SystemExit):
            rekd_command.main()
        out = capsys.readouterr()
        assert said in out.out + out.err


# --- The end --------------------------------------------------------------------------------------------------------

PROVIDER = """
from pathlib import Path
from ray.autoscaler.node_provider import NodeProvider

class Stub(NodeProvider):
    def non_terminated_nodes(self, tag_filters):
        return {"head": ["i-head"], "worker": ["i-1", "i-2"]}[tag_filters["ray-node-type"]]

    def terminate_nodes(self, nodes):
        with Path("~/ended").expanduser().open("a") as log:
            log.write(" ".join(nodes) + chr(10))
"""


def test_the_cluster_ends_itself_the_workers_first_and_the_head_last(here, monkeypatch):
    (here / "made_up_provider.py").write_text(PROVIDER)
    provider = {"type": "external", "module": "made_up_provider.Stub"}
    (here / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump({"cluster_name": "mine", "provider": provider}))
    monkeypatch.setenv("PYTHONPATH", f"{here}:{Path(__file__).parents[1]}")
    monkeypatch.setenv("REKD_AUTODOWN_DELAY", "0")
    autodown.check()
    with autodown.end_later() as process:
        assert process.wait(timeout=120) == 0
    ended = here / "ended"
    assert ended.read_text().splitlines() == ["i-1 i-2", "i-head"], (here / ".rekd" / "autodown.log").read_text()


def test_a_cluster_that_is_not_rented_is_not_ended(here):
    with pytest.raises(ValueError, match="--autodown ends a cluster that `ray up` has rented"):
        autodown.check()
    (here / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump({"provider": {"type": "local"}}))
    with pytest.raises(ValueError, match="--autodown"):
        autodown.check()
