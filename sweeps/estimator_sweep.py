"""Beyond the paper: other estimators, and other ways to a rationale, compared at the same budgets."""

import pandas as pd

from rekd.running.plan import Plan
from sweeps.options import Names, Options, run_command
from sweeps.show import show_budgets
from sweeps.stages import Stage, add_staged
from sweeps.start import start

ESTIMATORS = ("gumbel", "top_k", "reinforce", "hard_kuma")


def estimator_sweep(options: Options, estimators: Names = ESTIMATORS) -> int:
    """RE of every model by each estimator, with one encoder for both its parts, and on what is salient to its CLS."""
    tasks = options.tasks(("digits",))

    def plan(results: pd.DataFrame) -> Plan:
        plan = Plan()
        for task in tasks:
            stage = Stage(task=task, options=options, results=results, plan=plan)
            for model in options.models_of(task):
                for estimator in estimators:
                    plan.trials += stage.trials("re", model, estimator=estimator)
                plan.trials += stage.trials("re", model, encoder="shared")
                add_staged(stage, model)
        return plan

    return start(plan, tasks, options, show=show_budgets)


if __name__ == "__main__":
    run_command(estimator_sweep)
