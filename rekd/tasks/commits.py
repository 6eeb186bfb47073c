"""What names of the hub stand for when a run begins: a name without a revision is whatever the hub has that day."""

import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace

from rekd.tasks.hub import RepoType, find
from rekd.tasks.task import Task
from rekd.trial import canonical_json


def pinned(task: Task, models: Collection[str]) -> Task:
    """The task with each name of the hub resolved to the commit that it stands for now: the dataset's, the tokenizer's, and
    those of `models`. What has been resolved before stays, and digests do not change.

    Raises ValueError on a name that the hub does not know. Where it cannot be reached, what this machine knows counts.
    """
    known: dict[tuple[RepoType, str, str | None], str | None] = {}

    def commit_of(repo_type: RepoType, name: str, revision: str | None) -> str | None:
        if (repo_type, name, revision) not in known:
            instead = f"a TOML file with extends = {task.name!r} and '/path/to/folder' in its place"
            known[repo_type, name, revision] = find(repo_type, name, revision=revision, instead=instead).commit
        return known[repo_type, name, revision]

    of_models = {
        name: replace(model, commit=model.commit or commit_of("model", str(model.source), model.revision))
        for name, model in task.models.items()
        if name in models and model.is_on_hub
    }
    dataset, tokenizer = task.commit, task.tokenizer_commit
    if dataset is None and task.is_on_hub:
        dataset = commit_of("dataset", task.dataset, task.revision)
    if tokenizer is None and task.has_tokenizer_on_hub:
        tokenizer = commit_of("model", *task.tokenizer_source)
    return replace(task, commit=dataset, tokenizer_commit=tokenizer, models={**task.models, **of_models})


def commits(task: Task, models: Collection[str]) -> dict[str, str]:
    """The commits of a pinned task, by what was asked for, such as `model google/vit-base-patch16-224 (main)`."""
    asked = [("dataset", task.dataset, task.revision, task.commit)]
    if task.has_tokenizer_on_hub:
        asked.append(("tokenizer", *task.tokenizer_source, task.tokenizer_commit))
    for name in models:
        model = task.models[name]
        asked.append(("model", str(model.source), model.revision, model.commit))
    return {f"{what} {name} ({revision or 'main'})": commit for what, name, revision, commit in asked if commit}


def as_text(of_run: dict[str, str]) -> str | None:
    """What a row holds of commits; None where nothing was of the hub."""
    return canonical_json(of_run) if of_run else None


def moved(now: dict[str, str], rows: Iterable[str | None]) -> list[str]:
    """A sentence for each name that stands for another commit than in trials of before, whose rows hold `rows`."""
    then = Counter((asked, commit) for row in rows if isinstance(row, str) for asked, commit in json.loads(row).items())
    return [
        f"The {asked} is at commit {now[asked][:12]}, and was at {commit[:12]} in {count} trials of this store. "
        f"Give that as its revision in a task file to stay with it."
        for (asked, commit), count in sorted(then.items())
        if now.get(asked, commit) != commit
    ]
