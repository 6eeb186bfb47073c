"""What `make demo` shows, on four disjoint sets of seeds: the table of docs/hidden-digits.md.

`python -m benchmarks.demonstration run STORE` trains, half an hour on two cores; with ATEN_CPU_CAPABILITY and
ONEDNN_MAX_CPU_ISA set, with the instructions of another processor. `... report NAME=STORE ...` prints the table. `... longer
STORE` trains ten seeds of RE and of REKD, under the teacher and the alpha of the first set, with 1, 2, 4 and 8 times the
epochs; `... pictures STORE FOLDER` draws accuracy over epochs and at exact budgets of them.
"""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import load_trials
from analysis.experiment import split_stages
from analysis.figures import budget_picture, epochs_picture
from analysis.frames import narrow
from analysis.tables import comparison_table
from rekd import load_task, run_sweep

TASK = "hidden-digits"
TEN = range(2026, 2036)
SEEDS = ("2026-2030", "2031-2035", "2036-2040", "2041-2045")

COLUMNS = {
    "processor": "instructions",
    "seeds": "seeds",
    "teacher": "teacher",
    "re": "RE",
    "rekd": "REKD",
    "difference": "difference, 95 %",
    "ahead": "ahead",
    "ratio": "dev ratio %",
    "f1": "F1",
    "masks": "different masks %",
    "longer": "RE, 4 x",
}


def run(store: str, *options: str) -> None:
    """The demo's sweep for each set of seeds; a set that is there is not trained again."""
    for seeds in SEEDS:
        command = ["sweeps/alpha_sweep.py", "--task", TASK, "--seeds", seeds, "--store", store, *options]
        subprocess.run([sys.executable, *command], check=True)


def longer(store: str) -> None:
    """RE and REKD with more and more epochs; what is there is not trained again."""
    taught, epochs = _of_first_set(load_trials(store))
    task, trials = load_task(TASK), []
    for seed, times in itertools.product(TEN, (1, 2, 4, 8)):
        trials.append(task.trial("re", "vit-student", seed=seed, epochs=times * epochs))
        trials.append(task.trial("rekd", "vit-student", seed=seed, epochs=times * epochs, **taught))
    run_sweep(trials, tasks=[task], store=store)


def pictures(store: str, folder: str) -> None:
    """What `longer` has trained."""
    trials = load_trials(store)
    taught, _ = _of_first_set(trials)
    of_ten = narrow(trials, task=TASK, status="ok", model="vit-student", seed=TEN)
    rekd = narrow(of_ten, objective="rekd", **taught)
    rows = pd.concat([narrow(of_ten, objective="re"), rekd])
    ends = rows[rows["epochs"].isin([rows["epochs"].min(), rows["epochs"].max()])]
    for picture in (epochs_picture(split_stages(rows), TASK), budget_picture(split_stages(ends), TASK)):
        assert picture is not None
        (Path(folder) / f"{picture.name}.png").write_bytes(picture.render("png"))


def _of_first_set(trials: pd.DataFrame) -> tuple[dict[str, Any], int]:
    """The alpha and the teacher that the rules choose among the first five seeds, and the budget in epochs."""
    trials = narrow(trials, task=TASK, status="ok", seed=TEN[:5])
    trials = trials[(trials["objective"] != "rekd") | (trials["epochs"] == trials["epochs"].min())]
    chosen = narrow(split_stages(trials).finals, objective="rekd").iloc[0]
    return {"alpha": float(chosen["alpha"]), "teacher_digest": chosen["teacher_digest"]}, int(chosen["epochs"])


def rows(processor: str, store: str) -> Iterator[dict[str, str]]:
    """A row for each set of seeds that a store has, teacher and alpha chosen by rule among these seeds."""
    trials = load_trials(store)
    trials = narrow(trials[trials["status"] == "ok"], task=TASK)
    for seeds in SEEDS:
        first, last = map(int, seeds.split("-"))
        of_set = trials[trials["seed"].between(first, last)]
        if (of_set["objective"] == "rekd").any():
            yield {"processor": processor, "seeds": seeds, **_row(of_set)}


def _row(trials: pd.DataFrame) -> dict[str, str]:
    budget = trials.loc[trials["objective"] == "rekd", "epochs"].iloc[0]
    students = trials["model"] == "vit-student"
    stages = split_stages(trials[~students | (trials["epochs"] == budget)])
    compared = comparison_table(stages).iloc[0]
    rekd = narrow(stages.finals, objective="rekd")
    teacher = narrow(trials, digest=rekd["teacher_digest"].iloc[0])["test_accuracy"].item()
    plain = narrow(trials[students], objective="re", epochs=budget)
    longer = trials[students & (trials["objective"] == "re") & (trials["epochs"] == 4 * budget)]
    return {
        "teacher": f"{teacher:.3f}",
        "re": _spread(plain["test_accuracy"]),
        "rekd": f"{_spread(rekd['test_accuracy'])} (alpha {rekd['alpha'].iloc[0]:g})",
        "difference": f"{compared['difference']:+.3f} ({compared['low']:+.3f} to {compared['high']:+.3f})",
        "ahead": f"{compared['num_better']} of {compared['num_pairs']}",
        "ratio": f"{rekd['dev_rationale_ratio'].mean() * 100:.1f}",
        "f1": f"{rekd['test_rationale_f1'].mean():.3f}",
        "masks": f"{rekd['test_distinct_masks'].mean() * 100:.0f}",
        "longer": _spread(longer["test_accuracy"]) if len(longer) else "",
    }


def _spread(values: pd.Series) -> str:
    return f"{values.mean():.3f} ± {values.std():.3f}"


def report(*stores: str) -> str:
    """The table, in Markdown; a store is `NAME=FOLDER`."""
    found = pd.DataFrame([row for told in stores for row in rows(*told.split("=", 1))])
    head = f"| {' | '.join(COLUMNS.values())} |\n|{'---|' * len(COLUMNS)}"
    lines = [f"| {' | '.join(row)} |" for row in found[list(COLUMNS)].itertuples(index=False)]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(*sys.argv[2:])
    elif sys.argv[1] == "longer":
        longer(*sys.argv[2:])
    elif sys.argv[1] == "pictures":
        pictures(*sys.argv[2:])
    else:
        print(report(*sys.argv[2:]))
