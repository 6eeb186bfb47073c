"""A dataset on this machine: which of its files belong to which split, and a digest of what is in them.

Light, because a task's digest needs it where a sweep is planned; `rekd.tasks.tables` reads the files.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekd.messages import shortened
from rekd.trial import digest_of

TABLE_SUFFIXES = (".parquet", ".csv", ".tsv", ".json", ".jsonl")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class LocalDataset:
    """Any of: a folder of `save_to_disk`; Parquet, CSV or JSON; `split/class/image` folders."""

    task: str
    """Name of the task, for messages."""
    path: Path
    """The folder, or the one file."""
    splits: Mapping[str, str]
    """Names of the splits that are read, by role: `train`; `dev` and `test`, where they are not shares of it."""

    @property
    def is_saved(self) -> bool:
        """Whether it is a folder of `save_to_disk`."""
        return (self.path / "dataset_dict.json").is_file() or (self.path / "state.json").is_file()

    @property
    def holds_images(self) -> bool:
        """Whether it is `split/class/image` folders: their images were found there, and no table names them."""
        return not self.is_saved and self.files()["train"][0].suffix.lower() in IMAGE_SUFFIXES

    def saved_folder(self, split: str) -> Path:
        """Where `save_to_disk` has put a split."""
        return self.path / split if (self.path / "dataset_dict.json").is_file() else self.path

    def files(self) -> dict[str, list[Path]]:
        """The files that are read for each role, in their order. Raises ValueError where a split has none."""
        if not self.path.exists():
            raise ValueError(
                f"{self.task}: the dataset {self.path} does not exist. Correct `dataset` in the task file."
            )
        if self.is_saved:
            return self._saved_files()
        if self.path.is_file():
            everything = [self.path]
            by_split = {self.splits["train"]: everything}
            if self.path.suffix.lower() not in TABLE_SUFFIXES:
                raise ValueError(
                    f"{self.task}: {self.path} is none of {', '.join(TABLE_SUFFIXES)}. Convert it to one of them."
                )
        else:
            everything = self._visible_files()
            by_split = self._divided(everything)
        for name in self.splits.values():
            if name not in by_split:
                in_folder = [str(file.relative_to(self.path)) for file in everything]
                shown = shortened(in_folder) if self.path.is_dir() else self.path.name
                raise ValueError(
                    f"{self.task}: {self.path} has no file for the split {name!r}, but {shown}. Name files or folders "
                    "after their split, set train_split, dev_split and test_split, or a test_fraction of the training "
                    "split."
                )
        return {role: by_split[name] for role, name in self.splits.items()}

    def class_folder(self, file: Path, split: str) -> str:
        """The folder just below the split's, or below the dataset's where there is no folder for a split."""
        parts = file.relative_to(self.path).parts
        below = parts[parts.index(split) + 1 :] if split in parts else parts
        if len(below) < 2:
            raise ValueError(
                f"{self.task}: the image {file} is in no class's folder. Arrange {self.path} as split/class/image."
            )
        return below[0]

    def content(self) -> dict[str, Any]:
        """Digests of what is read for each role: never where it is, nor what its files are called."""
        content: dict[str, Any] = {}
        for role, files in self.files().items():
            name = self.splits[role]
            content[role] = [sha256_of(file) for file in files]
            if self.is_saved:
                # The rest of that file (names of builders, download sizes) differs between copies of the same data.
                info = json.loads((self.saved_folder(name) / "dataset_info.json").read_text(encoding="utf-8"))
                content[role].append(digest_of(info["features"]))
            elif files[0].suffix.lower() in IMAGE_SUFFIXES:
                content[role] = [
                    [self.class_folder(file, name), sha] for file, sha in zip(files, content[role], strict=True)
                ]
        return content

    def _saved_files(self) -> dict[str, list[Path]]:
        try:
            if (self.path / "dataset_dict.json").is_file():
                available = json.loads((self.path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            else:
                available = [self.splits["train"]]
            files = {}
            for role, name in self.splits.items():
                check_split(name, available, f"{self.task}: {self.path}")
                folder = self.saved_folder(name)
                state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
                names = [file["filename"] for file in state["_data_files"]]
                if any(Path(file).name != file for file in names):
                    raise ValueError(
                        f"{self.task}: {folder / 'state.json'} names files outside its folder: {shortened(names)}."
                    )
                files[role] = [folder / file for file in names]
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{self.task}: {self.path} cannot be read as a folder of save_to_disk: {error}") from error
        return files

    def _visible_files(self) -> list[Path]:
        """The folder's images, else its tables, sorted by path."""
        visible = (
            file
            for file in sorted(self.path.rglob("*"))
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(self.path).parts)
        )
        everything = [file for file in visible if file.suffix.lower() in (*TABLE_SUFFIXES, *IMAGE_SUFFIXES)]
        if not everything:
            raise ValueError(
                f"{self.task}: the folder {self.path} holds no dataset. It is one of save_to_disk, or holds images as "
                f"split/class/image, or files that end in {', '.join(TABLE_SUFFIXES)}."
            )
        # A table beside images is their metadata, which nothing here reads.
        return [file for file in everything if file.suffix.lower() in IMAGE_SUFFIXES] or everything

    def _divided(self, files: list[Path]) -> dict[str | None, list[Path]]:
        by_split: dict[str | None, list[Path]] = {}
        for file in files:
            split = _split_of(file.relative_to(self.path), list(self.splits.values()))
            by_split.setdefault(split, []).append(file)
        # Where dev and test are shares of the training split, files need not name it.
        if list(by_split) == [None] and "test" not in self.splits:
            return {self.splits["train"]: files}
        return by_split


def _split_of(file: Path, names: Sequence[str]) -> str | None:
    """The split that a file belongs to, by its name (`train-00000-of-00002.parquet`), else by its innermost folder."""
    for part in reversed(file.parts):
        found = [name for name in names if re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", part)]
        if found:
            return max(found, key=len)
    return None


def check_split(name: str, available: Collection[str], where: str) -> None:
    """Raises ValueError where a dataset does not have a split."""
    if name not in available:
        raise ValueError(
            f"{where} has no split {name!r}, but {shortened(list(available))}. "
            "Set train_split, dev_split and test_split, or a test_fraction of the training split."
        )


def sha256_of(file: Path) -> str:
    """Digest of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
