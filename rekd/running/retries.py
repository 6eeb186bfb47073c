"""How often a trial is started again after its process was lost."""

from rekd.trial import Trial

MAX_FAILURES = 8
"""Times that a trial may lose its process or node without finishing an epoch in between, before it is given up.

To Ray a preempted node is a failure like any other, so what counts is standing still.
"""


class Retries:
    """How often trials have lost their process since they last came further than ever before."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._furthest: dict[str, int] = {}

    def reached(self, trial: Trial, epoch: int) -> None:
        """An epoch was reported; one that is only reported again, from a checkpoint, is no step forward."""
        if epoch > self._furthest.get(trial.digest, 0):
            self._furthest[trial.digest] = epoch
            self._count[trial.digest] = 0

    def once_more(self, trial: Trial) -> bool:
        """The process or its node was lost: whether the trial is tried again."""
        self._count[trial.digest] = self._count.get(trial.digest, 0) + 1
        return self._count[trial.digest] <= MAX_FAILURES
