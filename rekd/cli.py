"""One trial, one input or the end of a cluster, from the command line."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from rekd.command_line import print_error
from rekd.store.claims import Claims
from rekd.store.files import Store
from rekd.store.ledger import Ledger
from rekd.tasks.commits import commits, moved, pinned
from rekd.tasks.task import load_task
from rekd.trial import Objective, Trial

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)


@app.command()
def train(
    task: Annotated[str, typer.Option(metavar="NAME|FILE.toml", help="The task.")],
    model: Annotated[str, typer.Option(help="One of the task's models.")],
    objective: Annotated[Objective, typer.Option(help="cls, re, or rekd with a teacher.")] = "re",
    seed: Annotated[int, typer.Option(min=0)] = 2026,
    teacher: Annotated[str | None, typer.Option(metavar="DIGEST", help="The teacher's trial, for rekd.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Share of L_RE, for rekd.")] = None,
    lambda_select: Annotated[float | None, typer.Option(help="Weight of L_select.")] = None,
    p_target: Annotated[float | None, typer.Option(help="Rationale ratio aimed at, a fraction.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    fidelity: Annotated[Literal["paper", "authors"], typer.Option()] = "paper",
    store: Annotated[str, typer.Option(metavar="URI", help="Where results are.")] = "results",
) -> None:
    """Trains one trial without Ray, a line an epoch, and writes its row to the ledger."""
    console = Console(highlight=False)
    try:
        given = {"teacher_digest": teacher, "alpha": alpha, "lambda_select": lambda_select, "p_target": p_target}
        given |= {"epochs": epochs}
        chosen = load_task(task)
        overrides = {name: value for name, value in given.items() if value is not None}
        trial = chosen.trial(objective, model, seed=seed, fidelity=fidelity, **overrides)
        place = Store(store)
    except ValueError as error:
        raise _bad_input(error) from error
    ledger = Ledger(place)
    if trial.digest not in ledger.done():
        from rekd.running.one_trial import check_trial, run_trial
        from rekd.running.supplies import Supplies, default_device

        supplies = Supplies(place, device=default_device())
        try:
            chosen = pinned(chosen, [model])
            for sentence in moved(commits(chosen, [model]), ledger.trials()["commits"].to_pylist()):
                console.print(f"[yellow]{escape(sentence)}[/]")
            check_trial(trial, task=chosen, supplies=supplies)
            console.print(f"Training {trial} (digest {trial.digest})")
            with Claims(place) as claims:
                if not claims.take(trial.digest):
                    raise ValueError(f"The trial {trial.digest} is being run by a sweep on {place}. Wait for its end.")
                for record in run_trial(trial, task=chosen, store=place, supplies=supplies):
                    _print_epoch(console, trial, record)
        except ValueError as error:
            raise _bad_input(error) from error
    row = ledger.trials([trial.digest]).to_pylist()[0]
    if row["status"] == "ok":
        console.print(
            f"Best epoch {row['best_epoch']}: dev loss {row['dev_loss']:.4f}, test accuracy {row['test_accuracy']:.3f}, "
            f"test ratio {row['test_rationale_ratio']:.1%}. Model: {place.model_folder(trial.digest)}"
        )
        return
    console.print(f"[red]{row['status']}:[/] {escape(row['error'])}")
    raise typer.Exit(1)


def _print_epoch(console: Console, trial: Trial, record: dict[str, Any]) -> None:
    line = f"epoch {record['epoch']:3d}/{trial.epochs}  dev loss {record['dev_loss']:.4f}"
    line += f"  dev accuracy {record['dev_accuracy']:.3f}"
    if trial.objective != "cls":
        line += f"  ratio {record['dev_rationale_ratio']:.1%}  temperature {record['temperature']:.2f}"
    console.print(line)


@app.command()
def explain(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that a finished trial wrote.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Texts, or paths of image files.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Prediction and rationale of new inputs: words marked in a text, patches drawn of an image."""
    from rekd.method.explain import Explainer

    console = Console(highlight=False)
    try:
        explanations = Explainer(folder)(inputs)
    except ValueError as error:
        raise _bad_input(error) from error
    for explanation in explanations:
        if as_json:
            content = asdict(explanation)
            if explanation.patches is not None:
                content["patches"] = explanation.patches.tolist()
            print(json.dumps({name: value for name, value in content.items() if value is not None}))
            continue
        console.print(
            f"{explanation.label} ({explanation.probability:.1%}), from {explanation.rationale_ratio:.1%} of the features"
        )
        if explanation.words is not None:
            text = Text(explanation.source, style="dim")
            for word in explanation.words:
                if word.selected:
                    text.stylize("bold reverse not dim", word.start, word.end)
            console.print(text)
            selected = [f"{word.text} [{word.start}:{word.end}]" for word in explanation.words if word.selected]
            console.print("Rationale: " + (", ".join(selected) or "nothing"), markup=False)
        if explanation.patches is not None:
            for row in explanation.patches:
                console.print("".join("██" if kept else "··" for kept in row))


@app.command()
def down(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A cluster file.")] = "cluster.yaml",
) -> None:
    """Ends the cluster that `ray up FILE` started, and what `ray down` leaves on machines that stay. Results stay too."""
    from rekd.cluster.launched import take_down

    console = Console(highlight=False)
    try:
        is_gone = take_down(file, partial(console.print, soft_wrap=True))
    except ValueError as error:
        raise _bad_input(error) from error
    if not is_gone:
        raise typer.Exit(1)
    console.print(
        f"The cluster of {escape(file)} is down; nothing of it runs and no key or token of it is left.", soft_wrap=True
    )


def _bad_input(error: ValueError) -> typer.Exit:
    print_error(error)
    return typer.Exit(2)
