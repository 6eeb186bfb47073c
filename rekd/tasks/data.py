"""The arrays that a task stands for: its samples, divided into train, dev and test."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64

from rekd.messages import shortened
from rekd.tasks.hub import quiet
from rekd.tasks.images import read_images
from rekd.tasks.tables import read_labels, read_tables
from rekd.tasks.task import Task
from rekd.tasks.task_file import Kind
from rekd.tasks.texts import read_texts

SPLIT_SEED = 2026
"""Of the fixed splits, which are the same for every run; the paper's first seed, though any constant would do."""


@dataclass(frozen=True, eq=False)
class Split:
    """Samples as arrays, one row each."""

    arrays: dict[str, np.ndarray]
    """Images: `image`, uint8 [sample, channel, height, width]. Texts: `input_ids`, int32 [sample, feature], and
    `valid`, uint8 of the same shape, 1 where there is a token and 0 where there is padding."""
    labels: Int64[np.ndarray, "sample"]
    """Class of each sample."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Int64[np.ndarray, "index"]) -> "Split":
        """The samples at `indices`, in that order."""
        return Split({name: array[indices] for name, array in self.arrays.items()}, self.labels[indices])


@dataclass(frozen=True, eq=False, kw_only=True)
class Data:
    """The arrays of a task. Train and dev are index lists into `pool`, so that runs may divide it differently."""

    kind: Kind
    num_classes: int
    class_names: tuple[str, ...] | None
    """In the order of their numbers, where the task or the dataset knows them."""
    pool: Split
    """The training split in the dataset's order, with the dataset's own dev split, if any, behind it."""
    test: Split
    dev_indices: Int64[np.ndarray, "dev"] | None
    """Where the dataset's own dev split is within `pool`."""
    dev_fraction: float
    """Share of `pool` that is dev, where the dataset has no dev split of its own."""
    fingerprint: str
    """Digest of the arrays themselves: targets that a teacher computed from other data are refused by it."""

    def train_dev(
        self, split: Literal["fixed", "by_seed", "stratified_by_seed"], seed: int
    ) -> tuple[Int64[np.ndarray, "train"], Int64[np.ndarray, "dev"]]:
        """Indices of train and dev within `pool`.

        `fixed` is the same for every seed: the dataset's own dev split, or a stratified one. `by_seed` is a random one
        of the same size, drawn with the seed and not stratified. `stratified_by_seed` is the dataset's own, or what
        `datasets` makes of the seed, in its order, as in the authors' code; the others are sorted.
        """
        everything = np.arange(len(self.pool))
        if split == "stratified_by_seed" and self.dev_indices is None:
            return _stratified_by_seed(self.pool.labels, self.num_dev, seed)
        if split == "by_seed":
            dev = np.random.default_rng(seed).permutation(everything)[: self.num_dev]
        elif self.dev_indices is not None:
            dev = self.dev_indices
        else:
            dev = _stratified(self.pool.labels, self.num_dev)
        return np.setdiff1d(everything, dev, assume_unique=True), np.sort(dev)

    @property
    def num_dev(self) -> int:
        """Samples in dev."""
        return round(self.dev_fraction * len(self.pool)) if self.dev_indices is None else len(self.dev_indices)


def load_data(task: Task) -> Data:
    """The task's arrays. Raises ValueError where the dataset is not what the task says."""
    if task.dataset == "digits":
        splits, class_names = {"train": _digits()}, task.class_names
    else:
        splits, class_names = _read(task)
    for role, name in task.splits.items():
        _check_classes(task, splits[role], name, class_names)

    pool = splits["train"]
    if task.test_fraction is not None:
        test_indices = _held_out(task, pool, task.test_fraction, "test_fraction")
        splits["test"] = pool.take(test_indices)
        pool = pool.take(np.setdiff1d(np.arange(len(pool)), test_indices, assume_unique=True))
    dev_indices = None
    if "dev" in splits:
        dev_indices = len(pool) + np.arange(len(splits["dev"]))
        arrays = {name: np.concatenate([pool.arrays[name], splits["dev"].arrays[name]]) for name in pool.arrays}
        pool = Split(arrays, np.concatenate([pool.labels, splits["dev"].labels]))
    else:
        _held_out(task, pool, task.dev_fraction, "dev_fraction")
    return Data(
        kind=task.kind,
        num_classes=task.num_classes,
        class_names=class_names,
        pool=pool,
        test=splits["test"],
        dev_indices=dev_indices,
        dev_fraction=task.dev_fraction,
        fingerprint=_fingerprint(pool, splits["test"], dev_indices),
    )


def _read(task: Task) -> tuple[dict[str, Split], tuple[str, ...] | None]:
    """Splits by role, and the names of the classes where the task or the dataset knows them."""
    import datasets  # noqa: F401  before `quiet`, which is for libraries that are imported

    with quiet():
        tables = read_tables(task)
        labels, class_names = read_labels(task, tables)
        arrays = read_images(task, tables) if task.kind == "image" else read_texts(task, tables)
    return {role: Split(arrays[role], labels[role]) for role in tables}, class_names


def _held_out(task: Task, pool: Split, fraction: float, key: str) -> np.ndarray:
    """Indices of a stratified share of the training split. Raises ValueError where a class is too small for it."""
    num_held_out = round(fraction * len(pool))
    smallest = int(np.bincount(pool.labels).min())
    if smallest < 2 or not task.num_classes <= num_held_out <= len(pool) - task.num_classes:
        raise ValueError(
            f"{task.name}: {key} = {fraction:g} of the {len(pool)} samples of split {task.train_split!r} of "
            f"{task.dataset} is {num_held_out}, for {task.num_classes} classes of which the smallest has {smallest}: "
            "too few for every class to be on both sides. Add samples, or change the fraction."
        )
    return _stratified(pool.labels, num_held_out)


def _stratified(labels: Int64[np.ndarray, "sample"], num_held_out: int) -> Int64[np.ndarray, "held_out"]:
    """Sorted indices of `num_held_out` samples in which every class has its share; always the same ones."""
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(n_splits=1, test_size=num_held_out, random_state=SPLIT_SEED)
    _, held_out = next(splitter.split(np.zeros((len(labels), 0)), labels))
    return np.sort(held_out)


def _stratified_by_seed(
    labels: Int64[np.ndarray, "sample"], num_held_out: int, seed: int
) -> tuple[Int64[np.ndarray, "kept"], Int64[np.ndarray, "held_out"]]:
    """Indices of the samples that are kept and held out, as `train_test_split` of `datasets` draws and orders them.

    Drawn here, so that another version of that library changes no split.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(labels)
    num_kept = _shares(counts, len(labels) - num_held_out, rng)
    num_others = _shares(counts - num_kept, num_held_out, rng)
    kept, held_out = [], []
    for number, (first, second) in enumerate(zip(num_kept, num_others, strict=True)):
        drawn = np.flatnonzero(labels == number)[rng.permutation(counts[number])]
        kept.append(drawn[:first])
        held_out.append(drawn[first : first + second])
    return rng.permutation(np.concatenate(kept)), rng.permutation(np.concatenate(held_out))


def _shares(counts: Int64[np.ndarray, "class"], num_draws: int, rng: np.random.Generator) -> Int64[np.ndarray, "class"]:
    """How many of `num_draws` fall to each class: its share, rounded down; what is left to the largest remainders."""
    exact = num_draws * counts / counts.sum()
    shares = np.floor(exact)
    for remainder in np.unique(exact - shares)[::-1]:
        num_left = int(num_draws - shares.sum())
        if num_left == 0:
            break
        tied = np.flatnonzero(exact - np.floor(exact) == remainder)
        shares[rng.choice(tied, size=min(len(tied), num_left), replace=False)] += 1
    return shares.astype(np.int64)


def _digits() -> Split:
    """scikit-learn's 1797 handwritten digits of 8 x 8 pixels, 0..16 stretched to the 8 bits of every other image."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    image = np.rint(np.asarray(pixels) * (255 / 16)).astype(np.uint8)
    return Split({"image": image.reshape(-1, 1, 8, 8)}, np.asarray(labels, dtype=np.int64))


def _check_classes(task: Task, split: Split, name: str, class_names: tuple[str, ...] | None) -> None:
    """Every class is there, in every split."""
    where = f"{task.name}: split {name!r} of {task.dataset}"
    counts = np.bincount(split.labels, minlength=task.num_classes)
    shown = [_class_name(number, class_names) for number in np.flatnonzero(counts == 0).tolist()]
    if shown:
        present = int(np.count_nonzero(counts))
        raise ValueError(
            f"{where} has samples of {present} of {task.num_classes} classes, none of {shortened(shown)}. "
            "Add some, or correct num_classes."
        )


def _class_name(number: int, class_names: tuple[str, ...] | None) -> str:
    return f"class {number}" + (f" ({class_names[number]})" if class_names else "")


def _fingerprint(pool: Split, test: Split, dev_indices: np.ndarray | None) -> str:
    digest = hashlib.sha256()
    arrays = {"labels": pool.labels, "test_labels": test.labels, **pool.arrays}
    arrays |= {f"test_{name}": array for name, array in test.arrays.items()}
    if dev_indices is not None:
        arrays["dev_indices"] = dev_indices
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
