"""A table's column of images as 8-bit pixels."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rekd.messages import one_line, shortened, shown
from rekd.tasks.tables import at_row
from rekd.tasks.task import Task

if TYPE_CHECKING:
    import datasets


def read_images(task: Task, tables: "dict[str, datasets.Dataset]") -> dict[str, dict[str, np.ndarray]]:
    """Arrays by role: `image`, uint8 [sample, channel, height, width], in the task's mode and size."""
    arrays = {role: {"image": _pixels(task, tables[role], name)} for role, name in task.splits.items()}
    sizes = {of_role["image"].shape[2:] for of_role in arrays.values()}
    if len(sizes) > 1:
        listed = shortened([f"{width} x {height}" for height, width in sorted(sizes)])
        raise ValueError(
            f"{task.name}: {task.dataset} has images of {listed} pixels in its splits. "
            "Set image_size to the side that all are resized to."
        )
    return arrays


def _pixels(task: Task, table: "datasets.Dataset", split: str) -> np.ndarray:
    import datasets

    column = task.input_column
    feature = table.features[column]
    encoded = isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature)
    folders = _folders_of_images(task) if encoded else ()
    pixels: np.ndarray = np.zeros((0, 1 if task.image_mode == "L" else 3, 0, 0), dtype=np.uint8)
    for row, value in enumerate(table[column]):
        image = _decoded(task, value, split, row, folders) if encoded else _from_numbers(task, value, split, row)
        if image.mode.startswith(("I", "F")):
            raise ValueError(
                f"{at_row(task, split, row)}: the image is of mode {image.mode!r}, more than 8 bits a pixel. "
                "Scale it to 0..255 and save it with 8 bits."
            )
        image = image.convert(task.image_mode)
        if task.image_size is not None:
            image = image.resize((task.image_size, task.image_size), resample=2)  # 2 is bilinear
        array = np.asarray(image)
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
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


def _decoded(task: Task, value: Any, split: str, row: int, folders: Sequence[Path] | None) -> Any:
    """A PIL image of an encoded one (PNG, JPEG, ...): of its bytes, or of a file in one of the folders (None: anywhere)."""
    import datasets
    import PIL.Image

    if value is None or (value.get("bytes") is None and value.get("path") is None):
        raise ValueError(f"{at_row(task, split, row)}: the image is missing. Remove the row.")
    if value.get("bytes") is None and folders is not None and not _is_in(folders, value["path"]):
        raise ValueError(
            f"{at_row(task, split, row)}: the image is the path {value['path']!r}, not its bytes. "
            "Write the dataset with save_to_disk or to_parquet, which embed images."
        )
    try:
        return datasets.Image().decode_example(value)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(
            f"{at_row(task, split, row)}: the image cannot be decoded: {one_line(error)}. Remove it."
        ) from error


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
