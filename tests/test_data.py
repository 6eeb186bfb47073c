"""The arrays that a task stands for: divided once, read from every format alike, and refused where they are wrong."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stand_ins
from sklearn.datasets import load_digits

from rekd.tasks.data import Data, load_data
from rekd.tasks.task import Task, load_task
from rekd.tasks.texts import load_tokenizer


def same_arrays(left: Data, right: Data) -> bool:
    return left.fingerprint == right.fingerprint


def test_digits_are_8_bit_and_divided_once():
    task = load_task("digits")
    data = load_data(task)
    assert data.pool.arrays["image"].shape == (1348, 1, 8, 8)
    assert data.pool.arrays["image"].dtype == np.uint8
    assert data.pool.arrays["image"].max() == 255
    assert len(data.test) == 449
    everything = np.concatenate([data.pool.arrays["image"], data.test.arrays["image"]])
    assert np.array_equal(np.sort(everything, axis=None), np.sort(np.rint(load_digits().data * 255 / 16), axis=None))
    assert same_arrays(data, load_data(task))
    assert not same_arrays(data, load_data(replace(task, test_fraction=0.3)))


def test_the_fixed_split_is_balanced_and_the_same_for_every_seed(image_task):
    data = load_data(load_task(image_task))
    train, dev = data.train_dev("fixed", 1)
    assert np.bincount(data.pool.labels[dev]).tolist() == [4] * 10
    assert np.bincount(data.pool.labels[train]).tolist() == [16] * 10
    assert np.array_equal(np.sort(np.concatenate([train, dev])), np.arange(200))
    assert np.array_equal(train, np.sort(train))
    assert np.array_equal(dev, np.sort(dev))
    assert np.array_equal(dev, data.train_dev("fixed", 2)[1])

    train, dev = data.train_dev("by_seed", 1)
    assert (len(train), len(dev)) == (160, 40)
    assert np.array_equal(np.sort(np.concatenate([train, dev])), np.arange(200))
    assert np.bincount(data.pool.labels[dev]).tolist() != [4] * 10
    assert np.array_equal(dev, data.train_dev("by_seed", 1)[1])
    assert not np.array_equal(dev, data.train_dev("by_seed", 2)[1])


def test_a_dev_split_of_its_own_is_kept(image_task):
    # The stand-in's test split, read as dev too: what counts is that the file says so.
    task = replace(load_task(image_task), dev_split="test")
    data = load_data(task)
    assert len(data.pool) == 300
    train, dev = data.train_dev("fixed", 1)
    assert np.array_equal(train, np.arange(200))
    assert np.array_equal(dev, np.arange(200, 300))
    assert len(data.train_dev("by_seed", 1)[1]) == 100
    assert not np.array_equal(data.train_dev("by_seed", 1)[1], dev)


def test_images_come_as_they_were_saved(image_task):
    data = load_data(load_task(image_task))
    images, labels = stand_ins._coloured_digits(10, 300)
    assert np.array_equal(data.pool.arrays["image"], images[:200].transpose(0, 3, 1, 2))
    assert np.array_equal(data.test.labels, labels[200:])
    assert data.class_names is not None
    assert data.class_names[3] == "digit 3"


def test_cifar100_has_its_coarse_classes(tmp_path):
    stand_ins.save_cifar(tmp_path / "data", coarse=True)
    (tmp_path / "mine.toml").write_text('extends = "cifar100"\ndataset = "data"')
    task = load_task(tmp_path / "mine.toml")
    data = load_data(task)
    assert (data.num_classes, data.pool.labels.max()) == (20, 19)
    with pytest.raises(ValueError, match=r"num_classes is 20, but column 'fine_label' .* has 100 classes"):
        load_data(replace(task, label_column="fine_label"))


def test_texts_are_tokenized_padded_and_truncated(text_task):
    task = load_task(text_task)
    data = load_data(task)
    tokens = data.pool.arrays
    assert tokens["input_ids"].shape == (80, 24)
    assert (tokens["input_ids"].dtype, tokens["valid"].dtype) == (np.int32, np.uint8)
    assert len(data.pool) + len(data.test) == 120  # not the 10 without labels
    length = int(tokens["valid"][0].sum())
    assert 0 < length < 24
    assert np.array_equal(tokens["valid"][0], np.arange(24) < length)
    assert not tokens["input_ids"][0, length:].any()
    tokenizer = load_tokenizer(task)
    assert tokenizer.decode(tokens["input_ids"][0, :length]).startswith("[CLS] ")

    short = load_data(replace(task, max_length=5)).pool.arrays
    assert short["valid"].all()
    assert np.array_equal(short["input_ids"][:, :4], tokens["input_ids"][:, :4])
    assert (short["input_ids"][:, 4] == tokenizer.sep_token_id).all()


def rows_of(task: Task, split: str) -> list[Any]:
    import datasets

    return [*datasets.load_from_disk(task.dataset)[split]]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize("names", ["{}.{}", "{}/part-0.{}", "data/{}-00000-of-00001.{}"])
def test_a_table_reads_as_the_saved_folder_does(text_task, tmp_path, suffix, names):
    import pandas as pd

    task = load_task(text_task)
    for split in ("train", "test", "unsupervised"):
        frame = pd.DataFrame(rows_of(task, split))
        file = tmp_path / names.format(split, suffix)
        file.parent.mkdir(parents=True, exist_ok=True)
        if suffix == "parquet":
            frame.to_parquet(file)
        elif suffix.startswith("json"):
            frame.to_json(file, orient="records", lines=suffix == "jsonl")
        else:
            frame.to_csv(file, index=False, sep="\t" if suffix == "tsv" else ",")
    (tmp_path / "README.md").write_text("train test")
    other = replace(task, dataset=str(tmp_path))
    assert same_arrays(load_data(other), load_data(task))
    assert other.digest != task.digest


def test_a_folder_of_images_reads_as_the_saved_folder_does(image_task, tmp_path):
    task = load_task(image_task)
    for split in ("train", "test"):
        for row, sample in enumerate(rows_of(task, split)):
            folder = tmp_path / "images" / split / f"class {sample['label']}"
            folder.mkdir(parents=True, exist_ok=True)
            sample["img"].save(folder / f"{row:03d}.png")
    other = replace(task, dataset=str(tmp_path / "images"))
    data, saved = load_data(other), load_data(task)
    assert data.class_names == tuple(f"class {number}" for number in range(10))
    order = np.argsort(saved.test.labels, kind="stable")
    assert np.array_equal(data.test.arrays["image"], saved.test.arrays["image"][order])
    assert np.array_equal(data.test.labels, saved.test.labels[order])

    moved = shutil.copytree(tmp_path / "images", tmp_path / "moved")
    assert replace(task, dataset=str(moved)).digest == other.digest
    (tmp_path / "moved/test/class 3").rename(tmp_path / "moved/test/class 33")
    assert replace(task, dataset=str(moved)).digest != other.digest

    one_split = replace(task, dataset=str(tmp_path / "images/train"), test_fraction=0.5)
    assert (len(load_data(one_split).pool), len(load_data(one_split).test)) == (100, 100)


def test_one_file_is_divided_by_a_test_fraction(text_task, tmp_path):
    import pandas as pd

    task = load_task(text_task)
    file = tmp_path / "reviews.csv"
    frame = pd.DataFrame(rows_of(task, "train"))
    frame["label"] = frame["label"].map({0: "bad", 1: "fine"})
    # Words that other readers take for missing values, and a text of digits.
    frame.loc[0, "text"], frame.loc[1, "text"], frame.loc[2, "text"] = "NA", "null", "10"
    frame.to_csv(file, index=False)
    data = load_data(replace(task, dataset=str(file), test_fraction=0.25))
    assert (len(data.pool), len(data.test), data.class_names) == (60, 20, ("bad", "fine"))
    assert np.bincount(data.test.labels).tolist() == [10, 10]
    swapped = load_data(replace(task, dataset=str(file), test_fraction=0.25, class_names=("fine", "bad")))
    assert np.array_equal(swapped.pool.labels, 1 - data.pool.labels)
    with pytest.raises(ValueError, match=r"label 'fine' is none of the class_names bad, good"):
        load_data(replace(task, dataset=str(file), test_fraction=0.25, class_names=("bad", "good")))
    with pytest.raises(ValueError, match=r"no file for the split 'test', but reviews.csv"):
        load_data(replace(task, dataset=str(file)))


def saved(folder: Path, images: list, labels: list, feature=None) -> str:
    """A saved DatasetDict whose train and test splits both hold these images."""
    import datasets

    split = datasets.Dataset.from_dict({"img": images, "label": labels})
    if feature is not None:
        split = split.cast_column("img", feature)
    stand_ins._save(datasets.DatasetDict({"train": split, "test": split}), folder)
    return str(folder)


def two_class_task(dataset: str, **changes) -> Task:
    return replace(load_task("cifar10"), dataset=dataset, num_classes=2, **changes)


def test_images_of_every_8_bit_mode_are_converted_and_resized_on_demand(tmp_path):
    import datasets
    from PIL import Image

    red = Image.new("RGB", (6, 6), (255, 0, 0))
    images = [red.convert(mode) for mode in ("RGB", "RGBA", "L", "P", "1", "CMYK")] + [red] * 4
    dataset = saved(tmp_path / "modes", images, [0, 1] * 5, datasets.Image())
    pixels = load_data(two_class_task(dataset)).pool.arrays["image"]
    assert pixels.shape == (10, 3, 6, 6)
    assert pixels[0, :, 0, 0].tolist() == pixels[1, :, 0, 0].tolist() == pixels[3, :, 0, 0].tolist() == [255, 0, 0]
    assert load_data(two_class_task(dataset, image_mode="L")).pool.arrays["image"].shape == (10, 1, 6, 6)

    images[7] = red.resize((9, 5))
    dataset = saved(tmp_path / "sizes", images, [0, 1] * 5, datasets.Image())
    with pytest.raises(ValueError, match=r"split 'train', row 7: the image has 9 x 5 pixels.*6 x 6. Set image_size"):
        load_data(two_class_task(dataset))
    assert load_data(two_class_task(dataset, image_size=4)).pool.arrays["image"].shape == (10, 3, 4, 4)


def test_rows_of_whole_pixels_are_images_and_others_are_refused(tmp_path):
    def read(name, pixels):
        return load_data(two_class_task(saved(tmp_path / name, [pixels] * 10, [0, 1] * 5)))

    assert read("gray", [[0, 255], [7, 9]]).pool.arrays["image"][0, 2].tolist() == [[0, 255], [7, 9]]
    for name, pixels, message in (
        ("nan", [[0.0, float("nan")]], "holds fractional pixels .1 NaN."),
        ("float", [[0.5, 0.25]], "holds fractional pixels .values like 0.5."),
        ("range", [[0, 256]], "has pixels of 0 to 256"),
        ("negative", [[-1, 0]], "has pixels of -1 to 0"),
        ("ragged", [[1, 2], [3]], "has rows of pixels of different lengths"),
        ("flat", [1, 2], "is of shape"),
        ("text", "hello", "holds 'hello', which is no image"),
    ):
        with pytest.raises(ValueError, match=f"split 'train', row 0: column 'img' {message}"):
            read(name, pixels)


def test_16_bit_damaged_missing_and_foreign_images_are_refused(tmp_path):
    import datasets
    from PIL import Image

    good = Image.new("RGB", (4, 4))
    secret = tmp_path / "secret.png"
    good.save(secret)
    for name, bad, message in (
        ("deep", Image.fromarray(np.full((4, 4), 60_000, dtype=np.uint16)), "more than 8 bits a pixel"),
        ("damaged", {"bytes": b"\x89PNG nothing", "path": None}, "cannot be decoded"),
        ("missing", None, "is missing"),
    ):
        dataset = saved(tmp_path / name, [good] * 9 + [bad], [0, 1] * 5, datasets.Image())
        with pytest.raises(ValueError, match=f"split 'train', row 9: the image.*{message}"):
            load_data(two_class_task(dataset))

    # A table from somewhere must not make us open a file of its choice.
    folder = tmp_path / "foreign"
    folder.mkdir()
    rows = [{"img": {"bytes": None, "path": str(secret)}, "label": number % 2} for number in range(10)]
    for split in ("train", "test"):
        (folder / f"{split}.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"row 0: the image is the path '.*secret.png', not its bytes"):
        load_data(two_class_task(str(folder)))


@pytest.mark.parametrize(
    "path", ["{folder}/../secret.png", "{folder}/link.ppm", "file://{folder}/../secret.png", "hf://x"]
)
def test_a_table_cannot_name_a_file_outside_its_folder(tmp_path, path):
    from PIL import Image

    folder = tmp_path / "foreign"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (folder / "link.ppm").symlink_to(tmp_path / "secret.png")
    rows = [{"img": {"bytes": None, "path": path.format(folder=folder)}, "label": number % 2} for number in range(10)]
    for split in ("train", "test"):
        (folder / f"{split}.json").write_text(json.dumps(rows))
    with pytest.raises(
        ValueError, match=r"row 0: the image is the path '.*', not its bytes. Write the dataset"
    ) as caught:
        load_data(two_class_task(str(folder)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["img", "label"])
def test_a_column_that_is_said_to_hold_images_opens_none(tmp_path, monkeypatch, column):
    """`datasets` decodes such a column wherever it is read, and opens the path that is in it."""
    import datasets
    import PIL.Image
    import pyarrow.parquet as pq

    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "secret.ppm")
    monkeypatch.setattr(PIL.Image, "open", lambda path: pytest.fail(f"opened {path}"))
    image = {"bytes": None, "path": str(tmp_path / "secret.ppm")}
    refused = "the image is the path .*, not its bytes" if column == "img" else "label {.* of column 'label' is neither"
    for value, feature, message in (
        (image, datasets.Image(), f"split 'train', row 0: {refused}"),
        ([image], datasets.List(datasets.Image()), f"column '{column}' of .* holds List.* Give one image a row"),
    ):
        columns = {"img": [[[0]]] * 10, "label": [0, 1] * 5, column: [value] * 10}
        table = datasets.Dataset.from_dict(columns).cast_column(column, feature).data.table
        for split in ("train", "test"):
            pq.write_table(table, tmp_path / f"{split}.parquet")
        with pytest.raises(ValueError, match=message):
            load_data(two_class_task(str(tmp_path)))


def test_links_in_a_folder_of_images_are_followed(tmp_path):
    """As in a snapshot of the hub's cache: they are the user's own."""
    from PIL import Image

    for split in ("train", "test"):
        for number in range(10):
            link = tmp_path / "images" / split / f"class {number % 2}" / f"{number}.png"
            Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(tmp_path / f"{number}.png")
    assert len(load_data(two_class_task(str(tmp_path / "images"))).pool) == 10


def reviews(folder: Path, rows: list, test_rows: list | None = None) -> str:
    folder.mkdir(parents=True)
    for split, of_split in (("train", rows), ("test", rows if test_rows is None else test_rows)):
        (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in of_split))
    return str(folder)


def labelled(*labels) -> list:
    return [{"text": "a good film", "label": label} for label in labels]


@pytest.mark.parametrize(
    ("rows", "test_rows", "message"),
    [
        (labelled(1, 1) * 5, labelled(0, 1), r"split 'train' .* has samples of 1 of 2 classes, none of class 0\."),
        (labelled("x", "x") * 5, labelled("x", "y"), r"split 'train' .*, none of class 1 \(y\)\."),
        (labelled("x", "y", "z") * 5, None, "num_classes is 2, but column 'label' .* has 3 classes: x, y, z"),
        (labelled(0, 1, 2), None, "split 'train', row 2: label 2 is outside 0 to 1"),
        (labelled(0, 1, -1), None, "row 2: label -1 is outside 0 to 1"),
        (labelled(0, 1, None), None, "row 2: label None of column 'label' is neither"),
        (labelled(0.5, 1), None, "row 0: label 0.5 of column 'label' is neither"),
        (labelled(0, 1), None, "too few for every class to be on both sides"),
        (labelled(0, 1) * 5, [], "cannot be read|no samples|no column"),
        ([*labelled(0, 1), {"text": "", "label": 0}], None, "row 2: column 'text' holds an empty text"),
        ([*labelled(0, 1), {"text": " \n", "label": 0}], None, "row 2: column 'text' holds an empty text"),
        ([*labelled(0, 1), {"text": None, "label": 0}], None, "row 2: column 'text' holds None"),
        ([{"text": 3, "label": 0}], None, "row 0: column 'text' holds 3"),
        ([{"review": "good", "label": 0}], None, "has no column 'text', but review, label. Set input_column"),
        ([{"text": "good", "class": 0}], None, "has no column 'label', but text, class"),
    ],
)
def test_wrong_data_is_refused_in_one_line(text_task, tmp_path, rows, test_rows, message):
    task = replace(load_task(text_task), dataset=reviews(tmp_path / "data", rows, test_rows))
    with pytest.raises(ValueError, match=message) as caught:
        load_data(task)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "data") in str(caught.value)


def test_right_data_is_not(text_task, tmp_path):
    long = [{"text": "good " * 100_000, "label": 1}, {"text": "<script>bad</script>", "label": 0}]
    task = replace(load_task(text_task), dataset=reviews(tmp_path / "data", labelled(0, 1) * 5 + long))
    assert load_data(task).pool.arrays["valid"][10].all()


def test_a_text_of_megabytes_is_truncated_and_quick(text_task, tmp_path):
    rows = labelled(0, 1) * 5 + [{"text": "good film " * 200_000, "label": 1}, {"text": "x" * 2_000_000, "label": 0}]
    task = replace(load_task(text_task), dataset=reviews(tmp_path / "data", rows, labelled(0, 1)))
    start = time.monotonic()
    valid = load_data(task).pool.arrays["valid"]
    assert time.monotonic() - start < 60
    assert valid[10].all()  # cut at the maximum length
    assert valid[11].sum() == 3  # one word that no vocabulary has, between the two tokens of a text's ends


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.parquet", b"not parquet", "train.parquet cannot be read"),
        ("train.csv", b"text,label\n'a,1\n1,2,3,4\n", "train.csv cannot be read"),
        ("train.json", b'[{"text": ', "train.json cannot be read"),
        ("train.json", b'["a", "b"]', "train.json cannot be read"),
        ("train.jsonl", b"\xff\xfe", "train.jsonl cannot be read"),
        ("train.png", b"", "is in no class's folder"),
        ("notes.txt", b"", "holds no dataset"),
        ("dev.csv", b"text,label\n", "has no file for the split 'train', but dev.csv"),
        ("dataset_dict.json", b"{}", "cannot be read as a folder of save_to_disk"),
        ("dataset_dict.json", b'{"splits": ["all"]}', "has no split 'train', but all"),
    ],
)
def test_a_wrong_folder_is_refused_in_one_line(text_task, tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content)
    (tmp_path / "test").mkdir()
    if file.startswith("train"):
        (tmp_path / file.replace("train", "test")).write_bytes(content)
    task = replace(load_task(text_task), dataset=str(tmp_path))
    with pytest.raises(ValueError, match=message) as caught:
        load_data(task)
    assert "\n" not in str(caught.value)


def test_a_saved_folder_cannot_name_files_outside_it(image_task, tmp_path):
    folder = Path(shutil.copytree(image_task.parent / "data", tmp_path / "data"))
    task = replace(load_task(image_task), dataset=str(folder))
    load_data(task)
    state = folder / "train/state.json"
    state.write_text(state.read_text().replace("data-00000", "../test/data-00000"))
    with pytest.raises(ValueError, match="names files outside its folder"):
        load_data(task)


def test_a_tokenizer_that_does_not_fit_is_refused(text_task, tmp_path):
    task = load_task(text_task)
    stand_ins.save_tokenizer(tmp_path / "larger", extra_words=("one", "more"))
    with pytest.raises(ValueError, match=r"tokenizer .*larger has (\d+) tokens, but the model bert-base knows \d+"):
        load_data(replace(task, tokenizer=str(tmp_path / "larger")))
    with pytest.raises(ValueError, match="max_length is 65, but the model bert-base has 64 positions"):
        load_data(replace(task, max_length=65))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"the tokenizer .*empty cannot be read"):
        load_data(replace(task, tokenizer=str(tmp_path / "empty")))
    same = shutil.copytree(task.models["bert-base"].source, tmp_path / "same")
    assert replace(task, tokenizer=str(same)).digest == task.digest
    assert replace(task, tokenizer=str(tmp_path / "larger")).digest != task.digest
