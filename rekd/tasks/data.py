"""The arrays that a task stands for: its samples, divided into train, dev and test."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from rekd.messages import one_line, shortened
from rekd.tasks import hidden_digits, marked_digits
from rekd.tasks.dataset_tables import read_tables
from rekd.tasks.hub import quiet
from rekd.tasks.images import read_images
from rekd.tasks.labels import read_labels
from rekd.tasks.spans import ReadText, Span, read_text, token_places
from rekd.tasks.task import Task
from rekd.tasks.task_file import Kind
from rekd.tasks.texts import check_reading, check_vocabularies, load_tokenizer, read_texts
from rekd.tasks.truth import Truth, read_truth
from rekd.trial import Trial

SHOWN_PER_CLASS = 4
MOST_SHOWN = 64

Division = Literal["fixed", "by_seed", "stratified_by_seed"]
"""How a pool is divided into train and dev (`Trial.split`)."""

SPLIT_SEED = 2026
"""The seed of the fixed splits, which are the same for every run; the paper's first seed, though any constant would do."""


@dataclass(frozen=True, eq=False)
class Split:
    """Samples as arrays, one row each."""

    arrays: dict[str, np.ndarray]
    """Images: `image`, uint8 [sample, channel, height, width]. Texts: `input_ids`, int32 [sample, feature], and
    `valid`, uint8 of the same shape, 1 where there is a token and 0 where there is padding."""
    labels: Int64[np.ndarray, "sample"]
    """Class of each sample."""
    truth: Truth | None = None
    """Where the evidence stands, if that is known: for tests alone."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Int64[np.ndarray, "index"]) -> "Split":
        """The samples at `indices`, in that order."""
        truth = None if self.truth is None else self.truth.take(indices)
        return Split({name: array[indices] for name, array in self.arrays.items()}, self.labels[indices], truth)

    def contents(self) -> np.ndarray:
        """A digest of 8 bytes of what each sample holds, without its label."""
        rows = zip(*(np.ascontiguousarray(array) for _, array in sorted(self.arrays.items())), strict=True)
        digests = (hashlib.blake2b(b"".join(part.data for part in row), digest_size=8).digest() for row in rows)
        return np.frombuffer(b"".join(digests), dtype=np.uint64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Data:
    """The arrays of a task. Train and dev are index lists into `pool`, so that runs may divide it differently."""

    kind: Kind
    num_classes: int
    class_names: tuple[str, ...] | None
    """The names in the order of their numbers, where the task or the dataset knows them."""
    pool: Split
    """The training split in the dataset's order, with the dataset's own dev split, if any, behind it."""
    test: Split
    dev_indices: Int64[np.ndarray, "dev"] | None
    """Where the dataset's own dev split is within `pool`."""
    dev_fraction: float
    """Share of `pool` that is dev, where the dataset has no dev split of its own."""
    fingerprint: str
    """Digest of the arrays themselves: targets that a teacher computed from other data are refused by it."""
    shown_texts: tuple[ReadText, ...] = ()
    """The test samples of `shown_samples` in their order, as they were written; of a text task alone."""
    remarks: tuple[str, ...] = ()
    """What is no mistake but is not to pass in silence, such as files that were not read: a sentence each."""

    def train_dev(self, split: Division, seed: int) -> tuple[Int64[np.ndarray, "train"], Int64[np.ndarray, "dev"]]:
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

    def in_train(self, split: Division, seed: int) -> dict[str, int]:
        """How many samples of dev and of test stand in train too, with the same content: `dev` and `test`."""
        train, dev = self.train_dev(split, seed)
        contents, of_test = self._contents
        known = set(contents[train].tolist())
        others = {"dev": contents[dev], "test": of_test}
        return {name: sum(content in known for content in of_split.tolist()) for name, of_split in others.items()}

    @cached_property
    def _contents(self) -> tuple[np.ndarray, np.ndarray]:
        """A number for what each sample of the pool and of the test split holds, without its label."""
        return self.pool.contents(), self.test.contents()

    @property
    def num_dev(self) -> int:
        """Samples in dev."""
        return round(self.dev_fraction * len(self.pool)) if self.dev_indices is None else len(self.dev_indices)


def load_data(task: Task) -> Data:
    """The task's arrays. Raises ValueError where the dataset is not what the task says."""
    read = _READ_HERE.get(task.dataset, _read)(task)
    absent = [
        remark
        for role, name in task.splits.items()
        for remark in _absent_classes(task, read.splits[role], role, name, read.class_names)
    ]
    pool, test, test_texts = _without_test(task, read)
    pool, dev_indices = _with_dev(task, pool, read.splits.get("dev"))
    return Data(
        kind=task.kind,
        num_classes=task.num_classes,
        class_names=read.class_names,
        pool=pool,
        test=test,
        dev_indices=dev_indices,
        dev_fraction=task.dev_fraction,
        fingerprint=_fingerprint(pool, test, dev_indices),
        shown_texts=read.as_tokens(
            task, [test_texts[row] for row in shown_samples(test.labels).tolist()] if test_texts else []
        ),
        remarks=(*read.remarks, *absent),
    )


def token_places_of(tasks: Sequence[Task]) -> list[Int64[np.ndarray, "sample feature 2"]]:
    """Where each token of the pool's texts stands, in several views of one task: the first character and the one after the
    last; 0 and 0 of one that stands nowhere."""
    read = _read(tasks[0])
    texts = list(read.texts["train"])
    if (fraction := tasks[0].test_fraction) is not None:
        chosen = set(_held_out(tasks[0], read.splits["train"], fraction, "test_fraction").tolist())
        texts = [text for row, text in enumerate(texts) if row not in chosen]
    texts += read.texts.get("dev", [])
    with quiet():
        return [np.array(list(_places(load_tokenizer(task), texts, task)), dtype=np.int64) for task in tasks]


def _places(tokenizer: Any, texts: Sequence[str], task: Task) -> Iterator[list[Span]]:
    for text in texts:
        yield token_places(tokenizer, text, max_length=task.max_length or 0)


def _without_test(task: Task, read: "_Read") -> tuple[Split, Split, list[str]]:
    """The training split without its share for testing, if any; the test split, and its texts."""
    pool = read.splits["train"]
    if task.test_fraction is None:
        return pool, read.splits["test"], read.texts.get("test", [])
    chosen = _held_out(task, pool, task.test_fraction, "test_fraction")
    rest = np.setdiff1d(np.arange(len(pool)), chosen, assume_unique=True)
    texts = read.texts.get("train", [])
    return pool.take(rest), pool.take(chosen), [texts[row] for row in chosen.tolist()] if texts else []


def _with_dev(task: Task, pool: Split, dev: Split | None) -> tuple[Split, Int64[np.ndarray, "dev"] | None]:
    """The pool with the dataset's own dev split behind it, and where that is; else whether a share of it can be dev."""
    if dev is None:
        _held_out(task, pool, task.dev_fraction, "dev_fraction")
        return pool, None
    arrays = {name: np.concatenate([pool.arrays[name], dev.arrays[name]]) for name in pool.arrays}
    return Split(arrays, np.concatenate([pool.labels, dev.labels])), len(pool) + np.arange(len(dev))


def shown_samples(labels: Int64[np.ndarray, "sample"]) -> Int64[np.ndarray, "shown"]:
    """Indices into the test split of the samples that people look at: the first four of each class, in turn, 64 at most.

    A rule, so that nobody picks the pretty ones.
    """
    firsts = [np.flatnonzero(labels == label)[:SHOWN_PER_CLASS] for label in np.unique(labels)]
    turns = [first[turn] for turn in range(SHOWN_PER_CLASS) for first in firsts if turn < len(first)]
    return np.sort(np.array(turns[:MOST_SHOWN], dtype=np.int64))


def remarks_on(data: Data, task: Task, trial: Trial) -> list[str]:
    """What is to be said before a trial of the task starts: the data's remarks, and what its split has in common."""
    remarks = [*data.remarks]
    for name, count in data.in_train(trial.split, trial.seed).items():
        if count:
            total = data.num_dev if name == "dev" else len(data.test)
            remarks.append(
                f"{task.name}: {count} of the {total} samples of {name} stand in train too, with the same content."
            )
    return remarks


@dataclass(frozen=True, eq=False, kw_only=True)
class _Read:
    """What was read of a dataset."""

    splits: dict[str, Split]
    """The splits by their roles."""
    class_names: tuple[str, ...] | None
    texts: Mapping[str, list[str]] = field(default_factory=dict)
    """The texts of each role as they were written; of a text task alone."""
    tokenizer: Any = None
    remarks: Sequence[str] = ()

    def as_tokens(self, task: Task, texts: Sequence[str]) -> tuple[ReadText, ...]:
        """Some of the texts as the tokenizer reads them."""
        with quiet():
            return tuple(read_text(self.tokenizer, text, max_length=task.max_length or 0) for text in texts)


def _read(task: Task) -> _Read:
    import datasets  # noqa: F401  before `quiet`, which is for libraries that are imported

    try:
        with quiet():
            return _read_tables(task)
    except Exception as error:
        if type(error) is ValueError:  # ours; those of libraries are of classes of their own
            raise
        raise ValueError(f"{task.name}: {task.dataset} cannot be read: {one_line(error)}") from error


def _read_tables(task: Task) -> _Read:
    tables, not_read = read_tables(task)
    labels, class_names = read_labels(task, tables)
    listed = f"{task.name}: {len(not_read)} of what {task.dataset} holds is not read: {shortened(not_read)}."
    remarks = [listed] if not_read else []
    if task.kind == "image":
        images, unread = read_images(task, tables)
        truth = read_truth(task, tables, images)
        splits = {role: Split(images[role], labels[role], truth.get(role)) for role in tables}
        return _Read(splits=splits, class_names=class_names, remarks=[*remarks, *unread])
    tokenizer = load_tokenizer(task)
    tokens = read_texts(task, tables, tokenizer)
    truth = read_truth(task, tables, tokens, tokenizer)
    return _Read(
        splits={role: Split(tokens[role], labels[role], truth.get(role)) for role in tables},
        class_names=class_names,
        texts={role: list(table[task.input_column]) for role, table in tables.items()},
        tokenizer=tokenizer,
        remarks=[
            *remarks,
            *check_reading(task, tables, tokenizer, tokens),
            *check_vocabularies(task, tokenizer, tokens),
        ],
    )


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


def _read_digits(task: Task) -> _Read:
    """scikit-learn's 1797 handwritten digits of 8 x 8 pixels, 0..16 stretched to the 8 bits of every other image."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    image = np.rint(np.asarray(pixels) * (255 / 16)).astype(np.uint8)
    split = Split({"image": image.reshape(-1, 1, 8, 8)}, np.asarray(labels, dtype=np.int64))
    return _Read(splits={"train": split}, class_names=task.class_names)


def _read_hidden_digits(task: Task) -> _Read:
    percent = marked_digits.percent_of(task.config_name)
    made = hidden_digits.make() if percent is None else marked_digits.make_marked(percent)
    splits = {
        name: Split({"image": one.images}, one.labels, Truth(_by_rows(one.truth), np.ones(len(one.labels), dtype=bool)))
        for name, one in made.items()
    }
    return _Read(splits=splits, class_names=task.class_names)


def _by_rows(cells: np.ndarray) -> np.ndarray:
    """Marks of cells in rows and columns, so that a model of another patch size finds its own."""
    return cells.reshape(len(cells), hidden_digits.GRID, hidden_digits.GRID)


_READ_HERE = {"digits": _read_digits, "hidden-digits": _read_hidden_digits}
"""Embedded datasets that are arrays before they are tables."""


def _absent_classes(
    task: Task, split: Split, role: str, name: str, class_names: tuple[str, ...] | None
) -> Iterator[str]:
    """A remark where a split has no sample of some class. Raises ValueError where nothing could be learnt of it."""
    counts = np.bincount(split.labels, minlength=task.num_classes)
    absent = [_class_name(number, class_names) for number in np.flatnonzero(counts == 0).tolist()]
    if not absent:
        return
    present = int(np.count_nonzero(counts))
    remark = (
        f"{task.name}: split {name!r} of {task.dataset} has samples of {present} of {task.num_classes} classes, none of "
        f"{shortened(absent)}."
    )
    if role == "train":
        raise ValueError(f"{remark} Add some, or correct num_classes.")
    yield remark


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
