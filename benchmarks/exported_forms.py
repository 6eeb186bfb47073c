"""Size and time of the forms of an exported model, for one sample on one thread, at the paper's shapes.

    python -m benchmarks.exported_forms [MODEL...]

Weights are random: masks, logits and accuracy say nothing. Exactly `RATIO` of the features are selected.
"""

import sys
import tempfile
from pathlib import Path

from benchmarks.shapes import config, samples
from rekd.handover.forms import compare, torch_form
from rekd.handover.onnx_files import onnx_bytes, onnx_form, write_int8, write_onnx
from rekd.method.models import RationaleModel

MODELS = ("vit-tiny", "bert-mini", "bert-small")

RATIO = 0.15

NUM_SAMPLES = 20


def main(names: list[str]) -> None:
    """Prints a line a form of each model."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            measure(name, Path(folder))


def measure(name: str, folder: Path) -> None:
    """One model in all its forms, which take turns."""
    settings = config(name)
    model = RationaleModel.build(objective="re", num_classes=10, dropout=0.1, config=settings, budget=RATIO)
    model.eval().save(folder)
    given = samples(settings["model_type"], NUM_SAMPLES)
    write_onnx(folder, {key: array[:3] for key, array in given.arrays.items()})
    write_int8(folder)
    size = (folder / "model.safetensors").stat().st_size
    forms = {
        "PyTorch": (torch_form(folder), size),
        "PyTorch, without the rest": (torch_form(folder, drop=True), size),
        "ONNX": (onnx_form(folder), onnx_bytes(folder)),
        "ONNX, 8-bit": (onnx_form(folder, ".int8.onnx"), onnx_bytes(folder, ".int8.onnx")),
    }
    for form in compare(forms, given):
        print(f"{name:11}{form.form:27}{form.num_bytes / 1e6:7.1f} MB{form.milliseconds:8.1f} ms")


if __name__ == "__main__":
    main(sys.argv[1:] or list(MODELS))
