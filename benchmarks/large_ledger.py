"""A large ledger: 10,000 trials of 100 epochs, written, made compact, loaded, selected from and put into a table.

`python -m benchmarks.large_ledger [--trials 10000]`; the limit is 5 s and 1 GB for a million rows of epochs.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

from rekd.store.ledger import Ledger, Outcome
from rekd.tasks.task import load_task

READ = """
import resource, sys, time
started = time.perf_counter()
from analysis import load_epochs, load_trials, select_lambda_select
from analysis.experiment import split_stages
from analysis.tables import lambda_table
trials, epochs = load_trials(sys.argv[1]), load_epochs(sys.argv[1])
select_lambda_select(trials)
lambda_table(split_stages(trials))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(f"{len(trials)} trials, {len(epochs)} epochs: {time.perf_counter() - started:.1f} s, {peak:.2f} GB")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    count = parser.parse_args().trials
    first = load_task("digits").trial("re", "vit-student", seed=0)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        ledger = Ledger(scratch)
        started = time.perf_counter()
        for index in range(count):
            trial = replace(first, seed=index % 10, lambda_select=1e-6 * (index // 10 + 1))
            epochs = [{"epoch": epoch, "dev_loss": rng.random(), "temperature": 1.0} for epoch in range(1, 101)]
            outcome = Outcome(status="ok", dev_loss=rng.random(), dev_rationale_ratio=0.25, train_seconds=1.0)
            ledger.write(trial, outcome, epochs)
        print(f"written: {1000 * (time.perf_counter() - started) / count:.1f} ms a trial", flush=True)
        started = time.perf_counter()
        ledger.compact()
        print(f"made compact: {time.perf_counter() - started:.0f} s", flush=True)
        subprocess.run([sys.executable, "-c", READ, scratch], check=True)


if __name__ == "__main__":
    main()
