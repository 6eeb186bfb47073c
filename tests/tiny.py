"""Models, samples and trials small enough to train in a blink, of the same classes as the large ones."""

from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rekd.method.backbones import BACKBONES, PatchBackbone
from rekd.method.losses import Learner
from rekd.method.models import RationaleModel
from rekd.method.samples import DeviceSamples
from rekd.method.streams import Streams
from rekd.method.teacher import Question, Targets, Teacher, compute_targets
from rekd.method.train import TrainResult, train
from rekd.store.checkpoints import Checkpoints, CheckpointWriter
from rekd.tasks.data import Split
from rekd.trial import FIDELITY, Trial

CPU = torch.device("cpu")

VOCABULARY = 40
MAX_LENGTH = 12

_SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_TEXT = {"vocab_size": VOCABULARY, **_SHAPE}
_IMAGE = {"image_size": 4, "patch_size": 1, "num_channels": 1, **_SHAPE}

CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {"model_type": "vit", **_IMAGE},
    "deit": {"model_type": "deit", **_IMAGE},
    # Its layers' width follows from mlp_ratio; what the library begins a layer's scale with is 1.
    "dinov2": {"model_type": "dinov2", **_IMAGE, "mlp_ratio": 2},
    # One stage, which makes a cell of 4 x 4 pixels.
    "resnet": {
        "model_type": "resnet",
        "image_size": 16,
        "num_channels": 1,
        "embedding_size": 16,
        "hidden_sizes": [16],
        "depths": [2],
        "layer_type": "basic",
    },
    "convnext": {
        "model_type": "convnext",
        "image_size": 8,
        "patch_size": 1,
        "num_channels": 1,
        "num_stages": 2,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_scale_init_value": 1.0,
    },
    "bert": {"model_type": "bert", "max_position_embeddings": MAX_LENGTH, **_TEXT},
    # Its positions start after the padding index.
    "roberta": {"model_type": "roberta", "max_position_embeddings": MAX_LENGTH + 2, "pad_token_id": 1, **_TEXT},
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": VOCABULARY,
        "max_position_embeddings": MAX_LENGTH,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 32,
    },
    # Its embeddings are narrower than its layers, as ELECTRA's usually are.
    "electra": {"model_type": "electra", "embedding_size": 8, "max_position_embeddings": MAX_LENGTH, **_TEXT},
    # Its layers share their weights.
    "albert": {"model_type": "albert", "embedding_size": 8, "max_position_embeddings": MAX_LENGTH, **_TEXT},
    # Every third layer sees the whole text, the others a window: here of one token to each side.
    "modernbert": {
        "model_type": "modernbert",
        "max_position_embeddings": MAX_LENGTH,
        "local_attention": 2,
        "pad_token_id": 0,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **_TEXT,
    },
}
"""A configuration a family: 2 layers, 16 wide; images of 4 x 4 cells, of one pixel but in convolutional networks; texts of
up to 12 tokens."""

FAMILIES = tuple(CONFIGS)
IMAGE_FAMILIES = tuple(family for family in FAMILIES if BACKBONES[family].kind == "image")
PATCH_FAMILIES = tuple(family for family in IMAGE_FAMILIES if issubclass(BACKBONES[family], PatchBackbone))
TEXT_FAMILIES = tuple(family for family in FAMILIES if BACKBONES[family].kind == "text")

ASKED = Question(teacher_digest="teacher", teacher_sha256="weights", data_fingerprint="toy")
"""What a teacher of a toy problem is asked."""


def build(
    family: str,
    objective: str = "re",
    *,
    seed: int = 0,
    heads: str = "linear",
    predictor_reads: str = "pooler",
    num_classes: int = 3,
    budget: float | None = None,
    encoder: str = "own",
    selects_by: str = "logits",
    **config: Any,
) -> RationaleModel:
    """A freshly drawn model. Its weights are spread wide, so that every part shows in the output."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RationaleModel.build(
            objective=objective,
            num_classes=num_classes,
            dropout=0.1,
            heads=heads,
            predictor_reads=predictor_reads,
            budget=budget,
            encoder=encoder,
            selects_by=selects_by,
            config={**CONFIGS[family], "initializer_range": 0.3, **config},
        )
    return model.eval()


def tensors(family: str, num_samples: int = 4, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of random content; texts are of different lengths, the longest of which is full."""
    generator = torch.Generator().manual_seed(seed)
    if BACKBONES[family].kind == "image":
        side = CONFIGS[family]["image_size"]
        return {"image": torch.randint(0, 256, (num_samples, 1, side, side), dtype=torch.uint8, generator=generator)}
    length = 8
    ids = torch.randint(3, VOCABULARY, (num_samples, length), dtype=torch.int32, generator=generator)
    lengths = torch.arange(length, length - num_samples, -1).clamp(min=2)
    valid = (torch.arange(length)[None, :] < lengths[:, None]).to(torch.uint8)
    padding = 1 if family == "roberta" else 0
    return {"input_ids": torch.where(valid.bool(), ids, padding), "valid": valid}


def images(num_samples: int = 128, *, seed: int = 0) -> Split:
    """Two classes that two of the sixteen pixels tell apart: pixel 5 is bright, or pixel 10 is. The others are noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, num_samples)
    pixels = rng.integers(0, 100, (num_samples, 16))
    pixels[np.arange(num_samples), np.where(labels == 1, 5, 10)] = 255
    return Split({"image": pixels.reshape(-1, 1, 4, 4).astype(np.uint8)}, labels)


def texts(num_samples: int = 128, *, seed: int = 0) -> Split:
    """Two classes that one word tells apart, 7 or 8, somewhere among others; between 4 and 8 tokens."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, num_samples)
    ids = rng.integers(10, VOCABULARY, (num_samples, 8))
    lengths = rng.integers(4, 9, num_samples)
    ids[np.arange(num_samples), rng.integers(0, lengths)] = np.where(labels == 1, 7, 8)
    valid = np.arange(8)[None, :] < lengths[:, None]
    arrays = {"input_ids": np.where(valid, ids, 0).astype(np.int32), "valid": valid.astype(np.uint8)}
    return Split(arrays, labels)


SAMPLES = {"vit": images, "bert": texts}


def trial(objective: str = "re", *, fidelity: str = "paper", **fields: Any) -> Trial:
    """A trial of the toy problem; further fields as in `Trial`."""
    values: dict[str, Any] = {
        "task": "toy",
        "task_digest": "0",
        "model": "vit",
        "model_digest": "0",
        "seed": 3,
        "epochs": 3,
        "learning_rate": 1e-3,
        "dropout": 0.1,
    }
    if objective != "cls":
        values |= {
            "p_target": 0.15,
            "lambda_select": 0.1,
            "temperature_initial": 5.0,
            "temperature_final": 0.1,
            "temperature_every": 1,
        }
    if objective == "rekd":
        values |= {"alpha": 0.3, "lambda_rationale": 0.5, "teacher_digest": "teacher"}
    return Trial(objective=objective, **{**values, **FIDELITY[fidelity], **fields})


def model_for(trial: Trial, streams: Streams) -> RationaleModel:
    """The untrained model of a trial of two classes; `trial.model` is a family."""
    with streams.initialising():
        return RationaleModel.build(
            objective=trial.objective,
            num_classes=2,
            dropout=trial.dropout,
            heads=trial.heads,
            predictor_reads=trial.predictor_reads,
            head_initialisation=trial.head_initialisation,
            image_statistics=trial.image_statistics,
            budget=trial.budget,
            encoder=trial.encoder or "own",
            selects_by="saliency" if trial.estimator == "saliency" else "logits",
            config=CONFIGS[trial.model],
        )


@dataclass
class Run:
    """A run, whole or as far as it came."""

    records: list[dict[str, Any]]
    result: TrainResult | None
    model: RationaleModel

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """The records without what may differ between two runs of one trial: the clock, and how often it was started."""
        return [
            {name: value for name, value in record.items() if name not in ("seconds", "attempt")}
            for record in self.records
        ]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()


def begun(
    trial: Trial,
    *,
    pool: Split | None = None,
    teacher: Teacher | None = None,
    writer: CheckpointWriter | None = None,
) -> tuple[Generator[dict[str, Any], None, TrainResult], RationaleModel]:
    """A call of `train` on three quarters of a pool that has not taken a step yet, and its model."""
    pool = pool or SAMPLES[trial.model]()
    streams = Streams(trial.seed, kind=trial.random_streams, device=CPU)
    model = model_for(trial, streams)
    rows = np.arange(len(pool))
    steps = train(
        Learner.of(trial, model, streams=streams, teacher=teacher),
        train_samples=DeviceSamples(pool, CPU, rows[rows % 4 != 0]),
        dev_samples=DeviceSamples(pool, CPU, rows[rows % 4 == 0]),
        writer=writer,
    )
    return steps, model


def run(
    trial: Trial,
    *,
    stop_after: int | None = None,
    lean: float | None = None,
    checkpoints: Checkpoints | None = None,
    every: float = 0.0,
    **options: Any,
) -> Run:
    """Trains; `stop_after` epochs the run is dropped, as if its process had died after the last checkpoint was written.

    Further options as in `begun`, `every` as in `CheckpointWriter`.

    With `lean` the generator begins with that much in favour of selecting every feature.
    """
    with nullcontext() if checkpoints is None else CheckpointWriter(checkpoints, every=every) as writer:
        steps, model = begun(trial, writer=writer, **options)
        if lean is not None:
            with torch.no_grad():
                model.generator.head[1].bias[1] = lean
        return collected(steps, model, stop_after=stop_after)


def collected(
    steps: Generator[dict[str, Any], None, TrainResult], model: RationaleModel, *, stop_after: int | None = None
) -> Run:
    """All that a call of `train` yields and returns."""
    records: list[dict[str, Any]] = []
    while True:
        try:
            records.append(next(steps))
        except StopIteration as end:
            return Run(records, end.value, model)
        if len(records) == stop_after:
            steps.close()
            return Run(records, None, model)


@dataclass
class MadeTeacher:
    """A teacher of a toy problem and what it says of the pool."""

    model: RationaleModel
    targets: Targets

    def for_training(self, **options: Any) -> Teacher:
        return Teacher(self.targets, device=CPU, **options)


def made_teacher(family: str) -> MadeTeacher:
    """An RE model of two classes with opinions of its own: it selects other features of other samples."""
    model = build(family, num_classes=2, seed=7).requires_grad_(False)
    targets = compute_targets(model, SAMPLES[family]().arrays, ASKED, device=CPU)
    return MadeTeacher(model, targets)


def same_tensors(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Bitwise, NaN included."""
    return left.keys() == right.keys() and all(
        torch.equal(
            left[name].contiguous().view(-1).view(torch.uint8), right[name].contiguous().view(-1).view(torch.uint8)
        )
        for name in left
    )
