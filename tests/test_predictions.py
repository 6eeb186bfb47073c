"""What is kept of every trial answers later questions without its model: predictions, both ratios, the truth."""

import datasets
import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from analysis import load_predictions, load_trials
from rekd.method.evaluate import predictions
from rekd.method.models import load_model
from rekd.method.samples import DeviceSamples
from rekd.running.auditor import audit_task, judge_name, judge_of
from rekd.running.one_trial import run_trial
from rekd.running.supplies import Supplies
from rekd.store.files import Store
from rekd.store.predictions import StoredPredictions
from rekd.tasks.data import load_data
from rekd.tasks.task import Task, load_task
from rekd.tasks.truth import agreement

MARKS = np.eye(16, dtype=np.uint8)[[5, 10]]


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Task:
    """Two classes that two pixels tell apart, which are the truth (`tiny.images`); a ViT two wide."""
    folder = tmp_path_factory.mktemp("task")
    made = tiny.images(96)
    where = MARKS[1 - made.labels].tolist()
    rows = {"image": made.arrays["image"][:, 0].tolist(), "label": made.labels.tolist(), "where": where}
    table = datasets.Dataset.from_dict(rows)
    datasets.DatasetDict(train=table, test=table.select(range(40))).save_to_disk(folder / "data")
    head = 'kind = "image"\ndataset = "data"\ninput_column = "image"\nnum_classes = 2\nimage_mode = "L"\n'
    own = 'rationale_column = "where"\nteacher = "m"\nstudents = ["m"]\n'
    defaults = "defaults = {epochs = 2, learning_rate = 0.01, p_target = 0.0625, lambda_select = 0.01}\n"
    shape = "image_size = 4, patch_size = 1, num_channels = 1, hidden_size = 16, num_hidden_layers = 1"
    model = f'models.m.config = {{model_type = "vit", {shape}, num_attention_heads = 2, intermediate_size = 16}}'
    (folder / "mine.toml").write_text(head + own + defaults + model)
    return load_task(folder / "mine.toml")


@pytest.fixture(scope="module")
def trained(task, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    trials = {objective: task.trial(objective, "m", seed=1) for objective in ("cls", "re")}
    for trial in trials.values():
        list(run_trial(trial, task=task, store=store, supplies=Supplies(store, device=tiny.CPU)))
    return store, trials


def test_predictions_of_the_whole_test_split_are_those_that_the_row_counts(trained, task):
    store, trials = trained
    rows = load_trials(store).set_index("digest")
    kept = load_predictions(store)
    assert kept.groupby("digest").size().to_dict() == {trial.digest: 40 for trial in trials.values()}
    for trial in trials.values():
        row, of_trial = rows.loc[trial.digest], load_predictions(store, [trial.digest])
        assert row["status"] == "ok", row["error"]
        assert (of_trial["label"] == of_trial["prediction"]).mean() == pytest.approx(row["test_accuracy"])
        assert np.stack(list(of_trial["mask"])).mean() == pytest.approx(row["test_rationale_ratio"])
        found = predictions(load_model(store, trial.digest), DeviceSamples(load_data(task).test, tiny.CPU))
        probabilities = np.stack(list(of_trial["probabilities"]))
        assert np.allclose(probabilities, found.logits.softmax(-1).numpy(), atol=1e-6)
        assert np.array_equal(np.stack(list(of_trial["mask"])), found.mask.bool().numpy())
    assert np.stack(list(load_predictions(store, [trials["cls"].digest])["mask"])).all()
    assert load_predictions(store, ["0" * 16]).empty


def test_a_row_has_both_ratios_and_the_agreement_with_the_truth(trained, task):
    store, trials = trained
    rows = load_trials(store).set_index("digest")
    row, cls = rows.loc[trials["re"].digest], rows.loc[trials["cls"].digest]
    data = load_data(task)
    found = predictions(load_model(store, trials["re"].digest), DeviceSamples(data.test, tiny.CPU))
    assert row["test_argmax_ratio"] == row["test_rationale_ratio"]
    assert row["dev_argmax_ratio"] == row["dev_rationale_ratio"]
    assert row["test_expected_ratio"] == pytest.approx(found.selection_difference.sigmoid().mean().item())
    assert row["test_expected_ratio"] != pytest.approx(row["test_argmax_ratio"], abs=1e-4)
    expected = agreement(found.mask.bool().numpy(), data.test.truth.marks)
    assert {name: row[f"test_rationale_{name}"] for name in expected} == pytest.approx(expected)
    assert 0 < row["test_rationale_auprc"] <= 1
    assert cls[["test_expected_ratio", "test_rationale_f1", "warning"]].isna().all()


def test_the_expected_ratio_is_that_of_many_samples():
    model, pool = tiny.build("vit", num_classes=2), tiny.images(64)
    samples = DeviceSamples(pool, tiny.CPU)
    noise = torch.Generator().manual_seed(1)
    drawn = [predictions(model, samples, sampled_by=noise).mask.mean().item() for _ in range(50)]
    assert predictions(model, samples).ratios["expected"] == pytest.approx(np.mean(drawn), abs=0.005)
    assert predictions(model, samples).ratios["argmax"] != pytest.approx(np.mean(drawn), abs=0.005)


def test_a_model_that_selects_nothing_on_dev_ends_with_a_word(task, tmp_path):
    store = Store(tmp_path)
    trials = [task.trial("re", "m", seed=1, lambda_select=value, p_target=p) for value, p in ((1000, 0.01), (0, 0.01))]
    for trial in trials:
        list(run_trial(trial, task=task, store=store, supplies=Supplies(store, device=tiny.CPU)))
    empty, free = (load_trials(store, [trial.digest]).iloc[0] for trial in trials)
    assert (empty["status"], empty["dev_rationale_ratio"]) == ("ok", 0)
    assert empty["warning"].startswith("It selects (almost) nothing on dev: 0.0% of features by argmax,")
    assert free["dev_rationale_ratio"] > 0
    assert pd.isna(free["warning"])


def test_masks_are_packed_and_a_damaged_file_is_none(tmp_path, caplog):
    rng = np.random.default_rng(0)
    mask = rng.random((10_000, 196)) < 0.15
    probabilities = rng.dirichlet(np.ones(2), 10_000).astype(np.float32)
    kept, store = (
        StoredPredictions(labels=np.zeros(10_000, np.int64), probabilities=probabilities, mask=mask),
        Store(tmp_path),
    )
    kept.save(store, "0" * 16)
    path = store.predictions_file("0" * 16)
    assert len(store.read(path)) < 500_000
    again = StoredPredictions.load(store, "0" * 16)
    assert np.array_equal(again.mask, mask)
    assert np.array_equal(again.probabilities, probabilities)
    store.write(path, store.read(path)[:-100])
    assert StoredPredictions.load(store, "0" * 16) is None
    assert "could not be read" in caplog.text


def test_an_audit_needs_no_training_but_the_judges_and_what_is_missing_comes_from_the_model(trained, task, caplog):
    store, trials = trained
    before = StoredPredictions.load(store, trials["re"].digest)
    store.remove_file(store.predictions_file(trials["re"].digest))  # as of a trial of 0.1.0
    supplies = Supplies(store, device=tiny.CPU)
    assert list(audit_task(task, supplies, only=[trials["cls"].digest])) == []
    ((trial, found),) = audit_task(task, supplies)  # cls has no rationale
    assert trial == trials["re"]
    assert np.array_equal(StoredPredictions.load(store, trial.digest).mask, before.mask)
    row = load_trials(store, [trial.digest]).iloc[0]
    assert found.rationale_f1 == pytest.approx(row["test_rationale_f1"])
    assert found.leaks is not None
    assert list(audit_task(task, supplies)) == []

    kept = judge_of(task, supplies).state_dict()
    path = store.judge_file(judge_name(task))
    store.write(path, store.read(path)[:-1])
    assert tiny.same_tensors(judge_of(task, supplies).state_dict(), kept)  # trained again, to the bit
    assert "the judge is trained again" in caplog.text
    ((_, again),) = audit_task(task, supplies, again=True)
    assert again == found

    store.remove_folder(store.model_folder(trial.digest))
    ((_, without),) = audit_task(task, supplies, again=True)
    assert (without.leaks, without.judge_rationale) == (None, found.judge_rationale)
