"""The command `rekd`: everything that `python sweeps/…`, `python -m analysis` and `python -m rekd` do, from any folder.

It may import all three, and nothing imports it. What is not asked for is not loaded: a sweep's module loads Ray's.
"""

import ast
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.table import Table

from rekd.command_line import print_error, run_app

SWEEPS = (
    "best-student",
    "alpha-sweep",
    "lambda-sweep",
    "p-target-sweep",
    "seed-sweep",
    "search",
    "reproduce",
    "teacher-sweep",
    "estimator-sweep",
)
"""Commands that are modules of `sweeps`."""

OTHERS = ("rekd.commands", "analysis.cli")
"""Modules with a Typer `app` whose commands are commands of `rekd` too, the first with a name wins."""


def main() -> NoReturn:
    """Runs the command that was typed and ends the process with its exit status."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in SWEEPS:
        module = importlib.import_module(_module_of(name))
        # A sweep hands itself over to a cluster as the script that it is.
        sys.argv = [str(module.__file__), *arguments]
        module.run_command(getattr(module, _module_of(name).rpartition(".")[2]), prog_name=f"rekd {name}")
    if name in ("--help", "-h"):
        Console(highlight=False).print(_overview())
        sys.exit(0)
    # `status` is a command of both: of the cluster, and of a store.
    for module in reversed(OTHERS) if name == "status" and "--cluster" not in arguments else OTHERS:
        app = importlib.import_module(module).app
        if name in _summaries(app):
            run_app(app, [name, *arguments], prog_name="rekd")
    print_error(f"No such command {name!r}. It is one of {', '.join(_commands())}. Try --help.")
    sys.exit(2)


def _module_of(sweep: str) -> str:
    return f"sweeps.{sweep.replace('-', '_')}"


def _commands() -> dict[str, str]:
    """What each command does, in a sentence."""
    one_trial, results = (_summaries(importlib.import_module(module).app) for module in OTHERS)
    return {**one_trial, **{sweep: _docstring(_module_of(sweep)) for sweep in SWEEPS}, **results}


def _docstring(module: str) -> str:
    """The first line of a module that is not loaded for it."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0].replace("\n", " ")


def _summaries(app: typer.Typer) -> dict[str, str]:
    found: dict[str, str] = {}
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        found[name] = (command.callback.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    return found


def _overview() -> Table:
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify, table.title_style = "Usage: rekd COMMAND … (each has --help)\n", "left", ""
    for name, summary in _commands().items():
        table.add_row(f"  {name}", " ".join(summary.split()))
    return table
