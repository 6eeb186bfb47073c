"""Prediction and rationale of new inputs, for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rekd.messages import one_line, shown
from rekd.method.models import Prediction, RationaleModel, saved_config
from rekd.method.streams import evaluation_noise
from rekd.tasks.hub import quiet
from rekd.tasks.images import opened, pixels_of
from rekd.tasks.spans import read_text
from rekd.tasks.texts import read_tokenizer


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
        self.tokenizer: Any = None
        if self.model.kind == "text":
            self.tokenizer = _tokenizer(folder)

    def __call__(self, inputs: Sequence[str]) -> list[Explanation]:
        """One explanation an input: texts for a text model, paths of image files for an image model.

        Raises ValueError on a text that is empty or no UTF-8, and on a file that is no image of 8 bits.
        """
        return [self._text(one) if self.model.kind == "text" else self._image(one) for one in inputs]

    def _text(self, text: str) -> Explanation:
        if not text.strip():
            raise ValueError("An input is an empty text, from which nothing can be selected.")
        try:
            text.encode()
        except UnicodeEncodeError as error:  # how Python hands bytes over that are no UTF-8
            raise ValueError(f"The input {shown(text)} is not UTF-8. Convert it first.") from error
        with quiet():
            read = read_text(self.tokenizer, text, max_length=self.shapes["input_ids"][0])
        valid = torch.tensor([read.valid], dtype=torch.uint8)
        prediction = self._predict({"input_ids": torch.tensor([read.input_ids]), "valid": valid})
        selected: dict[tuple[int, int], bool] = {}
        for span, kept in zip(read.spans, prediction.mask[0].bool().tolist(), strict=True):
            if span != (0, 0):
                selected[span] = selected.get(span, False) or kept
        words = tuple(
            Word(text=text[start:end], start=start, end=end, selected=kept) for (start, end), kept in selected.items()
        )
        return self._explanation(text, prediction, words=words, read=read.read)

    def _image(self, path: str) -> Explanation:
        channels, height, width = self.shapes["image"]
        try:
            # To the size of the training images: the model has seen nothing finer.
            pixels = pixels_of(opened(path), mode="L" if channels == 1 else "RGB", size=(width, height))
        except Exception as error:  # of Pillow's readers
            name = path.encode(errors="backslashreplace").decode()
            raise ValueError(
                f"{name} cannot be read as an image: {one_line(error)}. Give a PNG or JPEG file."
            ) from error
        prediction = self._predict({"image": torch.from_numpy(pixels.copy())[None]})
        grid = self.model.predictor.backbone.grid
        assert grid is not None
        patches = prediction.mask[0].bool().numpy().reshape(grid)
        return self._explanation(path, prediction, patches=patches)

    @torch.no_grad()
    def _predict(self, batch: dict[str, Tensor]) -> Prediction:
        # Begun anew for each input: what is said of it does not depend on what was asked before.
        noise = evaluation_noise(self.seed, torch.device("cpu")) if self.is_sampled else None
        return self.model.predict(batch, sampled_by=noise)

    def _explanation(self, source: str, prediction: Prediction, **parts: Any) -> Explanation:
        probabilities = prediction.logits[0].softmax(dim=-1)
        label = int(probabilities.argmax())
        return Explanation(
            source=source,
            label=str(label) if self.class_names is None else self.class_names[label],
            probability=float(probabilities[label]),
            rationale_ratio=float(prediction.mask[0].mean()),
            **parts,
        )


def _tokenizer(folder: Path) -> Any:
    with quiet():  # of a warning that `rekd` is no model type of the library's
        advice = "Give a folder that a finished trial wrote."
        return read_tokenizer(folder, name=f"The tokenizer in {folder}", advice=advice)
