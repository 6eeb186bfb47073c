"""Tasks of local files are named by what is read of them, as 0.1.0 named them where it read them rightly."""

from dataclasses import replace
from pathlib import Path

import pytest

from rekd.tasks.task import load_task

ROWS = "text\tlabel\ngood film\t1\nbad film\t0\n"
TOKENIZER = {
    "vocab.txt": "[PAD]\n[UNK]\ngood\n",
    "tokenizer_config.json": '{"do_lower_case": true}',
    "merges.txt": "g o\n",
}

BY_0_1_0 = {
    "csv": "b8bf86142863f921",
    "quoted tsv": "bee6f463d453d60f",
    "parts": "0bae95e474c68cf0",
    "one file": "81d0e4e642959b66",
    "images": "9d1427629c98c0cb",
    "class names": "045d838c69f7a636",
    "tokenizer": "d8f1fac2cbdd3e02",
    "tokenizer that pads on the right": "bf1169c770229711",
}
"""Digests that version 0.1.0 gave to the tasks below."""


def made(kind: str, folder: Path):
    """A task of one of these kinds."""

    def put(name: str, content: str) -> None:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)

    text = {"dataset": str(folder), "tokenizer": "someone/tokenizer"}
    if kind in ("csv", "class names"):
        put("train.csv", ROWS.replace("\t", ","))
        put("test.csv", ROWS.replace("\t", ","))
        return replace(load_task("imdb"), **text, class_names=("neg", "pos") if kind == "class names" else None)
    if kind == "quoted tsv":
        put("train.tsv", ROWS + '"he said ""good"""\t1\n')
        put("test.tsv", ROWS)
    if kind == "parts":
        put("train/part-0.csv", ROWS.replace("\t", ","))
        put("train/part-1.csv", ROWS.replace("\t", ","))
        put("data/test-00000-of-00001.csv", ROWS.replace("\t", ","))
    if kind == "one file":
        put("reviews.tsv", ROWS)
        return replace(load_task("imdb"), **{**text, "dataset": str(folder / "reviews.tsv")}, test_fraction=0.5)
    if kind == "images":
        for name in ("train/cat/1.png", "train/dog/2.jpg", "test/cat/3.png", "test/dog/4.png"):
            put(name, name)
        return replace(load_task("cifar10"), dataset=str(folder), num_classes=2, class_names=("cat", "dog"))
    if kind.startswith("tokenizer"):
        put("train.csv", ROWS)
        put("test.csv", ROWS)
        for name, content in TOKENIZER.items():
            put(f"tokenizer/{name}", content)
        put("tokenizer/README.md", "mine")
        put("tokenizer/model.safetensors", "weights")
        if kind.endswith("right"):
            put("tokenizer/tokenizer_config.json", '{"padding_side": "right"}')
        put("tokenizer.txt", "not a table")
        return replace(
            load_task("imdb"), dataset=str(folder / "train.csv"), tokenizer=str(folder / "tokenizer"), test_fraction=0.5
        )
    return replace(load_task("imdb"), **text)


@pytest.mark.parametrize("kind", BY_0_1_0)
def test_what_was_read_rightly_keeps_its_digest(kind, tmp_path):
    assert made(kind, tmp_path).digest == BY_0_1_0[kind]
