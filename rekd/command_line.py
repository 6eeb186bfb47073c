"""What all command lines share: bad input, a wrong option too, is one line on standard error and exit status 2; tables whose
numbers are whole; output that is not UTF-8."""

import io
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from rekd.messages import plain

SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
"""Units of a time on the command line."""

WIDEST = 1000
"""Columns that a table may take where there is no terminal to be too narrow for it."""


class PlainConsole(Console):
    """A console on which only rich itself commands the terminal: not a name or an error that a store brought along."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None, *, prog_name: str | None = None) -> NoReturn:
    """Runs the command that was typed, or `arguments`, and ends the process with its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # a sign that the output's encoding lacks is no reason to lose the rest
    try:
        status = app(arguments, prog_name=prog_name, standalone_mode=False)
    except typer.TyperException as error:  # Typer's own display of it is four lines
        print_error(f"{_sentence(error)} Try --help.")
        status = error.exit_code
    sys.exit(status)


def parse_duration(text: str | float) -> float:
    """`90`, `90s`, `5m` or `1.5h`, in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|)", str(text).strip())
    if found is None:
        raise typer.BadParameter(f"a time is a number of seconds, or one with s, m or h, such as 5m, got {text!r}.")
    return float(found[1]) * SECONDS[found[2]]


def _sentence(error: typer.TyperException) -> str:
    """What Typer says, and the value that was given, which it leaves out where a number is expected."""
    from pydantic import ValidationError  # what Typer checks values with, and loads as late

    message = error.format_message().replace("Value error, ", "")
    if isinstance(error.__cause__, ValidationError):
        got = repr(error.__cause__.errors()[0]["input"])
        message += "" if got in message else f", got {got}"
    return message if message.endswith((".", "?")) else f"{message}."


def print_error(error: object) -> None:
    """One line on standard error, however long: a terminal breaks it by itself, and a log file has it whole."""
    line = Text.assemble(("Error:", "red"), " ", " ".join(str(error).split()))
    PlainConsole(stderr=True, highlight=False).print(line, soft_wrap=True)


@contextmanager
def bad_input(kinds: type[Exception] | tuple[type[Exception], ...] = (ValueError, OSError)) -> Iterator[None]:
    """Makes what a user can put right, errors of these kinds, one message and exit status 2."""
    try:
        yield
    except kinds as error:
        print_error(error)
        raise typer.Exit(2) from error


def print_table(console: Console, table: Table) -> None:
    """A table as wide as a terminal is, and as wide as it needs to be elsewhere: a log has its numbers whole."""
    width = console.width
    if not console.is_terminal:
        options = console.options.update(width=WIDEST)
        console.width = max(width, console.measure(table, options=options).maximum)
    console.print(table)
    console.width = width
