"""Where people already look: TensorBoard, MLflow and Weights & Biases, through Ray's own callbacks.

The ledger holds the results all the same; nothing is read back from here.
"""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.air.constants import TRAINING_ITERATION
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.air.integrations.wandb import WandbLoggerCallback, _WandbLoggingActor
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.logger import TBXLoggerCallback

from rekd.store.files import Store
from rekd.store.ledger import EPOCHS_SCHEMA

PROJECT = "rekd"
"""MLflow's experiment and W&B's project, where their own environment variables name no other."""

SQLITE = "sqlite:///"


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
        uri = f"{SQLITE}{folder}/mlflow.db"
    return _MLflow(uri, experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))


def _wandb(store: Store) -> Callback:
    _require_package("wandb")
    import wandb  # type: ignore[import-not-found]

    offline = os.environ.get("WANDB_MODE") in ("offline", "disabled")
    if not offline and not os.environ.get("WANDB_API_KEY") and not wandb.api.api_key:
        raise ValueError(
            "--log wandb has no login. Use `wandb login` or WANDB_API_KEY; WANDB_MODE=offline does without network."
        )
    where: dict[str, Any] = {"dir": store.logs_folder} if store.is_local and not os.environ.get("WANDB_DIR") else {}
    return _WandB(os.environ.get("WANDB_PROJECT", PROJECT), **where)


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
    return f"{store.logs_folder}/{name}"


class _TensorBoard(TBXLoggerCallback):
    """Writes into the store, a folder a trial, so that TensorBoard shows a sweep that runs or was killed.

    Tune's own folder for it is a temporary one, copied to where results are when the sweep ends.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        writer = self._summary_writer_cls
        self._summary_writer_cls = lambda logdir, **how: writer(f"{folder}/{Path(logdir).name}", **how)

    def log_trial_result(self, iteration: int, trial: TuneTrial, result: dict[str, Any]) -> None:
        super().log_trial_result(iteration, trial, _of_epoch(result))


class _MLflow(MLflowLoggerCallback):
    def setup(self, *arguments: Any, **how: Any) -> None:
        """Makes the folder of a local database; MLflow itself does not."""
        if self.tracking_uri and self.tracking_uri.startswith(SQLITE):
            Path(self.tracking_uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        super().setup(*arguments, **how)

    def log_trial_result(self, iteration: int, trial: TuneTrial, result: dict[str, Any]) -> None:
        """One request an epoch: Ray's own makes two a number, and the driver waits for each."""
        import mlflow  # type: ignore[import-not-found]

        metrics = {name: value for name, value in _of_epoch(result).items() if value is not None}
        mlflow.log_metrics(metrics, step=metrics.pop(TRAINING_ITERATION), run_id=self._trial_runs[trial])


class _WandBRun(_WandbLoggingActor):
    def run(self) -> None:
        """Waits until the files are written: Ray kills this process as soon as it returns, on which W&B does not count."""
        super().run()
        self._wandb.teardown()


class _WandB(WandbLoggerCallback):
    _logger_actor_cls = _WandBRun

    def setup(self, *arguments: Any, **how: Any) -> None:
        """Makes the folder: where there is none, W&B takes a temporary one."""
        if "dir" in self.kwargs:
            Path(self.kwargs["dir"]).mkdir(parents=True, exist_ok=True)
        super().setup(*arguments, **how)

    def log_trial_result(self, iteration: int, trial: TuneTrial, result: dict[str, Any]) -> None:
        super().log_trial_result(iteration, trial, _of_epoch(result))


def _of_epoch(result: dict[str, Any]) -> dict[str, Any]:
    """The columns of an epoch; Tune's result repeats the whole trial and has clocks of its own beside them."""
    return {name: result[name] for name in (*EPOCHS_SCHEMA.names, TRAINING_ITERATION) if name in result}
