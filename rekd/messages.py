"""Words that error messages share: the valid names, lists and values that stay short, another's error in one line; and texts
of others that are harmless where they are shown."""

import difflib
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
