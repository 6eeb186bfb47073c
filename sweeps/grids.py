"""The paper's own grids, in one place."""

from analysis.advice import ALPHAS as ALPHAS  # Tables 6 and 7
from rekd.tasks.task import Task

TASKS = ("cifar10", "cifar100", "imdb")
"""Section 3.2."""

ALPHA_TASKS = ("cifar10", "cifar100")
"""Appendix C.2 tunes alpha on these; IMDB takes over what they chose."""

P_TARGETS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75)
"""Table 8."""

P_TARGET_TASKS = ("cifar10",)

LAMBDA_TASKS = ("cifar10", "imdb")
"""Appendix C.1."""

LAMBDA_FROM = {"cifar100": "cifar10"}
"""Appendix C.1: the lambda_select decided on CIFAR-10 is then also used for CIFAR-100."""

_LAMBDAS = {
    "image": (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2),  # Table 4
    "text": (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3),  # Table 5
}


def lambda_grid(task: Task) -> tuple[float, ...]:
    """The grid of lambda_select for images or for texts (Tables 4 and 5)."""
    return _LAMBDAS[task.kind]


def tunes_alpha(task: Task) -> bool:
    """Whether alpha is tuned on this task: on the paper's two, and on every task that is not the paper's."""
    return task.name in ALPHA_TASKS or task.name not in TASKS


def varies_p_target(task: Task) -> bool:
    """Whether Table 8 is run on this task: on CIFAR-10, and on every task that is not the paper's."""
    return task.name in P_TARGET_TASKS or task.name not in TASKS
