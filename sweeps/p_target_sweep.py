"""Table 8 and Figure 2: accuracy against the rationale ratio, from 5 % to 75 %, beside classification."""

import pandas as pd

from rekd.running.plan import Plan
from sweeps.grids import P_TARGET_TASKS, P_TARGETS
from sweeps.options import Grid, Options, run_command
from sweeps.show import show_p_target
from sweeps.stages import Stage
from sweeps.start import start


def p_target_sweep(options: Options, p_targets: Grid = P_TARGETS) -> int:
    """Table 8 and Figure 2: RE of every model over p_target, and CLS, which sees everything."""
    tasks = options.tasks(P_TARGET_TASKS)

    def plan(results: pd.DataFrame) -> Plan:
        plan = Plan()
        for task in tasks:
            stage = Stage(task=task, options=options, results=results, plan=plan)
            for model in options.models_of(task):
                plan.trials += stage.trials("cls", model)
                for p_target in p_targets:
                    plan.trials += stage.trials("re", model, p_target=p_target)
        return plan

    return start(plan, tasks, options, show=show_p_target)


if __name__ == "__main__":
    run_command(p_target_sweep)
