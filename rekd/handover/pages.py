"""Explanations as one HTML page that needs no network: words marked, patches kept within a contour and the others dimmed."""

import base64
import hashlib
import importlib.resources
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Bool
from markupsafe import Markup

from rekd.handover.side_by_side import ExplainedInput
from rekd.method.explain import Explanation, Input, Picture

MOST = 1000
"""Inputs that a page shows: a browser has to lay them all out."""

SIDE = 448
"""Pixels of an image's longer side on a page, at most."""

SHOWN_CLASSES = 5
"""Classes of an answer whose probabilities are drawn, the most probable first."""

MOST_CLASSES = 100
"""Classes of which a page holds the probability; those beyond the shown ones are unfolded by a click."""


@dataclass(frozen=True)
class Run:
    """A part of a text that is of one kind."""

    text: str
    kind: str
    """`kept`, `left` or `unread`."""


def write_page(everything: Iterable[ExplainedInput], file: Path, *, title: str) -> int:
    """Writes the page and returns the number of inputs that are on it, `MOST` at most."""
    shown = list(islice(everything, MOST))
    file.write_text(page(shown, title=title), encoding="utf-8")
    return len(shown)


def page(shown: Iterable[ExplainedInput], *, title: str) -> str:
    """A whole page of explanations."""
    environment = templates()
    return environment.get_template("explained.html").render(
        title=title, style=Markup(source("explained.css")), inputs=[input_shown(each) for each in shown]
    )


def templates() -> jinja2.Environment:
    """Templates in which every text is escaped."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(source), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )


def source(name: str) -> str:
    """The text of a template, style or script."""
    return (importlib.resources.files("rekd.handover") / "templates" / name).read_text(encoding="utf-8")


def script_hash(script: str) -> str:
    """What a Content-Security-Policy names a script by that may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def input_shown(explained: ExplainedInput) -> dict[str, Any]:
    """What a template shows of an input."""
    first = next(iter(explained.by.values()))
    is_image = first.patches is not None
    return {
        "number": explained.number,
        "name": first.source if is_image else "",
        "image": data_uri(explained.given) if is_image else "",
        "views": [_view(model, explanation) for model, explanation in explained.by.items()],
    }


def _view(model: str, explanation: Explanation) -> dict[str, Any]:
    ranked = sorted(explanation.probabilities.items(), key=lambda pair: -pair[1])
    view: dict[str, Any] = {
        "model": model,
        "label": explanation.label,
        "ratio": explanation.rationale_ratio,
        "classes": ranked[:SHOWN_CLASSES],
        "others": ranked[SHOWN_CLASSES:MOST_CLASSES],
        "num_others": max(0, len(ranked) - SHOWN_CLASSES),
    }
    if explanation.patches is not None:
        rows, columns = explanation.patches.shape
        return view | {
            "rows": rows,
            "columns": columns,
            "dimmed": squares(~explanation.patches),
            "contour": contour(explanation.patches),
        }
    return view | {"runs": list(runs_of(explanation)), "cut": cut_off(explanation)}


def runs_of(explanation: Explanation) -> Iterator[Run]:
    """The text in parts: what is in the rationale, what is not, and what was not read."""
    assert explanation.words is not None
    assert explanation.read is not None
    text, (first, last) = explanation.source, explanation.read
    at = first
    if first:
        yield Run(text[:first], "unread")
    for word in explanation.words:
        if word.selected:
            yield Run(text[at : word.start], "left")
            yield Run(text[word.start : word.end], "kept")
            at = word.end
    yield Run(text[at:last], "left")
    if last < len(text):
        yield Run(text[last:], "unread")


def cut_off(explanation: Explanation) -> str:
    """A sentence on what of a text was not read, empty where all was."""
    first, last = explanation.read or (0, len(explanation.source))
    if (first, last) == (0, len(explanation.source)):
        return ""
    return f"Characters {first} to {last} of {len(explanation.source)} were read: the model takes no more."


def squares(cells: Bool[np.ndarray, "row column"]) -> str:
    """The path of an SVG that fills cells of a grid, a unit each."""
    return "".join(f"M{column} {row}h1v1h-1z" for row, column in np.argwhere(cells).tolist())


def contour(kept: Bool[np.ndarray, "row column"]) -> str:
    """The path of an SVG around cells of a grid: an edge wherever a cell is kept and the one beyond is not."""
    around = np.pad(kept, 1)
    parts = []
    for row, column in np.argwhere(kept).tolist():
        above, below = around[row, column + 1], around[row + 2, column + 1]
        left, right = around[row + 1, column], around[row + 1, column + 2]
        parts += [f"M{column} {row}h1"] * (not above) + [f"M{column} {row + 1}h1"] * (not below)
        parts += [f"M{column} {row}v1"] * (not left) + [f"M{column + 1} {row}v1"] * (not right)
    return "".join(parts)


def data_uri(given: Input) -> str:
    """An image for a page: `SIDE` pixels at most, without what its file says beside the pixels."""
    import PIL.Image

    from rekd.tasks.images import opened

    image = opened(BytesIO(given.content) if isinstance(given, Picture) else given).convert("RGB")
    image.thumbnail((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
    buffer = BytesIO()
    plain = PIL.Image.new("RGB", image.size)
    plain.paste(image)
    is_small = max(image.size) < 128
    plain.save(buffer, format="PNG" if is_small else "JPEG", **({} if is_small else {"quality": 88}))
    kind = "png" if is_small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
