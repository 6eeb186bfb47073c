"""Where results live: a folder, or any URI that `pyarrow.fs` opens, and the one place that knows its paths."""

import contextlib
import errno
import hashlib
import logging
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, unquote

import pyarrow.fs as pafs

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

PATIENCE = float(os.environ.get("REKD_STORE_PATIENCE", "300"))
"""Seconds for which a store that fails is asked again: a full disk may be cleared, a network may come back."""

LONGEST_TRY = 60.0
"""Seconds that count of one try, however long it took: a process that was stopped meanwhile has asked but once."""

HOPELESS = {
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
}
"""Errors that waiting does not mend."""

REFUSALS = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|REQUEST_TIME_TOO_SKEWED|NO_SUCH_BUCKET"
    r"|UNKNOWN \(HTTP status (301|400|401|403)\))"
)
"""The same of S3, whose errors have no number: a wrong key, no such bucket, a wrong region, a token that has expired."""

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file", "http", "https")
"""What a URI begins with; a folder of such a name is taken for one that was mistyped."""

SECRETS = ("secret", "password", "token", "key", "credential", "sig")
"""Parts of the names of a URI's options that would hold what nobody else may see."""


class StoreUnavailableError(OSError):
    """The store did not answer, or failed, for as long as `PATIENCE`. It is no trial's fault."""


class StoreRefusedError(StoreUnavailableError, PermissionError):
    """The store refuses, and waiting would not mend it. It is no trial's fault either."""


class DamagedFileError(ValueError):
    """The file is not what was written."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a store, as a listing shows it."""

    path: str
    num_bytes: int
    written_at: float
    """Seconds since 1970."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class Store:
    """A results folder. Files appear whole or not at all.

    Locally a file is written under a temporary name, flushed to the disk and renamed; an object store shows an object
    when its upload is complete.
    """

    def __init__(self, uri: str | Path) -> None:
        """`uri` is a local path or a URI such as `s3://bucket/folder`. Raises ValueError where nothing can open it."""
        self.uri = str(uri)
        _refuse_mistyped(self.uri)
        if "://" in self.uri:
            _refuse_secrets(self.uri)
            try:
                self.file_system, self.root = pafs.FileSystem.from_uri(_with_whole_writes(self.uri))
            except (ValueError, OSError) as error:
                raise ValueError(f"The store {self.uri} cannot be opened: {error}") from error
        else:
            self.file_system, self.root = pafs.LocalFileSystem(), str(Path(self.uri).expanduser().resolve())
        self.is_local = isinstance(self.file_system, pafs.LocalFileSystem)

    @property
    def uri_for_workers(self) -> str:
        """The same store, named so that another process finds it from whichever folder it runs in."""
        return self.root if self.is_local else self.uri

    @property
    def trials_folder(self) -> str:
        """One Parquet file a trial that ended with a result, one row each."""
        return f"{self.root}/trials"

    @property
    def failures_folder(self) -> str:
        """One Parquet file a trial that failed, one row each: a failure cannot take the place of a result."""
        return f"{self.root}/failures"

    @property
    def epochs_folder(self) -> str:
        """One Parquet file a finished trial, one row an epoch."""
        return f"{self.root}/epochs"

    def compact_file(self, table: str) -> str:
        """A copy of all files of a table (`trials`, `epochs` or `failures`) in one, because it is read fast."""
        return f"{self.root}/compact/{table}.parquet"

    @property
    def set_aside_folder(self) -> str:
        """Copies of files that could not be read, for whoever wants to know why."""
        return f"{self.root}/set-aside"

    @property
    def pictures_folder(self) -> str:
        """Figures and the report."""
        return f"{self.root}/figures"

    @property
    def logs_folder(self) -> str:
        """What `--log` writes for other programs, a folder each."""
        return f"{self.root}/logs"

    def trial_file(self, digest: str) -> str:
        return f"{self.trials_folder}/{digest}.parquet"

    def failure_file(self, digest: str) -> str:
        return f"{self.failures_folder}/{digest}.parquet"

    def epochs_file(self, digest: str) -> str:
        return f"{self.epochs_folder}/{digest}.parquet"

    @property
    def models_folder(self) -> str:
        """One folder a trial whose model was kept."""
        return f"{self.root}/models"

    def model_folder(self, digest: str) -> str:
        """The best version of a finished trial, in the Hugging Face manner."""
        return f"{self.models_folder}/{digest}"

    @property
    def all_running_folder(self) -> str:
        """One folder a trial that has not ended."""
        return f"{self.root}/running"

    def running_folder(self, digest: str) -> str:
        """Checkpoints of a trial that has not ended."""
        return f"{self.all_running_folder}/{digest}"

    def running_trial_file(self, digest: str) -> str:
        """Which trial it is, as JSON."""
        return f"{self.running_folder(digest)}/trial.json"

    @property
    def claims_folder(self) -> str:
        """One empty file a claim of a running sweep on a trial (`rekd.store.claims`)."""
        return f"{self.root}/claims"

    @property
    def owners_folder(self) -> str:
        """One file a running sweep."""
        return f"{self.root}/owners"

    def claim_file(self, digest: str, owner: str) -> str:
        return f"{self.claims_folder}/{digest}.{owner}"

    def owner_file(self, owner: str) -> str:
        """Signs of life of a running sweep, as JSON."""
        return f"{self.owners_folder}/{owner}.json"

    @property
    def targets_folder(self) -> str:
        """What teachers say, a file each teacher and set of samples. Its name begins with the teacher's digest."""
        return f"{self.root}/targets"

    def targets_file(self, teacher_digest: str, fingerprint: str) -> str:
        """What a teacher says of a task's train and dev splits."""
        return f"{self.targets_folder}/{teacher_digest}-{fingerprint}.safetensors"

    def samples_file(self, task_digest: str) -> str:
        """The test samples of a task on which every trial shows its rationale."""
        return f"{self.root}/samples/{task_digest}.parquet"

    def rationales_file(self, digest: str) -> str:
        """What a trial predicts and selects on its task's samples."""
        return f"{self.root}/rationales/{digest}.parquet"

    @property
    def predictions_folder(self) -> str:
        """One Parquet file a trial, one row a sample of the test split."""
        return f"{self.root}/predictions"

    def predictions_file(self, digest: str) -> str:
        """What a trial predicts and selects on the whole test split."""
        return f"{self.predictions_folder}/{digest}.parquet"

    def audit_file(self, digest: str) -> str:
        """What was found in a trial's rationales by those who did not train it, one row."""
        return f"{self.audits_folder}/{digest}.parquet"

    @property
    def audits_folder(self) -> str:
        """One Parquet file a trial that was audited."""
        return f"{self.root}/audits"

    def judge_file(self, name: str) -> str:
        """The weights of the judge of a task's rationales."""
        return f"{self.root}/judges/{name}.safetensors"

    def download_file(self, digest: str) -> str:
        """A model or dataset of the hub, as a tar file of what the libraries keep of it."""
        return f"{self.root}/downloads/{digest}.tar"

    def write(self, path: str, content: bytes) -> None:
        """Writes a whole file, replacing what stood there. Raises StoreUnavailableError where that fails for long."""
        _patiently(lambda: self.write_once(path, content), f"writing {path}")

    def check_writable(self) -> None:
        """Raises ValueError, at once, where nothing can be written."""
        path = f"{self.root}/.writable-{uuid.uuid4().hex}"
        try:
            self.write_once(path, b"")
            self.file_system.delete_file(path)
        except OSError as error:
            raise ValueError(f"The store {self} cannot be written: {error}. Give another one by --store.") from error

    def read(self, path: str) -> bytes:
        """The content of a file. Raises FileNotFoundError, and StoreUnavailableError where reading fails for long."""
        return _patiently(lambda: self._read(path), f"reading {path}")

    def read_first(self, path: str, num_bytes: int) -> bytes:
        """The first bytes of a file, as many or fewer where it is shorter. Raises what `read` does."""
        return _patiently(lambda: self._read(path, num_bytes), f"reading {path}")

    def exists(self, path: str) -> bool:
        kind = _patiently(lambda: self.file_system.get_file_info(path).type, f"looking for {path}")
        return kind != pafs.FileType.NotFound

    def names_in(self, folder: str) -> list[str]:
        """Names of the files and folders in `folder`, sorted; none where it does not exist. Temporary names are left out."""
        return sorted(info.base_name for info in self._listed(folder) if not info.base_name.startswith("."))

    def states_in(self, folder: str) -> dict[str, str]:
        """Size and time of each file in `folder` as a text, by name: where it is another one, so is the file."""
        return {
            info.base_name: f"{info.size} {info.mtime_ns}"
            for info in self._listed(folder)
            if info.is_file and not info.base_name.startswith(".")
        }

    def files_under(self, folder: str) -> list[StoredFile]:
        """Every file in `folder` and in its folders, temporary ones too, sorted by path."""
        found = [info for info in self._listed(folder, recursive=True) if info.is_file]
        files = [StoredFile(info.path, info.size or 0, (info.mtime_ns or 0) / 1e9) for info in found]
        return sorted(files, key=lambda file: file.path)

    def _listed(self, folder: str, *, recursive: bool = False) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(folder, allow_not_found=True, recursive=recursive)
        return _patiently(lambda: self.file_system.get_file_info(selector), f"listing {folder}")

    def remove_file(self, path: str) -> None:
        """Removes a file; nothing happens where there is none."""
        _patiently(lambda: _unless_gone(self.file_system.delete_file, path), f"removing {path}")

    def remove_folder(self, folder: str) -> None:
        """Removes a folder with all that is in it; nothing happens where there is none."""
        _patiently(lambda: _unless_gone(self.file_system.delete_dir, folder), f"removing {folder}")

    def write_folder(self, folder: str, files: Iterable[tuple[str, bytes]]) -> None:
        """Writes `(name, content)` files in the given order: whoever sees the last one sees all."""
        for name, content in files:
            self.write(f"{folder}/{name}", content)

    def keep_aside(self, path: str, content: bytes, why: str) -> None:
        """Keeps what was read of a file that is of no use, with a warning: its path and `why`, such as "is damaged".

        The file stays what it is: another process may have written a good one since. A second call with the same content
        says and does nothing. Where the store cannot be written, the warning is all.
        """
        destination = f"{self.set_aside_folder}/{hashlib.sha256(content).hexdigest()[:8]}-{path.rpartition('/')[2]}"
        try:
            if self.exists(destination):
                return
            self.write(destination, content)
        except OSError as error:
            logger.warning("%s %s. It cannot be set aside (%s) and is left out.", path, why, error)
        else:
            logger.warning("%s %s. What was read is kept as %s.", path, why, destination)

    def set_aside(self, path: str, content: bytes, why: str) -> None:
        """Does what `keep_aside` does, and removes the file where it still is what was read.

        For files that one process at a time writes, as the claims on their trial grant: looking and removing are two steps.
        """
        self.keep_aside(path, content, why)
        with contextlib.suppress(OSError):  # it has gone, or may not be removed and is left out
            if self.read(path) == content:
                self.remove_file(path)

    def write_once(self, path: str, content: bytes) -> None:
        """Does what `write` does, but an OSError comes at once."""
        if not self.is_local:
            with self.file_system.open_output_stream(path) as stream:
                stream.write(content)
            return
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)

    def _read(self, path: str, num_bytes: int | None = None) -> bytes:
        if self.is_local:
            with Path(path).open("rb") as file:
                return file.read(num_bytes)
        with self.file_system.open_input_file(path) as file:
            return file.read(num_bytes)

    def __str__(self) -> str:
        return self.uri


def _refuse_mistyped(uri: str) -> None:
    """Raises ValueError where an address would be taken for a folder that nobody meant."""
    if not uri.strip():
        raise ValueError("The store has an empty address. Give a folder, or a URI such as s3://bucket/folder.")
    scheme, colon, rest = uri.partition(":")
    if colon and scheme.lower() in SCHEMES and not rest.startswith("//"):
        raise ValueError(f"The store {uri} is no URI. Write {scheme}://{rest.lstrip('/')}, or ./{uri} for a folder.")


def _with_whole_writes(uri: str) -> str:
    """The address, with what has Arrow write small objects of S3 in one request.

    An upload in parts takes three, and one that is killed between them stays in the bucket, unseen and paid for.
    """
    if not uri.startswith("s3://") or "allow_delayed_open=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


def _refuse_secrets(uri: str) -> None:
    """Raises ValueError where an address holds what opens the store: it is shown in logs, job lists and reports."""
    scheme, _, rest = uri.partition("://")
    while (decoded := unquote(rest)) != rest:  # a colon or a name that is percent-encoded opens the store as well
        rest = decoded
    options = parse_qs(rest.partition("?")[2])
    if re.match("[^@]*:[^@]*@", rest) or any(word in name.lower() for name in options for word in SECRETS):
        raise ValueError(
            f"The store's {scheme} address holds a password or key. Leave it out, and name it where the storage's own "
            "library looks, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )


def _patiently(work: Callable[[], Result], what: str) -> Result:
    """The result of `work`, which is tried again, less and less often, for `PATIENCE` seconds.

    What waiting does not mend is raised at once.
    """
    asked, waited, pause = time.monotonic(), 0.0, 0.1
    while True:
        try:
            return work()
        except OSError as error:
            if isinstance(error, FileNotFoundError) or error.errno in HOPELESS:
                raise
            if REFUSALS.search(str(error)):
                raise StoreRefusedError(f"The store refuses {what}: {error}") from error
            now = time.monotonic()
            asked, waited = now, waited + min(now - asked, LONGEST_TRY)
            if waited > PATIENCE:
                raise StoreUnavailableError(f"{what} failed for {waited:.0f} s: {error}") from error
            logger.warning("%s failed (%s). It is tried again.", what, error)
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, 15)


def _unless_gone(remove: Callable[[str], None], path: str) -> None:
    """Removes what may not be there, or be removed by another process first."""
    with contextlib.suppress(FileNotFoundError):
        remove(path)
