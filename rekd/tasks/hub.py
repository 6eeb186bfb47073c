"""The Hugging Face Hub: quiet, quick where there is no network, and one line where something is wrong."""

import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rekd.messages import one_line

RepoType = Literal["dataset", "model"]


@contextmanager
def hub(repo_type: RepoType, name: str, *, revision: str | None = None, instead: str) -> Iterator[str]:
    """Use of the Hugging Face Hub that is quiet, and quick where there is no network.

    Asks once whether `name` can be reached. If not, what runs inside sees only what was downloaded before; the
    libraries would otherwise try for up to a minute. Yields the name as it is now: `cifar10` has become
    `uoft-cs/cifar10`, and `datasets` refuses a name without owner. `instead` says what to write to use a local folder.
    Raises ValueError, one line, for whatever the libraries raise inside.
    """
    with find(repo_type, name, revision=revision, instead=instead).reading() as present_name:
        yield present_name


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A dataset or model, and whether the hub that has it could be reached. `hub` for several reads and one question."""

    name: str
    """The name as it is now; as it was given, where the hub could not be reached."""
    looked: str
    """What was looked for, in words."""
    advice: str
    """What else to do, in words."""
    commit: str | None
    """What its revision stands for: on the hub, or where that cannot be reached on this machine. None: nobody knows."""
    offline: Exception | None
    """Why the hub could not be reached."""

    @contextmanager
    def reading(self) -> Iterator[str]:
        """Does what `hub` does."""
        from huggingface_hub import constants

        with quiet(), _offline(self.offline is not None):
            try:
                yield self.name
            except Exception as error:  # these libraries have no common base for what they raise
                if self.offline is None:
                    raise ValueError(
                        f"Cannot read {self.looked} from {_hub_name()}: {one_line(error)}. {self.advice}"
                    ) from error
                raise ValueError(
                    f"Looked for {self.looked} on {_hub_name()}, which cannot be reached ({one_line(self.offline)}), "
                    f"and in {constants.HF_HOME}: {one_line(error)}. {self.advice}"
                ) from error


_at_hand: dict[tuple[RepoType, str, str | None], str] = {}
"""What lies in the libraries' own folder, by type, name and revision; and the name that it has now."""


def have_at_hand(repo_type: RepoType, name: str, revision: str | None, *, present_name: str) -> None:
    """Keeps this process from asking the hub for it from now on, by its revision or by the commit that this stands for."""
    for each in {revision, _remembered(repo_type, name, revision)}:
        _at_hand[repo_type, name, each] = present_name


def find(repo_type: RepoType, name: str, *, revision: str | None = None, instead: str) -> Repository:
    """Asks the hub for `name`, once. Raises ValueError where the hub says that it is not there."""
    import huggingface_hub
    from huggingface_hub.errors import (
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import HFValidationError, httpx

    looked = f"the {repo_type} {name!r}" + (f" (revision {revision!r})" if revision else "")
    advice = f"To use a local folder, write {instead}."
    offline, present_name, commit = None, name, None
    if (at_hand := _at_hand.get((repo_type, name, revision))) is not None:
        offline, commit = OSError("not asked: the store had it"), _remembered(repo_type, name, revision)
        return Repository(name=at_hand, looked=looked, advice=advice, commit=commit, offline=offline)
    try:
        info = huggingface_hub.HfApi().repo_info(name, repo_type=repo_type, revision=revision, timeout=5)
        present_name, commit = info.id, info.sha
        for each in {name, present_name}:
            _remember(repo_type, each, revision, commit)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ValueError(
            f"Looked for {looked} on {_hub_name()}: it is not there, or not open to you. Correct the name. {advice}"
        ) from error
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        offline, commit = error, _remembered(repo_type, name, revision)
    return Repository(name=present_name, looked=looked, advice=advice, commit=commit, offline=offline)


def _remember(repo_type: RepoType, name: str, revision: str | None, commit: str | None) -> None:
    """Notes in the hub's cache what a revision stands for. What is read by its commit is found by its revision later, too."""
    if commit is None or commit == revision:
        return
    with suppress(OSError):  # a cache that cannot be written
        file = _reference(repo_type, name, revision)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(commit)


def _remembered(repo_type: RepoType, name: str, revision: str | None) -> str | None:
    if re.fullmatch("[0-9a-f]{40}", revision or ""):
        return revision
    with suppress(OSError):
        return _reference(repo_type, name, revision).read_text().strip()
    return None


def _reference(repo_type: RepoType, name: str, revision: str | None) -> Path:
    """The file of the hub's cache that says which commit a revision is."""
    from huggingface_hub import constants

    folder = f"{repo_type}s--{name.replace('/', '--')}"
    return Path(constants.HF_HUB_CACHE) / folder / "refs" / (revision or "main")


def _hub_name() -> str:
    from huggingface_hub import constants

    return f"the Hugging Face Hub ({constants.ENDPOINT})"


@contextmanager
def _offline(active: bool) -> Iterator[None]:
    from huggingface_hub import constants

    # Libraries read their environment variables once, at import: the constants are what can still be changed.
    switches: list[Any] = [constants]
    if "datasets.config" in sys.modules:
        switches.append(sys.modules["datasets.config"])
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    if active:
        for switch in switches:
            switch.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, log lines or warnings of the Hugging Face libraries that are imported by now."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub", "transformers", "httpx", "PIL")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        restore_bars = _without_bars()
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            restore_bars()
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _without_bars() -> Callable[[], None]:
    """Disables progress bars; returns what brings back those that there were."""
    restore: list[Callable[[], None]] = []
    hub_utils = sys.modules.get("huggingface_hub.utils")
    datasets = sys.modules.get("datasets")
    transformers = sys.modules.get("transformers.utils.logging")
    for library in (hub_utils, datasets):
        if library is not None:
            on = not library.are_progress_bars_disabled()
            restore.append(library.enable_progress_bars if on else library.disable_progress_bars)
            library.disable_progress_bars()
    if transformers is not None:
        on = transformers.is_progress_bar_enabled()
        # First to come back: this switch moves that of huggingface_hub too.
        restore.insert(0, transformers.enable_progress_bar if on else transformers.disable_progress_bar)
        transformers.disable_progress_bar()

    def bring_back() -> None:
        for step in restore:
            step()

    return bring_back
