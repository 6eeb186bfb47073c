"""The paper's six models with random weights, samples of the paper's shapes, and RE as one would write it by hand."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel

from rekd.tasks.data import Split
from rekd.trial import Objective, Trial

SHAPES = {
    "vit-tiny": ("vit", 12, 192, 3),
    "vit-small": ("vit", 12, 384, 6),
    "vit-base": ("vit", 12, 768, 12),
    "bert-mini": ("bert", 4, 256, 4),
    "bert-small": ("bert", 4, 512, 8),
    "bert-base": ("bert", 12, 768, 12),
}
"""Family, layers, width and heads of the paper's backbones (Appendix A)."""

TEACHERS = {"vit": "vit-base", "bert": "bert-base"}


def config(name: str) -> dict[str, Any]:
    family, layers, width, heads = SHAPES[name]
    return {
        "model_type": family,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }


def samples(family: str, count: int) -> Split:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, count)
    if family == "vit":
        return Split({"image": rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)}, labels)
    ids = rng.integers(1000, 30_000, (count, 256), dtype=np.int32)
    return Split({"input_ids": ids, "valid": np.ones((count, 256), np.uint8)}, labels)


def trial(objective: Objective) -> Trial:
    rekd: dict[str, Any] = {"alpha": 0.3, "lambda_rationale": 0.5, "teacher_digest": "t"} if objective == "rekd" else {}
    return Trial(
        task="t", task_digest="t", model="m", model_digest="m", objective=objective, seed=0, epochs=1, dropout=0.1,
        p_target=0.15, lambda_select=1e-2, temperature_initial=5.0, temperature_final=0.1, temperature_every=100, **rekd,
    )  # fmt: skip


class PlainRE(nn.Module):
    """RE as one would write it by hand over the same Hugging Face modules: no adapters, no records, no streams."""

    def __init__(self, family: str, settings: dict[str, Any]) -> None:
        super().__init__()
        family_settings = AutoConfig.for_model(**settings)
        arguments = {"add_pooling_layer": False} if family == "vit" else {}
        self.family = family
        self.encoders = nn.ModuleList(AutoModel.from_config(family_settings, **arguments) for _ in range(2))
        width = settings["hidden_size"]
        self.select, self.classify = nn.Linear(width, 2), nn.Linear(width, 10)
        self.dropout = nn.Dropout(0.1)

    def encode(self, which: int, inputs: dict[str, torch.Tensor], mask: torch.Tensor | None) -> torch.Tensor:
        encoder: Any = self.encoders[which]
        if self.family == "bert":
            words = encoder.get_input_embeddings()(inputs["input_ids"])
            words = words if mask is None else words * mask.unsqueeze(-1)
            output = encoder(inputs_embeds=words, attention_mask=inputs["valid"])
            return output.last_hidden_state if mask is None else output.pooler_output
        pixels = F.interpolate(inputs["image"].float() / 127.5 - 1, size=(224, 224), mode="bilinear")
        parts = encoder.embeddings
        patches = parts.patch_embeddings(pixels)
        patches = patches if mask is None else patches * mask.unsqueeze(-1)
        hidden = torch.cat((parts.cls_token.expand(len(patches), -1, -1), patches), dim=1) + parts.position_embeddings
        for layer in encoder.layers:
            hidden = layer(hidden, None)
        hidden = encoder.layernorm(hidden)
        return hidden[:, 1:] if mask is None else hidden[:, 0]

    def forward(self, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        logits = self.select(self.dropout(self.encode(0, inputs, None)))
        soft = F.gumbel_softmax(logits, tau=1.0, hard=True)[..., 1]
        loss = F.cross_entropy(self.classify(self.dropout(self.encode(1, inputs, soft))), labels)
        return loss + 1e-2 * (soft.sum(1) - soft.shape[1] * 0.15).square().mean()
