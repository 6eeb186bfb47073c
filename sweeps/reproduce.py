"""The whole paper, Tables 1 to 8: each stage's selection feeds the next, and each starts as soon as it can."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

import pandas as pd
import typer

from analysis.selection import alpha_rule
from rekd.messages import number
from rekd.running.plan import Plan
from rekd.tasks.task import Task
from rekd.trial import Trial
from sweeps.grids import ALPHAS, LAMBDA_FROM, P_TARGETS, TASKS, lambda_grid, tunes_alpha, varies_p_target
from sweeps.options import Options, parse_names, run_command
from sweeps.show import show_reproduction
from sweeps.stages import Choice, Stage, choose_alpha, choose_lambda, choose_teacher, lambda_trials
from sweeps.start import start


class StageName(StrEnum):
    """The stages in the order in which they feed each other; `p_target` needs `lambda` alone, `cls` nothing."""

    CLS = "cls"
    LAMBDA = "lambda"
    RE = "re"
    ALPHA = "alpha"
    REKD = "rekd"
    P_TARGET = "p_target"


STAGES = tuple(StageName)


def reproduce(
    options: Options,
    only: Annotated[list[StageName] | None, typer.Option(help="Only this stage; repeatable.")] = None,
    through: Annotated[StageName | None, typer.Option(help="This stage and those before it.")] = None,
    lambda_select: Annotated[
        list[str] | None, typer.Option(metavar="MODEL=VALUE", help="Instead of the rule's choice; repeatable.")
    ] = None,
    alpha: Annotated[
        list[str] | None, typer.Option(metavar="MODEL=VALUE", help="Instead of the rule's choice; repeatable.")
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Of a GPU-hour, to put the plan in money.")] = None,
) -> int:
    """Tables 1 to 8 and Figure 2: every stage of the paper on every task; nothing runs twice."""
    tasks = options.tasks(TASKS)
    if only and through:
        raise ValueError("--only and --through exclude each other. Give one.")
    stages = tuple(only or STAGES[: STAGES.index(through) + 1 if through else len(STAGES)])
    models = {name for task in tasks for name in options.models_of(task)}
    given = {
        "lambda_select": _by_model("lambda-select", lambda_select, models),
        "alpha": _by_model("alpha", alpha, models),
    }

    def plan(results: pd.DataFrame) -> Plan:
        plan = Plan()
        branches = {task.name: _Branch(task, options, results, stages, given) for task in tasks}
        for branch in branches.values():
            source = branches.get(LAMBDA_FROM.get(branch.task.name, branch.task.name), branch)
            branch.add_to(plan, lambdas_of=source)
        return plan

    return start(plan, tasks, options, show=show_reproduction, price=price)


@dataclass
class _Branch:
    """One task's part of the paper."""

    task: Task
    options: Options
    results: pd.DataFrame
    stages: tuple[str, ...]
    given: dict[str, dict[str, float]]
    tuned: dict[str, Choice] = field(default_factory=dict)

    def lambda_of(self, model: str) -> Choice:
        """The lambda_select of a model, chosen on this task."""
        if model not in self.tuned:
            self.tuned[model] = self._choose_lambda(model)
        return self.tuned[model]

    def _choose_lambda(self, model: str) -> Choice:
        if model in self.given["lambda_select"]:
            return Choice(value=self.given["lambda_select"][model], why="given")
        stage = self._stage()
        return choose_lambda(stage, lambda_trials(stage, model, lambda_grid(self.task)), model=model)

    def _stage(self) -> Stage:
        """A stage whose plan is not run: for choices from what others ask for."""
        return Stage(task=self.task, options=self.options, results=self.results)

    def add_to(self, plan: Plan, *, lambdas_of: "_Branch") -> None:
        """Adds this task's stages to a plan; `lambdas_of` is the branch on which lambda_select is tuned."""
        stage = Stage(task=self.task, options=self.options, results=self.results, plan=plan)
        models, students = self.options.models_of(self.task), self.options.students_of(self.task)
        chosen = {model: lambdas_of.lambda_of(model) for model in dict.fromkeys([self.task.teacher, *models])}
        if "cls" in self.stages:
            for model in models:
                plan.trials += stage.trials("cls", model)
        if "lambda" in self.stages and lambdas_of is self:
            for model in models:
                plan.trials += lambda_trials(stage, model, lambda_grid(self.task))
        if "re" in self.stages:
            for model in models:
                self._add_re(stage, model, chosen[model], tuned_here=lambdas_of is self)
        if {"alpha", "rekd"} & set(self.stages):
            teacher = self._teacher(stage, chosen[self.task.teacher])
            for student in students:
                self._add_distilled(stage, student, chosen[student], teacher)
        if "p_target" in self.stages and varies_p_target(self.task):
            for model in models:
                plan.trials += stage.trials("cls", model)  # the last column of Table 8
                for p_target in P_TARGETS:
                    self._add_re(stage, model, chosen[model], p_target=p_target, tuned_here=lambdas_of is self)

    def _add_re(
        self, stage: Stage, model: str, choice: Choice, *, tuned_here: bool, p_target: float | None = None
    ) -> None:
        overrides: dict[str, Any] = {} if p_target is None else {"p_target": p_target}

        def trials(lambda_select: float) -> list[Trial]:
            return stage.trials("re", model, lambda_select=lambda_select, **overrides)

        grid = lambda_grid(self.task)
        # At the tuning stage's own p_target these runs are that stage's, whichever value is chosen.
        tuned = lambda_trials(self._stage(), model, grid[:1])
        shared = tuned_here and "lambda" in self.stages and trials(grid[0])[0] == tuned[0]
        what = f"RE of {model}" if p_target is None else f"RE of {model} at p_target {number(p_target)}"
        stage.add(what, [choice], trials, stand_ins=[grid[0]], shared=shared)

    def _teacher(self, stage: Stage, lambda_select: Choice) -> Choice:
        what = f"teacher of {self.task.name}"
        if not lambda_select.is_made:
            why = f"It has no lambda_select. {lambda_select.why}"
            return Choice(pending=lambda_select.pending, what=what, why=why, next=lambda_select.next)
        seeds = self.options.teacher_seeds_of(self.task)
        candidates = stage.trials("re", self.task.teacher, seeds=seeds, lambda_select=lambda_select.value)
        if "re" not in self.stages:  # else the stage asks for them
            stage.plan.trials += candidates
        return choose_teacher(stage, candidates)

    def _add_distilled(self, stage: Stage, student: str, lambda_select: Choice, teacher: Choice) -> None:
        """The alpha stage, and REKD at the alpha that it chooses; at the task's own where alpha is not tuned."""

        def trials(value: float, teacher_digest: str, alpha: float | None = None) -> list[Trial]:
            overrides: dict[str, Any] = {} if alpha is None else {"alpha": alpha}
            return stage.trials("rekd", student, lambda_select=value, teacher_digest=teacher_digest, **overrides)

        needs = [lambda_select, teacher]
        stand_ins = [lambda_grid(self.task)[0], "not chosen yet"]
        tuning: list[Trial] = []
        if tunes_alpha(self.task) and student not in self.given["alpha"]:
            tunes = "alpha" in self.stages
            if lambda_select.is_made and teacher.is_made:
                settings = [trials(lambda_select.value, teacher.value, alpha) for alpha in ALPHAS]
                tuning = (stage if tunes else self._stage()).needed(alpha_rule(), settings)
                stage.plan.trials += tuning if tunes else []
            for alpha in ALPHAS if tunes and not tuning else ():
                what = f"REKD of {student} at alpha {number(alpha)}"
                stage.add(what, needs, lambda v, t, a=alpha: trials(v, t, a), stand_ins=stand_ins)
            if "rekd" in self.stages:
                choice = Choice(pending=True, what=f"alpha of {student} on {self.task.name}")
                if tuning:
                    choice = choose_alpha(stage, tuning, model=student)
                stage.add(
                    f"REKD of {student}", [*needs, choice], trials, stand_ins=[*stand_ins, ALPHAS[0]], shared=tunes
                )
        elif "rekd" in self.stages:
            alpha = self.given["alpha"].get(student)
            stage.add(f"REKD of {student}", needs, lambda v, t: trials(v, t, alpha), stand_ins=stand_ins)


def _by_model(option: str, texts: list[str] | None, models: set[str]) -> dict[str, float]:
    """`MODEL=VALUE` options as numbers by model. Raises ValueError on another form and on an unknown model."""
    values = {}
    for text in texts or ():
        for part in parse_names(text):
            model, _, value = part.partition("=")
            if model not in models:
                raise ValueError(f"--{option} names the model {model!r}. Models: {', '.join(sorted(models))}.")
            try:
                values[model] = float(value)
            except ValueError as error:
                raise ValueError(f"--{option} is MODEL=VALUE such as vit-tiny=0.05, got {part!r}.") from error
    return values


if __name__ == "__main__":
    run_command(reproduce)
