"""Where results live: a folder, or any URI that `pyarrow.fs` opens, and the one place that knows its paths."""

import os
import uuid
from collections.abc import Iterable
from pathlib import Path

import pyarrow.fs as pafs


class Store:
    """A results folder. Files appear whole or not at all.

    Locally a file is written under a temporary name, flushed to the disk and renamed; an object store shows an object
    when its upload is complete.
    """

    def __init__(self, uri: str | Path) -> None:
        """`uri` is a local path or a URI such as `s3://bucket/folder`. Raises ValueError where nothing can open it."""
        self.uri = str(uri)
        if "://" in self.uri:
            try:
                self.file_system, self.root = pafs.FileSystem.from_uri(self.uri)
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
        """One Parquet file a finished trial, one row each."""
        return f"{self.root}/trials"

    @property
    def epochs_folder(self) -> str:
        """One Parquet file a finished trial, one row an epoch."""
        return f"{self.root}/epochs"

    def compact_file(self, table: str) -> str:
        """The rows of many trials in one file, `trials` or `epochs`: what is read first, because it is read fast."""
        return f"{self.root}/compact/{table}.parquet"

    @property
    def set_aside_folder(self) -> str:
        """Files that could not be read, kept for whoever wants to know why."""
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

    def epochs_file(self, digest: str) -> str:
        return f"{self.epochs_folder}/{digest}.parquet"

    def model_folder(self, digest: str) -> str:
        """The best version of a finished trial, in the Hugging Face manner."""
        return f"{self.root}/models/{digest}"

    def running_folder(self, digest: str) -> str:
        """Checkpoints of a trial that has not ended."""
        return f"{self.root}/running/{digest}"

    def running_trial_file(self, digest: str) -> str:
        """Which trial it is, as JSON."""
        return f"{self.running_folder(digest)}/trial.json"

    def targets_file(self, fingerprint: str) -> str:
        """What a teacher says of a task's train and dev splits."""
        return f"{self.root}/targets/{fingerprint}.safetensors"

    def samples_file(self, task_digest: str) -> str:
        """The test samples of a task on which every trial shows its rationale."""
        return f"{self.root}/samples/{task_digest}.parquet"

    def rationales_file(self, digest: str) -> str:
        """What a trial predicts and selects on its task's samples."""
        return f"{self.root}/rationales/{digest}.parquet"

    def write(self, path: str, content: bytes) -> None:
        """Writes a whole file, replacing what stood there."""
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

    def read(self, path: str) -> bytes:
        """The content of a file. Raises FileNotFoundError."""
        if self.is_local:
            return Path(path).read_bytes()
        with self.file_system.open_input_file(path) as file:
            return file.read()

    def exists(self, path: str) -> bool:
        return self.file_system.get_file_info(path).type != pafs.FileType.NotFound

    def names_in(self, folder: str) -> list[str]:
        """Names of the files and folders in `folder`, sorted; none where it does not exist. Temporary names are left out."""
        selector = pafs.FileSelector(folder, allow_not_found=True)
        names = (info.base_name for info in self.file_system.get_file_info(selector))
        return sorted(name for name in names if not name.startswith("."))

    def remove_folder(self, folder: str) -> None:
        """Removes a folder with all that is in it; nothing happens where there is none."""
        if self.exists(folder):
            self.file_system.delete_dir(folder)

    def write_folder(self, folder: str, files: Iterable[tuple[str, bytes]]) -> None:
        """Writes `(name, content)` files in the given order: whoever sees the last one sees all."""
        for name, content in files:
            self.write(f"{folder}/{name}", content)

    def set_aside(self, path: str) -> str:
        """Moves an unreadable file out of the way and returns where it is now."""
        self.file_system.create_dir(self.set_aside_folder, recursive=True)
        destination = f"{self.set_aside_folder}/{uuid.uuid4().hex[:8]}-{path.rsplit('/', 1)[-1]}"
        self.file_system.move(path, destination)
        return destination

    def __str__(self) -> str:
        return self.uri
