"""How a number of a trial moves over its run: a curriculum, beside the number itself, which is its last value."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Shape = Literal["linear", "cosine", "step"]

SCHEDULED = ("alpha", "lambda_rationale", "lambda_select")
"""Fields of `Trial` that may move; the schedule of each is a field of its own, such as `alpha_schedule`."""

CONSTANT = "constant"
"""The schedule of a number that does not move."""

_KEPT = re.compile(r"(linear|cosine|step) from (\S+?)(?: at (\S+))?")
_MOVE = re.compile(r"(.+)->(.+):(linear|cosine|step)(?:@(.+))?")
_KEYS = ("from", "to", "shape", "at")


def _text(value: float) -> str:
    """The shortest text of the number: `0.1`, and `1` for 1.0."""
    return repr(value).removesuffix(".0")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A way from a first value to the last one. Its text, `cosine from 0.9`, is what a trial keeps of it.

    >>> schedule = Schedule.read("step from 0.9 at 0.25", "alpha_schedule")
    >>> [schedule.value(share, last=0.1) for share in (0, 0.2, 0.25, 1)]
    [0.9, 0.9, 0.1, 0.1]
    """

    shape: Shape
    first: float
    """The value in the first step of the run."""
    at: float | None = None
    """The share of the run after which a step is taken, in (0, 1); None for other shapes."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.first):
            raise ValueError(f"A schedule begins with a finite number, got {self.first}.")
        if (self.shape == "step") != (self.at is not None):
            raise ValueError(f"A step says at which share of the run it is taken, and {self.shape!r} does not.")
        if self.at is not None and not 0 < self.at < 1:
            raise ValueError(f"A step is taken at a share of the run in (0, 1), got {_text(self.at)}.")

    def __str__(self) -> str:
        return f"{self.shape} from {_text(self.first)}" + ("" if self.at is None else f" at {_text(self.at)}")

    @classmethod
    def read(cls, text: str, name: str) -> "Schedule | None":
        """The schedule that a text says; None where it is constant. Raises ValueError on any other text."""
        if text == CONSTANT:
            return None
        found = _KEPT.fullmatch(text)
        try:
            if found is None:
                raise ValueError("which is none of these")
            return cls(shape=found[1], first=float(found[2]), at=None if found[3] is None else float(found[3]))  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(
                f"{name} is '{CONSTANT}', 'linear from NUMBER', 'cosine from NUMBER' or 'step from NUMBER at SHARE', got "
                f"{text!r}: {error}."
            ) from error

    def value(self, share: float, *, last: float) -> float:
        """The value after a share of the run, which goes from 0 (the first step) to 1 (the last one, exactly `last`)."""
        if share >= 1:
            return last
        if self.at is not None:
            return last if share >= self.at else self.first
        done = share if self.shape == "linear" else (1 - math.cos(math.pi * share)) / 2
        return self.first + (last - self.first) * done


@dataclass(frozen=True, kw_only=True)
class Move:
    """A value of a grid that moves: `0.9->0.1:cosine`, or `0.9->0.1:step@0.25` (a step is at half of the run, if not told).

    >>> str(Move.read("0.90->0.1:step"))
    '0.9->0.1:step@0.5'
    """

    last: float
    schedule: Schedule

    @classmethod
    def read(cls, value: "str | Mapping[str, Any]") -> "Move":
        """Reads a grid's text, or a table with `from`, `to`, `shape` and perhaps `at`. Raises ValueError on another."""
        try:
            first, last, shape, at = cls._parts(value)
            at = 0.5 if at is None and shape == "step" else at
            return cls(last=last, schedule=Schedule(shape=shape, first=first, at=at))  # type: ignore[arg-type]
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"A value that moves is written 0.9->0.1:SHAPE, or {{ from = 0.9, to = 0.1, shape = 'SHAPE' }}; SHAPE is one "
                f"of {', '.join(get_args(Shape))}, a step's moment follows as 0.9->0.1:step@0.25 or at = 0.25. Got {value!r}."
            ) from error

    @staticmethod
    def _parts(value: "str | Mapping[str, Any]") -> tuple[float, float, str, float | None]:
        if isinstance(value, str):
            found = _MOVE.fullmatch(value.strip())
            if found is None:
                raise ValueError("not a move")
            table: Mapping[str, Any] = dict(zip(_KEYS, found.groups(), strict=True))
        elif not {"from", "to", "shape"} <= set(value) <= set(_KEYS) or value["shape"] not in get_args(Shape):
            raise ValueError("not a move")
        else:
            table = value
        at = table.get("at")
        return float(table["from"]), float(table["to"]), table["shape"], None if at is None else float(at)

    def __str__(self) -> str:
        at = "" if self.schedule.at is None else f"@{_text(self.schedule.at)}"
        return f"{_text(self.schedule.first)}->{_text(self.last)}:{self.schedule.shape}{at}"


def grid_value(text: str) -> float | str:
    """One value of a grid as it is typed: a number, or the text of one that moves. Raises ValueError on another.

    >>> [grid_value(text) for text in ("0.3", "0.90->0.1:linear")]
    [0.3, '0.9->0.1:linear']
    """
    if "->" in text:
        return str(Move.read(text))
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(
            f"A value is a number such as 0.3, or one that moves, such as 0.9->0.1:cosine, got {text!r}."
        ) from error


def told(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with each move, a text or a table, as the two fields that it stands for.

    >>> told({"alpha": "0.9->0.1:cosine", "p_target": 0.2})
    {'alpha': 0.1, 'alpha_schedule': 'cosine from 0.9', 'p_target': 0.2}
    """
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if name in SCHEDULED and isinstance(value, str | Mapping):
            move = Move.read(value)
            fields |= {name: move.last, f"{name}_schedule": str(move.schedule)}
        else:
            fields[name] = value
    return fields


def under(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of weaker values under stronger ones: a number that is replaced takes its schedule with it."""
    return {
        name: value
        for name, value in below.items()
        if name not in above and name.removesuffix("_schedule") not in above
    }
