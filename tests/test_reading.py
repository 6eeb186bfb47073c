"""What is read for which split, which class and which pixel, in the ways in which people and programs lay data out."""

import json
import zlib
from contextlib import nullcontext
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rekd.tasks.data import load_data, remarks_on
from rekd.tasks.images import opened, pixels_of
from rekd.tasks.task import Task, load_task


@pytest.fixture
def task(text_task, tmp_path) -> Task:
    """Of texts with the labels 0 and 1, in the folder `data`, which is empty."""
    folder = tmp_path / "data"
    folder.mkdir()
    return replace(load_task(text_task), dataset=str(folder))


@pytest.fixture
def pictures(tmp_path) -> Task:
    """Of images with two classes, in the folder `pictures`, which is empty."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    return replace(load_task("cifar10"), dataset=str(folder), num_classes=2)


def film(number: int) -> str:
    """A text that the stand-ins' tokenizer tells from that of every other number below 676."""
    return f"film {chr(97 + number // 26)} {chr(97 + number % 26)}"


def rows_from(first: int, *, count: int = 20, labels: tuple = (0, 1)) -> list[tuple]:
    return [(film(number), labels[number % len(labels)]) for number in range(first, first + count)]


def write(file: str | Path, rows: list[tuple], folder: str | Path = "") -> Path:
    """A table of the columns `text` and `label`, in the format of the file's name."""
    import pandas as pd

    file = Path(folder) / file
    file.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows, columns=["text", "label"])
    if file.suffix == ".jsonl":
        file.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows))
    elif file.suffix == ".parquet":
        frame.to_parquet(file)
    else:
        frame.to_csv(file, index=False, sep="\t" if file.suffix == ".tsv" else ",")
    return file


def paint(file: str, folder: str, shade: int = 0) -> None:
    path = Path(folder) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade, 200, 0)).save(path, format="PNG")


def paint_classes(folder: str, split: str, classes: tuple[str, ...], *, count: int = 5, first: int = 0) -> None:
    for place, name in enumerate(classes):
        for number in range(count):
            paint(f"{split}/{name}/{number}.png", folder, first + place * count + number)


def tokens_of(task: Task, text: str) -> list[int]:
    from rekd.tasks.texts import load_tokenizer

    ids = load_tokenizer(task)(text)["input_ids"]
    return ids + [0] * ((task.max_length or 0) - len(ids))


# ---- which file belongs to which split


def test_the_outermost_folder_of_a_split_decides_and_not_a_files_name(task):
    write("train/imdb-test-augmented.csv", rows_from(0), task.dataset)
    write("test/train-style-prompts.csv", rows_from(100, count=6), task.dataset)
    data = load_data(task)
    assert (len(data.pool), len(data.test)) == (20, 6)
    write("validation/train-prompts.csv", rows_from(200, count=4), task.dataset)
    data = load_data(task)
    assert len(data.pool) == 20
    assert any("1 of what" in remark and "validation/train-prompts.csv" in remark for remark in data.remarks)


def test_a_folder_inside_of_a_splits_may_have_any_name(task):
    write("train/dev/part.csv", rows_from(0), task.dataset)
    write("test/train/part.csv", rows_from(100, count=6), task.dataset)
    data = load_data(task)
    assert (len(data.pool), len(data.test)) == (20, 6)


@pytest.mark.parametrize(
    "other", ["train.jsonl", "train_backup.csv", "train (1).csv", "train_v2.csv", "backup/train.csv", "train.parquet"]
)
def test_two_tables_of_one_split_are_refused(task, other):
    write("train.csv", rows_from(0), task.dataset)
    write("test.csv", rows_from(100, count=6), task.dataset)
    write(other, rows_from(0), task.dataset)
    with pytest.raises(ValueError, match=r"more than one table for the split 'train': .*train\.csv") as caught:
        load_data(task)
    assert other in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ("train-0.csv", "train-1.csv"),
        ("train/part-0.csv", "train/part-1.csv"),
        ("train/2019.csv", "train/2020.csv"),
        ("train-00000-of-00002.csv", "train-00001-of-00002.csv"),
        ("train-00000-of-00002-6f3344faa23e9b0a.csv", "train-00001-of-00002-b54fbbd1dc7bd7d8.csv"),
    ],
)
def test_the_parts_of_one_table_are_added_up(task, names):
    write(names[0], rows_from(0, count=10), task.dataset)
    write(names[1], rows_from(10, count=10), task.dataset)
    write("test.csv", rows_from(100, count=6), task.dataset)
    assert len(load_data(task).pool) == 20


def test_a_part_that_is_missing_is_missed(task):
    write("train-00000-of-00002.csv", rows_from(0), task.dataset)
    write("test.csv", rows_from(100, count=6), task.dataset)
    with pytest.raises(ValueError, match=r"the split 'train' of .* is 2 files by their names, and 1 are there"):
        load_data(task)


def test_what_is_not_read_is_counted_and_named(task):
    write("train.csv", rows_from(0), task.dataset)
    write("test.csv", rows_from(100, count=6), task.dataset)
    assert load_data(task).remarks == ()
    write("validation.csv", rows_from(200, count=6), task.dataset)
    (Path(task.dataset) / "notes.txt").write_text("mine")
    assert load_data(task).remarks == (
        f"{task.name}: 2 of what {task.dataset} holds is not read: notes.txt, validation.csv.",
    )
    assert load_data(replace(task, dev_split="validation")).remarks == (
        f"{task.name}: 1 of what {task.dataset} holds is not read: notes.txt.",
    )


def test_a_saved_split_that_is_not_used_is_named(text_task):
    task = load_task(text_task)
    (remark,) = load_data(task).remarks
    assert remark == f"{task.name}: 1 of what {task.dataset} holds is not read: split 'unsupervised'."


@pytest.mark.parametrize("classes", [("car", "train"), ("steam train", "test tube")])
def test_a_class_may_be_called_as_a_split_is(pictures, classes):
    for split, first in (("train", 0), ("test", 100)):
        paint_classes(pictures.dataset, split, classes, first=first)
    data = load_data(pictures)
    assert (len(data.pool), len(data.test), data.class_names) == (10, 10, tuple(sorted(classes)))
    one_split = replace(pictures, dataset=str(Path(pictures.dataset) / "train"), test_fraction=0.4)
    data = load_data(replace(one_split, dev_fraction=0.4))
    assert (len(data.pool), len(data.test), data.class_names) == (6, 4, tuple(sorted(classes)))
    assert data.remarks == ()


def test_images_of_a_split_that_is_not_read_stay_out_of_train(pictures):
    for split, first in (("train", 0), ("test", 100), ("val", 200)):
        paint_classes(pictures.dataset, split, ("car", "train"), first=first)
    data = load_data(pictures)
    assert data.pool.arrays["image"][:, 0].max() < 100
    assert "10 of what" in data.remarks[0]
    assert len(load_data(replace(pictures, dev_split="val")).pool) == 20


def test_jfif_and_linked_folders_are_read_and_other_files_are_named(pictures, tmp_path):
    paint_classes(pictures.dataset, "test", ("car", "train"), first=100)
    paint_classes(str(tmp_path), "elsewhere", ("car", "train"))
    (Path(pictures.dataset) / "train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/car/0.png").rename(tmp_path / "elsewhere/car/0.jfif")
    (tmp_path / "elsewhere/car/loop").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/car/raw.dng").write_bytes(b"")
    (tmp_path / "elsewhere/car/gone.png").symlink_to(tmp_path / "nowhere.png")
    data = load_data(pictures)
    assert len(data.pool) == 10
    (remark,) = data.remarks
    assert "2 of what" in remark
    assert "train/car/gone.png, train/car/raw.dng" in remark


# ---- quotation marks


def plain_tsv(file: Path, rows: list[tuple]) -> None:
    file.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))


def test_a_tsv_whose_texts_begin_with_a_quotation_mark_is_read_row_by_row(task):
    rows = [(f'"{text}' if number % 3 == 0 else text, label) for number, (text, label) in enumerate(rows_from(0))]
    rows[4] = ('the "best" film', 0)
    folder = Path(task.dataset)
    plain_tsv(folder / "train.tsv", rows)
    plain_tsv(folder / "test.tsv", rows_from(100, count=6))
    data = load_data(task)
    assert data.pool.labels.tolist() == [label for _, label in rows]
    assert data.pool.arrays["input_ids"][0].tolist() == tokens_of(task, f'"{film(0)}')


def test_a_quoted_tsv_keeps_its_line_breaks(task):
    rows = [('he said "good"', 1), ("two\nlines", 0), ('"all of it"', 1), *rows_from(0)]
    write("train.tsv", rows, task.dataset)
    write("test.tsv", rows_from(100, count=6), task.dataset)
    data = load_data(task)
    assert len(data.pool) == 23
    assert data.pool.arrays["input_ids"][1].tolist() == tokens_of(task, "two\nlines")


def test_a_tsv_that_could_be_either_is_refused(task):
    folder = Path(task.dataset)
    plain_tsv(folder / "train.tsv", [('"good film', 1), *rows_from(0, count=4), ('bad film"', 0), *rows_from(10)])
    plain_tsv(folder / "test.tsv", rows_from(100, count=6))
    for reading in (lambda: load_data(task), lambda: task.digest):
        with pytest.raises(
            ValueError, match=r"train\.tsv cannot be read: it has 22 rows where .*, and 27 where"
        ) as caught:
            reading()
        assert "\n" not in str(caught.value)


def test_a_csv_with_a_quotation_mark_that_is_never_closed_is_refused(task):
    folder = Path(task.dataset)
    folder.joinpath("train.csv").write_text('text,label\n"good film,1\nbad film,0\n"fine" film,1\n')
    folder.joinpath("test.csv").write_text("text,label\ngood,1\nbad,0\n")
    with pytest.raises(ValueError, match=r"train\.csv cannot be read: line 4: ',' expected after '\"', in a field"):
        load_data(task)


def test_marks_inside_of_a_field_are_no_harm_where_they_join_no_rows(task):
    folder = Path(task.dataset)
    lines = [f'"{text}" indeed,{label}' for text, label in rows_from(0)]
    folder.joinpath("train.csv").write_text("\n".join(["text,label", *lines]))
    write("test.csv", rows_from(100), folder)
    data = load_data(task)
    assert len(data.pool) == 20
    assert data.pool.arrays["input_ids"][0].tolist() == tokens_of(task, f"{film(0)} indeed")


def test_a_csv_whose_marks_follow_a_backslash_is_refused(task):
    """No reader here drops the backslash: texts would hold what nobody wrote."""
    lines = [f'"he said \\"{text}\\" to me",{label}' for text, label in rows_from(0)]
    Path(task.dataset, "train.csv").write_text("\n".join(["text,label", *lines]))
    write("test.csv", rows_from(100), task.dataset)
    with pytest.raises(
        ValueError, match=r"in a field that begins .*: it is marked by a backslash. Write the file with"
    ):
        load_data(task)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_table_of_two_bytes_a_letter_is_called_so(task, suffix):
    for name in ("train", "test"):
        file = write(f"{name}.{suffix}", rows_from(0), task.dataset)
        file.write_text(file.read_text(), encoding="utf-16")
    with pytest.raises(ValueError, match=rf"train.{suffix} cannot be read: it is UTF-16, as .* Write it as UTF-8"):
        load_data(task)


def test_the_reading_of_a_tsv_is_part_of_its_identity_where_it_changed(task):
    folder = Path(task.dataset)
    for name in ("train", "test"):
        plain_tsv(folder / f"{name}.tsv", rows_from(0, count=4))
    assert task.local_dataset is not None
    unchanged = task.local_dataset.content()
    assert all(isinstance(digest, str) for digests in unchanged.values() for digest in digests)
    write("test.tsv", [('he said "good"', 1), ("bad", 0)], folder)
    assert task.local_dataset.content()["test"] != unchanged["test"]
    assert isinstance(task.local_dataset.content()["test"][0], str)
    plain_tsv(folder / "train.tsv", [('"good film', 1), *rows_from(0)])
    assert task.local_dataset.content()["train"][0][0] == "unquoted"


# ---- which label is which class


def with_labels(task: Task, labels: tuple, suffix: str = "jsonl", **changes) -> Task:
    for name, first in (("train", 0), ("test", 100)):
        write(f"{name}.{suffix}", rows_from(first, labels=labels), task.dataset)
    return replace(task, **changes)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("labels", "class_names", "numbers"),
    [
        ((False, True), ("true", "false"), [1, 0]),
        ((False, True), ("False", "True"), [0, 1]),
        ((False, True), ("no", "yes"), [0, 1]),
        ((False, True), None, [0, 1]),
        ((0, 1), ("1", "0"), [1, 0]),
        ((0, 1), ("neg", "pos"), [0, 1]),
        (("neg", "pos"), ("pos", "neg"), [1, 0]),
        ((-1, 1), None, [0, 1]),
        ((4, 2), None, [1, 0]),
        ((4, 2), ("4", "2"), [0, 1]),
    ],
)
def test_a_sample_belongs_to_the_class_of_its_name(task, suffix, labels, class_names, numbers):
    data = load_data(with_labels(task, labels, suffix, class_names=class_names))
    assert data.pool.labels[:2].tolist() == numbers
    if class_names is not None:
        assert data.class_names == class_names
    else:
        assert data.class_names == tuple(str(label).lower() for label in sorted(labels))


@pytest.mark.parametrize(
    ("labels", "class_names", "numbers", "names"),
    [
        (("01", "02"), None, [0, 1], ("01", "02")),
        (("02", "01"), ("01", "02"), [1, 0], ("01", "02")),
        (("00", "01"), ("01", "00"), [1, 0], ("01", "00")),
        (("00", "01"), ("neg", "pos"), [0, 1], ("neg", "pos")),
        (("10", "09"), ("9", "10"), [1, 0], ("9", "10")),
        ((" 0", " 1"), None, [0, 1], None),
        (("0x10", "0x9"), None, [1, 0], ("0x9", "0x10")),
        (("2020-01-02", "2020-01-01"), None, [1, 0], ("2020-01-01", "2020-01-02")),
        (("11:00", "9:30"), ("9:30", "11:00"), [1, 0], ("9:30", "11:00")),
    ],
)
def test_a_label_of_a_csv_is_called_as_it_is_written(task, labels, class_names, numbers, names):
    data = load_data(with_labels(task, labels, "csv", class_names=class_names))
    assert (data.pool.labels[:2].tolist(), data.class_names) == (numbers, names)


def test_one_number_is_written_in_one_way(task):
    with pytest.raises(ValueError, match=r"row 1: label '01' is also written '1'. Write each class in one way"):
        load_data(with_labels(task, ("1", "01", "2"), "csv"))


def test_numbers_are_as_they_are_written_where_other_labels_are_texts(task):
    """Some files of a table have numbers alone: of the same split, and of another."""
    for part, labels in enumerate((("01", "many"), ("01", "01"), ("01", "many"))):
        write(f"train-{part}.csv", rows_from(10 * part, count=10, labels=labels), task.dataset)
    write("test.csv", rows_from(100, count=4, labels=("01",)), task.dataset)
    data = load_data(task)
    assert (data.class_names, data.test.labels.tolist()) == (("01", "many"), [0, 0, 0, 0])
    assert data.pool.labels[8:12].tolist() == [0, 1, 0, 0]


def test_zeros_before_numbers_move_no_class_and_so_no_identity(task, monkeypatch):
    from rekd.tasks import task as of_task

    tasks = [with_labels(task, ("00", "01"), "csv", class_names=names) for names in (("00", "01"), ("01", "00"))]
    digests = [named.digest for named in tasks]
    monkeypatch.setattr(
        of_task, "is_reordered", lambda *given: False
    )  # as 0.1.0, which took names for those of 0 and 1
    assert [replace(named).digest == digest for named, digest in zip(tasks, digests, strict=True)] == [True, False]


def test_stars_from_one_to_five_are_five_classes(task):
    data = load_data(with_labels(task, (1, 2, 3, 4, 5), "csv", num_classes=5, dev_fraction=0.25))
    assert data.pool.labels[:5].tolist() == [0, 1, 2, 3, 4]
    assert data.class_names == ("1", "2", "3", "4", "5")


def save(task: Task, *splits: tuple[str, tuple[str, ...]], suffix: str = "") -> None:
    """Splits of a `ClassLabel` with these names: a `DatasetDict` on disk, or a file each."""
    import datasets

    datasets.disable_progress_bars()
    made = {}
    for place, (split, names) in enumerate(splits):
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(names))}
        )
        rows = rows_from(100 * place)
        columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
        made[split] = datasets.Dataset.from_dict(columns, features=features)
        if suffix:
            made[split].to_parquet(Path(task.dataset) / f"{split}.{suffix}")
    if not suffix:
        datasets.DatasetDict(made).save_to_disk(task.dataset)


@pytest.mark.parametrize("suffix", ["", "parquet"])
def test_class_labels_in_another_order_are_mapped_by_name(task, suffix):
    save(task, ("train", ("neg", "pos")), ("test", ("pos", "neg")), suffix=suffix)
    data = load_data(task)
    assert (data.class_names, data.pool.labels[:2].tolist(), data.test.labels[:2].tolist()) == (
        ("neg", "pos"),
        [0, 1],
        [1, 0],
    )
    turned = load_data(replace(task, class_names=("pos", "neg")))
    assert (turned.class_names, turned.pool.labels[:2].tolist()) == (("pos", "neg"), [1, 0])
    with pytest.raises(
        ValueError, match=r"classes of column 'label' of .* are neg, pos, and class_names are bad, good"
    ):
        load_data(replace(task, class_names=("bad", "good")))


def test_an_order_that_the_digest_cannot_see_is_refused(task, monkeypatch):
    """A hub's classes are not known where a sweep is planned: a row of the other numbers would pass for one of these."""
    import datasets

    from rekd.tasks import dataset_tables

    save(task, ("train", ("neg", "pos")), ("test", ("neg", "pos")))
    monkeypatch.setattr(dataset_tables, "_read_hub", lambda task: (datasets.load_from_disk(saved), []))
    saved, on_hub = task.dataset, replace(task, dataset="someone/films")
    assert load_data(replace(on_hub, class_names=("neg", "pos"))).class_names == ("neg", "pos")
    with pytest.raises(ValueError, match=r"class_names are those of someone/films in another order. .* own: neg, pos"):
        load_data(replace(on_hub, class_names=("pos", "neg")))


@pytest.mark.parametrize(
    ("labels", "suffix", "class_names", "is_moved"),
    [
        ((False, True), "csv", ("true", "false"), True),
        ((False, True), "jsonl", ("True", "False"), True),
        ((False, True), "csv", ("false", "true"), False),
        (("false", "true"), "jsonl", ("true", "false"), False),
        ((0, 1), "csv", ("1", "0"), True),
        ((0, 1), "csv", ("neg", "pos"), False),
        (("neg", "pos"), "csv", ("pos", "neg"), False),
    ],
)
def test_the_order_is_part_of_the_identity_where_it_moves_classes(
    task, monkeypatch, labels, suffix, class_names, is_moved
):
    from rekd.tasks import task as of_task

    named = with_labels(task, labels, suffix, class_names=class_names)
    digest = named.digest
    monkeypatch.setattr(of_task, "is_reordered", lambda *given: False)  # as 0.1.0
    assert (replace(named).digest != digest) is is_moved


@pytest.mark.parametrize("suffix", ["", "parquet", "images"])
def test_so_it_is_for_class_labels_and_folders(task, pictures, monkeypatch, suffix):
    from rekd.tasks import task as of_task

    own = ("neg", "pos")
    if suffix == "images":
        task = pictures
        for split in ("train", "test"):
            paint_classes(task.dataset, split, own)
    else:
        save(task, ("train", own), ("test", own), suffix=suffix)
    tasks = {names: replace(task, class_names=names) for names in (own, own[::-1])}
    digests = {names: named.digest for names, named in tasks.items()}
    assert load_data(tasks[own[::-1]]).class_names == own[::-1]
    monkeypatch.setattr(of_task, "is_reordered", lambda *given: False)  # as 0.1.0
    assert replace(tasks[own]).digest == digests[own]
    assert replace(tasks[own[::-1]]).digest != digests[own[::-1]]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (("neg", "pos"), (0, 1), "holds texts in split 'train' and numbers in split 'test'. Give one kind"),
        ((0, 1), (True, False), "holds numbers in split 'train' and truth values in split 'test'"),
        ((0, 5, 7), (0, 5), "split 'train', row 1: label 5 is outside 0 to 1"),
    ],
)
def test_labels_of_two_kinds_are_said_to_be(task, train, test, message):
    write("train.jsonl", rows_from(0, labels=train), task.dataset)
    write("test.jsonl", rows_from(100, labels=test), task.dataset)
    with pytest.raises(ValueError, match=message):
        load_data(task)


def test_digits_that_one_file_has_beside_texts_are_names_in_the_other(task):
    write("train.csv", rows_from(0, labels=("1", "many")), task.dataset)
    write("test.csv", rows_from(100, count=4, labels=("1",)), task.dataset)
    data = load_data(task)
    assert (data.class_names, data.test.labels.tolist()) == (("1", "many"), [0, 0, 0, 0])


def test_a_rare_class_may_be_absent_from_test_and_is_said_to_be(task):
    write("train.csv", rows_from(0, labels=("a", "b")), task.dataset)
    write("test.csv", rows_from(100, count=4, labels=("a",)), task.dataset)
    (remark,) = load_data(task).remarks
    assert remark.endswith("has samples of 1 of 2 classes, none of class 1 (b).")


def test_one_column_cannot_be_both(task):
    write("train.csv", rows_from(0), task.dataset)
    write("test.csv", rows_from(100), task.dataset)
    with pytest.raises(ValueError, match=r"input_column and label_column are both 'text'. Name two"):
        load_data(replace(task, label_column="text"))


# ---- the hub


def test_a_split_of_the_hub_that_is_not_read_is_named(task, monkeypatch):
    import datasets

    from rekd.tasks import dataset_tables

    save(task, ("train", ("neg", "pos")), ("test", ("neg", "pos")), ("validation", ("neg", "pos")))
    saved = datasets.load_from_disk(task.dataset)
    monkeypatch.setattr(dataset_tables, "hub", lambda *given, **named: nullcontext("someone/films"))
    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **named: saved)
    on_hub = replace(task, dataset="someone/films")
    assert load_data(on_hub).remarks == ("imdb: 1 of what someone/films holds is not read: split 'validation'.",)


# ---- samples in two splits


def test_samples_that_stand_in_two_splits_are_counted_by_content(task):
    write("train.csv", rows_from(0), task.dataset)
    write(
        "test.csv", [*rows_from(17, count=5), (film(3), 0)], task.dataset
    )  # 17, 18, 19 and 3; once with another label
    data = load_data(replace(task, dev_fraction=0.2))
    trial = task.trial("re", "bert-mini", seed=1)
    counts = data.in_train("fixed", 1)
    _, dev = data.train_dev("fixed", 1)
    assert counts == {"dev": 0, "test": 4 - len({3, 17, 18, 19} & set(dev.tolist()))}
    remarks = remarks_on(data, task, trial)
    assert (
        f"{task.name}: {counts['test']} of the 6 samples of test stand in train too, with the same content." in remarks
    )


def test_dev_is_counted_as_the_trial_divides(task):
    write("train.csv", rows_from(0), task.dataset)
    write("test.csv", rows_from(100, count=6), task.dataset)
    write("dev.csv", [*rows_from(200, count=4), *rows_from(0, count=2)], task.dataset)
    data = load_data(replace(task, dev_split="dev"))
    assert data.in_train("fixed", 1) == {"dev": 2, "test": 0}
    assert data.in_train("by_seed", 1)["dev"] <= 2


# ---- what was refused and is right


def test_a_text_may_hold_what_unicode_calls_a_line_separator(task):
    lines = [
        json.dumps({"text": f"{text}\u2028 good\u0085", "label": label}, ensure_ascii=False)
        for text, label in rows_from(0)
    ]
    for name in ("train", "test"):
        (Path(task.dataset) / f"{name}.jsonl").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    assert len(load_data(task).pool) == 20


def test_a_row_of_a_csv_may_be_longer_than_a_megabyte(task):
    rows = [*rows_from(0), ("good " * 500_000, 1)]
    write("train.csv", rows, task.dataset)
    write("test.csv", rows_from(100), task.dataset)
    assert len(load_data(task).pool) == 21


def test_a_key_may_be_absent_from_the_first_object(task):
    rows = [{"text": text, "label": label, "why": [[0, 4]]} for text, label in rows_from(0)]
    del rows[0]["why"]
    for name in ("train", "test"):
        Path(task.dataset, f"{name}.json").write_text(json.dumps(rows))
    truth = load_data(replace(task, rationale_column="why")).test.truth
    assert truth is not None
    assert truth.known.tolist() == [False] + [True] * 19


@pytest.mark.parametrize("kind", ["numpy", "torch", "pandas"])
def test_a_dataset_that_was_saved_in_another_format_is_the_same(task, kind):
    import datasets

    save(task, ("train", ("neg", "pos")), ("test", ("neg", "pos")))
    plain = load_data(task)
    formatted = datasets.load_from_disk(task.dataset).with_format(kind)
    formatted.save_to_disk(f"{task.dataset}-{kind}")
    assert load_data(replace(task, dataset=f"{task.dataset}-{kind}")).fingerprint == plain.fingerprint


def test_a_selection_that_datasets_no_longer_reads_is_refused(task):
    save(task, ("train", ("neg", "pos")), ("test", ("neg", "pos")))
    state = Path(task.dataset) / "train/state.json"
    state.write_text(
        json.dumps({**json.loads(state.read_text()), "_indices_data_files": [{"filename": "indices.arrow"}]})
    )
    with pytest.raises(ValueError, match=r"train is a selection of its rows .* Call flatten_indices"):
        load_data(task)


def test_shards_may_differ_in_how_wide_their_types_are(task):
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = ((pa.string(), pa.int64()), (pa.large_string(), pa.int32()))
    for part, (text, label) in enumerate(types):
        rows = rows_from(10 * part, count=10)
        columns = {"text": pa.array([row[0] for row in rows], text), "label": pa.array([row[1] for row in rows], label)}
        pq.write_table(pa.table(columns), Path(task.dataset) / f"train-{part}.parquet")
    write("test.parquet", rows_from(100), task.dataset)
    assert len(load_data(task).pool) == 20


def test_paths_of_images_in_a_table_are_called_paths(pictures):
    for name in ("train", "test"):
        rows = [{"img": f"images/{number}.PNG", "label": number % 2} for number in range(10)]
        (Path(pictures.dataset) / f"{name}.json").write_text(json.dumps(rows))
    with pytest.raises(
        ValueError, match=r"holds 'images/0.PNG', the path of an image: what a table names is not opened"
    ):
        load_data(pictures)


@pytest.mark.parametrize("error", [KeyError("x"), ImportError("a\nb"), RecursionError("deep"), AttributeError("y")])
def test_whatever_a_library_raises_is_one_line_with_what_was_being_read(task, monkeypatch, error):
    from rekd.tasks import dataset_tables

    def fails(*given, **named):
        raise error

    write("train.csv", rows_from(0), task.dataset)
    write("test.csv", rows_from(100), task.dataset)
    for place in (dataset_tables, "_undecoded"), (dataset_tables, "read_table"):
        with monkeypatch.context() as patched:
            patched.setattr(*place, fails)
            with pytest.raises(ValueError, match=f"{task.dataset}.* cannot be read: ") as caught:
                load_data(task)
        assert "\n" not in str(caught.value)


# ---- one reader of images


def test_a_photograph_is_turned_as_its_camera_noted(pictures, tmp_path):
    image = Image.new("RGB", (4, 6), (200, 0, 0))
    image.paste((0, 0, 200), (0, 0, 4, 3))  # blue above, red below
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    content = BytesIO()
    image.save(content, format="PNG", exif=exif)
    expected = np.asarray(image.transpose(Image.Transpose.ROTATE_270)).transpose(2, 0, 1)
    assert np.array_equal(pixels_of(opened(content), mode="RGB"), expected)
    for split in ("train", "test"):
        for number in range(10):
            file = Path(pictures.dataset) / split / f"class {number % 2}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.getvalue())
    assert np.array_equal(load_data(pictures).pool.arrays["image"][0], expected)


@pytest.mark.parametrize(
    ("dtype", "suffix", "mode"), [(np.uint16, "png", "I;16"), (np.float32, "tiff", "F"), (np.int32, "tiff", "I")]
)
def test_more_than_eight_bits_are_refused(tmp_path, dtype, suffix, mode):
    file = tmp_path / f"deep.{suffix}"
    Image.fromarray(np.full((4, 4), 200, dtype=dtype)).save(file)
    with pytest.raises(ValueError, match=f"the image is of mode '{mode}', more than 8 bits a pixel"):
        pixels_of(opened(file), mode="RGB")


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    content = BytesIO()
    image.save(content, format=kind, **options)
    return content.getvalue()


def deep_png(colours: int) -> bytes:
    """A PNG of one pixel with 16 bits a colour, which Pillow reads and does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(name + content)
        return len(content).to_bytes(4, "big") + name + content + crc.to_bytes(4, "big")

    header = (1).to_bytes(4, "big") * 2 + bytes((16, {2: 4, 3: 2, 4: 6}[colours], 0, 0, 0))
    pixels = zlib.compress(b"\0" + b"\xff\xff" * colours)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


RED = Image.new("RGB", (1, 1), (250, 0, 0))
IN_FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (1, 1), (0, 250, 0))]}


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (encoded(RED, "GIF", **IN_FRAMES), "have several frames or pages, of which the first is read"),
        (encoded(RED, "TIFF", **IN_FRAMES), "have several frames or pages, of which the first is read"),
        (encoded(RED, "WEBP", **IN_FRAMES), "have several frames or pages, of which the first is read"),
        (encoded(RED, "MPO", **IN_FRAMES), None),
        (deep_png(3), "have 16 bits a colour, of which the upper 8 are read"),
        (deep_png(2), "have 16 bits a colour, of which the upper 8 are read"),
        (encoded(Image.new("RGBA", (1, 1), (250, 0, 0, 9)), "PNG"), "are transparent in places, and are read in the"),
        (encoded(Image.new("L", (1, 1)), "PNG", transparency=0), "are transparent in places, and are read in the"),
        (encoded(Image.new("RGBA", (1, 1), (250, 0, 0, 255)), "PNG"), None),
        (encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), None),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value and value[:20],
)
def test_what_of_an_image_is_not_read_is_said(pictures, content, remark):
    for split in ("train", "test"):
        for number in range(10):
            file = Path(pictures.dataset) / split / f"class {number % 2}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    remarks = load_data(pictures).remarks
    if remark is None:
        assert remarks == ()
    else:
        assert remarks[0].startswith(f"cifar10: 20 images of {pictures.dataset} {remark}")


@pytest.mark.parametrize(("brightest", "is_said"), [(16, True), (200, False)])
def test_numbers_that_are_hardly_pixels_of_8_bits_are_mentioned(pictures, brightest, is_said):
    rows = [{"img": [[0, brightest], [1, 0]], "label": number % 2} for number in range(10)]
    for name in ("train", "test"):
        Path(pictures.dataset, f"{name}.json").write_text(json.dumps(rows))
    remarks = load_data(pictures).remarks
    said = f"cifar10: no pixel of {pictures.dataset} is above 16 of 255. Scale them to 0..255, if they end there."
    assert remarks == ((said,) if is_said else ())
