"""`python -m rekd train`: one trial, once, however many ask for it."""

import pytest
from typer.testing import CliRunner

import rekd.running.one_trial as one_trial
import rekd.store.claims as claims_module
from rekd.commands import app
from rekd.store.claims import Claims
from rekd.store.ledger import Ledger, Outcome
from rekd.tasks.task import load_task

TRIAL = load_task("digits").trial("re", "vit-student", seed=7)
OK = Outcome(status="ok", best_epoch=1, dev_loss=0.1, test_accuracy=0.9, test_rationale_ratio=0.2)
RECORD = {"dev_loss": 0.1, "dev_accuracy": 0.9, "dev_rationale_ratio": 0.2, "temperature": 5.0}


@pytest.fixture
def train(store, monkeypatch):
    """Called with what takes the place of training: a generator of records."""

    def typed(run_trial) -> tuple[int, str]:
        monkeypatch.setattr(one_trial, "check_trial", lambda *arguments, **options: [])
        monkeypatch.setattr(one_trial, "run_trial", lambda *arguments, **options: run_trial())
        arguments = ["train", "--task", "digits", "--model", "vit-student", "--seed", "7", "--store", store.root]
        result = CliRunner().invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, " ".join(result.output.split())

    return typed


def test_a_trial_is_trained_once(store, train):
    started = []

    def run_trial():
        started.append(True)
        yield {"epoch": 1, **RECORD}
        Ledger(store).write(TRIAL, OK, [{"epoch": 1}])

    for _ in range(2):
        status, output = train(run_trial)
        assert status == 0
        assert "Best epoch 1: dev loss 0.1000" in output
    assert started == [True]
    assert store.names_in(store.claims_folder) == store.names_in(store.owners_folder) == []


def test_what_ended_between_the_first_look_and_the_claim_is_not_trained_again(store, train, monkeypatch):
    take = Claims.take

    def take_late(claims: Claims, digest: str) -> bool:
        Ledger(store).write(TRIAL, OK, [{"epoch": 1}])  # a sweep's, which then released its claim
        return take(claims, digest)

    monkeypatch.setattr(Claims, "take", take_late)
    status, output = train(lambda: pytest.fail("it is trained again"))
    assert status == 0
    assert "Best epoch 1: dev loss 0.1000" in output


def test_a_trial_that_was_taken_over_is_given_up(store, train, monkeypatch):
    monkeypatch.setattr(claims_module, "BEAT", 0.0)
    monkeypatch.setattr(claims_module, "LOOK_AGAIN", 0.0)

    def run_trial():
        yield {"epoch": 1, **RECORD}
        for name in store.names_in(store.claims_folder):  # a sweep takes this process for dead
            store.remove_file(f"{store.claims_folder}/{name}")
        yield {"epoch": 2, **RECORD}
        pytest.fail("it goes on")

    status, output = train(run_trial)
    assert status == 2
    assert f"has taken the trial {TRIAL.digest} over" in output


def test_a_trial_that_is_being_run_is_left_to_that_sweep(store, train):
    with Claims(store) as claims:
        assert claims.take(TRIAL.digest)
        status, output = train(lambda: pytest.fail("it is trained"))
    assert status == 2
    assert f"The trial {TRIAL.digest} is being run by a sweep" in output


def test_a_store_that_cannot_be_read_is_one_line(store, train, monkeypatch):
    def row(ledger: Ledger, digest: str) -> None:
        raise PermissionError(13, "Permission denied", store.root)

    monkeypatch.setattr(Ledger, "row", row)
    status, output = train(lambda: pytest.fail("it is trained"))
    assert status == 2
    assert output == f"Error: [Errno 13] Permission denied: '{store.root}'"


def test_a_trial_is_typed_with_several_teachers_and_a_curriculum(store, monkeypatch):
    asked = []

    def refuse(trial, **options):
        asked.append(trial)
        raise ValueError("enough")

    monkeypatch.setattr(one_trial, "check_trial", refuse)
    arguments = ["train", "--task", "digits", "--model", "vit-student", "--objective", "rekd", "--store", store.root]
    more = ["--teacher", "b:2", "--teacher", "a", "--distils", "rationale", "--alpha", "0.9->0.1:cosine"]
    assert CliRunner().invoke(app, [*arguments, *more, "--lambda-select", "0.5"]).exit_code == 2
    trial = asked[0]
    assert (trial.teachers, trial.distils) == ({"a": 1.0, "b": 2.0}, "rationale")
    assert (trial.alpha, trial.alpha_schedule, trial.lambda_select) == (0.1, "cosine from 0.9", 0.5)
    of_saliency = ["--objective", "re", "--estimator", "saliency", "--teacher", "c"]
    assert CliRunner().invoke(app, [*arguments, *of_saliency]).exit_code == 2
    assert (asked[-1].objective, asked[-1].estimator, asked[-1].teacher_digest) == ("re", "saliency", "c")
    wrong = CliRunner().invoke(app, [*arguments, "--teacher", "a", "--alpha", "0.9->0.1"])
    assert wrong.exit_code == 2
    assert "A value that moves is written" in wrong.output
