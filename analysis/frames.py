"""Frames of a store: one row a trial, one row an epoch."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from analysis.settings import with_neutral_values
from rekd.store.files import Store
from rekd.store.ledger import Ledger, Outcome
from rekd.store.predictions import StoredPredictions
from rekd.trial import Trial, plain_type

# float64 with NaN would print epoch 7 as 7.0.
_OPTIONAL_INTEGERS = [
    field.name
    for kind in (Trial, Outcome)
    for field in fields(kind)
    if plain_type(field.type) is int and type(None) in get_args(field.type)
] + ["format"]


def as_ledger(store: Ledger | Store | str | Path) -> Ledger:
    """The ledger of a store that is given as a ledger, a store, a path or a URI."""
    if isinstance(store, Ledger):
        return store
    return Ledger(store if isinstance(store, Store) else Store(store))


def load_trials(store: Ledger | Store | str | Path, digests: Sequence[str] | None = None) -> pd.DataFrame:
    """Finished trials of a store, all or those of the given digests.

    A row is a trial, sorted by `digest`. Columns are those of `rekd.store.ledger.TRIALS_SCHEMA`; integers that may be missing
    are of type Int64, and a field that was born after a row was written has its neutral value there. A store that does
    not exist yet gives no rows and all columns.
    """
    trials = with_neutral_values(as_ledger(store).trials(digests).to_pandas())
    return trials.astype({name: "Int64" for name in _OPTIONAL_INTEGERS if name in trials})


def load_epochs(store: Ledger | Store | str | Path, digests: Sequence[str] | None = None) -> pd.DataFrame:
    """Epochs of the finished trials of a store, all or those of the given digests.

    A row is an epoch of a trial, sorted by `digest` and `epoch`. Columns are those of `rekd.store.ledger.EPOCHS_SCHEMA`.
    """
    return as_ledger(store).epochs(digests).to_pandas()


def load_predictions(store: Ledger | Store | str | Path, digests: Sequence[str] | None = None) -> pd.DataFrame:
    """What finished trials say of the whole test split, all or those of the given digests.

    A row is a sample of a trial, sorted by `digest` and `sample`. Columns: `digest`, `sample` (its place in the test split),
    `label`, `prediction`, `probabilities` (an array, a number a class) and `mask` (an array of truth values, one a
    feature; all True for cls). Trials whose predictions are not in the store are left out: `python -m rekd audit` writes
    them of a saved model.
    """
    place = as_ledger(store).store
    names = place.names_in(place.predictions_folder) if digests is None else [f"{digest}.parquet" for digest in digests]
    found = [
        (name, StoredPredictions.load(place, name)) for name in sorted(name.removesuffix(".parquet") for name in names)
    ]
    frames = [_rows_of(digest, predicted) for digest, predicted in found if predicted is not None]
    columns = ["digest", "sample", "label", "prediction", "probabilities", "mask"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _rows_of(digest: str, predicted: StoredPredictions) -> pd.DataFrame:
    columns = {"digest": digest, "sample": range(len(predicted.labels)), "label": predicted.labels}
    columns |= {"prediction": predicted.classes, "probabilities": list(predicted.probabilities)}
    return pd.DataFrame(columns | {"mask": list(predicted.mask)})


def narrow(frame: pd.DataFrame, *, digests: Iterable[str] | None = None, **equals: Any) -> pd.DataFrame:
    """The rows of `frame` whose columns hold the given values, in their old order and with their old index.

    A value may be a list, of which one must fit: `narrow(trials, task="digits", model=["vit-tiny", "vit-small"])`. None
    asks for a missing value. Raises ValueError on a column that the frame lacks.
    """
    if digests is not None:
        equals["digest"] = list(digests)
    require_columns(frame, list(equals), "narrow")
    for name, value in equals.items():
        values = value if isinstance(value, (list, tuple, set, frozenset, range)) else [value]
        present = frame[name].isin([item for item in values if item is not None])
        frame = frame[present | frame[name].isna()] if None in values else frame[present]
    return frame


def require_columns(frame: pd.DataFrame, names: Sequence[str], where: str) -> None:
    """Raises ValueError that lists the columns of `names` which `frame` lacks."""
    missing = [name for name in names if name not in frame.columns]
    if missing:
        have = ", ".join(map(str, frame.columns)) or "none"
        raise ValueError(f"{where} needs the columns {', '.join(missing)}, which the frame lacks. It has {have}.")
