"""Does a teacher that uses a shortcut hand it on, and does the rationale show it? The table of docs/hidden-digits.md.

`python -m benchmarks.shortcut run STORE 90 100` trains ten teachers on hidden digits whose mark names the label of 90 % (and
of all) of the canvases of train and dev, each with the student that it teaches, and RE of the same student for as long and four
times as long: ten minutes each on two cores. `... report STORE 90 100` prints the table, and how a student's use of the mark
goes with its teacher's.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import load_predictions, load_trials
from analysis.frames import narrow
from analysis.groups import group_accuracy
from rekd import load_task, run_sweep
from rekd.tasks.marked_digits import MarkedCanvases, make_marked
from rekd.tasks.task import Task

SEEDS = range(2026, 2036)
STUDENT = "vit-student"
HAS = "rationale has the mark"
MEASURED = ("accuracy", "mark agrees", "mark contradicts", "says the mark's class there", HAS)


def task_of(percent: int) -> Task:
    """The hidden digits with marks of that strength."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "shortcut.toml"
        name = f"shortcut-{percent}"
        file.write_text(f'extends = "hidden-digits-shortcut"\nname = "{name}"\nconfig_name = "{name}"\n')
        return load_task(file)


def run(store: str, percent: int) -> None:
    """A teacher's student has its seed."""
    task = task_of(percent)
    teachers = [task.trial("re", task.teacher, seed=seed) for seed in SEEDS]
    run_sweep(teachers, tasks=[task], store=store)
    students = [task.trial("rekd", STUDENT, seed=one.seed, teacher_digest=one.digest) for one in teachers]
    epochs = students[0].epochs
    students += [task.trial("re", STUDENT, seed=seed, epochs=n * epochs) for seed in SEEDS for n in (1, 4)]
    run_sweep(students, tasks=[task], store=store)


def report(store: str, percent: int) -> Iterator[str]:
    """Rows of the table, in Markdown, a setting each; and a sentence on students and their teachers."""
    test = make_marked(percent)["test"]
    trials = narrow(load_trials(store), task_digest=task_of(percent).digest, status="ok").set_index("digest")
    measured = _measured(load_predictions(store, trials.index.tolist()), test)
    for (objective, model, epochs), of_setting in trials.groupby(["objective", "model", "epochs"]):
        values = measured.loc[of_setting.index]
        told = [f"{percent} %", f"{str(objective).upper()} {model}, {epochs} epochs, {len(of_setting)} seeds"]
        told += [f"{values[name].mean():.3f} ± {values[name].std():.3f}" for name in MEASURED]
        yield f"| {' | '.join(told)} |"
    taught = trials[trials["objective"] == "rekd"]
    teachers, students = (measured.loc[digests, HAS] for digests in (taught["teacher_digest"], taught.index))
    pairs = sorted(zip(teachers, students, strict=True))
    said = ", ".join(f"{teacher:.2f} to {student:.2f}" for teacher, student in pairs)
    yield f"\nThe share of rationales with the mark, of each teacher and of its student ({percent} %): {said}.\n"


def _measured(predictions: pd.DataFrame, test: MarkedCanvases) -> pd.DataFrame:
    """The columns `MEASURED`, a row a trial."""
    assert (predictions["label"] == test.labels[predictions["sample"]]).all()
    groups = pd.Series(np.where(test.named == test.labels, "agrees", "contradicts"))
    by_group = group_accuracy(predictions, groups).pivot_table(index="digest", columns="group", values="accuracy")
    sample = predictions["sample"]
    masks = np.stack(list(predictions["mask"]))
    rows = predictions.assign(
        is_right=predictions["prediction"] == predictions["label"],
        follows=(predictions["prediction"] == test.named[sample]).where(groups[sample].to_numpy() == "contradicts"),
        has_mark=masks[np.arange(len(masks)), test.place[sample]],
    )
    means = rows.groupby("digest")[["is_right", "follows", "has_mark"]].agg(lambda column: column.astype(float).mean())
    found = [means["is_right"], by_group["agrees"], by_group["contradicts"], means["follows"], means["has_mark"]]
    return pd.concat(found, axis=1, keys=MEASURED)


if __name__ == "__main__":
    verb, place, *percents = sys.argv[1:]
    columns = ("marks", "model", *MEASURED)
    if verb != "run":
        print(f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", sep="\n")
    for strength in map(int, percents):
        if verb == "run":
            run(place, strength)
        else:
            print("\n".join(report(place, strength)))
