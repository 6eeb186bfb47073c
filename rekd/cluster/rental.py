"""Machines rented from AWS: Ray's own provider, which gives up an order that is refused, and one that cannot be set up.

Ray 2.60 repeats a refused order every few seconds, for ever, and never asks for another kind of machine instead; and it rents
the next machine when one cannot be set up (docs/upstream.md). Here a spot machine that is not to be had is ordered on demand
in the same moment, what was refused rests for a while, and after three machines in a row that could not be set up nothing is
ordered. All else is Ray's. `provider.module` of cluster.yaml names the class, on the laptop for `ray up` and on the head for
Ray's monitor.
"""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import click
from botocore.exceptions import BotoCoreError, ClientError
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider, to_aws_format
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import (
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    STATUS_UPDATE_FAILED,
    TAG_RAY_CLUSTER_NAME,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
)

from rekd.cluster.orders import MOST_FAILURES, ZONE_ONLY, Notes, Offer, Refusals
from rekd.cluster.ray_cluster import NOT_SET
from rekd.messages import one_line

LOGS = Path("~/.rekd/setup")
"""What the setup of each worker said, on the head, one file an instance."""
NUM_LAST_LINES = 5
CHATTER = ("Shared connection to ", "Connection to ", "Warning: Permanently added ", "bash: ")
"""How SSH's own lines begin in such a log."""


class RentalProvider(AWSNodeProvider):
    """Ray's provider for AWS with a limit on what is refused, and on machines that cannot be set up."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._refusals, self._notes = Refusals(), Notes()
        self._ordering = threading.Lock()  # Ray orders from two threads; a refusal is to be known to both
        self._failed: set[str] = set()  # to be set up, since the last machine that was; Ray tries each three times

    @staticmethod
    def fillout_available_node_types_resources(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """The file says what trials may use of each type. Ray would add the memory of all, and then prefer the largest."""
        return cluster_config

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """What `ray up` asks AWS before it orders the head. One line where it may not."""
        if NOT_SET in json.dumps(cluster_config):
            raise click.ClickException(
                f"The cluster file still has {NOT_SET} in it. docs/cluster.md has the steps that give these values."
            )
        try:
            return AWSNodeProvider.bootstrap_config(cluster_config)
        except (BotoCoreError, ClientError) as error:
            raise click.ClickException(f"AWS does not let `ray up` begin: {one_line(error)}") from error

    def _create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """The machines, by their id. Raises NodeLaunchException with all reasons where there are fewer than asked for."""
        is_worker = tags[TAG_RAY_NODE_KIND] == NODE_KIND_WORKER
        with self._ordering:
            if is_worker and (hold := self._notes.given_up() or self._notes.hold()):
                self._refuse("OnHold", hold)
            created, reasons = self._order_anywhere(node_config, tags, count)
            if len(created) < count:
                missing = f"{count - len(created)} of {count}" if created else "No"
                self._refuse(
                    "Refused", f"{missing} {node_config['InstanceType']}: {', '.join(reasons)}", is_noted=is_worker
                )
            if is_worker:
                self._notes.write_refused(None)
        return created

    def _refuse(self, category: str, reason: str, *, is_noted: bool = True) -> None:
        if is_noted:
            self._notes.write_refused(reason)
        raise NodeLaunchException(category, reason, None)

    def _order_anywhere(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int
    ) -> tuple[dict[str, Any], list[str]]:
        """Spot first where the file says so, zone by zone; what is there, and why there is not more."""
        created: dict[str, Any] = {}
        reasons: dict[str, None] = {}  # in order, each once
        markets = ("spot", "on demand") if "InstanceMarketOptions" in node_config else ("on demand",)
        offers = [
            Offer(machine=node_config["InstanceType"], market=market, zone=zone)
            for market in markets
            for zone in node_config["SubnetIds"]
        ]
        for offer in offers:
            if len(created) == count:
                break
            if self._refusals.standing(offer) is None:
                if self._refusals.are_too_many():
                    reasons["and no more orders for a minute"] = None
                    break
                created |= self._order(offer, offers, node_config, tags, count - len(created))
            if code := self._refusals.standing(offer):
                reasons[f"{code} ({offer.market})"] = None
        return created, list(reasons) or ["AWS gave fewer than were ordered"]

    def _order(
        self, offer: Offer, offers: list[Offer], node_config: dict[str, Any], tags: dict[str, str], count: int
    ) -> dict[str, Any]:
        """Up to `count` machines; none, and a note, where AWS refuses."""
        order = {name: value for name, value in node_config.items() if name != "SubnetIds"}
        if offer.market != "spot":
            order.pop("InstanceMarketOptions", None)
        named = to_aws_format(dict(tags)) | {TAG_RAY_CLUSTER_NAME: self.cluster_name}
        pairs = [{"Key": key, "Value": value} for key, value in named.items()]
        specifications = [{"ResourceType": kind, "Tags": pairs} for kind in ("instance", "volume")]
        order |= {"SubnetId": offer.zone, "MinCount": 1, "MaxCount": count, "TagSpecifications": specifications}
        try:
            ec2: Any = self.ec2_fail_fast  # boto3 makes its methods as it runs
            return {machine.id: machine for machine in ec2.create_instances(**order)}
        except ClientError as error:
            code = error.response["Error"]["Code"]
            same = [offer] if code in ZONE_ONLY else [other for other in offers if other.market == offer.market]
            self._refusals.note(same, code)
            return {}

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        """Ray notes a machine's state in its tags; so this is where a setup is seen to fail or to succeed."""
        super().set_node_tags(node_id, tags)
        status = tags.get(TAG_RAY_NODE_STATUS)
        if not self._is_worker(node_id):
            if status == STATUS_UPDATE_FAILED:
                print(f"The head {node_id} runs on and is paid for. `python -m rekd down` ends it.", file=sys.stderr)
        elif status == STATUS_UP_TO_DATE:
            self._failed.clear()
            self._notes.write_given_up(None)
        elif status == STATUS_UPDATE_FAILED and not self.is_terminated(node_id):  # else AWS took it back
            self._failed.add(node_id)
            if len(self._failed) >= MOST_FAILURES:
                self._give_up(node_id)

    def _give_up(self, node_id: str) -> None:
        said = " | ".join(_last_lines(_log(node_id))) or "nothing"
        self._notes.write_given_up(
            f"{len(self._failed)} machines in a row could not be set up, so none is ordered any more. {node_id} said last: "
            f"{said}. What all said is in {LOGS} of the head. When it is mended, type `ray up` and then the same command again"
        )

    def _is_worker(self, node_id: str) -> bool:
        return self.node_tags(node_id).get(TAG_RAY_NODE_KIND) == NODE_KIND_WORKER

    def get_command_runner(  # Ray's own name and order of arguments
        self,
        log_prefix: str,
        node_id: str,
        auth_config: dict[str, Any],
        cluster_name: str,
        process_runner: Any,
        use_internal_ip: bool,
        docker_config: dict[str, Any] | None = None,
    ) -> Any:
        """Keeps what the commands on a worker say on the head: the worker will not be there to ask. Otherwise as Ray's."""
        if self._is_worker(node_id):
            process_runner = _Noting(_log(node_id))
        return super().get_command_runner(
            log_prefix, node_id, auth_config, cluster_name, process_runner, use_internal_ip, docker_config
        )


class _Noting:
    """The module `subprocess`, as far as Ray's commands go, writing their output to a file. Nothing they ask is answered."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def check_call(self, command: list[str], **streams: Any) -> int:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            return subprocess.check_call(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)


def _log(node_id: str) -> Path:
    return LOGS.expanduser() / f"{node_id}.log"


def _last_lines(log: Path) -> list[str]:
    """What a setup said last, without SSH's own words."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.exists() else []
    return [line for line in lines if line and not line.startswith(CHATTER)][-NUM_LAST_LINES:]
