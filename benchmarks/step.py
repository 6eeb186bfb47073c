"""What a REKD step costs beside an RE step, a live teacher, and a loop written by hand. Random weights, the paper's shapes.

`python -m benchmarks.step [--batch 8] [--rounds 5]`
"""

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel

from benchmarks.pairs import in_turn, ratio
from rekd.method.losses import Learner, step
from rekd.method.models import RationaleModel
from rekd.method.samples import DeviceSamples
from rekd.method.streams import Streams
from rekd.method.teacher import Targets, Teacher
from rekd.tasks.data import Split
from rekd.trial import Trial

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


def trial(objective: str) -> Trial:
    rekd = {"alpha": 0.3, "lambda_rationale": 0.5, "teacher_digest": "t"} if objective == "rekd" else {}
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
        encoder = self.encoders[which]
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


def measure(name: str, *, batch: int, rounds: int) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    family = SHAPES[name][0]
    pool = samples(family, batch)
    on_device = DeviceSamples(pool, device)
    rows = torch.arange(batch, device=device)
    student = RationaleModel.build(objective="re", num_classes=10, dropout=0.1, config=config(name)).to(device).train()
    big = RationaleModel.build(objective="re", num_classes=10, dropout=0.1, config=config(TEACHERS[family]))
    num_features = student.num_features(pool.arrays)
    rng = np.random.default_rng(1)
    targets = Targets(
        selection_difference=rng.normal(size=(batch, num_features)).astype(np.float32),
        logits=rng.normal(size=(batch, 10)).astype(np.float32),
        teacher_digest="t",
        data_fingerprint="d",
    )
    cached = Teacher(targets, device=device)
    live = Teacher(targets, model=big, augmented=True, device=device)  # as for augmented views: the whole teacher runs
    plain = PlainRE(family, config(name)).to(device).train()
    plain_optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-5, fused=True)
    by_re = Learner.of(trial("re"), student, streams=Streams(0, device=device))

    def ours(objective: str, teacher: Teacher | None) -> None:
        step(replace(by_re, trial=trial(objective), teacher=teacher), on_device.take(rows), 1.0)
        if device.type == "cuda":
            torch.cuda.synchronize()

    def by_hand() -> None:
        batch = on_device.take(rows)
        plain_optimizer.zero_grad()
        plain(dict(batch.inputs), batch.labels).backward()
        plain_optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    seconds = in_turn(
        {
            "RE": lambda: ours("re", None),
            "REKD": lambda: ours("rekd", cached),
            "live": lambda: ours("rekd", live),
            "by hand": by_hand,
        },
        rounds=rounds,
    )
    print(
        f"{name:11s} REKD / RE {ratio(seconds['REKD'], seconds['RE'])}   "
        f"live / REKD {ratio(seconds['live'], seconds['REKD'])}   "
        f"by hand / RE {ratio(seconds['by hand'], seconds['RE'])}   "
        f"RE step {sorted(seconds['RE'])[len(seconds['RE']) // 2]:.2f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=["vit-tiny", "vit-small", "bert-mini", "bert-small"])
    options = parser.parse_args()
    for name in options.models:
        measure(name, batch=options.batch, rounds=options.rounds)


if __name__ == "__main__":
    main()
