"""A ledger of made-up trials in the shape of the paper's: small, quick, and the same every time."""

import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rekd.store.files import Store
from rekd.store.ledger import Ledger, Outcome
from rekd.trial import Trial

SEEDS = (2026, 2027, 2028)
LAMBDAS = (1e-3, 1e-2, 5e-2)
ALPHAS = (0.0, 0.3, 0.7)
P_TARGETS = (0.05, 0.35, 0.75)
CAPACITY = {"vit-base": 0.0, "vit-small": 0.5, "vit-tiny": 1.0}
"""How much a model suffers from a small ratio: 0 hardly, 1 a lot."""
BEST_LAMBDA = 1e-2
BEST_ALPHA = 0.3


def trial(**changes: object) -> Trial:
    """An RE trial of ViT Tiny on CIFAR-10, with changes; fields that an objective does not use are left out."""
    objective = changes.get("objective", "re")
    values: dict[str, object] = {
        "task": "cifar10",
        "task_digest": "t" * 16,
        "model": "vit-tiny",
        "model_digest": "m" * 16,
        "objective": objective,
        "seed": 2026,
        "epochs": 5,
    }
    if objective != "cls":
        values |= {"p_target": 0.15, "lambda_select": BEST_LAMBDA}
        values |= {"temperature_initial": 5.0, "temperature_final": 0.1, "temperature_every": 100}
    if objective == "rekd":
        values |= {"alpha": BEST_ALPHA, "lambda_rationale": 0.5, "teacher_digest": "0" * 16}
    return Trial(**{**values, **changes})  # pyright: ignore[reportArgumentType]


def outcome(made: Trial) -> Outcome:
    """What the made-up trial came to, from its setting and its seed alone."""
    noise = np.random.default_rng([made.seed, len(made.model)]).normal(scale=0.01)
    weakness = CAPACITY.get(made.model, 0.5)
    drop = {"cls": 0.0, "re": 0.15, "rekd": 0.03}[made.objective] * weakness
    accuracy = 0.98 - drop - 0.1 * drop * (1 - (made.p_target or 1)) + noise
    loss = 0.1 + drop + abs(noise)
    ratio = 1.0
    if made.p_target is not None and made.lambda_select is not None:
        loss += 0.05 * abs(math.log10(made.lambda_select / BEST_LAMBDA))
        ratio = made.p_target + noise / 10 + (0.03 if made.lambda_select < BEST_LAMBDA / 5 else 0.0)
    if made.alpha is not None:
        loss += 0.02 * abs(made.alpha - BEST_ALPHA)
    return Outcome(
        status="ok",
        best_epoch=made.epochs,
        num_epochs=made.epochs,
        num_features=196,
        num_parameters=5_700_000,
        dev_loss=loss,
        dev_accuracy=accuracy,
        dev_rationale_ratio=ratio,
        dev_token_ratio=ratio,
        test_loss=loss,
        test_accuracy=accuracy - 0.005,
        test_rationale_ratio=ratio,
        test_token_ratio=ratio,
        train_seconds=60.0 + made.seed % 10,
        device="cpu",
        finished_at=f"2026-05-01T00:00:{made.seed % 60:02d}+00:00",
        versions="rekd 0.1.0, torch 2.13.0, transformers 5.20.0, commit 0123abc",
    )


def epochs(made: Trial, ended: Outcome) -> list[dict[str, float | int]]:
    """One record an epoch: a loss that falls to the outcome's, and the temperature of Eq. 10."""
    records: list[dict[str, float | int]] = []
    for epoch in range(1, made.epochs + 1):
        left = (made.epochs - epoch) / made.epochs
        record: dict[str, float | int] = {"attempt": 1, "epoch": epoch, "step": epoch * 1250, "seconds": 12.0}
        record |= {"train_loss": (ended.dev_loss or 0.5) * (1 + left), "dev_loss": (ended.dev_loss or 0.5) + left}
        record |= {"dev_accuracy": (ended.dev_accuracy or 0.5) - left / 4}
        if made.temperature_initial is not None and made.temperature_final is not None:
            record["temperature"] = made.temperature_initial * (made.temperature_final / made.temperature_initial) ** (
                epoch / made.epochs
            )
            record["dev_rationale_ratio"] = (ended.dev_rationale_ratio or 0.15) + left / 10
        records.append(record)
    return records


def paper_trials(seeds: Sequence[int] = SEEDS, task: str = "cifar10") -> list[Trial]:
    """Every stage of the paper for the three ViTs: CLS, the lambda sweep, REKD over alphas, the p_target sweep."""
    trials: list[Trial] = []
    for model in CAPACITY:
        base = trial(task=task, task_digest=(task * 16)[:16], model=model, model_digest=(model * 16)[:16])
        named = {"task": task, "task_digest": base.task_digest, "model": model, "model_digest": base.model_digest}
        trials += [trial(**named, objective="cls", seed=s) for s in seeds]
        trials += [replace(base, lambda_select=value, seed=s) for value in LAMBDAS for s in seeds]
        trials += [replace(base, p_target=value, seed=s) for value in P_TARGETS for s in seeds]
    teacher = trial(task=task, task_digest=(task * 16)[:16], model="vit-base", model_digest=("vit-base" * 16)[:16])
    for model in ("vit-small", "vit-tiny"):
        base = trial(
            task=task,
            task_digest=teacher.task_digest,
            model=model,
            model_digest=(model * 16)[:16],
            objective="rekd",
            teacher_digest=teacher.digest,
        )
        trials += [replace(base, alpha=value, seed=s) for value in ALPHAS for s in seeds]
    return trials


def fill(store: Store | str, trials: Iterable[Trial] | None = None) -> Ledger:
    """A ledger with the given trials, or with the paper's, one of which diverged and one failed."""
    ledger = Ledger(store)
    for made in paper_trials() if trials is None else trials:
        ended = outcome(made)
        ledger.write(made, ended, epochs(made, ended))
    if trials is None:
        bad = trial(task_digest=("cifar10" * 16)[:16], model_digest=("vit-tiny" * 16)[:16], lambda_select=5e-2)
        ledger.write(
            replace(bad, seed=2035),
            Outcome(status="diverged", error="epoch 3: the generator selects nothing", train_seconds=20.0),
        )
        ledger.write(replace(bad, seed=2034), Outcome(status="failed", error="<b>out of memory</b>", attempt=3))
    return ledger


GRID = 14
REVIEW = "A <script>document.title = 'hacked'</script> film with a truly wonderful cast & a dull <b>plot</b> ."
CLASS_NAMES = ["negative", "<i>positive</i>"]
NUM_SAMPLES = 10


def write_images(store: Store, task_digest: str, digests: Iterable[str]) -> None:
    """Samples of 32 x 32 pixels, and rationales of the given trials: a square that moves with the sample."""
    images = []
    for sample in range(NUM_SAMPLES):
        ramp = np.linspace(0, 255, 32)
        pixels = np.stack([np.tile(ramp, (32, 1)), np.tile(ramp[:, None], (1, 32)), np.full((32, 32), 25 * sample)], -1)
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, format="PNG")
        images.append(buffer.getvalue())
    nothing = [None] * NUM_SAMPLES
    columns = {
        "sample": list(range(NUM_SAMPLES)),
        "label": [sample % 2 for sample in range(NUM_SAMPLES)],
        "image": images,
        "text": pa.array(nothing, pa.string()),
        "tokens": pa.array(nothing, pa.list_(pa.string())),
        "spans": pa.array(nothing, pa.list_(pa.list_(pa.int64()))),
        "rows": [GRID] * NUM_SAMPLES,
        "columns": [GRID] * NUM_SAMPLES,
    }
    _write(store, store.samples_file(task_digest), columns)
    for digest in digests:
        masks = np.zeros((NUM_SAMPLES, GRID, GRID), dtype=np.uint8)
        for sample in range(NUM_SAMPLES):
            masks[sample, sample % 9 : sample % 9 + 5, 4:10] = 1
        _write_rationales(store, digest, masks.reshape(NUM_SAMPLES, -1))


def write_reviews(
    store: Store, task_digest: str, digests: Iterable[str], *, read: tuple[int, int] | None = None
) -> None:
    """Samples of text with markup in it, and rationales of the given trials: every other word, and the first position.

    Without `read` they are as 0.1.0 wrote them.
    """
    words = REVIEW.split()
    tokens, spans, at = ["[CLS]"], [[0, 0]], 0
    for word in words:
        start = REVIEW.index(word, at)
        at = start + len(word)
        tokens.append(word)
        spans.append([start, at])
    tokens += ["[SEP]", "[PAD]"]
    spans += [[0, 0], [0, 0]]
    nothing = [None] * NUM_SAMPLES
    columns = {
        "sample": list(range(NUM_SAMPLES)),
        "label": [sample % 2 for sample in range(NUM_SAMPLES)],
        "image": pa.array(nothing, pa.binary()),
        "text": [REVIEW] * NUM_SAMPLES,
        "tokens": [tokens] * NUM_SAMPLES,
        "spans": [spans] * NUM_SAMPLES,
        "rows": pa.array(nothing, pa.int64()),
        "columns": pa.array(nothing, pa.int64()),
    }
    if read is not None:
        columns["read"] = [list(read)] * NUM_SAMPLES
    _write(store, store.samples_file(task_digest), columns)
    for digest in digests:
        masks = np.tile((np.arange(len(tokens)) % 4 < 2).astype(np.uint8), (NUM_SAMPLES, 1))
        _write_rationales(store, digest, masks)
        config = {"details": {"class_names": CLASS_NAMES}}
        store.write(f"{store.model_folder(digest)}/config.json", json.dumps(config).encode())


def _write_rationales(store: Store, digest: str, masks: np.ndarray) -> None:
    """Predictions are right but for every fifth sample."""
    predictions = [(sample % 2) if sample % 5 else 1 - sample % 2 for sample in range(NUM_SAMPLES)]
    columns = {"sample": list(range(NUM_SAMPLES)), "prediction": predictions, "mask": list(masks)}
    _write(store, store.rationales_file(digest), columns)


def _write(store: Store, path: str, columns: dict[str, object]) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    store.write(path, sink.getvalue().to_pybytes())


def fill_everything(store: Store) -> Ledger:
    """Two tasks, one of images and one of text, with rationales of all of their RE and REKD trials."""
    ledger = fill(store)
    reviews = paper_trials(task="<script>reviews</script>")
    fill(store, reviews)
    for trials, write in ((paper_trials(), write_images), (reviews, write_reviews)):
        write(store, trials[0].task_digest, [made.digest for made in trials if made.objective != "cls"])
    return ledger


NUM_MIXED_SEEDS = 3


def mixed_trials() -> list[Trial]:
    """What a store holds after a while: two learning rates, two batch sizes, two edits of a task, two teachers, and a try
    of two epochs beside the real run; each with RE over lambda_select and REKD over alpha, three seeds."""
    seeds = range(1, NUM_MIXED_SEEDS + 1)
    base = trial(epochs=35)
    teachers = [replace(base, model="vit-base", model_digest="b" * 16, seed=seed) for seed in seeds]
    edited = [replace(teacher, task_digest="e" * 16) for teacher in teachers]
    made = [*teachers, *edited]
    for changes in ({}, {"learning_rate": 1e-4}, {"batch_size": 64}, {"task_digest": "e" * 16}, {"epochs": 2}):
        re = replace(base, **changes)
        made += [replace(re, lambda_select=value, seed=seed) for value in (1e-2, 5e-2) for seed in seeds]
        for teacher in {"task_digest": [edited[0]]}.get(next(iter(changes), ""), teachers[: 1 if changes else 2]):
            rekd = trial(**{"objective": "rekd", "teacher_digest": teacher.digest, "epochs": 35, **changes})
            made += [replace(rekd, alpha=value, seed=seed) for value in (0.0, 0.3) for seed in seeds]
    return made


def setting_numbers(trials: Iterable[Trial]) -> dict[str, int]:
    """By digest the number of the trial's setting: 1, 2 and so on, in the order of the trials."""
    numbers: dict[str, int] = {}
    settings = {made.digest: replace(made, seed=0).digest for made in trials}
    order = {setting: number for number, setting in enumerate(dict.fromkeys(settings.values()), 1)}
    numbers |= {digest: order[setting] for digest, setting in settings.items()}
    return numbers


def fill_mixed(store: Store | str) -> Ledger:
    """A ledger of `mixed_trials` in which setting number n has a mean test accuracy of n / 100 and a dev loss of 1 + n / 100:
    whatever is an average of two of them is told by its digits."""
    ledger = Ledger(store)
    made = mixed_trials()
    numbers = setting_numbers(made)
    for one in made:
        shift = (one.seed - (NUM_MIXED_SEEDS + 1) / 2) / 1000
        ended = replace(
            outcome(one),
            test_accuracy=numbers[one.digest] / 100 + shift,
            dev_loss=1 + numbers[one.digest] / 100 + shift,
            dev_rationale_ratio=one.p_target,
        )
        ledger.write(one, ended, epochs(one, ended))
    return ledger
