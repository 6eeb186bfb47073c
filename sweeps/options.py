"""What every sweep can be told on the command line."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, NoReturn

import typer

from rekd.cluster.prices import handed_prices
from rekd.command_line import parse_duration, print_error, run_app
from rekd.running.limits import WAIT_MINUTES, Limits
from rekd.schedule import grid_value
from rekd.tasks.task import Task, load_task
from rekd.tasks.task_file import seeds_in
from rekd.trial import Objective, is_read

RESULTS = "results"
"""The store where none is named: a folder beside the project's others."""


@dataclass(frozen=True, kw_only=True)
class SeedsByEvidence:
    """Every setting begins with a few seeds, and gets more as long as it may be the choice of all (`analysis.evidence`)."""

    first: int = 3
    """Seeds that every setting gets; 2 or more, since one tells nothing of its own spread."""
    most: int | None = None
    """All seeds; None for as many as the task has."""

    def __str__(self) -> str:
        return "auto" if self == SeedsByEvidence() else f"auto:{self.first}-{self.most}"

    def of(self, task: Task) -> tuple[int, ...]:
        """All seeds: the task's, and those that follow where it has fewer."""
        own = task.seeds
        more = range(own[-1] + 1, own[-1] + 1 + (self.most or 0))
        return tuple(dict.fromkeys([*own, *more]))[: self.most or len(own)]


def parse_seeds(text: str | tuple[int, ...] | SeedsByEvidence) -> tuple[int, ...] | SeedsByEvidence:
    """`2026-2035`, `2026,2027` or both: whole numbers, each once; `auto` or `auto:3-10`: by evidence."""
    if not isinstance(text, str):
        return text
    if text.startswith("auto"):
        return _by_evidence(text)
    try:
        return seeds_in(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _by_evidence(text: str) -> SeedsByEvidence:
    found = re.fullmatch(r"auto(?::(\d+)-(\d+))?", text)
    if found is None or (found[1] and not 2 <= int(found[1]) <= int(found[2]) <= 1000):
        raise typer.BadParameter(
            f"seeds by evidence are auto, or auto:3-10 for three seeds of every setting and ten at most (from 2), got {text!r}."
        )
    return SeedsByEvidence(first=int(found[1]), most=int(found[2])) if found[1] else SeedsByEvidence()


def parse_grid(text: str | tuple[float | str, ...]) -> tuple[float | str, ...]:
    """`0,0.3,0.9->0.1:cosine`: numbers, or ways of a number over the run, each once."""
    if isinstance(text, tuple):
        return text
    try:
        values = tuple(grid_value(part) for part in text.split(","))
    except ValueError as error:
        hint = error if "->" in text else f"got {text!r}."
        raise typer.BadParameter(f"a grid is numbers with commas between, such as 0,0.3,0.5, {hint}") from error
    if len(set(values)) < len(values):
        raise typer.BadParameter(f"{text!r} names a value twice. Give it once.")
    return values


def parse_names(text: str | tuple[str, ...]) -> tuple[str, ...]:
    """`vit-small,vit-tiny`."""
    return text if isinstance(text, tuple) else tuple(name.strip() for name in text.split(",") if name.strip())


def parse_gpus(text: str | float) -> float | Literal["auto"]:
    """`0.25`, or `auto`."""
    if text == "auto":
        return "auto"
    try:
        gpus = float(text)
    except ValueError:
        gpus = -1.0
    if not 0 <= gpus < float("inf"):
        raise typer.BadParameter(f"GPUs a trial are a number from 0, or auto, got {text!r}.")
    return gpus


def parse_hours(text: str | float) -> float:
    """`50h`, `1.5h` or `90min`, in hours."""
    if not isinstance(text, str):
        return float(text)
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(h|min)", text.strip())
    if found is None:
        raise typer.BadParameter(f"a budget is hours or minutes of a GPU, such as 50h or 90min, got {text!r}.")
    return float(found[1]) / (1 if found[2] == "h" else 60)


def parse_moment(text: str | datetime) -> datetime:
    """`07:00`, the next time that this machine's clock shows it; or `2026-11-26T07:00`, with or without its zone."""
    if isinstance(text, datetime):
        return text
    now = datetime.now().astimezone()
    try:
        moment = datetime.fromisoformat(text).astimezone() if "-" in text else _next(time.fromisoformat(text), now)
    except ValueError as error:
        raise typer.BadParameter(f"it is a time such as 07:00 or 2026-11-26T07:00, got {text!r}.") from error
    if moment <= now:
        raise typer.BadParameter(f"{text} has passed. Give a time that comes.")
    return moment


def _next(clock: time, now: datetime) -> datetime:
    today = datetime.combine(now.date(), clock)
    return (today if today.astimezone() > now else today + timedelta(days=1)).astimezone()


Grid = Annotated[Any, typer.Option(parser=parse_grid, metavar="VALUES", help="Values, with commas between.")]
"""The annotation of a sweep's own grid."""


Names = Annotated[Any, typer.Option(parser=parse_names, metavar="NAMES", help="Names, with commas between.")]
"""The same for names."""


class LoggerName(StrEnum):
    """Programs that `rekd.running.loggers` makes a callback for."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that all sweeps share. A field's annotation is its command-line option."""

    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="NAME|FILE.toml", help="A task; repeatable. Without it, the paper's own."),
    ] = None
    models: Annotated[
        Any, typer.Option(parser=parse_names, metavar="NAMES", help="Only these models, with commas between.")
    ] = None
    seeds: Annotated[
        Any,
        typer.Option(
            parser=parse_seeds,
            metavar="SEEDS",
            help="2026-2035 or 2026,2027; auto or auto:3-10: a choice gets no more of them than it needs. Without it, the "
            "task's own.",
        ),
    ] = None
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs, where not the task's own.")] = None
    store: Annotated[str, typer.Option(metavar="URI", help="Where results are: a folder or a URI.")] = RESULTS
    address: Annotated[str | None, typer.Option(help="A Ray cluster. Without it, RAY_ADDRESS, or this machine.")] = None
    local: Annotated[bool, typer.Option("--local", help="Run on this machine, whatever clusters there are.")] = False
    gpus_per_trial: Annotated[
        Any,
        typer.Option(
            parser=parse_gpus,
            metavar="NUMBER|auto",
            help="GPUs a trial; a fraction lets trials share one, auto measures how many fit.",
        ),
    ] = None
    max_concurrent: Annotated[int | None, typer.Option(min=1, help="Trials at a time, where not as many as fit.")] = (
        None
    )
    fidelity: Annotated[
        Literal["paper", "authors"], typer.Option(help="How open points are settled: by the text or by the code.")
    ] = "paper"
    precision: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Of the backbones, where not the task's own.")
    ] = None
    augmentation: Annotated[
        Literal["none", "crop_flip", "crop_flip_seeded"] | None,
        typer.Option(help="Of training images, where not the preset's; seeded lets a teacher's targets be stored."),
    ] = None
    estimator: Annotated[
        Literal["gumbel", "top_k", "reinforce", "hard_kuma"] | None,
        typer.Option(help="How RE and REKD draw masks in training; top_k selects exactly p_target."),
    ] = None
    teacher_seed: Annotated[
        int | None, typer.Option(min=0, help="Teacher of this seed, whatever the rule says (the paper: 2029, 2031).")
    ] = None
    tolerance: Annotated[
        float,
        typer.Option(min=0, help="How far a mean ratio may be from p_target to be chosen; 0.01 is a percentage point."),
    ] = 0.01
    log: Annotated[
        list[LoggerName] | None, typer.Option(help="Log epochs there too, beside the ledger; repeatable.")
    ] = None
    wait_minutes: Annotated[
        float, typer.Option(min=0, help="Minutes without any machine after which the sweep ends.")
    ] = WAIT_MINUTES
    max_hours: Annotated[
        float | None, typer.Option(min=0, help="Hours after which no trial is started any more; what runs ends.")
    ] = None
    max_cost: Annotated[
        float | None,
        typer.Option(
            min=0, help="Cost of the machines, at on-demand prices, from which on no trial is started any more."
        ),
    ] = None
    budget: Annotated[
        Any,
        typer.Option(
            parser=parse_hours,
            metavar="50h",
            help="GPU-hours, or hours of trials on processors: what does not fit is not started, what runs ends.",
        ),
    ] = None
    until: Annotated[
        Any,
        typer.Option(
            parser=parse_moment,
            metavar="07:00",
            help="What would not have ended by then is not started, what runs ends.",
        ),
    ] = None
    autodown: Annotated[
        bool, typer.Option("--autodown", help="A rented cluster ends itself, its head too, when the sweep has ended.")
    ] = False
    checkpoint_every: Annotated[
        Any,
        typer.Option(
            parser=parse_duration, metavar="TIME", help="Time between checkpoints, such as 5m; 0 is after each epoch."
        ),
    ] = 0.0
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, and what it costs, and start nothing.")
    ] = False
    cluster: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="With --dry-run: what it costs on this cluster file's machines."),
    ] = None
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time a few steps of each model here, for the estimate.")
    ] = False
    yes: Annotated[bool, typer.Option("--yes", help="Start even where it takes very long on this machine.")] = False

    def tasks(self, paper: tuple[str, ...]) -> list[Task]:
        """The tasks that were named, or the paper's own for this sweep. Raises ValueError on two of one name."""
        tasks = [load_task(name) for name in self.task or paper]
        names = [task.name for task in tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"Tasks are told apart by name, got {', '.join(names)}. Give each its own `name`.")
        return tasks

    def seeds_of(self, task: Task) -> tuple[int, ...]:
        """Gives the seeds that a setting may have."""
        return self.seeds.of(task) if isinstance(self.seeds, SeedsByEvidence) else self.seeds or task.seeds

    def teacher_seeds_of(self, task: Task) -> tuple[int, ...]:
        """Gives the seeds of the trials among which the teacher is chosen: the task's own, else those of all."""
        return task.teacher_seeds or self.seeds_of(task)

    def students_of(self, task: Task) -> tuple[str, ...]:
        """The task's students, or those of them that were named."""
        return self._named(task, task.students)

    def models_of(self, task: Task) -> tuple[str, ...]:
        """The task's teacher and students, or those of them that were named."""
        return self._named(task, (task.teacher, *task.students))

    @property
    def gpus_of_a_trial(self) -> float:
        """What a trial takes of a GPU, where that is known before anything has been measured."""
        return self.gpus_per_trial if isinstance(self.gpus_per_trial, float) and self.gpus_per_trial else 1.0

    def overrides(self, objective: Objective) -> dict[str, Any]:
        """Fields of `Trial` that were set for all trials, of those that an objective reads."""
        names = ("epochs", "precision", "augmentation", "estimator")
        given = {name: getattr(self, name) for name in names if is_read(name, objective)}
        return {name: value for name, value in given.items() if value is not None}

    def limits(self) -> Limits:
        """When no more trials are started. Raises ValueError on a sum of money where machines have no known price."""
        return Limits(
            wait_minutes=self.wait_minutes,
            max_hours=self.max_hours,
            max_cost=self.max_cost,
            budget_hours=self.budget,
            until=self.until,
            prices=handed_prices(),
        )

    def _named(self, task: Task, choices: tuple[str, ...]) -> tuple[str, ...]:
        for name in self.models or ():
            if name not in task.models:
                raise ValueError(
                    f"--models names {name!r}, which {task.name} does not have. It has {', '.join(task.models)}."
                )
        return choices if self.models is None else tuple(name for name in choices if name in self.models)


def run_command(sweep: Callable[..., int], *, prog_name: str | None = None) -> NoReturn:
    """Runs `sweep(options, **own_grids)` as a command: its status is the exit status, bad input is one line and status 2."""
    fields = inspect.signature(Options).parameters.values()
    own = list(inspect.signature(sweep).parameters.values())[1:]

    def command(**arguments: Any) -> None:
        options = Options(**{field.name: arguments.pop(field.name) for field in fields})
        try:
            status = sweep(options, **arguments)
        except (ValueError, OSError) as error:  # of a store too: it cannot be read, or refuses
            print_error(error)
            status = 2
        raise typer.Exit(status)

    # Typer reads a signature: the sweep's own options first, then the shared ones.
    merged = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in [*own, *fields]]
    command.__signature__ = inspect.Signature(merged)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in merged}
    command.__doc__ = sweep.__doc__
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(command)
    run_app(app, prog_name=prog_name)
