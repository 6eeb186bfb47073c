"""Audits the rationales of a task's finished trials, each against the task's judge, which is trained once."""

import json
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from rekd.method.audit import Auditor
from rekd.method.evaluate import tested
from rekd.method.judge import JUDGE_PATIENCE, JUDGE_SEED, train_judge
from rekd.method.models import RationaleModel, load_model
from rekd.method.samples import DeviceSamples
from rekd.method.streams import Streams
from rekd.method.train import one_thread
from rekd.running.one_trial import build_model
from rekd.running.supplies import Supplies
from rekd.store.audits import Audit, Audits
from rekd.store.files import DamagedFileError
from rekd.store.ledger import Ledger
from rekd.store.packed import pack, unpack
from rekd.store.predictions import StoredPredictions
from rekd.tasks.task import Task
from rekd.tasks.truth import Truth, agreement
from rekd.trial import Trial, digest_of


def audit_task(
    task: Task, supplies: Supplies, *, again: bool = False, only: Collection[str] | None = None
) -> Iterator[tuple[Trial, Audit]]:
    """Audits the RE and REKD trials of a task that have ended well, one after the other, and keeps what is found.

    Of these `only` names some by their digests; None asks for all of them.

    Those that were audited before by this judge are left out, but `again`. It needs their rationales of the test split,
    from the store or else from their model. Trials with neither are left out, and those of models that select among other
    features than the judge reads.
    """
    store = supplies.store
    with one_thread(supplies.device):
        data = supplies.data(task)
        name = judge_name(task)
        known = set() if again else {row["digest"] for row in Audits(store).read().to_pylist() if row["judge"] == name}
        rows = [
            row
            for row in Ledger(store).trials().to_pylist()
            if _is_asked(row, task) and row["digest"] not in known and (only is None or row["digest"] in only)
        ]
        if not rows:
            return
        _, dev = data.train_dev("fixed", JUDGE_SEED)
        test = DeviceSamples(data.test, supplies.device)
        auditor = Auditor(judge_of(task, supplies), DeviceSamples(data.pool, supplies.device, dev), test)
        for row in rows:
            trial = Trial.from_record(json.loads(row["config"]))
            model = model_of(supplies, trial)
            predicted = predicted_of(supplies, trial, model, test)
            if predicted is not None and predicted.mask.shape[1] == auditor.judge.num_features(data.test.arrays):
                truth = data.test.truth
                found = auditor.audit(predicted.mask, model) | agreement_of(auditor.judge, truth, predicted.mask)
                audit = Audit(judge=name, **found)
                Audits(store).write(trial.digest, audit)
                yield trial, audit


def judge_name(task: Task) -> str:
    """What names the judge of a task: what it is trained on, how, and how long."""
    return digest_of({"cls": _as_classifier(task).digest, "patience": JUDGE_PATIENCE})


def judge_remark(task: Task, supplies: Supplies) -> Iterator[str]:
    """A sentence where the judge of a task is still to be trained."""
    if not supplies.store.exists(supplies.store.judge_file(judge_name(task))):
        times = f"{JUDGE_PATIENCE} times as long as a classifier of {task.teacher}"
        yield f"The judge of {task.name} is trained first, once, {times}."


def judge_of(task: Task, supplies: Supplies) -> RationaleModel:
    """The judge of a task, from the store, or trained now and stored: a classifier of the teacher's architecture."""
    trial, data, store = _as_classifier(task), supplies.data(task), supplies.store
    streams = Streams(trial.seed, device=supplies.device)
    model = build_model(trial, task, data, streams).to(supplies.device)
    path = store.judge_file(judge_name(task))
    if store.exists(path):
        content = store.read(path)
        try:
            model.load_state_dict(unpack(content)[0])
        except (DamagedFileError, RuntimeError) as error:
            store.set_aside(path, content, f"is damaged ({error}); the judge is trained again")
        else:
            return model.requires_grad_(False).eval()
    train, _ = data.train_dev("fixed", JUDGE_SEED)
    judge = train_judge(model, DeviceSamples(data.pool, supplies.device, train), trial, streams)
    store.write(path, pack(judge.state_dict(), {"judge": judge_name(task)}))
    return judge


def _as_classifier(task: Task) -> Trial:
    return task.trial("cls", task.teacher, seed=JUDGE_SEED)


def _is_asked(row: dict[str, Any], task: Task) -> bool:
    return row["status"] == "ok" and row["objective"] != "cls" and row["task_digest"] == task.digest


def model_of(supplies: Supplies, trial: Trial) -> RationaleModel | None:
    """A trial's model; None where it was not kept."""
    try:
        return load_model(supplies.store, trial.digest).to(supplies.device)
    except ValueError:
        return None


def predicted_of(
    supplies: Supplies, trial: Trial, model: RationaleModel | None, test: DeviceSamples
) -> StoredPredictions | None:
    """What the trial said of the test split; of a trial from before this was kept, what its model says now."""
    kept = StoredPredictions.load(supplies.store, trial.digest)
    if kept is None and model is not None:
        streams = Streams(trial.seed, kind=trial.random_streams, device=supplies.device)
        kept = tested(model, test, trial, streams=streams).kept()
        kept.save(supplies.store, trial.digest)
    return kept


def agreement_of(judge: RationaleModel, truth: Truth | None, mask: np.ndarray) -> dict[str, float]:
    """How rationales of the test split agree with the truth, by the columns of audits; nothing where it is not known."""
    if truth is None:
        return {}
    marks = truth.of_features(mask.shape[1], judge.predictor.backbone.grid)
    return {f"rationale_{name}": value for name, value in agreement(mask[truth.known], marks[truth.known]).items()}
