"""Machines rented from AWS: what is refused is had elsewhere or rests, and what cannot be set up is not ordered again."""

import os
from collections import Counter

import pytest
import yaml
from botocore.exceptions import ClientError, NoCredentialsError
from click import ClickException
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    STATUS_UPDATE_FAILED,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
)

from rekd.cluster import rental
from rekd.cluster.orders import MOST_REFUSALS, REST, WINDOW, Notes, Offer, Refusals
from rekd.cluster.ray_cluster import ROOT
from rekd.cluster.rental import RentalProvider

ZONES = ["a", "b"]
WORKER = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, "ray-node-name": "ray-rekd-worker"}
SPOT = {"InstanceType": "g6e.xlarge", "SubnetIds": ZONES, "InstanceMarketOptions": {"MarketType": "spot"}}
FULL, NO_QUOTA = "InsufficientInstanceCapacity", "VcpuLimitExceeded"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Ec2:
    """Sells machines, but those that `refuse` finds a code for."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, str, int]] = []
        self.refuse = lambda market, zone: None
        self.most = 100  # an order

    def create_instances(self, **order):
        market = "spot" if "InstanceMarketOptions" in order else "on demand"
        self.orders.append((market, order["SubnetId"], order["MaxCount"]))
        assert {"Key": "ray-cluster-name", "Value": "rekd"} in order["TagSpecifications"][0]["Tags"]
        assert "SubnetIds" not in order
        if code := self.refuse(market, order["SubnetId"]):
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, "RunInstances")
        return [
            type("Machine", (), {"id": f"i-{len(self.orders)}-{n}"}) for n in range(min(order["MaxCount"], self.most))
        ]


@pytest.fixture
def rent(tmp_path, monkeypatch):
    """A provider whose AWS, clock, notes and machines are the test's."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.setattr(AWSNodeProvider, "set_node_tags", lambda self, node, tags: self.tag_cache[node].update(tags))
    monkeypatch.setattr(AWSNodeProvider, "is_terminated", lambda self, node: False)
    monkeypatch.setattr(rental, "LOGS", tmp_path / "setup")
    made = RentalProvider({"region": "us-west-2", "type": "external", "cache_stopped_nodes": False}, "rekd")
    made.ec2_fail_fast, made._notes, made.clock = Ec2(), Notes(tmp_path), Clock()
    made._refusals = Refusals(made.clock)
    return made


def order(rent, count=1, node_config=SPOT, tags=WORKER):
    return rent.create_node(node_config, tags, count)


def test_spot_machines_are_taken_where_there_are_some(rent):
    assert len(order(rent, 3)) == 3
    assert rent.ec2_fail_fast.orders == [("spot", "a", 3)]


def test_without_the_line_for_spot_all_is_on_demand(rent):
    order(rent, node_config={name: value for name, value in SPOT.items() if name != "InstanceMarketOptions"})
    assert rent.ec2_fail_fast.orders == [("on demand", "a", 1)]


def test_what_a_zone_has_not_comes_from_the_next_and_then_on_demand(rent):
    rent.ec2_fail_fast.refuse = lambda market, zone: FULL if (market, zone) != ("on demand", "b") else None
    assert len(order(rent, 2)) == 2
    assert rent.ec2_fail_fast.orders == [
        ("spot", "a", 2),
        ("spot", "b", 2),
        ("on demand", "a", 2),
        ("on demand", "b", 2),
    ]
    order(rent)  # at once again: what was refused rests
    assert rent.ec2_fail_fast.orders[4:] == [("on demand", "b", 1)]
    rent.clock.now += REST
    order(rent)
    assert rent.ec2_fail_fast.orders[5] == ("spot", "a", 1)


@pytest.mark.parametrize(
    "code", [NO_QUOTA, "MaxSpotInstanceCountExceeded", "AuthFailure.ServiceLinkedRoleCreationNotPermitted"]
)
def test_what_no_zone_can_mend_is_asked_of_one(rent, code):
    rent.ec2_fail_fast.refuse = lambda market, zone: code if market == "spot" else None
    assert len(order(rent)) == 1
    assert rent.ec2_fail_fast.orders == [("spot", "a", 1), ("on demand", "a", 1)]


def test_a_refusal_of_all_is_told_with_its_reasons_until_a_machine_is_there(rent):
    rent.ec2_fail_fast.refuse = lambda market, zone: FULL if market == "spot" else NO_QUOTA
    told = f"No g6e.xlarge: {FULL} (spot), {NO_QUOTA} (on demand)"
    with pytest.raises(NodeLaunchException, match=r"No g6e.xlarge"):
        order(rent)
    assert rent._notes.refused() == told
    with pytest.raises(NodeLaunchException) as refused:  # nothing is asked, and the reasons are the same
        order(rent)
    assert refused.value.description == told
    assert len(rent.ec2_fail_fast.orders) == 3
    rent.clock.now += REST
    rent.ec2_fail_fast.refuse = lambda market, zone: None
    order(rent)
    assert rent._notes.refused() is None


def test_a_refusal_of_long_ago_is_no_reason_any_more(tmp_path):
    notes = Notes(tmp_path)
    notes.write_refused("No g6e.xlarge")
    assert notes.refused() == "No g6e.xlarge"
    os.utime(tmp_path / "refused", (0, 0))
    assert notes.refused() is None


def test_no_more_than_a_handful_of_orders_is_refused_in_a_minute(rent):
    """Whatever Ray asks for: here ten types of machines in six zones, every five seconds, for an hour."""
    rent.ec2_fail_fast.refuse = lambda market, zone: FULL
    at = []
    for second in range(0, 3600, 5):
        rent.clock.now = 1000.0 + second
        before = len(rent.ec2_fail_fast.orders)
        with pytest.raises(NodeLaunchException):
            order(rent, node_config=SPOT | {"InstanceType": f"type{second % 50}", "SubnetIds": list("abcdef")})
        at += [second] * (len(rent.ec2_fail_fast.orders) - before)
    assert len(at) > 60
    assert all(sum(start <= second < start + WINDOW for second in at) <= MOST_REFUSALS for start in at)


def test_the_part_of_an_order_that_is_not_there_is_told_too(rent):
    rent.ec2_fail_fast.most = 1
    with pytest.raises(NodeLaunchException, match=r"1 of 5 g6e.xlarge: AWS gave fewer"):
        order(rent, 5)
    assert [count for _, _, count in rent.ec2_fail_fast.orders] == [5, 4, 3, 2]  # each place and market once


def test_a_hold_stops_orders_of_workers_and_not_of_the_head(rent):
    rent._notes.write_hold("The sweep has cost what it may")
    with pytest.raises(NodeLaunchException, match="has cost what it may"):
        order(rent)
    assert rent._notes.refused() == "The sweep has cost what it may"
    order(rent, tags=WORKER | {TAG_RAY_NODE_KIND: NODE_KIND_HEAD})
    rent._notes.write_hold(None)
    order(rent)
    assert [market for market, _, _ in rent.ec2_fail_fast.orders] == ["spot", "spot"]


def end_setup(rent, node: str, status: str, said: str = "") -> None:
    rent.tag_cache[node] = dict(WORKER)
    rent.get_command_runner("", node, {"ssh_user": "me"}, "rekd", None, True).process_runner.check_call(["echo", said])
    rent.set_node_tags(node, {TAG_RAY_NODE_STATUS: status})


def test_three_machines_in_a_row_that_cannot_be_set_up_stop_all_orders_with_the_last_lines(rent):
    chatter = "\nShared connection to 10.0.0.1 closed."
    for node in ("i-1", "i-2"):
        end_setup(rent, node, STATUS_UPDATE_FAILED, "no" + chatter)
    end_setup(rent, "i-3", STATUS_UP_TO_DATE)
    for node in ("i-4", "i-5", "i-5", "i-5"):  # Ray tries three times
        end_setup(rent, node, STATUS_UPDATE_FAILED, "no" + chatter)
    order(rent)
    assert rent._notes.given_up() is None
    end_setup(rent, "i-6", STATUS_UPDATE_FAILED, "torch: 404\nNo space left" + chatter)
    with pytest.raises(
        NodeLaunchException, match=r"3 machines in a row .* i-6 said last: torch: 404 \| No space left\. "
    ):
        order(rent)
    assert "type `ray up` and then the same command again" in rent._notes.given_up()
    end_setup(rent, "i-7", STATUS_UP_TO_DATE)  # it had been begun before
    order(rent)
    assert rent._notes.given_up() is None


def test_a_setup_that_asks_something_fails_where_it_could_wait_for_ever(rent):
    rent.tag_cache["i-1"] = dict(WORKER)
    runner = rent.get_command_runner("", "i-1", {"ssh_user": "me"}, "rekd", None, True).process_runner
    assert runner.check_call(["sh", "-c", 'test "$(readlink /proc/self/fd/0)" = /dev/null']) == 0
    assert "sudo -n " in (ROOT / "clusters/aws/setup.sh").read_text()


def test_a_machine_that_was_taken_back_in_its_setup_is_no_failure(rent, monkeypatch):
    monkeypatch.setattr(AWSNodeProvider, "is_terminated", lambda self, node: True)
    for node in ("i-1", "i-2", "i-3"):
        end_setup(rent, node, STATUS_UPDATE_FAILED)
    order(rent)


def test_a_head_that_cannot_be_set_up_is_named_because_it_is_paid_for(rent, capfd):
    rent.tag_cache["i-1"] = {TAG_RAY_NODE_KIND: NODE_KIND_HEAD}
    rent.set_node_tags("i-1", {TAG_RAY_NODE_STATUS: STATUS_UPDATE_FAILED})
    assert "The head i-1 runs on and is paid for" in capfd.readouterr().err


def test_ray_up_with_a_value_missing_or_without_credentials_ends_in_one_line(monkeypatch):
    with pytest.raises(ClickException, match="still has CHANGE-ME in it"):
        RentalProvider.bootstrap_config({"group": "sg-CHANGE-ME"})

    def refuse(config):
        raise NoCredentialsError

    monkeypatch.setattr(AWSNodeProvider, "bootstrap_config", refuse)
    with pytest.raises(ClickException, match="AWS does not let `ray up` begin: Unable to locate credentials"):
        RentalProvider.bootstrap_config({})


def chosen(num_trials: int, **resources: float) -> dict[str, int]:
    """The machines of cluster.yaml that Ray's own scheduler orders for trials that wait."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    file = yaml.safe_load((ROOT / "cluster.yaml").read_text()) | {"auth": {}}  # it would read the key
    config = AutoscalingConfig(file, skip_content_hash=True)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes() - 1,  # the head is there
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(resources)] * num_trials),
    )
    ordered = Counter()
    for launch in ResourceDemandScheduler().schedule(request).to_launch:
        ordered[launch.instance_type] += launch.count
    return ordered


@pytest.mark.parametrize(
    ("num_trials", "resources", "machines"),
    [
        (1, {"CPU": 1, "GPU": 1}, {"one_gpu": 1}),
        (40, {"CPU": 1, "GPU": 1}, {"one_gpu": 40}),
        (880, {"CPU": 1, "GPU": 1}, {"one_gpu": 120}),  # as many as the paper used at a time
        (16, {"CPU": 1, "GPU": 0.25}, {"one_gpu": 4}),
        (1, {"CPU": 1, "GPU": 3}, {"four_gpus": 1}),
        (1, {"CPU": 1, "GPU": 8}, {"eight_gpus": 1}),
    ],
)
def test_ray_orders_the_smallest_machines_that_the_trials_fit_on(num_trials, resources, machines):
    assert chosen(num_trials, **resources) == machines


def test_ray_still_forgets_what_aws_refuses():
    """When this fails, Ray has mended what docs/upstream.md tells, and rekd/cluster/rental.py may become shorter."""
    from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
    from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

    monitor = CloudResourceMonitor()
    for status, forgotten in ((Instance.ALLOCATION_FAILED, True), (Instance.ALLOCATION_TIMEOUT, False)):
        monitor.notify([InstanceUpdateEvent(instance_type="spot", new_instance_status=status)])
        assert (monitor.get_resource_availabilities() == {}) == forgotten


def test_offers_differ_by_all_that_a_refusal_may_be_about():
    clock = Clock()
    refusals = Refusals(clock)
    offer = Offer(machine="g6e.xlarge", market="spot", zone="a")
    refusals.note([offer], FULL)
    assert refusals.standing(offer) == FULL
    for other in (("g6e.2xlarge", "spot", "a"), ("g6e.xlarge", "on demand", "a"), ("g6e.xlarge", "spot", "b")):
        assert refusals.standing(Offer(**dict(zip(("machine", "market", "zone"), other, strict=True)))) is None
    clock.now += REST
    assert refusals.standing(offer) is None
