"""Commands as they are typed: what a sweep tells people to type next."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from analysis.advice import Advice
from rekd.messages import number
from rekd.tasks.task import Task, load_task
from sweeps.options import Options


def same_again(*more: str) -> str:
    """The command that started this process, with more options: of one that is given twice the last counts."""
    script = Path(sys.argv[0])
    return shlex.join(["python", f"sweeps/{script.name}", *sys.argv[1:], *more])


def next_command(options: Options, task: Task, model: str, advice: Advice) -> str:
    """What to type after a rule has found nothing for a model: commands, the likeliest first."""
    commands = []
    if advice.seed is not None:
        commands.append(same_again("--teacher-seed", str(advice.seed)))
    if advice.lambdas:
        grid = ("--lambdas", ",".join(map(number, advice.lambdas)))
        commands.append(typed("lambda_sweep", of_one(options, task, model), *grid))
    if advice.alphas:
        commands.append(same_again("--alphas", ",".join(map(number, advice.alphas))))
    if advice.tolerance is not None:
        commands.append(same_again("--tolerance", number(advice.tolerance)))
    return " or ".join(f"`{command}`" for command in commands)


def of_one(options: Options, task: Task, model: str) -> Options:
    """The same options for one task and model, without what is not about trials of `lambda_sweep`."""
    named = [name for name in options.task or () if load_task(name).name == task.name]
    return replace(options, task=named or [task.name], models=(model,), teacher_seed=None)


def typed(script: str, options: Options, *more: str) -> str:
    """The command of a sweep with these options, those that are as they are by default left out."""
    words = [
        word for field in fields(options) for word in _words(field.name, getattr(options, field.name), field.default)
    ]
    return shlex.join(["python", f"sweeps/{script}.py", *words, *more])


def _words(name: str, value: Any, default: Any) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    if value == default:
        return []
    if value is True:
        return [option]
    if isinstance(value, list):
        return [word for each in value for word in (option, str(each))]
    return [option, _text(value)]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) if not _is_range(value) else f"{value[0]}-{value[-1]}"
    return number(value)


def _is_range(values: Sequence[Any]) -> bool:
    return (
        len(values) > 2
        and all(isinstance(value, int) for value in values)
        and list(values) == list(range(values[0], values[-1] + 1))
    )
