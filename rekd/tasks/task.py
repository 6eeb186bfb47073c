"""A task: a dataset, its columns and splits, and the models that are trained on it; and the trials that it makes.

`load_task` reads one (embedded, or a TOML file of the user's), `Task.trial` makes its trials. Planning a sweep needs no
more: nothing here imports a library for data or models. Its arrays are `rekd.tasks.data.load_data`'s.
"""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from rekd.messages import check_one_of, one_line
from rekd.schedule import told, under
from rekd.tasks.class_order import is_reordered
from rekd.tasks.embedded import EMBEDDED_DATASETS, identity
from rekd.tasks.local_files import LocalDataset, sha256_of
from rekd.tasks.normalisation import unseen_normalisation
from rekd.tasks.task_file import (
    OVERRIDES,
    TASK_FILES,
    Kind,
    defaults_for,
    read_task_file,
    task_names,
    weight_files,
)
from rekd.tasks.tokenizer_files import class_told, pads_left, tokenizer_content
from rekd.trial import FIDELITY, Objective, Trial, digest_of, later_born

TeacherMode = Literal["stored", "stored_views", "live_predictor", "live"]
"""`stored`: targets computed once. `stored_views`: once for each epoch's views. `live_predictor`: stored selection
logits, and the teacher's predictor in every step, under the student's mask. `live`: the whole teacher in every step."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A backbone within a task: pretrained weights (`source`), or an architecture to be initialised (`config`)."""

    name: str
    """Name within the task, such as `vit-tiny`."""
    source: str | None = None
    """Name on the Hugging Face Hub, or absolute path of a local folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub; None is its default branch."""
    commit: str | None = None
    """What the hub's name and revision stood for when a run began (`rekd.tasks.commits`); no part of a digest."""
    config: dict[str, Any] | None = None
    """Hugging Face configuration with its `model_type`, where there is no `source`."""
    tokenizer: str | None = None
    """Its own tokenizer (name on the hub or absolute path of a folder); None is the task's. No part of this digest: what it
    makes of the texts is named by that of the task (`Task.seen_by`)."""
    defaults: dict[str, Any]
    """Fields of `Trial` where this model differs from its task; a table `re`, `rekd` or `cls` is for that objective."""

    @property
    def is_local(self) -> bool:
        """Whether `source` is a folder of this machine."""
        return self.source is not None and Path(self.source).is_absolute()

    @property
    def is_on_hub(self) -> bool:
        return self.source is not None and not self.is_local

    @cached_property
    def digest(self) -> str:
        """What the name stands for: of a folder the content of its configuration and weights, never its path.

        Raises ValueError where a folder's images would be normalised in a way that is not known here.
        """
        if self.config is not None:
            return digest_of({"config": self.config, **later_born(self)})
        assert self.source is not None
        if not self.is_local:
            return digest_of({"hub": self.source, "revision": self.revision, **later_born(self)})
        folder = Path(self.source)
        files = [folder / "config.json", folder / "preprocessor_config.json", *weight_files(folder)]
        contents = {file.name: sha256_of(file) for file in files if file.is_file()}
        return digest_of({"files": contents, **unseen_normalisation(folder), **later_born(self)})

    @property
    def image_size(self) -> int | None:
        """The smaller side in pixels of the images that it reads, where that is known without the hub."""
        config = self.config
        if config is None and self.is_local:
            config = json.loads((Path(str(self.source)) / "config.json").read_bytes())
        size = (config or {}).get("image_size")
        return min(size) if isinstance(size, list) else size


@dataclass(frozen=True, kw_only=True)
class Task:
    """A dataset, how to read it, and the models that are trained on it."""

    name: str
    """Such as `cifar10`: what the rows of the ledger are grouped by."""
    kind: Kind
    """What a sample is."""
    dataset: str
    """An embedded dataset (such as `digits`), a name on the Hugging Face Hub, or the absolute path of a folder or a file."""
    config_name: str | None = None
    """Configuration of a dataset on the hub that has several."""
    revision: str | None = None
    """Branch, tag or commit on the hub; None is its default branch."""
    commit: str | None = None
    """What the dataset's name and revision stood for when a run began; no part of a digest."""
    tokenizer_commit: str | None = None
    """The same of the tokenizer."""
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
    """The task's models by their names."""
    seeds: tuple[int, ...] = tuple(range(2026, 2036))
    """The seeds of its trials, where a sweep is not told others (Section 3.3: 2026 to 2035)."""
    teacher_seeds: tuple[int, ...] | None = None
    """The seeds of the trials among which the teacher is chosen; None means those of the others."""
    rationale_column: str | None = None
    """Column that says which features people, or whoever made the data, hold to be the evidence (`rekd.tasks.truth`).
    Nothing is trained on it, and it is no part of the digest."""
    reader: str | None = None
    """The model through whose own tokenizer the texts are read (`seen_by`); None is the task's tokenizer."""
    defaults: dict[str, Any]
    """Fields of `Trial`; a table `re`, `rekd` or `cls` holds for that objective."""

    @cached_property
    def digest(self) -> str:
        """What the name stands for: all that changes arrays or splits. Never paths, models, seeds or defaults."""
        dataset: dict[str, Any]
        if self.dataset in EMBEDDED_DATASETS:
            dataset = identity(self.dataset, self.config_name)
        elif self.local_dataset is not None:
            dataset = {"content": self.local_dataset.content()}
        else:
            dataset = {"hub": self.dataset, "config_name": self.config_name, "revision": self.revision}
        return digest_of(
            {
                "dataset": dataset,
                "columns": [self.input_column, self.label_column],
                "splits": [self.train_split, self.test_split if self.test_fraction is None else None, self.dev_split],
                "fractions": [self.dev_fraction if self.dev_split is None else None, self.test_fraction],
                "classes": [self.num_classes, self.class_names, *self._names_identity()],
                "input": [self.image_mode, self.image_size] if self.kind == "image" else self._tokens_identity(),
                **later_born(self),
            }
        )

    def _names_identity(self) -> list[str]:
        """A word where `class_names` move classes to other numbers than 0.1.0 gave them."""
        local = self.local_dataset
        if self.class_names is None or local is None:
            return []
        try:
            return ["by name"] if is_reordered(local, self.label_column, self.class_names) else []
        except Exception as error:  # of any library that reads a file
            raise ValueError(f"{self.name}: {self.dataset} cannot be read: {one_line(error)}") from error

    def _tokens_identity(self) -> list[Any]:
        source, revision = self.tokenizer_source
        if not Path(source).is_absolute():
            return [self.max_length, source, revision]
        # 0.1.0 padded where the tokenizer says, and then the classifier read padding.
        padding = ["padded on the right"] if pads_left(Path(source)) else []
        # A vocabulary of another class makes other tokens of a text.
        told = [] if (by_class := class_told(Path(source))) is None else [{"class": by_class}]
        return [self.max_length, tokenizer_content(Path(source)), *padding, *told]

    @property
    def is_embedded(self) -> bool:
        """Whether data and models come with the program: then they are as they should be."""
        return self.dataset in EMBEDDED_DATASETS and all(model.source is None for model in self.models.values())

    @property
    def data_name(self) -> str:
        """What names the task's arrays, those that nothing is trained on too."""
        return self.digest if self.rationale_column is None else f"{self.digest}-{self.rationale_column}"

    @property
    def splits(self) -> dict[str, str]:
        """Names of the splits that are read, by role: `train`; `dev` and `test`, where they are not shares of it."""
        splits = {"train": self.train_split}
        if self.dev_split is not None:
            splits["dev"] = self.dev_split
        if self.test_fraction is None:
            splits["test"] = self.test_split
        return splits

    @property
    def local_dataset(self) -> LocalDataset | None:
        """The dataset's files, where it is on this machine."""
        path = Path(self.dataset)
        return LocalDataset(task=self.name, path=path, splits=self.splits) if path.is_absolute() else None

    @property
    def is_on_hub(self) -> bool:
        """Whether the dataset is."""
        return self.dataset not in EMBEDDED_DATASETS and self.local_dataset is None

    @property
    def has_tokenizer_on_hub(self) -> bool:
        return self.kind == "text" and not Path(self.tokenizer_source[0]).is_absolute()

    @property
    def tokenizer_source(self) -> tuple[str, str | None]:
        """Where a text task's tokenizer comes from: a name on the hub or a folder's absolute path, and a revision."""
        own = self.tokenizer if self.reader is None else self.models[self.reader].tokenizer
        if own is not None:
            return own, None
        teacher = self.models[self.teacher]
        assert teacher.source is not None
        return teacher.source, teacher.revision

    def seen_by(self, model: str) -> "Task":
        """The task as a model reads it: where that has a tokenizer of its own, other tokens, and so another digest."""
        reader = None if self.models[model].tokenizer is None else model
        return self if reader == self.reader else self._views[reader]

    @cached_property
    def _views(self) -> "dict[str | None, Task]":
        """The task by whose tokenizer its texts are read."""
        readers = [model.name for model in self.models.values() if model.tokenizer is not None]
        return {reader: replace(self, reader=reader, tokenizer_commit=None) for reader in (None, *readers)}

    @property
    def readers(self) -> list[Model]:
        """The models that read the texts by the tokenizer of this view."""
        own = None if self.reader is None else self.models[self.reader].tokenizer
        return [model for model in self.models.values() if model.tokenizer == own]

    def trial(self, objective: Objective, model: str, *, seed: int, fidelity: str = "paper", **overrides: Any) -> Trial:
        """One trial of this task.

        A field takes, the later the stronger: the task's default, the model's, the task's for this objective, the
        model's for this objective, the fidelity preset's, the override. Fields that the objective does not use stay
        None. A number that moves is told as in a grid, `alpha="0.9->0.1:cosine"`. Raises ValueError on a name that does not
        exist and on a value that `Trial` refuses.
        """
        check_one_of("objective", objective, get_args(Objective), self.name)
        check_one_of("model", model, self.models, self.name)
        check_one_of("fidelity", fidelity, FIDELITY, self.name)
        for name in overrides:
            check_one_of("override", name, OVERRIDES, self.name)

        overrides = told(overrides)
        defaults = under(self.defaults_of(objective, model), overrides)
        values = {**self._downscaling(model), **defaults, **FIDELITY[fidelity], **overrides}
        if values.get("distils") == "prediction" and "lambda_rationale" not in overrides:
            values |= {"lambda_rationale": 0, "lambda_rationale_schedule": None}  # which nothing reads then
        return Trial(
            task=self.name,
            task_digest=self.seen_by(model).digest,
            model=model,
            model_digest=self.models[model].digest,
            objective=objective,
            seed=seed,
            **values,
        )

    def _downscaling(self, model: str) -> dict[str, str]:
        """The field `downscaling` of a trial whose images are known to be larger than its model's.

        Where that shows only when they are read, the trial is refused until its task says how.
        """
        reads = self.models[model].image_size
        is_larger = self.image_size is not None and reads is not None and self.image_size > reads
        return {"downscaling": "antialiased"} if is_larger else {}

    def teacher_mode(self, trial: Trial) -> TeacherMode | None:
        """How a student of this task hears its teacher; None where it has none."""
        if trial.objective != "rekd":
            return None
        if self.kind == "image" and trial.augmentation == "crop_flip":
            return "live"
        if trial.teacher_sees == "student_mask":
            return "live_predictor"
        return "stored_views" if self.num_view_epochs(trial) else "stored"

    def num_view_epochs(self, trial: Trial) -> int:
        """Epochs of views that a student's teacher is asked about beforehand; 0 where views are not known or not used."""
        seeded = self.kind == "image" and trial.augmentation == "crop_flip_seeded"
        return trial.epochs if seeded and trial.objective == "rekd" else 0

    def defaults_of(self, objective: Objective, model: str) -> dict[str, Any]:
        """Fields of `Trial` that the task file sets for this model and objective."""
        return defaults_for(objective, self.defaults, self.models[model].defaults)


def load_task(name_or_file: str | Path) -> Task:
    """The embedded task of that name, or the one that a TOML file describes.

    A file may say `extends = "cifar10"` (an embedded name, or a file beside it) and then only what differs. Relative
    paths in it start at its own folder and stay inside. Raises ValueError on anything that is not as it should be.

    >>> task = load_task("cifar10")
    >>> task.teacher, task.students
    ('vit-base', ('vit-small', 'vit-tiny'))
    >>> task.trial("re", "vit-tiny", seed=2026).lambda_select
    0.05
    """
    file = Path(name_or_file)
    if isinstance(name_or_file, str) and not name_or_file.endswith(".toml"):
        if name_or_file not in task_names():
            raise ValueError(
                f"There is no task {name_or_file!r}. The embedded ones are {', '.join(task_names())}; "
                "a task of your own is a file that ends in .toml."
            )
        file = TASK_FILES / f"{name_or_file}.toml"
    table = read_task_file(file)
    models = {name: Model(name=name, **model) for name, model in table.pop("models").items()}
    return Task(**table, models=models)
