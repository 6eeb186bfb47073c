"""Weights and datasets of the hub, fetched once into the store: a hundred machines that ask the hub at once meet its limits.

`fetch` lets the task's own code read everything in a folder of its own, and puts what the libraries have left there into the
store. `bring` brings it back into the libraries' folder of a machine, whose processes then do not ask the hub.
"""

import fcntl
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rekd.cluster.own_folder import OwnFolder
from rekd.messages import one_line
from rekd.store.files import Store
from rekd.tasks.hub import RepoType, find, have_at_hand
from rekd.tasks.task import Task
from rekd.trial import digest_of


@dataclass(frozen=True, kw_only=True)
class Repository:
    """What a task names on the hub."""

    repo_type: RepoType
    name: str
    revision: str | None

    @property
    def digest(self) -> str:
        return digest_of(asdict(self))

    def folders(self, present_name: str) -> list[str]:
        """Where the libraries keep it below HF_HOME."""
        names = dict.fromkeys((self.name, present_name))  # some are kept by the one, some by the other
        kept = [f"hub/{self.repo_type}s--{name.replace('/', '--')}" for name in names]
        return kept if self.repo_type == "model" else [*kept, "datasets"]


def repositories(task: Task) -> list[Repository]:
    """All that a task names on the hub, each once."""
    found = [(model.source, model.revision) for model in task.models.values()]
    if task.kind == "text":
        views = [task, *(task.seen_by(name) for name in task.models)]
        found += [view.tokenizer_source for view in views]
    models = [
        Repository(repo_type="model", name=name, revision=revision)
        for name, revision in found
        if name is not None and not Path(name).is_absolute()
    ]
    on_hub = [Repository(repo_type="dataset", name=task.dataset, revision=task.revision)] if task.is_on_hub else []
    return list(dict.fromkeys([*models, *on_hub]))


def fetch(task: Task, store: Store) -> list[str]:
    """Puts what a task reads from the hub into the store; the names, without those that were there.

    Raises ValueError where the hub, or the task, does not give it.
    """
    missing = [each for each in repositories(task) if not store.exists(store.download_file(each.digest))]
    if not missing:
        return []
    with OwnFolder() as home:
        # A process of its own: the libraries look at HF_HOME once, when they are imported.
        command, environment = [sys.executable, "-m", __name__], os.environ | {"HF_HOME": str(home)}
        done = subprocess.run(command, env=environment, input=pickle.dumps(task), capture_output=True)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise ValueError(one_line(said[-1] if said else "nothing could be read"))
        present_names = json.loads(done.stdout)
        for each in missing:
            store.write(store.download_file(each.digest), _packed(home, each, present_names[each.digest]))
    return [each.name for each in missing]


def bring(task: Task, store: Store) -> None:
    """Brings what `fetch` has put into the store to this machine, where it is not yet. The process then asks no hub."""
    for each in repositories(task):
        present_name = _taken(each, store)
        if present_name is not None:
            have_at_hand(each.repo_type, each.name, each.revision, present_name=present_name)


def _taken(each: Repository, store: Store) -> str | None:
    """Its present name where it is on this machine by now; None where the store does not have it."""
    from huggingface_hub import constants

    home = Path(constants.HF_HOME)
    mark = home / "rekd" / each.digest
    mark.parent.mkdir(parents=True, exist_ok=True)
    with mark.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process of a machine brings it, the others wait
        if not mark.exists():
            if not store.exists(store.download_file(each.digest)):
                return None
            with tarfile.open(fileobj=io.BytesIO(store.read(store.download_file(each.digest)))) as packed:
                packed.extractall(home, filter="data")  # nothing outside of the folder, no devices, no owners
        return mark.read_text()


def _packed(home: Path, each: Repository, present_name: str) -> bytes:
    """A tar file of its folders; at last the mark that all of it is there, with its present name."""
    mark = home / "rekd" / each.digest
    mark.parent.mkdir(exist_ok=True)
    mark.write_text(present_name)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as packed:
        for path in [*each.folders(present_name), f"rekd/{each.digest}"]:
            if (home / path).exists():
                packed.add(home / path, path)
    return content.getvalue()


def _read_all(task: Task) -> Iterator[tuple[str, str]]:
    """Reads what the task names on the hub, as trials do; what it is called there now, by its digest."""
    from rekd.method.pretrained import load_backbone
    from rekd.tasks.data import load_data

    load_data(task)  # and the tokenizer
    for model in task.models.values():
        if model.source is not None and not model.is_local:
            load_backbone(model.source, revision=model.revision)
    for each in repositories(task):
        yield each.digest, find(each.repo_type, each.name, revision=each.revision, instead="a folder").name


if __name__ == "__main__":
    try:
        names = dict(_read_all(pickle.load(sys.stdin.buffer)))
    except ValueError as error:
        sys.exit(one_line(error))
    print(json.dumps(names))
