"""What storing a teacher's targets in fewer bits would save and cost: bytes, and the error of the two losses.

`python -m benchmarks.targets STORE`, with a store that has targets; the student is a random one.
"""

import argparse

import torch

from rekd.method.equations import gumbel_noise, prediction_distillation_loss, rationale_distillation_loss
from rekd.store.files import Store
from rekd.store.packed import unpack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    store = Store(parser.parse_args().store)
    folder = f"{store.root}/targets"
    tensors, _ = unpack(store.read(f"{folder}/{store.names_in(folder)[0]}"))
    difference, logits = tensors["selection_difference"], tensors["logits"]
    generator = torch.Generator().manual_seed(0)
    student = torch.randn((*difference.shape, 2), generator=generator)
    student_logits = torch.randn(logits.shape, generator=generator)
    noise, teacher_noise = (gumbel_noise(student.shape, generator=generator) for _ in range(2))

    def losses(dtype: torch.dtype, temperature: float) -> list[float]:
        stored = difference.to(dtype).float()
        teacher = torch.stack((torch.zeros_like(stored), stored), dim=-1)
        of_rationales = rationale_distillation_loss(student, noise, teacher, teacher_noise, temperature=temperature)
        of_predictions = prediction_distillation_loss(student_logits, logits.to(dtype).float(), temperature=temperature)
        return [of_rationales.item(), of_predictions.item()]

    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        size = (difference.nbytes + logits.nbytes) * dtype.itemsize / 4
        errors = [
            max(
                abs(one / exact - 1)
                for one, exact in zip(losses(dtype, temperature), losses(torch.float32, temperature), strict=True)
            )
            for temperature in (5.0, 1.0, 0.1)
        ]
        shown = ", ".join(f"{error:.1e}" for error in errors)
        print(f"{str(dtype).removeprefix('torch.'):9s} {size / 1e6:.2f} MB; relative error at tau 5, 1, 0.1: {shown}")


if __name__ == "__main__":
    main()
