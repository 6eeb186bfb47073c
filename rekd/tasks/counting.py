"""How many samples a task trains on and how long they are, without reading them: enough to tell how long a run takes."""

import contextlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rekd.tasks.local_files import TABLE_SUFFIXES
from rekd.tasks.quoting import num_rows
from rekd.tasks.task import Task

POOLS = {
    "digits": 1_797,
    "hidden-digits": 4_296,
    "planted-reviews": 3_000,
    "uoft-cs/cifar10": 50_000,
    "uoft-cs/cifar100": 50_000,
    "stanfordnlp/imdb": 25_000,
}
"""Samples of the training split, before dev and test are taken from it, of datasets that are known (Section 3.2)."""

UNKNOWN = 12_500
"""Samples that a dataset of the hub is taken to have, as long as nobody has looked."""


def num_train_samples(task: Task) -> int:
    """Samples of an epoch: of a dataset on this machine counted, of the paper's known, of another of the hub a guess."""
    share = (1 - (task.test_fraction or 0)) * (1 - (task.dev_fraction if task.dev_split is None else 0))
    return max(1, round(_pool(task) * share))


def is_counted(task: Task) -> bool:
    """Whether the number of samples is more than a guess."""
    return task.local_dataset is not None or task.dataset in POOLS


def _pool(task: Task) -> int:
    if task.local_dataset is None:
        return POOLS.get(task.dataset, UNKNOWN)
    with contextlib.suppress(OSError, ValueError, pa.ArrowException):  # reading them says what is wrong, in due time
        return sum(_rows(file) for file in task.local_dataset.files()["train"])
    return UNKNOWN


def _rows(file: Path) -> int:
    """Samples in a file: rows of a table, one for an image."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return pq.read_metadata(file).num_rows
    if suffix == ".arrow":
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
            return sum(batch.num_rows for batch in stream)
    if suffix not in TABLE_SUFFIXES:
        return 1
    if suffix in (".csv", ".tsv"):
        return num_rows(file)
    if suffix == ".json":
        with file.open("rb") as opened:
            if opened.read(64).lstrip().startswith(b"["):
                return len(json.loads(file.read_bytes()))
    return _lines(file)


def _lines(file: Path) -> int:
    with file.open("rb") as opened:
        return sum(1 for line in opened if line.strip())
