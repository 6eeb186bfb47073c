"""Tables 1 to 3: CLS and RE of every model, and REKD of the students, over ten seeds."""

import pandas as pd

from rekd.running.plan import Plan
from sweeps.grids import TASKS
from sweeps.options import Options, run_command
from sweeps.show import show_performance
from sweeps.stages import Stage, add_distilled, add_teacher
from sweeps.start import start


def seed_sweep(options: Options) -> int:
    """Tables 1 to 3: CLS, RE and REKD at each task's own settings, a trial a seed."""
    tasks = options.tasks(TASKS)

    def plan(results: pd.DataFrame) -> Plan:
        plan = Plan()
        for task in tasks:
            stage = Stage(task=task, options=options, results=results, plan=plan)
            teacher = add_teacher(stage)
            for model in options.models_of(task):
                plan.trials += stage.trials("cls", model)
                plan.trials += stage.trials("re", model)
            for student in options.students_of(task):
                add_distilled(stage, teacher, student)
        return plan

    return start(plan, tasks, options, show=show_performance)


if __name__ == "__main__":
    run_command(seed_sweep)
