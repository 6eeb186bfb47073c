"""The main job as a user types it, at toy size: real processes, a real Ray, a real ledger."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analysis import load_epochs, load_trials
from rekd.store.files import Store
from sweeps.alpha_sweep import alpha_sweep
from sweeps.options import run_command

ROOT = Path(__file__).parents[2]
TOY = ("--task", "digits", "--epochs", "1", "--alphas", "0,0.3", "--teacher-seed", "2026", "--local")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "sweeps/alpha_sweep.py", *arguments]


def run(*arguments: str, status: int = 0) -> str:
    ended = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep of two seeds, of which one was there already, and what it printed."""
    store = tmp_path_factory.mktemp("sweep") / "store"
    run(*TOY, "--seeds", "2026", "--store", str(store))
    return store, run(*TOY, "--seeds", "2026,2027", "--store", str(store))


def test_every_trial_is_a_row_with_its_epochs(swept):
    store, _ = swept
    trials, epochs = load_trials(store), load_epochs(store)
    assert trials.groupby(["model", "objective"]).size().to_dict() == {
        ("vit-student", "re"): 2,
        ("vit-student", "rekd"): 4,
        ("vit-teacher", "re"): 2,
    }
    assert set(epochs["digest"]) == set(trials["digest"])
    assert (trials["status"] == "ok").all()
    assert trials["test_accuracy"].notna().all()
    assert set(trials.loc[trials["objective"] == "rekd", "teacher_digest"]) <= set(trials["digest"])


def test_another_seed_runs_alone(swept):
    store, output = swept
    assert "4 trials to run, 4 in the ledger already" in " ".join(output.split())
    assert len(load_trials(store)) == 8


def test_what_is_left_is_the_ledger_models_and_targets_and_neither_checkpoints_nor_logs(swept):
    store = Store(swept[0])
    assert not Path(store.logs_folder).exists()
    assert len(store.names_in(f"{store.root}/models")) == 8
    assert len(store.names_in(f"{store.root}/targets")) == 1
    assert store.names_in(f"{store.root}/running") == []


def test_it_says_where_it_runs_what_it_chose_and_where_the_files_are(swept):
    store, output = swept
    assert "Running on this machine" in output
    assert "Teacher of digits: vit-teacher, seed 2026" in output
    assert "Choice for vit-student: alpha = 0" in output
    assert "REKD" in output
    assert "ahead on" in output
    assert "95 % interval" not in output  # two seeds have none
    assert (store / "figures" / "alpha-digits.png").stat().st_size > 5_000
    for noise in ("WARNING", "ray.tune", "Traceback", "raylet"):
        assert noise not in output


def test_the_same_command_again_trains_nothing_and_is_quick(swept):
    store, first = swept
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    output = run(*TOY, "--seeds", "2026,2027", "--store", str(store))
    assert "nothing is trained" in output
    # Processor time, which does not grow with what else the machine does. Ray and torch alone take more than this.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 5
    assert first.split("Teacher of digits")[1] == output.split("Teacher of digits")[1]


def test_a_dry_run_tells_what_is_done_and_what_would_run_and_starts_nothing(swept):
    store, _ = swept
    before = len(load_trials(store))
    output = run(*TOY, "--seeds", "2026-2028", "--store", str(store), "--dry-run")
    words = " ".join(output.split())  # a terminal is not always as wide
    assert "12 trials: 8 in the ledger" in words
    assert "4 to run" in words
    assert "measured in runs of the ledger" in words
    assert len(load_trials(store)) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_ctrl_c_keeps_what_has_ended_and_says_how_to_go_on(tmp_path, number):
    """And what Slurm sends before it takes the machine away does the same."""
    arguments = command(*TOY[:2], "--seeds", "2026-2029", "--store", str(tmp_path), "--epochs", "40", "--local")
    with subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 600
        while not list(tmp_path.glob("running/*/epoch-*")) and time.monotonic() < deadline:
            time.sleep(0.5)
        os.kill(process.pid, number)
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert "Type the same command again to go on" in output
    assert "Traceback" not in output
    assert "SIGTERM" not in output  # nor Ray's own word, with a stack
    assert list(tmp_path.glob("running/*/epoch-*")), "what was running goes on from its checkpoint"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "2030-2026"], "seeds from 2030 to 2026 are none"),
        (["--seeds", "1,1"], "twice"),
        (["--alphas", "0,half"], "a grid is numbers with commas between"),
        (["--alphas", "1.5"], "alpha is a share in [0, 1], got 1.5"),
        (["--models", "vit-huge"], "--models names 'vit-huge'"),
        (["--task", "digit"], "digits"),
        (["--task", "[/none].toml"], "[/none].toml cannot be read"),
        (["--teacher-seed", "1"], "--teacher-seed 1 is none of"),
        (["--epochs", "0"], "epochs"),
    ],
)
def test_bad_input_is_one_message_and_status_2_and_leaves_nothing(tmp_path, arguments, message, monkeypatch, capsys):
    base = [] if "--task" in arguments else ["--task", "digits"]
    monkeypatch.setattr(sys, "argv", ["alpha_sweep.py", *base, *arguments, "--store", str(tmp_path / "store")])
    with pytest.raises(SystemExit) as ended:
        run_command(alpha_sweep)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: ")
    assert message in captured.err
    assert not captured.out
    assert not (tmp_path / "store").exists()
