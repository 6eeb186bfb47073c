"""Does a teacher that uses a shortcut hand it on, and does the rationale show it? The table of docs/hidden-digits.md.

`python -m benchmarks.shortcut run STORE` trains ten teachers on `hidden-digits-shortcut`, each with the student that it
teaches, and RE of the same student for as long and four times as long: ten minutes on two cores. `... report STORE` prints
the table.
"""

import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis import load_predictions, load_trials
from analysis.frames import narrow
from analysis.groups import group_accuracy
from rekd import load_task, run_sweep
from rekd.tasks.marked_digits import MarkedCanvases, make_marked, percent_of

TASK = load_task("hidden-digits-shortcut")
SEEDS = range(2026, 2036)
STUDENT = "vit-student"
COLUMNS = (
    "model",
    "accuracy",
    "mark agrees",
    "mark contradicts",
    "says the mark's class there",
    "rationale has the mark",
)


def run(store: str) -> None:
    """A teacher's student has its seed."""
    teachers = [TASK.trial("re", TASK.teacher, seed=seed) for seed in SEEDS]
    run_sweep(teachers, tasks=[TASK], store=store)
    students = [TASK.trial("rekd", STUDENT, seed=one.seed, teacher_digest=one.digest) for one in teachers]
    epochs = students[0].epochs
    students += [TASK.trial("re", STUDENT, seed=seed, epochs=n * epochs) for seed in SEEDS for n in (1, 4)]
    run_sweep(students, tasks=[TASK], store=store)


def rows(store: str) -> Iterator[dict[str, str]]:
    """A row a setting."""
    percent = percent_of(TASK.config_name)
    assert percent is not None
    test = make_marked(percent)["test"]
    trials = narrow(load_trials(store), task=TASK.name, status="ok")
    for (objective, model, epochs), of_setting in trials.groupby(["objective", "model", "epochs"]):
        predictions = load_predictions(store, of_setting["digest"].tolist())
        assert (predictions["label"] == test.labels[predictions["sample"]]).all()
        told = {"model": f"{str(objective).upper()} {model}, {epochs} epochs, {len(of_setting)} seeds"}
        yield told | _row(predictions, test)


def _row(predictions: pd.DataFrame, test: MarkedCanvases) -> dict[str, str]:
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
    told = [means["is_right"], by_group["agrees"], by_group["contradicts"], means["follows"], means["has_mark"]]
    return dict(zip(COLUMNS[1:], [f"{value.mean():.3f} ± {value.std():.3f}" for value in told], strict=True))


def report(store: str) -> str:
    """The table, in Markdown."""
    lines = [f"| {' | '.join(row[name] for name in COLUMNS)} |" for row in rows(store)]
    return "\n".join([f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", *lines])


if __name__ == "__main__":
    verb, place = sys.argv[1:]
    if verb == "run":
        run(place)
    else:
        print(report(place))
