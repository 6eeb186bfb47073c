"""Upkeep of a store: what is rubbish goes, what anything needs stays; what is asked for again runs again."""

import json
import os
import time
import uuid
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rekd.commands import app
from rekd.store.claims import Claims
from rekd.store.files import Store
from rekd.store.ledger import Ledger, Outcome
from rekd.store.upkeep import clear_ended
from rekd.trial import Trial

TRIAL = Trial(task="toy", task_digest="a", model="vit", model_digest="b", objective="cls", seed=1, epochs=3)
RE = {
    "p_target": 0.2,
    "lambda_select": 0.1,
    "temperature_initial": 5.0,
    "temperature_final": 0.1,
    "temperature_every": 1,
}


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.output


def leave_checkpoints(store: Store, trial: Trial) -> str:
    """Two, and which trial they are of. Returns their folder."""
    folder = store.running_folder(trial.digest)
    store.write(store.running_trial_file(trial.digest), json.dumps(asdict(trial)).encode())
    for epoch in (1, 2):
        store.write(f"{folder}/epoch-0000{epoch}.safetensors", b"0" * 500)
    return folder


def leave_model(store: Store, trial: Trial) -> str:
    for name in ("model.safetensors", "config.json"):
        store.write(f"{store.model_folder(trial.digest)}/{name}", b"0" * 500)
    return store.model_folder(trial.digest)


def leave_temporary(store: Store, *, age: float) -> Path:
    file = Path(store.trials_folder) / f".{TRIAL.digest}.parquet.{uuid.uuid4().hex}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"half")
    os.utime(file, (time.time() - age,) * 2)
    return file


@pytest.fixture
def trials(store):
    """By what became of it: a trial that is `ok`, one that `failed` and one that is `unfinished`, all with checkpoints."""
    made = {what: replace(TRIAL, seed=seed) for seed, what in enumerate(("ok", "failed", "unfinished"))}
    Ledger(store).write(made["ok"], Outcome(status="ok"))
    Ledger(store).write(made["failed"], Outcome(status="failed", error="why"))
    for trial in made.values():
        leave_checkpoints(store, trial)
    return made


def with_checkpoints(store: Store, trials: dict[str, Trial]) -> set[str]:
    return {what for what, trial in trials.items() if store.exists(store.running_folder(trial.digest))}


def test_tidy_says_what_it_removes_and_removes_it(store, trials):
    late, early = leave_temporary(store, age=7200), leave_temporary(store, age=60)
    store.write(store.failure_file(trials["ok"].digest), b"of a run that overlapped")
    for name in ("0123456789abcdef", f"{trials['ok'].digest}-0123456789abcdef"):  # as 0.1.0 named them, and as today
        store.write(f"{store.targets_folder}/{name}.safetensors", b"1234")
    said = run("tidy", store, "--dry-run")
    assert "1 checkpoints of trials that have a result (1," in said
    assert "1 checkpoints of failed trials, which will begin anew (1," in said
    assert "1 failures of trials that have a result (24 bytes)" in said
    assert "1 targets of 0.1.0, which nothing reads (4 bytes)" in said
    assert "1 files of writers that were killed (4 bytes)" in said
    assert "model" not in said
    assert (with_checkpoints(store, trials), late.exists()) == ({"ok", "failed", "unfinished"}, True)

    assert run("tidy", store).startswith(said)
    assert with_checkpoints(store, trials) == {"unfinished"}, "it goes on from them"
    assert (late.exists(), early.exists()) == (False, True)
    assert Ledger(store).row(trials["failed"].digest)["error"] == "why"
    assert Ledger(store).done() == {trials["ok"].digest}
    assert run("tidy", store) == "There is nothing to remove.\n"
    assert store.names_in(store.owners_folder) == []


def test_tidy_leaves_a_failed_trial_that_has_begun_again_and_was_interrupted(store, trials):
    """Its row is of the try before; the folder says when a try began."""
    now = datetime.now(UTC)
    for seconds, left in ((60, set()), (-60, {"failed"})):
        finished_at = (now + timedelta(seconds=seconds)).isoformat(timespec="seconds")
        leave_checkpoints(store, trials["failed"])
        Ledger(store).write(trials["failed"], Outcome(status="failed", error="why", finished_at=finished_at))
        run("tidy", store)
        assert with_checkpoints(store, trials) == {"unfinished"} | left


def test_tidy_leaves_what_a_running_trial_needs(store, trials):
    with Claims(store) as claims:
        assert claims.take(trials["failed"].digest)
        run("tidy", store)
    assert with_checkpoints(store, trials) == {"failed", "unfinished"}


def test_what_belongs_to_a_trial_with_a_result_goes_by_itself(store, trials):
    with Claims(store) as claims:
        clear_ended(store, claims, Ledger(store).done())
        assert claims.held == set()
    assert with_checkpoints(store, trials) == {"failed", "unfinished"}


def test_tidy_of_no_store_and_of_an_empty_one(tmp_path):
    assert "There is no store at" in run("tidy", tmp_path / "nowhere", status=2)
    assert run("tidy", tmp_path) == "There is nothing to remove.\n"


# --- Models -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def models(store):
    """Two settings of three seeds, and a student; all have models. By name."""
    made = {}
    for name, rate in (("a", 1e-3), ("b", 1e-4)):
        for seed in (1, 2, 3):
            made[f"{name}{seed}"] = replace(TRIAL, objective="re", learning_rate=rate, seed=seed, **RE)
    taught = {"alpha": 0.3, "lambda_rationale": 0.5, "teacher_digest": made["b3"].digest}
    made["student"] = replace(made["a1"], objective="rekd", **taught)
    for trial in made.values():
        Ledger(store).write(trial, Outcome(status="ok", dev_loss=abs(trial.seed - 2) / 10))
        leave_model(store, trial)
    return made


@pytest.mark.parametrize(
    ("keep", "stay"),
    [
        ("all", {"a1", "a2", "a3", "b1", "b2", "b3", "student"}),
        ("best", {"a2", "b2", "b3", "student"}),  # b3 has taught the student
        ("none", {"b3"}),
    ],
)
def test_models_that_nobody_needs_may_go_and_a_teachers_stays(store, models, keep, stay):
    leave_model(store, replace(TRIAL, seed=77))  # on its way to its row
    run("tidy", store, "--keep-models", keep)
    left = set(store.names_in(store.models_folder))
    assert {name for name, trial in models.items() if trial.digest in left} == stay
    assert replace(TRIAL, seed=77).digest in left
    assert Ledger(store).done() == {trial.digest for trial in models.values()}


def test_the_teacher_of_a_trial_that_has_not_ended_stays(store, models):
    leave_checkpoints(store, replace(models["student"], teacher_digest=models["a1"].digest))
    store.write(store.running_trial_file("f" * 16), b"[" * 100_000)  # anything may lie there
    run("tidy", store, "--keep-models", "none")
    assert set(store.names_in(store.models_folder)) == {models["a1"].digest, models["b3"].digest}


def test_models_stay_while_a_sweep_is_running(store, models):
    with Claims(store):
        assert "A sweep is running" in run("tidy", store, "--keep-models", "none", status=2)
    assert len(store.names_in(store.models_folder)) == len(models)


# --- Redo -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_compact", [False, True])
def test_a_trial_that_is_asked_for_again_runs_from_the_start(store, models, is_compact):
    teacher, others = models["b3"], {trial.digest for name, trial in models.items() if name != "b3"}
    ledger = Ledger(store)
    leave_checkpoints(store, teacher)
    another = store.targets_file(models["a1"].digest, "x")
    for file in (store.targets_file(teacher.digest, "x"), store.targets_file(teacher.digest, "y"), another):
        store.write(file, b"")
    if is_compact:
        ledger.compact(at_least=1)
    assert "To be run again" in run("redo", store, teacher.digest)
    assert ledger.done() == others
    row = ledger.row(teacher.digest)
    assert (row["status"], row["error"]) == ("failed", "It was asked for again (redo).")
    assert row["dev_loss"] == 0.1, "its numbers stay until it has new ones"
    assert not store.exists(store.running_folder(teacher.digest))
    assert not store.exists(store.model_folder(teacher.digest))
    assert [f"{store.targets_folder}/{name}" for name in store.names_in(store.targets_folder)] == [another]
    ledger.write(teacher, Outcome(status="ok", dev_loss=0.7))
    assert ledger.row(teacher.digest)["dev_loss"] == 0.7


def test_what_is_not_there_or_is_running_is_not_redone(store, models):
    first, second = models["a1"].digest, models["a2"].digest
    assert f"has no trial {'0' * 16}" in run("redo", store, first, "0" * 16, status=2)
    assert "has no trial ../x" in run("redo", store, "../x", status=2)
    with Claims(store) as claims:
        assert claims.take(second)
        assert f"The trial {second} is being run" in run("redo", store, first, second, status=2)
    assert Ledger(store).done() == {trial.digest for trial in models.values()}
