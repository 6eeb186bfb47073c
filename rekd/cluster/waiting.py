"""What Ray says of a cluster's machines: how many there are, which are on their way, and why there are not more.

`Watch` asks again and again and remembers; what it makes of an answer are functions of that answer alone.
"""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rekd.messages import one_line

NEWS_FOR = 300.0
"""Seconds for which a refused order, a lost machine or a failed setup is told."""

EXPECTED = frozenset({1, 4})
"""Ray's numbers (`NodeDeathInfo.Reason`) for the end of a machine that was told to end, or was drained for being idle."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine that Ray runs on."""

    kind: str
    """Its name in the cluster file, such as `one_gpu`."""
    address: str
    resources: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Machines:
    """A cluster at one moment."""

    up: Mapping[str, Machine]
    """The machines by Ray's name of each."""
    setting_up: Mapping[str, str]
    """What is rented and not ready yet: its kind by its name."""
    ordered: Mapping[str, int]
    """How many of each kind have been asked for and are not there."""
    refused: tuple[tuple[float, str], ...]
    """When (seconds of the clock of Unix) orders were refused, and why."""
    lost: Mapping[str, str]
    """Machines that ended without being told to: Ray's name and why."""

    def num_ready(self, resource: str) -> int:
        """Machines on which trials can run."""
        return sum(machine.resources.get(resource, 0) > 0 for machine in self.up.values())


def machines_of(status: Any, nodes: Iterable[Mapping[str, Any]] = ()) -> Machines:
    """What Ray's autoscaler (a `ClusterStatus` of its second version) and its list of nodes say."""
    running = [*status.active_nodes, *status.idle_nodes]
    ordered = Counter[str]()
    for launch in status.pending_launches:
        ordered[launch.ray_node_type_name] += launch.count
    return Machines(
        up={
            node.node_id: Machine(
                kind=node.ray_node_type_name, address=node.ip_address, resources=node.total_resources()
            )
            for node in running
        },
        setting_up={node.instance_id: node.ray_node_type_name for node in status.pending_nodes},
        ordered=ordered,
        refused=tuple(
            (float(launch.failed_ts_s or launch.request_ts_s), _refusal(launch.details or ""))
            for launch in status.failed_launches
        ),
        lost={
            node["NodeID"]: f"{node['NodeManagerAddress']} ({_cause(node)})"
            for node in nodes
            if not node["Alive"] and node.get("DeathReason") not in EXPECTED
        },
    )


def _refusal(details: str) -> str:
    """The cloud's own word for it, where there is one among what Ray says."""
    code = re.search(r"\((\w+)\) when calling", details)
    return code.group(1) if code else one_line(details) if details else "an order was refused"


def _cause(node: Mapping[str, Any]) -> str:
    return one_line(node.get("DeathReasonMessage") or "its Ray has ended").rstrip(".")


class Watch:
    """The machines of a cluster as a sweep sees them. `look` may be called from a thread of its own."""

    def __init__(
        self,
        look: Callable[[], Machines],
        *,
        needs: str,
        notes: Callable[[], str | None] = lambda: None,
        given_up: Callable[[], str | None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`needs`: what a machine has that trials run on, `GPU` or `CPU`. `notes` says why a cluster orders nothing, and
        `given_up` why it never will again."""
        self._ask, self.needs, self._notes, self._given_up, self._clock = look, needs, notes, given_up, clock
        self.machines: Machines | None = None
        self.without_since: float | None = clock()
        """Since when there has been no machine for a trial; None where there is one."""
        self._begun_setups: set[str] = set()
        self._joined: set[str] = set()
        self._first: Machines | None = None
        self._seen: dict[str, float] = {}  # news and when it was first seen
        self._hours = defaultdict[str, float](float)  # of the machines of each kind
        self._looked = clock()

    def look(self) -> None:
        """Asks Ray. An answer that does not come leaves what was known."""
        try:
            self.machines = self._ask()
        except Exception:  # whatever Ray raises where its head is busy: a line less is no reason to end a sweep
            return
        self._count_hours(self.machines)
        self._first = self._first or self.machines
        self._begun_setups |= set(self.machines.setting_up)
        self._joined |= set(self.machines.up) - set(self._first.up)
        if self.machines.num_ready(self.needs):
            self.without_since = None
        elif self.without_since is None:
            self.without_since = self._clock()
        for news in self._news():
            self._seen.setdefault(news, self._clock())

    def _count_hours(self, machines: Machines) -> None:
        """What there is now is taken to have been there since the last look; a machine is paid for while it is set up, too."""
        hours, self._looked = (self._clock() - self._looked) / 3600, self._clock()
        for kind in [*(machine.kind for machine in machines.up.values()), *machines.setting_up.values()]:
            self._hours[kind] += hours

    def cost(self, prices: Mapping[str, float]) -> float:
        """What the machines have cost since the first look, by prices an hour; those without a price cost nothing."""
        return sum(hours * prices.get(kind, 0.0) for kind, hours in list(self._hours.items()))

    def minutes_without(self) -> float:
        """Says for how long there has been no machine that a trial could run on."""
        return 0.0 if self.without_since is None else (self._clock() - self.without_since) / 60

    def no_more(self) -> str:
        """Why there will be no machine any more; nothing where there is one, one is being set up, or one may come."""
        if self.machines is None or self.machines.num_ready(self.needs) or self.machines.setting_up:
            return ""
        return self._given_up() or ""

    def said(self) -> str:
        """Why trials wait, in a few words; nothing where all is well."""
        self.look()
        if self.machines is None:
            return ""
        parts = [*self.reasons(), *self._coming()]
        if self.machines.num_ready(self.needs):
            return ", ".join(parts)
        return f"no machine yet: {', '.join(parts) or 'none is ordered'}"

    def reasons(self) -> list[str]:
        """Why there are not more machines, the newest refusal and what was lost not long ago."""
        if self.machines is None:
            return []
        noted = self._notes()
        refused = max((each for each in self.machines.refused if self._is_new(each[0])), default=None)
        told = [noted] if noted else [refused[1]] if refused else []
        return told + [news for news, seen in self._seen.items() if self._is_new(seen)]

    def _is_new(self, moment: float) -> bool:
        return self._clock() - moment < NEWS_FOR

    def _coming(self) -> list[str]:
        assert self.machines is not None
        setting_up = Counter(self.machines.setting_up.values())
        ordered = [f"asking for {count} {kind}" for kind, count in self.machines.ordered.items()]
        return ordered + [f"{count} {kind} being set up" for kind, count in setting_up.items()]

    def _news(self) -> list[str]:
        """What went wrong since the first look."""
        assert self.machines is not None
        assert self._first is not None
        news = [f"lost {what}" for node, what in self.machines.lost.items() if node not in self._first.lost]
        num_failed = len(self._begun_setups - set(self.machines.setting_up)) - len(self._joined)
        if num_failed > 0:  # what was being set up is neither that any more nor a machine of Ray's
            news.append("1 machine could not be set up" if num_failed == 1 else f"{num_failed} could not be set up")
        return news


def look_at_ray() -> Machines:
    """The cluster that this process is connected to. Raises what Ray raises where its head does not answer."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    return machines_of(get_cluster_status(ray.get_runtime_context().gcs_address), ray.nodes())
