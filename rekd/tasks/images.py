"""A table's column of images as 8-bit pixels, and one image as a model that was trained on them sees it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from jaxtyping import UInt8

from rekd.messages import one_line, shortened, shown
from rekd.tasks.dataset_tables import at_row
from rekd.tasks.local_files import IMAGE_SUFFIXES
from rekd.tasks.task import Task

if TYPE_CHECKING:
    import datasets
    import PIL.Image


DARK = 32
"""Where no pixel of a dataset is as bright, its numbers are probably no 8-bit pixels but of another range, such as 0..1."""


def read_images(
    task: Task, tables: "dict[str, datasets.Dataset]"
) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """Arrays by role: `image`, uint8 [sample, channel, height, width], in the task's mode and size; and remarks on what
    the images hold that is not read.
    """
    unread: Counter[str] = Counter()
    arrays = {role: {"image": _pixels(task, tables[role], name, unread)} for role, name in task.splits.items()}
    sizes = {of_role["image"].shape[2:] for of_role in arrays.values()}
    if len(sizes) > 1:
        listed = shortened([f"{width} x {height}" for height, width in sorted(sizes)])
        raise ValueError(
            f"{task.name}: {task.dataset} has images of {listed} pixels in its splits. "
            "Set image_size to the side that all are resized to."
        )
    remarks = [f"{task.name}: {count} images of {task.dataset} {what}." for what, count in unread.items()]
    if (brightest := max(int(of_role["image"].max(initial=0)) for of_role in arrays.values())) < DARK:
        remarks.append(
            f"{task.name}: no pixel of {task.dataset} is above {brightest} of 255. Scale them to 0..255, if they end there."
        )
    return arrays, remarks


def _pixels(task: Task, table: "datasets.Dataset", split: str, unread: Counter[str]) -> np.ndarray:
    """The images of a split; counts in `unread` what of them is left out."""
    import datasets

    column = task.input_column
    feature = table.features[column]
    encoded = isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature)
    folders = _folders_of_images(task) if encoded else ()
    pixels: np.ndarray = np.zeros((0, 1 if task.image_mode == "L" else 3, 0, 0), dtype=np.uint8)
    for row, value in enumerate(table[column]):
        image = (
            _decoded(task, value, split, row, folders, unread) if encoded else _from_numbers(task, value, split, row)
        )
        size = None if task.image_size is None else (task.image_size, task.image_size)
        try:
            array = pixels_of(image, mode=task.image_mode, size=size)
        except ValueError as error:
            raise ValueError(f"{at_row(task, split, row)}: {error}") from error
        if row == 0:
            pixels = np.zeros((len(table), *array.shape), dtype=np.uint8)
        if array.shape != pixels.shape[1:]:
            raise ValueError(
                f"{at_row(task, split, row)}: the image has {array.shape[2]} x {array.shape[1]} pixels, "
                f"the one of row 0 has {pixels.shape[3]} x {pixels.shape[2]}. "
                "Set image_size to the side that all are resized to."
            )
        pixels[row] = array
    return pixels


def opened(file: "str | Path | BinaryIO", unread: Counter[str] | None = None) -> "PIL.Image.Image":
    """An image file as it is looked at: turned as its camera noted. Raises what Pillow does where it is none.

    Counts in `unread`, in words, what a model never sees of it.
    """
    import PIL.Image
    import PIL.ImageOps

    with PIL.Image.open(file) as image:
        if unread is not None:
            unread.update(_unread(image))
        return PIL.ImageOps.exif_transpose(image)


def _unread(image: "PIL.Image.Image") -> Iterator[str]:
    """What an image file holds beside 8 bits of each colour, in words. It is asked before its pixels are: later it has
    forgotten how they were stored."""
    if ";16" in str([tile.args for tile in getattr(image, "tile", ())]):
        yield "have 16 bits a colour, of which the upper 8 are read"
    # A camera's second picture (MPO) is a copy of the first for small displays.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        yield "have several frames or pages, of which the first is read"
    if image.has_transparency_data and np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
        yield "are transparent in places, and are read in the colours that lie below"


def pixels_of(
    image: "PIL.Image.Image", *, mode: str, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "channel height width"]:
    """An image in a mode (`RGB` or `L`) and in a size (width, height). Raises ValueError where 8 bits do not hold it."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"the image is of mode {image.mode!r}, more than 8 bits a pixel. Scale it to 0..255 and save it with 8 bits."
        )
    image = image.convert(mode)
    if size is not None:
        image = image.resize(size, resample=2)  # 2 is bilinear
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _decoded(task: Task, value: Any, split: str, row: int, folders: Sequence[Path] | None, unread: Counter[str]) -> Any:
    """A PIL image of an encoded one (PNG, JPEG, ...): of its bytes, or of a file in one of the folders (None: anywhere)."""
    if value is None or (value.get("bytes") is None and value.get("path") is None):
        raise ValueError(f"{at_row(task, split, row)}: the image is missing. Remove the row.")
    if value.get("bytes") is None and folders is not None and not _is_in(folders, value["path"]):
        raise ValueError(
            f"{at_row(task, split, row)}: the image is the path {value['path']!r}, not its bytes. "
            "Write the dataset with save_to_disk or to_parquet, which embed images."
        )
    try:
        file = BytesIO(value["bytes"]) if value.get("bytes") is not None else _file(value["path"])
        return opened(file, unread)
    except Exception as error:  # of Pillow's readers, or of what a hub's file is fetched with
        raise ValueError(
            f"{at_row(task, split, row)}: the image cannot be decoded: {one_line(error)}. Remove it."
        ) from error


def _file(path: str) -> "str | BinaryIO":
    """A file of this machine by its path, or one of the hub opened by its address."""
    if "://" not in path:
        return path
    from datasets.utils.file_utils import xopen

    with xopen(path, "rb") as file:
        return BytesIO(file.read())


def _folders_of_images(task: Task) -> tuple[Path, ...] | None:
    """Where the images are that are named by their path; None where the paths are not a table's but were found here.

    A table from somewhere may name any file of this machine, or an address.
    """
    from datasets import config
    from huggingface_hub import constants

    if task.local_dataset is not None:
        return None if task.local_dataset.holds_images else ()
    downloads = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE)
    return tuple(Path(folder).expanduser().resolve() for folder in downloads)


def _is_in(folders: Sequence[Path], path: str) -> bool:
    """Whether it is a file of one of the folders, wherever `..` and links lead; where there are any, one of the hub too."""
    if folders and path.startswith("hf://"):
        return "::" not in path  # which begins a second address
    return Path(path).is_absolute() and any(Path(path).resolve().is_relative_to(folder) for folder in folders)


def _from_numbers(task: Task, value: Any, split: str, row: int) -> Any:
    """A PIL image of rows of pixels: [height, width] or [height, width, channel] of whole numbers 0..255."""
    import PIL.Image

    where = f"{at_row(task, split, row)}: column {task.input_column!r}"
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{where} has rows of pixels of different lengths. Correct or remove the image.") from error
    if array.dtype.kind == "f":
        got = f"{np.count_nonzero(np.isnan(array))} NaN" if np.isnan(array).any() else f"values like {array.flat[0]:g}"
        raise ValueError(f"{where} holds fractional pixels ({got}). Give 8-bit pixels: whole numbers 0..255.")
    if isinstance(value, str) and value.lower().endswith(IMAGE_SUFFIXES):
        raise ValueError(
            f"{where} holds {shown(value)}, the path of an image: what a table names is not opened. Arrange the images as "
            "split/class/image, or write the dataset with save_to_disk or to_parquet, which embed them."
        )
    if array.dtype.kind not in "iu":
        raise ValueError(f"{where} holds {shown(value)}, which is no image. Set input_column to the images' column.")
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise ValueError(
            f"{where} is of shape {array.shape}. Give [height, width] or [height, width, 1 or 3 channels]."
        )
    if array.min() < 0 or array.max() > 255:
        raise ValueError(f"{where} has pixels of {array.min()} to {array.max()}. Give 8-bit pixels: 0..255.")
    array = array.astype(np.uint8)
    return PIL.Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)
