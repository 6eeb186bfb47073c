"""A task: a dataset, its columns and splits, and the models that are trained on it; and the arrays that it stands for.

`load_task` reads one (embedded, or a TOML file of the user's), `Task.trial` makes its trials, `load_data` its arrays.
Planning a sweep needs the first two only: they import no library for data or models.
"""

import csv
import difflib
import hashlib
import json
import logging
import math
import re
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from jaxtyping import Int64

from rekd.trial import FIDELITY, RE_FIELDS, REKD_FIELDS, Objective, Trial, canonical_json, digest_of

if TYPE_CHECKING:
    import datasets
    import transformers

Kind = Literal["image", "text"]

TASK_FILES = Path(__file__).parent / "task_files"
EMBEDDED_DATASETS = ("digits",)

SPLIT_SEED = 2026
"""Of the fixed splits, which are the same for every run; the paper's first seed, though any constant would do."""

PAPER_DEFAULTS: dict[str, Any] = {
    "epochs": 35,  # Section 3.3
    "batch_size": 32,  # Section 3.3
    "learning_rate": 1e-5,  # Section 3.3, "for all neural models"
    "temperature_initial": 5.0,  # Section 3.3, tau_0
    "temperature_final": 0.1,  # Section 3.3, tau_K
    "temperature_every": 100,  # Section 3.3
    "lambda_rationale": 0.5,  # Section 3.3, lambda_R
    "alpha": 0.3,  # Appendix C.2, "then used for all models, including BERTs"
    "cls": {"epochs": 20},  # Section 3.3
}
"""What Section 3.3 and Appendix C.2 set for every dataset: the defaults of a task that says nothing else."""

_USED_FIELDS: dict[str, tuple[str, ...]] = {"cls": (), "re": RE_FIELDS, "rekd": RE_FIELDS + REKD_FIELDS}
_IDENTITY_FIELDS = ("task", "task_digest", "model", "model_digest", "objective", "seed")
_OVERRIDES = tuple(field.name for field in fields(Trial) if field.name not in _IDENTITY_FIELDS)
_DEFAULTS = tuple(name for name in _OVERRIDES if name not in FIDELITY["paper"] and name != "teacher_digest")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_TABLE_SUFFIXES = (".parquet", ".csv", ".tsv", ".json", ".jsonl")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A backbone within a task: pretrained weights (`source`), or an architecture to be initialised (`config`)."""

    name: str
    """Name within the task, such as `vit-tiny`."""
    source: str | None = None
    """Name on the Hugging Face Hub, or absolute path of a local folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub; None is its default branch."""
    config: dict[str, Any] | None = None
    """Hugging Face configuration with its `model_type`, where there is no `source`."""
    defaults: dict[str, Any]
    """Fields of `Trial` in which this model differs from its task; a table `re`, `rekd` or `cls` holds for that objective."""

    @property
    def is_local(self) -> bool:
        """Whether `source` is a folder of this machine."""
        return self.source is not None and Path(self.source).is_absolute()

    @cached_property
    def digest(self) -> str:
        """What the name stands for: of a folder the content of its configuration and weights, never its path."""
        if self.config is not None:
            return digest_of({"config": self.config})
        assert self.source is not None
        if not self.is_local:
            return digest_of({"hub": self.source, "revision": self.revision})
        # The preprocessor holds the mean and deviation that pixels are scaled with: another one, another result.
        folder = Path(self.source)
        files = [folder / "config.json", folder / "preprocessor_config.json", *sorted(folder.glob("*.safetensors"))]
        return digest_of({"files": {file.name: _sha256(file) for file in files if file.is_file()}})


@dataclass(frozen=True, kw_only=True)
class Task:
    """A dataset, how to read it, and the models that are trained on it."""

    name: str
    """Such as `cifar10`: what the rows of the ledger are grouped by."""
    kind: Kind
    """What a sample is."""
    dataset: str
    """An embedded dataset (`digits`), a name on the Hugging Face Hub, or the absolute path of a folder or a file."""
    config_name: str | None = None
    """Configuration of a dataset on the hub that has several."""
    revision: str | None = None
    """Branch, tag or commit on the hub; None is its default branch."""
    input_column: str
    """Column of the images or texts."""
    label_column: str = "label"
    """Column of the classes."""
    train_split: str = "train"
    """Name of the split that is divided into train and dev."""
    test_split: str = "test"
    """Name of the test split; not read where there is a `test_fraction`."""
    dev_split: str | None = None
    """Name of the dataset's own dev split, where it has one."""
    dev_fraction: float = 0.2
    """Share of the training split that becomes dev, in (0, 1) (Section 3.2: 20 %); not used with a `dev_split`."""
    test_fraction: float | None = None
    """Share of the training split that becomes test, in (0, 1), for a dataset without a test split."""
    num_classes: int
    """2 or more."""
    class_names: tuple[str, ...] | None = None
    """Their names, in the order of their numbers."""
    image_mode: Literal["RGB", "L"] = "RGB"
    """Colour or grayscale: three channels or one."""
    image_size: int | None = None
    """Side in pixels to which images are resized here; None leaves them as they are, and then they are all of one size."""
    max_length: int | None = None
    """Tokens a text, to which it is truncated or padded."""
    tokenizer: str | None = None
    """Name on the hub or absolute path of a folder; None is the teacher model's own."""
    teacher: str
    """Name of the model that teaches."""
    students: tuple[str, ...]
    """Names of the models that learn from it."""
    models: dict[str, Model]
    """By name."""
    defaults: dict[str, Any]
    """Fields of `Trial`; a table `re`, `rekd` or `cls` holds for that objective."""

    @cached_property
    def digest(self) -> str:
        """What the name stands for: everything that changes the arrays or the splits. Never paths, models or training defaults."""
        dataset: dict[str, Any]
        if self.dataset in EMBEDDED_DATASETS:
            dataset = {"embedded": self.dataset}
        elif Path(self.dataset).is_absolute():
            dataset = {"content": _data_digest(self)}
        else:
            dataset = {"hub": self.dataset, "config_name": self.config_name, "revision": self.revision}
        return digest_of(
            {
                "dataset": dataset,
                "columns": [self.input_column, self.label_column],
                "splits": [self.train_split, self.test_split if self.test_fraction is None else None, self.dev_split],
                "fractions": [self.dev_fraction if self.dev_split is None else None, self.test_fraction],
                "classes": [self.num_classes, self.class_names],
                "input": [self.image_mode, self.image_size] if self.kind == "image" else self._tokens_identity(),
            }
        )

    def _tokens_identity(self) -> list[Any]:
        source, revision = self.tokenizer_source
        if not Path(source).is_absolute():
            return [self.max_length, source, revision]
        files = (Path(source) / name for name in _TOKENIZER_FILES)
        return [self.max_length, {file.name: _sha256(file) for file in files if file.is_file()}]

    @property
    def tokenizer_source(self) -> tuple[str, str | None]:
        """Where a text task's tokenizer comes from: a name on the hub or a folder's absolute path, and a revision."""
        if self.tokenizer is not None:
            return self.tokenizer, None
        teacher = self.models[self.teacher]
        assert teacher.source is not None
        return teacher.source, teacher.revision

    def trial(
        self, objective: Objective, model: str, *, seed: int, fidelity: str = "paper", **overrides: Any
    ) -> Trial:
        """One trial of this task.

        A field takes, the later the stronger: the task's default, the model's, the task's for this objective, the
        model's for this objective, the fidelity preset's, the override. Fields that the objective does not use stay
        None. Raises ValueError on a name that does not exist and on a value that `Trial` refuses.
        """
        _one_of("objective", objective, get_args(Objective), self.name)
        _one_of("model", model, self.models, self.name)
        _one_of("fidelity", fidelity, FIDELITY, self.name)
        for name in overrides:
            _one_of("override", name, _OVERRIDES, self.name)

        values: dict[str, Any] = {}
        tables = (self.defaults, self.models[model].defaults)
        for table in (*tables, *(table.get(objective, {}) for table in tables)):
            values.update({name: value for name, value in table.items() if name in _DEFAULTS})
        used = _USED_FIELDS[objective]
        values = {k: v for k, v in values.items() if k in used or k not in RE_FIELDS + REKD_FIELDS}
        return Trial(
            task=self.name,
            task_digest=self.digest,
            model=model,
            model_digest=self.models[model].digest,
            objective=objective,
            seed=seed,
            **{**values, **FIDELITY[fidelity], **overrides},
        )


@dataclass(frozen=True, eq=False)
class Split:
    """Samples as arrays, one row each."""

    arrays: dict[str, np.ndarray]
    """Images: `image`, uint8 [sample, channel, height, width]. Texts: `input_ids`, int32 [sample, feature], and `valid`,
    uint8 of the same shape, 1 where there is a token and 0 where there is padding."""
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
        self, split: Literal["fixed", "by_seed"], seed: int
    ) -> tuple[Int64[np.ndarray, "train"], Int64[np.ndarray, "dev"]]:
        """Sorted indices of train and dev within `pool`.

        `fixed` is the same for every seed: the dataset's own dev split, or a stratified one. `by_seed` is a random one
        of the same size, drawn with the seed and not stratified, as the authors' code does.
        """
        everything = np.arange(len(self.pool))
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


def task_names() -> list[str]:
    """Names of the embedded tasks, sorted."""
    return sorted(file.stem for file in TASK_FILES.glob("*.toml"))


def load_task(name_or_file: str | Path) -> Task:
    """The embedded task of that name, or the one that a TOML file describes.

    A file may say `extends = "cifar10"` (an embedded name, or a file beside it) and then only what differs. Relative
    paths in it start at its own folder and stay inside. Raises ValueError on anything that is not as it should be.
    """
    file = Path(name_or_file)
    if isinstance(name_or_file, str) and not name_or_file.endswith(".toml"):
        if name_or_file not in task_names():
            raise ValueError(
                f"There is no task {name_or_file!r}. The embedded ones are {', '.join(task_names())}; "
                "a task of your own is a file that ends in .toml."
            )
        file = TASK_FILES / f"{name_or_file}.toml"
    return _as_task(_read_task_file(file, ()), file)


def _read_task_file(file: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's tables with those that it extends underneath, every path made absolute."""
    file = file.absolute()
    if file in seen:
        raise ValueError(f"{file}: extends comes back to this file. Remove one of the `extends`.")
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The task file {file} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file} is not valid TOML: {error}.") from error
    _check_keys(table, file)
    _resolve_paths(table, file)

    parent = table.pop("extends", None)
    if parent is None:
        table.setdefault("name", file.stem)
        return {**table, "defaults": _merged(PAPER_DEFAULTS, table.get("defaults", {}))}
    if parent in task_names():
        return _merged_tasks(_read_task_file(TASK_FILES / f"{parent}.toml", seen), table)
    if not parent.endswith(".toml"):
        raise ValueError(
            f"{file}: extends is one of {', '.join(task_names())} or a file that ends in .toml, got {parent!r}."
        )
    return _merged_tasks(_read_task_file(_inside(parent, "extends", file), (*seen, file)), table)


def _merged_tasks(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """The child's values over the parent's; what belongs to a value that was replaced goes with it."""
    parent = dict(parent)
    if "dataset" in child:
        for name in ("config_name", "revision"):
            parent.pop(name, None)
    models = dict(parent["models"]) if "models" in parent else {}
    for name, model in child.get("models", {}).items():
        below = dict(models.get(name, {}))
        if "source" in model or "config" in model:
            for key in ("source", "revision", "config"):
                below.pop(key, None)
        models[name] = {**below, **model, "defaults": _merged(below.get("defaults", {}), model.get("defaults", {}))}
    defaults = _merged(parent.get("defaults", {}), child.get("defaults", {}))
    return {**parent, **child, "models": models, "defaults": defaults}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults with `above` over `below`. A value for all objectives replaces also what `below` says for one of them."""
    merged: dict[str, Any] = {}
    for name, value in below.items():
        kept = {k: v for k, v in value.items() if k not in above} if isinstance(value, dict) else value
        merged[name] = kept
    for name, value in above.items():
        merged[name] = {**merged.get(name, {}), **value} if isinstance(value, dict) else value
    return merged


_TASK_TYPES: dict[str, Any] = {
    "extends": str,
    "name": str,
    "kind": str,
    "dataset": str,
    "config_name": str,
    "revision": str,
    "input_column": str,
    "label_column": str,
    "train_split": str,
    "test_split": str,
    "dev_split": str,
    "dev_fraction": float,
    "test_fraction": float,
    "num_classes": int,
    "class_names": list,
    "image_mode": str,
    "image_size": int,
    "max_length": int,
    "tokenizer": str,
    "teacher": str,
    "students": list,
    "models": dict,
    "defaults": dict,
}
_MODEL_TYPES: dict[str, Any] = {"source": str, "revision": str, "config": dict, "defaults": dict}
_REQUIRED = ("kind", "dataset", "input_column", "num_classes", "teacher", "students", "models")
_KIND_NAMES = {str: "text", float: "a number", int: "a whole number", list: "a list of texts", dict: "a table"}


def _check_keys(table: dict[str, Any], file: Path) -> None:
    _check_table(table, _TASK_TYPES, "", file)
    _check_defaults(table.get("defaults", {}), "defaults", file)
    for name, model in table.get("models", {}).items():
        _check_name(f"models.{name}", name, file)
        if not isinstance(model, dict):
            raise ValueError(f"{file}: models.{name} is a table, got {model!r}. Write [models.{name}] above its keys.")
        _check_table(model, _MODEL_TYPES, f"models.{name}.", file)
        _check_defaults(model.get("defaults", {}), f"models.{name}.defaults", file)


def _check_table(table: dict[str, Any], types: dict[str, Any], prefix: str, file: Path) -> None:
    for key, value in table.items():
        if key not in types:
            raise ValueError(f"{file}: {prefix}{key} is not a key of a task. {_valid_names(key, types)}")
        kind = types[key]
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if kind is list:
            fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not fits or (kind is str and not value):
            raise ValueError(f"{file}: {prefix}{key} is {_KIND_NAMES[kind]}, got {value!r}.")


def _check_defaults(defaults: dict[str, Any], where: str, file: Path) -> None:
    """Names and values, by making a trial of them, so that a wrong number is noticed before anything starts."""
    for objective in get_args(Objective):
        if not isinstance(defaults.get(objective, {}), dict):
            raise ValueError(f"{file}: {where}.{objective} is a table, got {defaults[objective]!r}.")
    for name in defaults:
        if name not in _DEFAULTS and name not in get_args(Objective):
            raise ValueError(
                f"{file}: {where}.{name} is not a default of a trial. "
                f"{_valid_names(name, (*_DEFAULTS, *get_args(Objective)))}"
            )
    flat = {name: value for name, value in defaults.items() if name in _DEFAULTS}
    placeholders = dict.fromkeys(("task", "task_digest", "model", "model_digest", "teacher_digest"), "-")
    paper = {name: value for name, value in PAPER_DEFAULTS.items() if name in _DEFAULTS}
    for objective in ("", *get_args(Objective)):
        own = defaults.get(objective, {})
        for name in own:
            if name not in _DEFAULTS:
                raise ValueError(
                    f"{file}: {where}.{objective}.{name} is not a default of a trial. {_valid_names(name, _DEFAULTS)}"
                )
            if objective and name in RE_FIELDS + REKD_FIELDS and name not in _USED_FIELDS[objective]:
                raise ValueError(f"{file}: {where}.{objective}.{name} is not used by objective {objective!r}. Remove it.")
        values = {"p_target": 0.5, "lambda_select": 1.0, **paper, **flat, **own}
        try:
            Trial(**placeholders, objective="rekd", seed=0, **values)
        except ValueError as error:
            raise ValueError(f"{file}: {'.'.join(filter(None, (where, objective)))}: {error}") from error


def _resolve_paths(table: dict[str, Any], file: Path) -> None:
    """Replaces every path by an absolute one, and leaves names on the hub as they are."""
    if "dataset" in table and table["dataset"] not in EMBEDDED_DATASETS:
        table["dataset"] = _resolved(table["dataset"], "dataset", file)
    if "tokenizer" in table:
        table["tokenizer"] = _resolved(table["tokenizer"], "tokenizer", file)
    for name, model in table.get("models", {}).items():
        if "source" in model:
            model["source"] = _resolved(model["source"], f"models.{name}.source", file)


def _resolved(value: str, key: str, file: Path) -> str:
    """Absolute path of what `value` names on this machine, else `value` itself: a name on the hub."""
    path = Path(value).expanduser()
    is_path = path.is_absolute() or value.startswith(".") or path.suffix in _TABLE_SUFFIXES
    if not path.is_absolute():
        path = _inside(value, key, file)
    if path.exists():
        return str(path)
    if is_path or not _HUB_NAME.fullmatch(value):
        raise ValueError(
            f"{file}: {key} = {value!r} is neither a file or folder ({path} does not exist) "
            "nor a name on the Hugging Face Hub (owner/name). Correct the path."
        )
    return value


def _inside(value: str, key: str, file: Path) -> Path:
    """`value` below the file's folder. By its text alone: a symbolic link there is the user's own decision."""
    if Path(value).is_absolute():
        return Path(value)
    if ".." in Path(value).parts:
        raise ValueError(
            f"{file}: {key} = {value!r} leaves the folder of the task file. Move what it names there, or give an absolute path."
        )
    return file.parent / value


def _as_task(table: dict[str, Any], file: Path) -> Task:
    for key in _REQUIRED:
        if key not in table:
            raise ValueError(f"{file}: {key} is missing. A task has {', '.join(_REQUIRED)}, or `extends` another one.")
    _check_name("name", table["name"], file)
    for key, choices in (("kind", get_args(Kind)), ("image_mode", ("RGB", "L"))):
        if key in table:
            _one_of(key, table[key], choices, str(file))
    _require(table["num_classes"] >= 2, "num_classes", table["num_classes"], "2 or more", file)
    for key in ("dev_fraction", "test_fraction"):
        if key in table:
            _require(0 < table[key] < 1, key, table[key], "a share in (0, 1)", file)
            table[key] = float(table[key])
    for key in ("image_size", "max_length"):
        if key in table:
            _require(table[key] >= 1, key, table[key], "1 or more", file)
    if "class_names" in table:
        names = table["class_names"]
        expected = f"{table['num_classes']} different names, one a class"
        _require(len(set(names)) == len(names) == table["num_classes"], "class_names", names, expected, file)
        table["class_names"] = tuple(names)

    models = {name: _as_model(name, model, file) for name, model in table["models"].items()}
    _one_of("teacher", table["teacher"], models, str(file))
    for student in table["students"]:
        _one_of("students", student, models, str(file))
    _require(len(set(table["students"])) == len(table["students"]), "students", table["students"], "distinct", file)
    table["students"] = tuple(table["students"])

    if table["kind"] == "text":
        _require("max_length" in table, "max_length", None, "the number of tokens a text, needed by kind = 'text'", file)
        if "tokenizer" not in table and models[table["teacher"]].source is None:
            raise ValueError(
                f"{file}: tokenizer is missing, and the teacher {table['teacher']} has no source to take it from. "
                "Name one on the hub, or a folder."
            )
    return Task(**{**table, "models": models})


def _as_model(name: str, table: dict[str, Any], file: Path) -> Model:
    if ("source" in table) == ("config" in table):
        raise ValueError(
            f"{file}: models.{name} has {'both' if 'source' in table else 'neither'} of source and config. Give one: "
            "pretrained weights (hub name or folder), or a configuration to initialise."
        )
    if "config" in table and not isinstance(table["config"].get("model_type"), str):
        raise ValueError(f"{file}: models.{name}.config has no model_type. Add one, such as model_type = 'vit'.")
    if "config" in table:
        try:
            canonical_json(table["config"])
        except ValueError as error:
            raise ValueError(f"{file}: models.{name}.config: {error}") from error
    model = Model(name=name, **{"defaults": {}, **table})
    if model.is_local:
        folder = Path(str(model.source))
        if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
            raise ValueError(
                f"{file}: models.{name}.source = {str(folder)!r} is not a folder with config.json and *.safetensors. "
                "Write one with model.save_pretrained(folder)."
            )
    return model


def load_data(task: Task) -> Data:
    """The task's arrays. Raises ValueError where the dataset is not what the task says."""
    if task.dataset == "digits":
        splits, class_names = {"train": _digits()}, None
    else:
        splits, class_names = _read_dataset(task)
    pool, dev_indices = splits["train"], None
    if task.test_fraction is not None:
        _check_classes(task, pool, task.train_split)
        test_indices = _stratified(pool.labels, round(task.test_fraction * len(pool)))
        splits["test"] = pool.take(test_indices)
        pool = pool.take(np.setdiff1d(np.arange(len(pool)), test_indices, assume_unique=True))
    if "dev" in splits:
        dev = splits["dev"]
        _check_classes(task, dev, str(task.dev_split))
        dev_indices = np.arange(len(pool), len(pool) + len(dev))
    _check_classes(task, pool, task.train_split)
    _check_classes(task, splits["test"], task.test_split)
    if "dev" in splits:
        dev = splits["dev"]
        arrays = {name: np.concatenate([pool.arrays[name], dev.arrays[name]]) for name in pool.arrays}
        pool = Split(arrays, np.concatenate([pool.labels, dev.labels]))
    return Data(
        kind=task.kind,
        num_classes=task.num_classes,
        class_names=task.class_names or class_names,
        pool=pool,
        test=splits["test"],
        dev_indices=dev_indices,
        dev_fraction=task.dev_fraction,
        fingerprint=_fingerprint(pool, splits["test"], dev_indices),
    )


def _digits() -> Split:
    """scikit-learn's 1797 handwritten digits of 8 x 8 pixels, 0..16 stretched to the 8 bits of every other image."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    image = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return Split({"image": image[:, None]}, digits.target.astype(np.int64))


def _stratified(labels: Int64[np.ndarray, "sample"], num_held_out: int) -> Int64[np.ndarray, "held_out"]:
    """Sorted indices of `num_held_out` samples in which every class has its share; always the same ones."""
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(n_splits=1, test_size=num_held_out, random_state=SPLIT_SEED)
    _, held_out = next(splitter.split(np.zeros((len(labels), 0)), labels))
    return np.sort(held_out)


def _fingerprint(pool: Split, test: Split, dev_indices: np.ndarray | None) -> str:
    digest = hashlib.sha256()
    arrays = {"labels": pool.labels, "test_labels": test.labels, **pool.arrays}
    arrays |= {f"test_{name}": array for name, array in test.arrays.items()}
    if dev_indices is not None:
        arrays["dev_indices"] = dev_indices
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _one_of(what: str, value: Any, choices: Any, where: str) -> None:
    if value not in choices:
        raise ValueError(f"{where}: {what} is one of {', '.join(choices)}, got {value!r}.")


def _require(holds: bool, key: str, value: Any, expected: str, file: Path) -> None:
    if not holds:
        raise ValueError(f"{file}: {key} is {expected}, got {value!r}.")


def _check_name(key: str, value: str, file: Path) -> None:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{file}: {key} is made of letters, digits, '.', '_' and '-', got {value!r}.")


def _valid_names(name: str, choices: Any) -> str:
    near = difflib.get_close_matches(name, choices, 1)
    return (f"Did you mean {near[0]}? " if near else "") + f"Valid: {', '.join(choices)}."


def _check_classes(task: Task, split: Split, name: str) -> None:
    """Every class is there, in every split, often enough to be divided."""
    where = f"{task.name}: split {name!r} of {task.dataset}"
    if len(split) == 0:
        raise ValueError(f"{where} has no samples.")
    counts = np.bincount(split.labels, minlength=task.num_classes)
    absent = np.flatnonzero(counts == 0).tolist()
    if absent:
        raise ValueError(f"{where} has no sample of class {', '.join(map(str, absent))}.")


def _read_dataset(task: Task) -> tuple[dict[str, Split], tuple[str, ...] | None]:
    raise NotImplementedError


def _data_digest(task: Task) -> Any:
    raise NotImplementedError
