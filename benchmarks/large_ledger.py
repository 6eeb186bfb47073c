"""A large ledger: many trials of 100 epochs, read from a file a trial and from the compact copies, selected from and put into a
table; and the epochs of one trial among 100,000.

`python -m benchmarks.large_ledger [--trials 15000]`. Wanted: 5 s and 0.5 GB for the rows of 15,000 trials of which there is no
copy, and of as many as a sweep leaves them at worst, a tenth newer than the copy; 5 s and 1 GB for all of 10,000 trials with
a million rows of epochs; 0.2 s for one trial's epochs.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rekd.store.ledger import Ledger, Outcome
from rekd.tasks.task import load_task

TRIALS = """
from rekd.store.ledger import Ledger
said = f"{Ledger(sys.argv[1]).trials().num_rows} trials"
"""

EPOCHS = """
from rekd.store.ledger import Ledger
said = f"{Ledger(sys.argv[1]).epochs().num_rows} epochs"
"""

TABLE = """
from analysis import load_epochs, load_trials, select_lambda_select
from analysis.experiment import split_stages
from analysis.tables import lambda_table
trials, epochs = load_trials(sys.argv[1]), load_epochs(sys.argv[1])
select_lambda_select(trials)
lambda_table(split_stages(trials))
said = f"{len(trials)} trials, {len(epochs)} epochs, a selection and a table"
"""

ONE = """
from rekd.store.ledger import Ledger
ledger = Ledger(sys.argv[1])
started = time.perf_counter()
said = f"{ledger.epochs([sys.argv[2]]).num_rows} epochs of one trial"
"""

MEASURED = """
import re, sys, time
from pathlib import Path
started = time.perf_counter()
{}
seconds = time.perf_counter() - started
# Not getrusage's: a process begins with the most that the one had which started it.
most = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(f"{{said}}: {{seconds:.2f}} s, {{most / 1e6:.2f}} GB")
"""

CROWD = 100_000
"""Trials among which one is looked for."""


def measure(code: str, *arguments: str) -> None:
    """Prints what a process takes that runs nothing else; its imports count, but for those of `ONE`."""
    subprocess.run([sys.executable, "-c", MEASURED.format(code), *arguments], check=True)


def crowd(ledger: Ledger) -> str:
    """Fills the folder of epochs up with empty files, which is all that the reader of one may see; returns its digest."""
    files = sorted(Path(ledger.store.epochs_folder).iterdir())
    for number in range(CROWD - len(files)):
        (files[0].parent / f"{number:016x}.parquet").touch()
    return files[0].stem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=15_000)
    count = parser.parse_args().trials
    first = load_task("digits").trial("re", "vit-student", seed=0)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        ledger = Ledger(scratch)
        started = time.perf_counter()

        def write(numbers: range) -> None:
            for index in numbers:
                trial = replace(first, seed=index % 10, lambda_select=1e-6 * (index // 10 + 1))
                epochs = [{"epoch": epoch, "dev_loss": rng.random(), "temperature": 1.0} for epoch in range(1, 101)]
                outcome = Outcome(status="ok", dev_loss=rng.random(), dev_rationale_ratio=0.25, train_seconds=1.0)
                ledger.write(trial, outcome, epochs)

        write(range(count))
        print(f"written: {1000 * (time.perf_counter() - started) / count:.1f} ms a trial", flush=True)
        measure(TRIALS, scratch)
        measure(EPOCHS, scratch)
        started = time.perf_counter()
        ledger.compact()
        print(f"made compact: {time.perf_counter() - started:.0f} s", flush=True)
        measure(TABLE, scratch)
        write(range(count, count + count // 10 - 1))
        print("a tenth newer than the copy:", flush=True)
        measure(TRIALS, scratch)
        measure(ONE, scratch, crowd(ledger))


if __name__ == "__main__":
    main()
