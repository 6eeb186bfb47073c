"""A cluster that has no machine until a trial waits for one, as on AWS, with Ray's own stand-in for a cloud."""

import hosts
import pytest

from analysis import load_trials

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(reason := hosts.missing()), reason=f"three hosts on one machine: {reason}"),
]

# Autoscaler version 2, as cluster.yaml has it. GPUs are numbers here: what is tested is that they are ordered.
CLOUD = """
import os, subprocess, sys
from ray.cluster_utils import AutoscalingCluster
resources = {"CPU": 2, "GPU": 2, "object_store_memory": 200_000_000}
machine = {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": 2}
cluster = AutoscalingCluster(head_resources={"CPU": 0}, worker_node_types={"gpu": machine}, autoscaler_v2=True)
cluster.start()
environment = {**os.environ, "RAY_ADDRESS": "auto", "REKD_MOST_GPUS": "4"}
sys.exit(subprocess.run([sys.executable, *sys.argv[1:]], env=environment).returncode)
"""


def test_machines_come_when_trials_wait_for_them():
    with hosts.three_hosts() as network:
        done = network.laptop.run(
            "python", "-c", CLOUD, "sweeps/alpha_sweep.py", "--task", "digits", "--seeds", "2026,2027", "--alphas", "0.3",
            *("--teacher-seed", "2026", "--epochs", "1", "--store", "/tmp/results"),
            check=False,
            timeout=600,
            RAY_USAGE_STATS_ENABLED="0",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "0 CPUs, 4 GPUs" in done.stdout
        trials = load_trials(network.laptop.base / "tmp" / "results")
        assert len(trials) == 6
        assert (trials["status"] == "ok").all()
