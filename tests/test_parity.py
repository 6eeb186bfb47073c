"""`--fidelity authors` computes what the authors' code computed, given its weights, batches and noise (`fixtures/parity`).

Ours is the whole loop: `train` with its step, evaluation and choice of the best epoch. Theirs are numbers on file.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from rekd.method.losses import Learner, step
from rekd.method.models import RationaleModel
from rekd.method.run_state import is_better
from rekd.method.samples import DeviceSamples
from rekd.method.streams import Streams
from rekd.method.teacher import Teacher, compute_targets
from rekd.method.train import TrainResult, _temperature, train
from rekd.tasks.data import Split
from rekd.trial import Trial

FIXTURES = Path(__file__).parent / "fixtures" / "parity"

NUM_TRAIN, NUM_DEV = 300, 90
EPOCHS, NUM_BATCHES = 35, 10  # of 32 samples, the last of 12
NUM_FEATURES = {"bert": 12, "vit": 16}
VOCABULARY = 40

_SHAPE = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_CONFIGS = {
    "bert": {"model_type": "bert", "vocab_size": VOCABULARY, "max_position_embeddings": 12, **_SHAPE},
    "vit": {"model_type": "vit", "image_size": 8, "patch_size": 2, "num_channels": 3, **_SHAPE},
}
_WIDTHS = {"student": 16, "teacher": 24}

LOSSES = {
    "select_loss": "selection_loss",
    "pred_loss": "prediction_loss",
    "kd_r": "rationale_distillation_loss",
    "kd_y": "prediction_distillation_loss",
}
"""Their names and ours."""


# --- The runs' inputs, drawn as they were for their code ------------------------------------------------------------


def rng_of(*key) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big"))


def noise(*key, shape: tuple[int, ...]) -> Tensor:
    uniform = rng_of(*key).uniform(1e-6, 1 - 1e-6, size=shape)
    return torch.from_numpy((-np.log(-np.log(uniform))).astype(np.float32))


@cache
def pool_of(family: str) -> Split:
    """Two classes: four pixels are bright or not, one word is there or another."""
    rng, number = rng_of("data", family), NUM_TRAIN + NUM_DEV
    labels = rng.integers(0, 2, number)
    if family == "vit":
        pixels = rng.integers(0, 120, (number, 3, 8, 8)).astype(np.uint8)
        pixels[labels == 1, :, 2:4, 2:4] = 250
        return Split({"image": pixels}, labels)
    length = NUM_FEATURES["bert"]
    ids = rng.integers(10, VOCABULARY, (number, length))
    lengths = rng.integers(5, length + 1, number)
    ids[np.arange(number), rng.integers(0, lengths)] = np.where(labels == 1, 7, 8)
    valid = np.arange(length) < lengths[:, None]
    arrays = {"input_ids": np.where(valid, ids, 0).astype(np.int32), "valid": valid.astype(np.uint8)}
    return Split(arrays, labels)


# --- Ours -----------------------------------------------------------------------------------------------------------


def trial_of(family: str, objective: str, **fields) -> Trial:
    """As their code ran: without augmentation, dropout and ImageNet's statistics, which have tests of their own."""
    values = {"epochs": EPOCHS, "weight_decay": 1e-3, "dropout": 0.0, "lambda_select": 1e-2, "temperature_every": 100}
    values |= {"augmentation": "none", "image_statistics": "pretrained"} | fields
    if objective == "cls":
        values = {name: value for name, value in values.items() if name not in ("lambda_select", "temperature_every")}
    return tiny.trial(objective, model=family, fidelity="authors", **values)


def model_of(family: str, who: str, trial: Trial) -> RationaleModel:
    width = _WIDTHS[who]
    model = RationaleModel.build(
        objective=trial.objective,
        num_classes=2,
        dropout=trial.dropout,
        heads=trial.heads,
        predictor_reads=trial.predictor_reads,
        config={**_CONFIGS[family], "hidden_size": width, "intermediate_size": 2 * width},
    )
    with np.load(FIXTURES / f"{family}-initial.npz") as file:
        names = [name for name, _ in model.named_parameters() if f"{who}/{name}" in file]
        model.load_state_dict({name: torch.from_numpy(file[f"{who}/{name}"]) for name in names}, strict=False)
    return model


class HeardTeacher(Teacher):
    """A teacher that remembers what it said last."""

    said: tuple[Tensor, Tensor]

    def __call__(self, *arguments) -> tuple[Tensor, Tensor]:
        self.said = super().__call__(*arguments)
        return self.said


def teacher_of(family: str, trial: Trial) -> HeardTeacher:
    """Of a ViT the whole teacher is asked in every step, of a BERT the predictor alone."""
    model = model_of(family, "teacher", trial)
    arrays = pool_of(family).arrays
    targets = compute_targets(model, arrays, tiny.ASKED, device=tiny.CPU)
    student_mask = trial.teacher_sees == "student_mask"
    return HeardTeacher(targets, model=model, student_mask=student_mask, augmented=family == "vit", device=tiny.CPU)


@dataclass
class Replay:
    """What `train` did: a dictionary a step, a record an epoch."""

    num_features: int
    steps: list[dict[str, float]] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    """By the names in the file: logits and masks of every step, weights after the first and the fifth."""
    records: list[dict[str, float]] = field(default_factory=list)
    result: TrainResult | None = None


def replay(monkeypatch, family: str, objective: str, *, epochs: int = EPOCHS, **fields) -> Replay:
    """Trains from their weights, with their batches and noise; of all `EPOCHS` so many, which the temperature knows."""
    trial, done = trial_of(family, objective, **fields), Replay(num_features=NUM_FEATURES[family])
    teacher = teacher_of(family, trial) if objective == "rekd" else None
    model, streams = model_of(family, "student", trial), Streams(trial.seed, kind=trial.random_streams, device=tiny.CPU)
    drawn: dict[str, Tensor] = {}

    def train_noise(shape, *, generator, device) -> Tensor:
        who = "t" if "s" in drawn else "s"  # in this order; `one_step` begins with none
        epoch, batch = divmod(len(done.steps), NUM_BATCHES)
        drawn[who] = noise("train", who, epoch + 1, batch, shape=tuple(shape))
        return drawn[who]

    def one_step(learner: Learner, batch, temperature) -> dict[str, Tensor]:
        drawn.clear()
        terms = step(learner, batch, temperature)
        done.steps.append({"tau": temperature, **{name: value.item() for name, value in terms.items()}})
        number = len(done.steps)
        if teacher is not None:
            done.tensors |= {
                f"step{number}_{name}": said.numpy() for name, said in zip(("zt", "qt"), teacher.said, strict=True)
            }
        if number in (1, 5):
            weights = {name: value.detach().clone().numpy() for name, value in model.named_parameters()}
            done.tensors |= {f"after{number}/{name}": value for name, value in weights.items()}
        return terms

    def remember(name: str):
        def hook(module, inputs, output) -> None:
            if module.training:
                done.tensors[f"step{len(done.steps) + 1}_{name}"] = output.detach().numpy()
                if name == "q" and len(inputs) > 1:
                    done.tensors[f"step{len(done.steps) + 1}_mask"] = inputs[1].detach().numpy()

        return hook

    for name, part in (("z", model.generator), ("q", model.predictor)):
        if part is not None:
            part.register_forward_hook(remember(name))
    orders = (torch.from_numpy(rng_of("order", epoch).permutation(NUM_TRAIN)) for epoch in range(1, EPOCHS + 1))
    monkeypatch.setattr(Streams, "order", lambda streams, number: next(orders))
    monkeypatch.setattr("rekd.method.train.step", one_step)
    monkeypatch.setattr("rekd.method.losses.gumbel_noise", train_noise)
    monkeypatch.setattr("rekd.method.models.gumbel_noise", lambda shape, **_: noise("dev", "s", shape=tuple(shape)))

    pool, rows = pool_of(family), np.arange(NUM_TRAIN + NUM_DEV)
    epochs_of = train(
        Learner.of(trial, model, streams=streams, teacher=teacher),
        train_samples=DeviceSamples(pool, tiny.CPU, rows[:NUM_TRAIN]),
        dev_samples=DeviceSamples(pool, tiny.CPU, rows[NUM_TRAIN:]),
    )
    if epochs < EPOCHS:
        done.records = list(islice(epochs_of, epochs))
    else:
        run = tiny.collected(epochs_of, model)
        done.records, done.result = run.records, run.result
    return done


# --- The comparison -------------------------------------------------------------------------------------------------


def numbers_of(family: str, objective: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{family}-{objective}.npz") as file:
        return dict(file)


def check_steps(done: Replay, theirs: dict[str, np.ndarray], *, atol: float) -> None:
    """Every loss and temperature of the steps that were taken, and the logits, masks and weights that are on file."""
    num_steps = len(done.steps)
    for name, ours in {**LOSSES, "tau": "tau"}.items():
        if done.steps[0].get(ours) is not None:
            mine = [one[ours] for one in done.steps]
            np.testing.assert_allclose(mine, theirs[f"train_{name}"][:num_steps], rtol=atol, atol=atol, err_msg=name)
    for name, values in theirs.items():
        kind, _, what = name.replace("/", "_", 1).partition("_")
        is_noise = what.endswith(("k_proj.bias", "key.bias"))  # its true gradient is 0: softmax does not see it
        if not kind.startswith(("step", "after")) or int(kind.lstrip("stepafr")) > num_steps or is_noise:
            continue
        mine = done.tensors[name]
        if what in (
            "z",
            "zt",
            "q",
            "qt",
        ):  # what all logits have in common a softmax does not see: its gradient is noise
            mine, values = (logits - logits.mean(axis=-1, keepdims=True) for logits in (mine, values))
        np.testing.assert_allclose(mine, values, rtol=0, atol=atol, err_msg=name)


def check_dev(done: Replay, theirs: dict[str, np.ndarray], *, atol: float) -> None:
    """Means over their batches of dev (three an epoch), and what their log says of it (3 decimals; cls: all)."""
    num_epochs = len(done.records)
    for name, ours in LOSSES.items():
        if f"dev_{ours}" in done.records[0]:
            batches = theirs[f"dev_{name}"].reshape(EPOCHS, 3)[:num_epochs]
            mine = [record[f"dev_{ours}"] for record in done.records]
            np.testing.assert_allclose(mine, batches.mean(axis=1), rtol=atol, atol=atol, err_msg=name)
    logged = {
        "pred_loss": "prediction_loss",
        "select_loss": "selection_loss",
        "re_loss": "loss",
        "accuracy": "accuracy",
    }
    for name, ours in logged.items():
        if f"epoch_dev_{name}" in theirs:
            mine = [record[f"dev_{ours}"] for record in done.records]
            np.testing.assert_allclose(mine, theirs[f"epoch_dev_{name}"][:num_epochs], atol=5e-4 + atol, err_msg=name)
    if "epoch_dev_select" in theirs:
        mine = [record["dev_rationale_ratio"] * done.num_features for record in done.records]
        np.testing.assert_allclose(mine, theirs["epoch_dev_select"][:num_epochs], atol=5e-4 + atol)
    else:
        mine = [record["dev_loss"] for record in done.records]
        np.testing.assert_allclose(mine, theirs["epoch_dev_loss"][:num_epochs], rtol=atol, atol=atol)


@pytest.mark.parametrize(
    ("family", "objective", "epochs", "atol"),
    [
        ("vit", "cls", 3, 1e-5),
        ("vit", "re", 3, 1e-5),
        ("vit", "rekd", 11, 1e-5),
        ("bert", "cls", 3, 1e-5),
        ("bert", "re", 3, 1e-5),
        ("bert", "rekd", 10, 2e-5),
        pytest.param("vit", "cls", EPOCHS, 1e-5, marks=pytest.mark.slow),
        pytest.param("vit", "rekd", EPOCHS, 1e-5, marks=pytest.mark.slow),
        pytest.param("bert", "cls", EPOCHS, 1e-5, marks=pytest.mark.slow),
    ],
)
def test_losses_masks_weights_and_dev_are_those_of_the_authors_code(family, objective, epochs, atol, monkeypatch):
    done, theirs = replay(monkeypatch, family, objective, epochs=epochs), numbers_of(family, objective)
    check_steps(done, theirs, atol=atol)
    check_dev(done, theirs, atol=atol)
    if done.result is not None:
        assert done.result.best_epoch == theirs["best_epoch"]


@pytest.mark.parametrize(
    ("point", "paper", "family"),
    [
        ("heads", "linear", "vit"),
        ("predictor_reads", "pooler", "bert"),
        ("selection_loss_form", "per_sample", "vit"),
        ("teacher_sees", "teacher_mask", "vit"),
        ("evaluation_mask", "argmax", "vit"),
        ("dev_means", "over_samples", "vit"),
    ],
)
def test_no_point_of_the_preset_could_be_left_out(point, paper, family, monkeypatch):
    """With one of them as the paper has it, an epoch is another."""
    done, theirs = replay(monkeypatch, family, "rekd", epochs=1, **{point: paper}), numbers_of(family, "rekd")
    is_of_dev = point in ("evaluation_mask", "dev_means")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        (check_dev if is_of_dev else check_steps)(done, theirs, atol=1e-3)
    if is_of_dev:
        check_steps(done, theirs, atol=1e-5)


@pytest.mark.parametrize("family", ["vit", "bert"])
@pytest.mark.parametrize("objective", ["re", "rekd"])
def test_the_temperature_of_all_steps_is_theirs(family, objective):
    theirs = numbers_of(family, objective)["train_tau"]
    for temperature_step, is_theirs in (("from_1", True), ("from_0", False)):
        trial = trial_of(family, objective, temperature_step=temperature_step)
        ours = [_temperature(trial, number, len(theirs)) for number in range(len(theirs))]
        assert (ours == pytest.approx(theirs, rel=1e-12)) == is_theirs
        differing = (np.flatnonzero(~np.isclose(np.array(ours, float), theirs)) + 1).tolist()
        assert differing == ([] if is_theirs else [100, 200, 300])


@pytest.mark.parametrize("family", ["vit", "bert"])
@pytest.mark.parametrize("objective", ["cls", "re", "rekd"])
def test_of_their_dev_losses_the_best_epoch_is_theirs(family, objective):
    theirs = numbers_of(family, objective)
    losses = theirs["dev_pred_loss"]
    if objective != "cls":
        losses = losses + 1e-2 * theirs["dev_select_loss"]
    best, epoch = None, 0
    for number, loss in enumerate(losses.reshape(EPOCHS, 3).mean(axis=1).tolist(), 1):
        if is_better(loss, best, rule="logged_latest", objective=objective):
            best, epoch = loss, number
    assert epoch == theirs["best_epoch"]
