"""Ten thousand schedules of claims, ledger and compaction, with kills, stalls and a store that errs."""

import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest
from explored import Explored

NUM_SCHEDULES = 10_000
TOGETHER = 100


def explore(first: int) -> int:
    """The operations on the store of `TOGETHER` schedules, by seed. Raises AssertionError where something does not hold."""
    logging.disable(logging.CRITICAL)  # of what is tried again
    num_steps = 0
    for seed in range(first, first + TOGETHER):
        explored = Explored(seed)
        explored.run()
        num_steps += len(explored.schedule.trace)
    return num_steps


@pytest.mark.long
def test_every_finished_row_is_there_once_in_ten_thousand_schedules(report):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        num_steps = sum(pool.map(explore, range(0, NUM_SCHEDULES, TOGETHER)))
    assert num_steps > 100 * NUM_SCHEDULES
    fault = f"{NUM_SCHEDULES:,} schedules of claims, ledger and compaction ({num_steps / 1e6:.1f} million operations)"
    report(fault, epochs="no row", recovery="in each of them")
