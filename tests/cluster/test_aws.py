"""`ray up cluster.yaml`, sweeps and `rekd down` on a pretended AWS, and all that AWS can refuse or take back.

One cluster for all, in this order: what a test leaves there, the next one finds. The file is the user's, filled in by `deploy`.
"""

import re
import subprocess
import time

import aws
import policy
import pytest

from rekd.cluster.orders import MOST_REFUSALS, REST, WINDOW

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(reason := aws.missing()), reason=f"a pretended AWS on one machine: {reason}"),
]

SWEEP = ("python", "sweeps/alpha_sweep.py", "--task", "digits", "--teacher-seed", "2026", "--alphas", "0.3")
ON_HEAD = "/home/ubuntu/.rekd"
NO_ROLE, NO_QUOTA = "AuthFailure.ServiceLinkedRoleCreationNotPermitted", "VcpuLimitExceeded"
FULL = "InsufficientInstanceCapacity"


@pytest.fixture(scope="module")
def cloud():
    with aws.deployed() as cloud:
        up(cloud)
        yield cloud


def up(cloud) -> None:
    started = time.monotonic()
    done = cloud.laptop.run("ray", "up", "-y", aws.FILE, timeout=300)
    print(f"\nray up: {time.monotonic() - started:.0f} s")
    assert "Traceback" not in done.stdout + done.stderr
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert all("Dropping the empty legacy field" in line for line in warnings), warnings  # Ray's own: docs/upstream.md


def type_sweep(cloud, *arguments: str) -> subprocess.Popen[str]:
    words = cloud.laptop.command(*SWEEP, *arguments)
    return subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.5)


def note(cloud, name: str) -> str:
    """One of the files by which the head tells why there is no machine."""
    return cloud.head.run("cat", f"{ON_HEAD}/{name}", check=False).stdout


def is_spot(order: dict[str, str]) -> bool:
    return "InstanceMarketOptions.MarketType" in order


def training(cloud, sweep: subprocess.Popen[str], since: float) -> list[aws.Machine]:
    """Machines on which a trial of the sweep runs, once epochs have come into the store."""
    assert sweep.poll() is None, sweep.communicate()[0]
    if not any("/epoch-" in call["params"].get("path", "") for call in cloud.calls if call["at"] > since):
        return []
    return [m for m in cloud.workers() if any("ray::ImplicitFunc" in line for line in m.processes())]


def test_what_is_refused_is_told_and_not_asked_for_again_and_again(cloud):
    """No role for spot machines, no quota for others; then the quota comes, and the sweep goes on by itself.

    A sweep whose hours are over, beside it, orders nothing of what it would need.
    """
    started = time.monotonic()
    cloud.refuse = lambda order: NO_ROLE if is_spot(order) else NO_QUOTA
    sweep = type_sweep(cloud, "--seeds", "2026", "--epochs", "1", "--max-concurrent", "2")
    wait_for(lambda: "No g6e.xlarge" in note(cloud, "refused"), 90, "a word on why there is no machine")
    assert note(cloud, "refused") == f"No g6e.xlarge: {NO_ROLE} (spot), {NO_QUOTA} (on demand)\n"
    cloud.refuse = lambda order: NO_ROLE if is_spot(order) else None
    over = type_sweep(cloud, "--seeds", "2026", "--epochs", "2", "--gpus-per-trial", "8", "--max-hours", "0.0001")
    output, _ = over.communicate(timeout=200)
    assert "--max-hours 0.0001 is reached" in output
    output, _ = sweep.communicate(timeout=400)
    assert sweep.returncode == 0, output
    assert "REKD" in output
    print(f"\nfrom the order to {cloud.told_seconds()}")
    assert not any(map(is_spot, cloud.granted(since=started)))
    refused, again, *_ = [order["at"] for order in cloud.orders(since=started) if not is_spot(order["params"])]
    assert again - refused > REST - 1
    assert {order["params"]["InstanceType"] for order in cloud.orders(since=started)} == {"g6e.xlarge"}
    assert len(cloud.workers()) > 1  # more trials than one machine holds
    assert note(cloud, "refused") == ""
    cloud.refuse = lambda order: None


def test_three_machines_that_cannot_be_set_up_end_the_sweep_and_idle_ones_are_given_back(cloud):
    """The trials need more GPUs than the machines have that the sweep before has left."""
    assert cloud.workers()
    cloud.spoil = True
    sweep = type_sweep(cloud, "--seeds", "2026-2028", "--epochs", "1", "--gpus-per-trial", "3", "--max-concurrent", "3")
    wait_for(lambda: "machines in a row could not be set up" in note(cloud, "given-up"), 300, "it is given up")
    num_orders = len(cloud.orders())
    output, _ = sweep.communicate(timeout=300)  # long before --wait-minutes
    assert sweep.returncode == 1, output
    (stopped,) = [line for line in output.splitlines() if line.startswith("Stopped: ")]
    assert re.search(r"i-\w+ said last: .*sudo: a password is required", stopped)
    assert "type `ray up` and then the same command again" in stopped
    wait_for(lambda: not cloud.workers(), 150, "the workers are gone, those that worked as well")
    assert len(cloud.orders()) == num_orders
    assert cloud.head
    cloud.spoil = False


def test_the_next_ray_up_lets_orders_go_on(cloud):
    assert note(cloud, "given-up")
    up(cloud)
    assert not note(cloud, "given-up")


def test_a_machine_that_is_taken_back_costs_no_trial(cloud):
    """There is nothing on demand, and spot machines are announced to be taken, or taken without a word."""
    started = time.monotonic()
    cloud.refuse = lambda order: None if is_spot(order) else FULL
    sweep = type_sweep(cloud, "--seeds", "2026", "--epochs", "12", "--max-concurrent", "2")
    wait_for(lambda: training(cloud, sweep, started), 300, "a trial runs")
    announced = training(cloud, sweep, started)[0]
    cloud.interrupt(announced, notice=25)
    log = "/tmp/ray/session_latest/logs/monitor.log"
    wait_for(
        lambda: "RAY_STOPPING" in cloud.head.run("cat", log).stdout or announced.process is None,
        30,
        "Ray knows of the announcement",
    )
    assert announced.process is not None  # before it was taken
    wait_for(lambda: announced.process is None, 60, "the machine is gone")
    gone = time.monotonic()
    wait_for(lambda: training(cloud, sweep, gone), 200, "a trial runs elsewhere")
    cloud.interrupt(training(cloud, sweep, gone)[0], notice=None)
    output, _ = sweep.communicate(timeout=500)
    assert sweep.returncode == 0, output
    assert "raylet" not in output  # Ray's own words on a lost machine
    assert re.search(r"; lost 172\.31\.", output)
    assert all(map(is_spot, cloud.granted(since=started)))
    cloud.refuse = lambda order: None


def test_a_sum_of_money_ends_the_sweep_and_autodown_the_cluster(cloud):
    """On the machines that the sweep before has left; the sweep would need many minutes."""
    started = time.monotonic()
    limits = ("--max-cost", "0.02", "--autodown", "--max-concurrent", "1")
    sweep = type_sweep(cloud, "--seeds", "2026-2045", "--epochs", "2", *limits)
    output, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 1, output
    assert "The cluster ends itself afterwards (--autodown)." in output
    assert "--max-cost 0.02 is reached: the machines have cost about 0.0" in output
    assert int(re.search(r"trials have ended, (\d+) are left", output)[1]) > 0
    rows = [call for call in cloud.calls if call["action"] == "PUT" and "/trials/" in call["params"]["path"]]
    assert rows[-1]["at"] > started


def test_a_machine_image_is_made_on_a_machine_that_goes_again(cloud):
    made = cloud.laptop.run("python", "clusters/aws/make_image.py", timeout=300)
    assert re.search(r"^      ImageId: ami-\w+ ", made.stdout, re.MULTILINE)
    wait_for(lambda: not cloud.running(), 120, "the cluster has ended itself as well, the head too")
    assert cloud.left() == []
    assert "is down" in cloud.laptop.run("python", "-m", "rekd", "down").stdout  # the laptop forgets it


def test_down_in_mid_sweep_leaves_nothing_that_is_paid_for(cloud):
    """There is no spot machine."""
    up(cloud)
    started = time.monotonic()
    cloud.refuse = lambda order: FULL if is_spot(order) else None
    sweep = type_sweep(cloud, "--seeds", "2026", "--epochs", "20", "--max-concurrent", "2")
    wait_for(lambda: training(cloud, sweep, started), 300, "a trial runs")
    assert not any(map(is_spot, cloud.granted(since=started)))
    started = time.monotonic()
    done = cloud.laptop.run("python", "-m", "rekd", "down")
    print(f"\ndown: {time.monotonic() - started:.0f} s")
    assert "is down" in done.stdout
    wait_for(lambda: not cloud.running(), 10, "all machines are off")
    assert cloud.left() == []
    output, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 1
    assert "was taken down" in output


def test_never_was_more_than_a_handful_refused_in_a_minute(cloud):
    """In all the tests before this one."""
    at = cloud.refused_at()
    assert at
    assert all(sum(start <= each < start + WINDOW for each in at) <= MOST_REFUSALS for start in at)


def test_the_roles_allow_what_was_done_and_no_more(cloud):
    """Of all the tests before this one."""
    for role in ("rekd-head", "rekd-worker"):
        assert policy.refused(cloud.calls, role) == set()
    spare = {
        action for action in policy.unused(cloud.calls, "rekd-head") if not action.startswith(("ssm:", "ssmmessages:"))
    }
    # AWS itself asks for the first, on the first spot order of an account; the others are for a store that fails.
    assert spare == {"iam:CreateServiceLinkedRole", "s3:AbortMultipartUpload", "s3:GetBucketLocation"}
    order = next(order for order in cloud.orders() if order["who"] == "rekd-head")["params"]
    assert order["MetadataOptions.HttpTokens"] == "required"
    assert order["BlockDeviceMapping.1.Ebs.Encrypted"] == "true"
    rights = policy.statements("rekd-head")
    for kind, tag, is_allowed in (
        ("g6e.xlarge", "rekd", True),
        ("p5.48xlarge", "rekd", False),
        ("g6e.xlarge", "other", False),
    ):
        context = {"ec2:InstanceType": kind, "aws:RequestTag/ray-cluster-name": tag}
        assert policy.allows(rights, "ec2:RunInstances", f"{policy.EC2}instance/1", context) == is_allowed


def test_a_file_that_nobody_filled_in_ends_in_one_line(cloud):
    cloud.laptop.run("sed", "-i", "s/sg-[0-9a-f]*/sg-CHANGE-ME/", aws.FILE)
    done = cloud.laptop.run("ray", "up", "-y", aws.FILE, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "still has CHANGE-ME in it" in done.stderr
