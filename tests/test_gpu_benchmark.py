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

from benchmarks import gpu
from benchmarks.makespan import outcome, paper
from benchmarks.paper_plan import TRIALS
from rekd.running.plan import to_run
from rekd.store.ledger import TRIALS_SCHEMA

ROOT = Path(__file__).parents[1]
NOT_THERE = (
    *("ray", "datasets", "optuna", "sqlalchemy", "duckdb", "pandas", "scipy", "sklearn", "PIL", "matplotlib", "typer"),
    *("aiohttp", "jinja2", "markupsafe", "boto3"),
)
"""What a bare machine with a GPU lacks: all that training does not need."""

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


def test_what_fails_leaves_what_was_measured(tmp_path, monkeypatch, capsys):
    def fails(bench: gpu.Bench) -> None:
        raise RuntimeError("no such kernel\nand more")

    def measures(bench: gpu.Bench) -> None:
        bench.note("steps", model="vit-tiny", re_ms=1.5)

    monkeypatch.setattr(gpu, "SECTIONS", (measures, fails))
    gpu.main(["--to", str(tmp_path)])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == json.loads((tmp_path / "gpu.json").read_text())
    assert printed == {
        "found": {"steps": [{"model": "vit-tiny", "re_ms": 1.5}]},
        "left_out": ["fails (RuntimeError: no such kernel)"],
    }


def test_no_piece_of_work_is_begun_that_would_not_end_in_time(monkeypatch):
    bench = gpu.Bench(gpu.torch.device("cpu"), 0.0, ("vit-tiny",), batch=2, rounds=1)
    for section in gpu.SECTIONS:
        section(bench)
    assert bench.found == {}
    assert len(bench.left_out) > 5


def test_the_estimate_counts_steps_and_evaluations():
    bench = gpu.Bench(gpu.torch.device("cpu"), 0.0, (), batch=32, rounds=1)
    for name in gpu.SHAPES:
        bench.note("steps", model=name, arithmetic="tf32", re_ms=100.0, rekd_ms=100.0)
        bench.note("evaluation", model=name, samples_a_second=1000.0)
    gpu.estimate_paper(bench)
    (row,) = bench.found["paper"]
    whole = {key: epochs * (0.5 if key[2] == "cls" else 1) for key, epochs in TRIALS.items()}
    steps = sum(epochs * gpu.TRAIN_SAMPLES[task] / 32 for (task, _, _), epochs in whole.items())
    dev_samples = sum(epochs * gpu.DEV_SAMPLES[task] for (task, _, _), epochs in whole.items())
    assert row["training_hours"] == pytest.approx(0.1 * steps / 3600)
    assert row["evaluation_hours_in_bfloat16"] == pytest.approx(dev_samples / 1000 / 3600)


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
