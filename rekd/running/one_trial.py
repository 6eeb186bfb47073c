"""One trial, from its supplies to its row in the ledger."""

import importlib.metadata
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rekd.method.evaluate import evaluate, faithfulness, masks_of, overlap
from rekd.method.losses import Learner
from rekd.method.models import RationaleModel
from rekd.method.samples import DeviceSamples
from rekd.method.streams import Streams
from rekd.method.teacher import Teacher
from rekd.method.train import TrainResult, one_thread, train
from rekd.running.shown import write_rationales
from rekd.running.supplies import Supplies
from rekd.store.checkpoints import Checkpoints
from rekd.store.files import Store, StoreUnavailableError
from rekd.store.ledger import Ledger, Outcome
from rekd.tasks.data import Data
from rekd.tasks.task import Task
from rekd.tasks.texts import load_tokenizer
from rekd.trial import Trial, canonical_json


def run_trial(
    trial: Trial, *, task: Task, store: Store, supplies: Supplies, commit: str = ""
) -> Iterator[dict[str, Any]]:
    """Trains a trial, tests its best version, keeps the model and writes the ledger. Yields one record an epoch.

    Whatever stopped an earlier attempt, it goes on from the newest checkpoint in the store. An error becomes a row with
    status `failed`, which the next sweep that asks for the trial runs again; a store that fails for long is raised.
    """
    ledger = Ledger(store)
    checkpoints = Checkpoints(store, trial.digest)
    device = supplies.device
    store.write(store.running_trial_file(trial.digest), canonical_json(asdict(trial)).encode())
    try:
        with one_thread(device):
            data = supplies.data(task)
            splits = data.train_dev(trial.split, trial.seed)
            streams = Streams(trial.seed, kind=trial.random_streams, device=device)
            model = build_model(trial, task, data, streams).to(device)
            teacher = _teacher(trial, task, supplies, num_features=model.num_features(data.pool.arrays))
            result = yield from train(
                Learner.of(trial, model, streams=streams, teacher=teacher),
                train_samples=DeviceSamples(data.pool, device, splits[0]),
                dev_samples=DeviceSamples(data.pool, device, splits[1]),
                checkpoints=checkpoints,
            )
            outcome = _tested(trial, task, result, data, splits[1], streams, supplies)
            if not result.diverged:
                keep_model(trial, task, result.model, data, store)
                write_rationales(store, trial, task, result.model, data, device=device)
    except StoreUnavailableError:  # no fault of the trial: it goes on from its checkpoint when the store is back
        raise
    except Exception as error:
        ledger.write(trial, _stamped(Outcome(status="failed", error=describe(error)), device, commit))
        return
    ledger.write(trial, _stamped(outcome, device, commit), result.records)
    checkpoints.clear()


def check_trial(trial: Trial, *, task: Task, supplies: Supplies) -> None:
    """Raises ValueError, and writes nothing, where data, model or teacher are not what the trial needs."""
    build_model(trial, task, supplies.data(task), Streams(0, device=torch.device("cpu")))
    store, teacher = supplies.store, trial.teacher_digest
    if teacher is not None and not store.names_in(store.model_folder(teacher)):
        raise ValueError(
            f"The store {store} has no model of a trial {teacher}. Train it first, or choose another teacher."
        )


def build_model(trial: Trial, task: Task, data: Data, streams: Streams) -> RationaleModel:
    """The untrained model of a trial. Raises ValueError where the backbone cannot read the task's samples."""
    reference = task.models[trial.model]
    with streams.initialising():
        model = RationaleModel.build(
            objective=trial.objective,
            num_classes=data.num_classes,
            dropout=trial.dropout,
            heads=trial.heads,
            precision=trial.precision,
            source=reference.source,
            config=reference.config,
            revision=reference.revision,
        )
    model.predictor.backbone.check(data.pool.arrays)
    return model


def keep_model(trial: Trial, task: Task, model: RationaleModel, data: Data, store: Store) -> None:
    """Puts a trained model into the store as a folder; config.json comes last, so that who sees it sees the weights."""
    tokenizer = load_tokenizer(task) if task.kind == "text" else None
    shapes = {name: list(array.shape[1:]) for name, array in data.test.arrays.items()}
    details = {"trial": asdict(trial), "digest": trial.digest, "class_names": data.class_names, "inputs": shapes}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model.save(folder, tokenizer=tokenizer, details=details)
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
    test = evaluate(result.model, DeviceSamples(data.test, device), trial, streams=streams)
    outcome = replace(
        outcome,
        num_features=result.model.num_features(data.test.arrays),
        **{f"dev_{name}": best[f"dev_{name}"] for name in ("loss", "accuracy", "rationale_ratio", "token_ratio")},
        **{f"test_{name}": test[name] for name in ("loss", "accuracy", "rationale_ratio", "token_ratio")},
        **{
            f"test_{name}": value for name, value in faithfulness(result.model, data.test.arrays, device=device).items()
        },
    )
    if trial.teacher_digest is None:
        return outcome
    dev = {name: array[dev_indices] for name, array in data.pool.arrays.items()}
    teacher_mask = supplies.targets(task, trial.teacher_digest).selection_difference[dev_indices] > 0
    return replace(
        outcome,
        dev_teacher_overlap=overlap(masks_of(result.model, dev, device=device)[0], teacher_mask),
        dev_teacher_train_share=_teacher_train_share(trial.teacher_digest, data, dev_indices, supplies.store),
    )


def _teacher_train_share(teacher_digest: str, data: Data, dev_indices: np.ndarray, store: Store) -> float | None:
    """Share of the dev split that the teacher was trained on; None where the ledger does not know the teacher."""
    rows = Ledger(store).trials([teacher_digest]).select(["split", "seed"]).to_pylist()
    if not rows:
        return None
    teacher_train, _ = data.train_dev(rows[0]["split"], rows[0]["seed"])
    return float(np.isin(dev_indices, teacher_train).mean())


def _stamped(outcome: Outcome, device: torch.device, commit: str) -> Outcome:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("rekd", "torch", "transformers")]
    versions.append(f"python {platform.python_version()}")
    if commit:
        versions.append(f"commit {commit}")
    return replace(
        outcome,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=", ".join(versions),
    )
