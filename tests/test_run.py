"""One trial from its supplies to its row in the ledger, on tasks in the formats of the paper's."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import stand_ins
import tiny
import torch
from disturbed import damaged
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertTokenizerFast

from rekd.method.backbones import BACKBONES
from rekd.method.evaluate import faithfulness, masks_of, overlap
from rekd.method.explain import Explainer
from rekd.method.models import RationaleModel
from rekd.method.streams import Streams, evaluation_noise
from rekd.method.teacher import Targets
from rekd.running.one_trial import build_model, check_trial, describe, run_trial
from rekd.running.shown import write_rationales
from rekd.running.supplies import Supplies
from rekd.store.checkpoints import Checkpoints
from rekd.store.files import Store
from rekd.store.ledger import EPOCHS_SCHEMA, Ledger
from rekd.tasks.data import shown_samples, token_places_of
from rekd.tasks.task import Task, load_task
from rekd.trial import Trial, taught_by

CLOCKS = ("train_seconds", "finished_at", "attempt")


@pytest.fixture(scope="module")
def image_task(tmp_path_factory) -> Task:
    return load_task(stand_ins.save_image_task(tmp_path_factory.mktemp("image")))


@pytest.fixture(scope="module")
def text_task(tmp_path_factory) -> Task:
    return load_task(stand_ins.save_text_task(tmp_path_factory.mktemp("text")))


@pytest.fixture(scope="module")
def tasks(image_task, text_task) -> dict[str, Task]:
    return {"image": image_task, "text": text_task}


def run(trial: Trial, task: Task, store: Store, *, stop_after: int | None = None) -> list[dict[str, Any]]:
    """Runs a trial with supplies of its own, as a new process does; `stop_after` epochs it is dropped."""
    steps = run_trial(trial, task=task, store=store, supplies=Supplies(store, device=tiny.CPU))
    records = []
    for record in steps:
        records.append(record)
        if len(records) == stop_after:
            steps.close()
    return records


def row_of(trial: Trial, store: Store) -> dict[str, Any]:
    (row,) = Ledger(store).trials([trial.digest]).to_pylist()
    return row


def without_clocks(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in CLOCKS}


@pytest.fixture(scope="module")
def taught(tasks, tmp_path_factory):
    """By kind: a store with a finished teacher and a finished student, and both trials."""
    done = {}
    for kind, task in tasks.items():
        store = Store(tmp_path_factory.mktemp(f"{kind}-store"))
        teacher = task.trial("re", task.teacher, seed=2029)
        run(teacher, task, store)
        student = task.trial("rekd", task.students[-1], seed=2026, teacher_digest=teacher.digest)
        run(student, task, store)
        done[kind] = (store, teacher, student)
    return done


KINDS = ("image", "text")


# --- From supplies to the ledger ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_trial_is_a_row_with_its_epochs_and_a_model(kind, tasks, taught):
    store, teacher, student = taught[kind]
    for trial in (teacher, student):
        row = row_of(trial, store)
        assert (row["status"], row["error"], row["fidelity"]) == ("ok", "", "paper")
        # Two epochs are few: the text's student selects nothing yet, and that is said.
        assert (row["warning"] is None) == (row["dev_argmax_ratio"] >= 0.1 * trial.p_target)
        epochs = Ledger(store).epochs([trial.digest]).to_pandas()
        assert epochs["epoch"].tolist() == [1, 2] == list(range(1, row["num_epochs"] + 1))
        assert row["best_epoch"] == epochs["dev_loss"].argmin() + 1
        best = epochs.iloc[row["best_epoch"] - 1]
        assert all(row[name] == best[name] for name in ("dev_loss", "dev_accuracy", "dev_rationale_ratio"))
        assert all(0 <= row[name] <= 1 for name in row if name.endswith(("accuracy", "ratio", "distinct_masks")))
        assert row["num_features"] == {"image": 16, "text": 24}[kind]
        assert row["device"] == "cpu"
        assert "torch" in row["versions"]
        assert store.names_in(store.running_folder(trial.digest)) == []  # its checkpoints are gone
        model = RationaleModel.load(Path(store.model_folder(trial.digest)))
        assert sum(parameter.numel() for parameter in model.parameters()) == row["num_parameters"]
    assert 0 <= row_of(student, store)["dev_teacher_overlap"] <= 1
    assert row_of(teacher, store)["dev_teacher_overlap"] is None
    assert (row_of(student, store)["dev_token_ratio"] == row_of(student, store)["dev_rationale_ratio"]) == (
        kind == "image"
    )


def test_records_are_yielded_as_they_are_written(image_task, store):
    trial = image_task.trial("cls", "vit-tiny", seed=2026)
    records = run(trial, image_task, store)
    assert [set(record) <= set(EPOCHS_SCHEMA.names) for record in records] == [True, True]
    written = Ledger(store).epochs().to_pylist()
    assert [row["dev_loss"] for row in written] == [record["dev_loss"] for record in records]
    row = row_of(trial, store)
    assert row["dev_rationale_ratio"] == 1.0  # the whole input
    assert row["test_sufficiency"] is None
    assert row["dev_loss"] == min(record["dev_loss"] for record in records)


def test_the_model_that_is_kept_is_the_one_that_was_tested(image_task, taught):
    store, _, student = taught["image"]
    model = RationaleModel.load(Path(store.model_folder(student.digest)))
    test = Supplies(store, device=tiny.CPU).data(image_task).test
    with torch.no_grad():
        prediction = model.predict({"image": torch.from_numpy(test.arrays["image"])})
    row = row_of(student, store)
    accuracy = (prediction.logits.argmax(-1).numpy() == test.labels).mean()
    assert row["test_accuracy"] == pytest.approx(accuracy)
    assert row["test_rationale_ratio"] == pytest.approx(prediction.mask.mean().item(), rel=1e-5)
    assert row["test_distinct_masks"] == pytest.approx(len(prediction.mask.unique(dim=0)) / len(test))


def test_a_text_model_is_kept_with_its_tokenizer(text_task, taught):
    store, _, student = taught["text"]
    kept = AutoTokenizer.from_pretrained(store.model_folder(student.digest))
    source = AutoTokenizer.from_pretrained(text_task.tokenizer_source[0])
    assert kept("A great film.")["input_ids"] == source("A great film.")["input_ids"]
    assert "tokenizer.json" not in store.names_in(taught["image"][0].model_folder(taught["image"][2].digest))


@pytest.mark.parametrize("kind", KINDS)
def test_rationales_to_look_at_are_of_the_same_samples_for_every_trial(kind, taught):
    store, teacher, student = taught[kind]
    samples = pq.read_table(store.samples_file(student.task_digest)).to_pylist()
    for trial in (teacher, student):
        rationales = pq.read_table(store.rationales_file(trial.digest)).to_pylist()
        assert [row["sample"] for row in rationales] == [row["sample"] for row in samples]
        assert {len(row["mask"]) for row in rationales} == {row_of(trial, store)["num_features"]}
    counts = np.bincount([row["label"] for row in samples])
    assert counts.tolist() == [4] * {"image": 10, "text": 2}[kind]
    for row in samples:
        if kind == "image":
            assert row["image"].startswith(b"\x89PNG")
            assert row["rows"] * row["columns"] == 16
        else:
            words = [row["text"][start:end] for start, end in dict.fromkeys(map(tuple, row["spans"])) if end]
            assert "".join(words) == row["text"].replace(" ", "")
            assert row["text"][0].isupper()  # as it was written, not as the tokenizer spells it
            assert row["read"] == [0, len(row["text"])]
            assert len(row["spans"]) == len(row["tokens"]) == 24


@pytest.mark.parametrize("family", ["dinov2", "albert", "modernbert"])
def test_a_family_of_one_class_trains_to_its_end_and_is_shown(family, tasks, store):
    kind = BACKBONES[family].kind
    task, name = tasks[kind], tasks[kind].students[-1]
    changes = {
        "image": {"image_size": 32, "patch_size": 8, "num_channels": 3},
        "text": {"vocab_size": 200, "max_position_embeddings": 24},
    }[kind]
    model = replace(task.models[name], source=None, config={**tiny.CONFIGS[family], **changes})
    task = replace(task, models={**task.models, name: model})
    trial = task.trial("re", name, seed=2026, epochs=1)
    run(trial, task, store)
    row = row_of(trial, store)
    assert (row["status"], row["error"]) == ("ok", "")
    assert "could not be written" not in (row["warning"] or "")
    assert {len(each["mask"]) for each in pq.read_table(store.rationales_file(trial.digest)).to_pylist()} == {
        row["num_features"]
    }
    explainer = Explainer(Path(store.model_folder(trial.digest)))
    if kind == "text":
        (explanation,) = explainer(["A great film."])
        assert [word.text for word in explanation.words] == ["A", "great", "film", "."]
    else:
        assert explainer.model.predictor.backbone.grid == (4, 4)


def test_a_local_model_may_be_a_pytorch_model_bin(image_task, tmp_path, store):
    """As the paper's small BERTs are. Nothing but tensors is read from it."""
    folder = Path(shutil.copytree(image_task.models["vit-tiny"].source, tmp_path / "model"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    file = tmp_path / "bin.toml"
    data = image_task.dataset
    file.write_text(f'extends = "cifar10"\ndataset = "{data}"\n[models.vit-tiny]\nsource = "model"\n')
    task = load_task(file)
    trial = task.trial("cls", "vit-tiny", seed=2026, epochs=1)
    check_trial(trial, task=task, supplies=Supplies(store, device=tiny.CPU))
    assert trial.model_digest != image_task.models["vit-tiny"].digest
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match=r"with config\.json and \*\.safetensors or pytorch_model\*\.bin\. Write"):
        load_task(file)


def test_what_is_written_for_people_to_look_at_cannot_fail_a_trial(image_task, store, monkeypatch):
    def broken(*_, **__):
        raise AssertionError("no picture of this")

    trial = image_task.trial("cls", "vit-tiny", seed=2026, epochs=1)
    monkeypatch.setattr("rekd.running.one_trial.write_rationales", broken)
    run(trial, image_task, store)
    row = row_of(trial, store)
    assert (row["status"], row["error"]) == ("ok", "")
    assert row["warning"] == "Its rationales to look at could not be written: AssertionError: no picture of this"
    assert row["test_accuracy"] is not None
    assert store.names_in(store.model_folder(trial.digest))


def test_a_model_that_cannot_be_loaded_again_is_no_result(image_task, store, monkeypatch):
    """It is noticed before anything is trained, where the model says so; else before the row is written."""
    trial = image_task.trial("cls", "vit-tiny", seed=2026, epochs=1)
    build = RationaleModel.build

    def built_wrongly(**arguments):
        model = build(**arguments)
        model.description["num_classes"] = 3
        return model

    with monkeypatch.context() as patched:
        patched.setattr(RationaleModel, "build", built_wrongly)
        with pytest.raises(ValueError, match=r"not those of their config\.json: .*size mismatch"):
            check_trial(trial, task=image_task, supplies=Supplies(store, device=tiny.CPU))
        run(trial, image_task, store)
    assert "not those of their config.json" in row_of(trial, store)["error"]
    assert row_of(trial, store)["status"] == "failed"
    check_trial(trial, task=image_task, supplies=Supplies(store, device=tiny.CPU))
    run(trial, image_task, store)  # goes on from its last epoch
    assert (row_of(trial, store)["status"], row_of(trial, store)["attempt"]) == ("ok", 1)


def test_samples_as_an_earlier_version_spelt_them_are_written_again(text_task, taught, tmp_path):
    before, _, student = taught["text"]
    store = Store(shutil.copytree(before.root, tmp_path / "store"))
    path = store.samples_file(student.task_digest)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["read"]), path)
    model = RationaleModel.load(Path(store.model_folder(student.digest)))
    data = Supplies(store, device=tiny.CPU).data(text_task)
    write_rationales(store, student, model, data, device=tiny.CPU)
    assert pq.read_table(path).equals(table)


def test_a_row_counts_the_samples_that_stand_in_two_splits(text_task, taught):
    store, teacher, student = taught["text"]
    data = Supplies(store, device=tiny.CPU).data(text_task)
    for trial in (teacher, student):
        row = row_of(trial, store)
        counts = data.in_train(trial.split, trial.seed)
        assert {name: row[f"num_{name}_in_train"] for name in counts} == counts


# --- Attempts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "stop_after"), [("image", 1), ("image", 2), ("text", 1)])
def test_a_trial_that_was_stopped_goes_on_and_its_row_is_the_same(kind, stop_after, tasks, taught, tmp_path):
    finished, teacher, student = taught[kind]
    for trial in (teacher, student):
        store = Store(tmp_path / trial.digest)
        if trial is student:  # the teacher's own, as another machine finds it
            for name in ("config.json", "model.safetensors"):
                content = finished.read(f"{finished.model_folder(teacher.digest)}/{name}")
                store.write(f"{store.model_folder(teacher.digest)}/{name}", content)
            store.write(store.trial_file(teacher.digest), finished.read(finished.trial_file(teacher.digest)))
        run(trial, tasks[kind], store, stop_after=stop_after)
        assert Ledger(store).trials([trial.digest]).num_rows == 0
        assert f"epoch-0000{stop_after}.safetensors" in store.names_in(store.running_folder(trial.digest))
        run(trial, tasks[kind], store)
        row, expected = row_of(trial, store), row_of(trial, finished)
        assert without_clocks(row) == without_clocks(expected)
        assert expected["attempt"] == 1
        assert row["attempt"] == (2 if stop_after < 2 else 1)  # nothing was left to train
        left, right = (RationaleModel.load(Path(s.model_folder(trial.digest))) for s in (store, finished))
        assert tiny.same_tensors(left.state_dict(), right.state_dict())


def test_a_trial_beside_others_and_with_shared_supplies_is_the_same(image_task, taught, tmp_path):
    """Two trials in one process, epoch by epoch, from one copy of the data and the teacher."""
    finished, teacher, student = taught["image"]
    store = Store(finished.root)
    again = Store(tmp_path)
    supplies = Supplies(store, device=tiny.CPU)
    threads = torch.get_num_threads()
    other = replace(student, seed=2027)
    steps = [run_trial(each, task=image_task, store=again, supplies=supplies) for each in (student, other)]
    for _ in range(3):
        for step in steps:
            next(step, None)
    assert without_clocks(row_of(student, again)) == without_clocks(row_of(student, store))
    assert row_of(other, again)["dev_loss"] != row_of(student, again)["dev_loss"]
    assert not supplies.teacher(teacher.digest).training
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("global_stream_is_untouched")
@pytest.mark.parametrize("fidelity", ["paper", "authors"])
def test_a_trial_leaves_the_callers_stream_alone(fidelity, image_task, store):
    run(image_task.trial("re", "vit-tiny", seed=2026, epochs=1, fidelity=fidelity), image_task, store)


# --- Trials that do not end well ------------------------------------------------------------------------------------


def test_a_diverged_trial_is_a_row_with_epoch_and_reason_and_has_no_model(image_task, store):
    trial = image_task.trial("re", "vit-tiny", seed=2026, learning_rate=1e30)
    run(trial, image_task, store)
    row = row_of(trial, store)
    assert row["status"] == "diverged"
    assert row["error"].startswith("train_loss was nan in epoch ")
    assert row["test_accuracy"] is None
    assert Ledger(store).epochs().num_rows == row["num_epochs"] >= 1
    assert Ledger(store).done() == {trial.digest}
    assert store.names_in(store.model_folder(trial.digest)) == []


def test_an_error_is_a_row_that_runs_again(image_task, store, caplog):
    trial = image_task.trial("rekd", "vit-tiny", seed=2026, teacher_digest="0123")
    run(trial, image_task, store)
    row = row_of(trial, store)
    assert row["status"] == "failed"
    assert row["error"].startswith("ValueError: The trial 0123 has no saved model")
    assert Ledger(store).done() == set()
    assert Ledger(store).epochs().num_rows == 0


def test_what_a_user_can_change_is_said_with_the_error():
    assert describe(MemoryError()).endswith(
        "The trial does not fit: give it more of a GPU (--gpus-per-trial 1) or a smaller batch_size."
    )
    assert describe(ValueError("one line\nand more")) == "ValueError: one line"
    assert describe(KeyError()) == "KeyError"


def copied(store: Store, tmp_path: Path) -> Store:
    """A copy of a store, so that what a test adds is nothing to the next one."""
    return Store(str(shutil.copytree(store.root, tmp_path / "copy")))


def test_a_student_of_another_patch_size_learns_from_the_teachers_area(image_task, taught, tmp_path):
    store, teacher, _ = taught["image"]
    store = copied(store, tmp_path)
    other = {**tiny.CONFIGS["vit"], "image_size": 32, "patch_size": 4, "num_channels": 3}
    model = replace(image_task.models["vit-tiny"], source=None, config=other)
    task = replace(image_task, models={**image_task.models, "vit-tiny": model})
    trial = task.trial("rekd", "vit-tiny", seed=2026, epochs=1, teacher_digest=teacher.digest)
    run(trial, task, store)
    row = row_of(trial, store)
    assert (row["status"], row["error"], row["num_features"]) == ("ok", "", 64)
    assert 0 <= row["dev_teacher_overlap"] <= 1

    under_its_mask = replace(trial, seed=2027, teacher_sees="student_mask")
    run(under_its_mask, task, store)
    assert "selects among 4 x 4 features, the student among 8 x 8" in row_of(under_its_mask, store)["error"]


@pytest.fixture(scope="module")
def letters_task(text_task, tmp_path_factory) -> Task:
    """The text task with a student that reads letters."""
    folder = tmp_path_factory.mktemp("letters")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *letters, *(f"##{letter}" for letter in letters)]
    BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)}).save_pretrained(folder)
    config = {**tiny.CONFIGS["bert"], "vocab_size": len(pieces), "max_position_embeddings": 24}
    mini = replace(text_task.models["bert-mini"], source=None, config=config, tokenizer=str(folder))
    return replace(text_task, models={**text_task.models, "bert-mini": mini})


def test_a_student_with_another_tokenizer_learns_from_the_teachers_characters(
    letters_task, text_task, taught, tmp_path
):
    store, teacher, _ = taught["text"]
    store = copied(store, tmp_path)
    task = letters_task
    assert task.digest == text_task.digest == task.seen_by("bert-small").digest
    assert task.seen_by("bert-mini").seen_by(task.teacher) == task
    trial = task.trial("rekd", "bert-mini", seed=2026, epochs=1, teacher_digest=teacher.digest)
    assert trial.task_digest == task.seen_by("bert-mini").digest != task.digest
    run(trial, task, store)
    row = row_of(trial, store)
    assert (row["status"], row["error"]) == ("ok", "")

    supplies = Supplies(store, device=tiny.CPU)
    own, seen = (supplies.targets(view, teacher.digest) for view in (task, task.seen_by("bert-mini")))
    assert np.array_equal(own.logits, seen.logits)
    texts, (of_words, of_letters) = _texts(task), token_places_of([task, task.seen_by("bert-mini")])
    assert len(texts) == len(own.logits)
    for row in (0, 40):
        said = dict(zip(map(tuple, of_words[row].tolist()), own.selection_difference[row], strict=True))
        heard = dict(zip(map(tuple, of_letters[row].tolist()), seen.selection_difference[row], strict=True))
        for (start, end), difference in heard.items():
            if end:  # a letter is as probable as the word that it stands in
                assert texts[row][start:end].isalpha() or texts[row][start:end] == "."
                (of_word,) = [value for (first, last), value in said.items() if first <= start < last]
                assert difference == pytest.approx(of_word, abs=1e-4)


def _texts(task: Task) -> list[str]:
    saved = datasets.load_from_disk(task.dataset)
    return list(saved["train"]["text"])


def test_several_teachers_are_averaged_and_a_classifier_teaches_predictions_alone(image_task, taught, tmp_path):
    store, teacher, student = taught["image"]
    store = copied(store, tmp_path)
    classifier = image_task.trial("cls", image_task.teacher, seed=2026, epochs=1)
    run(classifier, image_task, store)
    of_both = replace(student, epochs=1, **taught_by({teacher.digest: 1, student.digest: 2}))
    run(of_both, image_task, store)
    row = row_of(of_both, store)
    assert (row["status"], row["distils"], row["alpha_schedule"]) == ("ok", "both", "constant")
    assert Trial.from_record(json.loads(row["config"])) == of_both

    of_classifier = replace(student, epochs=1, teacher_digest=classifier.digest)
    run(of_classifier, image_task, store)
    assert "is a plain classifier without rationales" in row_of(of_classifier, store)["error"]
    of_prediction = replace(of_classifier, distils="prediction", lambda_rationale=0)
    run(of_prediction, image_task, store)
    row = row_of(of_prediction, store)
    assert (row["status"], row["dev_teacher_overlap"]) == ("ok", None)


def test_targets_of_other_data_are_not_used(image_task, taught, tmp_path):
    """The same teacher on another data set has targets of its own."""
    store, teacher, _ = taught["image"]
    other = load_task(stand_ins.save_image_task(tmp_path, "cifar100"))
    supplies = Supplies(store, device=tiny.CPU)
    first, second = (supplies.targets(task, teacher.digest) for task in (image_task, other))
    assert first.asked.data_fingerprint != second.asked.data_fingerprint
    assert len(store.names_in(f"{store.root}/targets")) == 2
    with pytest.raises(ValueError, match="targets belong to the data"):
        first.check(second.asked)


def test_targets_are_computed_once_and_again_where_they_are_damaged(image_task, taught, tmp_path, caplog):
    finished, teacher, _ = taught["image"]
    store = Store(tmp_path)
    for name in ("config.json", "model.safetensors"):
        store.write(
            f"{store.model_folder(teacher.digest)}/{name}",
            finished.read(f"{finished.model_folder(teacher.digest)}/{name}"),
        )
    first = Supplies(store, device=tiny.CPU).targets(image_task, teacher.digest)
    path = Path(first.asked.file_in(store))
    written = path.stat().st_mtime_ns
    second = Supplies(store, device=tiny.CPU).targets(image_task, teacher.digest)
    assert path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING):
        third = Supplies(store, device=tiny.CPU).targets(image_task, teacher.digest)
    assert "is damaged" in caplog.text
    for targets in (second, third):
        assert np.array_equal(targets.logits, first.logits)
        assert np.array_equal(targets.selection_difference, first.selection_difference)
    assert Targets.load(store, first.asked) is not None


def test_a_teacher_that_was_trained_again_is_asked_again(image_task, taught, tmp_path):
    """Elsewhere it may have become another model under the same digest; supplies that live on notice, too."""
    finished, teacher, _ = taught["image"]
    store = Store(shutil.copytree(finished.root, tmp_path / "store"))
    supplies = Supplies(store, device=tiny.CPU)
    before, model_before = supplies.targets(image_task, teacher.digest), supplies.teacher(teacher.digest)
    folder = Path(store.model_folder(teacher.digest))
    model = RationaleModel.load(folder)
    with torch.no_grad():
        model.generator.head[1].bias[1] += 1
    model.save(folder)
    after = supplies.targets(image_task, teacher.digest)
    np.testing.assert_allclose(after.selection_difference, before.selection_difference + 1, rtol=1e-3, atol=1e-5)
    assert supplies.teacher(teacher.digest) is not model_before


@pytest.mark.parametrize("how", ["truncated", "a bit of a tensor"])
def test_a_teacher_whose_model_is_damaged_is_trained_again(image_task, taught, tmp_path, how):
    """Its students fail in a line until then, and after it all is as it was."""
    finished, teacher, student = taught["image"]
    store = Store(shutil.copytree(finished.root, tmp_path / "store"))
    shutil.rmtree(f"{store.root}/targets")
    file = Path(store.model_folder(teacher.digest)) / "model.safetensors"
    file.write_bytes(damaged(file.read_bytes(), how))
    store.remove_file(store.trial_file(student.digest))  # what has a result is not run again
    students = [student, replace(student, seed=2027)]
    for trial in students:
        run(trial, image_task, store)
    first, second = (row_of(trial, store)["error"] for trial in students)
    assert first.startswith(f"ValueError: The trial {teacher.digest} has a damaged saved model (the checksum")
    assert second.startswith(f"ValueError: The trial {teacher.digest} has no saved model")
    assert all(error.endswith("which trains it first, or choose another teacher.") for error in (first, second))
    assert Ledger(store).done() == {teacher.digest}  # its numbers are true; its row stays until it is trained again

    for trial in (teacher, student):
        run(trial, image_task, store)
        assert without_clocks(row_of(trial, store)) == without_clocks(row_of(trial, finished))
    assert Ledger(store).done() == {teacher.digest, student.digest}


def test_a_student_of_seeded_views_has_its_teacher_asked_once_an_epoch(image_task, taught, tmp_path):
    finished, teacher, student = taught["image"]
    store = Store(shutil.copytree(finished.root, tmp_path / "store"))
    trial = replace(student, augmentation="crop_flip_seeded")
    before = len(store.names_in(f"{store.root}/targets"))
    run(trial, image_task, store)
    assert row_of(trial, store)["status"] == "ok"
    assert row_of(trial, store)["fidelity"] == "mixed"
    assert len(store.names_in(f"{store.root}/targets")) == before + trial.epochs
    supplies = Supplies(store, device=tiny.CPU)
    assert [targets.asked.view_epoch for targets in supplies.view_targets(image_task, teacher.digest, 2)] == [1, 2]


# --- What a row reports ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(image_task, tmp_path_factory) -> tuple[Store, Trial, Trial]:
    """A store with a teacher and a student as the authors' code makes them."""
    store = Store(tmp_path_factory.mktemp("theirs"))
    teacher = image_task.trial("re", "vit-base", seed=2029, epochs=1, fidelity="authors")
    student = image_task.trial(
        "rekd", "vit-tiny", seed=2026, epochs=1, fidelity="authors", teacher_digest=teacher.digest
    )
    for trial in (teacher, student):
        run(trial, image_task, store)
    return store, teacher, student


def test_how_much_of_dev_the_teacher_was_trained_on_is_reported(image_task, taught, theirs):
    """0 with the paper's fixed split; with the authors' split by seed it is most of it."""
    store, teacher, student = taught["image"]
    assert row_of(student, store)["dev_teacher_train_share"] == 0
    assert row_of(teacher, store)["dev_teacher_train_share"] is None

    store, teacher, student = theirs
    data = Supplies(store, device=tiny.CPU).data(image_task)
    teacher_train, dev = data.train_dev(teacher.split, 2029)[0], data.train_dev(student.split, 2026)[1]
    row = row_of(student, store)
    assert (row["status"], row["fidelity"]) == ("ok", "authors")
    assert row["dev_teacher_train_share"] == pytest.approx(len(np.intersect1d(dev, teacher_train)) / len(dev))
    assert row["dev_teacher_train_share"] > 0.5


@pytest.mark.parametrize("preset", ["paper", "authors"])
def test_rationales_are_measured_and_shown_by_the_mask_of_the_trial(preset, image_task, taught, theirs):
    store, teacher, student = taught["image"] if preset == "paper" else theirs
    supplies, row = Supplies(store, device=tiny.CPU), row_of(student, store)
    data, model = supplies.data(image_task), RationaleModel.load(Path(store.model_folder(student.digest)))
    dev = data.train_dev(student.split, student.seed)[1]
    chosen = shown_samples(data.test.labels)

    def values(sampled: bool) -> list[Any]:
        def noise() -> torch.Generator | None:
            return evaluation_noise(student.seed, tiny.CPU) if sampled else None

        generator = noise()
        mask, _ = masks_of(model, data.pool.take(dev).arrays, device=tiny.CPU, sampled_by=generator)
        others = supplies.targets(image_task, teacher.digest).masks(dev, sampled_by=generator)
        measured = faithfulness(model, data.test.arrays, device=tiny.CPU, sampled_by=noise())
        shown, _ = masks_of(model, data.test.take(chosen).arrays, device=tiny.CPU, sampled_by=noise())
        return [overlap(mask, others), *(measured[name.removeprefix("test_")] for name in names[1:]), shown.tolist()]

    names = ["dev_teacher_overlap", "test_sufficiency", "test_comprehensiveness", "test_distinct_masks"]
    names += ["test_eraser_sufficiency", "test_eraser_comprehensiveness"]
    shown = pq.read_table(store.rationales_file(student.digest))["mask"].to_pylist()
    found = [*(row[name] for name in names), shown]
    expected, other = values(preset == "authors"), values(preset != "authors")
    for name, ours, right, wrong in zip([*names, "shown"], found, expected, other, strict=True):
        assert ours == right, name
        assert ours != wrong, name


def test_a_trial_of_the_authors_preset_builds_their_model(image_task, text_task, store):
    supplies = Supplies(store, device=tiny.CPU)
    image = image_task.trial("re", "vit-tiny", seed=2026, fidelity="authors")
    text = text_task.trial("re", "bert-mini", seed=2026, fidelity="authors")
    models = [
        build_model(trial, task, supplies.data(task), Streams(2026, kind=trial.random_streams, device=tiny.CPU))
        for trial, task in ((image, image_task), (text, text_task))
    ]
    for part in (models[0].generator, models[0].predictor):
        assert part.backbone.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert models[1].predictor.backbone.encoder.pooler is None
    for head in (model.predictor.head[1].weight for model in models):
        bound = (6 / sum(head.shape)) ** 0.5
        assert 0.8 * bound < head.abs().max() <= bound


def test_the_authors_preset_runs_on_texts_and_counts_trainable_parameters(text_task, store):
    teacher = text_task.trial("re", "bert-base", seed=2029, epochs=1, fidelity="authors")
    student = text_task.trial(
        "rekd", "bert-mini", seed=2026, epochs=1, fidelity="authors", teacher_digest=teacher.digest
    )
    for trial in (teacher, student):
        run(trial, text_task, store)
        row = row_of(trial, store)
        assert (row["status"], row["error"]) == ("ok", "")
        model = RationaleModel.load(Path(store.model_folder(trial.digest)))
        frozen = model.generator.backbone.encoder.get_input_embeddings().weight.numel()
        assert row["num_parameters"] == sum(parameter.numel() for parameter in model.parameters()) - frozen


def test_a_row_names_every_device_and_version_that_contributed(image_task, store, monkeypatch):
    trial = image_task.trial("re", "vit-tiny", seed=2026)
    supplies = Supplies(store, device=tiny.CPU)
    next(run_trial(trial, task=image_task, store=store, supplies=supplies, commit="first"))
    monkeypatch.setattr("platform.python_version", lambda: "9.9.9")
    list(run_trial(trial, task=image_task, store=store, supplies=supplies, commit="second"))
    row = row_of(trial, store)
    assert row["device"] == "cpu"  # once, as it stayed the same
    first, second = row["versions"].split("; ")
    assert first.endswith("commit first")
    assert second.endswith("python 9.9.9, commit second")


def test_a_checkpoint_of_a_finished_trial_is_not_left_behind(image_task, store):
    trial = image_task.trial("re", "vit-tiny", seed=2026)
    steps = run_trial(trial, task=image_task, store=store, supplies=Supplies(store, device=tiny.CPU))
    next(steps)
    next(steps)  # the first epoch's, written meanwhile, is there before the second one's is copied
    assert Checkpoints(store, trial.digest).latest()[1]["epoch"] in (1, 2)
    list(steps)
    assert Checkpoints(store, trial.digest).latest() is None
    assert not store.exists(store.running_folder(trial.digest))
