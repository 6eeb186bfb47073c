"""Prediction and rationale of new inputs, for people."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rekd.messages import one_line, shown
from rekd.method.equations import gumbel_noise
from rekd.method.models import Prediction, RationaleModel, mask_of, saved_config
from rekd.method.samples import Inputs
from rekd.method.streams import evaluation_noise
from rekd.tasks.hub import quiet
from rekd.tasks.images import opened, pixels_of
from rekd.tasks.spans import ReadText, read_text
from rekd.tasks.texts import read_tokenizer

AT_A_TIME = 64
"""Inputs that are predicted together."""


@dataclass(frozen=True)
class Picture:
    """An image that is not a file by itself: a row of a table, or what somebody dropped on a page."""

    name: str
    """What it is called in messages."""
    content: bytes
    """A PNG, JPEG or other file that Pillow reads."""


Input = str | Picture
"""A text, or for a model of images the path of a file or a `Picture`."""


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word of a text, and where it stands there; in scripts without spaces a token."""

    text: str
    start: int
    """First character in the original text, counted from 0."""
    end: int
    """The character after its last."""
    selected: bool
    """Whether any of its tokens is in the rationale."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a model says of one input."""

    source: str
    """The text, or the path of the image."""
    label: str
    """The predicted class, by its name where the model knows it."""
    probability: float
    """The probability of that class, in [0, 1]."""
    probabilities: Mapping[str, float]
    """The probability of every class, in the order of their numbers."""
    rationale_ratio: float
    """Share of all positions that is selected."""
    words: tuple[Word, ...] | None = None
    """The words of a text, in order."""
    read: tuple[int, int] | None = None
    """What was read of a text: its first character, and the one after the last, which is not the end of too long a text."""
    patches: np.ndarray | None = None
    """The patches of an image: bool, "row column", True where one is selected."""


class Explainer:
    """A trained model and what prepares its inputs, from the folder of a finished trial."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError where the folder is not that of a finished trial."""
        self.model = RationaleModel.load(folder)
        details = saved_config(folder)["details"]
        needed = "input_ids" if self.model.kind == "text" else "image"
        if needed not in details.get("inputs", {}):
            raise ValueError(
                f"{folder}/config.json has no details.inputs.{needed}, the shape of an input. "
                "Give a folder that a finished trial wrote."
            )
        self.shapes: dict[str, list[int]] = details["inputs"]
        self.class_names: Sequence[str] | None = details.get("class_names")
        trial = details.get("trial", {})
        self.is_sampled = trial.get("evaluation_mask") == "sampled_everywhere"
        self.seed: int = trial.get("seed", 0)
        self.name = f"{self.model.description['objective'].upper()} {trial.get('model', folder.name)}"
        self.tokenizer: Any = None
        if self.model.kind == "text":
            self.tokenizer = _tokenizer(folder)

    @property
    def num_features(self) -> int:
        """L, the features of an input."""
        grid = self.model.predictor.backbone.grid
        return self.shapes["input_ids"][0] if grid is None else grid[0] * grid[1]

    def __call__(self, inputs: Iterable[Input]) -> list[Explanation]:
        """One explanation an input, as `each`."""
        return list(self.each(inputs))

    def each(self, inputs: Iterable[Input], *, budget: float | None = None) -> Iterator[Explanation]:
        """One explanation an input, in order; `AT_A_TIME` are read and predicted together, so that any number may come.

        With a `budget`, a share of all positions in (0, 1], the rationale is that many of the most strongly selected ones,
        instead of what the model decides. Raises ValueError on a text that is empty or no UTF-8, and on a file that is no
        image of 8 bits.
        """
        if budget is not None and not 0 < budget <= 1:
            raise ValueError(f"A budget is a share of the features in (0, 1], got {budget:g}.")
        explained = self._texts if self.model.kind == "text" else self._images
        rest = iter(inputs)
        while chunk := list(islice(rest, AT_A_TIME)):
            yield from explained(chunk, budget)

    def _texts(self, texts: Sequence[Input], budget: float | None) -> Iterator[Explanation]:
        with quiet():
            read = [self.read(text) for text in texts]
        found = self._predict(text_batch(read), budget)
        for row, one in enumerate(read):
            words = words_of(one, found.mask[row].bool().tolist())
            yield self._explanation(one.text, found, row, words=words, read=one.read)

    def read(self, text: Input) -> ReadText:
        """A text as the model reads it. Raises ValueError where there is nothing to select from."""
        if isinstance(text, Picture):
            raise ValueError(f"{text.name} is an image, and the model reads texts.")
        if not text.strip():
            raise ValueError("An input is an empty text, from which nothing can be selected.")
        try:
            text.encode()
        except UnicodeEncodeError as error:  # how Python hands bytes over that are no UTF-8
            raise ValueError(f"The input {shown(text)} is not UTF-8. Convert it first.") from error
        return read_text(self.tokenizer, text, max_length=self.shapes["input_ids"][0])

    def _images(self, images: Sequence[Input], budget: float | None) -> Iterator[Explanation]:
        pixels = np.stack([self.pixels(image) for image in images])
        found = self._predict({"image": torch.from_numpy(pixels)}, budget)
        grid = self.model.predictor.backbone.grid
        assert grid is not None
        for row, image in enumerate(images):
            patches = found.mask[row].bool().numpy().reshape(grid)
            yield self._explanation(_name_of(image), found, row, patches=patches)

    def pixels(self, image: Input) -> np.ndarray:
        """An image as the model reads it: 8 bits, "channel height width", of the size of those that it was trained on."""
        channels, height, width = self.shapes["image"]
        try:
            # To the size of the training images: the model has seen nothing finer.
            file = BytesIO(image.content) if isinstance(image, Picture) else image
            return pixels_of(opened(file), mode="L" if channels == 1 else "RGB", size=(width, height))
        except Exception as error:  # of Pillow's readers
            name = _name_of(image).encode(errors="backslashreplace").decode()
            raise ValueError(
                f"{name} cannot be read as an image: {one_line(error)}. Give a PNG or JPEG file."
            ) from error

    @torch.no_grad()
    def _predict(self, batch: Inputs, budget: float | None = None) -> Prediction:
        if self.model.generator is None:
            return self.model.predict(batch)
        selection_logits = self.model.generator(batch)
        mask = self._mask(selection_logits, budget)
        return Prediction(logits=self.model.predictor(batch, mask), mask=mask, selection_logits=selection_logits)

    def _mask(self, selection_logits: Tensor, budget: float | None) -> Tensor:
        scores = selection_logits
        if self.is_sampled:
            # The same noise for each input: what is said of it does not depend on what is asked beside it.
            noise = evaluation_noise(self.seed, torch.device("cpu"))
            scores = scores + gumbel_noise(scores[:1].shape, generator=noise)
        return mask_of(scores, budget=self.model.description["budget"] if budget is None else budget)

    def _explanation(self, source: str, found: Prediction, row: int, **parts: Any) -> Explanation:
        probabilities = found.logits[row].softmax(dim=-1)
        label = int(probabilities.argmax())
        names = self.class_names or [str(number) for number in range(len(probabilities))]
        return Explanation(
            source=source,
            label=names[label],
            probability=float(probabilities[label]),
            probabilities=dict(zip(names, probabilities.tolist(), strict=True)),
            rationale_ratio=float(found.mask[row].mean()),
            **parts,
        )


def text_batch(read: Sequence[ReadText]) -> dict[str, Tensor]:
    """Texts as a model's inputs."""
    return {
        "input_ids": torch.tensor([one.input_ids for one in read]),
        "valid": torch.tensor([one.valid for one in read], dtype=torch.uint8),
    }


def words_of(read: ReadText, mask: Sequence[bool]) -> tuple[Word, ...]:
    """The words of a text, each selected where any of its tokens is."""
    selected: dict[tuple[int, int], bool] = {}
    for span, kept in zip(read.spans, mask, strict=True):
        if span != (0, 0):
            selected[span] = selected.get(span, False) or kept
    return tuple(
        Word(text=read.text[start:end], start=start, end=end, selected=kept) for (start, end), kept in selected.items()
    )


def _name_of(image: Input) -> str:
    return image.name if isinstance(image, Picture) else image


def _tokenizer(folder: Path) -> Any:
    with quiet():  # of a warning that `rekd` is no model type of the library's
        advice = "Give a folder that a finished trial wrote."
        return read_tokenizer(folder, name=f"The tokenizer in {folder}", advice=advice)
