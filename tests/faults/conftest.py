"""What the faults share: an undisturbed run to compare with, and the report of what was survived."""

import os
import time
from pathlib import Path

import pytest
import stand_ins
import sweep as sweeps

REPORT = "REKD_FAULT_REPORT"
"""Names the file that the report goes to."""

_rows: list[str] = []


@pytest.fixture(scope="session")
def task_file(tmp_path_factory) -> Path:
    """The stand-in of CIFAR-10."""
    return stand_ins.save_image_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="session")
def undisturbed(task_file, tmp_path_factory) -> sweeps.Sweep:
    """The sweep without a fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep = sweeps.Sweep(task_file, str(folder / "store"), folder / "log")
    sweep.run()
    return sweep


@pytest.fixture
def sweep(task_file, tmp_path):
    """One to be disturbed. What it leaves behind is ended."""
    made = sweeps.Sweep(task_file, str(tmp_path / "store"), tmp_path / "log")
    yield made
    for pid in made.processes():
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue


@pytest.fixture
def report():
    """Called with what was lost, once a fault was survived."""
    started = time.monotonic()

    def survived(fault: str, *, epochs: int | str, recovery: float | str) -> None:
        seconds = f"{recovery:.0f} s" if isinstance(recovery, float) else recovery
        _rows.append(f"| {fault} | {epochs} | {seconds} | {time.monotonic() - started:.0f} s |")

    return survived


def pytest_sessionfinish() -> None:
    if (file := os.environ.get(REPORT)) and _rows:
        head = ["| fault | epochs begun again | until it went on | whole test |", "|---|---|---|---|"]
        Path(file).write_text("\n".join([*head, *_rows]) + "\n")
