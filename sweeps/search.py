"""Beyond the paper's grids: Optuna over continuous ranges, with the ratio's tolerance as a constraint."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import optuna
import pandas as pd
import typer
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from analysis.selection import lambda_rule
from rekd.running.plan import LaterTrials, Plan
from rekd.store.files import Store
from rekd.tasks.task import Task
from rekd.trial import REKD_FIELDS, Trial, digest_of
from sweeps.options import Options, run_command
from sweeps.show import address_of, show_search
from sweeps.stages import Choice, Stage, add_teacher, rows_of
from sweeps.start import start

RANGES: Mapping[str, FloatDistribution] = {
    "lambda_select": FloatDistribution(1e-5, 1e-1, log=True),
    "alpha": FloatDistribution(0.0, 1.0),
    "lambda_rationale": FloatDistribution(0.05, 5.0, log=True),
    "learning_rate": FloatDistribution(1e-6, 1e-2, log=True),
}

CONSTRAINT = "ratio off target beyond tolerance, basis points"


def search(
    options: Options,
    settings: Annotated[int, typer.Option(min=1, help="Settings to try, each with every seed.")] = 30,
    over: Annotated[str, typer.Option(metavar="NAMES", help=f"Of {', '.join(RANGES)}.")] = "lambda_select,alpha",
    at_a_time: Annotated[int, typer.Option(min=1, help="Settings that are tried side by side.")] = 4,
    objective: Annotated[str, typer.Option(help="rekd, or re without a teacher.")] = "rekd",
) -> int:
    """Searches settings of the students: lowest mean dev loss over seeds, within a point of p_target. Resumable."""
    tasks = options.tasks(("cifar10",))
    names = [name.strip() for name in over.split(",")]
    for name in names:
        if name not in RANGES:
            raise ValueError(f"--over names {name!r}, which has no range. Ranges: {', '.join(RANGES)}.")
        if objective == "re" and name in REKD_FIELDS:
            raise ValueError(f"--over names {name}, which RE does not use. Search it with --objective rekd.")
    if objective not in ("re", "rekd"):
        raise ValueError(f"--objective is re or rekd, got {objective!r}.")
    ranges = {name: RANGES[name] for name in names}
    store = Store(options.store)
    studies: dict[str, _Study] = {}

    def plan(results: pd.DataFrame) -> Plan:
        plan = Plan()
        for task in tasks:
            stage = Stage(task=task, options=options, results=results, plan=plan)
            teacher = add_teacher(stage) if objective == "rekd" else Choice(value="")
            for model in options.students_of(task):
                study = _Study(task, model, objective, ranges, options, settings, at_a_time)
                # A plan is asked for again and again: a study that is open stays open.
                studies.setdefault(study.name_for(stage, teacher), study).add_to(stage, teacher)
        return plan

    def found() -> list[tuple[optuna.Study, str]]:
        return [(study.study, study.too_short) for study in studies.values() if study.study is not None]

    return start(plan, tasks, options, show=show_search(storage_of(store), found))


def storage_of(store: Store) -> Path:
    """Optuna's own storage, which its dashboard opens: in a local store, else in this folder under the store's name."""
    if store.is_local:
        return Path(store.root) / "search.db"
    name = re.sub("[^A-Za-z0-9]+", "-", store.uri.partition("?")[0]).strip("-")
    return Path(f"search-{name}-{digest_of(store.uri)[:8]}.db").resolve()


@dataclass
class _Study:
    """One model's search. Optuna's storage remembers which settings were tried; the ledger, what came of them."""

    task: Task
    model: str
    objective: str
    ranges: Mapping[str, FloatDistribution]
    options: Options
    num_settings: int
    at_a_time: int

    def __post_init__(self) -> None:
        self.study: optuna.Study | None = None
        self.too_short = ""

    def name_for(self, stage: Stage, teacher: Choice) -> str:
        """What is searched, in words, and a digest of all else: settings rank together that differ in nothing more.

        The digest is of the trials as they are with each searched field at the lower end of its range, and of the ranges.
        """
        low = {name: field.low for name, field in self.ranges.items()}
        like = self._trials(stage, low, teacher.value or "not chosen yet")
        ranges = {name: [field.low, field.high, field.log] for name, field in self.ranges.items()}
        digest = digest_of({"trials": [trial.digest for trial in like], "ranges": ranges})
        return f"{self.task.name} {self.model} {self.objective} over {', '.join(self.ranges)} ({digest})"

    def add_to(self, stage: Stage, teacher: Choice) -> None:
        """Tells Optuna what has ended, and adds the trials of the settings that it asks for."""
        if not teacher.is_made or self.options.dry_run:
            example = self._trials(stage, {}, "not chosen yet")
            needs = "sampler's choice" if teacher.is_made else teacher.what
            count = len(example) * self.num_settings
            what = f"Search of {self.model} on {self.task.name}"
            if teacher.is_made or teacher.pending:
                postponed = LaterTrials(what=what, num_trials=count, needs=needs, like=example[0])
                stage.plan.postponed.append(postponed)
            else:
                told = f"{teacher.why}{stage.too_short()} {teacher.next}"
                stage.plan.stopped.append(f"{what}: no teacher. {told}".rstrip())
            return
        study = self._open(stage, teacher)
        self.too_short = stage.too_short()
        while (
            True
        ):  # a setting that is asked for may be in the ledger already: then it is told at once, and another asked
            for asked in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                self._tell(study, asked, rows_of(stage.results, self._trials(stage, asked.params, teacher.value)))
            if self._num_open(study) >= self.at_a_time or len(study.get_trials(deepcopy=False)) >= self.num_settings:
                break
            study.ask(dict(self.ranges))
        for asked in study.get_trials(deepcopy=False):
            stage.plan.trials += self._trials(stage, asked.params, teacher.value)
        num_unasked = self.num_settings - len(study.get_trials(deepcopy=False))
        if num_unasked > 0:
            like = self._trials(stage, {}, teacher.value)
            postponed = LaterTrials(
                what=f"Search of {self.model} on {self.task.name}",
                num_trials=num_unasked * len(like),
                needs="sampler's choice",
                like=like[0],
            )
            stage.plan.postponed.append(postponed)

    def _trials(self, stage: Stage, params: Mapping[str, float], teacher_digest: str) -> list[Trial]:
        overrides: dict[str, Any] = dict(params)
        if self.objective == "rekd":
            overrides["teacher_digest"] = teacher_digest
        objective = "rekd" if self.objective == "rekd" else "re"
        return stage.trials(objective, self.model, **overrides)

    def _open(self, stage: Stage, teacher: Choice) -> optuna.Study:
        if self.study is None:
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            path = storage_of(Store(self.options.store))
            path.parent.mkdir(parents=True, exist_ok=True)
            self.study = optuna.create_study(
                study_name=self.name_for(stage, teacher),
                storage=address_of(path),
                direction="minimize",
                load_if_exists=True,
            )
            # A search that goes on draws anew: with one seed it would ask for its first settings once more.
            seed = len(self.study.get_trials(deepcopy=False))
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        return self.study

    def _num_open(self, study: optuna.Study) -> int:
        return len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _tell(self, study: optuna.Study, asked: FrozenTrial, rows: pd.DataFrame) -> None:
        """The mean over seeds, once all have ended; a setting of which a seed diverged is told as failed.

        The search keeps to the ratio as the rule of C.1 does.
        """
        if len(rows) < len(self.options.seeds_of(self.task)):
            return
        if (rows["status"] != "ok").any():
            study.tell(asked.number, state=TrialState.FAIL)
            return
        setting = rows[["dev_loss", "dev_rationale_ratio", "p_target"]].mean().to_frame().T
        trial = optuna.trial.Trial(study, asked._trial_id)
        trial.set_constraint(CONSTRAINT, int(lambda_rule(self.options.tolerance).beyond_tolerance(setting).iloc[0]))
        trial.set_user_attr("dev_rationale_ratio", float(setting["dev_rationale_ratio"].iloc[0]))
        trial.set_user_attr("num_seeds", len(rows))
        study.tell(asked.number, float(setting["dev_loss"].iloc[0]))


if __name__ == "__main__":
    run_command(search)
