"""A task's TOML file: read, merged with what it extends, checked, and its paths made absolute.

What comes out is a table of the fields of `rekd.tasks.task.Task`; every mistake is a ValueError of one line with the file's
name in it.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args

from rekd.messages import check_one_of, valid_names
from rekd.schedule import told, under
from rekd.tasks.embedded import EMBEDDED_DATASETS, NEEDED
from rekd.tasks.local_files import TABLE_SUFFIXES
from rekd.tasks.marked_digits import percent_of
from rekd.trial import FIDELITY, Objective, Trial, canonical_json, is_read, plain_type

Kind = Literal["image", "text"]

TASK_FILES = Path(__file__).parent / "task_files"
"""The embedded tasks."""

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
    "seeds": tuple,
    "teacher_seeds": tuple,
    "rationale_column": str,
    "models": dict,
    "defaults": dict,
}
_MODEL_TYPES: dict[str, Any] = {"source": str, "revision": str, "config": dict, "tokenizer": str, "defaults": dict}
_REQUIRED = ("kind", "dataset", "input_column", "num_classes", "teacher", "students", "models")
_KIND_NAMES = {str: "text", float: "a number", int: "a whole number", list: "a list of texts", dict: "a table"}

_IDENTITY_FIELDS = ("task", "task_digest", "model", "model_digest", "objective", "seed")

OVERRIDES = tuple(field.name for field in fields(Trial) if field.name not in _IDENTITY_FIELDS)
"""Fields of `Trial` that a caller may set against a task's defaults."""

_OF_RUNS = ("teacher_digest", "further_teachers")
_DEFAULTS = tuple(name for name in OVERRIDES if name not in FIDELITY["paper"] and name not in _OF_RUNS)

_MAX_SEEDS = 10_000
_SEEDS = re.compile(r"(\d{1,10})(?:\s*-\s*(\d{1,10}))?")
_SHARE = re.compile(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def task_names() -> list[str]:
    """Names of the embedded tasks, sorted."""
    return sorted(file.stem for file in TASK_FILES.glob("*.toml"))


def read_task_file(file: Path) -> dict[str, Any]:
    """The fields of `Task` that a file sets, models as tables. Raises ValueError on anything that is not as it should be."""
    table = _read(file, ())
    for model in table.get("models", {}).values():
        model.setdefault("defaults", {})
    _check_task(table, file)
    return table


def _read(file: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
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
    for key in ("seeds", "teacher_seeds"):
        if key in table:
            table[key] = _seeds_of(table[key], key, file)
    _tell_moves(table, file)
    _check_keys(table, file)
    _resolve_paths(table, file)

    parent = table.pop("extends", None)
    if parent is None:
        table.setdefault("name", file.stem)
        return {**table, "defaults": _merged(PAPER_DEFAULTS, table.get("defaults", {}))}
    if parent in task_names():
        return _merged_tasks(_read(TASK_FILES / f"{parent}.toml", seen), table)
    if not parent.endswith(".toml"):
        raise ValueError(
            f"{file}: extends is one of {', '.join(task_names())} or a file that ends in .toml, got {parent!r}."
        )
    return _merged_tasks(_read(_followed(parent, "extends", file), (*seen, file)), table)


def _tell_moves(table: dict[str, Any], file: Path) -> None:
    """Writes each default that moves, a text or a table, as the two fields that it stands for."""
    models = table.get("models", {})
    for holder in (table, *(models.values() if isinstance(models, dict) else ())):
        defaults = holder.get("defaults") if isinstance(holder, dict) else None
        if not isinstance(defaults, dict):
            continue  # which is refused below, by its name
        try:
            defaults = told(defaults)
            nested = {
                name: told(defaults[name]) for name in get_args(Objective) if isinstance(defaults.get(name), dict)
            }
        except ValueError as error:
            raise ValueError(f"{file}: defaults: {error}") from error
        holder["defaults"] = defaults | nested


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
        merged[name] = under(value, above) if isinstance(value, dict) else value
    merged = {**under(merged, above), **{name: merged[name] for name in get_args(Objective) if name in merged}}
    for name, value in above.items():
        merged[name] = {**under(merged.get(name, {}), value), **value} if isinstance(value, dict) else value
    return merged


def _resolve_paths(table: dict[str, Any], file: Path) -> None:
    """Replaces every path by an absolute one, and leaves names on the hub as they are."""
    if "dataset" in table and table["dataset"] not in EMBEDDED_DATASETS:
        table["dataset"] = _resolved(table["dataset"], "dataset", file)
    if "tokenizer" in table:
        table["tokenizer"] = _resolved(table["tokenizer"], "tokenizer", file)
    for name, model in table.get("models", {}).items():
        for key in ("source", "tokenizer"):
            if key in model:
                model[key] = _resolved(model[key], f"models.{name}.{key}", file)


def _resolved(value: str, key: str, file: Path) -> str:
    """Absolute path of what `value` names on this machine, else `value` itself: a name on the hub."""
    path = _followed(value, key, file)
    is_path = Path(value).is_absolute() or value.startswith((".", "~")) or path.suffix in TABLE_SUFFIXES
    if path.exists():
        return str(path)
    if is_path or not _HUB_NAME.fullmatch(value):
        raise ValueError(
            f"{file}: {key} = {value!r} is neither a file or folder ({path} does not exist) "
            "nor a name on the Hugging Face Hub (owner/name). Correct the path."
        )
    return value


def _followed(value: str, key: str, file: Path) -> Path:
    """An absolute path or one from `~` as it is, for it is the user's own word; any other below the file's folder.

    By its text alone: a symbolic link there is the user's own decision.
    """
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{file}: {key} = {value!r} names a home folder that is not there. Correct the path."
        ) from error
    if path.is_absolute():
        return path
    if ".." in Path(value).parts:
        raise ValueError(
            f"{file}: {key} = {value!r} leaves the folder of the task file. "
            "Move what it names there, or give an absolute path."
        )
    return file.parent / value


def _check_keys(table: dict[str, Any], file: Path) -> None:
    _check_table(table, _TASK_TYPES, "", file)
    _check_defaults(table.get("defaults", {}), "defaults", file)
    for name, model in table.get("models", {}).items():
        _check_name(f"models.{name}", name, file)
        if not isinstance(model, dict):
            raise ValueError(f"{file}: models.{name} is a table, got {model!r}. Write [models.{name}] above its keys.")
        _check_table(model, _MODEL_TYPES, f"models.{name}.", file)
        _check_defaults(model.get("defaults", {}), f"models.{name}.defaults", file)


def seeds_in(text: str) -> tuple[int, ...]:
    """`2026-2035`, `2026,2027` or both: whole numbers, each once. Raises ValueError."""
    seeds: list[int] = []
    for part in text.split(","):
        found = _SEEDS.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"seeds are whole numbers such as 2026-2035 or 2026,2027, got {text!r}.")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ValueError(f"seeds from {first} to {last} are none. A range runs upwards, such as 2026-2035.")
        if last - first >= _MAX_SEEDS:
            raise ValueError(f"seeds from {first} to {last} are more than {_MAX_SEEDS:,}. Is it a digit too many?")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {text!r} name one twice. A seed runs once.")
    return tuple(seeds)


def _seeds_of(value: Any, key: str, file: Path) -> tuple[int, ...]:
    """Reads the seeds of a text such as "2026-2035", or of a list of whole numbers."""
    if not isinstance(value, str):
        if not isinstance(value, list) or not all(type(seed) is int for seed in value):
            raise ValueError(f"{file}: {key} is a text such as '2026-2035' or a list of whole numbers, got {value!r}.")
        value = ",".join(map(str, value))
    try:
        return seeds_in(value)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _check_table(table: dict[str, Any], types: dict[str, Any], prefix: str, file: Path) -> None:
    for key, value in table.items():
        if key not in types:
            raise ValueError(f"{file}: {prefix}{key} is not a key of a task. {valid_names(key, types)}")
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
            of_objective = [default for default in _DEFAULTS if default in trial_fields(name)]
            _check_default(value, field, of_objective, f"{where}.{name}", file)


def _check_default(table: dict[str, Any], name: str, valid: Sequence[str], where: str, file: Path) -> None:
    """Leaves a float where the field is one: TOML's 1 and 1.0 are one setting, and so are "1/4" and 0.25."""
    if name not in valid:
        raise ValueError(f"{file}: {where}.{name} is not a default of these trials. {valid_names(name, valid)}")
    if name == "p_target" and isinstance(table[name], str):
        table[name] = _share(table[name], f"{file}: {where}.{name}")
    kind = next(plain_type(field.type) for field in fields(Trial) if field.name == name)
    if isinstance(table[name], bool) or not isinstance(table[name], (int, float) if kind is float else kind):
        raise ValueError(f"{file}: {where}.{name} is {_KIND_NAMES[kind]}, got {table[name]!r}.")
    table[name] = kind(table[name])


def _share(text: str, where: str) -> float:
    """A share that is written as so many features of so many, such as "3/36"."""
    found = _SHARE.fullmatch(text)
    if found is None or int(found[2]) == 0:
        raise ValueError(f"{where} is a fraction in (0, 1), or a text such as '3/36', got {text!r}.")
    return int(found[1]) / int(found[2])


def _check_task(table: dict[str, Any], file: Path) -> None:
    """Whether the merged table is a task: what is required is there, and every value makes sense with the others."""
    for key in _REQUIRED:
        if key not in table:
            raise ValueError(f"{file}: {key} is missing. A task has {', '.join(_REQUIRED)}, or `extends` another one.")
    _check_name("name", table["name"], file)
    for key, choices in (("kind", get_args(Kind)), ("image_mode", ("RGB", "L"))):
        if key in table:
            check_one_of(key, table[key], choices, str(file))
    _require(table["num_classes"] >= 2, "num_classes", table["num_classes"], "2 or more", file)
    for key in ("dev_fraction", "test_fraction"):
        if key in table:
            _require(0 < table[key] < 1, key, table[key], "a share in (0, 1)", file)
            table[key] = float(table[key])
    for key in ("image_size", "max_length"):
        if key in table:
            _require(table[key] >= 1, key, table[key], "1 or more", file)
    label_column = table.get("label_column", "label")
    _require(table["input_column"] != label_column, "input_column", label_column, "another than label_column", file)
    if "class_names" in table:
        names = table["class_names"]
        expected = f"{table['num_classes']} different names, one a class"
        _require(len(set(names)) == len(names) == table["num_classes"], "class_names", names, expected, file)
        table["class_names"] = tuple(names)

    models = table["models"]
    for name, model in models.items():
        _check_model(name, model, file)
        expected = "the tokenizer of a model of texts, in a task of kind = 'text'"
        _require(
            "tokenizer" not in model or table["kind"] == "text",
            f"models.{name}.tokenizer",
            table["kind"],
            expected,
            file,
        )
    check_one_of("teacher", table["teacher"], models, str(file))
    for student in table["students"]:
        check_one_of("students", student, models, str(file))
    _require(len(set(table["students"])) == len(table["students"]), "students", table["students"], "distinct", file)
    table["students"] = tuple(table["students"])

    if table["dataset"] in EMBEDDED_DATASETS:
        _check_embedded(table, file)
    if table["kind"] == "text":
        _require(
            "max_length" in table, "max_length", None, "the number of tokens a text, needed by kind = 'text'", file
        )
        if "tokenizer" not in table and "source" not in models[table["teacher"]]:
            raise ValueError(
                f"{file}: tokenizer is missing, and the teacher {table['teacher']} has no source to take it from. "
                "Name one on the hub, or a folder."
            )
    _check_trials(table, file)


def _check_embedded(table: dict[str, Any], file: Path) -> None:
    name = table["dataset"]
    for key, value in NEEDED[name].items():
        _require(table.get(key) == value, key, table.get(key), f"{value!r} for the dataset {name!r}", file)
    if name == "hidden-digits":
        try:
            percent_of(table.get("config_name"))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    if name == "digits":
        _require("test_fraction" in table, "test_fraction", None, "needed by 'digits', which has no test split", file)


def _check_model(name: str, table: dict[str, Any], file: Path) -> None:
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
    if "source" in table and Path(table["source"]).is_absolute():
        folder = Path(table["source"])
        if not (folder / "config.json").is_file() or not weight_files(folder):
            raise ValueError(
                f"{file}: models.{name}.source = {str(folder)!r} is not a folder with config.json and *.safetensors or "
                "pytorch_model*.bin. Write one with model.save_pretrained(folder)."
            )


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder's pretrained weights, sorted. A pytorch_model.bin is read where there are no safetensors."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _check_trials(table: dict[str, Any], file: Path) -> None:
    """Makes the trials of every model, so that a wrong number is noticed before anything starts."""
    identity = dict.fromkeys(("task", "task_digest", "model", "model_digest"), "-")
    # Numbers that a sweep may bring itself.
    from_sweep = {"p_target": 0.5, "lambda_select": 1.0, "teacher_digest": "-"}
    for name, model in table["models"].items():
        for objective in get_args(Objective):
            used = trial_fields(objective)
            defaults = defaults_for(objective, table["defaults"], model["defaults"])
            values = {field: value for field, value in {**from_sweep, **defaults}.items() if field in used}
            try:
                Trial(**identity, objective=objective, seed=0, **values)
            except ValueError as error:
                raise ValueError(f"{file}: defaults of {name} for {objective}: {error}") from error


def trial_fields(objective: str) -> list[str]:
    """Fields that an objective's trials have, beside their identity."""
    return [name for name in OVERRIDES if is_read(name, objective)]


def defaults_for(objective: str, *tables: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an objective's trials that tables of defaults set; the later table and the objective's own are stronger."""
    values: dict[str, Any] = {}
    for table in (*tables, *(table.get(objective, {}) for table in tables)):
        read = {name: value for name, value in table.items() if name in trial_fields(objective)}
        values = {**under(values, read), **read}
    return values


def _require(holds: bool, key: str, value: Any, expected: str, file: Path) -> None:
    if not holds:
        raise ValueError(f"{file}: {key} is {expected}, got {value!r}.")


def _check_name(key: str, value: str, file: Path) -> None:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{file}: {key} is made of letters, digits, '.', '_' and '-', got {value!r}.")
