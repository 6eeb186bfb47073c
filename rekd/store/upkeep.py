"""Upkeep of a store: what nothing needs any more is removed, and trials that are to run again are withdrawn."""

import json
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from rekd.store.claims import Claims
from rekd.store.files import Store, StoredFile
from rekd.store.ledger import Ledger
from rekd.trial import canonical_json, teachers_in

KeepModels = Literal["all", "best", "none"]
"""Which models stay: `best` is the one of each setting whose seed has the lowest dev loss. Teachers' always do."""

UNDER_WAY = 3600.0
"""Seconds for which a temporary file may be one that is being written."""

_TEMPORARY = re.compile(r"\..+[.-][0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Rubbish:
    """Files or folders of one kind that nothing needs."""

    what: str
    """Such as `checkpoints of trials that have a result`."""
    sizes: dict[str, int]
    """Bytes, by path."""
    is_of_trials: bool = True
    """Whether each is named after a trial, which may be running."""
    is_folders: bool = True
    """Whether they are folders."""

    @property
    def num_bytes(self) -> int:
        """Adds up the sizes of all of them."""
        return sum(self.sizes.values())


def find_rubbish(store: Store, *, keep_models: KeepModels = "all") -> list[Rubbish]:
    """What `remove` would remove. Checkpoints of a trial that has not ended stay: it goes on from them."""
    files = store.files_under(store.root)
    rows = Ledger(store).trials().to_pylist()
    failures = {row["digest"]: row["finished_at"] for row in rows if row["status"] == "failed"}
    ended = {row["digest"] for row in rows} - set(failures)
    unneeded = _models_to_drop(store, rows, keep_models)
    now = time.time()
    temporary = {
        file.path: file.num_bytes
        for file in files
        if _TEMPORARY.fullmatch(file.name) and now - file.written_at > UNDER_WAY
    }
    running = store.all_running_folder
    given_up = set(failures) - _begun_again(store, files, failures)
    loose = {"is_of_trials": False, "is_folders": False}
    found = [
        Rubbish(what="checkpoints of trials that have a result", sizes=_sizes(files, running, ended)),
        Rubbish(what="checkpoints of failed trials, which will begin anew", sizes=_sizes(files, running, given_up)),
        Rubbish(what=f"models, of which {keep_models} stay", sizes=_sizes(files, store.models_folder, unneeded)),
        Rubbish(
            what="failures of trials that have a result",
            sizes=_sizes(files, store.failures_folder, ended),
            is_folders=False,
        ),
        Rubbish(what="targets of 0.1.0, which nothing reads", sizes=_old_targets(files, store), **loose),
        Rubbish(what="files of writers that were killed", sizes=temporary, **loose),
    ]
    return [rubbish for rubbish in found if rubbish.sizes]


def remove(store: Store, rubbish: Rubbish, claims: Claims) -> int:
    """Removes rubbish, but leaves what belongs to a trial that is running now; returns the bytes that are free now."""
    num_bytes = 0
    for path, size in rubbish.sizes.items():
        digest = _digest_of(path)
        if rubbish.is_of_trials and not claims.take(digest):
            continue
        (store.remove_folder if rubbish.is_folders else store.remove_file)(path)
        claims.release(digest)
        num_bytes += size
    return num_bytes


def clear_ended(store: Store, claims: Claims, ended: Collection[str]) -> None:
    """Removes the checkpoints of trials that have a result: their workers were killed between the two."""
    left = {store.running_folder(digest): 0 for digest in store.names_in(store.all_running_folder) if digest in ended}
    remove(store, Rubbish(what="checkpoints of trials that have a result", sizes=left), claims)


def run_again(store: Store, digests: Sequence[str]) -> None:
    """Trials that have ended count as failed, and begin anew when they are asked for; what they left is removed.

    Raises ValueError, and changes nothing, where a digest is not in the store, or its trial is running.
    """
    ledger = Ledger(store)
    known = {*ledger.trials()["digest"].to_pylist(), *store.names_in(store.all_running_folder)}
    if unknown := [digest for digest in digests if digest not in known]:
        raise ValueError(f"The store {store} has no trial {', '.join(unknown)}. `python -m analysis query` lists them.")
    with Claims(store) as claims:
        for digest in digests:
            if not claims.take(digest):
                raise ValueError(f"The trial {digest} is being run by a sweep on {store}. Wait for its end, or end it.")
        for digest in digests:
            ledger.withdraw(digest, "It was asked for again (redo).")
            for folder in (store.running_folder(digest), store.model_folder(digest)):
                store.remove_folder(folder)


def _sizes(files: Iterable[StoredFile], folder: str, digests: Collection[str]) -> dict[str, int]:
    """Bytes of the files and folders in a folder that are named after one of the trials, by path."""
    sizes: dict[str, int] = {}
    for file in files:
        if not file.path.startswith(f"{folder}/"):
            continue
        path = f"{folder}/{file.path.removeprefix(f'{folder}/').partition('/')[0]}"
        if _digest_of(path) in digests:
            sizes[path] = sizes.get(path, 0) + file.num_bytes
    return sizes


def _begun_again(store: Store, files: Iterable[StoredFile], failures: Mapping[str, str | None]) -> set[str]:
    """Trials in whose folders a file is newer than their failure: each try writes one first, and this one has not ended."""
    folder, newest = f"{store.all_running_folder}/", dict[str, float]()
    for file in files:
        if file.path.startswith(folder):
            digest = file.path.removeprefix(folder).partition("/")[0]
            newest[digest] = max(newest.get(digest, 0.0), file.written_at)
    return {digest for digest, at in failures.items() if newest.get(digest, 0.0) > _moment(at) + 1}  # whole seconds


def _moment(finished_at: str | None) -> float:
    """Seconds since 1970; endless where a row does not say when its trial ended."""
    try:
        return datetime.fromisoformat(finished_at or "").timestamp()
    except ValueError:
        return float("inf")


def _old_targets(files: Iterable[StoredFile], store: Store) -> dict[str, int]:
    """Bytes of targets by path, where their name does not begin with their teacher's digest."""
    folder = f"{store.targets_folder}/"
    return {file.path: file.num_bytes for file in files if file.path.startswith(folder) and "-" not in file.name}


def _digest_of(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0]


def _models_to_drop(store: Store, rows: Sequence[dict[str, Any]], keep: KeepModels) -> set[str]:
    """Trials whose models do not stay; a model without a row may be on its way to one, and stays."""
    if keep == "all":
        return set()
    ok = [row for row in rows if row["status"] == "ok"]
    stay = {digest for row in rows for digest in _teachers_of(row)} | _teachers_of_running(store)
    if keep == "best":
        best: dict[str, dict[str, Any]] = {}
        for row in sorted(ok, key=_rank):
            best.setdefault(_setting(row), row)
        stay |= {row["digest"] for row in best.values()}
    return {row["digest"] for row in ok} - stay


def _rank(row: dict[str, Any]) -> tuple[float, str]:
    loss = row["dev_loss"]
    return float("inf") if loss is None or loss != loss else loss, row["digest"]


def _setting(row: dict[str, Any]) -> str:
    """A trial without its seed."""
    return canonical_json({**json.loads(row["config"]), "seed": None})


def _teachers_of(row: dict[str, Any]) -> set[str]:
    """The digests of a trial's teachers, from its row or its fields."""
    return set(teachers_in(row["teacher_digest"], row.get("further_teachers")))


def _teachers_of_running(store: Store) -> set[str]:
    teachers = set()
    for digest in store.names_in(store.all_running_folder):
        try:
            teachers |= _teachers_of(json.loads(store.read(store.running_trial_file(digest))))
        except (FileNotFoundError, ValueError, LookupError, TypeError, RecursionError):  # says nothing of a teacher
            continue
    return teachers
