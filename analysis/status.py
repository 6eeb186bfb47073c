"""What is done, running and stopped in a store, and how long what runs will take."""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.frames import as_ledger, load_trials
from rekd.store.files import Store
from rekd.store.ledger import Ledger

IDLE_AFTER = 3.0
"""A trial that has not written a checkpoint for so many of its kind's epochs has probably been stopped."""


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
    `is_idle`, `seconds_left`. What a trial is, is missing where its folder does not say so."""

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
    folder = store.running_folder("x").removesuffix("/x")
    rows = []
    for digest in store.names_in(folder):
        if digest in done:
            continue
        path = store.running_folder(digest)
        checkpoints = [name for name in store.names_in(path) if name.startswith("epoch-")]
        row = {"digest": digest, "task": None, "objective": None, "model": None, "seed": None, "epochs": None}
        row |= _described(store, f"{path}/trial.json", list(row)[1:])
        epoch = int(checkpoints[-1].removeprefix("epoch-").split(".")[0]) if checkpoints else 0
        written = store.file_system.get_file_info(f"{path}/{checkpoints[-1]}" if checkpoints else path).mtime
        idle = np.nan if written is None else (now - pd.Timestamp(written)).total_seconds()
        seconds_an_epoch = pace.get((row["task"], row["objective"], row["model"]), np.nan)
        left = np.nan if row["epochs"] is None else (row["epochs"] - epoch) * seconds_an_epoch
        # Without a measured pace, an hour.
        limit = IDLE_AFTER * seconds_an_epoch + 60 if np.isfinite(seconds_an_epoch) else 3600
        rows.append(row | {"epoch": epoch, "idle_seconds": idle, "is_idle": bool(idle > limit), "seconds_left": left})
    columns = ["digest", "task", "objective", "model", "seed", "epochs", "epoch", "idle_seconds", "is_idle"]
    frame = pd.DataFrame(rows, columns=[*columns, "seconds_left"])
    return frame.astype({"seed": "Int64", "epochs": "Int64", "is_idle": "bool", "seconds_left": float})


def _described(store: Store, path: str, names: list[str]) -> dict[str, str | int | None]:
    """Fields of the trial that a running folder names, as far as it does."""
    if not store.exists(path):
        return {}
    try:
        trial = json.loads(store.read(path))
    except ValueError:  # half a file of somebody who copied the store while it was in use
        return {}
    return {name: trial.get(name) for name in names}
