"""Commands that are started to be killed, with all that they start, what is compared of their ledgers, and damaged files."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]

MARK = "REKD_TEST_RUN"
"""In the environment of all that these tests start, and so of all that Ray starts for it."""

CLOCKS = ("train_seconds", "finished_at", "attempt", "versions", "seconds")
"""Columns that tell when and how a row came about, not what it says."""


def start_marked(
    command: Sequence[str], *, mark: str, log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """From the project's root, in a session of its own, so that it can be killed with all that it started."""
    with log.open("a") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {}), MARK: mark},
            start_new_session=True,
        )


def marked_processes(mark: str, name: str = "") -> list[int]:
    """What was started with this mark and has not ended; only those whose command line has `name` in it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            if name in (folder / "cmdline").read_bytes().decode(errors="replace"):
                found.append(int(folder.name))
        except OSError:  # it has ended, or is another user's
            continue
    return found


def content(frame: pd.DataFrame) -> pd.DataFrame:
    """What rows say, clocks aside."""
    return frame.drop(columns=[name for name in CLOCKS if name in frame]).reset_index(drop=True)


DAMAGES = ("truncated", "empty", "a bit of a tensor", "a bit of the header", "a bit of the length")
"""What may happen to a safetensors file."""


def damaged(content: bytes, how: str) -> bytes:
    """The content of a safetensors file, damaged in one of the ways of `DAMAGES`."""
    if how == "truncated":
        return content[: len(content) // 2]
    if how == "empty":
        return b""
    place = {"a bit of a tensor": len(content) - 3, "a bit of the header": 60, "a bit of the length": 2}[how]
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
