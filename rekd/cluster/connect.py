"""Connecting to Ray: a cluster that is named, or this machine."""

import contextlib
import logging
import os
import secrets
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from rekd.cluster.own_folder import OwnFolder
from rekd.messages import one_line

QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the future behaviour, and no warning about the past one
    "RAY_AIR_NEW_OUTPUT": "0",
    # Ray's own watch over memory ends a trial with an error that ends Tune, and so all trials. Linux ends a trial alone.
    "RAY_memory_monitor_refresh_ms": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails before its first epoch reports nothing
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger holds the results; nobody reads five more files a trial
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # no snapshots of the experiment: the ledger decides what runs
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

MOST = {"CPU": "REKD_MOST_CPUS", "GPU": "REKD_MOST_GPUS"}
"""Variables that say how far a cluster grows that rents its machines as they are needed: from inside, Ray cannot tell."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What there is to run on."""

    description: str
    """Where the sweep runs, in words for people."""
    num_cpus: float
    num_gpus: float
    is_shared: bool = False
    """Whether it is other machines than this one, or others beside it."""


def connect(address: str | None = None, *, local: bool = False, num_cpus: int | None = None) -> Cluster:
    """Connects to `address`, else to `RAY_ADDRESS`, else starts Ray on this machine; `local` forces the last.

    Raises ValueError where nothing answers at the address.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray
    from ray.exceptions import AuthenticationError, RayError

    address = None if local else address or os.environ.get("RAY_ADDRESS")
    arguments = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if ray.is_initialized():
            pass
        elif address is None:
            _keep_out_others()
            with _on_loopback():
                _folders.append(OwnFolder())
                ray.init("local", num_cpus=num_cpus, _temp_dir=str(_folders[-1].path), **arguments)
        else:
            arguments.pop("include_dashboard")
            try:
                _knock(address)
                ray.init(address, **arguments)
            except OSError as error:
                raise ValueError(
                    f"No Ray cluster answers at {address}: {one_line(error).rstrip('.')}. One that runs there may ask for "
                    "its token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH). Else start one with `ray up cluster.yaml`, or use "
                    "--local."
                ) from error
            except AuthenticationError as error:
                raise ValueError(
                    f"The Ray cluster at {address} lets in who has its token: {one_line(error.message).rstrip('.')}. Set "
                    "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the token of that cluster."
                ) from error
            except (RuntimeError, ValueError, RayError) as error:
                raise ValueError(
                    f"The Ray cluster at {address} cannot be used: {one_line(error).rstrip('.')}. Name another, or use --local."
                ) from error
    _silence_raylets()
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that is lost is told by the ledger and goes on
    there = ray.cluster_resources()
    cpus, gpus = (max(there.get(name, 0), float(os.environ.get(variable, 0))) for name, variable in MOST.items())
    where = f"the cluster at {address}" if address else "this machine"
    return Cluster(
        description=f"{where}: {cpus:.0f} CPUs, {gpus:.0f} GPUs",
        num_cpus=cpus,
        num_gpus=gpus,
        is_shared=address is not None,
    )


def _silence_raylets() -> None:
    """Ray prints a paragraph on every machine that is lost, whatever `log_to_driver` says. A sweep says so in its own line."""
    from ray._private import worker

    worker.print_to_stdstream = lambda data, ignore_prefix: None


_folders: list[OwnFolder] = []
"""Where the Ray that this process has started keeps its logs and sockets; empty where it has met one."""


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """What Ray starts in the context listens on 127.0.0.1 only. It does so by itself on macOS and Windows, where it takes a
    machine for alone; here it is told the same. Else all its ports would be open to the network.
    """
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _keep_out_others() -> None:
    """A token for this run, in this process and those that it starts alone. Ray asks for one, and would leave it in a file."""
    if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _knock(address: str) -> None:
    """Raises OSError at once where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
            pass


@contextlib.contextmanager
def this_machine() -> Iterator[Cluster]:
    """Ray on this machine for as long as the context lasts; one that this process has already is used, and stays."""
    import ray

    had_one = ray.is_initialized()
    try:
        yield connect(local=True)
    finally:
        if not had_one:
            disconnect()


def worker_logs() -> Iterator[tuple[str, bytes]]:
    """What the trials' processes have printed, by file: of a Ray that this process has started, whose folder goes with it."""
    for folder in _folders:
        for file in sorted(folder.path.glob("session_2*/logs/worker-*")):
            if file.stat().st_size:
                yield file.name, file.read_bytes()


def disconnect() -> None:
    """Leaves the cluster; what was started on this machine is stopped, and its folder of logs and sockets removed."""
    import ray

    ray.shutdown()
    while _folders:
        _folders.pop().remove()
