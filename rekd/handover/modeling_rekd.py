"""A rationale model: a generator selects features, a predictor sees only those (Dai & Goebel, Learn from A Rationalist).

It needs torch and transformers, and nothing else of the program that trained it.

    model = RekdModel.from_pretrained("FOLDER")
    answer = model(input_ids=..., attention_mask=...)   # texts, padded on the right to one length
    answer = model(image=...)                           # 8-bit images, "batch channel height width"
    answer = model(pixel_values=...)                    # or as the folder's image processor makes them

`answer.mask` is 1 where a feature (a token, a patch in reading order) is in the rationale; `answer.logits` are those of the
classes that `model.config.id2label` names.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

WITH_POOLER = ("bert", "albert")
"""Families whose predictor may read the encoder's pooler."""

WITHOUT_POOLER = ("vit", "deit", "roberta")
"""Families whose encoders have a pooler that is not used."""

CONVOLUTIONAL = ("resnet", "convnext")
"""Families whose features are the cells of their last grid: what is masked are the pixels under each."""

IMAGENET_SIZE = 224
"""Pixels a side of an image where a configuration does not say."""


FAMILIES = ("vit", "deit", "dinov2", *CONVOLUTIONAL, "bert", "albert", "roberta", "distilbert", "electra", "modernbert")
"""Families that this file can build."""


class RekdConfig(PretrainedConfig):
    """What the model is built from; `details` holds the trial that trained it and the shape of an input."""

    model_type = "rekd"
    objective = "re"
    heads = "linear"
    precision = "float32"
    predictor_reads = "pooler"
    downscaling: str | None = None
    budget: float | None = None
    encoder = "own"
    dropout = 0.0
    num_classes = 2
    backbone: Any = None
    details: Any = None


@dataclass
class RekdOutput(ModelOutput):
    """What the model says of a batch."""

    logits: Tensor | None = None
    """The logits of the classes, "batch class"."""
    mask: Tensor | None = None
    """The rationale, 0 or 1, "batch feature"; all ones of a plain classifier."""
    selection_logits: Tensor | None = None
    """The logits of {not selected, selected}, "batch feature 2"; None of a plain classifier."""


class Encoder(nn.Module):
    """A Hugging Face encoder in two halves, so that a mask fits between feature embeddings and the rest."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: RekdConfig, *, for_classifier: bool) -> None:
        super().__init__()
        values = dict(config.backbone)
        self.family = values.pop("model_type")
        self.precision, self.downscaling = config.precision, config.downscaling
        parts = {}
        if self.family in WITH_POOLER + WITHOUT_POOLER:
            parts["add_pooling_layer"] = self.family in WITH_POOLER and for_classifier
        self.encoder: Any = AutoModel.from_config(AutoConfig.for_model(self.family, **values), **parts)
        self.is_convolutional = self.family in CONVOLUTIONAL
        self.reads_images = self.is_convolutional or hasattr(self.encoder.config, "image_size")
        if self.reads_images:
            if not self.is_convolutional:
                self.encoder.embeddings.mask_token = None
            for name in ("mean", "std"):
                self.register_buffer(name, torch.ones(1, self.encoder.config.num_channels, 1, 1))

    def arithmetic(self) -> torch.autocast:
        device = next(self.encoder.parameters()).device
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")

    @property
    def width(self) -> int:
        """The length of a feature's contextual vector."""
        config = self.encoder.config
        return config.hidden_sizes[-1] if self.is_convolutional else config.hidden_size

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images that the encoder was made for."""
        if not self.is_convolutional:
            height, width = self.encoder.embeddings.patch_embeddings.image_size
            return height, width
        size = getattr(self.encoder.config, "image_size", IMAGENET_SIZE)
        height, width = (size, size) if isinstance(size, int) else size
        return height, width

    @property
    def stride(self) -> int:
        """The side in pixels of a convolutional network's cell."""
        config = self.encoder.config
        if self.family == "resnet":
            return 4 * 2 ** (len(config.depths) - 1 + config.downsample_in_first_stage)
        patch = config.patch_size
        return (patch if isinstance(patch, int) else patch[0]) * 2 ** (len(config.depths) - 1)

    def embed(self, inputs: dict[str, Tensor]) -> Tensor:
        """One vector a feature: patches, the pixels of cells or words, before prefix tokens, positions and LayerNorm."""
        if not self.reads_images:
            return self.encoder.get_input_embeddings()(inputs["input_ids"])
        pixels = inputs["pixel_values"] if "pixel_values" in inputs else self.pixel_values(inputs["image"])
        if not self.is_convolutional:
            return self.encoder.embeddings.patch_embeddings(pixels)
        rows, columns = (side // self.stride for side in self.image_size)
        cells = pixels.unflatten(3, (columns, self.stride)).unflatten(2, (rows, self.stride))
        return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def pixel_values(self, image: Tensor) -> Tensor:
        """8-bit images, normalised and scaled to the size that the encoder was made for."""
        pixels = (image.to(self.mean.dtype) - self.mean) / self.std
        height, width = self.image_size
        if pixels.shape[-2:] == (height, width):
            return pixels
        is_larger = pixels.shape[-2] > height or pixels.shape[-1] > width
        antialias = self.downscaling == "antialiased" and is_larger
        return F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False, antialias=antialias)

    def contextualise(
        self, embeddings: Tensor, inputs: dict[str, Tensor], *, final_norm: bool = True, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One contextual vector a feature, and the vector that a classifier reads.

        `kept`, "batch kept", numbers the features that take part; without it all of them do.
        """
        if self.is_convolutional:
            return self._contextual_cells(embeddings)
        if self.reads_images:
            return self._contextual_patches(embeddings, final_norm, kept)
        valid = inputs["attention_mask"]
        positions: dict[str, Tensor] = {}
        if self.family == "roberta":  # it numbers positions after its padding index
            ones = valid.long()
            positions["position_ids"] = torch.cumsum(ones, dim=1) * ones + self.encoder.config.pad_token_id
        if kept is not None:
            embeddings, valid = taken(embeddings, kept), valid.gather(1, kept)
            positions["position_ids"] = positions["position_ids"].gather(1, kept) if positions else kept
        output = self.encoder(inputs_embeds=embeddings, attention_mask=valid, **positions)
        pooled = getattr(output, "pooler_output", None)
        return output.last_hidden_state, output.last_hidden_state[:, 0] if pooled is None else pooled

    def _contextual_cells(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        grid = [side // self.stride for side in self.image_size]
        pixels = embeddings.unflatten(2, (-1, self.stride, self.stride)).unflatten(1, grid)
        output = self.encoder(pixels.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3))
        cells = output.last_hidden_state.flatten(2).transpose(1, 2)
        return self.encoder.layernorm(cells) if self.family == "convnext" else cells, output.pooler_output.flatten(1)

    def _contextual_patches(self, embeddings: Tensor, final_norm: bool, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        parts = self.encoder.embeddings
        prefix = parts.cls_token
        if self.family == "deit":
            prefix = torch.cat((prefix, parts.distillation_token), dim=1)
        num_prefix = prefix.shape[1]
        prefix = prefix.expand(embeddings.shape[0], -1, -1)
        hidden = parts.dropout(torch.cat((prefix, embeddings), dim=1) + parts.position_embeddings)
        if kept is not None:
            hidden = torch.cat((hidden[:, :num_prefix], taken(hidden[:, num_prefix:], kept)), dim=1)
        for layer in self.encoder.encoder.layer if self.family == "dinov2" else self.encoder.layers:
            hidden = layer(hidden, None)
        if final_norm:
            hidden = self.encoder.layernorm(hidden)
        return hidden[:, num_prefix:], hidden[:, 0]


def taken(features: Tensor, kept: Tensor) -> Tensor:
    """The vectors of the features that `kept`, "batch kept", numbers."""
    return features.gather(1, kept.unsqueeze(-1).expand(-1, -1, features.shape[-1]))


def at_budget(selection_logits: Tensor, budget: float) -> Tensor:
    """Moves the logits of each sample so that argmax selects exactly a share of its features, one at least."""
    difference = selection_logits[..., 1] - selection_logits[..., 0]
    num_selected = max(1, round(budget * difference.shape[-1]))
    order = ranked(difference, min(num_selected + 1, difference.shape[-1]))
    chosen = torch.zeros_like(difference, dtype=torch.bool).scatter(-1, order[..., :num_selected], value=True)
    ends = difference.gather(-1, order[..., num_selected - 1 : num_selected + 1])
    moved = difference - ends.mean(dim=-1, keepdim=True)
    apart = torch.where(chosen, moved.clamp(min=1e-4), moved.clamp(max=-1e-4))
    moved = moved + (apart - moved)
    return torch.stack((torch.zeros_like(moved), moved), dim=-1)


def ranked(values: Tensor, count: int) -> Tensor:
    """Where the largest values are, the first of equal ones first. Of ONNX's operators only TopK says so."""
    if torch.compiler.is_exporting():
        return values.topk(count, dim=-1).indices
    return values.argsort(dim=-1, descending=True, stable=True)[..., :count]


class Generator(nn.Module):
    """Maps each feature to logits of {not selected, selected}."""

    def __init__(self, config: RekdConfig) -> None:
        super().__init__()
        self.backbone = Encoder(
            config, for_classifier=config.encoder == "shared" and config.predictor_reads == "pooler"
        )
        self.budget = config.budget
        width = self.backbone.width
        if config.heads == "authors" and not self.backbone.reads_images:
            self.head = nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(256, 2))
        else:
            self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, 2))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        with self.backbone.arithmetic():
            features, _ = self.backbone.contextualise(self.backbone.embed(inputs), inputs)
        selection_logits = self.head(features.float())
        return selection_logits if self.budget is None else at_budget(selection_logits, self.budget)


class Predictor(nn.Module):
    """Classifies what the mask keeps."""

    def __init__(self, config: RekdConfig) -> None:
        super().__init__()
        self.backbone = Encoder(config, for_classifier=config.predictor_reads == "pooler")
        self.final_norm = config.heads != "authors"
        width = self.backbone.width
        self.num_classes = config.num_classes
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, config.num_classes))

    def forward(
        self, inputs: dict[str, Tensor], mask: Tensor | None = None, kept: Tensor | None = None
    ) -> tuple[Tensor, int]:
        """Logits of the classes, and the number of features."""
        with self.backbone.arithmetic():
            embeddings = self.backbone.embed(inputs)
            if mask is not None:
                embeddings = embeddings * mask.unsqueeze(-1)
            _, summary = self.backbone.contextualise(embeddings, inputs, final_norm=self.final_norm, kept=kept)
        return self.head(summary.float()), embeddings.shape[1]

    def without_the_rest(self, inputs: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Logits where features that are not selected take no part, instead of being zero; inputs of equally many are
        computed together. A text's first token stays: a classifier reads what becomes of it. A convolution leaves nothing out.
        """
        if self.backbone.is_convolutional:
            return self(inputs, mask)[0]
        takes_part = mask.bool() & inputs.get("attention_mask", mask).bool()
        if not self.backbone.reads_images:
            takes_part[:, 0] = True
        logits = mask.new_zeros(len(mask), self.num_classes)
        for count in takes_part.sum(dim=1).unique():
            rows = (takes_part.sum(dim=1) == count).nonzero().flatten()
            kept = takes_part[rows].nonzero()[:, 1].view(len(rows), int(count))
            logits[rows], _ = self({name: value[rows] for name, value in inputs.items()}, mask[rows], kept)
        return logits


class RekdModel(PreTrainedModel):
    """Generator and predictor; without a generator (`objective` cls) a plain classifier."""

    config_class = RekdConfig
    base_model_prefix = ""
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: RekdConfig) -> None:
        super().__init__(config)
        self.generator = None if config.objective == "cls" else Generator(config)
        self.predictor = Predictor(config)
        self.post_init()

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image: Tensor | None = None,
        pixel_values: Tensor | None = None,
        sampled_by: torch.Generator | None = None,
        drop: bool = False,
        **unused: Any,
    ) -> RekdOutput:
        """Selects, and predicts from what is selected.

        The rationale is the argmax of the selection logits, or a Gumbel sample of them that `sampled_by` draws. With `drop` the
        predictor leaves out what is not selected, which is faster and was not trained: the answer may differ.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "image": image, "pixel_values": pixel_values}
        inputs = {name: value for name, value in given.items() if value is not None}
        if self.generator is None:
            logits, num_features = self.predictor(inputs, None)
            return RekdOutput(logits=logits, mask=torch.ones(len(logits), num_features, device=logits.device))
        selection_logits = self.generator(inputs)
        scores = selection_logits
        if sampled_by is not None:
            uniform = torch.rand(scores.shape, generator=sampled_by, device=scores.device)
            info = torch.finfo(uniform.dtype)
            scores = scores - torch.log(-torch.log(uniform.clamp(info.tiny, 1 - info.eps)))
        scores = scores if self.generator.budget is None else at_budget(scores, self.generator.budget)
        mask = (scores.argmax(dim=-1) == 1).to(scores.dtype)
        logits = self.predictor.without_the_rest(inputs, mask) if drop else self.predictor(inputs, mask)[0]
        return RekdOutput(logits=logits, mask=mask, selection_logits=selection_logits)
