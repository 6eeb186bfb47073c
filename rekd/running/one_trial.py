"""One trial, from its supplies to its row in the ledger."""

import importlib.metadata
import math
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rekd.method.evaluate import (
    Predictions,
    faithfulness,
    masks_of,
    measures,
    overlap,
    predictions,
    rationale_noise,
    tested,
)
from rekd.method.losses import Learner
from rekd.method.models import RationaleModel
from rekd.method.samples import DeviceSamples
from rekd.method.streams import Streams
from rekd.method.teacher import Teacher
from rekd.method.train import TrainResult, one_thread, train
from rekd.running.shown import write_rationales
from rekd.running.supplies import Supplies
from rekd.store.checkpoints import Checkpoints, CheckpointWriter
from rekd.store.files import Store, StoreUnavailableError
from rekd.store.ledger import Ledger, Outcome
from rekd.tasks.commits import as_text, commits, pinned
from rekd.tasks.data import Data, remarks_on
from rekd.tasks.task import Task
from rekd.tasks.texts import load_tokenizer
from rekd.tasks.truth import Truth, agreement, auprc
from rekd.trial import Trial, canonical_json

NOTHING = 0.1
"""Share of `p_target` below which a rationale ratio is as good as none."""


def run_trial(
    trial: Trial, *, task: Task, store: Store, supplies: Supplies, commit: str = "", checkpoint_every: float = 0.0
) -> Iterator[dict[str, Any]]:
    """Trains a trial, tests its best version, keeps the model and writes the ledger. Yields one record an epoch.

    Whatever stopped an earlier attempt, it goes on from the newest checkpoint in the store. An error becomes a row with
    status `failed`, which the next sweep that asks for the trial runs again; a store that fails for long is raised.
    A checkpoint is written after each epoch, or where `checkpoint_every` so many seconds have passed since the one before.
    """
    ledger = Ledger(store)
    checkpoints = Checkpoints(store, trial.digest)
    device = supplies.device
    made_with = _made_with(device, commit)
    said = {**asdict(trial), "checkpoint_every": checkpoint_every}
    store.write(store.running_trial_file(trial.digest), canonical_json(said).encode())
    try:
        with one_thread(device), CheckpointWriter(checkpoints, every=checkpoint_every) as writer:
            task = pinned(task, [trial.model])
            data = supplies.data(task)
            splits = data.train_dev(trial.split, trial.seed)
            streams = Streams(trial.seed, kind=trial.random_streams, device=device)
            model = build_model(trial, task, data, streams).to(device)
            teacher = _teacher(trial, task, supplies, num_features=model.num_features(data.pool.arrays))
            result = yield from train(
                Learner.of(trial, model, streams=streams, teacher=teacher),
                train_samples=DeviceSamples(data.pool, device, splits[0]),
                dev_samples=DeviceSamples(data.pool, device, splits[1]),
                writer=writer,
                made_with=made_with,
            )
            outcome = _tested(trial, task, result, data, splits[1], streams, supplies)
            if not result.diverged:
                keep_model(trial, task, result.model, data, store)
                warning = _shown(store, trial, result.model, data, device=device)
                outcome = replace(outcome, warning=" ".join(filter(None, (outcome.warning, warning))) or None)
            outcome = replace(outcome, commits=as_text(commits(task, [trial.model])))
    except StoreUnavailableError:  # no fault of the trial: it goes on from its checkpoint when the store is back
        raise
    except Exception as error:
        ledger.write(trial, _stamped(Outcome(status="failed", error=describe(error)), [made_with]))
        return
    ledger.write(trial, _stamped(outcome, result.made_with), result.records)
    checkpoints.clear()


def check_trial(trial: Trial, *, task: Task, supplies: Supplies) -> list[str]:
    """Remarks on the trial's data. Raises ValueError where data, model or teacher are not what the trial needs."""
    data = supplies.data(task)
    check_model(trial, task, data)
    store, teacher = supplies.store, trial.teacher_digest
    if teacher is not None and not store.names_in(store.model_folder(teacher)):
        raise ValueError(
            f"The store {store} has no model of a trial {teacher}. Train it first (after `python -m rekd redo {store} "
            f"{teacher}`, where it has a result), or choose another teacher."
        )
    return remarks_on(data, task, trial)


def check_model(trial: Trial, task: Task, data: Data) -> None:
    """Raises ValueError where a trial's model cannot read the task's samples, or could not be loaded once it is saved."""
    build_model(trial, task, data, Streams(0, device=torch.device("cpu"))).check_saving()


def build_model(trial: Trial, task: Task, data: Data, streams: Streams) -> RationaleModel:
    """The untrained model of a trial. Raises ValueError where the backbone cannot read the task's samples."""
    reference = task.models[trial.model]
    with streams.initialising():
        model = RationaleModel.build(
            objective=trial.objective,
            num_classes=data.num_classes,
            dropout=trial.dropout,
            heads=trial.heads,
            predictor_reads=trial.predictor_reads,
            head_initialisation=trial.head_initialisation,
            image_statistics=trial.image_statistics,
            precision=trial.precision,
            downscaling=trial.downscaling,
            source=reference.source,
            config=reference.config,
            revision=reference.commit or reference.revision,
        )
    model.predictor.backbone.check(data.pool.arrays)
    return model


def keep_model(trial: Trial, task: Task, model: RationaleModel, data: Data, store: Store) -> None:
    """Puts a trained model into the store as a folder; config.json comes last, so that who sees it sees the weights.

    It is loaded first. Raises ValueError where it cannot be, as nobody else could.
    """
    tokenizer = load_tokenizer(task) if task.kind == "text" else None
    shapes = {name: list(array.shape[1:]) for name, array in data.test.arrays.items()}
    details = {"trial": asdict(trial), "digest": trial.digest, "class_names": data.class_names, "inputs": shapes}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model.save(folder, tokenizer=tokenizer, details=details)
        RationaleModel.load(folder)
        files = sorted(folder.iterdir(), key=lambda file: file.name == "config.json")
        store.write_folder(
            store.model_folder(trial.digest), ((file.name, file.read_bytes()) for file in files if file.is_file())
        )


def describe(error: Exception) -> str:
    """An error in one line, with a word on what to change where that is known."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    # What torch raises on a CPU is a plain RuntimeError.
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text:
        text += " The trial does not fit: give it more of a GPU (--gpus-per-trial 1) or a smaller batch_size."
    return text


def _shown(store: Store, trial: Trial, model: RationaleModel, data: Data, *, device: torch.device) -> str | None:
    """Writes what is for people to look at. It may fail, not the trial, which has ended: returns what went wrong, if it did."""
    try:
        write_rationales(store, trial, model, data, device=device)
    except StoreUnavailableError:
        raise
    except Exception as error:
        return f"Its rationales to look at could not be written: {describe(error)}"
    return None


def _teacher(trial: Trial, task: Task, supplies: Supplies, *, num_features: int) -> Teacher | None:
    if trial.teacher_digest is None:
        return None
    student_mask = trial.teacher_sees == "student_mask"
    augmented = task.teacher_mode(trial) == "live"
    targets = supplies.targets(task, trial.teacher_digest)
    if targets.selection_difference.shape[1] != num_features:
        raise ValueError(
            f"The teacher selects among {targets.selection_difference.shape[1]} features, the student {trial.model} among "
            f"{num_features}. Give both the same patch and image size."
        )
    model = supplies.teacher(trial.teacher_digest) if student_mask or augmented else None
    num_view_epochs = task.num_view_epochs(trial)
    return Teacher(
        targets,
        model=model,
        student_mask=student_mask,
        augmented=augmented,
        views=supplies.view_targets(task, trial.teacher_digest, num_view_epochs) if num_view_epochs else (),
        device=supplies.device,
    )


def _tested(
    trial: Trial,
    task: Task,
    result: TrainResult,
    data: Data,
    dev_indices: np.ndarray,
    streams: Streams,
    supplies: Supplies,
) -> Outcome:
    """The outcome of a run: its best epoch's dev values as they were recorded, and that version on the test split."""
    parameters = sum(parameter.numel() for parameter in result.model.parameters() if parameter.requires_grad)
    outcome = Outcome(
        status="diverged" if result.diverged else "ok",
        error=result.diverged,
        best_epoch=result.best_epoch,
        num_epochs=len(result.records),
        num_parameters=parameters,
        train_seconds=result.seconds,
        attempt=result.records[-1]["attempt"],
    )
    if result.diverged or result.best_epoch is None:
        return outcome
    device = supplies.device
    best = result.records[result.best_epoch - 1]
    found = tested(result.model, DeviceSamples(data.test, device), trial, streams=streams)
    found.kept().save(supplies.store, trial.digest)
    test = measures(found, trial)
    noise = rationale_noise(trial, device=device)
    measured = faithfulness(result.model, data.test.arrays, device=device, sampled_by=noise)
    outcome = replace(
        outcome,
        num_features=result.model.num_features(data.test.arrays),
        **{f"num_{name}_in_train": count for name, count in data.in_train(trial.split, trial.seed).items()},
        **{f"dev_{name}": best[f"dev_{name}"] for name in ("loss", "accuracy", "rationale_ratio", "token_ratio")},
        **{f"test_{name}": test[name] for name in ("loss", "accuracy", "rationale_ratio", "token_ratio")},
        **{f"test_{name}": value for name, value in measured.items()},
        **_of_rationales(trial, result.model, found, data, dev_indices, device=device),
    )
    if trial.teacher_digest is None:
        return outcome
    dev = {name: array[dev_indices] for name, array in data.pool.arrays.items()}
    noise = rationale_noise(trial, device=device)
    mask, _ = masks_of(result.model, dev, device=device, sampled_by=noise)
    teacher_mask = supplies.targets(task, trial.teacher_digest).masks(dev_indices, sampled_by=noise)
    return replace(
        outcome,
        dev_teacher_overlap=overlap(mask, teacher_mask),
        dev_teacher_train_share=_teacher_train_share(trial.teacher_digest, data, dev_indices, supplies.store),
    )


def _of_rationales(
    trial: Trial,
    model: RationaleModel,
    found: Predictions,
    data: Data,
    dev_indices: np.ndarray,
    *,
    device: torch.device,
) -> dict[str, Any]:
    """Both ratios on both splits, agreement with the truth where it is known, and a warning; nothing for cls."""
    if trial.objective == "cls":
        return {}
    of_dev = predictions(model, DeviceSamples(data.pool, device, dev_indices))
    values: dict[str, Any] = {f"test_{name}_ratio": value for name, value in found.ratios.items()}
    values |= {f"dev_{name}_ratio": value for name, value in of_dev.ratios.items()}
    if data.test.truth is not None:
        values |= _agreement(model, found, data.test.truth)
    assert trial.p_target is not None  # `Trial` asks re and rekd for it
    if values["dev_argmax_ratio"] < NOTHING * trial.p_target:
        values["warning"] = (
            f"It selects (almost) nothing on dev: {values['dev_argmax_ratio']:.1%} of features by argmax, "
            f"{values['dev_expected_ratio']:.1%} when sampled, of {trial.p_target:.1%} aimed at."
        )
    return values


def _agreement(model: RationaleModel, found: Predictions, truth: Truth) -> dict[str, float]:
    """The measures of `rekd.tasks.truth` on the test split."""
    marks = truth.of_features(found.mask.shape[1], model.predictor.backbone.grid)[truth.known]
    mask = found.mask.bool().cpu().numpy()[truth.known]
    scores = found.selection_difference.cpu().numpy()[truth.known]
    values = agreement(mask, marks) | {"auprc": auprc(scores, marks)}
    return {f"test_rationale_{name}": value for name, value in values.items() if not math.isnan(value)}


def _teacher_train_share(teacher_digest: str, data: Data, dev_indices: np.ndarray, store: Store) -> float | None:
    """Share of the dev split that the teacher was trained on; None where the ledger does not know the teacher."""
    rows = Ledger(store).trials([teacher_digest]).select(["split", "seed"]).to_pylist()
    if not rows:
        return None
    teacher_train, _ = data.train_dev(rows[0]["split"], rows[0]["seed"])
    return float(np.isin(dev_indices, teacher_train).mean())


def _made_with(device: torch.device, commit: str) -> dict[str, str]:
    """The device and the versions that this process trains with."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("rekd", "torch", "transformers")]
    versions.append(f"python {platform.python_version()}")
    if commit:
        versions.append(f"commit {commit}")
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": ", ".join(versions),
    }


def _stamped(outcome: Outcome, made_with: Sequence[Mapping[str, str]]) -> Outcome:
    """The outcome with all that contributed to it, in order; a device or versions that stayed the same are named once."""
    named = {key: "; ".join(dict.fromkeys(each[key] for each in made_with)) for key in ("device", "versions")}
    return replace(outcome, **named, finished_at=datetime.now(UTC).isoformat(timespec="seconds"))
