"""`ray up cluster.yaml`, one trial, `rekd down`, on a pretended AWS: two minutes, with everything installed as on AWS."""

import aws
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(reason := aws.missing()), reason=f"a pretended AWS on one machine: {reason}"),
]

SWEEP = ("python", "sweeps/lambda_sweep.py", "--task", "digits", "--models", "vit-student", "--lambdas", "1")


def test_up_one_trial_and_down():
    with aws.deployed(is_warm=False) as cloud:
        cloud.laptop.run("ray", "up", "-y", aws.FILE)
        done = cloud.laptop.run(*SWEEP, "--seeds", "2026", "--epochs", "1", timeout=500)
        assert "1 trial to run" in done.stdout, done.stdout
        assert len(cloud.workers()) == 1
        print(f"\nfrom the order to {cloud.told_seconds()}")
        assert list(cloud.seconds_to()) == ["waiting-for-ssh", "syncing-files", "setting-up", "up-to-date", "an epoch"]
        cloud.laptop.run("python", "-m", "rekd", "down")
        assert cloud.left() == []
