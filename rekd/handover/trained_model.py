"""A trained model as files, with what the ledger says of it; and the one of many that a rule picks, on dev."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rekd.messages import number
from rekd.store.audits import Audit, Audits
from rekd.store.files import Store
from rekd.store.ledger import Ledger

TOLERANCE = 100
"""Basis points that a dev rationale ratio may be from `p_target` (C.1)."""

BY_RULE = ("lambda_select", "alpha")
"""Fields in which the trials may differ that `--best` picks among; those of other settings are not compared."""

Row = Mapping[str, Any]
"""A row of the ledger."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """The saved files of a trained model, and the rows that its card is filled from."""

    files: Mapping[str, bytes]
    """The content of its folder, by name."""
    row: Row | None = None
    """Its row in the ledger; None where no ledger is at hand."""
    seeds: Sequence[Row] = field(default=())
    """The rows of its setting, one a seed, with its own."""
    teacher: Row | None = None
    audit: Audit | None = None

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json."""
        return json.loads(self.files["config.json"])

    def spread(self, name: str) -> tuple[float, float | None] | None:
        """The mean of a column over the seeds and its deviation, which one seed has not; None where no row has a value."""
        values = [row[name] for row in self.seeds if row.get(name) is not None]
        if not values:
            return None
        return fmean(values), stdev(values) if len(values) > 1 else None


def find_trained(what: str, store_uri: str) -> TrainedModel:
    """The trained model of a folder, or of a trial by its digest. Raises ValueError where there is none.

    A folder that lies in a store, as a sweep left it, is told by that store's ledger.
    """
    folder = Path(what)
    if folder.is_dir():
        files = {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}
        if "config.json" not in files or "model.safetensors" not in files:
            raise ValueError(f"{folder} has no config.json and model.safetensors. Give a folder that a trial wrote.")
        beside = Store(folder.resolve().parent.parent)
        return (
            _told(beside, folder.name, files) if folder.resolve().parent.name == "models" else TrainedModel(files=files)
        )
    store = Store(store_uri)
    names = store.names_in(store.model_folder(what))
    if "config.json" not in names:
        raise ValueError(
            f"There is neither a folder {what} nor a model of a trial of that digest in the store {store_uri}. "
            f"Digests are in `rekd query {store_uri} 'SELECT digest, model FROM trials'`."
        )
    return _told(store, what, {name: store.read(f"{store.model_folder(what)}/{name}") for name in names})


def _told(store: Store, digest: str, files: Mapping[str, bytes]) -> TrainedModel:
    rows = {row["digest"]: row for row in Ledger(store).trials().to_pylist()}
    row = rows.get(digest)
    if row is None:
        return TrainedModel(files=files)
    audits = {found.pop("digest"): found for found in Audits(store).read().to_pylist()}
    return TrainedModel(
        files=files,
        row=row,
        seeds=[other for other in rows.values() if other["status"] == "ok" and _setting(other) == _setting(row)],
        teacher=rows.get(row["teacher_digest"] or ""),
        audit=Audit(**audits[digest]) if digest in audits else None,
    )


def best_trial(store_uri: str, model: str, *, task: str | None = None) -> str:
    """The digest of a model's best trial, by dev alone.

    Among its REKD trials, or its RE trials where it has no others, the setting of the lowest mean dev loss of those whose
    mean rationale ratio is within a percentage point of `p_target`; of that setting the seed of the lowest dev loss of
    those within. Raises ValueError where nothing is eligible, and where settings do not compare.
    """
    rows = [row for row in Ledger(Store(store_uri)).trials().to_pylist() if row["status"] == "ok"]
    rows = [row for row in rows if row["model"] == model and task in (None, row["task"]) and row["objective"] != "cls"]
    if not rows:
        raise ValueError(
            f"The store {store_uri} has no finished RE or REKD trial of a model {model}. See `rekd status`."
        )
    objective = "rekd" if any(row["objective"] == "rekd" for row in rows) else "re"
    rows = [row for row in rows if row["objective"] == objective]
    _check_comparable(rows)
    settings: dict[str, list[Row]] = {}
    for row in rows:
        settings.setdefault(_setting(row), []).append(row)
    eligible = [runs for runs in settings.values() if _is_near(runs)]
    if not eligible:
        raise ValueError(f"No setting of {model} has a dev ratio within a percentage point of p_target. Give a digest.")
    runs = min(eligible, key=lambda runs: fmean(row["dev_loss"] for row in runs))
    near = [row for row in runs if _is_near([row])] or runs
    return min(near, key=lambda row: (row["dev_loss"], row["seed"]))["digest"]


def _is_near(runs: Sequence[Row]) -> bool:
    """Whether the mean ratio is near enough to what was aimed at, in whole basis points: in floats .16 - .15 > .01."""
    ratio = fmean(row["dev_rationale_ratio"] for row in runs)
    return abs(round(ratio * 10_000) - round(runs[0]["p_target"] * 10_000)) <= TOLERANCE


def _setting(row: Row) -> str:
    """A text that runs of one setting share: the trial without its seed."""
    return json.dumps({**json.loads(row["config"]), "seed": None}, sort_keys=True)


def _check_comparable(rows: Sequence[Row]) -> None:
    trials = [json.loads(row["config"]) for row in rows]
    for name in trials[0]:
        values = sorted({number(trial.get(name)) for trial in trials})
        if len(values) > 1 and name not in (*BY_RULE, "seed"):
            raise ValueError(
                f"The trials of this model differ in {name} ({', '.join(values[:5])}), and so do not compare. Give "
                f"{'--task, or ' if name == 'task' else ''}the digest of the one that you mean."
            )
