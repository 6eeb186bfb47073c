"""Stores with results and models that nobody had to train: embedded tasks, real tokenizers, weights that are drawn wide."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rekd.method.models import RationaleModel
from rekd.running.auditor import judge_name
from rekd.store.files import Store
from rekd.store.ledger import Ledger, Outcome
from rekd.store.packed import pack
from rekd.tasks.task import Task, load_task
from rekd.tasks.texts import load_tokenizer
from rekd.trial import Trial

TEXT = "the scene was terrible and the music superb"
SHAPES = {
    "planted-reviews": {"input_ids": [32], "valid": [32]},
    "hidden-digits": {"image": [1, 48, 48]},
    "digits": {"image": [1, 8, 8]},
}


def drawn(task: Task, model: str, objective: str, *, seed: int = 0, num_classes: int | None = None) -> RationaleModel:
    """A model of a task's architecture that nobody trained."""
    config = {**(task.models[model].config or {}), "initializer_range": 0.6}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = RationaleModel.build(
            objective=objective, num_classes=num_classes or task.num_classes, dropout=0.1, config=config
        )
    return made.requires_grad_(False).eval()


def kept(store: Store, task: Task, trial: Trial, *, seed: int = 0) -> Path:
    """A drawn model in the place where a trial of the task keeps its own."""
    folder = Path(store.model_folder(trial.digest))
    details = {
        "trial": asdict(trial),
        "digest": trial.digest,
        "class_names": list(task.class_names or ()),
        "inputs": SHAPES[task.name],
    }
    tokenizer = load_tokenizer(task) if task.kind == "text" else None
    drawn(task, trial.model, trial.objective, seed=seed).save(folder, tokenizer=tokenizer, details=details)
    return folder


def judged(store: Store, task: Task) -> None:
    """Puts a judge of a task in its place that nobody had to train."""
    judge = drawn(task, task.teacher, "cls", seed=5)
    store.write(store.judge_file(judge_name(task)), pack(judge.state_dict(), {"judge": judge_name(task)}))


def row(**numbers: Any) -> Outcome:
    """What a trial came to; numbers that are not given are as good as any."""
    values = {"dev_loss": 0.5, "dev_accuracy": 0.9, "dev_rationale_ratio": 0.09, "test_accuracy": 0.8}
    values |= {
        "test_rationale_ratio": 0.09,
        "test_eraser_sufficiency": 0.05,
        "versions": "rekd 0.2.0, torch 2.13.0",
        "device": "cpu",
    }
    return Outcome(status="ok", **{**values, **numbers})


def ended(
    store: Store,
    task: Task,
    losses: Sequence[float],
    *,
    model: str,
    objective: str = "re",
    ratio: float = 0.09,
    **fields: Any,
) -> list[Trial]:
    """Trials that ended with these dev losses, a seed each."""
    trials = [task.trial(objective, model, seed=2026 + number, **fields) for number in range(len(losses))]
    for trial, loss in zip(trials, losses, strict=True):
        Ledger(store).write(trial, row(dev_loss=loss, dev_rationale_ratio=ratio), [])
    return trials


def reviews(folder: Path) -> tuple[Store, list[Path]]:
    """A store with a teacher, an RE and a REKD student of planted reviews, and the folders of the three models."""
    store, task = Store(folder), load_task("planted-reviews")
    (teacher,) = ended(store, task, [0.1], model="bert-teacher")
    plain = ended(store, task, [0.3, 0.4], model="bert-student")
    taught = ended(store, task, [0.2, 0.25], model="bert-student", objective="rekd", teacher_digest=teacher.digest)
    trials = [teacher, plain[0], taught[0]]
    return store, [kept(store, task, trial, seed=number) for number, trial in enumerate(trials)]


def digits(folder: Path) -> Path:
    """The folder of a model of hidden digits."""
    store, task = Store(folder), load_task("hidden-digits")
    (trial,) = ended(store, task, [0.3], model="vit-student")
    return kept(store, task, trial)


def picture(file: Path, *, side: int = 60) -> Path:
    """An image file in colour."""
    content = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    Image.fromarray(content.numpy()).save(file)
    return file


def changed(model: Path, **changes: Any) -> None:
    """Writes other values into a folder's config.json, whose checksum goes with them."""
    config = {**json.loads((model / "config.json").read_text()), **changes}
    config.pop("sha256", None)
    (model / "config.json").write_text(json.dumps(config))
