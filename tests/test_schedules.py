"""Of claims, ledger and compaction in any order, with kills, stalls and a store that errs, every finished row is there, once.

The long run, of 10,000 schedules, is one of the faults.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from explored import Explored

from rekd.store.claims import Claims
from rekd.store.files import Store
from rekd.store.ledger import Ledger, Outcome
from rekd.store.table import Table
from rekd.trial import Trial


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Thousands of warnings of what is tried again."""
    caplog.set_level(logging.CRITICAL)


def explore(num_schedules: int) -> None:
    for seed in range(num_schedules):
        Explored(seed).run()


def test_every_finished_row_is_there_once_whatever_the_order():
    explore(25)


def test_a_schedule_can_be_had_again():
    traces = []
    for _ in range(2):
        explored = Explored(11)
        explored.run()
        traces.append(explored.schedule.trace)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 100


# --- What it finds ----------------------------------------------------------------------------------------------------


def look_then_write(ledger: Ledger, trial: Trial, outcome: Outcome, epochs: Any = ()) -> None:
    """Failures beside results, kept away from them by a look."""
    row = ledger.row(trial.digest)
    if outcome.status == "failed" and row is not None and row["status"] != "failed":
        return
    ledger._epochs.write(trial.digest, epochs)
    ledger._results.write(trial.digest, [{**asdict(trial), **asdict(outcome)}])


def set_aside_by_path(store: Store, path: str, content: bytes, why: str) -> None:
    store.remove_file(path)


def trust_the_copy(self: Table, wanted: set[str] | None) -> tuple[Any, dict[str, str]]:
    copy = self._copy()
    known = set(copy["digest"].to_pylist())
    names = [name[:16] for name in self.store.states_in(f"{self.store.root}/{self.name}")]
    return copy, {digest: f"{digest} x" for digest in names if digest not in known}


def take_without_looking(claims: Claims, digest: str) -> bool:
    if digest in claims.elsewhere():
        return False
    claims.store.write(claims.store.claim_file(digest, claims.owner), b"")
    claims.held.add(digest)
    return True


LOST = "gone for a reader|finished row|without its epochs"

WRONG: dict[str, tuple[type, str, Callable, str]] = {
    "a failure that looks and then writes": (Ledger, "write", look_then_write, LOST),
    "a copy that is trusted": (Table, "_copied_and_missing", trust_the_copy, "what was withdrawn is ok again"),
    "a claim without a second look": (Claims, "take", take_without_looking, "run the same trial"),
}


@pytest.mark.slow
def test_setting_aside_by_path_is_found(monkeypatch):
    """The good row has to be written between a look at the damaged one and the next operation."""
    monkeypatch.setattr(Store, "keep_aside", set_aside_by_path)
    with pytest.raises(AssertionError, match=LOST):
        explore(2000)


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found(what, monkeypatch):
    owner, name, wrong, message = WRONG[what]
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(AssertionError, match=message) as found:
        explore(400)
    assert "\nseed " in str(found.value)  # and the last steps
