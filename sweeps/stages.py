"""Parts that several sweeps are made of: the teacher, and what follows from having one."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import select_teacher
from rekd.plan import Plan, Waiting
from rekd.tasks import Task
from rekd.trial import Trial
from sweeps.options import Options


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a rule chose, or why it has not."""

    value: Any = None
    pending: bool = False
    """Whether results are missing that the rule needs."""
    why: str = ""


def rows_of(results: pd.DataFrame, trials: Iterable[Trial]) -> pd.DataFrame:
    """The rows of these trials that have ended."""
    rows = results[results["digest"].isin([trial.digest for trial in trials])]
    return rows[rows["status"] != "failed"]


def choose_teacher(results: pd.DataFrame, candidates: list[Trial], options: Options) -> Choice:
    """The digest of the teacher: by rule once every candidate has ended, or the one of the seed that was asked for."""
    if options.teacher_seed is not None:
        asked = [trial for trial in candidates if trial.seed == options.teacher_seed]
        if not asked:
            seeds = ", ".join(str(trial.seed) for trial in candidates)
            raise ValueError(f"--teacher-seed {options.teacher_seed} is none of the seeds {seeds}.")
        candidates = asked
    rows = rows_of(results, candidates)
    if len(rows) < len(candidates):
        return Choice(pending=True, why=f"{len(rows)} of {len(candidates)} teachers are trained")
    if options.teacher_seed is not None and rows.iloc[0]["status"] == "ok":
        return Choice(value=rows.iloc[0]["digest"], why="asked for by --teacher-seed")
    chosen = select_teacher(rows).iloc[0]
    if pd.isna(chosen["digest"]):
        return Choice(why=str(chosen["why"]))
    return Choice(value=chosen["digest"], why=str(chosen["why"]))


def teacher_trials(task: Task, options: Options) -> list[Trial]:
    """RE of the teacher's model, a trial a seed."""
    return [
        task.trial("re", task.teacher, seed=seed, fidelity=options.fidelity, **options.overrides())
        for seed in options.seeds_of(task)
    ]


def distilled(
    plan: Plan, results: pd.DataFrame, task: Task, options: Options, settings: Iterable[tuple[str, dict[str, Any]]]
) -> None:
    """Adds REKD trials to a plan, for each (student, overrides) and seed, once their teacher is chosen."""
    candidates = teacher_trials(task, options)
    plan.trials += candidates
    teacher = choose_teacher(results, candidates, options)
    for student, overrides in settings:
        trials = [
            task.trial(
                "rekd",
                student,
                seed=seed,
                fidelity=options.fidelity,
                teacher_digest=teacher.value or "pending",
                **options.overrides(),
                **overrides,
            )
            for seed in options.seeds_of(task)
        ]
        what = f"REKD of {student} on {task.name}"
        if teacher.value is not None:
            plan.trials += trials
        elif teacher.pending:
            waiting = Waiting(what=what, num_trials=len(trials), needs=f"the teacher of {task.name}", like=trials[0])
            plan.waiting.append(waiting)
        elif f"{task.name}: no teacher" not in " ".join(plan.stopped):
            plan.stopped.append(f"{task.name}: no teacher. {teacher.why}")
