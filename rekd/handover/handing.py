"""The commands that hand a trained model over: `rekd export` and `rekd explain`."""

import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekd.command_line import PlainConsole, bad_input

if TYPE_CHECKING:
    from rekd.handover.forms import Comparison
    from rekd.handover.side_by_side import ExplainedInput
    from rekd.handover.trained_model import TrainedModel
    from rekd.method.explain import Explainer
    from rekd.tasks.data import Data


def explain(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER... INPUT...",
            help="Folders that finished trials wrote; then texts, files, images, folders of them, tables, or - for standard "
            "input.",
        ),
    ],
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .jsonl, .parquet or .html file instead of the terminal.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    column: Annotated[
        str | None, typer.Option(help="The column of tables, where more than one holds texts or images.")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Share of features to select, the strongest, instead of the model's own number."),
    ] = None,
    page: Annotated[
        bool, typer.Option("--serve", help="Serves a page to try the models on, to this machine alone.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The page's; 0 is any free one.")] = 8642,
) -> None:
    """Prediction and rationale of new inputs, any number of them, by one model or several side by side."""
    with bad_input():
        if to is not None and to.suffix not in (".jsonl", ".parquet", ".html"):
            raise ValueError(f"--to is a .jsonl, a .parquet or an .html file, got {to}.")
        from rekd.handover.given import inputs_of, leading_models
        from rekd.handover.side_by_side import explain_all, named_explainers

        num_models = leading_models(arguments)
        explainers = named_explainers([Path(folder) for folder in arguments[:num_models]])
        given = arguments[num_models:]
        if page:
            _serve_page(explainers, given, port)
            return
        if not given:
            raise ValueError("What is to be explained? Give texts, files, folders or tables, or - for standard input.")
        kind = next(iter(explainers.values())).model.kind
        inputs = inputs_of(given, kind=kind, column=column)
        _write(explain_all(explainers, inputs, budget=budget), to, as_json=as_json)


def _serve_page(explainers: "Mapping[str, Explainer]", given: list[str], port: int) -> None:
    from rekd.handover.try_page import TryPage
    from rekd.loopback import serve

    if given:
        raise ValueError(f"{given[0]} is no folder of a trained model; the page of --serve takes its inputs itself.")
    say = partial(PlainConsole(highlight=False).print, soft_wrap=True)
    serve(TryPage(explainers).app(), port=port, ready=lambda address: say(f"The page is {address} (Ctrl-C ends it)."))


def _write(everything: "Iterable[ExplainedInput]", to: Path | None, *, as_json: bool) -> None:
    from rekd.handover import pages, side_by_side

    console = PlainConsole(highlight=False)
    if to is None:
        if as_json:
            for line in side_by_side.json_lines(everything):
                print(line)
            return
        for explained in everything:
            side_by_side.print_explained(console, explained)
        return
    writers = {
        ".parquet": side_by_side.write_parquet,
        ".jsonl": side_by_side.write_json,
        ".html": partial(pages.write_page, title="Rationales"),
    }
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{to.name}.", dir=to.parent) as scratch:
        number = writers[to.suffix](everything, Path(scratch) / to.name)
        (Path(scratch) / to.name).replace(to)  # whole or not at all
    console.print(f"{number} inputs are explained in {to}.", markup=False, soft_wrap=True)


def export(
    what: Annotated[
        str | None, typer.Argument(metavar="[DIGEST|FOLDER]", help="A trial's digest, or a folder that a trial wrote.")
    ] = None,
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="The new folder.")] = Path("exported"),
    best: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Instead of a digest: the best trial of a model, by dev.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME|FILE.toml", help="Its task, where the program has none of that name.")
    ] = None,
    store: Annotated[str, typer.Option(metavar="URI", help="Where results are.")] = "results",
    onnx: Annotated[bool, typer.Option("--onnx", help="Also as ONNX, compared on the test split.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Also as ONNX with 8-bit weights, compared.")] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="Also measures a predictor that leaves out what is not selected.")
    ] = False,
) -> None:
    """Writes a trained model as a folder that others load without this program, with a card filled from the ledger."""
    from rekd.handover.card import card
    from rekd.handover.export import check_drops, new_folder, write_export
    from rekd.handover.trained_model import best_trial, find_trained

    with bad_input():
        if (what is None) == (best is None):
            raise ValueError("Which model? Give the digest of a trial or a folder, or --best MODEL.")
        digest = what if what is not None else best_trial(store, str(best), task=_name_of(task))
        trained = find_trained(digest, store)
        if drop:
            check_drops(trained.config)
        with new_folder(to) as folder:
            data = _data_of(trained, task) if onnx or int8 or drop else None
            write_export(trained, folder)
            forms, told = _formed(folder, data, onnx=onnx, int8=int8, drop=drop) if data is not None else ([], None)
            (folder / "README.md").write_text(card(trained, forms, told), encoding="utf-8")
        console = PlainConsole(highlight=False)
        for form in forms:
            console.print(_described(form), markup=False, soft_wrap=True)
        where = digest if best is None else f"{digest}, the best of {best} by dev,"
        console.print(f"{where} is in {to}; its card is {to / 'README.md'}.", markup=False, soft_wrap=True)


def _name_of(task: str | None) -> str | None:
    from rekd.tasks.task import load_task

    return None if task is None else load_task(task).name


def _data_of(trained: "TrainedModel", task: str | None) -> "Data":
    """The data on whose test split forms are compared. Raises ValueError where it is not what the trial was trained on."""
    from rekd.handover.onnx_files import check_onnx
    from rekd.tasks.data import load_data
    from rekd.tasks.task import load_task
    from rekd.tasks.task_file import task_names

    trial = trained.config["details"].get("trial", {})
    if task is None and trial.get("task") not in task_names():
        raise ValueError(f"Forms are compared on the test split of {trial.get('task')}: give --task FILE.toml.")
    check_onnx()
    found = load_task(task or trial["task"])
    if trial.get("model") in found.models:
        found = found.seen_by(trial["model"])
    if found.digest != trial.get("task_digest"):
        raise ValueError(
            f"The task {task or found.name} is not the one that the model was trained on: data, columns or splits differ. "
            "Give the task's own file as --task."
        )
    return load_data(found)


def _formed(
    to: Path, data: "Data", *, onnx: bool, int8: bool, drop: bool
) -> tuple[list["Comparison"], dict[str, Any] | None]:
    """What was asked for, written and compared; and what a card says of ONNX."""
    from rekd.handover.forms import compare, torch_form
    from rekd.handover.onnx_files import OPSET, onnx_bytes, onnx_form, write_int8, write_onnx

    weights = (to / "model.safetensors").stat().st_size
    forms = {"PyTorch": (torch_form(to), weights)}
    if drop:
        forms["PyTorch, without the rest"] = (torch_form(to, drop=True), weights)
    told = None
    if onnx or int8:
        write_onnx(to, {name: array[:3] for name, array in data.test.arrays.items()})
        forms["ONNX"] = (onnx_form(to), onnx_bytes(to))
        told = {"opset": OPSET, **_shapes(to)}
    if int8:
        write_int8(to)
        forms["ONNX, 8-bit"] = (onnx_form(to, ".int8.onnx"), onnx_bytes(to, ".int8.onnx"))
    return compare(forms, data.test), told


def _shapes(to: Path) -> dict[str, Any]:
    from rekd.handover.onnx_files import inputs_of

    *inputs, mask = inputs_of(to)
    listed = [f"`{name}` {['batch', *shape[1:]]}, {kind}".replace("'", "") for name, shape, kind in inputs]
    return {"inputs": "; ".join(listed), "features": mask[1][1]}


def _described(form: "Comparison") -> str:
    return (
        f"{form.form}: {form.num_bytes / 1e6:.2f} MB, {form.milliseconds:.2f} ms a sample, accuracy {form.accuracy:.4f}, "
        f"{form.equal_masks:.2%} equal masks, logits within {form.logit_difference:.1e}"
    )
