"""Beyond the paper: students of another patch size and of another kind, parts of the distillation, and a curriculum."""

from itertools import product
from typing import Annotated

import pandas as pd
import typer

from rekd.running.plan import Plan
from sweeps.options import Grid, Options, run_command
from sweeps.show import show_performance
from sweeps.stages import Stage, add_distilled, add_taught_by_all, add_taught_by_own_seed, add_teacher
from sweeps.start import start

PARTS = ("rationale", "prediction", "both")
OTHERS = typer.Option(help="Also teachers of the same seed, all of them averaged, and the teacher as its own student.")
ALPHAS = (0.3, "0.9->0.3:cosine")


def teacher_sweep(options: Options, alphas: Grid = ALPHAS, other_teachers: Annotated[bool, OTHERS] = False) -> int:
    """REKD of every student by what is distilled and by how alpha moves, beside its RE, under a teacher chosen by rule."""
    tasks = options.tasks(("hidden-digits-students",))

    def plan(results: pd.DataFrame) -> Plan:
        plan = Plan()
        for task in tasks:
            stage = Stage(task=task, options=options, results=results, plan=plan)
            teacher = add_teacher(stage)
            for student in options.students_of(task):
                plan.trials += stage.trials("re", student)
                for distils, alpha in product(PARTS, alphas):
                    add_distilled(stage, teacher, student, distils=distils, alpha=alpha)
            for student in (task.teacher, *options.students_of(task)) if other_teachers else ():
                add_taught_by_own_seed(stage, student)
                add_taught_by_all(stage, student)
        return plan

    return start(plan, tasks, options, show=show_performance)


if __name__ == "__main__":
    run_command(teacher_sweep)
