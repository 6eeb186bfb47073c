"""Explanations that somebody else made, scored on a trained model beside its own: a saliency map, a person's marks."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from rekd.messages import one_line, shortened
from rekd.method.audit import Auditor
from rekd.method.evaluate import faithful, overlap
from rekd.method.judge import JUDGE_SEED
from rekd.method.models import RationaleModel
from rekd.method.samples import DeviceSamples
from rekd.method.train import one_thread
from rekd.running.auditor import agreement_of, judge_of, model_of, predicted_of
from rekd.running.supplies import Supplies
from rekd.store.ledger import Ledger
from rekd.tasks.data import Data
from rekd.tasks.table_files import read_table
from rekd.tasks.task import Task
from rekd.tasks.texts import load_tokenizer
from rekd.tasks.truth import Truth, marks_of
from rekd.trial import Trial

Masks = Bool[np.ndarray, "sample feature"]


def score_others(
    task: Task, supplies: Supplies, digest: str, file: Path, column: str
) -> Iterator[tuple[str, dict[str, float]]]:
    """Scores of a trial's own rationales and of those in a column of a file, in the order `model` and `file`.

    The file has a row a sample of the task's test split, in its order; a row without a mask is left out, of both. By the
    trial's model: `accuracy` from the rationale, `rationale_ratio`, ERASER's sufficiency and comprehensiveness. By the
    task's judge: what audits have of it. `overlap`: intersection over union with the model's own. Raises ValueError where
    file, trial and task do not belong together.
    """
    trial = _trial_of(supplies, task, digest)
    model = model_of(supplies, trial)
    if model is None:
        raise ValueError(f"The store {supplies.store} has no model of the trial {digest}.")
    data = supplies.data(task)
    given = read_masks(task, data, file, column)
    with one_thread(supplies.device):
        whole = DeviceSamples(data.test, supplies.device)
        predicted = predicted_of(supplies, trial, model, whole)
        assert predicted is not None  # there is a model
        rows = np.flatnonzero(given.known)
        marks = given.of_features(predicted.mask.shape[1], model.predictor.backbone.grid)[rows]
        own = predicted.mask[rows]
        test = DeviceSamples(data.test, supplies.device, rows)
        _, dev = data.train_dev("fixed", JUDGE_SEED)
        auditor = Auditor(judge_of(task, supplies), DeviceSamples(data.pool, supplies.device, dev), test)
        truth = None if data.test.truth is None else data.test.truth.take(rows)
        for name, masks in (("model", own), ("file", marks)):
            found = by_model(model, test, masks) | {"overlap": overlap(masks, own)}
            yield name, found | auditor.audit(masks) | agreement_of(model, truth, masks)


def _trial_of(supplies: Supplies, task: Task, digest: str) -> Trial:
    row = Ledger(supplies.store).row(digest)
    if row is None or row["status"] != "ok" or row["objective"] == "cls":
        raise ValueError(f"The store {supplies.store} has no finished RE or REKD trial {digest}. See `rekd query`.")
    if row["task_digest"] != task.digest:
        raise ValueError(f"The trial {digest} is of the task {row['task']} as it was then; {task.name} is another one.")
    return Trial.from_record(json.loads(row["config"]))


@torch.no_grad()
def by_model(model: RationaleModel, samples: DeviceSamples, masks: Masks) -> dict[str, float]:
    """What a model's predictor makes of masks that need not be its own; means over all samples."""
    names = ("accuracy", "rationale_ratio", "sufficiency", "comprehensiveness")
    sums: dict[str, float] = dict.fromkeys(names, 0.0)
    at = 0
    for batch in samples.batches():
        size = len(batch.labels)
        mask = torch.from_numpy(masks[at : at + size].astype(np.float32)).to(batch.labels.device)
        whole, seen, rest = (model.predictor(batch.inputs, shown) for shown in (None, mask, 1 - mask))
        sums["accuracy"] += float((seen.argmax(dim=-1) == batch.labels).sum())
        sums["rationale_ratio"] += float(mask.mean(dim=1).sum())
        for name, value in faithful(whole.argmax(dim=-1), whole, seen, rest).items():
            sums[name] += value
        at += size
    return {name: total / at for name, total in sums.items()}


def read_masks(task: Task, data: Data, file: Path, column: str) -> Truth:
    """The masks of a file: a row a test sample, in its order, masks or spans or images as in `rekd.tasks.truth`.

    Spans need the texts that they are of, in the task's input column. Where that column is there, it is compared with the
    test split. Raises ValueError on another number of rows, another text, and what is no mask.
    """
    try:
        table = read_table(file, texts=[column, task.input_column])
    except Exception as error:  # of any reader of tables
        raise ValueError(f"The table {file} cannot be read: {one_line(error)}") from error
    if column not in table.column_names:
        raise ValueError(f"The table {file} has no column {column!r}. It has {shortened(table.column_names)}.")
    if table.num_rows != len(data.test.labels):
        raise ValueError(
            f"The table {file} has {table.num_rows} rows, the test split of {task.name} {len(data.test.labels)}. Give one "
            "row a sample, in the order of the split."
        )
    values = [json.loads(value) if isinstance(value, str) else value for value in table[column].to_pylist()]
    shape = data.test.arrays["image"].shape[2:] if task.kind == "image" else None
    texts, tokenizer = None, None
    if task.kind == "text":
        tokenizer = load_tokenizer(task)
        texts = _texts(task, data, file, table, tokenizer)
    if texts is None and any(value and np.ndim(value[0]) == 1 for value in values if task.kind == "text"):
        raise ValueError(
            f"The table {file} has spans, but no column {task.input_column!r} of the texts that they are of."
        )
    return marks_of(task, values, texts, shape, tokenizer, where=str(file), column=column)


def _texts(task: Task, data: Data, file: Path, table: Any, tokenizer: Any) -> Sequence[str] | None:
    """The texts of a file, where it has them. Raises ValueError where one is not that of the test split."""
    if task.input_column not in table.column_names:
        return None
    texts = table[task.input_column].to_pylist()
    read = tokenizer(texts, truncation=True, padding="max_length", max_length=task.max_length)["input_ids"]
    wrong = np.flatnonzero((np.array(read) != data.test.arrays["input_ids"]).any(axis=1))
    if len(wrong):
        raise ValueError(
            f"{file}, row {wrong[0]}: the text is not that of this row of the test split of {task.name}. Keep its order."
        )
    return texts
