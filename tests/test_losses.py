"""A preempted node is no fault of its trials; a trial that never comes further is given up."""

import pytest

from rekd.running.tune import MAX_FAILURES, Losses
from rekd.tasks.task import load_task


@pytest.fixture
def trial():
    return load_task("digits").trial("re", "vit-student", seed=0)


def test_a_trial_that_goes_on_has_its_losses_forgiven(trial):
    losses = Losses()
    for epoch in range(1, 4 * MAX_FAILURES):
        losses.reached(trial, epoch)
        assert losses.once_more(trial)


@pytest.mark.parametrize("epoch", [0, 5])
def test_a_trial_that_stands_still_is_given_up_though_it_reports_old_epochs_again(trial, epoch):
    """Each attempt goes on from a checkpoint and so reports the epochs up to it once more."""
    losses, tried = Losses(), 0
    while True:
        for each in range(1, epoch + 1):
            losses.reached(trial, each)
        if not losses.once_more(trial):
            break
        tried += 1
        assert tried < 100
    assert tried == MAX_FAILURES


def test_trials_are_counted_apart(trial):
    losses, other = Losses(), load_task("digits").trial("re", "vit-student", seed=1)
    for _ in range(MAX_FAILURES):
        assert losses.once_more(trial)
    assert losses.once_more(other)
    assert not losses.once_more(trial)
