"""A rented cluster that ends itself when its sweep has ended: its workers, and then the head that this runs on."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rekd.cluster.ray_cluster import DASHBOARD_PORT, ROOT, TOKEN_FILE

CONFIG = Path("~/ray_bootstrap_config.yaml")
"""The cluster file on the head, as Ray has completed it."""

DELAY = 60.0
"""Seconds from the end of the sweep to that of the cluster, in which the laptop hears how it ended."""


def check() -> None:
    """Raises ValueError where this process is not on the head of a rented cluster."""
    if _config() is None:
        raise ValueError(
            "--autodown ends a cluster that `ray up` has rented, and this sweep does not run on one. Leave it out, or start "
            "the cluster first."
        )


def end_later() -> subprocess.Popen[bytes]:
    """Ends the cluster after a while, from a process of its own, which outlives this one."""
    log = Path("~/.rekd/autodown.log").expanduser()
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # the job that the sweep is ends before
        )


def end(config: dict[str, Any]) -> None:
    """Ends the machines of a cluster: workers first, since only the head can be relied on to go on."""
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler.tags import NODE_KIND_HEAD, NODE_KIND_WORKER, TAG_RAY_NODE_KIND

    provider = _get_node_provider(config["provider"], config["cluster_name"])
    for kind in (NODE_KIND_WORKER, NODE_KIND_HEAD):
        nodes = provider.non_terminated_nodes({TAG_RAY_NODE_KIND: kind})
        print(f"Ending {len(nodes)} of kind {kind}", flush=True)
        if nodes:
            provider.terminate_nodes(nodes)


def _config() -> dict[str, Any] | None:
    """The file of the rented cluster whose head this is; None where it is none."""
    import yaml

    path = CONFIG.expanduser()
    if not path.exists():
        return None
    config = yaml.safe_load(path.read_text())
    return None if config["provider"]["type"] == "local" else config


def _is_used() -> bool:
    """Whether another sweep runs here. In doubt none does: a cluster that nobody ends is paid for."""
    import requests

    token = Path(TOKEN_FILE).expanduser()
    headers = {"Authorization": f"Bearer {token.read_text().strip()}"} if token.exists() else {}
    try:
        jobs = requests.get(f"http://127.0.0.1:{DASHBOARD_PORT}/api/jobs/", headers=headers, timeout=10).json()
        return any(job["status"] in ("PENDING", "RUNNING") for job in jobs if job.get("submission_id"))
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return False


def _main() -> None:
    import ray.autoscaler._private.providers  # noqa: F401 - while the folder of the job is there to import from

    config = _config()
    time.sleep(float(os.environ.get("REKD_AUTODOWN_DELAY", DELAY)))
    if config is None or _is_used():
        print("Another sweep runs here, or this is no head: nothing is ended", flush=True)
        return
    end(config)


if __name__ == "__main__":
    _main()
