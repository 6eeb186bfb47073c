"""How pixels become numbers: the mean and deviation that an image model's own processor says, and no guess.

A processor's files say more: to which size images are scaled and what is cut off. That is the task's affair here
(`image_size`), as it decides what the features are.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekd.messages import one_line, shown

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
"""Where a model's folder describes its image processor. The first one counts where it holds an `image_processor`."""

_GEOMETRY = ("do_resize", "do_center_crop", "do_pad", "do_convert_rgb")
_HONOURED = ("do_rescale", "do_normalize")
_SHIFTS = ("offset", "rescale_offset")
"""What some processors call a shift of the rescaled pixels."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""The standard deviations of red, green and blue over ImageNet's training images, of 1."""

_UNSAID: dict[str, dict[str, Any]] = {
    "vit": {"image_mean": 0.5, "image_std": 0.5},
    "deit": {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
}
"""What a family was pretrained with, where its files do not say."""


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """An 8-bit pixel becomes (pixel / 255 - mean) / std, with a mean and a deviation for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def halves(num_channels: int) -> Normalisation:
    """Maps 0..255 to -1..1: what a model begins with that was not pretrained."""
    return Normalisation(mean=(0.5,) * num_channels, std=(0.5,) * num_channels)


def read_normalisation(
    read: Callable[[str], bytes | None], *, where: str, model_type: str, num_channels: int
) -> Normalisation:
    """The normalisation of a pretrained image model. `read` gives the content of its files, None of one that is not there.

    Raises ValueError where its processor asks for what is not done here, or is none.
    """
    name, processor = _processor(read, where)
    if not processor.get("do_normalize", True):
        processor = {**processor, "image_mean": 0.0, "image_std": 1.0}
    unknown = [key for key, value in processor.items() if (key.startswith("do_") or key in _SHIFTS) and value]
    if unknown := sorted(set(unknown) - {*_GEOMETRY, *_HONOURED}):
        raise ValueError(f"{where}/{name} asks for {', '.join(unknown)}, which is not done here. Choose another model.")
    factor = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1
    if not _is_number(factor) or factor <= 0:
        raise ValueError(f"{where}/{name}: rescale_factor is a number above 0, got {shown(factor)}.")
    scale = 1.0 if math.isclose(255 * factor, 1, rel_tol=1e-6) else 255 * factor
    values = {}
    for key in ("image_mean", "image_std"):
        value = processor.get(key)
        value = _UNSAID.get(model_type, {}).get(key) if value is None else value
        if value is None:
            raise ValueError(
                f"{where} does not say how its images are normalised: there is no {key} in {' or '.join(PROCESSOR_FILES)}. "
                "Save the model's image processor beside its weights."
            )
        values[key] = tuple(one / scale for one in _by_channel(value, key, num_channels, f"{where}/{name}"))
    if min(values["image_std"]) <= 0:
        raise ValueError(f"{where}/{name}: image_std is above 0, got {shown(processor['image_std'])}.")
    return Normalisation(mean=values["image_mean"], std=values["image_std"])


def unseen_normalisation(folder: Path) -> dict[str, Any]:
    """What a folder's digest holds of its normalisation beside its files, as 0.1.0 chose them: nothing where these files,
    as 0.1.0 read them, say the same.

    That version left out `processor_config.json` and some keys of `preprocessor_config.json`. Raises ValueError as
    `read_normalisation`.
    """
    config = _json((folder / "config.json").read_bytes(), f"{folder}/config.json")
    model_type, num_channels = str(config.get("model_type")), config.get("num_channels", 3)

    def read(name: str) -> bytes | None:
        return (folder / name).read_bytes() if (folder / name).is_file() else None

    _, said = _processor(read, str(folder))
    if model_type not in _UNSAID and said.get("do_normalize", True) and not {"image_mean", "image_std"} <= said.keys():
        return {}  # a model of texts, or one that is refused when it is read
    used = read_normalisation(read, where=str(folder), model_type=model_type, num_channels=num_channels)
    content = read("preprocessor_config.json")
    seen = {} if content is None else json.loads(content)
    before = [seen.get(key, [0.5] * num_channels) for key in ("image_mean", "image_std")]
    numbers = [list(used.mean), list(used.std)]
    return {} if numbers == before else {"normalisation": numbers}


def _processor(read: Callable[[str], bytes | None], where: str) -> tuple[str, dict[str, Any]]:
    """The file that describes the image processor, and what it says; the second file's name and nothing where none does."""
    for name in PROCESSOR_FILES:
        content = read(name)
        if content is None:
            continue
        said = _json(content, f"{where}/{name}")
        if name == "preprocessor_config.json":
            return name, said
        if isinstance(nested := said.get("image_processor"), dict):
            return name, nested
    return PROCESSOR_FILES[-1], {}


def _json(content: bytes, where: str) -> dict[str, Any]:
    try:
        table = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{where} cannot be read: {one_line(error)}. Save the model anew.") from error
    if not isinstance(table, dict):
        raise ValueError(f"{where} holds {shown(table)}, not a table of settings. Save the model anew.")
    return table


def _by_channel(value: Any, key: str, num_channels: int, where: str) -> list[float]:
    """A number for each channel; a single one is that of all."""
    numbers = [value] * num_channels if _is_number(value) else value
    if not isinstance(numbers, (list, tuple)) or not all(map(_is_number, numbers)):
        raise ValueError(f"{where}: {key} is a number, or one for each channel, got {shown(value)}.")
    if len(numbers) != num_channels:
        raise ValueError(
            f"{where}: {key} has {len(numbers)} numbers, and the model reads {num_channels} channels. Give one for each."
        )
    return [float(number) for number in numbers]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
