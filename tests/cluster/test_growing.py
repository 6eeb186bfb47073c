"""A cluster that has no machine for trials until trials wait for one, as on AWS; the test is the cloud."""

import shutil
import subprocess
import time

import hosts
import pytest

from analysis import load_trials

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(reason := hosts.missing()), reason=f"three hosts on one machine: {reason}"),
]

QUIET = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}


def test_a_sweep_waits_for_machines_and_uses_all_that_come():
    with hosts.three_hosts() as network:
        tree = network.shared / "tree"
        shutil.copytree(network.laptop.base / "project", tree, ignore=shutil.ignore_patterns(".venv"))
        network.head.run("ray", "start", "--head", "--port=6379", "--num-cpus=0", "--num-gpus=0", **QUIET)
        address = f"{network.head.address}:6379"
        command = network.head.command(
            "sh", "-c", f'cd {hosts.SHARED}/tree && exec python "$@"', "sh", "sweeps/alpha_sweep.py", "--task", "digits",
            *("--seeds", "2026,2027", "--teacher-seed", "2026", "--alphas", "0.3", "--epochs", "1"),
            *("--store", f"{hosts.SHARED}/results"),
            RAY_ADDRESS=address,
            REKD_MOST_GPUS="4",
            PYTHONPATH=f"{hosts.SHARED}/tree",
            **QUIET,
        )  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as sweep:
            time.sleep(20)
            assert sweep.poll() is None, sweep.communicate()[0]
            for worker in network.workers:  # GPUs are numbers here
                worker.run(
                    "ray",
                    "start",
                    f"--address={address}",
                    "--num-cpus=2",
                    "--num-gpus=2",
                    **QUIET,
                    PYTHONPATH=f"{hosts.SHARED}/tree",
                )
            output, _ = sweep.communicate(timeout=500)
        assert sweep.returncode == 0, output
        assert "0 CPUs, 4 GPUs" in output
        trials = load_trials(network.shared / "results")
        assert len(trials) == 6
        assert (trials["status"] == "ok").all()
