"""One trial, one input or the end of a cluster, from the command line."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rekd.command_line import PlainConsole, bad_input, parse_duration, print_table
from rekd.handover.handing import explain, export
from rekd.schedule import grid_value
from rekd.store.claims import LEASE, Claims
from rekd.store.files import Store
from rekd.store.ledger import Ledger
from rekd.store.upkeep import KeepModels, Rubbish, find_rubbish, remove, run_again
from rekd.tasks.commits import commits, moved, pinned
from rekd.tasks.task import load_task
from rekd.trial import Objective, Trial, taught_by

_MOVING = "a number, or 0.9->0.1:cosine"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)


@app.command()
def train(
    task: Annotated[str, typer.Option(metavar="NAME|FILE.toml", help="The task.")],
    model: Annotated[str, typer.Option(help="One of the task's models.")],
    objective: Annotated[Objective, typer.Option(help="cls, re, or rekd with a teacher.")] = "re",
    seed: Annotated[int, typer.Option(min=0)] = 2026,
    teacher: Annotated[
        list[str] | None, typer.Option(metavar="DIGEST[:WEIGHT]", help="The teacher's trial, for rekd; repeatable.")
    ] = None,
    distils: Annotated[
        Literal["both", "rationale", "prediction"] | None, typer.Option(help="What of the teacher, for rekd.")
    ] = None,
    estimator: Annotated[
        Literal["gumbel", "top_k", "reinforce", "hard_kuma", "saliency"] | None,
        typer.Option(help="How masks are drawn; saliency is that of a cls trial, which --teacher names."),
    ] = None,
    encoder: Annotated[
        Literal["own", "shared"] | None, typer.Option(help="Whether generator and predictor share theirs.")
    ] = None,
    alpha: Annotated[str | None, typer.Option(help=f"Share of L_RE, for rekd: {_MOVING}.")] = None,
    lambda_select: Annotated[str | None, typer.Option(help=f"Weight of L_select: {_MOVING}.")] = None,
    p_target: Annotated[float | None, typer.Option(help="Rationale ratio aimed at, a fraction.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    fidelity: Annotated[Literal["paper", "authors"], typer.Option()] = "paper",
    store: Annotated[str, typer.Option(metavar="URI", help="Where results are.")] = "results",
    checkpoint_every: Annotated[
        Any,
        typer.Option(
            parser=parse_duration, metavar="TIME", help="Time between checkpoints, such as 5m; 0 is after each epoch."
        ),
    ] = 0.0,
) -> None:
    """Trains one trial without Ray, a line an epoch, and writes its row to the ledger."""
    console = PlainConsole(highlight=False)
    with bad_input():
        given = {"alpha": _number(alpha), "lambda_select": _number(lambda_select), "p_target": p_target}
        given |= {
            "epochs": epochs,
            "distils": distils,
            "estimator": estimator,
            "encoder": encoder,
            **_taught_by(teacher or ()),
        }
        chosen = load_task(task)
        overrides = {name: value for name, value in given.items() if value is not None}
        trial = chosen.trial(objective, model, seed=seed, fidelity=fidelity, **overrides)
        place = Store(store)
        ledger = Ledger(place)
        has_ended = _has_ended(ledger, trial)
    if not has_ended:
        from rekd.running.one_trial import check_trial, run_trial
        from rekd.running.supplies import Supplies, default_device

        supplies = Supplies(place, device=default_device())
        with bad_input():
            chosen = pinned(chosen, [model])
            remarks = moved(commits(chosen, [model]), ledger.trials()["commits"].to_pylist())
            for remark in [*remarks, *check_trial(trial, task=chosen, supplies=supplies)]:
                console.print(remark, style="yellow", markup=False, soft_wrap=True)
            console.print(f"Training {trial} (digest {trial.digest})")
            with Claims(place) as claims:
                if not claims.take(trial.digest):
                    raise ValueError(f"The trial {trial.digest} is being run by a sweep on {place}. Wait for its end.")
                if not _has_ended(ledger, trial):  # a sweep may have run it since the first look
                    options = {"checkpoint_every": checkpoint_every}
                    for record in run_trial(trial, task=chosen, store=place, supplies=supplies, **options):
                        _print_epoch(console, trial, record)
                        _check_held(claims, trial)
            ledger.compact()
    row = ledger.row(trial.digest)
    assert row is not None
    if row["status"] == "ok":
        console.print(
            f"Best epoch {row['best_epoch']}: dev loss {row['dev_loss']:.4f}, test accuracy {row['test_accuracy']:.3f}, "
            f"test ratio {row['test_rationale_ratio']:.1%}. Model: {place.model_folder(trial.digest)}"
        )
        return
    console.print(f"[red]{row['status']}:[/] {escape(row['error'])}")
    raise typer.Exit(1)


def _number(text: str | None) -> float | str | None:
    return None if text is None else grid_value(text)


def _taught_by(texts: Iterable[str]) -> dict[str, Any]:
    """The fields of a trial with the teachers `DIGEST` or `DIGEST:WEIGHT`."""
    split = [text.partition(":") for text in texts]
    weights = {digest: float(weight or 1) for digest, _, weight in split}
    return taught_by(weights) if weights else {}


def _has_ended(ledger: Ledger, trial: Trial) -> bool:
    row = ledger.row(trial.digest)
    return row is not None and row["status"] != "failed"


def _check_held(claims: Claims, trial: Trial) -> None:
    """Raises ValueError where this process stood still for so long that another one runs the trial now."""
    claims.check()
    if trial.digest in claims.lost:
        raise ValueError(
            f"A sweep on {claims.store} has taken the trial {trial.digest} over, because nothing was heard of this process "
            f"for {LEASE:.0f} s. Wait for its end."
        )


def _print_epoch(console: Console, trial: Trial, record: dict[str, Any]) -> None:
    line = f"epoch {record['epoch']:3d}/{trial.epochs}  dev loss {record['dev_loss']:.4f}"
    line += f"  dev accuracy {record['dev_accuracy']:.3f}"
    if trial.objective != "cls":
        line += f"  ratio {record['dev_rationale_ratio']:.1%}  temperature {record['temperature']:.2f}"
    console.print(line)


@app.command()
def audit(
    task: Annotated[str, typer.Option(metavar="NAME|FILE.toml", help="The task whose trials are audited.")],
    store: Annotated[str, typer.Option(metavar="URI", help="Where results are.")] = "results",
    again: Annotated[bool, typer.Option("--again", help="Also those that were audited before.")] = False,
) -> None:
    """Asks of every model of a task: do its rationales follow the input, do they suffice, do they leak the label?"""
    from rekd.running.auditor import audit_task
    from rekd.running.supplies import Supplies, default_device

    console = PlainConsole(highlight=False)
    with bad_input():
        chosen, num_audited = load_task(task), 0
        chosen = pinned(chosen, [chosen.teacher])
        supplies = Supplies(_existing(store), device=default_device())
        for trial, found in audit_task(chosen, supplies, again=again):
            num_audited += 1
            accuracy = f"judge {found.judge_rationale:.3f} of {found.judge_whole:.3f}"
            line = f"{trial.digest} {trial}: {accuracy}; {found.verdict}"
            console.print(line, markup=False, soft_wrap=True)
        console.print(f"{num_audited} trials audited; `python -m analysis report {store}` shows what was found.")


@app.command()
def score(
    digest: Annotated[
        str, typer.Argument(metavar="DIGEST", help="The RE or REKD trial on whose model they are scored.")
    ],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, help="A table with a row a test sample, in their order."
        ),
    ],
    column: Annotated[str, typer.Option(help="Its column of masks or spans, as a task's rationale_column.")],
    task: Annotated[str, typer.Option(metavar="NAME|FILE.toml", help="The trial's task.")],
    store: Annotated[str, typer.Option(metavar="URI", help="Where results are.")] = "results",
) -> None:
    """Scores explanations that somebody else made on a trained model, beside the model's own."""
    from rekd.running.auditor import judge_remark
    from rekd.running.others import score_others
    from rekd.running.supplies import Supplies, default_device

    console = PlainConsole(highlight=False)
    with bad_input():
        supplies = Supplies(_existing(store), device=default_device())
        chosen = pinned(load_task(task), [])
        for remark in judge_remark(chosen, supplies):
            console.print(remark, markup=False, soft_wrap=True)
        found = dict(score_others(chosen, supplies, digest, file, column))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "the model's own", "those of the file"):
        table.add_column(name, justify="left" if not name else "right")
    for name, value in found["model"].items():
        table.add_row(name.replace("_", " "), f"{value:.3f}", f"{found['file'][name]:.3f}")
    print_table(console, table)


app.command()(explain)
app.command()(export)


@app.command()
def status(
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Of the cluster. A store's: `python -m analysis status STORE`.")
    ] = False,
) -> None:
    """Shows, with --cluster, what runs on the cluster that `ray up` started, and what it costs an hour."""
    from rekd.cluster.bill import ask, lines
    from rekd.cluster.ray_cluster import FILES, find

    with bad_input(ValueError):
        if not cluster:
            raise ValueError("The status of what? --cluster, or `python -m analysis status STORE` for a store.")
        found = find()
        told = [f"No cluster was started from {' or '.join(FILES)}, as far as this machine knows."]
        for line in lines(found, ask(found)) if found is not None else told:
            PlainConsole(highlight=False).print(escape(line), soft_wrap=True)


@app.command()
def fetch(
    tasks: Annotated[
        list[str], typer.Option("--task", metavar="NAME|FILE.toml", help="A task; as often as there are.")
    ],
    store: Annotated[str, typer.Option(metavar="URI", help="Where results are.")] = "results",
) -> None:
    """Puts the weights and datasets that tasks name on the hub into the store, where all machines look before they ask it."""
    from rekd.running.downloads import fetch as fetch_task
    from rekd.tasks.task import load_task

    console = PlainConsole(highlight=False)
    with bad_input(ValueError):
        place = Store(store)
        place.check_writable()
        for task in tasks:
            names = fetch_task(load_task(task), place)
            console.print(f"{escape(task)}: {escape(', '.join(names)) or 'all of it is there'}", soft_wrap=True)


@app.command()
def down(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A cluster file.")] = "cluster.yaml",
) -> None:
    """Ends the cluster that `ray up FILE` started, and what `ray down` leaves on machines that stay. Results stay too."""
    from rekd.cluster.ray_cluster import take_down

    console = PlainConsole(highlight=False)
    _say_what_runs(file, console)
    with bad_input(ValueError):
        is_gone = take_down(file, partial(console.print, soft_wrap=True))
    if not is_gone:
        raise typer.Exit(1)
    console.print(
        f"The cluster of {escape(file)} is down; nothing of it runs and no key or token of it is left.", soft_wrap=True
    )


StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="Folder or URI with the results.")]


@app.command()
def tidy(
    store: StoreArgument,
    keep_models: Annotated[
        KeepModels, typer.Option(help="Models that stay: all, the best seed of each setting, or teachers' only (none).")
    ] = "all",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Removes what nothing in a store needs any more, and says what. What is running keeps what it needs."""
    with bad_input():
        place = _existing(store)
        found = find_rubbish(place, keep_models=keep_models)
        print("\n".join(map(_described, found)) or "There is nothing to remove.")
        if found and not dry_run:
            with Claims(place) as claims:
                if keep_models != "all":
                    claims.check_alone()
                num_bytes = sum(remove(place, rubbish, claims) for rubbish in found)
            print(f"{num_bytes:,} bytes were removed. What belongs to trials that are running stays.")


def _described(rubbish: Rubbish) -> str:
    return f"{len(rubbish.sizes)} {rubbish.what} ({rubbish.num_bytes:,} bytes)"


@app.command()
def redo(
    store: StoreArgument,
    digests: Annotated[list[str], typer.Argument(metavar="DIGEST...", help="Trials that have ended.")],
) -> None:
    """Trials count as failed from now on: the next sweep that asks for them runs them from the start."""
    with bad_input():
        run_again(_existing(store), digests)
    print(f"To be run again: {', '.join(digests)}. Type the command of their sweep.")


def _existing(uri: str) -> Store:
    place = Store(uri)
    if not place.exists(place.root):
        raise ValueError(f"There is no store at {uri}. Give the folder or URI that the sweep's --store named.")
    return place


def _say_what_runs(file: str, console: Console) -> None:
    """What is about to end and what it has cost an hour, where its head still answers."""
    from rekd.cluster.bill import ask, lines
    from rekd.cluster.ray_cluster import cluster_from

    try:
        if (cluster := cluster_from(file)) is not None and not cluster.stays:
            for line in lines(cluster, ask(cluster)):
                console.print(escape(line), soft_wrap=True)
    except ValueError:  # taking it down says what is wrong
        return
