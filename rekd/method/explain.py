"""Prediction and rationale of new inputs, for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from rekd.messages import one_line
from rekd.method.models import Prediction, RationaleModel, saved_config
from rekd.tasks.hub import quiet


@dataclass(frozen=True, kw_only=True)
class Word:
    """A whole word of a text, and where it stands there."""

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
    """Predicted class, by its name where the model knows it."""
    probability: float
    """Of that class, in [0, 1]."""
    rationale_ratio: float
    """Share of all positions that is selected."""
    words: tuple[Word, ...] | None = None
    """Of a text, in order."""
    patches: np.ndarray | None = None
    """Of an image: bool, "row column", True where the patch is selected."""


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
        self.tokenizer: Any = None
        if self.model.kind == "text":
            self.tokenizer = _tokenizer(folder)

    def __call__(self, inputs: Sequence[str]) -> list[Explanation]:
        """One explanation an input: texts for a text model, paths of image files for an image model.

        Raises ValueError on an empty text and on a file that is not an image.
        """
        return [self._text(one) if self.model.kind == "text" else self._image(one) for one in inputs]

    def _text(self, text: str) -> Explanation:
        if not text.strip():
            raise ValueError("An input is an empty text, from which nothing can be selected.")
        length = self.shapes["input_ids"][0]
        encoded = self.tokenizer(
            text, truncation=True, padding="max_length", max_length=length, return_offsets_mapping=True
        )
        batch = {
            "input_ids": torch.tensor([encoded["input_ids"]]),
            "valid": torch.tensor([encoded["attention_mask"]], dtype=torch.uint8),
        }
        prediction = self._predict(batch)
        spans: dict[int, list[tuple[int, int, bool]]] = {}
        for word, (start, end), kept in zip(
            encoded.word_ids(), encoded["offset_mapping"], prediction.mask[0].bool().tolist(), strict=True
        ):
            if word is not None:
                spans.setdefault(word, []).append((start, end, kept))
        words = []
        for pieces in spans.values():
            start, end = pieces[0][0], pieces[-1][1]
            selected = any(kept for _, _, kept in pieces)
            words.append(Word(text=text[start:end], start=start, end=end, selected=selected))
        return self._explanation(text, prediction, words=tuple(words))

    def _image(self, path: str) -> Explanation:
        channels, height, width = self.shapes["image"]
        try:
            with Image.open(path) as file:
                # To the size of the training images: the model has seen nothing finer.
                image = file.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
        except (OSError, UnidentifiedImageError) as error:
            raise ValueError(f"{path} cannot be read as an image: {error}. Give a PNG or JPEG file.") from error
        pixels = np.asarray(image, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
        prediction = self._predict({"image": torch.from_numpy(pixels.copy())[None]})
        grid = self.model.predictor.backbone.grid
        assert grid is not None
        patches = prediction.mask[0].bool().numpy().reshape(grid)
        return self._explanation(path, prediction, patches=patches)

    @torch.no_grad()
    def _predict(self, batch: dict[str, Tensor]) -> Prediction:
        return self.model.predict(batch)

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
    from transformers import AutoTokenizer

    with quiet():  # of a warning that `rekd` is no model type of the library's
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"The tokenizer in {folder} cannot be read: {one_line(error)}. Give a folder that a finished trial wrote."
            ) from error
