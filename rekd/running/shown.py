"""Rationales to look at: a few test samples a task, the same for every trial, and what each trial selects in them."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from rekd.method.evaluate import masks_of
from rekd.method.models import RationaleModel
from rekd.store.files import Store
from rekd.tasks.data import Data
from rekd.tasks.task import Task
from rekd.tasks.texts import load_tokenizer
from rekd.trial import Trial

SAMPLES_PER_CLASS = 4
MOST_SAMPLES = 64


def chosen_samples(labels: np.ndarray) -> np.ndarray:
    """Indices into the test split: the first four of each class, class after class in turn, 64 at most.

    A rule, so that nobody picks the pretty ones.
    """
    firsts = [np.flatnonzero(labels == label)[:SAMPLES_PER_CLASS] for label in np.unique(labels)]
    turns = [first[turn] for turn in range(SAMPLES_PER_CLASS) for first in firsts if turn < len(first)]
    return np.sort(np.array(turns[:MOST_SAMPLES], dtype=np.int64))


def write_rationales(
    store: Store, trial: Trial, task: Task, model: RationaleModel, data: Data, *, device: torch.device
) -> None:
    """Writes what a trained model selects and predicts on the chosen samples, and the samples where they are not there yet."""
    chosen = chosen_samples(data.test.labels)
    samples_file = store.samples_file(trial.task_digest)
    if not store.exists(samples_file):
        store.write(samples_file, _parquet(_samples(task, model, data, chosen)))
    if model.generator is None:
        return
    masks, classes = masks_of(model, data.test.take(chosen).arrays, device=device)
    columns = {"sample": chosen, "prediction": classes, "mask": list(masks.astype(np.uint8))}
    store.write(store.rationales_file(trial.digest), _parquet(columns))


def _samples(task: Task, model: RationaleModel, data: Data, chosen: np.ndarray) -> dict[str, Any]:
    columns: dict[str, Any] = {"sample": chosen, "label": data.test.labels[chosen]}
    grid = model.predictor.backbone.grid
    nothing = [None] * len(chosen)
    if grid is not None:
        rows, columns_of_grid = grid
        images = [_png(image) for image in data.test.arrays["image"][chosen]]
        columns |= {"image": images, "text": nothing, "tokens": nothing, "spans": nothing}
        return columns | {"rows": [rows] * len(chosen), "columns": [columns_of_grid] * len(chosen)}
    tokenizer: Any = load_tokenizer(task)
    special = set(tokenizer.all_special_ids)
    tokens = [tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in data.test.arrays["input_ids"][chosen]]
    is_special = [[int(token) in special for token in ids] for ids in data.test.arrays["input_ids"][chosen]]
    texts = [_joined(*pair) for pair in zip(tokens, is_special, strict=True)]
    columns |= {"image": nothing, "text": [text for text, _ in texts], "tokens": tokens}
    return columns | {"spans": [spans for _, spans in texts], "rows": nothing, "columns": nothing}


def _joined(tokens: list[str], is_special: list[bool]) -> tuple[str, list[list[int]]]:
    """A text that reads as the tokens do, and where each token stands in it; [0, 0] for special tokens."""
    # Byte-level tokenizers mark the start of a word, WordPiece marks its continuation.
    marks_starts = any(token.startswith(("Ġ", "▁")) for token in tokens)
    text, spans = "", []
    for token, special in zip(tokens, is_special, strict=True):
        if special:
            spans.append([0, 0])
            continue
        piece = token.lstrip("Ġ▁").removeprefix("##")
        starts_word = token.startswith(("Ġ", "▁")) if marks_starts else not token.startswith("##")
        if starts_word and text:
            text += " "
        spans.append([len(text), len(text) + len(piece)])
        text += piece
    return text, spans


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


_SCHEMA = {
    "sample": pa.int64(),
    "label": pa.int64(),
    "image": pa.binary(),
    "text": pa.string(),
    "tokens": pa.list_(pa.string()),
    "spans": pa.list_(pa.list_(pa.int64())),
    "rows": pa.int64(),
    "columns": pa.int64(),
    "prediction": pa.int64(),
    "mask": pa.list_(pa.uint8()),
}


def _parquet(columns: dict[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    schema = pa.schema([(name, _SCHEMA[name]) for name in columns])
    pq.write_table(pa.table(columns, schema=schema), sink, write_page_checksum=True)
    return sink.getvalue().to_pybytes()
