"""A sweep on a cluster that `ray up` started: the cluster is found by its file, reached through SSH, handed the same
command as a Ray job, and followed until the job has ended.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rekd.messages import one_line

ROOT = Path(__file__).parents[1]
"""The working tree, which the job gets a copy of."""

FILES = ("cluster.yaml", "clusters/on_premises.yaml")
"""The cluster files that are looked at, in this order, by their path in the working tree."""

NOT_SET = "CHANGE-ME"
"""Stands in a cluster file where only its user knows the value. A file that has one left was never started."""

NOT_SENT = (".git", ".venv", "results", ".hypothesis", ".pytest_cache", ".ruff_cache", "__pycache__", "tests", "build", "dist")
"""What the copy leaves out, beside what .gitignore names."""

DASHBOARD_PORT = 8265
TOKEN_FILE = "~/.rekd/token"
PATIENCE = 20.0
"""Seconds in which an SSH connection has to be there."""

RECONNECTS = 5
"""Times that a lost connection is tried again before the job is left to itself."""

LINES_AGAIN = 20
"""Lines of what a running job has said already that are shown on coming back to it."""


@dataclass(frozen=True, kw_only=True)
class Launched:
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
    def workers(self) -> list[str]:
        """Machines that stay when the cluster ends; none where they are rented."""
        return list(self.config["provider"].get("worker_ips", ()))

    def ssh(self, *options: str) -> list[str]:
        """The beginning of a command that runs another one on the head's machine."""
        auth = self.config.get("auth", {})
        command = ["ssh", *options, "-o", "BatchMode=yes", "-o", f"ConnectTimeout={PATIENCE:.0f}"]
        command += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4", "-o", "ControlPath=none"]
        command += ["-o", "LogLevel=ERROR"]
        if self.config["provider"]["type"] == "local":
            command += ["-o", "StrictHostKeyChecking=accept-new"]
        else:  # rented machines have no lasting identity, and their addresses come back with other keys
            command += ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={os.devnull}"]
        if "ssh_private_key" in auth:
            command += ["-i", str(Path(auth["ssh_private_key"]).expanduser()), "-o", "IdentitiesOnly=yes"]
        if "ssh_proxy_command" in auth:
            command += ["-o", f"ProxyCommand={auth['ssh_proxy_command']}"]
        return [*command, f"{auth['ssh_user']}@{self.head}" if "ssh_user" in auth else self.head]

    def inside(self, command: str) -> str:
        """A shell command as the head's machine has to be given it to run where Ray is: in the container, if there is one."""
        container = (self.config.get("docker") or {}).get("container_name")
        return f"docker exec {shlex.quote(container)} sh -c {shlex.quote(command)}" if container else command


def find() -> Launched | None:
    """The cluster that one of `FILES` started, if there is one. Raises ValueError where that cannot be told."""
    for file in FILES:
        found = launched_from(file)
        if found is not None:
            return found
    return None


def launched_from(file: str) -> Launched | None:
    """The cluster that this file started; None where there is none. Raises ValueError where that cannot be told."""
    path = ROOT / file
    if not path.exists():
        return None
    text = path.read_text()
    import yaml

    try:
        config = yaml.safe_load(text)
        provider = config["provider"]["type"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a cluster file: {one_line(error)}. Mend it, or use --local.") from error
    if NOT_SET in json.dumps(config) or (provider == "local" and "head_ip" not in config["provider"]):
        return None
    if provider == "aws":
        try:
            import boto3  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError:
            return None  # nor could `ray up` have started it from here
    from ray.autoscaler.sdk import configure_logging, get_head_node_ip

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
    return Launched(file=file, head=head, config=config)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A sweep's command as the cluster is to run it."""

    script: str
    arguments: tuple[str, ...]
    store: str

    @classmethod
    def typed(cls, store: str | None, cluster: Launched, *, default_store: str) -> "Command":
        """The command that this process was started by. Raises ValueError where the cluster could not run it."""
        script = Path(sys.argv[0]).resolve()
        if not script.is_relative_to(ROOT) or script.suffix != ".py":
            raise ValueError(
                f"{cluster.file} has started a cluster, which takes scripts of {ROOT} only, got {sys.argv[0]}. "
                "Use --local, or name a cluster by --address."
            )
        arguments = list(sys.argv[1:])
        if store == default_store:
            store = cluster.store
            if store is None:
                raise ValueError(f"{cluster.file} has no metadata.store, where results go. Add it, or name a --store.")
            arguments += ["--store", store]
        elif store is None or ("://" not in store and not Path(store).is_absolute()):
            raise ValueError(
                f"--store {store} is a folder of this machine, which the cluster of {cluster.file} does not see. Name a "
                "folder that its machines share, by its full path, or a URI such as s3://bucket/folder."
            )
        return cls(script=script.relative_to(ROOT).as_posix(), arguments=tuple(arguments), store=store)

    @property
    def submission_id(self) -> str:
        """The same for the same command and store, so that a second one meets the first."""
        named = json.dumps([self.script, self.arguments, self.store])
        return f"sweep-{hashlib.sha256(named.encode()).hexdigest()[:16]}"

    @property
    def entrypoint(self) -> str:
        return shlex.join(["python", self.script, *self.arguments])


@dataclass
class Tunnel:
    """Ray's dashboard on the head's loopback, at a port of this machine's loopback, and the token that it asks for.

    One SSH process, which ends with this one however that ends: it lives as long as its standard input.
    """

    cluster: Launched
    port: int = 0
    token: str = ""

    def __enter__(self) -> "Tunnel":
        self.port = _free_port()
        forward = f"127.0.0.1:{self.port}:127.0.0.1:{DASHBOARD_PORT}"
        command = self.cluster.ssh("-o", "ExitOnForwardFailure=yes", "-L", forward)
        remote = f"{self.cluster.inside(f'cat {TOKEN_FILE}')}; echo; exec cat"
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [*command, remote],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is for us; we end it in good time
        )
        assert self._process.stdout is not None
        self.token = self._process.stdout.readline().decode().strip()
        if not self.token:
            time.sleep(0.2)  # what it died of is about to be written
            self.__exit__()
            self._errors.seek(0)
            raise ConnectionError(one_line(self._errors.read().decode(errors="replace") or "SSH has ended"))
        return self

    def __exit__(self, *exception: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def client(self) -> Any:
        """Ray's job client. Raises ConnectionError where no Ray answers, PermissionError where the token is wrong."""
        os.environ.pop("RAY_API_SERVER_ADDRESS", None)  # would go before the address
        from ray.job_submission import JobSubmissionClient

        try:
            return JobSubmissionClient(
                f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {self.token}"}
            )
        except RuntimeError as error:
            raise PermissionError(one_line(error)) from error


def hand_over(cluster: Launched, command: Command, say: Any) -> int:
    """Runs a command as a job of the cluster, or comes back to it where it runs already; its exit status is ours.

    `say` prints a line. Ctrl-C leaves the job alone. Raises ValueError where the cluster does not answer.
    """
    try:
        with Tunnel(cluster) as tunnel:
            client = tunnel.client()
            seen = _submit(client, cluster, command, say)
            followed = _follow(client, command.submission_id, seen)
    except (ConnectionError, PermissionError) as error:
        raise ValueError(
            f"{cluster.file} has started a cluster, but its head {cluster.head} does not answer: {one_line(error)}. "
            f"Start it again with `ray up -y {cluster.file}`, forget it with `ray down -y {cluster.file}`, or use --local."
        ) from error
    except KeyboardInterrupt:
        _left_alone(cluster, command, say)
        return 1
    for attempt in range(RECONNECTS):
        if followed.status is not None:
            return followed.status
        time.sleep(2**attempt)
        with contextlib.suppress(ConnectionError, PermissionError), Tunnel(cluster) as tunnel:
            followed = _follow(tunnel.client(), command.submission_id, followed.seen)
    if followed.status is None:
        say(f"[yellow]The head {cluster.head} does not answer any more.[/]")
        _left_alone(cluster, command, say)
        return 1
    return followed.status
