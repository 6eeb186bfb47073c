"""What a REKD step costs beside an RE step, a live teacher, and a loop written by hand. Random weights, the paper's shapes.

`python -m benchmarks.step [--batch 8] [--rounds 5]`
"""

import argparse
from dataclasses import replace

import numpy as np
import torch

from benchmarks.pairs import in_turn, ratio
from benchmarks.shapes import SHAPES, TEACHERS, PlainRE, config, samples, trial
from rekd.method.losses import Learner, step
from rekd.method.models import RationaleModel
from rekd.method.samples import DeviceSamples
from rekd.method.streams import Streams
from rekd.method.teacher import Question, Targets, Teacher
from rekd.trial import Objective


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
        asked=Question(teacher_digest="t", teacher_sha256="", data_fingerprint="d"),
    )
    cached = Teacher(targets, device=device)
    live = Teacher(targets, model=big, augmented=True, device=device)  # as for augmented views: the whole teacher runs
    plain = PlainRE(family, config(name)).to(device).train()
    plain_optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-5, fused=True)
    by_re = Learner.of(trial("re"), student, streams=Streams(0, device=device))

    def ours(objective: Objective, teacher: Teacher | None) -> None:
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
