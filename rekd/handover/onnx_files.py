"""An exported model as ONNX, for onnxruntime: a generator and a predictor, so that whoever runs them may set the mask too."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rekd.handover.forms import Arrays, Form, as_given, load_exported

OPSET = 18
"""The version of ONNX's operators that is written: the oldest that the exporter translates to without conversion."""

NEEDED = "pip install 'rekd[onnx]'"

GENERATOR, PREDICTOR = "generator", "predictor"

QUANTISED = ["MatMul", "Gemm", "Gather"]
"""Operators whose weights become 8-bit: linear maps and embeddings."""


class _Part(nn.Module):
    """The generator or the predictor with named inputs, in the order in which ONNX lists them."""

    def __init__(self, part: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.part, self.names = part, names

    def forward(self, first: Tensor, second: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        given = (first, second) if second is not None else (first,)
        inputs = dict(zip(self.names, given, strict=True))
        return self.part(inputs) if mask is None else self.part(inputs, mask)[0]


def check_onnx() -> None:
    """Raises ValueError where what writes and runs ONNX is not installed."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"--onnx and --int8 need {error.name}, which is not installed: {NEEDED}") from error


def write_onnx(folder: Path, arrays: Arrays) -> None:
    """Writes generator.onnx (of a plain classifier there is none) and predictor.onnx beside an exported model's weights.

    `arrays` are a few samples: features are as many as theirs, samples of a batch any number.
    """
    model = load_exported(folder)
    inputs = {name: torch.from_numpy(array) for name, array in as_given(arrays).items()}
    mask = model(**inputs).mask
    if model.generator is not None:
        _write(folder / f"{GENERATOR}.onnx", model.generator, inputs, None, "selection_logits")
    _write(folder / f"{PREDICTOR}.onnx", model.predictor, inputs, mask, "logits")


def _write(file: Path, part: nn.Module, inputs: dict[str, Tensor], mask: Tensor | None, output: str) -> None:
    given: dict[str, Any] = dict(zip(("first", "second"), inputs.values(), strict=False))
    if mask is not None:
        given["mask"] = mask
    with _silent():
        torch.onnx.export(
            _Part(part, list(inputs)).eval(),
            (),
            str(file),
            kwargs=given,
            input_names=[*inputs, *([] if mask is None else ["mask"])],
            output_names=[output],
            dynamic_shapes={name: {0: torch.export.Dim.DYNAMIC} for name in given},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def write_int8(folder: Path) -> None:
    """Writes the same with 8-bit weights, as generator.int8.onnx and predictor.int8.onnx."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for name in (GENERATOR, PREDICTOR):
        if (file := folder / f"{name}.onnx").is_file():
            with _silent():
                quantize_dynamic(
                    file, file.with_suffix(".int8.onnx"), op_types_to_quantize=QUANTISED, weight_type=QuantType.QInt8
                )


def onnx_bytes(folder: Path, suffix: str = ".onnx") -> int:
    """The size of a form's files."""
    files = (folder / f"{name}{suffix}" for name in (GENERATOR, PREDICTOR))
    return sum(file.stat().st_size for file in files if file.is_file())


def onnx_form(folder: Path, suffix: str = ".onnx") -> Form:
    """A folder's ONNX files as onnxruntime runs them on one thread; the mask between them is a comparison of two logits."""
    generator, predictor = (_session(folder / f"{name}{suffix}") for name in (GENERATOR, PREDICTOR))
    assert predictor is not None

    def answer(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        inputs = as_given(arrays)
        mask = np.ones((len(next(iter(inputs.values()))), predictor.get_inputs()[-1].shape[1]), dtype=np.float32)
        if generator is not None:
            (selection_logits,) = generator.run(None, inputs)
            mask = (selection_logits[..., 1] > selection_logits[..., 0]).astype(np.float32)
        (logits,) = predictor.run(None, {**inputs, "mask": mask})
        return logits, mask

    return answer


def inputs_of(folder: Path) -> list[tuple[str, list[Any], str]]:
    """Names, shapes and types of what the predictor takes, the mask last."""
    return [(given.name, given.shape, given.type) for given in _session(folder / f"{PREDICTOR}.onnx").get_inputs()]


def _session(file: Path) -> Any:
    if not file.is_file():
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing is said by exporters that log on every call what they do not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
