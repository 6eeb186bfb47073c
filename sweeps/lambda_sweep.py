"""Tables 4 and 5: the lambda_select of the lowest dev L_RE among those that keep to the ratio (Appendix C.1)."""

import pandas as pd

from rekd.running.plan import Plan
from sweeps.grids import LAMBDA_TASKS, lambda_grid
from sweeps.options import Grid, Options, run_command
from sweeps.show import show_lambda
from sweeps.stages import Stage, lambda_trials
from sweeps.start import start


def lambda_sweep(options: Options, lambdas: Grid = None) -> int:
    """Tables 4 and 5: RE of every model over lambda_select; the rule chooses one for each."""
    tasks = options.tasks(LAMBDA_TASKS)

    def plan(results: pd.DataFrame) -> Plan:
        plan = Plan()
        for task in tasks:
            stage = Stage(task=task, options=options, results=results, plan=plan)
            for model in options.models_of(task):
                plan.trials += lambda_trials(stage, model, lambdas or lambda_grid(task))
        return plan

    return start(plan, tasks, options, show=show_lambda)


if __name__ == "__main__":
    run_command(lambda_sweep)
