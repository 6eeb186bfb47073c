"""Rationale extraction (RE) and its distillation (REKD): one trial, and a cluster full of them.

What a notebook needs is here, and is loaded when it is first used, so that `import rekd` costs neither torch nor Ray:

>>> from rekd import load_task
>>> digits = load_task("digits")
>>> trials = [digits.trial("re", "vit-student", seed=seed) for seed in range(3)]
>>> print(trials[0])
digits vit-student re p_target=0.25 lambda_select=0.003 epochs=35 seed=0

`run_sweep(trials, tasks=[digits], store="results")` trains them on this machine and shows how far it is,
`load_model("results", trials[0].digest)` goes from a row of the ledger to its model, `export_model` to a folder for others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rekd.handover.export import export_model
    from rekd.method.explain import Explainer
    from rekd.method.models import load_model
    from rekd.running.one_trial import run_trial
    from rekd.running.tune import run_sweep
    from rekd.store.files import Store
    from rekd.store.ledger import Ledger
    from rekd.tasks.task import Task, load_task
    from rekd.trial import Trial

_HOMES = {
    "Explainer": "rekd.method.explain",
    "Ledger": "rekd.store.ledger",
    "Store": "rekd.store.files",
    "Task": "rekd.tasks.task",
    "Trial": "rekd.trial",
    "export_model": "rekd.handover.export",
    "load_model": "rekd.method.models",
    "load_task": "rekd.tasks.task",
    "run_sweep": "rekd.running.tune",
    "run_trial": "rekd.running.one_trial",
}
"""Where each public name lives."""

__all__ = [
    "Explainer",
    "Ledger",
    "Store",
    "Task",
    "Trial",
    "export_model",
    "load_model",
    "load_task",
    "run_sweep",
    "run_trial",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rekd' has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return __all__
