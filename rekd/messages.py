"""Words that messages share: valid names, lists and values that stay short, another's error in one line, numbers, times; and
texts of others that are harmless where they are shown."""

import difflib
import math
import re
from collections.abc import Collection, Sequence
from typing import Any


def check_one_of(what: str, value: Any, choices: Collection[str], where: str) -> None:
    """Raises ValueError, naming the choices, where `value` is none of them."""
    if value not in choices:
        raise ValueError(f"{where}: {what} is one of {', '.join(choices)}, got {value!r}.")


def valid_names(name: str, choices: Collection[str]) -> str:
    """Sentences that name the choices, the one that was probably meant first.

    >>> valid_names("vit-tinny", ["vit-small", "vit-tiny"])
    'Did you mean vit-tiny? Valid: vit-small, vit-tiny.'
    """
    near = difflib.get_close_matches(name, choices, 1)
    return (f"Did you mean {near[0]}? " if near else "") + f"Valid: {', '.join(choices)}."


def shortened(names: Sequence[str]) -> str:
    """The names, or the first ten and how many there are beside."""
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:10])} and {len(names) - 10} more"


def shown(value: Any) -> str:
    """A value as Python writes it, 60 characters at most."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} ..."


def one_line(error: object) -> str:
    """What an error says, in one line of 200 characters at most; its name where it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]} ..."


_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """A text in which nothing is a command to a terminal: control characters are spelled, such as `\\x1b`."""
    return _COMMANDS.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def cell(value: Any) -> Any:
    """A value for a CSV file: a text that a spreadsheet would compute begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def number(value: Any) -> str:
    """The shortest text that stands for this number and for no other: `0.3`, and for .1 + .2 `0.30000000000000004`."""
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if math.isnan(value) or float(short) == value else repr(float(value))


def size(num_bytes: float) -> str:
    """A number of bytes for people: `12 kB`, `680 MB`, `31 TB`."""
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6)):
        if num_bytes >= 10**power:
            return f"{num_bytes / 10**power:.{0 if num_bytes >= 10 ** (power + 1) else 1}f} {unit}"
    return f"{num_bytes / 1000:.0f} kB"


def duration(seconds: float) -> str:
    """A time for people: `42 s`, `3 min`, `2 h 05 min`, `33 h`, `12 days`; empty where it is not known."""
    if math.isnan(seconds):
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 10 * 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    if seconds < 3 * 86400:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"
