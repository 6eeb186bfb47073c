"""A dataset on this machine: which of its files belong to which split, and a digest of what is in them.

Light, because a task's digest needs it where a sweep is planned; `rekd.tasks.dataset_tables` reads the files.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekd.messages import one_line, shortened
from rekd.tasks.eraser import documents
from rekd.tasks.quoting import is_quoted
from rekd.trial import digest_of

TABLE_SUFFIXES = (".parquet", ".csv", ".tsv", ".json", ".jsonl")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff")

USUAL_SPLITS = ("train", "dev", "val", "valid", "validation", "test")
"""What splits are called: a folder of such a name is a split's, also where the task does not read it."""


@dataclass(frozen=True, kw_only=True)
class LocalDataset:
    """Any of: a folder of `save_to_disk`; Parquet, CSV or JSON; `split/class/image` folders; a folder of ERASER's."""

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
        by_split, everything = self._files_by_split()
        for name in self.splits.values():
            if name not in by_split:
                in_folder = [str(file.relative_to(self.path)) for file in everything]
                shown = shortened(in_folder) if self.path.is_dir() else self.path.name
                raise ValueError(
                    f"{self.task}: {self.path} has no file for the split {name!r}, but {shown}. Name files or folders "
                    "after their split, set train_split, dev_split and test_split, or a test_fraction of the training "
                    "split."
                )
            self._check_shards(by_split[name], name)
        return {role: by_split[name] for role, name in self.splits.items()}

    def not_read(self) -> list[str]:
        """What lies in the folder and is read for no split: files by their path in it, or splits of `save_to_disk`."""
        if self.is_saved:
            return [f"split {name!r}" for name in self._saved_splits() if name not in self.splits.values()]
        if self.path.is_file():
            return []
        read = {file for files in self.files().values() for file in files}
        return [str(file.relative_to(self.path)) for file in self._everything() if file not in read]

    def _files_by_split(self) -> tuple[dict[str | None, list[Path]], list[Path]]:
        """The dataset's files by the split that they belong to, and in one list."""
        if self.path.is_file():
            if self.path.suffix.lower() not in TABLE_SUFFIXES:
                raise ValueError(
                    f"{self.task}: {self.path} is none of {', '.join(TABLE_SUFFIXES)}. Convert it to one of them."
                )
            return {self.splits["train"]: [self.path]}, [self.path]
        files = self._dataset_files()
        is_images = files[0].suffix.lower() in IMAGE_SUFFIXES
        return self._divided_images(files) if is_images else self._divided_tables(files), files

    def class_folder(self, file: Path, split: str) -> str:
        """The folder just below the split's, or below the dataset's where there is no folder for a split."""
        parts = file.relative_to(self.path).parts
        # A folder with images right in it is a class's, whatever its name.
        below = parts[parts.index(split) + 1 :] if split in parts[:-2] else parts
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
            content[role] = [self._identity_of(file) for file in files]
            if self.is_saved:
                # The rest of that file (names of builders, download sizes) differs between copies of the same data.
                info = json.loads((self.saved_folder(name) / "dataset_info.json").read_text(encoding="utf-8"))
                content[role].append(digest_of(info["features"]))
            elif files[0].suffix.lower() in IMAGE_SUFFIXES:
                content[role] = [
                    [self.class_folder(file, name), sha] for file, sha in zip(files, content[role], strict=True)
                ]
        if named := self.documents():
            content["documents"] = [[file.name, sha256_of(file)] for file in named]
        return content

    def documents(self) -> list[Path]:
        """The documents that annotations in the form of ERASER name; none where the dataset is of another form."""
        if self.is_saved or self.path.is_file() or self.files()["train"][0].suffix.lower() != ".jsonl":
            return []
        return documents(self.path)

    def _saved_splits(self) -> list[str]:
        if not (self.path / "dataset_dict.json").is_file():
            return [self.splits["train"]]
        return json.loads((self.path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]

    def _saved_files(self) -> dict[str, list[Path]]:
        try:
            available = self._saved_splits()
            files = {}
            for role, name in self.splits.items():
                check_split(name, available, f"{self.task}: {self.path}")
                folder = self.saved_folder(name)
                state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
                if state.get("_indices_data_files"):
                    raise ValueError(
                        f"{self.task}: {folder} is a selection of its rows that an old version of datasets saved and this "
                        "one cannot read. Call flatten_indices() there before save_to_disk."
                    )
                names = [file["filename"] for file in state["_data_files"]]
                if any(Path(file).name != file for file in names):
                    raise ValueError(
                        f"{self.task}: {folder / 'state.json'} names files outside its folder: {shortened(names)}."
                    )
                files[role] = [folder / file for file in names]
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{self.task}: {self.path} cannot be read as a folder of save_to_disk: {error}") from error
        return files

    def _everything(self) -> list[Path]:
        """Every visible file below the folder, sorted by path; links are followed, and one that leads nowhere is listed."""
        try:
            return sorted(_visible(self.path, (self.path.resolve(),)))
        except OSError as error:
            raise ValueError(f"{self.task}: {self.path} cannot be read: {one_line(error)}") from error

    def _dataset_files(self) -> list[Path]:
        """The folder's images, else its tables, sorted by path."""
        found = [file for file in self._everything() if file.is_file()]
        everything = [file for file in found if file.suffix.lower() in (*TABLE_SUFFIXES, *IMAGE_SUFFIXES)]
        if not everything:
            raise ValueError(
                f"{self.task}: the folder {self.path} holds no dataset. It is one of save_to_disk, or holds images as "
                f"split/class/image, or files that end in {', '.join(TABLE_SUFFIXES)}."
            )
        # A table beside images is their metadata, which nothing here reads.
        return [file for file in everything if file.suffix.lower() in IMAGE_SUFFIXES] or everything

    def _divided_tables(self, files: list[Path]) -> dict[str | None, list[Path]]:
        """Divides by the outermost folder that is named for a split, else by the file's own name."""
        names = tuple(self.splits.values())
        splits = []
        for file in files:
            *folders, own = file.relative_to(self.path).parts
            splits.append(next(filter(None, (_split_named(part, names) for part in (*folders, own))), None))
        # Where dev and test are shares of the training split, files need not name it.
        if "test" not in self.splits and not set(splits) & set(names):
            return {self.splits["train"]: files}
        return _grouped(files, splits)

    def _divided_images(self, files: list[Path]) -> dict[str | None, list[Path]]:
        """Divides by the outermost folder that is called as a split is and holds classes, else by the files' names."""
        names = tuple(self.splits.values())
        by_folder = [self._folder_split(file) for file in files]
        if self.splits["train"] in by_folder:
            return _grouped(files, by_folder)
        by_name = [folder or _split_named(file.name, names) for folder, file in zip(by_folder, files, strict=True)]
        # Where only one split is read, a photograph of a train may be called so, as long as others are not.
        if "test" not in self.splits and None in by_name:
            return _grouped(files, [folder or self.splits["train"] for folder in by_folder])
        return _grouped(files, by_name)

    def _folder_split(self, file: Path) -> str | None:
        parts = file.relative_to(self.path).parts[:-2]
        return next((part for part in parts if part in (*self.splits.values(), *USUAL_SPLITS)), None)

    def _check_shards(self, files: Sequence[Path], split: str) -> None:
        """Raises ValueError where a split's tables are not the numbered parts of one, all of which are there."""
        if files[0].suffix.lower() in IMAGE_SUFFIXES:
            return
        names = [str(file.relative_to(self.path)) if self.path.is_dir() else file.name for file in files]
        if len({_without_numbers(name) for name in names}) > 1:
            raise ValueError(
                f"{self.task}: {self.path} has more than one table for the split {split!r}: {shortened(names)}. Keep one, "
                "or name its parts alike but for their numbers, such as train-0.csv and train-1.csv."
            )
        totals = re.findall(r"\d+-of-(\d+)", names[0])
        if totals and int(totals[-1]) != len(names):
            raise ValueError(
                f"{self.task}: the split {split!r} of {self.path} is {int(totals[-1])} files by their names, and "
                f"{len(names)} are there: {shortened(names)}. Fetch the others."
            )

    def _identity_of(self, file: Path) -> Any:
        """Digest of a file's content; with a word where it is not read as 0.1.0 did, which took every TSV for quoted."""
        if file.suffix.lower() != ".tsv":
            return sha256_of(file)
        try:
            return sha256_of(file) if is_quoted(file) else ["unquoted", sha256_of(file)]
        except ValueError as error:
            raise ValueError(f"{self.task}: {file} cannot be read: {error}") from error


_PART = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<![a-z0-9])[0-9a-f]{16,}(?![a-z0-9])|(?<![v\d])\d+")
"""What tells the parts of a table apart: an identifier or a number, but not that of a version (`v2`)."""


def _without_numbers(name: str) -> str:
    """What the names of one table's parts have in common."""
    return _PART.sub("#", name.lower())


def _visible(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Files below a folder, `above` being the folders that lead to it: a link back to one of them is not followed."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif (real := path.resolve()) not in above:
            yield from _visible(path, (*above, real))


def _grouped(files: Sequence[Path], splits: Sequence[str | None]) -> dict[str | None, list[Path]]:
    by_split: dict[str | None, list[Path]] = {}
    for file, split in zip(files, splits, strict=True):
        by_split.setdefault(split, []).append(file)
    return by_split


def _split_named(part: str, names: Sequence[str]) -> str | None:
    """The split that a file's or folder's name (`train-00000-of-00002.parquet`) names; None where it names none or several."""
    for choices in (names, USUAL_SPLITS):
        found = [name for name in choices if re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", part)]
        if found:
            longest = max(found, key=len)
            return longest if all(name in longest for name in found) else None
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
