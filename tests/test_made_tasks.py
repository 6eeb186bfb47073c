"""The embedded tasks that are made here: the same bits everywhere, no handwriting in two splits, and a truth that is one."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rekd.tasks import embedded, hidden_digits, marked_digits, planted_reviews
from rekd.tasks.data import load_data
from rekd.tasks.draws import Draws
from rekd.tasks.task import load_task
from rekd.tasks.task_file import TASK_FILES

MAKES = """
from rekd.tasks import embedded, hidden_digits, planted_reviews
print(embedded.checksum_of_canvases(hidden_digits.make()), embedded.checksum_of_reviews(planted_reviews.make()))
"""


@pytest.fixture(scope="module")
def canvases():
    return hidden_digits.make()


def test_made_data_is_the_same_to_the_bit_also_with_the_instructions_of_another_processor(canvases):
    features = "SSE42 POPCNT AVX F16C FMA3 AVX2 AVX512F AVX512CD AVX512_SKX"
    plain = {**os.environ, "NPY_DISABLE_CPU_FEATURES": features, "ATEN_CPU_CAPABILITY": "default"}
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MAKES], env=plain, capture_output=True, text=True, check=True
    )
    assert made.stdout.split() == [hidden_digits.CHECKSUM, planted_reviews.CHECKSUM]
    assert embedded.checksum_of_canvases(canvases) == hidden_digits.CHECKSUM
    assert embedded.checksum_of_reviews(planted_reviews.make()) == planted_reviews.CHECKSUM


def test_what_is_made_is_part_of_the_digest_and_what_was_there_before_keeps_its_own(monkeypatch):
    before = load_task("hidden-digits").digest
    monkeypatch.setattr(hidden_digits, "CHECKSUM", "another")
    assert load_task("hidden-digits").digest != before
    assert embedded.identity("digits", None) == {"embedded": "digits"}


def test_three_cells_of_a_canvas_hold_handwriting_of_its_class_that_no_other_split_has(canvases):
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    written = {row.tobytes(): label for row, label in zip((values * 255 + 8).astype(int) // 16, labels, strict=True)}
    seen = {}
    for name, split in canvases.items():
        cells = split.images.reshape(-1, 6, 8, 6, 8).transpose(0, 1, 3, 2, 4).reshape(len(split.labels), 36, 64)
        assert (split.truth.sum(axis=1) == 3).all()
        digits = cells[split.truth].astype(int)
        assert [written[digit.tobytes()] for digit in digits] == np.repeat(split.labels, 3).tolist()
        seen[name] = {digit.tobytes() for digit in digits}
        assert not any(cell.tobytes() in written for cell in cells[~split.truth][:2000].astype(int))
        assert np.ptp(split.truth.mean(axis=0)) < 0.05  # every place alike
    assert len(set().union(*seen.values())) == sum(map(len, seen.values()))


def test_a_mark_goes_with_the_label_in_train_and_dev_and_with_nothing_in_test(canvases):
    """The handwriting and its truth stay; one cell of clutter becomes the mark of a class, on ten marks all different."""
    marked = marked_digits.make_marked(90)
    agree = {name: float((split.named == split.labels).mean()) for name, split in marked.items()}
    assert agree == pytest.approx({"train": 0.9, "dev": 0.9, "test": 0.1}, abs=0.02)
    marks: dict[int, set[bytes]] = {}
    for name, split in marked.items():
        before = canvases[name]
        assert np.array_equal(split.labels, before.labels)
        assert np.array_equal(split.truth, before.truth)
        cells, old = (one.images.reshape(-1, 6, 8, 6, 8).transpose(0, 1, 3, 2, 4).reshape(-1, 36, 64)
                      for one in (split, before))  # fmt: skip
        canvas = np.arange(len(split.labels))
        assert not split.truth[canvas, split.place].any()
        changed = (cells != old).any(axis=2)
        assert changed[canvas, split.place].all()
        assert changed.sum() == len(canvas)
        for number, cell in zip(split.named, cells[canvas, split.place], strict=True):
            marks.setdefault(int(number), set()).add(cell.tobytes())
    assert all(len(alike) == 1 for alike in marks.values())
    assert len(set().union(*marks.values())) == 10
    assert np.array_equal(load_data(load_task("hidden-digits-shortcut")).test.arrays["image"], marked["test"].images)


def test_how_strong_a_shortcut_is_stands_in_the_digest_and_another_word_is_refused(tmp_path):
    names = [["config_name = 'shortcut-90'"], ["config_name = 'shortcut-80'"], []]
    digests = [load_task(write(tmp_path, top=["dataset = 'hidden-digits'", *name])).digest for name in names]
    assert len(set(digests)) == 3
    assert digests[0] == load_task("hidden-digits-shortcut").digest
    assert digests[2] == load_task("hidden-digits").digest
    for wrong in ("shortcut", "shortcut-101", "marks-90"):
        with pytest.raises(ValueError, match=r"mine\.toml: config_name is left out .* or 'shortcut-90'.*, got"):
            load_task(write(tmp_path, top=[f"config_name = '{wrong}'"]))


def test_three_words_of_a_review_say_its_label_and_no_other_word_says_either():
    deciding = set(planted_reviews.DECIDING[0]) | set(planted_reviews.DECIDING[1])
    for row in planted_reviews.make()["test"]:
        spans: Any = row["rationale"]
        words = [row["text"][start:end] for start, end in spans]
        label = planted_reviews.LABELS.index(row["label"])
        assert len(words) == 3
        assert set(words) <= set(planted_reviews.DECIDING[label])
        assert sum(word in deciding for word in row["text"].split()) == 3


def test_the_tokenizer_of_the_reviews_knows_their_words_and_no_others():
    words = (TASK_FILES / "planted-reviews" / "vocab.txt").read_text().split()
    assert words == planted_reviews.vocabulary()
    assert {model.config["vocab_size"] for model in load_task("planted-reviews").models.values()} == {len(words)}
    data = load_data(load_task("planted-reviews"))
    assert not (data.test.arrays["input_ids"] == words.index("[UNK]")).any()
    assert data.class_names == planted_reviews.LABELS


def test_draws_are_even_and_orders_are_permutations():
    counts = np.bincount(Draws("a").below(7, 70_000), minlength=7)
    assert (abs(counts - 10_000) < 500).all()
    orders = Draws("a").orders(100, 5)
    assert (np.sort(orders) == np.arange(5)).all()
    assert len(np.unique(orders, axis=0)) > 50
    assert not np.array_equal(Draws("a").below(10, 20), Draws("b").below(10, 20))


def write(folder: Path, **lines) -> Path:
    file = folder / "mine.toml"
    text = ['extends = "hidden-digits"', *lines.get("top", ()), "[defaults]", *lines.get("defaults", ())]
    file.write_text("\n".join(text))
    return file


def test_a_share_may_be_written_as_so_many_features(tmp_path):
    task = load_task("hidden-digits")
    assert task.trial("re", "vit-student", seed=1).p_target == 3 / 36
    same = load_task(write(tmp_path, defaults=["p_target = 0.08333333333333333"]))
    assert same.trial("re", "vit-student", seed=1).p_target == task.trial("re", "vit-student", seed=1).p_target
    for wrong in ("3/0", "three", "3/", "-3/36"):
        with pytest.raises(ValueError, match=r"mine\.toml: defaults\.p_target is a fraction in .*'3/36', got"):
            load_task(write(tmp_path, defaults=[f'p_target = "{wrong}"']))
    with pytest.raises(ValueError, match="p_target is a fraction of features"):
        load_task(write(tmp_path, defaults=['p_target = "40/36"']))


def test_an_embedded_dataset_says_what_a_task_file_of_it_needs(tmp_path):
    with pytest.raises(ValueError, match=r"image_mode is 'L' for the dataset 'hidden-digits', got 'RGB'"):
        load_task(write(tmp_path, top=['image_mode = "RGB"']))
