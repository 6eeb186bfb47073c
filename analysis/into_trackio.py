"""Puts `trials.csv` and `epochs.csv`, which lie beside this file, into trackio: `python into_trackio.py [PROJECT]`.

`rekd export-ledger --to trackio` writes all three. It needs trackio alone, and runs in an environment of trackio's own,
because trackio wants an older pandas and Pillow than rekd does. A run is a trial: its fields are the run's configuration,
its epochs the steps, and what was found on test comes with the last one.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

RESULTS = ("test_", "num_epochs", "train_seconds", "status")


def runs(folder: Path) -> Iterator[tuple[str, dict[str, object], list[tuple[int, dict[str, object]]]]]:
    """Name, configuration and steps of every trial that has epochs."""
    epochs: dict[str, list[dict[str, str]]] = {}
    for row in _rows(folder / "epochs.csv"):
        epochs.setdefault(row["digest"], []).append(row)
    for trial in _rows(folder / "trials.csv"):
        digest = trial.pop("digest")
        trial.pop("config", None)  # all fields once more, as JSON
        steps = [(int(row.pop("step")), _values(row, but="digest")) for row in epochs.get(digest, [])]
        found = _values({name: value for name, value in trial.items() if name.startswith(RESULTS)})
        config = _values({name: value for name, value in trial.items() if not name.startswith(RESULTS)})
        if steps:
            steps[-1][1].update(found)
            yield f"{trial['objective']} {trial['model']} seed {trial['seed']} {digest}", config, steps


def _rows(file: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(10**9)
    with file.open(newline="", encoding="utf-8") as opened:
        yield from csv.DictReader(opened)


def _values(row: dict[str, str], but: str = "") -> dict[str, object]:
    """What is not empty, numbers as numbers."""
    return {name: _value(text) for name, text in row.items() if text and name != but}


def _value(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def main() -> None:
    """Logs every run; one that is in the project already is logged once more, as trackio has no way to take its place."""
    import trackio  # type: ignore[import-not-found]

    project = sys.argv[1] if len(sys.argv) > 1 else "rekd"
    for name, config, steps in runs(Path(__file__).parent):
        run = trackio.init(project=project, name=name, config=config)
        for step, values in steps:
            run.log(values, step=step)
        run.finish()


if __name__ == "__main__":
    main()
