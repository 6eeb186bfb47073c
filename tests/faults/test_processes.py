"""Workers and drivers that are killed, and several drivers at once."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from disturbed import ROOT
from sweep import NUM_TRIALS, Sweep, assert_same_ledger, epochs_begun_again, wait_until

from analysis import load_epochs, load_trials
from rekd.store.claims import LOOK_AGAIN

NUM_KILLS = 20


@pytest.mark.long
def test_a_worker_killed_in_mid_epoch(sweep, undisturbed, report):
    process = sweep.start()
    waits = []
    for _ in range(3):
        wait_until(sweep.started_epochs, "a trial is being trained")
        wait_until(sweep.trainers, "its process is found")
        victim = sweep.trainers()[0]
        os.kill(victim, signal.SIGKILL)
        waits.append(sweep.wait_for_an_epoch())
    sweep.finish(process)
    assert_same_ledger(sweep.store, undisturbed.store)
    assert load_trials(sweep.store)["attempt"].max() > 1, "no trial was hit"
    report("three workers killed in mid-epoch", epochs=epochs_begun_again(sweep.store), recovery=max(waits))


@pytest.mark.long
def test_workers_that_hang_are_told_and_ended_and_their_trials_go_on(sweep, undisturbed, report):
    """Stopped, not killed: they neither end nor report."""
    sweep.environment["REKD_SILENCE"] = "20"
    process = sweep.start()
    wait_until(sweep.started_epochs, "a trial is being trained")
    wait_until(sweep.trainers, "its process is found")
    victims = sweep.trainers()
    for victim in victims:
        os.kill(victim, signal.SIGSTOP)
    stopped = time.monotonic()
    wait_until(lambda: not set(victims) & set(sweep.trainers()), "they are ended")
    sweep.wait_for_an_epoch()
    recovery = time.monotonic() - stopped
    output = sweep.finish(process)
    assert_same_ledger(sweep.store, undisturbed.store)
    assert "; no epoch for " in output
    assert output.count("Its process is ended; it is tried again.") >= len(victims)
    assert load_trials(sweep.store)["attempt"].max() > 1, "no trial was hit"
    report(
        f"{len(victims)} workers that hang (a limit of 20 s)", epochs=epochs_begun_again(sweep.store), recovery=recovery
    )


@pytest.mark.long
def test_the_driver_killed_at_twenty_moments(sweep, undisturbed, report):
    chance = random.Random(0)
    ended = []
    # A folder that is short, as the paths of sockets have to be.
    sweep.environment["RAY_TMPDIR"] = scratch = tempfile.mkdtemp(prefix="rekd-", dir="/tmp")
    # From the first import to the last trial: each as soon as so many trials have ended, and a while.
    for least in sorted(chance.randrange(NUM_TRIALS - 4) for _ in range(NUM_KILLS)):
        process = sweep.start()
        wait_until(
            lambda least=least, process=process: sweep.num_ended() >= least or process.poll() is not None,
            "trials have ended",
        )
        time.sleep(chance.uniform(0, 6))
        assert process.poll() is None, f"the run has ended after {len(ended)} kills"
        sweep.kill(process)
        ended.append(sweep.num_ended())
    sweep.run()
    assert_same_ledger(sweep.store, undisturbed.store)
    left = list(Path(scratch).glob("rekd-*/*"))
    shutil.rmtree(scratch)
    assert left == [], "what killed drivers left goes when the next one begins"
    print(f"\ntrials that had ended at the kills: {ended}")
    report(f"the driver killed at {len(ended)} moments", epochs=epochs_begun_again(sweep.store), recovery="typed again")


@pytest.mark.slow
def test_two_drivers_on_one_store_share_the_trials(sweep, undisturbed, report, tmp_path):
    other = Sweep(sweep.task, sweep.store, tmp_path / "other.log")
    processes = [sweep.start(), other.start()]
    outputs = [each.finish(process) for each, process in zip((sweep, other), processes, strict=True)]
    assert all("Choice for vit-tiny" in output for output in outputs)
    assert_same_ledger(sweep.store, undisturbed.store)
    # Nothing was trained twice: a second run of a trial would be a second attempt, or a row written after the first.
    assert (load_trials(sweep.store)["attempt"] == 1).all()
    assert (load_epochs(sweep.store)["attempt"] == 1).all()
    report("two drivers on one store", epochs=0, recovery="at once")


@pytest.mark.long
def test_the_trials_of_a_dead_driver_are_taken_over(sweep, undisturbed, report, tmp_path):
    other = Sweep(sweep.task, sweep.store, tmp_path / "other.log")
    processes = [sweep.start(), other.start()]
    wait_until(lambda: sweep.num_ended() >= NUM_TRIALS // 3, "a third has ended")
    sweep.kill(processes[0])
    killed = time.monotonic()
    other.finish(processes[1])
    assert_same_ledger(sweep.store, undisturbed.store)
    report(
        "one of two drivers killed, the other goes on",
        epochs=epochs_begun_again(sweep.store),
        recovery=time.monotonic() - killed,
    )


@pytest.mark.long
def test_a_driver_that_is_asked_to_end_leaves_a_ledger_to_go_on_from(sweep, undisturbed, report):
    process = sweep.start()
    wait_until(sweep.started_epochs, "a trial is being trained")
    os.kill(process.pid, signal.SIGTERM)
    asked = time.monotonic()
    output = sweep.finish(process, status=1)
    seconds = time.monotonic() - asked
    assert "Interrupted." in output
    assert "Traceback" not in output
    wait_until(lambda: not sweep.processes(), "what it started has ended")
    sweep.run()
    assert_same_ledger(sweep.store, undisturbed.store)
    report(
        f"the driver asked to end (SIGTERM), which took it {seconds:.0f} s",
        epochs=epochs_begun_again(sweep.store),
        recovery="typed again",
    )


HOLDER = """
import os, sys
from rekd.store.claims import Claims
from rekd.store.files import Store

os.umask(0)
with Claims(Store(sys.argv[1])) as claims:
    for _ in range(2):
        print(claims.take("0123456789abcdef"), flush=True)
        sys.stdin.readline()
"""


@pytest.mark.long
def test_another_users_sweep_is_alive_though_proc_hides_it(report):
    """Two users of one host whose `/proc` has `hidepid`: what one has the other does not get, until its process has ended."""
    hidden = 'mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"'
    other_user = ["unshare", "--mount", "sh", "-c", hidden, "sh"]
    if subprocess.run([*other_user, sys.executable, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount /proc for another user")
    folder = tempfile.mkdtemp(dir="/var/tmp")
    Path(folder).chmod(0o777)  # both write there

    def holder(*before: str) -> subprocess.Popen:
        command = [*before, sys.executable, "-c", HOLDER, f"{folder}/store"]
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    try:
        with holder() as first:
            assert first.stdout is not None
            assert first.stdout.readline() == "True\n"
            with holder(*other_user) as second:
                assert second.stdout is not None
                assert second.stdin is not None
                assert second.stdout.readline() == "False\n"
                first.kill()
                first.wait()
                killed = time.monotonic()
                time.sleep(LOOK_AGAIN)  # for as long a look serves
                second.stdin.write("\n")
                second.stdin.flush()
                assert second.stdout.readline() == "True\n"
                recovery = time.monotonic() - killed
                second.kill()
    finally:
        shutil.rmtree(folder)
    report("another user's sweep behind `hidepid`: not taken over, then killed", epochs=0, recovery=recovery)
