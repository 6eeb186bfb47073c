"""Tables 6 and 7: the share alpha of L_RE in L_REKD that gives each student the lowest dev L_RE (Appendix C.2)."""

import pandas as pd

from rekd.plan import Plan
from sweeps.options import Grid, Options, run_command
from sweeps.show import show_alpha
from sweeps.stages import distilled
from sweeps.start import start

TASKS = ("cifar10", "cifar100")
ALPHAS = (0.0, 0.3, 0.5, 0.7)


def alpha_sweep(options: Options, alphas: Grid = ALPHAS) -> int:
    """Tables 6 and 7: REKD of every student over alpha, beside its RE, under a teacher chosen by rule."""
    tasks = options.tasks(TASKS)

    def plan(results: pd.DataFrame) -> Plan:
        plan = Plan()
        for task in tasks:
            students = options.students_of(task)
            distilled(plan, results, task, options, [(name, {"alpha": alpha}) for name in students for alpha in alphas])
            plan.trials += [
                task.trial("re", name, seed=seed, fidelity=options.fidelity, **options.overrides())
                for name in students
                for seed in options.seeds_of(task)
            ]
        return plan

    return start(plan, tasks, options, show=show_alpha)


if __name__ == "__main__":
    run_command(alpha_sweep)
