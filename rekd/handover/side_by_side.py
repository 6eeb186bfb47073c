"""Many inputs explained by one model or several, and written as lines, as JSON, as Parquet."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.text import Text

from rekd.method.explain import AT_A_TIME, Explainer, Explanation, Input


@dataclass(frozen=True, kw_only=True)
class ExplainedInput:
    """One input and what each model says of it."""

    number: int
    """Its place among the inputs, from 0."""
    given: Input
    by: Mapping[str, Explanation]
    """The explanations, by the names of the models."""


def named_explainers(folders: Sequence[Path]) -> dict[str, Explainer]:
    """The models of folders, by what tells them apart: objective and model, and the folder where these are alike.

    Raises ValueError where some read texts and others images.
    """
    explainers = [Explainer(folder) for folder in folders]
    kinds = {explainer.model.kind for explainer in explainers}
    if len(kinds) > 1:
        raise ValueError("Some of the models read texts, others images. Give models of one kind.")
    counts = Counter(explainer.name for explainer in explainers)
    named = {}
    for folder, explainer in zip(folders, explainers, strict=True):
        is_alone = counts[explainer.name] == 1
        named[explainer.name if is_alone else f"{explainer.name} ({folder.resolve().name})"] = explainer
    if len(named) < len(folders):
        raise ValueError("A model was given twice. Name each folder once.")
    return named


def explain_all(
    explainers: Mapping[str, Explainer], inputs: Iterable[Input], *, budget: float | None = None
) -> Iterator[ExplainedInput]:
    """Every input by every model, in order, a batch at a time: any number of inputs may come."""
    rest, number = iter(inputs), 0
    while chunk := list(islice(rest, AT_A_TIME)):
        by_model = {name: list(explainer.each(chunk, budget=budget)) for name, explainer in explainers.items()}
        for row, given in enumerate(chunk):
            yield ExplainedInput(number=number, given=given, by={name: found[row] for name, found in by_model.items()})
            number += 1


def rows_of(explained: ExplainedInput) -> Iterator[dict[str, Any]]:
    """What is written of an input: a row a model."""
    for model, explanation in explained.by.items():
        content = {"input": explained.number, "model": model, **asdict(explanation)}
        if explanation.patches is not None:
            content["patches"] = explanation.patches.tolist()
        yield content


def json_lines(everything: Iterable[ExplainedInput]) -> Iterator[str]:
    """One JSON object an input and model; what an explanation has not is left out."""
    for explained in everything:
        for row in rows_of(explained):
            yield json.dumps({name: value for name, value in row.items() if value is not None})


def write_json(everything: Iterable[ExplainedInput], file: Path) -> int:
    """Writes JSON lines and returns the number of inputs."""
    number = 0
    with file.open("w", encoding="utf-8") as out:
        for explained in everything:
            out.writelines(f"{line}\n" for line in json_lines([explained]))
            number += 1
    return number


_WORD = pa.struct([("text", pa.string()), ("start", pa.int64()), ("end", pa.int64()), ("selected", pa.bool_())])

SCHEMA = pa.schema(
    [
        ("input", pa.int64()),
        ("model", pa.string()),
        ("source", pa.string()),
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("probabilities", pa.map_(pa.string(), pa.float64())),
        ("rationale_ratio", pa.float64()),
        ("words", pa.list_(_WORD)),
        ("read", pa.list_(pa.int64())),
        ("patches", pa.list_(pa.list_(pa.bool_()))),
    ]
)
"""The columns of a Parquet file of explanations: a row an input and model. Texts have `words` and `read`, images `patches`."""


def write_parquet(everything: Iterable[ExplainedInput], file: Path) -> int:
    """Writes them a batch at a time and returns the number of inputs."""
    rest, number = iter(everything), 0
    with pq.ParquetWriter(file, SCHEMA) as writer:
        while chunk := list(islice(rest, AT_A_TIME)):
            rows = [
                {**row, "probabilities": list(row["probabilities"].items())} for each in chunk for row in rows_of(each)
            ]
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
            number += len(chunk)
    return number


def print_explained(console: Console, explained: ExplainedInput) -> None:
    """An input for people, in a terminal: each model's answer, and its rationale in the text or drawn as a grid."""
    for model, explanation in explained.by.items():
        said = f"{explanation.label} ({explanation.probability:.1%}), from {explanation.rationale_ratio:.1%} of the features"
        console.print(f"{model}: {said}" if len(explained.by) > 1 else said, markup=False)
        if explanation.words is not None:
            _print_text(console, explanation)
        if explanation.patches is not None:
            for row in explanation.patches:
                console.print("".join("██" if kept else "··" for kept in row))


def _print_text(console: Console, explanation: Explanation) -> None:
    assert explanation.words is not None
    assert explanation.read is not None
    text, (start, end) = Text(explanation.source, style="dim"), explanation.read
    for word in explanation.words:
        if word.selected:
            text.stylize("bold reverse not dim", word.start, word.end)
    for beyond in ((0, start), (end, len(text))):
        text.stylize("strike", *beyond)
    console.print(text)
    selected = [f"{word.text} [{word.start}:{word.end}]" for word in explanation.words if word.selected]
    console.print("Rationale: " + (", ".join(selected) or "nothing"), markup=False)
    if (start, end) != (0, len(text)):
        console.print(f"Read: [{start}:{end}] of {len(text)} characters; the model takes no more.", markup=False)
