"""The way from a task file to its best student: lambda_select of every model, a teacher, alpha, the final seeds, an export.

Each choice feeds the next, as in `reproduce`, but the grid of lambda_select is found on the way, and a task in which nothing
keeps to the ratio goes on with what came nearest. Without `--seeds` they are by evidence.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console

from rekd.running.plan import Plan, SweepResult
from rekd.store.files import Store
from rekd.tasks.task import Task
from rekd.trial import Trial
from sweeps.grids import ALPHAS
from sweeps.options import Grid, Options, SeedsByEvidence, run_command
from sweeps.show import show_best
from sweeps.stages import Choice, Stage, add_alphas, choose_lambda, choose_teacher, lambda_trials
from sweeps.start import start

LIMITS = (1e-7, 1e3)
"""The grid of lambda_select grows no further."""

MOST = 8
"""Values of lambda_select that a model is tried with at most."""


AUDIT = typer.Option(help="Audit the final runs; not where they ran on GPUs and this machine has none.")
TO = typer.Option(metavar="FOLDER", help="Where a folder with the best student's model is written.")


def best_student(
    options: Options,
    alphas: Grid = ALPHAS,
    audit: Annotated[bool, AUDIT] = True,
    to: Annotated[Path, TO] = Path("exported"),
) -> int:
    """Finds the best student of a task: tunes lambda_select and alpha, compares with RE, audits, exports."""
    if not options.task:
        raise ValueError("best_student needs a task: --task mine.toml, or --task digits to try it.")
    options = replace(options, seeds=options.seeds or SeedsByEvidence())
    tasks = options.tasks(())

    def plan(results: pd.DataFrame) -> Plan:
        plan = Plan()
        for task in tasks:
            _Search(Stage(task=task, options=options, results=results, plan=plan), alphas).add()
        return plan

    def show(result: SweepResult, tasks: list[Task], store: Store, console: Console, options: Options) -> None:
        for task in tasks:
            search = _Search(Stage(task=task, options=options, results=result.rows), alphas)
            search.add()
            show_best(result, task, store, console, options, lambdas=search.chosen, audited=audit, to=to)
            for remark in search.remarks:
                console.print(remark, soft_wrap=True)

    return start(plan, tasks, options, show=show)


@dataclass
class _Search:
    """One task's way to its best student."""

    stage: Stage
    alphas: Sequence[float]
    chosen: dict[str, float] = field(default_factory=dict)
    """The lambda_select of each model, as far as it is chosen."""
    tuned: dict[str, list[Trial]] = field(default_factory=dict)
    """The trials among which each was chosen."""
    remarks: list[str] = field(default_factory=list)
    """What did not keep to the ratio, and what was taken instead."""

    @property
    def task(self) -> Task:
        return self.stage.task

    def add(self) -> None:
        """Adds all trials that can be named."""
        teacher = self._teacher()
        for student in self.stage.options.students_of(self.task):
            value = self._lambda_of(student)

            def trials(lambda_select: float, student: str = student) -> list[Trial]:
                return self.stage.trials("re", student, lambda_select=lambda_select)

            self.stage.add(f"RE of {student}", [value], trials, stand_ins=[self._grid(student)[0]])
            how = {"lambda_select": value.value} if value.is_made else {}
            add_alphas(self.stage, teacher if value.is_made else value, student, self.alphas, **how)

    def _teacher(self) -> Choice:
        """The best of the runs that chose the teacher's lambda_select, or of those of the seeds that were named."""
        value = self._lambda_of(self.task.teacher)
        if not value.is_made:
            what = f"teacher of {self.task.name}"
            return Choice(
                pending=value.pending, what=what, why=f"It has no lambda_select. {value.why}", next=value.next
            )
        options = self.stage.options
        named = self.task.teacher_seeds if options.teacher_seed is None else (options.teacher_seed,)
        candidates = [trial for trial in self.tuned[self.task.teacher] if trial.lambda_select == value.value]
        if named:
            candidates = self.stage.trials("re", self.task.teacher, seeds=named, lambda_select=value.value)
            self.stage.plan.trials += candidates
        return self._or_nearest(choose_teacher(self.stage, candidates))

    def _lambda_of(self, model: str) -> Choice:
        """The lambda_select of a model, from a grid that grows while the best lies on its edge or nothing is eligible."""
        grid = self._grid(model)
        while True:
            trials = lambda_trials(self.stage, model, grid)
            choice = choose_lambda(self.stage, trials, model=model)
            more = () if choice.pending else beyond(grid, choice)
            if not more:
                break
            grid = tuple(sorted({*grid, *more}))
        self.tuned[model] = trials
        self.stage.plan.trials += trials
        choice = self._or_nearest(choice)
        if choice.is_made:
            self.chosen[model] = choice.value
        return choice

    def _grid(self, model: str) -> tuple[float, ...]:
        """A decade around the task's own lambda_select to begin with."""
        own = self.task.trial("re", model, seed=0).lambda_select or LIMITS[0]
        return tuple(float(f"1e{math.floor(math.log10(own) + 0.5) + power}") for power in (-1, 0, 1))

    def _or_nearest(self, choice: Choice) -> Choice:
        if choice.is_made or choice.pending or choice.nearest is None:
            return choice
        why = choice.why.partition(" Not eligible:")[0]
        self.remarks.append(f"The {choice.what}: {why} It went on with that.")
        return replace(choice, value=choice.nearest)


def beyond(grid: Sequence[float], choice: Choice) -> tuple[float, ...]:
    """What a grid of lambda_select lacks: a decade where the best lies on its edge, what is advised where there is none."""
    if choice.is_made:
        wanted = [choice.value * 10] * (choice.value == max(grid)) + [choice.value / 10] * (choice.value == min(grid))
    else:
        wanted = list(choice.advice.lambdas) if choice.advice else []
    new = [value for value in (float(f"{each:.0e}") for each in wanted) if value not in grid]
    within = [value for value in new if LIMITS[0] <= value <= LIMITS[1]]
    return tuple(within[: MOST - len(grid)])


if __name__ == "__main__":
    run_command(best_student)
