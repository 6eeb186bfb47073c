"""Explanations that somebody else made, scored on a trained model."""

import json
from pathlib import Path

import handed
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from typer.testing import CliRunner

from rekd.commands import app
from rekd.method.evaluate import faithfulness
from rekd.method.models import load_model
from rekd.method.samples import DeviceSamples
from rekd.running.auditor import judge_remark
from rekd.running.others import by_model, read_masks, score_others
from rekd.running.supplies import Supplies
from rekd.store.files import Store
from rekd.tasks.planted_reviews import make
from rekd.tasks.task import load_task


@pytest.fixture(scope="module")
def task():
    return load_task("planted-reviews")


@pytest.fixture(scope="module")
def supplies(tmp_path_factory, task):
    """A store with drawn models, and a judge that nobody had to train."""
    store, _ = handed.reviews(tmp_path_factory.mktemp("others"))
    handed.judged(store, task)
    return Supplies(store, device=tiny.CPU)


@pytest.fixture(scope="module")
def planted():
    return make()["test"]


def written(file: Path, rows: list[dict]) -> Path:
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def digest(supplies: Supplies) -> str:
    return next(name for name in supplies.store.names_in(supplies.store.models_folder) if name.startswith("24d5"))


def test_planted_evidence_is_the_truth_and_scored_on_the_same_model(task, supplies, planted, tmp_path):
    rows = [{"text": row["text"], "marks": row["rationale"]} for row in planted]
    file = written(tmp_path / "a.jsonl", rows)
    found = dict(score_others(task, supplies, digest(supplies), file, "marks"))
    assert list(found["model"]) == list(found["file"])
    assert found["file"]["rationale_f1"] == 1.0 > found["model"]["rationale_f1"]
    assert found["model"]["overlap"] == 1.0 > found["file"]["overlap"]
    assert found["model"]["judge_whole"] == found["file"]["judge_whole"]
    model = load_model(supplies.store, digest(supplies))
    own = faithfulness(model, supplies.data(task).test.arrays, device=tiny.CPU)
    assert found["model"]["sufficiency"] == pytest.approx(own["eraser_sufficiency"], abs=1e-6)
    assert found["model"]["comprehensiveness"] == pytest.approx(own["eraser_comprehensiveness"], abs=1e-6)


def test_the_model_s_own_masks_in_a_file_score_as_its_own(task, supplies, tmp_path):
    model = load_model(supplies.store, digest(supplies))
    test = DeviceSamples(supplies.data(task).test, tiny.CPU)
    masks = model.predict(test.inputs).mask.bool().numpy()
    pq.write_table(pa.table({"mask": masks.astype(int).tolist()}), tmp_path / "a.parquet")
    found = dict(score_others(task, supplies, digest(supplies), tmp_path / "a.parquet", "mask"))
    assert found["file"] == found["model"]


def test_rows_without_a_mask_are_left_out_of_both(task, supplies, planted, tmp_path):
    rows = [{"text": row["text"], "marks": row["rationale"] if at % 2 else None} for at, row in enumerate(planted)]
    found = dict(score_others(task, supplies, digest(supplies), written(tmp_path / "a.jsonl", rows), "marks"))
    model, data = load_model(supplies.store, digest(supplies)), supplies.data(task)
    half = DeviceSamples(data.test, tiny.CPU, np.arange(1, len(planted), 2))
    masks = model.predict(half.inputs).mask.bool().numpy()
    assert found["model"]["accuracy"] == by_model(model, half, masks)["accuracy"]


def test_everything_and_nothing_are_what_they_are(task, supplies):
    model, data = load_model(supplies.store, digest(supplies)), supplies.data(task)
    test = DeviceSamples(data.test, tiny.CPU)
    everything = np.ones((len(test), 32), dtype=bool)
    assert by_model(model, test, everything)["sufficiency"] == pytest.approx(0, abs=1e-6)
    assert by_model(model, test, ~everything)["comprehensiveness"] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        right = model.predictor(test.inputs).argmax(-1) == test.labels
    assert by_model(model, test, everything)["accuracy"] == pytest.approx(right.double().mean().item())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "has 999 rows, the test split of planted-reviews 1000."),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "row 0: the text is not that of this row of the test split"),
        (lambda rows: [{"marks": row["marks"]} for row in rows], "has spans, but no column 'text'"),
        (lambda rows: [{"text": row["text"]} for row in rows], "has no column 'marks'. It has text."),
        (lambda rows: [{**row, "marks": [[0, 10_000]]} for row in rows], "row 0: column 'marks' holds [[0, 10000]]"),
    ],
)
def test_a_file_that_does_not_fit_is_said(task, supplies, planted, tmp_path, change, message):
    rows = [{"text": row["text"], "marks": row["rationale"]} for row in planted]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_masks(task, supplies.data(task), written(tmp_path / "a.jsonl", change(rows)), "marks")
    assert message in str(caught.value)
    assert str(tmp_path / "a.jsonl") in str(caught.value)


def test_the_command_shows_both_columns(supplies, planted, tmp_path):
    rows = [{"text": row["text"], "marks": row["rationale"]} for row in planted]
    file = str(written(tmp_path / "a.jsonl", rows))
    more = ["--column", "marks", "--task", "planted-reviews", "--store", str(supplies.store)]
    output = CliRunner().invoke(app, ["score", digest(supplies), file, *more]).output
    assert "those of the file" in output
    assert "judge rationale" in output
    refused = CliRunner().invoke(app, ["score", "0123", file, *more])
    assert (refused.exit_code, "has no finished RE or REKD trial 0123" in refused.output) == (2, True)
    missing = CliRunner().invoke(app, ["score", digest(supplies), "no.parquet", *more])
    assert (missing.exit_code, "does not exist" in missing.output) == (2, True)


def test_a_judge_that_is_to_be_trained_is_announced(task, supplies, tmp_path):
    assert list(judge_remark(task, supplies)) == []
    (said,) = judge_remark(task, Supplies(Store(tmp_path), device=tiny.CPU))
    assert said == (
        "The judge of planted-reviews is trained first, once, 4 times as long as a classifier of bert-teacher."
    )
