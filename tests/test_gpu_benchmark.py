"""The benchmark of a GPU runs here, small, from a bare checkout: without Ray, without datasets, without rekd's own metadata."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.makespan import outcome, paper
from benchmarks.paper_plan import TRIALS
from rekd.running.plan import to_run
from rekd.store.ledger import TRIALS_SCHEMA

ROOT = Path(__file__).parents[1]
NOT_THERE = ("ray", "datasets", "optuna", "duckdb")
"""What a bare machine with a GPU lacks."""

BARE = f"""
import importlib.metadata, sys
sys.modules.update(dict.fromkeys({NOT_THERE!r}))
found = importlib.metadata.version
def version(name):
    if name == "rekd":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.version = version
"""


@pytest.mark.slow
def test_it_runs_small_from_a_bare_checkout(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BARE)
    command = [sys.executable, "-m", "benchmarks.gpu", "--minutes", "9", "--models", "vit-tiny", "bert-mini"]
    ended = subprocess.run(
        [*command, "--to", str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())["found"]
    assert {(row["model"], row["arithmetic"]) for row in found["steps"]} == {
        (model, kind) for model in ("vit-tiny", "bert-mini") for kind in ("float32", "tf32", "bfloat16")
    }
    assert all(row[f"{kind}_ms"] > 0 for row in found["steps"] for kind in ("re", "rekd", "live", "by hand"))
    assert all(row["equal"] for row in found["exactness"] if "equal" in row)
    assert all(row["against_the_cpu"] == 0 for row in found["exactness"] if "against_the_cpu" in row)
    assert all(0 < row["bfloat16_against_float32"] < 0.1 for row in found["exactness"] if "against_the_cpu" in row)
    assert {row["processes"] for row in found["sharing"]} == {1}
    assert all(row["steps_a_second"] > 0 for row in found["sharing"])
    assert "these numbers say only that the benchmark runs" in (tmp_path / "out" / "gpu.md").read_text()


def test_the_papers_epochs_are_those_of_the_plan():
    plan_of, _ = paper()
    rows, epochs = [], Counter()
    while True:
        results = pd.DataFrame(rows, columns=TRIALS_SCHEMA.names)
        to_do = to_run(plan_of(results), results)
        if not to_do:
            break
        for trial in to_do:
            epochs[trial.task, trial.model, trial.objective] += trial.epochs
            rows.append({"digest": trial.digest, **asdict(trial), **asdict(outcome(trial))})
    assert len(rows) == 880
    assert dict(epochs) == TRIALS
