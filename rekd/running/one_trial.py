"""One trial, from its supplies to its row in the ledger."""

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import torch

from rekd.cluster.own_folder import OwnFolder
from rekd.method.losses import Learner
from rekd.method.models import RationaleModel, SaliencyGenerator
from rekd.method.pretrained import is_out_of_memory
from rekd.method.samples import DeviceSamples
from rekd.method.streams import Streams
from rekd.method.train import one_thread, train
from rekd.running.examine import Examination
from rekd.running.shown import write_rationales
from rekd.running.supplies import Supplies
from rekd.running.teaching import teacher_of
from rekd.store.checkpoints import Checkpoints, CheckpointWriter
from rekd.store.files import Store, StoreUnavailableError
from rekd.store.ledger import Ledger, Outcome
from rekd.tasks.commits import as_text, commits, pinned
from rekd.tasks.data import Data, remarks_on
from rekd.tasks.task import Task
from rekd.tasks.texts import load_tokenizer
from rekd.trial import Trial, canonical_json


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
            task = pinned(task.seen_by(trial.model), [trial.model])
            data = supplies.data(task)
            splits = data.train_dev(trial.split, trial.seed)
            streams = Streams(trial.seed, kind=trial.random_streams, device=device)
            model = build_model(trial, task, data, streams).to(device)
            if isinstance(model.generator, SaliencyGenerator) and trial.teacher_digest is not None:
                model.generator.take(supplies.teacher(trial.teacher_digest))
            teacher = teacher_of(trial, task, supplies, model)
            result = yield from train(
                Learner.of(trial, model, streams=streams, teacher=teacher),
                train_samples=DeviceSamples(data.pool, device, splits[0]),
                dev_samples=DeviceSamples(data.pool, device, splits[1]),
                writer=writer,
                made_with=made_with,
            )
            outcome = Examination(trial, task, data, splits[1], streams, supplies).outcome(result)
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
    task = task.seen_by(trial.model)
    data = supplies.data(task)
    check_model(trial, task, data)
    store = supplies.store
    for teacher in trial.teachers:
        if not store.names_in(store.model_folder(teacher)):
            raise ValueError(
                f"The store {store} has no model of a trial {teacher}. Train it first (after `python -m rekd redo {store} "
                f"{teacher}`, where it has a result), or choose another teacher."
            )
    return remarks_on(data, task, trial)


def check_model(trial: Trial, task: Task, data: Data) -> None:
    """Raises ValueError where a trial's model cannot read the task's samples, or could not be loaded once it is saved.

    A model that does not fit into the memory of who checks is not looked at: that of a worker may be larger.
    """
    try:
        build_model(trial, task, data, Streams(0, device=torch.device("cpu"))).check_saving()
    except Exception as error:
        if not is_out_of_memory(error):
            raise


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
            budget=trial.budget,
            encoder=trial.encoder or "own",
            selects_by="saliency" if trial.estimator == "saliency" else "logits",
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
    with OwnFolder() as folder:
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
    if is_out_of_memory(error):
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
