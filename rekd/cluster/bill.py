"""What runs on a cluster that `ray up` started, and what it costs an hour: asked of its head, through SSH."""

import json
import shlex
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from rekd.cluster.prices import an_hour, dollars, kinds_of, read_prices
from rekd.cluster.ray_cluster import QUIETLY, TOKEN_FILE, RayCluster
from rekd.messages import one_line

PYTHON = "~/.rekd/venv/bin/python"
"""The interpreter on the head."""

GCS = "127.0.0.1:6379"
"""Where the head's Ray answers, on the head itself."""

# On the head there is Ray, and not always this program.
SCRIPT = """
import json, sys
from collections import Counter
from ray.autoscaler.v2.sdk import get_cluster_status
status = get_cluster_status(sys.argv[1])
count = lambda nodes: dict(Counter(node.ray_node_type_name for node in nodes))
print(json.dumps({
    "working": count(status.active_nodes),
    "idle": count(status.idle_nodes),
    "being set up": count(status.pending_nodes),
    "asked for": {each.ray_node_type_name: each.count for each in status.pending_launches},
}))
"""


@dataclass(frozen=True, kw_only=True)
class Running:
    """The machines of a cluster: how many of each kind, by what they do."""

    by_state: Mapping[str, Mapping[str, int]]
    """`working`, `idle`, `being set up` (all paid for) and `asked for`, in this order."""

    @property
    def paid(self) -> Counter[str]:
        """Machines that are paid for, by kind."""
        total = Counter[str]()
        for state, counts in self.by_state.items():
            if state != "asked for":
                total.update(counts)
        return total


def ask(cluster: RayCluster, *, python: str = PYTHON, address: str = GCS) -> Running:
    """What the head says. Raises ValueError where it does not answer."""
    token = f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={TOKEN_FILE}"
    command = f"{token} {python} -c {shlex.quote(SCRIPT)} {address}"
    done = subprocess.run(cluster.ssh(command, *QUIETLY), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    try:
        return Running(by_state=json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError) as error:
        said = one_line((done.stderr.strip().splitlines() or ["it said nothing"])[-1]).rstrip(".")
        raise ValueError(
            f"What runs on the cluster of {cluster.file} cannot be told: {said}. Its machines may be paid for all the same: "
            "look into the cloud's console."
        ) from error


def lines(cluster: RayCluster, running: Running) -> list[str]:
    """What runs and what it costs, for people."""
    kinds = kinds_of(cluster.config)
    machines = {kind.name: kind.machine for kind in kinds}
    told = [
        f"{count} {kind} ({machines[kind]}) {state}" if machines.get(kind) else f"{count} {kind} {state}"
        for state, counts in running.by_state.items()
        for kind, count in counts.items()
    ]
    return [f"Machines of {cluster.file}: {', '.join(told) or 'none'}.", _cost_line(cluster, running)]


def _cost_line(cluster: RayCluster, running: Running) -> str:
    kinds = kinds_of(cluster.config)
    if not any(kind.machine for kind in kinds):
        return "They are not rented."
    low, high, missing = an_hour(running.paid, kinds)
    prices = read_prices()
    region = (cluster.config.get("provider") or {}).get("region", prices.region)
    of = f"prices of {prices.region}, {prices.date}" + (
        "" if region == prices.region else f"; those of {region} differ"
    )
    without = f", without {', '.join(missing)}, which the table does not have" if missing else ""
    spot = " (spot to on demand)" if low != high else ""
    return f"They cost {dollars(low, high)} an hour{spot}{without}; {of}, without disks and traffic."
