"""What is done, running and stopped in a store, and how long what runs will take."""

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.frames import as_ledger, load_trials
from rekd.store.files import Store, StoredFile
from rekd.store.ledger import Ledger

IDLE_AFTER = 3.0
"""A trial that has not written a checkpoint for so many of its kind's epochs has probably been stopped."""

_DESCRIPTION: dict[str, type] = {"task": str, "objective": str, "model": str, "seed": int, "epochs": int}
_FOUND: dict[str, type] = {**_DESCRIPTION, "checkpoint_every": float}
_CHECKPOINT = re.compile(r"epoch-(\d{1,9})\.safetensors")


@dataclass(frozen=True)
class Status:
    """A store at one moment."""

    kinds: pd.DataFrame
    """A row is a task, objective and model, sorted by them. Columns: these, `num_ok`, `num_diverged`, `num_failed`,
    `num_running`, `seconds_each` (mean of those that are ok) and `seconds_left` (sum over the running ones; missing where
    no epoch of the kind was timed)."""
    running: pd.DataFrame
    """A row is a trial that has checkpoints and no row in the ledger (or a failed one), sorted by digest. Columns:
    `digest, task, objective, model, seed, epochs, epoch` (checkpointed), `idle_seconds` (since the newest checkpoint),
    `is_idle`, `seconds_left`, `is_claimed` (a sweep has it, or had it when it was killed). What a trial is, is missing where
    its folder does not say so."""

    @property
    def seconds_left(self) -> float:
        """Until the last of the running trials ends, if each goes on by itself; NaN where none can be estimated."""
        active = self.running.loc[~self.running["is_idle"].astype(bool), "seconds_left"].dropna()
        return float(active.max()) if len(active) else float("nan")


def status(store: Ledger | Store | str, *, now: pd.Timestamp | None = None) -> Status:
    """Counts what a store holds. `now` is for tests; it is the time otherwise."""
    ledger = as_ledger(store)
    trials = load_trials(ledger)
    by = ["task", "objective", "model"]
    ok = trials[trials["status"] == "ok"]
    pace = (ok["train_seconds"] / ok["num_epochs"].astype(float)).groupby([ok[name] for name in by]).mean()
    running = _running(ledger.store, trials, pace, pd.Timestamp.now(tz="UTC") if now is None else now)

    counts = pd.DataFrame(
        {
            "num_ok": ok.groupby(by).size(),
            "num_diverged": trials[trials["status"] == "diverged"].groupby(by).size(),
            "num_failed": trials[trials["status"] == "failed"].groupby(by).size(),
            "num_running": running.groupby(by).size(),
        }
    )
    kinds = counts.fillna(0).astype("int64")
    kinds["seconds_each"] = ok.groupby(by)["train_seconds"].mean()
    kinds["seconds_left"] = running.groupby(by)["seconds_left"].sum(min_count=1)
    return Status(kinds.sort_index().reset_index(), running)


def _running(store: Store, trials: pd.DataFrame, pace: pd.Series, now: pd.Timestamp) -> pd.DataFrame:
    done = set(trials.loc[trials["status"] != "failed", "digest"])
    files: dict[str, list[StoredFile]] = {}
    for file in store.files_under(store.all_running_folder):
        digest, _, name = file.path.removeprefix(f"{store.all_running_folder}/").partition("/")
        if name and digest not in done:
            files.setdefault(digest, []).append(file)
    rows = [_running_row(store, digest, left, pace, now) for digest, left in files.items()]
    claimed = {name.partition(".")[0] for name in store.names_in(store.claims_folder)}
    columns = ["digest", *_DESCRIPTION, "epoch", "idle_seconds", "is_idle", "seconds_left"]
    frame = pd.DataFrame(rows, columns=columns).assign(is_claimed=lambda rows: rows["digest"].isin(claimed))
    return frame.astype({"seed": "Int64", "epochs": "Int64", "is_idle": "bool", "seconds_left": float})


def _running_row(
    store: Store, digest: str, files: list[StoredFile], pace: pd.Series, now: pd.Timestamp
) -> dict[str, Any]:
    described = _described(store, store.running_trial_file(digest))
    checkpoints = {int(match[1]): file for file in files if (match := _CHECKPOINT.fullmatch(file.name))}
    epoch = max(checkpoints, default=0)
    newest = checkpoints.get(epoch) or max(files, key=lambda file: file.written_at)
    idle = now.timestamp() - newest.written_at
    seconds_an_epoch = pace.get((described["task"], described["objective"], described["model"]), np.nan)
    left = np.nan if described["epochs"] is None else (described["epochs"] - epoch) * seconds_an_epoch
    # Without a measured pace, an hour.
    limit = IDLE_AFTER * seconds_an_epoch + 60 if np.isfinite(seconds_an_epoch) else 3600
    limit += described.pop("checkpoint_every") or 0.0
    counts = {"epoch": epoch, "idle_seconds": idle, "is_idle": bool(idle > limit), "seconds_left": left}
    return {"digest": digest, **described, **counts}


def _described(store: Store, path: str) -> dict[str, Any]:
    """What a running folder says of its trial, None where it does not: another version, or anybody, may have put it there."""
    try:
        said = json.loads(store.read(path))
    except (FileNotFoundError, PermissionError, ValueError, RecursionError):
        said = None
    found = said if isinstance(said, dict) else {}
    return {name: _of_type(found.get(name), kind) for name, kind in _FOUND.items()}


def _of_type(value: Any, kind: type) -> Any:
    fits = type(value) is kind and (kind is str or 0 <= value < 2**63)  # what a column of pandas holds
    return value if fits else None
