"""A preempted node is no fault of its trials; a trial that never comes further is given up."""

import pytest

from rekd.running.retries import MAX_FAILURES, Retries
from rekd.tasks.task import load_task


@pytest.fixture
def trial():
    return load_task("digits").trial("re", "vit-student", seed=0)


def test_a_trial_that_goes_on_has_its_losses_forgiven(trial):
    retries = Retries()
    for epoch in range(1, 4 * MAX_FAILURES):
        retries.reached(trial, epoch)
        assert retries.once_more(trial)


@pytest.mark.parametrize("epoch", [0, 5])
def test_a_trial_that_stands_still_is_given_up_though_it_reports_old_epochs_again(trial, epoch):
    """Each attempt goes on from a checkpoint and so reports the epochs up to it once more."""
    retries, tried = Retries(), 0
    while True:
        for each in range(1, epoch + 1):
            retries.reached(trial, each)
        if not retries.once_more(trial):
            break
        tried += 1
        assert tried < 100
    assert tried == MAX_FAILURES


def test_trials_are_counted_apart(trial):
    retries, other = Retries(), load_task("digits").trial("re", "vit-student", seed=1)
    for _ in range(MAX_FAILURES):
        assert retries.once_more(trial)
    assert retries.once_more(other)
    assert not retries.once_more(trial)
