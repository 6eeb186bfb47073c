"""A trial is one training run, described by everything that changes its result and by nothing else."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args

from rekd.messages import number
from rekd.schedule import CONSTANT, SCHEDULED, Move, Schedule

Objective = Literal["cls", "re", "rekd"]

SCHEMA_VERSION = 1
"""Part of every digest: raise it when the same fields would give another result, so that old rows do not pass for new."""

FIDELITY: dict[str, dict[str, Any]] = {
    "paper": {
        "evaluation_mask": "argmax",
        "selection_loss_form": "per_sample",
        "teacher_sees": "teacher_mask",
        "heads": "linear",
        "split": "fixed",
        "augmentation": "none",
        "best_epoch_rule": "lowest",
        "random_streams": "named",
        "predictor_reads": "pooler",
        "temperature_step": "from_0",
        "dev_means": "over_samples",
        "head_initialisation": "backbone",
        "image_statistics": "pretrained",
    },
    "authors": {
        "evaluation_mask": "sampled_everywhere",
        "selection_loss_form": "batch_mean",
        "teacher_sees": "student_mask",
        "heads": "authors",
        "split": "stratified_by_seed",
        "augmentation": "crop_flip",
        "best_epoch_rule": "logged_latest",
        "random_streams": "order_apart",
        "predictor_reads": "first_token",
        "temperature_step": "from_1",
        "dev_means": "over_batches",
        "head_initialisation": "xavier_uniform",
        "image_statistics": "imagenet",
    },
}
"""What the paper leaves open, settled twice: by its text (`paper`) and by the authors' public code (`authors`)."""

PRESETS = FIDELITY | {
    "authors of 0.1.0": {
        "evaluation_mask": "sampled",
        "selection_loss_form": "batch_mean",
        "teacher_sees": "student_mask",
        "heads": "authors",
        "split": "by_seed",
        "augmentation": "crop_flip",
        "best_epoch_rule": "rounded_latest",
        "random_streams": "single",
        "predictor_reads": "pooler",
        "temperature_step": "from_0",
        "dev_means": "over_samples",
        "head_initialisation": "backbone",
        "image_statistics": "pretrained",
    }
}
"""The presets by which a row is known: those that make trials, and what 0.1.0 took for the authors' code."""

RE_FIELDS = (
    "p_target",
    "lambda_select",
    "lambda_select_schedule",
    "temperature_initial",
    "temperature_final",
    "temperature_every",
    "estimator",
    "encoder",
)
REKD_FIELDS = (
    "alpha",
    "alpha_schedule",
    "lambda_rationale",
    "lambda_rationale_schedule",
    "teacher_digest",
    "further_teachers",
    "distils",
)

USED_FIELDS: dict[str, tuple[str, ...]] = {"cls": (), "re": RE_FIELDS, "rekd": RE_FIELDS + REKD_FIELDS}
"""The fields that an objective reads, of those that are not read by every one."""

OPTIONAL_FIELDS = ("further_teachers",)
"""Those of them that may be None."""


def grown(*, default: Any, neutral: Any) -> Any:
    """A field of a hashed dataclass that was born after 0.1.0: what `dataclasses.field` returns for it.

    `neutral` is the value that means "as before there was this field". It is part of no digest, so that results from
    before keep their names, and it stays what it is for ever. `default` may change; then the digests of trials that
    take the default change with it, as they must.
    """
    return field(default=default, metadata={"neutral": neutral})


def num_selected(budget: float, num_features: int) -> int:
    """How many features a share of them is: the nearest whole number, but one at least.

    >>> num_selected(0.15, 196), num_selected(0.01, 16)
    (29, 1)
    """
    return max(1, round(budget * num_features))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run. A variant is `dataclasses.replace(trial, seed=3)`; `Task.trial` fills in a task's defaults.

    Fields that an objective does not use are None, so that no two trials differ in a number that nothing reads.
    Raises ValueError on a value that is out of range, of another type, or missing.

    >>> from dataclasses import replace
    >>> trial = Trial(
    ...     task="mine", task_digest="0", model="tiny", model_digest="0", objective="cls", seed=2026, epochs=20
    ... )
    >>> print(replace(trial, seed=3))
    mine tiny cls epochs=20 seed=3
    >>> replace(trial, seed=3).digest == trial.digest
    False
    >>> replace(trial, alpha=0.3)
    Traceback (most recent call last):
    ValueError: alpha is not used by objective 'cls', got 0.3. Leave it None.
    """

    task: str
    """Name of the task, such as `digits` or `cifar10`."""
    task_digest: str
    """What the task's name stands for: its dataset, columns, splits and lengths (`Task.digest`)."""
    model: str
    """Name of the model within the task, such as `vit-tiny`."""
    model_digest: str
    """What the model's name stands for: its architecture and initial weights (`Model.digest`)."""
    objective: Objective
    """`cls`: predict from every feature. `re`: Eq. 6. `rekd`: Eq. 11."""
    seed: int
    """Seed of every random stream of the run, 0 or more."""

    epochs: int
    """Passes over the training split, 1 or more (Section 3.3: 35 for re and rekd, 20 for cls)."""
    batch_size: int = 32
    """Samples a step, 1 or more."""
    learning_rate: float = 1e-5
    """AdamW's learning rate, above 0."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay, 0 or more (Appendix C.3: 0 for BERT, 1e-3 for ViT)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """The precision of the backbones' arithmetic. Weights, losses and the Gumbel part are float32 either way."""
    dropout: float = 0.0
    """Dropout on the heads, in [0, 1) (Appendix C.3: 0.5 for BERT, 0.1 for ViT); backbones keep their own."""

    p_target: float | None = None
    """Rationale ratio aimed at: a fraction of features in (0, 1) (Eq. 3)."""
    lambda_select: float | None = None
    """Weight of L_select in L_RE, 0 or more (Eq. 6)."""
    temperature_initial: float | None = None
    """tau_0, above 0 (Eq. 10; the paper's is 5)."""
    temperature_final: float | None = None
    """tau_K, above 0 and at most tau_0 (Eq. 10; the paper's is 0.1)."""
    temperature_every: int | None = None
    """Steps between two changes of the temperature, 1 or more (Section 3.3: 100)."""

    alpha: float | None = None
    """Share of L_RE in L_REKD, in [0, 1]; 1 is plain RE, 0 is supervised by the teacher alone (Eq. 11)."""
    lambda_rationale: float | None = None
    """lambda_R, weight of rationale distillation, 0 or more (Eq. 9; the paper's is 0.5)."""
    teacher_digest: str | None = None
    """Digest of the teacher's own RE trial."""

    evaluation_mask: Literal["argmax", "sampled", "sampled_everywhere"] = "argmax"
    """The mask on dev and test: argmax of the logits, or a Gumbel sample as in training; `everywhere`: also where
    rationales are measured (sufficiency, overlap) and shown."""
    selection_loss_form: Literal["per_sample", "batch_mean"] = "per_sample"
    """Eq. 3 over a batch: mean of the squared differences, or square of the mean difference."""
    teacher_sees: Literal["teacher_mask", "student_mask"] = "teacher_mask"
    """The rationale under which the teacher predicts: its own (argmax of its logits), or the student's."""
    heads: Literal["linear", "authors"] = "linear"
    """One linear map a head; or the authors' MLP on a BERT generator with frozen word embeddings, and no final
    LayerNorm in a ViT predictor."""
    split: Literal["fixed", "by_seed", "stratified_by_seed"] = "fixed"
    """Train and dev: one stratified split for all runs; or one drawn with the run's seed, at random (0.1.0 took that for
    what the authors do) or stratified (what they do)."""
    augmentation: Literal["none", "crop_flip", "crop_flip_seeded"] = "none"
    """What is done to training images: none, or a random crop (padding of an eighth of the side: 4 of 32) and a flip;
    `seeded` draws them by sample and epoch, alike in all runs, so that what a teacher says of them can be stored."""
    best_epoch_rule: Literal["lowest", "rounded_latest", "logged_latest"] = "lowest"
    """Lowest dev loss and the earliest on a tie; or the latest on a tie of dev losses that are rounded to 3 decimals, all
    of them or, as in the authors' log (`logged`), all but those of cls."""
    random_streams: Literal["named", "single", "order_apart"] = "named"
    """A stream each for initialisation, data order, student noise, teacher noise and dropout; or one for all; or one for
    all but the data order, which is that of torch's `DataLoader` with a generator of its own."""
    predictor_reads: Literal["pooler", "first_token"] = grown(default="pooler", neutral="pooler")
    """What a BERT's predictor classifies by: the pretrained pooler, or the last layer's first token."""
    temperature_step: Literal["from_0", "from_1"] = grown(default="from_0", neutral="from_0")
    """k of Eq. 10 in the first step: from 0, tau(100) is that of the 101st step; from 1, that of the 100th."""
    dev_means: Literal["over_samples", "over_batches"] = grown(default="over_samples", neutral="over_samples")
    """Losses and ratios of dev and test: means over all samples, or over batches of the mean of each (a smaller last
    batch weighs as much as another)."""
    head_initialisation: Literal["backbone", "xavier_uniform"] = grown(default="backbone", neutral="backbone")
    """Weights of heads at the start: normal, as the backbone's family draws its own; or uniform after Xavier Glorot."""
    image_statistics: Literal["pretrained", "imagenet"] = grown(default="pretrained", neutral="pretrained")
    """Mean and deviation by which pixels are normalised: the pretrained weights' own, or ImageNet's."""
    downscaling: Literal["antialiased"] | None = grown(default=None, neutral=None)
    """How images that are larger than the model's are scaled down: by weighted means of all their pixels. None where none
    is larger; trials from before this field was left pixels out there."""

    distils: Literal["both", "rationale", "prediction"] | None = grown(default=None, neutral="both")
    """What L_KD has of Eq. 9: both its terms, that of rationales or that of predictions. Where a field here is read and
    left None, it has its neutral value."""
    further_teachers: str | None = grown(default=None, neutral=None)
    """Teachers beside `teacher_digest`, whose weight is 1: `DIGEST:WEIGHT`, with spaces between (`taught_by`). What they
    say is averaged in probability. None where there is one teacher."""
    alpha_schedule: str | None = grown(default=None, neutral=CONSTANT)
    """How alpha moves over the run to its last value (`rekd.schedule`), such as `cosine from 0.9`."""
    lambda_rationale_schedule: str | None = grown(default=None, neutral=CONSTANT)
    """How lambda_rationale does."""
    lambda_select_schedule: str | None = grown(default=None, neutral=CONSTANT)
    """How lambda_select does; dev L_RE, which chooses, is always taken at its last value."""

    estimator: Literal["gumbel", "top_k", "reinforce", "hard_kuma", "saliency"] | None = grown(
        default=None, neutral="gumbel"
    )
    """How training draws a mask, and how a gradient comes back through it (`rekd.method.estimators`). The rationales of
    `top_k` have exactly `p_target` of the features, at evaluation too; so have those of `saliency`, which nobody learns: the
    classifier `teacher_digest` (a cls trial of the same model) finds these features the most salient."""
    encoder: Literal["own", "shared"] | None = grown(default=None, neutral="own")
    """Whether generator and predictor have an encoder each, or are two heads on one (FR: Liu et al. 2022, arXiv 2209.08285)."""

    def __post_init__(self) -> None:
        for own in fields(self):
            object.__setattr__(self, own.name, _as_declared(own.name, own.type, getattr(self, own.name)))
        _one_of("objective", self.objective, get_args(Objective))
        for name, neutral in neutral_values(self).items():
            if name in USED_FIELDS["rekd"] and getattr(self, name) in (None, neutral):
                object.__setattr__(self, name, neutral if is_read(name, self.objective) else None)
        _one_of("precision", self.precision, ("float32", "bfloat16"))
        if self.downscaling is not None:
            _one_of("downscaling", self.downscaling, ("antialiased",))
        for point in (point for point in fields(self) if point.name in FIDELITY["paper"]):
            _one_of(point.name, getattr(self, point.name), get_args(point.type))

        for name in ("task", "task_digest", "model", "model_digest"):
            _require(bool(getattr(self, name)), name, getattr(self, name), "a name that is not empty")
        _require(self.seed >= 0, "seed", self.seed, "0 or more")
        _require(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "a fraction in [0, 1)")

        used = USED_FIELDS[self.objective]
        for name in USED_FIELDS["rekd"]:
            value = getattr(self, name)
            if name in used and value is None and name not in OPTIONAL_FIELDS:
                raise ValueError(f"{name} is needed by objective {self.objective!r}, got None.")
            if name not in used and value is not None and not (self._is_staged and name == "teacher_digest"):
                raise ValueError(f"{name} is not used by objective {self.objective!r}, got {value!r}. Leave it None.")

        if self.p_target is not None:
            hint = f" For {self.p_target:g} % write {self.p_target / 100:g}." if 1 <= self.p_target < 100 else ""
            _require(0 < self.p_target < 1, "p_target", self.p_target, "a fraction of features in (0, 1)", hint)
        if self.lambda_select is not None:
            _require(self.lambda_select >= 0, "lambda_select", self.lambda_select, "0 or more")
        if self.temperature_initial is not None and self.temperature_final is not None:
            _require(self.temperature_final > 0, "temperature_final", self.temperature_final, "above 0")
            expected = f"at least temperature_final, {self.temperature_final:g}"
            _require(
                self.temperature_initial >= self.temperature_final,
                "temperature_initial",
                self.temperature_initial,
                expected,
            )
        if self.temperature_every is not None:
            _require(self.temperature_every >= 1, "temperature_every", self.temperature_every, "1 or more")
        if self.alpha is not None:
            _require(0 <= self.alpha <= 1, "alpha", self.alpha, "a share in [0, 1]")
        if self.lambda_rationale is not None:
            _require(self.lambda_rationale >= 0, "lambda_rationale", self.lambda_rationale, "0 or more")
        self._check_distillation()
        self._check_estimator()
        for name in SCHEDULED:
            self._check_schedule(name)

    def _check_distillation(self) -> None:
        if self.distils is not None:
            _one_of("distils", self.distils, ("both", "rationale", "prediction"))
        if self.distils == "prediction" and (self.lambda_rationale, self.lambda_rationale_schedule) != (0, CONSTANT):
            raise ValueError(
                f"lambda_rationale is not read where predictions alone are distilled, got {self.lambda_rationale}. Give 0."
            )
        told = {"teacher_digest": self.teacher_digest, "further_teachers": self.further_teachers}
        if self.further_teachers is not None and told != (one := taught_by(self.teachers)):
            raise ValueError(
                f"Several teachers are told by rekd.trial.taught_by, in the order of their digests, got {self.teacher_digest} "
                f"and {self.further_teachers!r}. Write {one['teacher_digest']} and {one['further_teachers']!r}."
            )

    def _check_estimator(self) -> None:
        if self.estimator is not None:
            _one_of("estimator", self.estimator, ("gumbel", "top_k", "reinforce", "hard_kuma", "saliency"))
        if self.estimator == "saliency" and (self.objective != "re" or self.teacher_digest is None):
            raise ValueError(
                f"estimator 'saliency' goes with objective 're' and with the digest of a classifier as teacher_digest, got "
                f"{self.objective!r} and {self.teacher_digest!r}. Train a cls trial of the model first, and give its digest."
            )
        if self._is_staged and self.encoder == "shared":
            raise ValueError(
                "encoder 'shared' is learnt by both its parts, and estimator 'saliency' by one. Choose one."
            )
        if self.encoder is not None:
            _one_of("encoder", self.encoder, ("own", "shared"))
        if self.estimator == "reinforce" and self.selection_loss_form != "per_sample":
            raise ValueError(
                "estimator 'reinforce' asks what each sample's own mask costs, which selection_loss_form "
                f"{self.selection_loss_form!r} does not say. Choose per_sample (--fidelity paper), or another estimator."
            )

    def _check_schedule(self, name: str) -> None:
        """Keeps the schedule of a field in the one text that it has."""
        text, last = getattr(self, f"{name}_schedule"), getattr(self, name)
        schedule = None if text is None else Schedule.read(text, f"{name}_schedule")
        if schedule is None:
            return
        object.__setattr__(self, f"{name}_schedule", str(schedule))
        expected = "a share in [0, 1]" if name == "alpha" else "0 or more"
        in_range = 0 <= schedule.first <= (1 if name == "alpha" else math.inf)
        _require(in_range, f"The first {name}", schedule.first, expected)
        if schedule.first == last:
            raise ValueError(
                f"{name} goes from {number(last)} to {number(last)}: it is '{CONSTANT}'. Leave out its schedule."
            )

    @property
    def teachers(self) -> dict[str, float]:
        """The weight of each teacher by its digest; nothing where nobody teaches."""
        return teachers_in(self.teacher_digest, self.further_teachers)

    @property
    def _is_staged(self) -> bool:
        """Whether a classifier that was trained before selects."""
        return self.objective == "re" and self.estimator == "saliency"

    @property
    def budget(self) -> float | None:
        """The share of the features that every rationale of its model has; None where the selection logits decide."""
        return self.p_target if self.estimator in ("top_k", "saliency") else None

    def at(self, share: float) -> "Trial":
        """The trial as it is after a share of its run, from 0 to 1: with the values that its schedules give then."""
        if not self.schedules:
            return self
        values = {name: each.value(share, last=getattr(self, name)) for name, each in self.schedules.items()}
        return replace(self, **values, **{f"{name}_schedule": None for name in values})

    @cached_property
    def schedules(self) -> dict[str, Schedule]:
        """How the numbers move that do, by their names. They are read once: `at` is asked in every step."""
        texts = {name: getattr(self, f"{name}_schedule") for name in SCHEDULED}
        read = {name: Schedule.read(text, f"{name}_schedule") for name, text in texts.items() if text is not None}
        return {name: schedule for name, schedule in read.items() if schedule is not None}

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that name this trial, the same on every machine and in every year."""
        return digest_of({"schema": SCHEMA_VERSION, **first_born(self), **later_born(self)})

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Trial":
        """The trial that a row, or its `config`, was written of. Fields that were born since have their neutral values.

        Raises ValueError on a field that this version does not know.
        """
        names = {own.name for own in fields(cls)}
        if unknown := sorted(set(record) - names):
            raise ValueError(f"A newer version wrote this trial: {', '.join(unknown)} is not known here. Upgrade rekd.")
        values = {**neutral_values(cls), **record}
        objective = values["objective"]
        return cls(**{name: value for name, value in values.items() if name in record or is_read(name, objective)})

    @property
    def setting(self) -> dict[str, Any]:
        """Every field but the seed: what the runs that are averaged have in common."""
        return {name: value for name, value in asdict(self).items() if name != "seed"}

    @property
    def fidelity(self) -> str:
        """The preset of `PRESETS` that settles every open point as this trial does, else `mixed`."""
        for name, preset in PRESETS.items():
            if all(getattr(self, field) == value for field, value in preset.items()):
                return name
        return "mixed"

    def __str__(self) -> str:
        parts = [self.task, self.model, self.objective]
        for name in ("p_target", "lambda_select", "alpha"):
            if (value := getattr(self, name)) is not None:
                schedule = self.schedules.get(name)
                shown = f"{value:.4g}" if schedule is None else str(Move(last=value, schedule=schedule))
                parts.append(f"{name}={shown}")
        return " ".join([*parts, f"epochs={self.epochs}", f"seed={self.seed}"])


def taught_by(weights: Mapping[str, float]) -> dict[str, str | None]:
    """The fields of a trial with these teachers, whose weights are relative to each other.

    >>> taught_by({"b": 1, "a": 2})
    {'teacher_digest': 'a', 'further_teachers': 'b:0.5'}
    """
    for digest, weight in weights.items():
        _require(0 < weight < math.inf, f"The weight of the teacher {digest}", weight, "a number above 0")
    (first, of_first), *others = sorted(weights.items())
    further = " ".join(f"{digest}:{number(weight / of_first)}" for digest, weight in others)
    return {"teacher_digest": first, "further_teachers": further or None}


def teachers_in(teacher_digest: str | None, further_teachers: str | None) -> dict[str, float]:
    """The weight of each teacher by its digest, from a trial's fields or its row's. Raises ValueError on another text."""
    weights = {} if teacher_digest is None else {teacher_digest: 1.0}
    for part in (further_teachers or "").split():
        digest, _, weight = part.partition(":")
        try:
            weights[digest] = float(weight)
        except ValueError as error:
            raise ValueError(
                f"further_teachers is DIGEST:WEIGHT, with spaces between, got {further_teachers!r}. Use rekd.trial.taught_by."
            ) from error
    return weights


def neutral_values(hashed: Any) -> dict[str, Any]:
    """The neutral values of a dataclass (or of its instance), by the names of its fields that were born after 0.1.0."""
    return {born.name: born.metadata["neutral"] for born in fields(hashed) if "neutral" in born.metadata}


def first_born(instance: Any) -> dict[str, Any]:
    """The values of the fields that 0.1.0 had, all of which are part of a trial's digest."""
    later = neutral_values(instance)
    return {name: value for name, value in asdict(instance).items() if name not in later}


def later_born(instance: Any) -> dict[str, Any]:
    """What a digest holds of fields born after 0.1.0: those that are neither neutral nor, being None, unused."""
    values = {name: (getattr(instance, name), neutral) for name, neutral in neutral_values(instance).items()}
    return {
        name: value
        for name, (value, neutral) in values.items()
        if value is not None and canonical_json(value) != canonical_json(neutral)
    }


def is_read(name: str, objective: str) -> bool:
    """Whether trials of an objective read a field of `Trial`; where they do not, it is None."""
    return name in USED_FIELDS[objective] or name not in USED_FIELDS["rekd"]


def canonical_json(value: Any) -> str:
    """`value` as the one JSON text that it has: sorted keys, no spaces, shortest floats.

    Raises ValueError on what could be written in two ways (sets, arrays, NumPy scalars, keys that are not text) or
    in none (NaN, infinity).

    >>> canonical_json({"b": 0.30000000000000004, "a": [1, None]})
    '{"a":[1,null],"b":0.30000000000000004}'
    """
    _refuse_ambiguous(value, "value")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def _refuse_ambiguous(value: Any, where: str) -> None:
    # `type`, not `isinstance`: numpy.float64 is a float whose text depends on NumPy's version.
    if value is None or type(value) in (bool, int, str):
        return
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which JSON cannot hold. Give a finite number.")
        return
    if type(value) in (list, tuple):
        for index, item in enumerate(value):
            _refuse_ambiguous(item, f"{where}[{index}]")
        return
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise ValueError(f"{where} has the key {key!r}, which is not text. Write {str(key)!r}.")
            _refuse_ambiguous(item, f"{where}.{key}")
        return
    raise ValueError(
        f"{where} is a {type(value).__name__}, which cannot be written the same way twice. "
        "Use None, bool, int, float, str, or lists and dictionaries of them."
    )


def plain_type(annotation: Any) -> type:
    """str, int or float: what a field annotated `int`, `float | None` or `Literal["a", "b"]` holds."""
    options = get_args(annotation) or (annotation,)
    return next((option for option in (int, float) if option in options), str)


def _as_declared(name: str, annotation: Any, value: Any) -> Any:
    """`value` as the plain type that the field declares, so that 1 and 1.0 are one setting."""
    if value is None and type(None) in get_args(annotation):
        return None
    kind = plain_type(annotation)
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise ValueError(f"{name} is of type {kind.__name__}, got {value!r} of type {type(value).__name__}.")
    value = kind(value)
    if kind is int and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} is a whole number that 64 bits hold, below {2**63}, got {value}.")
    if kind is str and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{name} is text that UTF-8 can hold, got {value!r}.")
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{name} is a finite number, got {value}.")
        value += 0.0  # -0.0 becomes 0.0: one number, one digest
    return value


def _one_of(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(map(str, choices))}, got {value!r}.")


def _require(holds: bool, name: str, value: Any, expected: str, hint: str = "") -> None:
    if not holds:
        raise ValueError(f"{name} is {expected}, got {str(value).removesuffix('.0')}.{hint}")
