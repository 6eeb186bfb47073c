"""Rationales to look at: a few test samples a task, the same for every trial, and what each trial selects in them."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from rekd.method.evaluate import masks_of, rationale_noise
from rekd.method.models import RationaleModel
from rekd.store.files import Store
from rekd.tasks.data import Data, shown_samples
from rekd.trial import Trial


def write_rationales(store: Store, trial: Trial, model: RationaleModel, data: Data, *, device: torch.device) -> None:
    """Writes what a trained model selects and predicts on the chosen samples, and the samples where they are not there yet."""
    chosen = shown_samples(data.test.labels)
    samples_file = store.samples_file(trial.task_digest)
    if not _is_there(store, samples_file):
        store.write(samples_file, _parquet(_samples(model, data, chosen)))
    if model.generator is None:
        return
    noise = rationale_noise(trial, device=device)
    masks, classes = masks_of(model, data.test.take(chosen).arrays, device=device, sampled_by=noise)
    columns = {"sample": chosen, "prediction": classes, "mask": list(masks.astype(np.uint8))}
    store.write(store.rationales_file(trial.digest), _parquet(columns))


def _is_there(store: Store, path: str) -> bool:
    """Whether the samples are there, and whole: 0.1.0 wrote texts as their tokens spell them."""
    if not store.exists(path):
        return False
    try:
        return "read" in pq.read_schema(pa.BufferReader(store.read(path))).names
    except pa.ArrowException:  # damaged
        return False


def _samples(model: RationaleModel, data: Data, chosen: np.ndarray) -> dict[str, Any]:
    columns: dict[str, Any] = dict.fromkeys(_SCHEMA, [None] * len(chosen))
    del columns["prediction"], columns["mask"]
    columns |= {"sample": chosen, "label": data.test.labels[chosen]}
    grid = model.predictor.backbone.grid
    if grid is not None:
        rows, columns_of_grid = grid
        columns["image"] = [_png(image) for image in data.test.arrays["image"][chosen]]
        return columns | {"rows": [rows] * len(chosen), "columns": [columns_of_grid] * len(chosen)}
    return columns | {
        name: [getattr(text, name) for text in data.shown_texts] for name in ("text", "tokens", "spans", "read")
    }


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
    "read": pa.list_(pa.int64()),
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
