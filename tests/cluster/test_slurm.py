"""The Slurm script on three hosts made of this machine, under two commands that stand for Slurm's."""

import shutil

import hosts
import pytest

from analysis import load_trials

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(reason := hosts.missing()), reason=f"three hosts on one machine: {reason}"),
]

# Enough of srun for one job: the command on every node at once, with this environment; the highest status of all.
SRUN = """#!/usr/bin/env python3
import os, shlex, subprocess, sys
nodes, words = os.environ["SLURM_JOB_NODELIST"].split(","), sys.argv[1:]
while words[0].startswith("--"):
    option = words.pop(0)
    if option.startswith("--nodelist="):
        nodes = [option.removeprefix("--nodelist=")]
setting = shlex.join(f"{name}={value}" for name, value in os.environ.items())
line = f"cd {shlex.quote(os.getcwd())} && exec env -i {setting} {shlex.join(words)}"
ssh = ["ssh", "-o", "StrictHostKeyChecking=accept-new", "-o", "LogLevel=ERROR", "-i", "/root/.ssh/rekd"]
sys.exit(max(process.wait() for process in [subprocess.Popen([*ssh, f"root@{node}", line]) for node in nodes]))
"""
SCONTROL = """#!/bin/sh
echo "$SLURM_JOB_NODELIST" | tr , '\\n'
"""


def test_a_job_of_three_nodes_runs_a_sweep_and_leaves_its_results_only():
    with hosts.three_hosts() as network:
        tree, commands = network.shared / "tree", network.shared / "bin"
        shutil.copytree(network.laptop.base / "project", tree, ignore=shutil.ignore_patterns(".venv"))
        (tree / ".venv").symlink_to(hosts.VENV)
        commands.mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        shutil.copytree(network.laptop.base / "root" / ".ssh", network.head.base / "root" / ".ssh")
        done = network.head.run(
            "bash", "-c", f'PATH={hosts.SHARED}/bin:$PATH exec bash {hosts.SHARED}/tree/clusters/slurm.sbatch "$@"', "sbatch",
            *("alpha_sweep.py", "--task", "digits", "--seeds", "2026,2027", "--teacher-seed", "2026", "--alphas", "0.3"),
            *("--epochs", "1", "--store", f"{hosts.SHARED}/results"),
            check=False,
            timeout=600,
            SLURM_SUBMIT_DIR=f"{hosts.SHARED}/tree",
            PYTHONPATH=f"{hosts.SHARED}/tree",  # where the environment was made, it finds the tree by itself
            SLURM_JOB_ID="4711",
            SLURM_JOB_NUM_NODES="3",
            SLURM_JOB_NODELIST="head,worker1,worker2",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "6 CPUs" in done.stdout
        trials = load_trials(network.shared / "results")
        assert len(trials) == 6
        assert (trials["status"] == "ok").all()
        for host in network.hosts:
            assert host.processes() == []
            assert host.run("find", "/tmp", "-type", "f", "-not", "-path", f"{hosts.ROOT}/*").stdout == ""
