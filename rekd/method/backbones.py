"""Hugging Face encoders in two halves, so that a mask fits between them.

`embed` turns an input into feature embeddings (patches, cells of pixels or tokens); `contextualise` turns feature
embeddings, masked or not, into contextual features. What a family does differently stands in one small class each.
Pretrained weights are put into them by `rekd.method.pretrained`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from rekd.method.samples import Inputs
from rekd.tasks.normalisation import IMAGENET_MEAN, IMAGENET_STD, Normalisation, halves, read_normalisation
from rekd.tasks.task_file import Kind

Read = Callable[[str], bytes | None]
"""Gives the content of the file of that name; None where there is none."""

IMAGENET_SIZE = 224
"""Pixels a side for which networks of ImageNet are made."""


@dataclass(frozen=True)
class Contextual:
    """What an encoder makes of feature embeddings."""

    features: Float[Tensor, "batch feature hidden"]
    """One contextual vector a feature; prefix tokens such as [CLS] of a ViT are not among them."""
    summary: Float[Tensor, "batch hidden"]
    """The vector that a classifier reads."""


class Backbone(nn.Module):
    """A pretrained encoder, seen as `embed` and then `contextualise`."""

    kind: ClassVar[Kind]
    """What it reads."""
    families: ClassVar[tuple[str, ...]]
    """The `model_type`s that this class serves."""
    pooler: ClassVar[bool | None] = None
    """Whether a classifier reads the encoder's pooler; None where the family's encoders have none."""
    encoder: Any
    """A `PreTrainedModel`. Any, because the names of its parts are its family's own."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.precision = "float32"
        self.downscaling: str | None = None

    @classmethod
    def made_of(cls, encoder: PreTrainedModel, read: Read | None) -> "Backbone":
        """`read` gives the files that lie beside pretrained weights; None of an encoder that has no such weights."""
        return cls(encoder)

    @classmethod
    def parts(cls, *, for_classifier: bool) -> dict[str, Any]:
        """Constructor arguments of the encoder that leave out what is not used, and so would never get a gradient."""
        return {} if cls.pooler is None else {"add_pooling_layer": cls.pooler and for_classifier}

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

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns in which the features of an image lie; None where they are the tokens of a text, in a row."""
        return None

    def processor(self) -> dict[str, Any] | None:
        """The preprocessor_config.json that a saved model gets; None where the encoder needs none."""
        return None

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

    def freeze_final_norm(self) -> None:
        """Holds what `contextualise` leaves out without `final_norm`, which would never get a gradient."""

    def use_imagenet_statistics(self) -> None:
        """Normalises pixels by ImageNet's mean and deviation (`image_statistics="imagenet"`); texts have none."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config.model_type}, hidden_size={self.hidden_size})"


class ImageBackbone(Backbone):
    """Encoders of images, which they see in one size."""

    kind = "image"
    mean: Tensor
    std: Tensor

    def __init__(self, encoder: PreTrainedModel, normalisation: Normalisation) -> None:
        super().__init__(encoder)
        # Scaled to 8 bits once, so that a batch needs one subtraction and one division.
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(1, -1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(normalisation.std).view(1, -1, 1, 1) * 255)

    @classmethod
    def made_of(cls, encoder: PreTrainedModel, read: Read | None) -> "Backbone":
        """Makes the backbone with the normalisation of its own image processor."""
        config: Any = encoder.config
        if read is None:
            return cls(encoder, halves(config.num_channels))
        kind = {"model_type": config.model_type, "num_channels": config.num_channels}
        return cls(encoder, read_normalisation(read, where=config.name_or_path, **kind))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images that the encoder was made for."""
        raise NotImplementedError

    def use_imagenet_statistics(self) -> None:
        for buffer, channels in ((self.mean, IMAGENET_MEAN), (self.std, IMAGENET_STD)):
            values = torch.tensor(channels).view(1, -1, 1, 1) * 255
            # Grayscale images have a third of each: ImageNet's numbers are of red, green and blue.
            buffer.copy_(values if buffer.numel() == values.numel() else values.mean())

    def processor(self) -> dict[str, Any]:
        return {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "rescale_factor": 1 / 255,
            "size": dict(zip(("height", "width"), self.image_size, strict=True)),
            "image_mean": (self.mean.flatten() / 255).tolist(),
            "image_std": (self.std.flatten() / 255).tolist(),
        }

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        if "image" not in arrays:
            raise ValueError(f"{self} reads images, got {', '.join(arrays)}. Choose an encoder of texts.")
        num_channels = arrays["image"].shape[1]
        if num_channels != self.config.num_channels:
            raise ValueError(
                f"{self} reads {self.config.num_channels} channels, the task's images have {num_channels}. "
                "Set image_mode in the task to RGB (3) or L (1)."
            )
        size = arrays["image"].shape[2:]
        if self.downscaling is None and self._is_larger(size):
            raise ValueError(
                f"{self} reads images of {_pixels(self.image_size)}, the task's have {_pixels(size)}. Set image_size = "
                f"{min(self.image_size)} in the task, or downscaling = 'antialiased' in its defaults or the model's."
            )

    def pixel_values(self, image: Tensor) -> Float[Tensor, "batch channel height width"]:
        """8-bit images, normalised and scaled to the size that the encoder was made for."""
        pixels = (image.to(self.mean.dtype) - self.mean) / self.std
        size = pixels.shape[-2:]
        if size == self.image_size:
            return pixels
        antialias = self.downscaling == "antialiased" and self._is_larger(size)
        return F.interpolate(pixels, size=self.image_size, mode="bilinear", align_corners=False, antialias=antialias)

    def _is_larger(self, size: Sequence[int]) -> bool:
        """Whether images of that height and width are scaled down."""
        return any(own < given for own, given in zip(self.image_size, size, strict=True))


def _pixels(size: Sequence[int]) -> str:
    return f"{size[1]} x {size[0]} pixels"


class PatchBackbone(ImageBackbone):
    """Encoders of image patches, which come after one or more prefix tokens."""

    def __init__(self, encoder: PreTrainedModel, normalisation: Normalisation) -> None:
        super().__init__(encoder, normalisation)
        self.encoder.embeddings.mask_token = None  # of pretraining

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.encoder.embeddings.patch_embeddings.image_size
        return height, width

    @property
    def grid(self) -> tuple[int, int]:
        patch_height, patch_width = self.encoder.embeddings.patch_embeddings.patch_size
        return self.image_size[0] // patch_height, self.image_size[1] // patch_width

    def num_features(self, inputs: Mapping[str, Any]) -> int:
        return self.encoder.embeddings.patch_embeddings.num_patches

    def prefix(self) -> Float[Tensor, "1 prefix hidden"]:
        """The tokens before the patches, the first of which a classifier reads."""
        return self.encoder.embeddings.cls_token

    @property
    def layers(self) -> Iterable[nn.Module]:
        return self.encoder.layers

    def embed(self, inputs: Inputs) -> Tensor:
        embeddings = self.encoder.embeddings
        return embeddings.patch_embeddings(self.pixel_values(inputs["image"]))

    def freeze_final_norm(self) -> None:
        self.encoder.layernorm.requires_grad_(False)

    def contextualise(self, embeddings: Tensor, inputs: Inputs, *, final_norm: bool = True) -> Contextual:
        prefix = self.prefix().expand(len(embeddings), -1, -1)
        parts = self.encoder.embeddings
        hidden = parts.dropout(torch.cat((prefix, embeddings), dim=1) + parts.position_embeddings)
        for layer in self.layers:
            hidden = layer(hidden, None)
        if final_norm:
            hidden = self.encoder.layernorm(hidden)
        return Contextual(features=hidden[:, prefix.shape[1] :], summary=hidden[:, 0])


class ViTBackbone(PatchBackbone):
    """ViT: one [CLS] token before the patches."""

    families = ("vit",)
    pooler = False


class DeiTBackbone(PatchBackbone):
    """DeiT: a ViT with a distillation token beside [CLS]."""

    families = ("deit",)
    pooler = False

    def prefix(self) -> Tensor:
        return torch.cat((self.encoder.embeddings.cls_token, self.encoder.embeddings.distillation_token), dim=1)


class DINOv2Backbone(PatchBackbone):
    """DINOv2: a ViT without a pooler, whose layers lie one level deeper."""

    families = ("dinov2",)

    @property
    def layers(self) -> Iterable[nn.Module]:
        return self.encoder.encoder.layer


class ConvolutionalBackbone(ImageBackbone):
    """Convolutional networks, whose features are the cells of their last grid.

    What is masked are the pixels under a cell, where they enter the network: behind its first convolution a cell holds some
    of its neighbours too, and an unselected one would reach the prediction through a selected one.
    """

    def __init__(self, encoder: PreTrainedModel, normalisation: Normalisation) -> None:
        super().__init__(encoder, normalisation)
        if any(side % self.stride for side in self.image_size):
            raise ValueError(
                f"{self} divides an image into cells of {self.stride} x {self.stride} pixels, got image_size "
                f"{_pixels(self.image_size)}. Give its config an image_size that is a multiple of {self.stride}."
            )

    @property
    def stride(self) -> int:
        """The side of a cell in pixels."""
        raise NotImplementedError

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_sizes[-1]

    @property
    def image_size(self) -> tuple[int, int]:
        size = getattr(self.config, "image_size", IMAGENET_SIZE)
        height, width = (size, size) if isinstance(size, int) else size
        return height, width

    @property
    def grid(self) -> tuple[int, int]:
        return self.image_size[0] // self.stride, self.image_size[1] // self.stride

    def num_features(self, inputs: Mapping[str, Any]) -> int:
        return math.prod(self.grid)

    def embed(self, inputs: Inputs) -> Tensor:
        """The pixels of each cell."""
        rows, columns = self.grid
        pixels = self.pixel_values(inputs["image"])
        cells = pixels.unflatten(3, (columns, self.stride)).unflatten(2, (rows, self.stride))
        return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def contextualise(self, embeddings: Tensor, inputs: Inputs, *, final_norm: bool = True) -> Contextual:
        cells = embeddings.unflatten(2, (-1, self.stride, self.stride)).unflatten(1, self.grid)
        output = self.encoder(cells.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3))
        cells = output.last_hidden_state.flatten(2).transpose(1, 2)
        return Contextual(features=self.normed(cells), summary=output.pooler_output.flatten(1))

    def normed(self, cells: Float[Tensor, "batch feature hidden"]) -> Float[Tensor, "batch feature hidden"]:
        """The cells as a classifier's head would read them."""
        return cells


class ResNetBackbone(ConvolutionalBackbone):
    """ResNet. Its configuration need not say the size of its images: where it does not, they are ImageNet's."""

    families = ("resnet",)

    @property
    def stride(self) -> int:
        return 4 * 2 ** (len(self.config.depths) - 1 + self.config.downsample_in_first_stage)


class ConvNeXtBackbone(ConvolutionalBackbone):
    """ConvNeXt, whose classifier reads the mean of all cells through a last LayerNorm."""

    families = ("convnext",)

    @property
    def stride(self) -> int:
        patch = self.config.patch_size
        return (patch if isinstance(patch, int) else patch[0]) * 2 ** (len(self.config.depths) - 1)

    def normed(self, cells: Tensor) -> Tensor:
        return self.encoder.layernorm(cells)


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
        pooled = getattr(output, "pooler_output", None)
        return Contextual(
            features=output.last_hidden_state,
            summary=output.last_hidden_state[:, 0] if pooled is None else pooled,
        )

    def freeze_embeddings(self) -> None:
        self.encoder.get_input_embeddings().requires_grad_(False)


class BertBackbone(TextBackbone):
    """BERT and ALBERT, whose pretrained pooler is part of their usual classifier."""

    families = ("bert", "albert")
    pooler = True


class RobertaBackbone(TextBackbone):
    """RoBERTa, which numbers positions after its padding index and leaves padding without one."""

    families = ("roberta",)
    pooler = False

    @property
    def max_features(self) -> int:
        return self.config.max_position_embeddings - self.config.pad_token_id - 1

    def positions(self, inputs: Inputs) -> dict[str, Tensor]:
        valid = inputs["valid"].long()
        return {"position_ids": torch.cumsum(valid, dim=1) * valid + self.config.pad_token_id}


class PlainTextBackbone(TextBackbone):
    """DistilBERT, ELECTRA and ModernBERT: positions from 0, no pooler."""

    families = ("distilbert", "electra", "modernbert")


BACKBONES: dict[str, type[Backbone]] = {
    family: backbone
    for backbone in (
        ViTBackbone,
        DeiTBackbone,
        DINOv2Backbone,
        ResNetBackbone,
        ConvNeXtBackbone,
        BertBackbone,
        RobertaBackbone,
        PlainTextBackbone,
    )
    for family in backbone.families
}
"""Every `model_type` that can be a backbone. Another family is a class of its own and a line here."""
