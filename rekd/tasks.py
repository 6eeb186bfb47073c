"""A task: a dataset, its columns and splits, and the models that are trained on it; and the arrays that it stands for.

`load_task` reads one (embedded, or a TOML file of the user's), `Task.trial` makes its trials, `load_data` its arrays.
Planning a sweep needs the first two only: they import no library for data or models.
"""

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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from jaxtyping import Int64

from rekd.trial import FIDELITY, RE_FIELDS, REKD_FIELDS, Objective, Trial, canonical_json, digest_of, plain_type

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
    """Fields of `Trial` where this model differs from its task; a table `re`, `rekd` or `cls` is for that objective."""

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
    """Side in pixels to which images are resized when they are read; None for images that are of one size."""
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
        """What the name stands for: all that changes arrays or splits. Never paths, models or training defaults."""
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

    def trial(self, objective: Objective, model: str, *, seed: int, fidelity: str = "paper", **overrides: Any) -> Trial:
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

        values = {**self.defaults_of(objective, model), **FIDELITY[fidelity], **overrides}
        return Trial(
            task=self.name,
            task_digest=self.digest,
            model=model,
            model_digest=self.models[model].digest,
            objective=objective,
            seed=seed,
            **values,
        )

    def defaults_of(self, objective: Objective, model: str) -> dict[str, Any]:
        """Fields of `Trial` that the task file sets for this model and objective."""
        tables = (self.defaults, self.models[model].defaults)
        values: dict[str, Any] = {}
        for table in (*tables, *(table.get(objective, {}) for table in tables)):
            values.update({name: value for name, value in table.items() if name in _trial_fields(objective)})
        return values


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
    if "test_split" in child:
        parent.pop("test_fraction", None)
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
    """Defaults with `above` over `below`. A value for all objectives replaces also what `below` says for one."""
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
    """Names and types: every key is a field that a default makes sense for, or an objective's table of them."""
    for name, value in defaults.items():
        if name not in get_args(Objective):
            _check_default(defaults, name, (*_DEFAULTS, *get_args(Objective)), where, file)
            continue
        if not isinstance(value, dict):
            raise ValueError(f"{file}: {where}.{name} is a table, got {value!r}. Write {where}.{name}.FIELD = VALUE.")
        for field in value:
            of_objective = [default for default in _DEFAULTS if default in _trial_fields(name)]
            _check_default(value, field, of_objective, f"{where}.{name}", file)


def _check_default(table: dict[str, Any], name: str, valid: Sequence[str], where: str, file: Path) -> None:
    """Leaves a float where the field is one: TOML's 1 and 1.0 are one setting."""
    if name not in valid:
        raise ValueError(f"{file}: {where}.{name} is not a default of these trials. {_valid_names(name, valid)}")
    kind = next(plain_type(field.type) for field in fields(Trial) if field.name == name)
    if isinstance(table[name], bool) or not isinstance(table[name], (int, float) if kind is float else kind):
        raise ValueError(f"{file}: {where}.{name} is {_KIND_NAMES[kind]}, got {table[name]!r}.")
    table[name] = kind(table[name])


def _check_values(task: Task, file: Path) -> None:
    """Makes the trials of every model, so that a wrong number is noticed before anything starts."""
    identity = dict.fromkeys(("task", "task_digest", "model", "model_digest"), "-")
    # Numbers that a sweep may bring itself.
    from_sweep = {"p_target": 0.5, "lambda_select": 1.0, "teacher_digest": "-"}
    for model in task.models:
        for objective in get_args(Objective):
            used = _trial_fields(objective)
            values = {k: v for k, v in {**from_sweep, **task.defaults_of(objective, model)}.items() if k in used}
            try:
                Trial(**identity, objective=objective, seed=0, **values)
            except ValueError as error:
                raise ValueError(f"{file}: defaults of {model} for {objective}: {error}") from error


def _trial_fields(objective: str) -> list[str]:
    """Fields that an objective's trials have, beside their identity."""
    return [name for name in _OVERRIDES if name in _USED_FIELDS[objective] or name not in RE_FIELDS + REKD_FIELDS]


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
            f"{file}: {key} = {value!r} leaves the folder of the task file. "
            "Move what it names there, or give an absolute path."
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

    if table["dataset"] in EMBEDDED_DATASETS:
        needed = {"kind": "image", "image_mode": "L", "num_classes": 10, "image_size": None, "dev_split": None}
        for key, value in needed.items():
            _require(table.get(key) == value, key, table.get(key), f"{value!r} for the dataset 'digits'", file)
        _require("test_fraction" in table, "test_fraction", None, "needed by 'digits', which has no test split", file)
    if table["kind"] == "text":
        _require(
            "max_length" in table, "max_length", None, "the number of tokens a text, needed by kind = 'text'", file
        )
        if "tokenizer" not in table and models[table["teacher"]].source is None:
            raise ValueError(
                f"{file}: tokenizer is missing, and the teacher {table['teacher']} has no source to take it from. "
                "Name one on the hub, or a folder."
            )
    task = Task(**{**table, "models": models})
    _check_values(task, file)
    return task


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
        splits, class_names = {"train": _digits()}, task.class_names
    else:
        splits, class_names = _read_dataset(task)
    for role, name in _roles(task).items():
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


def _digits() -> Split:
    """scikit-learn's 1797 handwritten digits of 8 x 8 pixels, 0..16 stretched to the 8 bits of every other image."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    image = np.rint(np.asarray(pixels) * (255 / 16)).astype(np.uint8)
    return Split({"image": image.reshape(-1, 1, 8, 8)}, np.asarray(labels, dtype=np.int64))


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
        digest.update(np.ascontiguousarray(array).data)
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


def _check_classes(task: Task, split: Split, name: str, class_names: tuple[str, ...] | None) -> None:
    """Every class is there, in every split."""
    where = f"{task.name}: split {name!r} of {task.dataset}"
    if len(split) == 0:
        raise ValueError(f"{where} has no samples. Fill it, or name another one in the task file.")
    counts = np.bincount(split.labels, minlength=task.num_classes)
    shown = [_class_name(number, class_names) for number in np.flatnonzero(counts == 0).tolist()]
    if shown:
        present = int(np.count_nonzero(counts))
        raise ValueError(
            f"{where} has samples of {present} of {task.num_classes} classes, none of {_shortened(shown)}. "
            "Add some, or correct num_classes."
        )


def _class_name(number: int, class_names: tuple[str, ...] | None) -> str:
    return f"class {number}" + (f" ({class_names[number]})" if class_names else "")


def _roles(task: Task) -> dict[str, str]:
    """Which of the dataset's splits are read: its name by what it is used for."""
    roles = {"train": task.train_split}
    if task.dev_split is not None:
        roles["dev"] = task.dev_split
    if task.test_fraction is None:
        roles["test"] = task.test_split
    return roles


def _read_dataset(task: Task) -> tuple[dict[str, Split], tuple[str, ...] | None]:
    """Splits by role, and the names of the classes where the dataset has them."""
    with _quiet():
        tables = _read_local(task) if Path(task.dataset).is_absolute() else _read_hub(task)
        wanted = [task.input_column, task.label_column]
        for role, name in _roles(task).items():
            for column in wanted:
                if column not in tables[role].column_names:
                    raise ValueError(
                        f"{task.name}: split {name!r} of {task.dataset} has no column {column!r}, "
                        f"but {_shortened(tables[role].column_names)}. Set input_column and label_column."
                    )
            tables[role] = tables[role].select_columns(wanted)
        labels, class_names = _labels(task, tables)
        read = _images if task.kind == "image" else _texts
        arrays = read(task, tables)
    sizes = {array.shape[1:] for of_role in arrays.values() for array in of_role.values()}
    if len(sizes) > 1:
        shown = _shortened([f"{width} x {height}" for _, height, width in sorted(sizes)])
        raise ValueError(
            f"{task.name}: {task.dataset} has images of {shown} pixels in its splits. "
            "Set image_size to the side that all are resized to."
        )
    return {role: Split(arrays[role], labels[role]) for role in tables}, class_names


def _read_hub(task: Task) -> "dict[str, datasets.Dataset]":
    import datasets

    instead = f"a TOML file with extends = {task.name!r} and dataset = '/path/to/folder', and name it with --task"
    with hub("dataset", task.dataset, revision=task.revision, instead=instead) as name:
        splits = datasets.load_dataset(name, task.config_name, revision=task.revision)
    return {role: _split_named(task, splits, name) for role, name in _roles(task).items()}


def _split_named(task: Task, splits: Any, name: str) -> Any:
    if name not in splits:
        raise ValueError(
            f"{task.name}: {task.dataset} has no split {name!r}, but {_shortened(list(splits))}. "
            "Set train_split, dev_split and test_split, or a test_fraction of the training split."
        )
    return splits[name]


def _read_local(task: Task) -> "dict[str, datasets.Dataset]":
    """Any of: a folder of `save_to_disk`; Parquet, CSV or JSON; `split/class/image` folders."""
    import datasets

    files = _local_files(task)
    path = Path(task.dataset)
    if _is_saved(path):
        saved = {role: _saved_folder(path, name) for role, name in _roles(task).items()}
        try:
            return {role: datasets.Dataset.load_from_disk(folder) for role, folder in saved.items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{task.name}: {path} cannot be read as a folder of save_to_disk: {error}") from error
    if files["train"][0].suffix.lower() in _TABLE_SUFFIXES:
        return {role: _read_tables(task, of_role) for role, of_role in files.items()}

    names = {
        role: [_class_folder(task, file, _roles(task)[role]) for file in of_role] for role, of_role in files.items()
    }
    classes = sorted({name for of_role in names.values() for name in of_role})
    features = datasets.Features(
        {task.input_column: datasets.Image(), task.label_column: datasets.ClassLabel(names=classes)}
    )
    return {
        role: datasets.Dataset.from_dict(
            {task.input_column: list(map(str, of_role)), task.label_column: names[role]}, features=features
        )
        for role, of_role in files.items()
    }


def _is_saved(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _saved_folder(path: Path, split: str) -> Path:
    return path / split if (path / "dataset_dict.json").is_file() else path


def _local_files(task: Task) -> dict[str, list[Path]]:
    """The files that are read for each role, in their order. Raises ValueError where a split has none."""
    path = Path(task.dataset)
    if not path.exists():
        raise ValueError(f"{task.name}: the dataset {path} does not exist. Correct `dataset` in the task file.")
    roles = _roles(task)
    if _is_saved(path):
        return _saved_files(task, path)
    if path.is_file():
        if path.suffix.lower() not in _TABLE_SUFFIXES:
            raise ValueError(f"{task.name}: {path} is none of {', '.join(_TABLE_SUFFIXES)}. Convert it to one of them.")
        everything = [path]
        splits = {task.train_split: everything}
    else:
        visible = (
            file
            for file in sorted(path.rglob("*"))
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        everything = [file for file in visible if file.suffix.lower() in (*_TABLE_SUFFIXES, *_IMAGE_SUFFIXES)]
        images = [file for file in everything if file.suffix.lower() in _IMAGE_SUFFIXES]
        # A table beside images is their metadata, which nothing here reads.
        everything = images or everything
        if not everything:
            raise ValueError(
                f"{task.name}: the folder {path} holds no dataset. It is one of save_to_disk, or holds images as "
                f"split/class/image, or files that end in {', '.join(_TABLE_SUFFIXES)}."
            )
        splits = {}
        for file in everything:
            splits.setdefault(_split_of(file.relative_to(path), list(roles.values())), []).append(file)
        if list(splits) == [None] and task.test_fraction is not None:
            splits = {task.train_split: everything}
    for name in roles.values():
        if name not in splits:
            shown = _shortened([str(file.relative_to(path)) for file in everything]) if path.is_dir() else path.name
            raise ValueError(
                f"{task.name}: {path} has no file for the split {name!r}, but {shown}. Name files or folders after "
                "their split, set train_split, dev_split and test_split, or a test_fraction of the training split."
            )
    return {role: splits[name] for role, name in roles.items()}


def _saved_files(task: Task, path: Path) -> dict[str, list[Path]]:
    try:
        if (path / "dataset_dict.json").is_file():
            available = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        else:
            available = [task.train_split]
        files = {}
        for role, name in _roles(task).items():
            _split_named(task, dict.fromkeys(available), name)
            folder = _saved_folder(path, name)
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            names = [file["filename"] for file in state["_data_files"]]
            if any(Path(file).name != file for file in names):
                raise ValueError(
                    f"{task.name}: {folder / 'state.json'} names files outside its folder: {_shortened(names)}."
                )
            files[role] = [folder / file for file in names]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{task.name}: {path} cannot be read as a folder of save_to_disk: {error}") from error
    return files


def _split_of(file: Path, names: Sequence[str]) -> str | None:
    """The split that a file belongs to, by its name (`train-00000-of-00002.parquet`), else by its innermost folder."""
    for part in reversed(file.parts):
        found = [name for name in names if re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", part)]
        if found:
            return max(found, key=len)
    return None


def _class_folder(task: Task, file: Path, split: str) -> str:
    """The folder just below the split's, or below the dataset's where there is no folder for a split."""
    parts = file.relative_to(task.dataset).parts
    below = parts[parts.index(split) + 1 :] if split in parts else parts
    if len(below) < 2:
        raise ValueError(
            f"{task.name}: the image {file} is in no class's folder. Arrange {task.dataset} as split/class/image."
        )
    return below[0]


def _data_digest(task: Task) -> dict[str, Any]:
    """Content of a local dataset, by role: never where it is, nor what its files are called."""
    path = Path(task.dataset)
    content: dict[str, Any] = {}
    for role, files in _local_files(task).items():
        name = _roles(task)[role]
        content[role] = [_sha256(file) for file in files]
        if _is_saved(path):
            # The rest of that file (names of builders, download sizes) differs between copies of the same data.
            info = json.loads((_saved_folder(path, name) / "dataset_info.json").read_text(encoding="utf-8"))
            content[role].append(digest_of(info["features"]))
        elif files[0].suffix.lower() in _IMAGE_SUFFIXES:
            content[role] = [
                [_class_folder(task, file, name), sha] for file, sha in zip(files, content[role], strict=True)
            ]
    return content


def _read_tables(task: Task, files: Sequence[Path]) -> "datasets.Dataset":
    import datasets
    import pyarrow as pa

    tables = []
    for file in files:
        try:
            tables.append(_read_table(task, file))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{task.name}: {file} cannot be read: {_one_line(error)}") from error
    try:
        return datasets.Dataset(pa.concat_tables(tables, promote_options="default"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{task.name}: {files[0].parent} cannot be read as one table: {_one_line(error)}") from error


def _read_table(task: Task, file: Path) -> Any:
    import pyarrow as pa
    from pyarrow import csv, parquet

    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return parquet.read_table(file)
    if suffix in (".csv", ".tsv"):
        # Reviews contain line breaks. A text of digits is a text.
        parse = csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True)
        types = {task.input_column: pa.string()} if task.kind == "text" else {}
        return csv.read_csv(file, parse_options=parse, convert_options=csv.ConvertOptions(column_types=types))
    text = file.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is not a list of objects, nor one object a line.")
    return pa.Table.from_pylist(rows)


def _labels(task: Task, tables: "dict[str, datasets.Dataset]") -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Class numbers by role, and the names of the classes where the dataset has them."""
    import datasets

    column = task.label_column
    roles = _roles(task)
    values = {role: list(table[column]) for role, table in tables.items()}
    names = task.class_names
    feature = tables["train"].features[column]
    if isinstance(feature, datasets.ClassLabel):
        names = names or tuple(feature.names)
        if any(table.features[column] != feature for table in tables.values()):
            raise ValueError(f"{task.name}: column {column!r} of {task.dataset} names other classes in other splits.")
    elif all(isinstance(value, str) for of_role in values.values() for value in of_role):
        names = names or tuple(sorted({value for of_role in values.values() for value in of_role}))
        numbers = {name: number for number, name in enumerate(names)}
        for role, of_role in values.items():
            for row, value in enumerate(of_role):
                if value not in numbers:
                    raise ValueError(
                        f"{_row(task, roles[role], row)}: label {value!r} is none of the class_names "
                        f"{_shortened(names)}. Correct one of them."
                    )
            values[role] = [numbers[value] for value in of_role]
    if names is not None and len(names) != task.num_classes:
        raise ValueError(
            f"{task.name}: num_classes is {task.num_classes}, but column {column!r} of {task.dataset} has {len(names)} "
            f"classes: {_shortened(names)}. Correct num_classes or label_column."
        )
    for role, of_role in values.items():
        for row, value in enumerate(of_role):
            if not isinstance(value, int):
                raise ValueError(
                    f"{_row(task, roles[role], row)}: label {value!r} of column {column!r} is neither a whole number "
                    "nor a text. Correct it, or name another label_column."
                )
            if not 0 <= value < task.num_classes:
                raise ValueError(
                    f"{_row(task, roles[role], row)}: label {value} is outside 0 to {task.num_classes - 1}. "
                    "Count classes from 0, and correct num_classes."
                )
    return {role: np.array(of_role, dtype=np.int64) for role, of_role in values.items()}, names


def _texts(task: Task, tables: "dict[str, datasets.Dataset]") -> dict[str, dict[str, np.ndarray]]:
    """Token numbers and which of them are tokens, by role."""
    tokenizer = load_tokenizer(task)
    assert task.max_length is not None
    for role, name in _roles(task).items():
        for row, text in enumerate(tables[role][task.input_column]):
            if not isinstance(text, str) or not text.strip():
                got = "an empty text" if isinstance(text, str) else _shown(text)
                raise ValueError(
                    f"{_row(task, name, row)}: column {task.input_column!r} holds {got}, from which nothing can be "
                    "selected. Remove the row, or name another input_column."
                )
    arrays = {}
    for role, table in tables.items():
        input_ids = np.zeros((len(table), task.max_length), dtype=np.int32)
        valid = np.zeros((len(table), task.max_length), dtype=np.uint8)
        for start in range(0, len(table), 1000):
            texts = table[start : start + 1000][task.input_column]
            tokens = tokenizer(texts, truncation=True, padding="max_length", max_length=task.max_length)
            input_ids[start : start + 1000] = tokens["input_ids"]
            valid[start : start + 1000] = tokens["attention_mask"]
        arrays[role] = {"input_ids": input_ids, "valid": valid}
    return arrays


def load_tokenizer(task: Task) -> "transformers.PreTrainedTokenizerBase":
    """The tokenizer of a text task. Raises ValueError where there is none, or it does not fit a model of the task."""
    import transformers

    source, revision = task.tokenizer_source
    with _quiet():
        if Path(source).is_absolute():
            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    source, local_files_only=True, trust_remote_code=False
                )
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{task.name}: the tokenizer {source} cannot be read: {_one_line(error)}. "
                    "Write the folder with tokenizer.save_pretrained(folder)."
                ) from error
        else:
            instead = f"a TOML file with extends = {task.name!r} and tokenizer = '/path/to/folder'"
            with hub("model", source, revision=revision, instead=instead):
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    source, revision=revision or "main", trust_remote_code=False
                )
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"{task.name}: the tokenizer {source} has no padding token. Add one, or use another tokenizer."
        )
    for model in task.models.values():
        config = _known_config(model)
        if config.get("vocab_size", math.inf) < len(tokenizer):
            raise ValueError(
                f"{task.name}: the tokenizer {source} has {len(tokenizer)} tokens, but the model {model.name} knows "
                f"{config['vocab_size']}. Use the tokenizer that the model was trained with."
            )
        if config.get("max_position_embeddings", math.inf) < (task.max_length or 0):
            raise ValueError(
                f"{task.name}: max_length is {task.max_length}, but the model {model.name} has "
                f"{config['max_position_embeddings']} positions. Give a max_length that it can take."
            )
    return tokenizer


def _known_config(model: Model) -> dict[str, Any]:
    """The model's configuration as far as it is known without the network."""
    if model.config is not None:
        return model.config
    if not model.is_local:
        return {}
    file = Path(str(model.source)) / "config.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"The configuration {file} of the model {model.name} cannot be read: {error}") from error


def _images(task: Task, tables: "dict[str, datasets.Dataset]") -> dict[str, dict[str, np.ndarray]]:
    """Pixels by role, each image in the task's mode."""
    return {role: {"image": _pixels(task, tables[role], name)} for role, name in _roles(task).items()}


def _pixels(task: Task, table: "datasets.Dataset", split: str) -> np.ndarray:
    import datasets

    column = task.input_column
    feature = table.features[column]
    encoded = isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature)
    if isinstance(feature, datasets.Image):
        table = table.cast_column(column, datasets.Image(decode=False))
    pixels: np.ndarray = np.zeros((0, 1 if task.image_mode == "L" else 3, 0, 0), dtype=np.uint8)
    for row, value in enumerate(table[column]):
        image = _decoded(task, value, split, row) if encoded else _from_numbers(task, value, split, row)
        if image.mode.startswith(("I", "F")):
            raise ValueError(
                f"{_row(task, split, row)}: the image is of mode {image.mode!r}, more than 8 bits a pixel. "
                "Scale it to 0..255 and save it with 8 bits."
            )
        image = image.convert(task.image_mode)
        if task.image_size is not None:
            image = image.resize((task.image_size, task.image_size), resample=2)  # 2 is bilinear
        array = np.asarray(image)
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        if row == 0:
            pixels = np.zeros((len(table), *array.shape), dtype=np.uint8)
        if array.shape != pixels.shape[1:]:
            raise ValueError(
                f"{_row(task, split, row)}: the image has {array.shape[2]} x {array.shape[1]} pixels, "
                f"the one of row 0 has {pixels.shape[3]} x {pixels.shape[2]}. "
                "Set image_size to the side that all are resized to."
            )
        pixels[row] = array
    return pixels


def _decoded(task: Task, value: Any, split: str, row: int) -> Any:
    """A PIL image of an encoded one (PNG, JPEG, ...)."""
    import datasets
    import PIL.Image

    if value is None or (value.get("bytes") is None and value.get("path") is None):
        raise ValueError(f"{_row(task, split, row)}: the image is missing. Remove the row.")
    if value.get("bytes") is None and not _may_be_opened(task, value["path"]):
        # A table from somewhere may name any file of this machine, or an address.
        raise ValueError(
            f"{_row(task, split, row)}: the image is the path {value['path']!r}, not its bytes. "
            "Write the dataset with save_to_disk or to_parquet, which embed images."
        )
    try:
        return datasets.Image().decode_example(value)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(
            f"{_row(task, split, row)}: the image cannot be decoded: {_one_line(error)}. Remove it."
        ) from error


def _may_be_opened(task: Task, path: str) -> bool:
    local = Path(task.dataset)
    return not local.is_absolute() or (local.is_dir() and not _is_saved(local) and Path(path).is_relative_to(local))


def _from_numbers(task: Task, value: Any, split: str, row: int) -> Any:
    """A PIL image of rows of pixels: [height, width] or [height, width, channel] of whole numbers 0..255."""
    import PIL.Image

    where = f"{_row(task, split, row)}: column {task.input_column!r}"
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{where} has rows of pixels of different lengths. Correct or remove the image.") from error
    if array.dtype.kind == "f":
        got = f"{np.count_nonzero(np.isnan(array))} NaN" if np.isnan(array).any() else f"values like {array.flat[0]:g}"
        raise ValueError(f"{where} holds fractional pixels ({got}). Give 8-bit pixels: whole numbers 0..255.")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{where} holds {_shown(value)}, which is no image. Set input_column to the images' column.")
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise ValueError(
            f"{where} is of shape {array.shape}. Give [height, width] or [height, width, 1 or 3 channels]."
        )
    if array.min() < 0 or array.max() > 255:
        raise ValueError(f"{where} has pixels of {array.min()} to {array.max()}. Give 8-bit pixels: 0..255.")
    array = array.astype(np.uint8)
    return PIL.Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


@contextmanager
def hub(
    repo_type: Literal["dataset", "model"], name: str, *, revision: str | None = None, instead: str
) -> Iterator[str]:
    """Use of the Hugging Face Hub that is quiet, and quick where there is no network.

    Asks once whether `name` can be reached. If not, what runs inside sees only what was downloaded before; the
    libraries would otherwise try for up to a minute. Yields the name as it is now: `cifar10` has become
    `uoft-cs/cifar10`, and `datasets` refuses a name without owner. `instead` says what to write to use a local folder. Raises
    ValueError, one line, for whatever the libraries raise inside.
    """
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import HFValidationError, httpx

    looked = f"the {repo_type} {name!r}" + (f" (revision {revision!r})" if revision else "")
    where = f"the Hugging Face Hub ({constants.ENDPOINT})"
    advice = f"To use a local folder, write {instead}."
    offline, present_name = None, name
    try:
        present_name = huggingface_hub.HfApi().repo_info(name, repo_type=repo_type, revision=revision, timeout=5).id
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ValueError(
            f"Looked for {looked} on {where}: it is not there, or not open to you. Correct the name. {advice}"
        ) from error
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        offline = error
    with _quiet(), _offline(offline is not None):
        try:
            yield present_name
        except Exception as error:  # these libraries have no common base for what they raise
            if offline is None:
                raise ValueError(f"Cannot read {looked} from {where}: {_one_line(error)}. {advice}") from error
            raise ValueError(
                f"Looked for {looked} on {where}, which cannot be reached ({_one_line(offline)}), and in "
                f"{constants.HF_HOME}, where it is not. {advice}"
            ) from error


@contextmanager
def _offline(active: bool) -> Iterator[None]:
    from datasets import config
    from huggingface_hub import constants

    # Both libraries read their environment variables once, at import: the constants are what can still be changed.
    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    if active:
        constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, log lines or warnings of the Hugging Face libraries."""
    import datasets

    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub", "transformers", "httpx", "PIL")]
    levels = [logger.level for logger in loggers]
    bars = not datasets.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars:
            datasets.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _row(task: Task, split: str, row: int) -> str:
    return f"{task.name}: {task.dataset}, split {split!r}, row {row}"


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:10])} and {len(names) - 10} more"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} ..."


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]} ..."
