"""What a sweep wants run: a function of the results so far, asked again whenever a trial has ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from rekd.trial import Trial


@dataclass(frozen=True, kw_only=True)
class LaterTrials:
    """Trials that cannot be named yet, because something has to be chosen from results first."""

    what: str
    """Such as `REKD of vit-tiny on cifar10`."""
    num_trials: int
    """The number of those that no other part of the plan asks for."""
    num_shared: int = 0
    """And the ones that another part asks for too, whatever is chosen."""
    needs: str
    """Such as `teacher of cifar10`."""
    like: Trial
    """One such trial, but for what is not chosen yet: it tells how long they take."""


@dataclass(kw_only=True)
class Plan:
    """The trials of a sweep as far as the results allow to name them."""

    trials: list[Trial] = field(default_factory=list)
    """The trials in order of priority. The same trial may be asked for twice; it runs once."""
    postponed: list[LaterTrials] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    """Branches that will not go on, with the reason, such as a rule that found nothing eligible."""

    def unique_trials(self) -> dict[str, Trial]:
        """Holds each trial once by its digest, in order of priority."""
        return {trial.digest: trial for trial in self.trials}


@dataclass(kw_only=True)
class SweepResult:
    """What became of a sweep."""

    plan: Plan
    """The plan as it stood at the end."""
    rows: pd.DataFrame
    """The rows of `trials` of this sweep's trials, those of earlier runs too."""
    num_trained: int = 0
    """Trials that were run now."""
    is_interrupted: bool = False
    held: str = ""
    """Why trials were not started any more, such as a limit that was reached."""

    @classmethod
    def of(cls, plan: Plan, results: pd.DataFrame, **how: Any) -> "SweepResult":
        """A plan with those rows of the ledger that belong to it, sorted by digest: not in the order in which they ended."""
        rows = results[results["digest"].isin(list(plan.unique_trials()))].sort_values("digest", ignore_index=True)
        return cls(plan=plan, rows=rows, **how)

    @property
    def failed(self) -> pd.DataFrame:
        """Rows that ended in an error."""
        return self.rows[self.rows["status"] == "failed"]

    @property
    def missing(self) -> list[Trial]:
        """Trials without a row."""
        present = set(self.rows["digest"])
        return [trial for digest, trial in self.plan.unique_trials().items() if digest not in present]

    @property
    def is_complete(self) -> bool:
        """Whether every trial has a result, and nothing was postponed or stopped."""
        return not (len(self.failed) or self.missing or self.plan.postponed or self.plan.stopped)


def to_run(plan: Plan, results: pd.DataFrame) -> list[Trial]:
    """The trials of a plan that have not ended, those that failed among them."""
    ended = set(results.loc[results["status"] != "failed", "digest"])
    return [trial for digest, trial in plan.unique_trials().items() if digest not in ended]


PlanFunction = Callable[[pd.DataFrame], Plan]
"""What makes a plan of the rows of `trials` in the ledger. It is pure: the same rows, the same plan."""


def fixed_plan(trials: Sequence[Trial]) -> PlanFunction:
    """The plan of a sweep that depends on no result."""
    return lambda results: Plan(trials=list(trials))
