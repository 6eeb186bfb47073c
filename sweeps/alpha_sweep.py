"""Tables 6 and 7: the share alpha of L_RE in L_REKD that gives each student the lowest dev L_RE (Appendix C.2)."""

from typing import Annotated

import pandas as pd
import typer

from rekd.running.plan import Plan
from sweeps.grids import ALPHA_TASKS, ALPHAS
from sweeps.options import Grid, Options, run_command
from sweeps.show import show_alpha
from sweeps.stages import Stage, add_alphas, add_teacher
from sweeps.start import start

Longer = Annotated[
    int | None, typer.Option(min=2, help="RE with so many times the epochs, too: does it catch up, given time?")
]


def alpha_sweep(options: Options, alphas: Grid = ALPHAS, re_longer: Longer = None) -> int:
    """Tables 6 and 7: REKD of every student over alpha, beside its RE, under a teacher chosen by rule."""
    tasks = options.tasks(ALPHA_TASKS)

    def plan(results: pd.DataFrame) -> Plan:
        plan = Plan()
        for task in tasks:
            stage = Stage(task=task, options=options, results=results, plan=plan)
            teacher = add_teacher(stage)
            for student in options.students_of(task):
                plain = stage.trials("re", student)
                plan.trials += plain
                if re_longer is not None:
                    plan.trials += stage.trials("re", student, epochs=re_longer * plain[0].epochs)
                add_alphas(stage, teacher, student, alphas)
        return plan

    return start(plan, tasks, options, show=show_alpha)


if __name__ == "__main__":
    run_command(alpha_sweep)
