"""A trained model as a folder in the manner of Hugging Face, which others load without this program."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rekd.handover.modeling_rekd import CONVOLUTIONAL, FAMILIES
from rekd.handover.trained_model import TrainedModel, find_trained
from rekd.method.models import RationaleModel
from rekd.store.saved_model import checksum_of

MODELING = "modeling_rekd.py"
"""The file that an exported folder brings along for those who have no `rekd`. Nothing here runs it."""


@contextmanager
def new_folder(to: Path) -> Iterator[Path]:
    """A folder beside `to` that takes its name once all of it is there; nothing is left of one that was not finished.

    Raises ValueError where an export would mix with what is there.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ValueError(f"{to} is there already and is not empty. Give --to a new folder.")
    to.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
    try:
        yield folder
        folder.chmod(0o755)  # as other folders: a temporary one is its owner's alone
        folder.replace(to)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def export_model(what: str | Path, to: str | Path, *, store: str = "results") -> Path:
    """Writes the trained model of a folder, or of a trial of the store by its digest, as a new folder, which it returns.

    It holds weights, configuration, what prepares an input, code to load it without this program, and a card filled from the
    ledger. Raises ValueError where there is no such model, or the folder is there already.
    """
    from rekd.handover.card import card

    trained = find_trained(str(what), store)
    with new_folder(Path(to)) as folder:
        write_export(trained, folder)
        (folder / "README.md").write_text(card(trained), encoding="utf-8")
    return Path(to)


def write_export(trained: TrainedModel, folder: Path) -> None:
    """Writes weights, configuration, what prepares an input, and the code to load them, into a new folder.

    Raises ValueError where the files are not those of a trained model.
    """
    if trained.config.get("selects_by", "logits") != "logits":
        raise ValueError(
            "A model whose rationales are a classifier's saliency cannot be exported. Choose another estimator."
        )
    family = trained.config["backbone"]["model_type"]
    if family not in FAMILIES:
        raise ValueError(
            f"A model of the family {family!r} cannot be exported: {MODELING} builds {', '.join(FAMILIES)}."
        )
    kept = {name: content for name, content in trained.files.items() if name not in ("config.json", "README.md")}
    kept[MODELING] = Path(__file__).with_name(MODELING).read_bytes()
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    config = exported_config(trained.config)
    config["sha256"] = checksum_of(config, kept["model.safetensors"])
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    RationaleModel.load(folder)


def check_drops(config: dict[str, Any]) -> None:
    """Raises ValueError where a predictor cannot leave out what is not selected."""
    if config["objective"] == "cls":
        raise ValueError("--drop leaves out what is not selected, and a plain classifier (cls) selects nothing.")
    if (family := config["backbone"]["model_type"]) in CONVOLUTIONAL:
        raise ValueError(f"--drop leaves features out of the attention, and a {family} has none. Export it without.")


def exported_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json that says to transformers too what is in it."""
    names = config["details"].get("class_names") or [str(number) for number in range(config["num_classes"])]
    module = MODELING.removesuffix(".py")
    return {
        **{name: value for name, value in config.items() if name != "sha256"},
        "architectures": ["RekdModel"],
        "auto_map": {"AutoConfig": f"{module}.RekdConfig", "AutoModel": f"{module}.RekdModel"},
        "dtype": "float32",
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }
