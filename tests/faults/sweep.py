"""A small sweep that is disturbed: starting it, killing it, and what it ends with."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from disturbed import content, marked_processes, start_marked

from analysis import load_epochs, load_trials

EPOCHS = 8
NUM_TRIALS = 12  # a teacher and a student of four seeds, the student with and without its teacher


@dataclass
class Sweep:
    """`alpha_sweep.py` of one task on one store."""

    task: Path
    store: str
    log: Path
    arguments: tuple[str, ...] = ("--local",)
    environment: dict[str, str] = field(default_factory=dict)
    models: str = "vit-base,vit-tiny"
    script: str = "sweeps/alpha_sweep.py"
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self) -> subprocess.Popen:
        """In a session of its own, so that it can be killed with all that it started."""
        command = [sys.executable, self.script, "--task", str(self.task), "--store", self.store]
        command += ["--seeds", "2026-2029", "--epochs", str(EPOCHS), "--alphas", "0.3", "--models", self.models]
        command += ["--teacher-seed", "2026", "--yes", *self.arguments]
        return start_marked(command, mark=self.mark, log=self.log, environment=self.environment)

    def run(self, *, status: int = 0) -> str:
        """From start to end; what it printed, in one line."""
        return self.finish(self.start(), status=status)

    def finish(self, process: subprocess.Popen, *, status: int = 0) -> str:
        ended = process.wait(timeout=900)
        output = " ".join(self.log.read_text().split())
        assert ended == status, output
        return output

    def kill(self, process: subprocess.Popen) -> None:
        """The driver and all that it started, without a word."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not self.processes(), "what it started has ended")

    def processes(self) -> list[int]:
        """Those that runs of this store are using."""
        return marked_processes(self.mark)

    def trainers(self) -> list[int]:
        """Processes in which a trial is being trained."""
        return marked_processes(self.mark, "ImplicitFunc.train")

    def started_epochs(self) -> list[Path]:
        """Checkpoints of trials that are running, in a local store."""
        return sorted(Path(self.store).glob("running/*/epoch-*"))

    def num_ended(self) -> int:
        """Trials that have a row, in a local store."""
        return len(list(Path(self.store).glob("trials/*.parquet")))

    def wait_for_an_epoch(self) -> float:
        """Seconds until one more epoch has ended than had before."""
        before = set(self.started_epochs())
        return wait_until(lambda: set(self.started_epochs()) - before, "an epoch has ended")


def wait_until(holds: Callable[[], object], what: str, *, seconds: float = 120) -> float:
    """Seconds until `holds()`."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, f"waited {seconds:.0f} s in vain until {what}"
        time.sleep(0.1)
    return time.monotonic() - started


def assert_same_ledger(store: str, undisturbed: str) -> None:
    """Row for row, no trial twice, nothing left running or claimed."""
    for load in (load_trials, load_epochs):
        pd.testing.assert_frame_equal(content(load(store)), content(load(undisturbed)), check_exact=True)
    trials = load_trials(store)
    assert trials["digest"].is_unique
    assert (trials["status"] == "ok").all()
    if "://" not in store:
        for name in ("running", "claims", "owners"):
            assert list(Path(store).glob(f"{name}/*")) == [], name


def epochs_begun_again(store: str) -> int:
    """Upper bound of the epochs that were trained in vain: one for each time that a trial went on."""
    return int((load_trials(store)["attempt"] - 1).sum())
