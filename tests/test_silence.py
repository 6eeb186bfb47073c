"""A trial of which nothing is heard is told, and ended, after a while that suits it."""

from types import SimpleNamespace

import pytest

import rekd.running.silence as silence_module
from rekd.running.silence import Silence
from rekd.tasks.task import load_task

TRIAL, OTHER = (load_task("digits").trial("re", "vit-student", seed=seed) for seed in (1, 2))


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(silence_module, "FLOOR", 1200.0)
    return SimpleNamespace(now=0.0)


def silence_of(clock, *, epoch: float) -> Silence:
    silence = Silence(lambda trial: epoch, clock=lambda: clock.now)
    silence.begun(TRIAL, lambda: "10.0.0.7")
    return silence


def test_it_is_told_after_three_epochs_and_ended_after_ten(clock):
    silence = silence_of(clock, epoch=600)
    clock.now = 1800
    assert (silence.said(), silence.ends(TRIAL)) == ("", "")
    clock.now = 1860
    assert silence.said() == f"no epoch for 31 min: {TRIAL.digest} on 10.0.0.7"
    clock.now = 6000
    assert silence.ends(TRIAL) == ""
    clock.now = 6060
    assert silence.ends(TRIAL) == "no epoch for 1 h 41 min on 10.0.0.7"
    assert silence.said() == ""


def test_short_epochs_leave_it_five_and_twenty_minutes(clock):
    silence = silence_of(clock, epoch=1)
    clock.now = 299
    assert silence.said() == ""
    clock.now = 360
    assert silence.said() == f"no epoch for 6 min: {TRIAL.digest} on 10.0.0.7"
    clock.now = 1199
    assert silence.ends(TRIAL) == ""
    clock.now = 1201
    assert silence.ends(TRIAL)


def test_its_own_epochs_count_more_than_what_was_expected(clock):
    silence = silence_of(clock, epoch=1)
    silence.epoch(TRIAL, 1000.0)
    silence.epoch(TRIAL, 10.0)
    clock.now = 9999
    assert silence.ends(TRIAL) == ""
    clock.now = 10001
    assert silence.ends(TRIAL)


def test_an_epoch_breaks_the_silence_and_the_end_closes_it(clock):
    silence = silence_of(clock, epoch=1)
    clock.now = 1190
    silence.epoch(TRIAL, 1.0)
    clock.now = 1201
    assert silence.ends(TRIAL) == ""
    silence.over(TRIAL)
    clock.now = 1e6
    assert (silence.said(), silence.ends(TRIAL)) == ("", "")
    silence.epoch(TRIAL, 1.0)  # a report that was late
    assert silence.said() == ""


def test_the_next_limit_is_twice_as_long(clock):
    """Where the estimate was wrong the trial comes to its end all the same."""
    silence = silence_of(clock, epoch=1)
    for limit in (1200, 2400, 4800):
        clock.now = 0.0
        silence.begun(TRIAL, lambda: "10.0.0.7")
        clock.now = limit - 1
        assert silence.ends(TRIAL) == ""
        clock.now = limit + 1
        assert silence.ends(TRIAL)


def test_several_are_one_line(clock):
    silence = silence_of(clock, epoch=1)
    clock.now = 100
    silence.begun(OTHER, lambda: "10.0.0.8")
    clock.now = 500
    assert silence.said() == f"no epoch for 8 min: {TRIAL.digest} on 10.0.0.7 and 1 more"
