"""A sweep as a job of a cluster that `ray up` started: handed over, followed, and met again."""

import asyncio
import hashlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekd.cluster import MOST
from rekd.launched import ROOT, Launched, Tunnel
from rekd.messages import one_line

NOT_SENT = (".git", ".venv", "results", "tests")
"""What the job's copy of the working tree leaves out, beside what .gitignore names."""

RECONNECTS = 6
"""Times that a lost connection is tried again, over two minutes, before the job is left to itself."""

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
    def typed(cls, cluster: Launched, *, store: str, default_store: str) -> "Command":
        """The command that started this process. Raises ValueError where the cluster could not run it."""
        script, arguments = Path(sys.argv[0]).resolve(), sys.argv[1:]
        if not script.is_relative_to(ROOT) or script.suffix != ".py":
            raise ValueError(
                f"{cluster.file} has started a cluster, which takes commands such as `python sweeps/alpha_sweep.py`, not "
                f"{sys.argv[0]}. Use --local, or name a cluster with --address."
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
        """Of the same command on the same store the same, so that typing it again meets the running job."""
        named = json.dumps([self.script, self.arguments, self.store])
        return f"sweep-{hashlib.sha256(named.encode()).hexdigest()[:16]}"


def hand_over(cluster: Launched, command: Command, say: Callable[[str], None]) -> int:
    """Runs the command as a job of the cluster, or comes back to it where it runs; returns its exit status.

    Ctrl-C and a lost connection leave the job running. Raises ValueError where the cluster does not answer.
    """
    say(f"Running on the cluster of {cluster.file}, head {cluster.head}.")
    job = _Job(command, say, {variable: str(cluster.most(resource)) for resource, variable in MOST.items()})
    failures = 0
    try:
        while failures <= RECONNECTS:
            started = time.monotonic()
            try:
                with Tunnel(cluster) as tunnel:
                    return job.follow(tunnel.client())
            except (OSError, RuntimeError) as error:
                if not job.submission_id:
                    raise ValueError(
                        f"The head {cluster.head} of {cluster.file} does not answer: {one_line(error)}. Start the cluster "
                        f"again with `ray up -y {cluster.file}`, forget it with `python -m rekd down {cluster.file}`, or "
                        "use --local."
                    ) from error
                if time.monotonic() - started > LASTING:
                    failures = 0
                if not failures:
                    say(f"[yellow]The head {cluster.head} does not answer.[/] Trying again for two minutes.")
                failures += 1
                time.sleep(2**failures)
        say("It does not answer any more.")
    except KeyboardInterrupt:
        pass
    if job.submission_id:
        say(
            f"\nNo longer following. The job goes on as long as the cluster is up, with results in {command.store}. The same "
            f"command follows it again. To stop it: {cluster.stop_command(job.submission_id)}"
        )
    return 1


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
        self.say(f"[red]The job has ended as {details.status.value}:[/] {one_line(details.message)}")
        return 1

    def _hand_over(self, client: Any) -> None:
        earlier = [job for job in client.list_jobs() if (job.submission_id or "").startswith(self.command.name)]
        running = next((job.submission_id for job in earlier if not job.status.is_terminal()), None)
        if running is not None:
            said = client.get_job_logs(running)
            self.num_shown = len(said) - sum(map(len, said.splitlines(keepends=True)[-LINES_AGAIN:]))
            self.say(f"It runs there already, as job {running}. This is what it said last:")
            self.submission_id = running
            return
        submission_id = f"{self.command.name}-{len(earlier) + 1}"  # what ended jobs did is in the ledger
        client.submit_job(
            entrypoint=shlex.join(["python", self.command.script, *self.command.arguments]),
            submission_id=submission_id,
            runtime_env={
                "working_dir": str(ROOT),
                "excludes": list(NOT_SENT),
                "env_vars": {
                    **self.environment,
                    "COLUMNS": str(shutil.get_terminal_size().columns),
                    "TMPDIR": "/tmp/ray",  # what a job leaves that is ended goes when the cluster does
                },
            },
        )
        self.submission_id = submission_id

    async def _print_output(self, client: Any) -> None:
        """What is new of the output, as it comes; the stream starts at its beginning each time."""
        num_old = self.num_shown
        async for text in client.tail_job_logs(self.submission_id):
            new = text[num_old:]
            num_old -= len(text) - len(new)
            self.num_shown += len(new)
            sys.stdout.write(new)
            sys.stdout.flush()
