"""Hugging Face encoders in two halves, so that a mask fits between them.

`embed` turns an input into feature embeddings (patches or tokens); `contextualise` turns feature embeddings, masked or
not, into contextual features. What a family does differently stands in one small class each.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from rekd.messages import one_line
from rekd.method.samples import Inputs
from rekd.tasks.hub import find, quiet


@dataclass(frozen=True)
class Contextual:
    """What an encoder makes of feature embeddings."""

    features: Float[Tensor, "batch feature hidden"]
    """One contextual vector a feature; prefix tokens such as [CLS] of a ViT are not among them."""
    summary: Float[Tensor, "batch hidden"]
    """The vector that a classifier reads."""


class Backbone(nn.Module):
    """A pretrained encoder, seen as `embed` and then `contextualise`."""

    kind: ClassVar[str]
    """`image` or `text`."""
    families: ClassVar[tuple[str, ...]]
    """The `model_type`s that this class serves."""
    optional_parts: ClassVar[dict[str, Any]] = {}
    """Constructor arguments that leave out what is not used."""
    encoder: Any
    """A `PreTrainedModel`. Any, because the names of its parts are its family's own."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.precision = "float32"

    def arithmetic(self) -> torch.autocast:
        """The context in which the two halves run: `precision` float32, or bfloat16 with float32 weights."""
        device = next(self.encoder.parameters()).device
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")

    @property
    def config(self) -> Any:
        return self.encoder.config

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    def embed(self, inputs: Inputs) -> Float[Tensor, "batch feature embedding"]:
        """Feature embeddings: patches or words, before prefix tokens, positions and LayerNorm."""
        raise NotImplementedError

    def contextualise(
        self, embeddings: Float[Tensor, "batch feature embedding"], inputs: Inputs, *, final_norm: bool = True
    ) -> Contextual:
        """The rest of the encoder. Without `final_norm` a ViT's last LayerNorm is left out (`heads="authors"`)."""
        raise NotImplementedError

    def num_features(self, inputs: Mapping[str, Any]) -> int:
        """L, features of a sample, given one batch of tensors or arrays."""
        raise NotImplementedError

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Raises ValueError where samples are not of the shape or range that the encoder reads."""
        raise NotImplementedError

    def freeze_embeddings(self) -> None:
        """Holds the embeddings of features as they are (`heads="authors"`, BERT's generator)."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config.model_type}, hidden_size={self.hidden_size})"


class ViTBackbone(Backbone):
    """ViT: image patches after one [CLS] token."""

    kind = "image"
    families = ("vit",)
    optional_parts = {"add_pooling_layer": False}
    mean: Tensor
    std: Tensor

    def __init__(self, encoder: PreTrainedModel, *, image_mean: list[float], image_std: list[float]) -> None:
        super().__init__(encoder)
        # Scaled to 8 bits once, so that a batch needs one subtraction and one division.
        self.register_buffer("mean", torch.tensor(image_mean).view(1, -1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(image_std).view(1, -1, 1, 1) * 255)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        patches = self.encoder.embeddings.patch_embeddings
        (height, width), (patch_height, patch_width) = patches.image_size, patches.patch_size
        return height // patch_height, width // patch_width

    def num_features(self, inputs: Mapping[str, Any]) -> int:
        return self.encoder.embeddings.patch_embeddings.num_patches

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        if "image" not in arrays:
            raise ValueError(f"{self} reads images, got {', '.join(arrays)}. Choose an encoder of texts.")
        num_channels = arrays["image"].shape[1]
        if num_channels != self.config.num_channels:
            raise ValueError(
                f"{self} reads {self.config.num_channels} channels, the task's images have {num_channels}. "
                "Set image_mode in the task to RGB (3) or L (1)."
            )

    def prefix(self) -> Float[Tensor, "1 prefix hidden"]:
        return self.encoder.embeddings.cls_token

    def embed(self, inputs: Inputs) -> Tensor:
        embeddings = self.encoder.embeddings
        return embeddings.patch_embeddings(self.pixel_values(inputs["image"]))

    def pixel_values(self, image: Tensor) -> Float[Tensor, "batch channel height width"]:
        """8-bit images, normalised and scaled to the size that the encoder was made for."""
        pixels = (image.to(self.mean.dtype) - self.mean) / self.std
        height, width = self.encoder.embeddings.patch_embeddings.image_size
        if pixels.shape[-2:] == (height, width):
            return pixels
        return F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)

    def contextualise(self, embeddings: Tensor, inputs: Inputs, *, final_norm: bool = True) -> Contextual:
        prefix = self.prefix().expand(len(embeddings), -1, -1)
        parts = self.encoder.embeddings
        hidden = parts.dropout(torch.cat((prefix, embeddings), dim=1) + parts.position_embeddings)
        for layer in self.encoder.layers:
            hidden = layer(hidden, None)
        if final_norm:
            hidden = self.encoder.layernorm(hidden)
        return Contextual(features=hidden[:, prefix.shape[1] :], summary=hidden[:, 0])


class DeiTBackbone(ViTBackbone):
    """DeiT: a ViT with a distillation token beside [CLS]."""

    families = ("deit",)

    def prefix(self) -> Tensor:
        return torch.cat((self.encoder.embeddings.cls_token, self.encoder.embeddings.distillation_token), dim=1)


class TextBackbone(Backbone):
    """Encoders that take `inputs_embeds`: word embeddings, before positions and LayerNorm."""

    kind = "text"

    @property
    def max_features(self) -> int:
        """The longest input that the encoder has positions for."""
        return self.config.max_position_embeddings

    def num_features(self, inputs: Mapping[str, Any]) -> int:
        return inputs["input_ids"].shape[1]

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        if "input_ids" not in arrays:
            raise ValueError(f"{self} reads texts, got {', '.join(arrays)}. Choose an encoder of images.")
        length, largest = arrays["input_ids"].shape[1], int(arrays["input_ids"].max())
        if length > self.max_features:
            raise ValueError(
                f"{self} has positions for {self.max_features} tokens, the task's texts have {length}. Lower max_length."
            )
        if largest >= self.config.vocab_size:
            raise ValueError(
                f"{self} knows {self.config.vocab_size} tokens, the tokenizer gave number {largest}. "
                "The tokenizer is that of another model: name this model's own as the task's tokenizer."
            )

    def embed(self, inputs: Inputs) -> Tensor:
        return self.encoder.get_input_embeddings()(inputs["input_ids"])

    def positions(self, inputs: Inputs) -> dict[str, Tensor]:
        """Position numbers, where the family does not count them from 0."""
        return {}

    def contextualise(self, embeddings: Tensor, inputs: Inputs, *, final_norm: bool = True) -> Contextual:
        output = self.encoder(inputs_embeds=embeddings, attention_mask=inputs["valid"], **self.positions(inputs))
        return Contextual(features=output.last_hidden_state, summary=self.summary(output))

    def summary(self, output: Any) -> Tensor:
        return output.last_hidden_state[:, 0]

    def freeze_embeddings(self) -> None:
        self.encoder.get_input_embeddings().requires_grad_(False)


class BertBackbone(TextBackbone):
    """BERT, whose pretrained pooler is part of its usual classifier."""

    families = ("bert",)

    def summary(self, output: Any) -> Tensor:
        pooled = output.pooler_output
        return output.last_hidden_state[:, 0] if pooled is None else pooled


class RobertaBackbone(TextBackbone):
    """RoBERTa, which numbers positions after its padding index and leaves padding without one."""

    families = ("roberta",)
    optional_parts = {"add_pooling_layer": False}

    @property
    def max_features(self) -> int:
        return self.config.max_position_embeddings - self.config.pad_token_id - 1

    def positions(self, inputs: Inputs) -> dict[str, Tensor]:
        valid = inputs["valid"].long()
        return {"position_ids": torch.cumsum(valid, dim=1) * valid + self.config.pad_token_id}


class PlainTextBackbone(TextBackbone):
    """DistilBERT and ELECTRA: positions from 0, no pooler."""

    families = ("distilbert", "electra")


BACKBONES: dict[str, type[Backbone]] = {
    family: backbone
    for backbone in (ViTBackbone, DeiTBackbone, BertBackbone, RobertaBackbone, PlainTextBackbone)
    for family in backbone.families
}
"""Every `model_type` that can be a backbone. Another family is a class of its own and a line here."""


def load_backbone(
    source: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
    pooler: bool = True,
) -> Backbone:
    """A backbone with the weights of `source` (hub name or local folder), or freshly initialised from `config`.

    `config` is a Hugging Face configuration as a dictionary, with its `model_type`. Without `pooler` a BERT does without
    the part that only a classifier uses. Raises ValueError where the source is not there, is of an unknown family, or
    lacks weights that the architecture needs.
    """
    checkpoint = None if source is None else _find_checkpoint(source, revision)
    settings = _made_config(config) if checkpoint is None else _stored_config(checkpoint)
    backbone = BACKBONES[settings.model_type]
    arguments = dict(backbone.optional_parts)
    if settings.model_type == "bert" and not pooler:
        arguments["add_pooling_layer"] = False
    if checkpoint is None:
        encoder = AutoModel.from_config(settings, trust_remote_code=False, **arguments)
    else:
        encoder = _pretrained(checkpoint, settings, arguments)
    if issubclass(backbone, ViTBackbone):
        return backbone(encoder, **_normalisation(checkpoint, settings))
    return backbone(encoder)


def read_config(
    source: str | None = None, *, config: Mapping[str, Any] | None = None, revision: str | None = None
) -> PretrainedConfig:
    """The Hugging Face configuration behind a source or a dictionary. Raises ValueError as `load_backbone` does."""
    return _made_config(config) if source is None else _stored_config(_find_checkpoint(source, revision))


@dataclass(frozen=True, kw_only=True)
class _Checkpoint:
    """Where pretrained weights and their configuration are."""

    source: str
    """Name on the hub or local folder."""
    revision: str | None
    """Branch, tag or commit on the hub; None is its default branch."""
    reading: Callable[[], AbstractContextManager[Any]]
    """What the libraries read it in: quiet, and of the hub quick where there is no network."""


def _find_checkpoint(source: str, revision: str | None) -> _Checkpoint:
    if Path(source).is_absolute() and not Path(source).is_dir():
        raise ValueError(f"The folder {source} of a model is not there. Give one that was written by save_pretrained.")
    if Path(source).is_dir():
        return _Checkpoint(source=source, revision=revision, reading=quiet)
    instead = "source = '/path/to/folder', written by save_pretrained, below the model's name in a task file"
    found = find("model", source, revision=revision, instead=instead)
    return _Checkpoint(source=source, revision=revision, reading=found.reading)


def _made_config(config: Mapping[str, Any] | None) -> PretrainedConfig:
    if not config or "model_type" not in config:
        raise ValueError(f"A backbone needs a source or a config with its model_type, got {config!r}.")
    values = dict(config)
    model_type = values.pop("model_type")
    _known_family(model_type, "config")
    try:
        return AutoConfig.for_model(model_type, **values)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(
            f"The config of a {model_type!r} is not valid: {one_line(error)}. Correct its values."
        ) from error


def _stored_config(checkpoint: _Checkpoint) -> PretrainedConfig:
    with checkpoint.reading():
        try:
            found = AutoConfig.from_pretrained(checkpoint.source, revision=checkpoint.revision, trust_remote_code=False)
        except (OSError, ValueError, StrictDataclassError) as error:
            raise ValueError(
                f"The configuration of the model {checkpoint.source} could not be read: {_reason(error)}. Give one of "
                f"the families {', '.join(sorted(BACKBONES))}, as save_pretrained writes it."
            ) from error
    _known_family(found.model_type, checkpoint.source)
    return found


def _known_family(model_type: str, where: str) -> None:
    if model_type not in BACKBONES:
        raise ValueError(
            f"The model {where} is of the family {model_type!r}, which has no adapter here. "
            f"Families: {', '.join(sorted(BACKBONES))}. Another one is a small class in rekd/method/backbones.py."
        )


def _pretrained(checkpoint: _Checkpoint, settings: PretrainedConfig, arguments: dict[str, Any]) -> PreTrainedModel:
    source = checkpoint.source
    with checkpoint.reading():  # quiet: a classifier's own head is left behind on purpose
        try:
            encoder, report = AutoModel.from_pretrained(
                source,
                config=settings,
                revision=checkpoint.revision,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
                **arguments,
            )
        # Some models, the paper's BERTs among them, are a pytorch_model.bin, a pickle: transformers reads it with weights_only.
        except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
            raise ValueError(
                f"The weights of {source} could not be loaded: {_reason(error)}. Fetch or save them anew."
            ) from error
    # A pooler may be absent from a checkpoint of a masked language model; anything else means another architecture.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    mismatched = sorted(str(name) for name in report["mismatched_keys"])
    if missing or mismatched:
        raise ValueError(
            f"The weights of {source} do not fit its own config: {len(missing)} missing, {len(mismatched)} of another "
            f"shape, such as {(missing + mismatched)[0]}. Is its config.json that of another model?"
        )
    return encoder


def _normalisation(checkpoint: _Checkpoint | None, settings: PretrainedConfig) -> dict[str, list[float]]:
    """Mean and deviation that the checkpoint's own image processor uses; a half each where it has none."""
    plain = {name: [0.5] * settings.num_channels for name in ("image_mean", "image_std")}
    if checkpoint is None:
        return plain
    from transformers.image_processing_base import ImageProcessingMixin

    with checkpoint.reading():
        try:
            processor, _ = ImageProcessingMixin.get_image_processor_dict(
                checkpoint.source, revision=checkpoint.revision
            )
        except OSError:
            return plain
    return {name: list(processor.get(name, plain[name])) for name in plain}


def _reason(error: Exception) -> str:
    """What a library says, where its advice would not be ours, else its first line."""
    if isinstance(error, UnpicklingError):
        return "a file of theirs holds more than tensors, which is not unpickled here"
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is not run here"
    if isinstance(error, StrictDataclassError):  # the field in the first line, what is wrong with it in the next
        return one_line(error).rstrip(".")
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
