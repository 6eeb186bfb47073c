"""Where people already look: TensorBoard, MLflow and Weights & Biases, through Ray's own callbacks.

The ledger holds the results all the same; nothing is read back from here.
"""

import importlib.util
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.air.integrations.wandb import WandbLoggerCallback
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.logger import TBXLoggerCallback

from rekd.ledger import EPOCHS_SCHEMA
from rekd.store import Store

PROJECT = "rekd"
"""MLflow's experiment and W&B's project, where their own environment variables name no other."""

_LOGGED = frozenset(EPOCHS_SCHEMA.names) | {"training_iteration"}


def make_loggers(names: Sequence[str], store: Store) -> list[Callback]:
    """Callbacks for Ray Tune, by name: tensorboard, mlflow or wandb. Nothing is written yet.

    Raises ValueError where the package for one is missing, where it has no place for its files, and where W&B has
    neither a login nor WANDB_MODE=offline.
    """
    makers = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
    return [makers[name](store) for name in dict.fromkeys(names)]


def _tensorboard(store: Store) -> Callback:
    return _TensorBoard(_local_folder("tensorboard", store, "or log to mlflow or wandb"))


def _mlflow(store: Store) -> Callback:
    _require_package("mlflow")
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        folder = _local_folder("mlflow", store, "or set MLFLOW_TRACKING_URI to that of a server")
        uri = f"sqlite:///{folder}/mlflow.db"
    return _MLflow(uri, experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))


def _wandb(store: Store) -> Callback:
    _require_package("wandb")
    import wandb

    offline = os.environ.get("WANDB_MODE") in ("offline", "disabled")
    if not offline and not os.environ.get("WANDB_API_KEY") and not wandb.api.api_key:
        raise ValueError(
            "--log wandb has no login. Use `wandb login` or WANDB_API_KEY; WANDB_MODE=offline does without network."
        )
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    if os.environ.get("WANDB_DIR") or not store.is_local:
        return _WandB(project)
    return _WandB(project, dir=store.log_folder("wandb"))


def _require_package(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise ValueError(
            f"--log {name} needs a package that is not installed. Install it: pip install -c constraints.txt -e '.[{name}]'"
        )


def _local_folder(name: str, store: Store, instead: str) -> str:
    if not store.is_local:
        raise ValueError(
            f"--log {name} writes to a folder of this machine, and the store is {store}. Give a local --store, {instead}."
        )
    return store.log_folder(name)


class _EpochsOnly:
    """Logs the columns of an epoch; Tune's result repeats the whole trial and its own clocks beside them."""

    def log_trial_result(self, iteration: int, trial: TuneTrial, result: dict[str, Any]) -> None:
        logged = {name: value for name, value in result.items() if name in _LOGGED}
        super().log_trial_result(iteration, trial, logged)  # type: ignore[misc]


class _TensorBoard(_EpochsOnly, TBXLoggerCallback):
    """Writes into the store, a folder a trial, so that TensorBoard shows a sweep that runs or was killed.

    Tune's own folder for it is a temporary one, copied to where results are when the sweep ends.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder
        make = self._summary_writer_cls
        self._summary_writer_cls = lambda logdir, **how: make(f"{folder}/{Path(logdir).name}", **how)


class _MLflow(_EpochsOnly, MLflowLoggerCallback):
    """Makes the folder of a local database when the sweep starts, and lets its migrations be silent."""

    def setup(self, *arguments: Any, **how: Any) -> None:
        super().setup(*arguments, **how)


class _WandB(_EpochsOnly, WandbLoggerCallback):
    """Makes the folder when the sweep starts: without it, W&B takes a temporary one."""

    def setup(self, *arguments: Any, **how: Any) -> None:
        if "dir" in self.kwargs:
            Path(self.kwargs["dir"]).mkdir(parents=True, exist_ok=True)
        super().setup(*arguments, **how)
