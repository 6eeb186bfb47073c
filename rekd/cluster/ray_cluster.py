"""A cluster that `ray up` started from a file: finding it, reaching it through SSH, taking it down."""

import contextlib
import json
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from rekd.messages import one_line

ROOT = Path(__file__).parents[2]
"""The working tree."""

FILES = ("cluster.yaml", "clusters/on_premises.yaml")
"""The cluster files that are looked at, in this order, by their path in the working tree."""

NOT_SET = "CHANGE-ME"
"""Stands in a cluster file where only its user knows the value. A file that has one left has started nothing."""

DASHBOARD_PORT = 8265
TOKEN_FILE = "~/.rekd/token"
KEY_FILE = "~/ray_bootstrap_key.pem"
"""The key on the head with which Ray opens the workers."""
PATIENCE = 20
"""Seconds in which an SSH connection has to be there."""
QUIETLY = ("-o", "BatchMode=yes", "-o", "LogLevel=ERROR")
"""SSH asks nothing and says what failed only."""
NO_WAY = 255
"""SSH's own exit status, where it does not get there."""

RAY_FOLDER = "/tmp/rekd-$(id -u)"
"""What Ray and trials keep for a while on a machine that stays, as its shell names it. Ray lets everybody write its own
folders, so they are below this one, which is its user's alone."""

# Run on each machine that stays: every step, and one that fails is told. The environment and the results stay too: the next
# `ray up` is quick, and nothing is lost.
STEPS = (
    "[ ! -x ~/.rekd/venv/bin/ray ] || ~/.rekd/venv/bin/ray stop --force > /dev/null",
    f"rm -f {TOKEN_FILE} {KEY_FILE} ~/ray_bootstrap_config.yaml",
    "[ ! -e ~/.bashrc ] || sed -i '/# rekd$/d' ~/.bashrc",
    "[ -s ~/.bashrc ] || rm -f ~/.bashrc",
    f"[ ! -O {RAY_FOLDER} ] || rm -rf {RAY_FOLDER}",
)
CLEAN = f"failed=0; {''.join(f'{step} || failed=1; ' for step in STEPS)}exit $failed"


@dataclass(frozen=True, kw_only=True)
class RayCluster:
    """A cluster that `ray up` started from a file on this machine."""

    file: str
    """Path of the file in the working tree."""
    head: str
    """Address of the head, as seen from here."""
    config: dict[str, Any] = field(repr=False)
    """What the file says."""

    @property
    def store(self) -> str | None:
        """Where the cluster keeps results unless told otherwise."""
        return (self.config.get("metadata") or {}).get("store")

    @property
    def is_down(self) -> bool:
        """Whether it is known that there is no such cluster any more."""
        try:
            return cluster_from(self.file) is None
        except ValueError:  # nobody can tell
            return False

    @property
    def stays(self) -> bool:
        """Whether the machines are there when the cluster is not."""
        return self.config["provider"]["type"] == "local"

    def most(self, resource: str) -> int:
        """How much of a resource the workers have when all are there that may be; 0 where the file does not say.

        A sweep's trials are alike, so they are on one type of machine; that of which there may be most, as a rule.
        """
        limit = self.config.get("max_workers", 0)
        kinds = [
            (min(kind.get("max_workers", limit), limit), kind["resources"].get(resource, 0))
            for name, kind in self.config.get("available_node_types", {}).items()
            if name != self.config.get("head_node_type")
        ]
        num_machines, amount = max(kinds, default=(0, 0))
        return num_machines * amount

    def ssh(self, command: str, *options: str) -> list[str]:
        """What runs a shell command on the head's machine."""
        auth = self.config.get("auth") or {}
        words = ["ssh", *options, *_options(f"ConnectTimeout={PATIENCE}", "ControlPath=none")]
        words += _options("ServerAliveInterval=15", "ServerAliveCountMax=4")
        if self.stays:
            words += _options("StrictHostKeyChecking=accept-new")
        else:  # a rented machine's address comes back with the next machine's key
            words += _options("StrictHostKeyChecking=no", f"UserKnownHostsFile={os.devnull}")
        if "ssh_private_key" in auth:
            words += ["-i", str(Path(auth["ssh_private_key"]).expanduser()), *_options("IdentitiesOnly=yes")]
        if "ssh_proxy_command" in auth:
            words += _options(f"ProxyCommand={auth['ssh_proxy_command']}")
        return [*words, f"{auth['ssh_user']}@{self.head}" if "ssh_user" in auth else self.head, command]

    def stop_command(self, submission_id: str) -> str:
        """What a user types to end a job."""
        return f"ray exec {self.file} 'ray job stop {submission_id}'"


def find() -> RayCluster | None:
    """The cluster that one of `FILES` started, if there is one. Raises ValueError where that cannot be told."""
    return next((found for found in map(cluster_from, FILES) if found is not None), None)


def cluster_from(file: str) -> RayCluster | None:
    """The cluster that this file started; None where there is none. Raises ValueError where that cannot be told."""
    path = ROOT / file
    if not path.exists():
        return None
    config = _config(path, file)
    provider = config["provider"]["type"]
    if NOT_SET in json.dumps(config) or (provider == "local" and "head_ip" not in config["provider"]):
        return None
    if provider == "external" and not _is_installed("boto3"):
        return None  # nor could `ray up` have started it from here
    from ray.autoscaler.sdk import configure_logging, get_head_node_ip

    logging.getLogger("ray").setLevel(logging.ERROR)
    configure_logging(log_style="record", verbosity=0)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            head = get_head_node_ip(str(path))
    except RuntimeError:
        return None
    except Exception as error:  # whatever the cloud's own library raises
        raise ValueError(
            f"Whether {file} has started a cluster cannot be told: {one_line(error)} --local runs on this machine."
        ) from error
    return RayCluster(file=file, head=head, config=config)


class Tunnel:
    """The dashboard on the head's loopback, at a port of this machine's loopback, and the token that it asks for.

    One SSH process. It lives as long as its standard input, so it ends with this process however that ends.
    """

    def __init__(self, cluster: RayCluster) -> None:
        """Raises ConnectionError where SSH does not get there, or there is no token."""
        self.port = free_port()
        forward = ("-L", f"127.0.0.1:{self.port}:127.0.0.1:{DASHBOARD_PORT}", *_options("ExitOnForwardFailure=yes"))
        with tempfile.TemporaryFile() as errors:
            self._process = subprocess.Popen(
                cluster.ssh(f"cat {TOKEN_FILE}; echo; exec cat", *forward, *QUIETLY),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for us; we end it in good time
            )
            assert self._process.stdout is not None
            try:
                self.token = self._process.stdout.readline().decode().strip()
            finally:
                if not getattr(self, "token", ""):
                    self.close()
            if not self.token:
                errors.seek(0)
                raise ConnectionError(one_line(errors.read().decode(errors="replace") or "SSH has ended"))

    def __enter__(self) -> "Tunnel":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        try:
            self._process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def client(self) -> Any:
        """Ray's job client. Raises ConnectionError or RuntimeError where no Ray answers or the token is not its own."""
        os.environ.pop("RAY_API_SERVER_ADDRESS", None)  # would go before the address
        _keep_from_proxies("127.0.0.1")
        from ray.job_submission import JobSubmissionClient

        for module in ("dashboard_sdk", "job.sdk"):
            logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.ERROR)
        address = f"http://127.0.0.1:{self.port}"
        return JobSubmissionClient(address, headers={"Authorization": f"Bearer {self.token}"})


def take_down(file: str, say: Callable[[str], None]) -> bool:
    """`ray down`, and then what it leaves: processes, keys, tokens and logs on machines that stay, and the state here.

    Returns whether all of it is gone. Raises ValueError on a file that cannot be read.
    """
    path = ROOT / file
    config = _config(path, file)
    if config["provider"]["type"] == "local" and "head_ip" not in config["provider"]:
        raise ValueError(f"{file} names no machines (provider.head_ip), so it has started nothing.")
    is_gone = subprocess.run([sys.executable, "-m", "ray.scripts.scripts", "down", "-y", str(path)]).returncode == 0
    if config["provider"]["type"] != "local":
        return is_gone
    cluster = RayCluster(file=file, head=str(config["provider"]["head_ip"]), config=config)
    # The way to the workers is the head, so that goes last: as long as one is left, they can be reached again.
    workers = [str(worker) for worker in config["provider"]["worker_ips"]]
    left = [worker for worker in workers if not _is_clean(_clean_worker(cluster, worker), worker, say)]
    if left:
        say(
            f"The head {escape(cluster.head)} keeps its key and token until these are clean: {escape(', '.join(left))}. Type "
            f"the same command again. A machine that is gone for good: take it out of provider.worker_ips in {escape(file)}."
        )
        return False
    is_gone &= _is_clean(_run(cluster.ssh(CLEAN, *QUIETLY)), cluster.head, say)
    from ray.autoscaler._private.local.config import get_lock_path, get_state_path

    for path_of in (get_lock_path, get_state_path):
        Path(path_of(config["cluster_name"])).unlink(missing_ok=True)
    return is_gone


def _clean_worker(cluster: RayCluster, worker: str) -> subprocess.CompletedProcess[str]:
    """Cleans a worker from the head, with the key that Ray put there, so that only the head need be reachable from here.

    A head without the key is one that was cleaned up, after all workers.
    """
    user = (cluster.config.get("auth") or {}).get("ssh_user")
    unchecked = _options("StrictHostKeyChecking=no", f"UserKnownHostsFile={os.devnull}")  # as Ray does from there
    options = " ".join([*unchecked, *QUIETLY, *_options(f"ConnectTimeout={PATIENCE}")])
    target = shlex.quote(f"{user}@{worker}" if user else worker)
    onward = f"ssh -i {KEY_FILE} {options} {target} {shlex.quote(CLEAN)}"
    done = _run(cluster.ssh(f"[ ! -e {KEY_FILE} ] || {onward}", *QUIETLY))
    return _run(replace(cluster, head=worker).ssh(CLEAN, *QUIETLY)) if done.returncode == NO_WAY else done


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def _is_clean(done: subprocess.CompletedProcess[str], machine: str, say: Callable[[str], None]) -> bool:
    if done.returncode:
        said = done.stderr or f"exit status {done.returncode}"
        say(f"{escape(machine)} could not be cleaned up: {escape(one_line(said))}")
    return not done.returncode


def _keep_from_proxies(host: str) -> None:
    """Requests to the host carry the token and the working tree: no proxy that the environment names gets them."""
    hosts = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(dict.fromkeys([*filter(None, hosts), host]))


def read_cluster_file(file: str) -> dict[str, Any]:
    """What a cluster file says, by its path in the working tree. Raises ValueError on a file that cannot be read."""
    return _config(ROOT / file, file)


def _config(path: Path, file: str) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load(path.read_text())
        assert isinstance(config["provider"]["type"], str)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"{file} is not a cluster file of Ray's: {one_line(error)}.") from error
    return config


def _options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("-o", setting)]


def _is_installed(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
