"""Tasks: what they are called, the trials they make, and the arrays that they stand for."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import stand_ins
from sklearn.datasets import load_digits

from rekd.data import Data, load_data
from rekd.tasks import Task, load_task, task_names
from rekd.texts import load_tokenizer

MINIMAL = """
kind = "image"
dataset = "data"
input_column = "img"
num_classes = 10
teacher = "big"
students = ["small"]
[defaults]
p_target = 0.2
lambda_select = 0.1
[models.big.config]
model_type = "vit"
[models.small.config]
model_type = "vit"
"""


@pytest.fixture(scope="module")
def image_task(tmp_path_factory) -> Path:
    return stand_ins.save_image_task(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def text_task(tmp_path_factory) -> Path:
    return stand_ins.save_text_task(tmp_path_factory.mktemp("text"))


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(text)
    return file


def same_arrays(left: Data, right: Data) -> bool:
    return left.fingerprint == right.fingerprint


# --- Planning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "model", "p_target", "rekd_p_target", "lambda_select", "weight_decay", "dropout"),
    [
        ("cifar10", "vit-base", 0.15, 0.15, 5e-3, 1e-3, 0.1),
        ("cifar10", "vit-small", 0.15, 0.15, 1e-2, 1e-3, 0.1),
        ("cifar10", "vit-tiny", 0.15, 0.15, 5e-2, 1e-3, 0.1),
        ("cifar100", "vit-tiny", 0.15, 0.15, 5e-2, 1e-3, 0.1),
        ("imdb", "bert-base", 0.10, 0.10, 5e-5, 0.0, 0.5),
        ("imdb", "bert-small", 0.095, 0.10, 1e-4, 0.0, 0.5),
        ("imdb", "bert-mini", 0.10, 0.10, 1e-4, 0.0, 0.5),
    ],
)
def test_the_papers_settings(task, model, p_target, rekd_p_target, lambda_select, weight_decay, dropout):
    task = load_task(task)
    re = task.trial("re", model, seed=2026)
    rekd = task.trial("rekd", model, seed=2026, teacher_digest="t")
    cls = task.trial("cls", model, seed=2026)
    assert (re.p_target, rekd.p_target, cls.p_target) == (p_target, rekd_p_target, None)
    assert re.lambda_select == rekd.lambda_select == lambda_select
    assert (re.epochs, rekd.epochs, cls.epochs) == (35, 35, 20)
    assert (rekd.alpha, rekd.lambda_rationale, re.alpha) == (0.3, 0.5, None)
    assert (re.temperature_initial, re.temperature_final, re.temperature_every) == (5.0, 0.1, 100)
    for trial in (re, rekd, cls):
        assert (trial.learning_rate, trial.batch_size) == (1e-5, 32)
        assert (trial.weight_decay, trial.dropout) == (weight_decay, dropout)


def test_the_papers_sources():
    sources = {model.source for name in ("cifar10", "cifar100", "imdb") for model in load_task(name).models.values()}
    assert sources == {
        "bert-base-uncased",
        "prajjwal1/bert-small",
        "prajjwal1/bert-mini",
        "google/vit-base-patch16-224",
        "WinKawaks/vit-small-patch16-224",
        "WinKawaks/vit-tiny-patch16-224",
    }
    cifar100, imdb = load_task("cifar100"), load_task("imdb")
    assert (cifar100.dataset, cifar100.label_column, cifar100.num_classes) == ("uoft-cs/cifar100", "coarse_label", 20)
    assert (imdb.dataset, imdb.max_length, imdb.tokenizer_source) == (
        "stanfordnlp/imdb",
        256,
        ("bert-base-uncased", None),
    )


def test_every_embedded_task_makes_trials_and_other_names_are_listed():
    assert task_names() == ["cifar10", "cifar100", "digits", "imdb"]
    for name in task_names():
        task = load_task(name)
        assert task.name == name
        for model in (task.teacher, *task.students):
            assert task.trial("re", model, seed=1).task_digest == task.digest
    with pytest.raises(ValueError, match=r"no task 'mnist'.*cifar10, cifar100, digits, imdb.*\.toml"):
        load_task("mnist")


def test_planning_imports_neither_models_nor_datasets():
    code = "import sys; from rekd.tasks import load_task; load_task('imdb').trial('re', 'bert-base', seed=1); "
    code += "print(*{'torch', 'transformers', 'datasets', 'sklearn', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_an_override_wins_and_an_unknown_one_is_refused():
    task = load_task("digits")
    trial = task.trial("re", "vit-student", seed=3, p_target=0.3, epochs=2)
    assert (trial.seed, trial.p_target, trial.epochs) == (3, 0.3, 2)
    assert trial == replace(task.trial("re", "vit-student", seed=3), p_target=0.3, epochs=2)
    with pytest.raises(ValueError, match=r"override is one of epochs.*got 'lambda_sel'"):
        task.trial("re", "vit-student", seed=3, lambda_sel=0.3)
    with pytest.raises(ValueError, match=r"model is one of vit-teacher, vit-student, got 'vit-tiny'"):
        task.trial("re", "vit-tiny", seed=3)
    with pytest.raises(ValueError, match=r"fidelity is one of paper, authors, got 'exact'"):
        task.trial("re", "vit-student", seed=3, fidelity="exact")
    with pytest.raises(ValueError, match="alpha is not used by objective 're'"):
        task.trial("re", "vit-student", seed=3, alpha=0.3)
    with pytest.raises(ValueError, match="teacher_digest is needed by objective 'rekd'"):
        task.trial("rekd", "vit-student", seed=3)


def test_a_preset_settles_the_open_points_and_an_override_unsettles_one():
    task = load_task("digits")
    assert task.trial("re", "vit-student", seed=1).fidelity == "paper"
    assert task.trial("re", "vit-student", seed=1, fidelity="authors").fidelity == "authors"
    assert task.trial("re", "vit-student", seed=1, fidelity="authors", split="fixed").fidelity == "mixed"


def test_defaults_the_more_special_one_wins(tmp_path):
    (tmp_path / "data").mkdir()
    more = """
    [models.big.defaults]
    epochs = 4
    learning_rate = 1e-2
    re.learning_rate = 1e-3
    """
    task = load_task(write(tmp_path, MINIMAL.replace("p_target = 0.2", "p_target = 0.2\ncls.epochs = 7") + more))
    epochs = {(o, m): task.defaults_of(o, m)["epochs"] for o in ("cls", "re") for m in ("big", "small")}
    assert epochs == {("re", "small"): 35, ("re", "big"): 4, ("cls", "small"): 7, ("cls", "big"): 7}
    assert task.defaults_of("re", "big")["learning_rate"] == 1e-3
    assert task.defaults_of("cls", "big")["learning_rate"] == 1e-2
    assert "p_target" not in task.defaults_of("cls", "big")


def test_an_extending_file_keeps_what_it_does_not_name(image_task, tmp_path):
    data = image_task.parent / "data"
    task = load_task(write(tmp_path, f'extends = "cifar10"\ndataset = "{data}"\n[defaults]\nepochs = 3'))
    paper = load_task("cifar10")
    assert (task.name, task.num_classes, task.models) == ("cifar10", 10, paper.models)
    assert task.dataset == str(data)
    # A number for all objectives replaces also the paper's for cls.
    assert {task.defaults_of(o, "vit-tiny")["epochs"] for o in ("cls", "re", "rekd")} == {3}
    assert task.defaults_of("re", "vit-tiny")["lambda_select"] == 5e-2
    assert task.digest != paper.digest

    again = load_task(
        write(tmp_path, 'extends = "mine.toml"\nname = "other"\n[models.vit-tiny]\nsource = "a/b"', "2.toml")
    )
    assert (again.name, again.dataset, again.models["vit-tiny"].source) == ("other", str(data), "a/b")
    assert again.models["vit-tiny"].defaults == paper.models["vit-tiny"].defaults
    assert again.digest == task.digest  # names and models are not data


def test_the_digest_follows_content_and_not_the_place(image_task, tmp_path):
    original = load_task(image_task)
    moved = Path(shutil.copytree(image_task.parent, tmp_path / "elsewhere"))
    copy = load_task(moved / image_task.name)
    assert copy.digest == original.digest
    assert [model.digest for model in copy.models.values()] == [model.digest for model in original.models.values()]
    assert len({model.digest for model in original.models.values()}) == 3

    stand_ins.save_cifar(moved / "data", num_train=190)
    stand_ins.save_vit(moved / "vit-tiny", hidden_size=8, seed=77)
    changed = load_task(moved / image_task.name)
    assert changed.digest != original.digest
    assert changed.models["vit-tiny"].digest != original.models["vit-tiny"].digest
    assert changed.models["vit-base"].digest == original.models["vit-base"].digest


def test_the_digest_is_of_data_and_not_of_training(tmp_path):
    imdb = load_task("imdb")
    assert replace(imdb, name="x", defaults={}, students=()).digest == imdb.digest
    for change in (
        {"dataset": "other/imdb"},
        {"revision": "abc"},
        {"input_column": "review"},
        {"train_split": "all"},
        {"dev_fraction": 0.1},
        {"max_length": 128},
        {"tokenizer": "roberta-base"},
    ):
        assert replace(imdb, **change).digest != imdb.digest
    model = imdb.models["bert-base"]
    assert replace(model, defaults={}, name="x").digest == model.digest
    assert replace(model, revision="abc").digest != model.digest
    assert replace(model, source=None, config={"model_type": "bert"}).digest != model.digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "image"', "", "kind is missing"),
        ('kind = "image"', 'kind = "audio"', "kind is one of image, text, got 'audio'"),
        ('kind = "image"', 'kind = "text"', "max_length is the number of tokens a text"),
        ('kind = "image"', 'kind = "text"\nmax_length = 9', "tokenizer is missing"),
        ('kind = "image"', "kind = ", "not valid TOML"),
        ("num_classes = 10", "num_classes = 1", "num_classes is 2 or more, got 1"),
        ("num_classes = 10", "num_classes = true", "num_classes is a whole number, got True"),
        ("num_classes = 10", "num_clases = 10", "num_clases is not a key.*Did you mean num_classes"),
        ("num_classes = 10", 'num_classes = 10\nclass_names = ["a", "b"]', "class_names is 10 different names"),
        ("num_classes = 10", "num_classes = 10\ndev_fraction = 20", r"dev_fraction is a share in \(0, 1\), got 20"),
        ("num_classes = 10", 'num_classes = 10\nname = "a/b"', "name is made of letters"),
        ("num_classes = 10", 'num_classes = 10\nextends = "cifar"', "extends is one of cifar10"),
        ("num_classes = 10", 'num_classes = 10\nextends = "mine.toml"', "extends comes back to this file"),
        ('dataset = "data"', 'dataset = "../data"', "leaves the folder of the task file"),
        ('dataset = "data"', 'dataset = "data/../../x"', "leaves the folder of the task file"),
        ('dataset = "data"', 'dataset = "/no/such/folder"', r"/no/such/folder does not exist"),
        ('dataset = "data"', 'dataset = "./imdb"', "does not exist"),
        ('dataset = "data"', 'dataset = "train.csv"', "does not exist"),
        ('dataset = "data"', 'dataset = "a/b/c"', "nor a name on the Hugging Face Hub"),
        ('dataset = "data"', 'dataset = "digits"', "image_mode is 'L' for the dataset 'digits'"),
        ('teacher = "big"', 'teacher = "huge"', "teacher is one of big, small, got 'huge'"),
        ('students = ["small"]', 'students = ["tiny"]', "students is one of big, small, got 'tiny'"),
        ('students = ["small"]', "students = [1]", "students is a list of texts"),
        ("p_target = 0.2", "p_target = 15", "p_target is a fraction.*For 15 % write 0.15"),
        ("p_target = 0.2", "p_taget = 0.2", "defaults.p_taget is not a default.*Did you mean p_target"),
        ("p_target = 0.2", "seed = 1", "defaults.seed is not a default"),
        ("p_target = 0.2", 'split = "fixed"', "defaults.split is not a default"),
        ("p_target = 0.2", "re = 1", "defaults.re is a table, got 1"),
        ("p_target = 0.2", "re.alpha = 0.1", "defaults.re.alpha is not a default of these trials. Valid: epochs"),
        ("p_target = 0.2", "rekd.alpha = 1.5", r"defaults of big for rekd: alpha is a share in \[0, 1\], got 1.5"),
        ("p_target = 0.2", 'epochs = "3"', "defaults.epochs is a whole number, got '3'"),
        ("[models.small.config]", "[models.small]", "models.small.model_type is not a key"),
        (
            "[models.small.config]\nmodel_type",
            "[models.small]\n[models.small.config]\nhidden_size",
            "has no model_type",
        ),
        ("[models.small.config]\nmodel_type", "[models.small]\nrevision", "neither of source and config"),
        ("[models.small.config]", '[models.small]\nsource = "a/b"\n[models.small.config]', "both of source and config"),
        ("[models.small.config]\nmodel_type", "[models.small]\nsource = './x' #", "does not exist"),
        ("[models.small.config]\nmodel_type", "[models.small]\nsource = 'data' #", "is not a folder with config.json"),
    ],
)
def test_a_wrong_task_file_is_refused_in_one_line(tmp_path, old, new, message):
    (tmp_path / "data").mkdir()
    load_task(write(tmp_path, MINIMAL))
    assert old in MINIMAL
    with pytest.raises(ValueError, match=message) as caught:
        load_task(write(tmp_path, MINIMAL.replace(old, new)))
    assert str(tmp_path / "mine.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_file_that_is_not_there():
    with pytest.raises(ValueError, match=r"The task file /no/mine.toml cannot be read"):
        load_task("/no/mine.toml")


# --- Data -----------------------------------------------------------------------------------------------------------


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
    task = load_task(write(tmp_path, 'extends = "cifar100"\ndataset = "data"'))
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


def rows_of(task: Task, split: str) -> list[dict]:
    import datasets

    return list(datasets.load_from_disk(task.dataset)[split])


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
        (labelled(0, 1) * 5, labelled(0, 0), r"split 'test' .* has samples of 1 of 2 classes, none of class 1\."),
        (labelled(1, 1) * 5, labelled(0, 1), r"split 'train' .* has samples of 1 of 2 classes, none of class 0\."),
        (labelled("x", "y") * 5, labelled("x"), r"split 'test' .*, none of class 1 \(y\)\."),
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


# --- The hub --------------------------------------------------------------------------------------------------------


@pytest.fixture
def loopback_hub(tmp_path, monkeypatch):
    """A hub on this machine with one dataset, `uoft-cs/cifar10`, once `cifar10`; set `status` to make it fail."""
    import datasets
    from huggingface_hub import constants

    split = datasets.load_from_disk(str(stand_ins.save_cifar(tmp_path / "saved")))
    files = {}
    for name in ("train", "test"):
        split[name].to_parquet(tmp_path / f"{name}.parquet")
        files[f"plain_text/{name}-00000-of-00001.parquet"] = (tmp_path / f"{name}.parquet").read_bytes()

    class Hub(BaseHTTPRequestHandler):
        status = 200
        paths: list[str] = []

        def answer(self):
            path = self.path.split("?")[0]
            Hub.paths.append(path)
            content, headers = b"", {"X-Repo-Commit": "a" * 40}
            name = path.partition("/resolve/" + "a" * 40 + "/")[2]
            status = Hub.status
            if status == 200 and path.startswith("/api/datasets/uoft-cs/cifar10/tree/"):
                folder = path.partition("a" * 40)[2].strip("/").replace("%2F", "/")
                entries = [{"type": "file", "path": p, "size": len(c), "oid": "b" * 40} for p, c in files.items()]
                if not folder:
                    entries.append({"type": "directory", "path": "plain_text", "oid": "c" * 40})
                content = json.dumps(entries).encode()
            elif status == 200 and path.startswith(("/api/datasets/cifar10", "/api/datasets/uoft-cs/cifar10")):
                siblings = [{"rfilename": file} for file in files]
                content = json.dumps({"id": "uoft-cs/cifar10", "sha": "a" * 40, "siblings": siblings}).encode()
            elif status == 200 and name in files:
                content = files[name]
                headers["ETag"] = f'"{len(content)}"'
            elif status == 200:
                status = 404
                headers["X-Error-Code"] = "EntryNotFound" if "cifar10" in path else "RepoNotFound"
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = answer  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
    monkeypatch.setattr(datasets.config, "HUB_DATASETS_URL", address + "/datasets/{repo_id}/resolve/{revision}/{path}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    yield Hub
    server.shutdown()
    server.server_close()


def test_a_dataset_of_the_hub_is_downloaded_once_and_read_without_it(loopback_hub, image_task, capfd):
    task = load_task("cifar10")
    data = load_data(task)
    assert same_arrays(data, load_data(load_task(image_task)))
    assert same_arrays(data, load_data(replace(task, dataset="cifar10")))
    loopback_hub.status = 503
    assert same_arrays(data, load_data(task))
    assert capfd.readouterr() == ("", "")


def test_without_the_hub_one_quick_line_says_what_to_do(loopback_hub, text_task, capfd):
    loopback_hub.status = 503
    start = time.monotonic()
    with pytest.raises(
        ValueError,
        match=r"Looked for the dataset 'uoft-cs/cifar100' on .*cannot be reached.*extends = 'cifar100' and dataset =",
    ):
        load_data(load_task("cifar100"))
    with pytest.raises(ValueError, match=r"Looked for the model 'nobody/bert' .*cannot be reached.*and tokenizer ="):
        load_data(replace(load_task(text_task), tokenizer="nobody/bert"))
    assert time.monotonic() - start < 5
    assert capfd.readouterr() == ("", "")


def test_a_name_that_the_hub_does_not_know(loopback_hub):
    with pytest.raises(ValueError, match=r"Looked for the dataset 'nobody/nothing' on .*: it is not there"):
        load_data(replace(load_task("cifar10"), dataset="nobody/nothing"))
