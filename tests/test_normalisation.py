"""What an image model's processor says is what its pixels become; what is used is what the model's digest holds."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from rekd.method.pretrained import load_backbone
from rekd.tasks.normalisation import Normalisation, halves, read_normalisation
from rekd.tasks.task import Model
from rekd.trial import digest_of

MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
SAID = {"image_mean": MEAN, "image_std": STD}


def files_of(preprocessor: Any = None, processor: Any = None):
    """What reads the content of a model's files; None leaves a file out."""
    contents = {"preprocessor_config.json": preprocessor, "processor_config.json": processor}

    def read(name: str) -> bytes | None:
        content = contents.get(name)
        return content if content is None or isinstance(content, bytes) else json.dumps(content).encode()

    return read


def of(preprocessor: Any = None, processor: Any = None, *, family: str = "vit", channels: int = 3) -> Normalisation:
    read = files_of(preprocessor, processor)
    return read_normalisation(read, where="m", model_type=family, num_channels=channels)


def normalised(pixels: np.ndarray, used: Normalisation) -> np.ndarray:
    return (pixels / 255 - np.array(used.mean)) / np.array(used.std)


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (SAID, lambda p: (p / 255 - np.array(MEAN)) / np.array(STD)),
        ({**SAID, "rescale_factor": 1 / 127.5}, lambda p: (p / 127.5 - np.array(MEAN)) / np.array(STD)),
        ({**SAID, "do_rescale": False}, lambda p: (p - np.array(MEAN)) / np.array(STD)),
        ({**SAID, "do_normalize": False}, lambda p: p / 255),
        ({**SAID, "do_normalize": False, "do_rescale": False}, lambda p: p),
        ({"image_mean": 0.25, "image_std": 0.5}, lambda p: (p / 255 - 0.25) / 0.5),
        ({"image_mean": None, "image_std": None}, lambda p: (p / 255 - 0.5) / 0.5),
        (None, lambda p: (p / 255 - 0.5) / 0.5),
    ],
)
def test_every_flag_and_number_of_a_processor_is_honoured(processor, expected):
    pixels = np.array([[0.0, 17.0, 255.0], [128.0, 3.0, 90.0]])
    np.testing.assert_allclose(normalised(pixels, of(processor)), expected(pixels), rtol=1e-9)


def test_the_usual_numbers_are_those_that_are_written():
    assert of(SAID) == Normalisation(mean=tuple(MEAN), std=tuple(STD))
    for factor in (0.00392156862745098, 0.003921568859368563):  # as a double and as a float have it
        assert of({**SAID, "rescale_factor": factor}) == of(SAID)
    assert of() == halves(3)
    assert of(channels=1) == halves(1)


def test_the_file_that_the_library_prefers_counts():
    nested = {"image_processor": SAID}
    assert of({"image_mean": 0.9, "image_std": 0.9}, nested) == of(SAID)
    assert of(SAID, {"processor_class": "Any"}) == of(SAID)  # of older models, which says nothing of images
    assert of(None, nested) == of(SAID)


def test_what_a_family_was_pretrained_with_is_used_where_nothing_is_said():
    imagenet = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert of(family="deit") == imagenet
    assert of({"image_std": STD}, family="deit") == Normalisation(mean=imagenet.mean, std=tuple(STD))
    with pytest.raises(ValueError, match="m does not say how its images are normalised: there is no image_mean in"):
        of(family="dinov2")


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (b"{", "m/preprocessor_config.json cannot be read: Expecting property name"),
        (b"\xff", "cannot be read: 'utf-8' codec"),
        ([1], r"holds \[1\], not a table of settings"),
        ({"image_mean": [0.5]}, "image_mean has 1 numbers, and the model reads 3 channels"),
        ({"image_std": [0.5] * 4}, "image_std has 4 numbers"),
        ({"image_std": [0.5, 0, 0.5]}, r"image_std is above 0, got \[0.5, 0, 0.5\]"),
        ({"image_mean": "half"}, "image_mean is a number, or one for each channel, got 'half'"),
        ({"image_mean": [0.5, None, 0.5]}, "image_mean is a number, or one for each channel"),
        (b'{"image_mean": NaN}', "image_mean is a number, or one for each channel, got nan"),
        ({"rescale_factor": 0}, "rescale_factor is a number above 0, got 0"),
        ({"do_flip_channel_order": True}, "asks for do_flip_channel_order, which is not done here"),
        ({"rescale_offset": True}, "asks for rescale_offset, which is not done here"),
    ],
)
def test_what_cannot_be_honoured_is_refused_in_one_line(processor, message):
    with pytest.raises(ValueError, match=message) as caught:
        of(processor)
    assert "\n" not in str(caught.value)
    of({"do_resize": True, "do_center_crop": True, "do_flip_channel_order": False, "size": 224})


# --- In a folder ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    """A ViT of one channel, without a processor."""
    load_backbone(config=tiny.CONFIGS["vit"]).encoder.save_pretrained(tmp_path)
    return tmp_path


def digest(folder: Path) -> str:
    return Model(name="m", source=str(folder), defaults={}).digest


def digest_of_0_1_0(folder: Path) -> str:
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    contents = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    return digest_of({"files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}})


def write(folder: Path, name: str, **content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


def test_pixels_are_normalised_as_the_folder_says(folder):
    write(folder, "preprocessor_config.json", image_mean=0.2, image_std=[0.1])
    white = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    assert load_backbone(str(folder)).pixel_values(white).unique().tolist() == pytest.approx([8])
    write(folder, "processor_config.json", image_processor={"image_mean": 0.4, "image_std": 0.2})
    assert load_backbone(str(folder)).pixel_values(white).unique().tolist() == pytest.approx([3])


def test_what_was_identified_rightly_keeps_its_digest(folder):
    assert digest(folder) == digest_of_0_1_0(folder)  # a half each
    write(folder, "preprocessor_config.json", image_mean=[0.2], image_std=[0.1])
    assert digest(folder) == digest_of_0_1_0(folder)
    write(folder, "processor_config.json", image_processor={"image_mean": [0.2], "image_std": [0.1]})
    assert digest(folder) == digest_of_0_1_0(folder)


def test_another_normalisation_is_another_model(folder):
    digests = {digest(folder)}
    for mean in (0.1, 0.9):
        write(folder, "processor_config.json", image_processor={"image_mean": mean, "image_std": 0.5})
        digests.add(digest(folder))
    (folder / "processor_config.json").unlink()
    for flags in ({"do_normalize": False}, {"do_rescale": False}, {"rescale_factor": 1.0}, {"image_mean": 0.1}):
        write(folder, "preprocessor_config.json", **flags)
        digests.add(digest(folder))
        assert digest(folder) != digest_of_0_1_0(folder)  # which read something else, or nothing at all
    assert len(digests) == 7
    write(folder, "preprocessor_config.json", image_mean=[0.1, 0.2])
    with pytest.raises(ValueError, match="image_mean has 2 numbers, and the model reads 1 channels"):
        digest(folder)


def test_a_model_of_texts_is_what_its_weights_and_configuration_are(tmp_path):
    load_backbone(config=tiny.CONFIGS["bert"]).encoder.save_pretrained(tmp_path)
    assert digest(tmp_path) == digest_of_0_1_0(tmp_path)
    write(tmp_path, "processor_config.json", processor_class="Any")
    assert digest(tmp_path) == digest_of_0_1_0(tmp_path)


def test_pickled_weights_are_part_of_the_digest_where_they_are_read(folder):
    before = digest(folder)
    (folder / "pytorch_model.bin").write_bytes(b"1")
    assert digest(folder) == before  # safetensors are read
    (folder / "model.safetensors").unlink()
    with_one = digest(folder)
    (folder / "pytorch_model.bin").write_bytes(b"2")
    assert len({before, with_one, digest(folder)}) == 3
    model = Model(name="m", source=str(folder), defaults={})
    assert replace(model).digest == model.digest
