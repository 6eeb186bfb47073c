"""A sweep as a job of a cluster that `ray up` started: handed over, followed, and met again."""

import asyncio
import hashlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from rekd.cluster.connect import MOST
from rekd.cluster.prices import VARIABLE as PRICES
from rekd.cluster.prices import handed_over
from rekd.cluster.ray_cluster import ROOT, TOKEN_FILE, RayCluster, Tunnel
from rekd.messages import one_line

NOT_SENT = (".git", ".venv", "results", "tests")
"""What the job's copy of the working tree leaves out, beside what .gitignore names."""

PAUSES = (2, 4, 8, 16, 30, 30, 30)
"""Seconds before each try to come back to a lost connection. After the last the job is left to itself: after two minutes, or
five where each try waits for an answer."""

LASTING = 120.0
"""Seconds after which a connection counts as a good one, and the next loss as the first."""

LINES_AGAIN = 20
"""Lines of what a job has said already that are shown on coming back to it."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A sweep's command as the cluster is to run it."""

    script: str
    """Path in the working tree."""
    arguments: tuple[str, ...]
    store: str

    @classmethod
    def typed(cls, cluster: RayCluster, *, store: str, default_store: str, more: Sequence[str] = ()) -> "Command":
        """The command that started this process, and `more`, of which each option takes the place of one that was typed.

        Raises ValueError where the cluster could not run it.
        """
        script, arguments = Path(sys.argv[0]).resolve(), [*sys.argv[1:], *more]
        if not script.is_relative_to(ROOT) or script.suffix != ".py":
            raise ValueError(
                f"{cluster.file} has started a cluster, which takes commands such as `python sweeps/alpha_sweep.py`, not "
                f"{sys.argv[0]}. Use --local, or name a cluster with --address."
            )
        if not (ROOT / "pyproject.toml").is_file():
            raise ValueError(
                f"{cluster.file} has started a cluster, which runs a copy of this project's checkout, and rekd was installed "
                "without one. Type the command from a clone of the repository, or use --local."
            )
        if store == default_store:
            if not cluster.store:
                raise ValueError(f"{cluster.file} does not say where results go. Set metadata.store, or use --store.")
            store, arguments = cluster.store, [*arguments, "--store", cluster.store]
        elif "://" not in store and not Path(store).is_absolute():
            raise ValueError(
                f"--store {store} is a folder of this machine, which the cluster of {cluster.file} does not see. Name a "
                "folder that its machines share, by its full path, or a URI such as s3://bucket/folder."
            )
        return cls(script=script.relative_to(ROOT).as_posix(), arguments=tuple(arguments), store=store)

    @property
    def name(self) -> str:
        """Is the same for the same command on the same store, so that typing it again meets the running job."""
        named = json.dumps([self.script, self.arguments, self.store])
        return f"sweep-{hashlib.sha256(named.encode()).hexdigest()[:16]}"


def hand_over(cluster: RayCluster, command: Command, say: Callable[[str], None]) -> int:
    """Runs the command as a job of the cluster, or comes back to it where it runs; returns its exit status.

    Ctrl-C and a lost connection leave the job running. Raises ValueError where the cluster does not take it.
    """
    from aiohttp import ClientError
    from ray.exceptions import RayError

    head = f"The head {escape(cluster.head)}"
    say(f"Running on the cluster of {cluster.file}, head {escape(cluster.head)}.")
    environment = {variable: str(cluster.most(resource)) for resource, variable in MOST.items()}
    job = _Job(command, say, {**environment, PRICES: handed_over(cluster.config)})
    failures = 0
    try:
        while True:
            started = time.monotonic()
            try:
                with Tunnel(cluster) as tunnel:
                    return job.follow(tunnel.client())
            except (OSError, RuntimeError, RayError, ClientError) as error:
                if not job.submission_id:
                    raise ValueError(_why_not(cluster, error)) from error
                if cluster.is_down:
                    say(
                        f"\nThe cluster of {cluster.file} was taken down. What has ended is in {escape(command.store)}; "
                        f"`ray up -y {cluster.file}` and then the same command go on with the rest."
                    )
                    return 1
                if time.monotonic() - started > LASTING:
                    failures = 0
                if failures == len(PAUSES):
                    say(f"{head} does not answer any more: {escape(one_line(error))}")
                    break
                if not failures:
                    say(f"[yellow]{head} does not answer.[/] Trying again for two to five minutes.")
                time.sleep(PAUSES[failures])
                failures += 1
    except KeyboardInterrupt:
        pass
    if job.submission_id:
        say(
            "\nNo longer following. The job goes on as long as the cluster is up, with results in "
            f"{escape(command.store)}. The same command follows it again. To stop it: "
            f"{escape(cluster.stop_command(job.submission_id))}"
        )
    return 1


def _why_not(cluster: RayCluster, error: Exception) -> str:
    """Why nothing was handed over, and what to do. `ray up` ends what runs there, so only where no Ray answers."""
    import requests
    from ray.exceptions import AuthenticationError

    head = f"The head {cluster.head} of {cluster.file}"
    said = one_line(error.message if isinstance(error, AuthenticationError) else error).rstrip(".")
    if isinstance(error, AuthenticationError):
        return (
            f"{head} refuses the token in its {TOKEN_FILE}: {said}. Another Ray may have its port, or the "
            f"file was replaced. `python -m rekd down {cluster.file}` and `ray up -y {cluster.file}` make a new one, and end "
            "what runs there. --local runs on this machine."
        )
    if isinstance(error, ConnectionError | TimeoutError | requests.ConnectionError | requests.Timeout):
        return (
            f"{head} does not answer: {said}. Start the cluster again with `ray up -y {cluster.file}`, forget it "
            f"with `python -m rekd down {cluster.file}`, or use --local."
        )
    return (
        f"{head} has not taken the sweep: {said}. Type the same command again, which meets the sweep if it runs "
        "there after all, or use --local."
    )


class _Job:
    """The command on the cluster, and how much of its output has been printed here."""

    def __init__(self, command: Command, say: Callable[[str], None], environment: Mapping[str, str]) -> None:
        self.command, self.say, self.environment = command, say, environment
        self.submission_id = ""  # until it runs
        self.num_shown = 0  # characters of its output

    def follow(self, client: Any) -> int:
        """Prints what the job says until it has ended; returns its exit status."""
        if not self.submission_id:
            self._hand_over(client)
        asyncio.run(self._print_output(client))
        while not (details := client.get_job_info(self.submission_id)).status.is_terminal():
            time.sleep(0.2)  # the output ends a moment before the job does
        if details.driver_exit_code in (0, 1, 2):
            return details.driver_exit_code
        self.say(f"[red]The job has ended as {details.status.value}:[/] {escape(one_line(details.message))}")
        return 1

    def _hand_over(self, client: Any) -> None:
        earlier = self._earlier(client)
        if self._meets_one_of(earlier, client):
            return
        submission_id = f"{self.command.name}-{len(earlier) + 1}"  # what ended jobs did is in the ledger
        try:
            client.submit_job(
                entrypoint=shlex.join(["python", self.command.script, *self.command.arguments]),
                submission_id=submission_id,
                runtime_env={
                    "working_dir": str(ROOT),
                    "excludes": list(NOT_SENT),
                    "env_vars": {**self.environment, "COLUMNS": str(shutil.get_terminal_size().columns)},
                },
            )
        except RuntimeError:
            if not self._meets_one_of(self._earlier(client), client):  # typed twice at once, the other was first
                raise
        else:
            self.submission_id = submission_id

    def _earlier(self, client: Any) -> list[Any]:
        """Jobs of this command."""
        return [job for job in client.list_jobs() if (job.submission_id or "").startswith(self.command.name)]

    def _meets_one_of(self, jobs: list[Any], client: Any) -> bool:
        """Whether one of them runs, which is then the one to follow."""
        running = next((job.submission_id for job in jobs if not job.status.is_terminal()), None)
        if running is None:
            return False
        said = client.get_job_logs(running)
        self.num_shown = len(said) - sum(map(len, said.splitlines(keepends=True)[-LINES_AGAIN:]))
        self.say(f"It runs there already, as job {escape(running)}. This is what it said last:")
        self.submission_id = running
        return True

    async def _print_output(self, client: Any) -> None:
        """What is new of the output, as it comes; the stream starts at its beginning each time."""
        num_old = self.num_shown
        async for text in client.tail_job_logs(self.submission_id):
            new = text[num_old:]
            num_old -= len(text) - len(new)
            self.num_shown += len(new)
            sys.stdout.write(new)
            sys.stdout.flush()
