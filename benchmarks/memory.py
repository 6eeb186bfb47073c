"""Memory of a node on which several trials share a teacher of 350 MB, beside every trial loading it.

`python -m benchmarks.memory [--trials 8]`. Counted is proportional memory (PSS): a page that n processes share counts
for 1 / n in each, so that the sum over all of them, Ray's object store included, is what the node has to have.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from benchmarks.step import config
from rekd.cluster.connect import connect, disconnect
from rekd.store.files import Store


def proportional_bytes(pid: int) -> int:
    """PSS of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def store_pids() -> list[int]:
    """The processes that hold Ray's object store."""
    folders = Path("/proc").glob("[0-9]*")
    return [int(folder.name) for folder in folders if b"raylet/raylet" in _read(folder / "cmdline")]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # it has ended
        return b""


@ray.remote(num_cpus=0)
class Worker:
    """A trial's process: it has a teacher, and has looked at all of its weights."""

    def __init__(self) -> None:
        import torch

        import rekd.method.models
        import rekd.running.supplies

        torch.set_num_threads(1)
        self.modules = rekd
        # What a first model of its kind makes a process load is not the teacher's.
        self.model: Any = rekd.method.models.RationaleModel.build(
            objective="cls", num_classes=2, dropout=0.0, config={**config("vit-tiny"), "num_hidden_layers": 1}
        )
        self._look(self.model)

    def pid(self) -> int:
        return os.getpid()

    def load(self, folder: str) -> None:
        from rekd.method.models import RationaleModel

        # As a worker would that knows of no object store: read the file, copy it into a model of its own.
        model = RationaleModel.load(Path(folder))
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        self._look(model)

    def take(self, weights: Any) -> None:
        from rekd.running.supplies import _model

        self._look(_model(weights))

    def _look(self, model: Any) -> None:
        self.model = model
        self.total = sum(parameter.sum().item() for parameter in model.parameters())


def grown(num_workers: int, how: str, folder: str, store: str, digest: str) -> tuple[float, float]:
    """Megabytes that all workers together take more than before they had the teacher, and seconds."""
    from rekd.running.object_store import _fetch_weights

    workers: list[Any] = [Worker.remote() for _ in range(num_workers)]
    pids = [*ray.get([worker.pid.remote() for worker in workers]), *store_pids()]
    before = sum(proportional_bytes(pid) for pid in pids)
    started = time.perf_counter()
    if how == "shelf":
        reference = _fetch_weights.remote(store, digest)
        ray.get([worker.take.remote(reference) for worker in workers])
    else:
        ray.get([worker.load.remote(folder) for worker in workers])
    seconds = time.perf_counter() - started
    after = sum(proportional_bytes(pid) for pid in pids)
    for worker in workers:
        ray.kill(worker)
    return (after - before) / 1e6, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    options = parser.parse_args()
    from rekd.method.models import RationaleModel

    with tempfile.TemporaryDirectory() as scratch:
        store = Store(scratch)
        model = RationaleModel.build(objective="cls", num_classes=10, dropout=0.0, config=config("vit-base"))
        folder = store.model_folder("teacher")
        Path(folder).mkdir(parents=True)
        model.save(Path(folder), tokenizer=None, details={})
        size = sum(parameter.numel() for parameter in model.parameters()) * 4 / 1e6
        del model
        connect(local=True, num_cpus=2)
        try:
            for how, label in (("shelf", "from the object store"), ("load", "each loading it")):
                megabytes, seconds = grown(options.trials, how, folder, store.uri_for_workers, "teacher")
                print(
                    f"{options.trials} trials, a teacher of {size:.0f} MB, {label}: {megabytes:.0f} MB, "
                    f"{megabytes / size:.2f} copies, {seconds:.1f} s",
                    flush=True,
                )
        finally:
            disconnect()


if __name__ == "__main__":
    main()
