"""The truth of a rationale: read from a column in any of its forms, and how a mask agrees with it."""

import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, precision_score, recall_score

from rekd.tasks.data import load_data
from rekd.tasks.task import load_task
from rekd.tasks.truth import Truth, agreement, auprc, marks_of

RNG = np.random.default_rng(0)
MASK, TRUTH = RNG.random((50, 12)) < 0.3, RNG.random((50, 12)) < 0.4
TRUTH[:, 0] |= ~TRUTH.any(axis=1)


def test_agreement_is_that_of_scikit_learn_averaged_over_samples():
    expected = {"precision": precision_score, "recall": recall_score, "f1": f1_score, "iou": jaccard_score}
    got = agreement(MASK, TRUTH)
    for name, score in expected.items():
        each = [score(*pair, zero_division=0) for pair in zip(TRUTH, MASK, strict=True)]
        assert got[name] == pytest.approx(np.mean(each))
    scores = RNG.integers(0, 5, (50, 12)).astype(float)  # with ties
    each = [average_precision_score(*pair) for pair in zip(TRUTH, scores, strict=True)]
    assert auprc(scores, TRUTH) == pytest.approx(np.mean(each))


def test_the_truth_itself_agrees_wholly_and_nothing_not_at_all():
    assert set(agreement(TRUTH, TRUTH).values()) == {1.0} != set(agreement(~TRUTH, TRUTH).values())
    assert set(agreement(np.zeros_like(TRUTH), TRUTH).values()) == {0.0}
    without = np.zeros_like(TRUTH)
    assert np.isnan([*agreement(MASK, without).values(), auprc(MASK.astype(float), without)]).all()


def test_a_patch_is_marked_where_any_of_its_pixels_is_whatever_the_sizes():
    pixels = np.zeros((1, 4, 6), dtype=bool)
    pixels[0, 3, 2] = True
    truth = Truth(pixels, np.ones(1, dtype=bool))
    assert truth.of_features(4, (2, 2)).tolist() == [[False, False, True, False]]
    assert truth.of_features(6, (2, 3)).tolist() == [[False, False, False, False, True, False]]
    assert truth.of_features(96, (8, 12))[0].sum() == 4  # patches finer than pixels
    with pytest.raises(ValueError, match="marks 12 features, the model has 16"):
        Truth(TRUTH, np.ones(50, dtype=bool)).of_features(16, (4, 4))


@pytest.mark.parametrize(
    ("mode", "marked"),
    [("1", 1), ("L", 1), ("I;16", 1), ("I", 1), ("F", 0.5), ("P", 1), ("RGB", (0, 0, 1)), ("RGBA", (0, 1, 0, 255))],
)
def test_every_pixel_of_a_mask_that_is_not_black_is_marked(mode, marked):
    image = Image.new(mode, (2, 1))
    if mode == "P":
        image.putpalette([0, 0, 0, 0, 0, 1])
    image.putpixel((1, 0), marked)
    content = io.BytesIO()
    image.save(content, format="TIFF")
    values = [{"bytes": content.getvalue(), "path": None}]
    truth = marks_of(load_task("digits"), values, None, (1, 2), None, where="here", column="why")
    assert truth.marks.tolist() == [[[False, True]]]


@pytest.mark.parametrize("form", ["pixels", "features", "file"])
def test_images_have_masks_of_pixels_or_features_in_any_split(form, tmp_path):
    marks = np.zeros((20, 4, 4), dtype=np.uint8)
    marks[:, 1, 2] = 1
    forms = {"pixels": marks.tolist(), "features": marks.reshape(20, 16).tolist()}
    forms["file"] = [Image.fromarray(mask * 255).resize((8, 8), Image.Resampling.NEAREST) for mask in marks]
    columns = {"image": [np.full((4, 4), 7, np.uint8).tolist()] * 20, "label": [0, 1] * 10}
    table = datasets.Dataset.from_dict(columns | {"where": [*forms[form][:19], None]})
    datasets.DatasetDict(train=table, test=table).save_to_disk(tmp_path / "data")
    task = load_task(written(tmp_path, 'rationale_column = "where"'))
    truth = load_data(task).test.truth
    assert truth.known.tolist() == [True] * 19 + [False]
    assert truth.of_features(16, (4, 4))[:19].tolist() == marks.reshape(20, 16)[:19].astype(bool).tolist()
    assert load_task(written(tmp_path)).digest == task.digest
    assert load_data(load_task(written(tmp_path))).test.truth is None
    with pytest.raises(ValueError, match=r"no split of .*data has the rationale_column 'elsewhere'"):
        load_data(load_task(written(tmp_path, 'rationale_column = "elsewhere"')))


def written(folder, *lines):
    file = folder / "mine.toml"
    head = ['kind = "image"', 'dataset = "data"', 'input_column = "image"', "num_classes = 2", 'image_mode = "L"']
    model = 'models.m.config = {model_type = "vit", image_size = 4, patch_size = 1, num_channels = 1}'
    file.write_text("\n".join([*head, *lines, 'teacher = "m"', 'students = ["m"]', model]))
    return file


def test_spans_of_a_text_are_the_tokens_of_their_words_and_others_are_not():
    task = load_task("planted-reviews")
    data = load_data(task)
    truth = data.test.truth
    assert truth.of_features(32, None).sum(axis=1).tolist() == [3] * 1000
    from rekd.tasks.planted_reviews import DECIDING, vocabulary

    numbers = [vocabulary().index(word) for words in DECIDING for word in words]
    assert np.array_equal(truth.marks, np.isin(data.test.arrays["input_ids"], numbers))


def test_spans_that_are_not_in_the_text_are_refused_with_their_row(tmp_path):
    rows = {"text": ["a good film"] * 8, "label": [0, 1] * 4, "where": [[[2, 6]]] * 7 + [[[2, 60]]]}
    table = datasets.Dataset.from_dict(rows)
    datasets.DatasetDict(train=table, dev=table, test=table).save_to_disk(tmp_path / "data")
    file = tmp_path / "mine.toml"
    file.write_text(
        'extends = "planted-reviews"\ndataset = "data"\nrationale_column = "where"\nclass_names = ["a", "b"]\n'
    )
    with pytest.raises(
        ValueError, match=r"row 7: column 'where' holds .*the span 2 to 60 is not inside of a text of 11"
    ):
        load_data(load_task(file))


def eraser_folder(folder):
    """Eight reviews a split, as ERASER's files are: a document each, and annotations that name tokens of it."""
    (folder / "data" / "docs").mkdir(parents=True)
    for split, count in (("train", 8), ("val", 8), ("test", 8)):
        lines = []
        for number in range(count):
            name, word = f"{split}_{number}.txt", ("awful", "lovely")[number % 2]
            (folder / "data" / "docs" / name).write_text(f"the film was\nvery {word} in parts .")
            evidence = {"docid": name, "start_token": 3, "end_token": 5, "text": f"very {word}"}
            label = ("NEG", "POS")[number % 2]
            row = {"annotation_id": name, "query": "?", "classification": label, "evidences": [[evidence]]}
            lines.append(json.dumps(row))
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(lines))
    file = folder / "movies.toml"
    columns = 'label_column = "classification"\nrationale_column = "evidences"\ndev_split = "val"\n'
    file.write_text(f'extends = "planted-reviews"\ndataset = "data"\nclass_names = ["NEG", "POS"]\n{columns}')
    return file


def test_a_folder_of_erasers_json_files_is_read_with_its_evidence(tmp_path):
    task = load_task(eraser_folder(tmp_path))
    data = load_data(task)
    assert data.class_names == ("NEG", "POS")
    assert data.test.labels.tolist() == [0, 1] * 4
    marks = data.test.truth.of_features(32, None)
    assert marks.tolist() == [[place in (4, 5) for place in range(32)]] * 8  # [CLS] the film was very lovely
    before = task.digest
    (tmp_path / "data" / "docs" / "test_0.txt").write_text("the film was\nvery boring in parts .")
    assert load_task(tmp_path / "movies.toml").digest != before


def test_evidence_that_is_not_in_its_document_is_refused_with_its_line(tmp_path):
    file = eraser_folder(tmp_path)
    annotations = tmp_path / "data" / "test.jsonl"
    good = annotations.read_text()
    for wrong, why in (
        (good.replace('"end_token": 5', '"end_token": 50', 1), "tokens 3 to 49 are not among the 8 of document"),
        (good.replace('"classification"', '"class"', 1), "it lacks 'classification'"),
        (good.replace('"docid": "test_0.txt"', '"docid": "../test_0.txt"', 1), r"the document .* is outside of docs"),
    ):
        annotations.write_text(wrong)
        with pytest.raises(ValueError, match=rf"test\.jsonl, line 1 is no annotation of ERASER: {why}") as caught:
            load_data(load_task(file))
        assert "\n" not in str(caught.value)
