"""Tables 6 and 7: the share alpha of L_RE in L_REKD that gives each student the lowest dev L_RE (Appendix C.2)."""

import pandas as pd

from rekd.running.plan import Plan
from sweeps.grids import ALPHA_TASKS, ALPHAS
from sweeps.options import Grid, Options, run_command
from sweeps.show import show_alpha
from sweeps.stages import Stage, add_alphas, add_teacher
from sweeps.start import start


def alpha_sweep(options: Options, alphas: Grid = ALPHAS) -> int:
    """Tables 6 and 7: REKD of every student over alpha, beside its RE, under a teacher chosen by rule."""
    tasks = options.tasks(ALPHA_TASKS)

    def plan(results: pd.DataFrame) -> Plan:
        plan = Plan()
        for task in tasks:
            stage = Stage(task=task, options=options, results=results, plan=plan)
            teacher = add_teacher(stage)
            for student in options.students_of(task):
                plan.trials += stage.trials("re", student)
                add_alphas(stage, teacher, student, alphas)
        return plan

    return start(plan, tasks, options, show=show_alpha)


if __name__ == "__main__":
    run_command(alpha_sweep)
