"""Many inputs, by one model or several: what is read, what is written, and that it is quick."""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import handed
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from handed import TEXT

from rekd.command_line import run_app
from rekd.commands import app
from rekd.handover.given import inputs_of
from rekd.handover.pages import contour, cut_off, page, runs_of, squares
from rekd.handover.side_by_side import explain_all, named_explainers
from rekd.method.explain import AT_A_TIME, Explainer, Picture

TEXTS = [f"{TEXT} {word}" for word in ["which", "who", "film", "scene", "lovely", "dull"]] * 20


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return handed.reviews(tmp_path_factory.mktemp("many"))[1]


@pytest.fixture(scope="module")
def sees(tmp_path_factory):
    return handed.digits(tmp_path_factory.mktemp("sees"))


def explained(*arguments: object, capsys: pytest.CaptureFixture, status: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        run_app(app, ["explain", *map(str, arguments)])
    captured = capsys.readouterr()
    assert (ended.value.code or 0) == status, captured.err
    return captured.err if status else captured.out


def rows(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def test_together_they_are_explained_as_one_by_one(models):
    explainer = Explainer(models[1])
    together = explainer(TEXTS)
    assert len(together) == len(TEXTS) > AT_A_TIME
    for text, found in zip(TEXTS[:6], together, strict=False):
        (alone,) = explainer([text])
        assert alone.words == found.words
        assert alone.probability == pytest.approx(found.probability, abs=1e-5)
        assert sum(alone.probabilities.values()) == pytest.approx(1)


def test_together_is_no_slower_than_one_by_one(models):
    explainer = Explainer(models[1])
    explainer(TEXTS[:2])
    start = time.perf_counter()
    explainer(TEXTS)
    together = time.perf_counter() - start
    start = time.perf_counter()
    for text in TEXTS:
        explainer([text])
    assert together < time.perf_counter() - start


@pytest.mark.slow
def test_a_thousand_in_a_call_are_twenty_times_as_fast_as_a_call_each(models, tmp_path):
    def seconds(*texts: str) -> float:
        (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
        start = time.perf_counter()
        with (tmp_path / "texts.txt").open() as lines:
            command = [sys.executable, "-m", "rekd", "explain", str(models[1]), "-", "--json"]
            done = subprocess.run(command, stdin=lines, stdout=subprocess.PIPE, check=True)
        assert len(done.stdout.splitlines()) == len(texts)
        return time.perf_counter() - start

    assert seconds(*(TEXTS * 9)[:1000]) < 1000 * seconds(TEXT) / 20


def test_inputs_are_read_as_they_come(models):
    """Of any number of inputs no more are held than are predicted together."""
    read = []

    def endless():
        while True:
            read.append(TEXT)
            yield TEXT

    first = next(explain_all({"model": Explainer(models[0])}, endless()))
    assert first.number == 0
    assert len(read) == AT_A_TIME


def test_several_models_answer_side_by_side(models, capsys):
    found = rows(explained("--json", *models, TEXT, "film", capsys=capsys))
    assert [(row["input"], row["model"]) for row in found[:3]] == [
        (0, "RE bert-teacher"),
        (0, "RE bert-student"),
        (0, "REKD bert-student"),
    ]
    assert [row["source"] for row in found] == [TEXT] * 3 + ["film"] * 3
    printed = explained(*models, TEXT, capsys=capsys)
    assert "REKD bert-student: " in printed


def test_models_that_are_named_alike_are_told_apart_by_their_folders(models, tmp_path):
    import shutil

    again = shutil.copytree(models[0], tmp_path / "again")
    assert list(named_explainers([models[0], again])) == [
        f"RE bert-teacher ({models[0].name})",
        "RE bert-teacher (again)",
    ]
    with pytest.raises(ValueError, match="A model was given twice"):
        named_explainers([models[0], models[0]])


def test_models_of_one_kind_only(models, sees):
    with pytest.raises(ValueError, match="Some of the models read texts, others images"):
        named_explainers([models[0], sees])


def test_every_source_of_texts_gives_them(tmp_path):
    pd.DataFrame({"review": ["a", "b"], "stars": [1, 2]}).to_csv(tmp_path / "t.csv", index=False)
    pq.write_table(pa.table({"review": ["c"], "title": ["no"]}), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text('{"review": "d"}\n{"review": "e"}\n')
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "2.txt").write_text("\ufeffg\ng")
    (folder / "1.txt").write_text("f")
    (folder / "notes.md").write_text("not read")
    given = [tmp_path / "t.csv", tmp_path / "t.jsonl", folder, folder / "notes.md", "-", "no file", "x" * 5000]
    found = list(inputs_of(map(str, given), kind="text", lines=io.StringIO("h\n\ni\r\n")))
    assert found == ["a", "b", "d", "e", "f", "g\ng", "not read", "h", "i", "no file", "x" * 5000]
    assert list(inputs_of([str(tmp_path / "t.parquet")], kind="text", column="review")) == ["c"]


def test_every_source_of_images_gives_them(sees, tmp_path):
    file = handed.picture(tmp_path / "a.png")
    content = file.read_bytes()
    pq.write_table(pa.table({"image": [{"bytes": content, "path": "a"}]}), tmp_path / "t.parquet")
    pq.write_table(pa.table({"bytes": [content]}), tmp_path / "u.parquet")
    found = list(inputs_of([str(tmp_path)], kind="image"))
    assert found[0] == str(file)
    assert [isinstance(each, Picture) for each in found] == [False, True, True]
    first, *others = Explainer(sees)(found)
    assert all(np.array_equal(first.patches, other.patches) for other in others)


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        ({"a": ["x"], "b": ["y"]}, None, "has 2 columns of texts (a, b). Name the one that is meant: --column."),
        ({"a": ["x"]}, "b", "has no column 'b'. It has a."),
        ({"a": [1]}, None, "has no column of texts. It has a."),
        ({"a": ["x", None]}, None, "row 1, column 'a': None is no text"),
        ({"a": ["x", "  "]}, None, "row 1, column 'a': ' ' is no text"),
    ],
)
def test_a_table_that_is_no_input_is_one_line_that_says_where(models, tmp_path, capsys, content, column, message):
    pq.write_table(pa.table(content), tmp_path / "t.parquet")
    more = [] if column is None else ["--column", column]
    said = explained(models[0], tmp_path / "t.parquet", *more, "--to", tmp_path / "a.jsonl", capsys=capsys, status=2)
    assert message in said
    assert str(tmp_path / "t.parquet") in said
    assert said.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["t.parquet"]


def test_what_a_table_names_is_not_opened(sees, tmp_path):
    handed.picture(tmp_path / "a.png")
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "a.png"}]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"row 0, column 'image': .* What a table names is not opened"):
        list(inputs_of([str(tmp_path / "t.parquet")], kind="image"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "What is to be explained?"),
        ((TEXT, "--to", "a.csv"), "--to is a .jsonl, a .parquet or an .html file, got a.csv."),
        ((TEXT, "--budget", "1.5"), "A budget is a share of the features in (0, 1], got 1.5."),
    ],
)
def test_what_cannot_be_done_is_said_first(models, capsys, arguments, message):
    assert message in explained(models[0], *arguments, capsys=capsys, status=2)


def test_files_hold_what_the_terminal_says(models, tmp_path, capsys):
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for name in ("a.jsonl", "a.parquet", "sub/a.html"):
        said = explained(*models, tmp_path / "t.jsonl", "--to", tmp_path / name, capsys=capsys)
        assert said == f"{len(TEXTS)} inputs are explained in {tmp_path / name}.\n"
    lines = rows((tmp_path / "a.jsonl").read_text())
    table = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert len(lines) == len(table) == 3 * len(TEXTS)
    assert dict(table[7]["probabilities"]) == lines[7]["probabilities"]
    assert table[7]["words"] == lines[7]["words"]
    assert lines == rows(explained("--json", *models, tmp_path / "t.jsonl", capsys=capsys))


def test_a_budget_selects_that_many_of_the_strongest(models, sees, tmp_path):
    file = handed.picture(tmp_path / "a.png")
    explainer = Explainer(sees)
    found = [next(explainer.each([str(file)], budget=share)).patches for share in (0.25, 0.5, 1.0)]
    assert [patches.sum() for patches in found] == [9, 18, 36]
    assert (found[1] | ~found[0]).all()  # what a smaller budget holds, a larger one holds too
    own = explainer([str(file)])[0].patches
    same = next(explainer.each([str(file)], budget=own.sum() / own.size)).patches
    assert np.array_equal(same, own)


def test_a_page_marks_what_was_selected_and_says_what_was_cut_off(models):
    long = f"{TEXT} " * 20
    everything = list(explain_all(named_explainers(models), [TEXT, long]))
    explanation = everything[1].by["RE bert-student"]
    runs = list(runs_of(explanation))
    assert "".join(run.text for run in runs) == long
    assert [run.text for run in runs if run.kind == "kept"] == [
        word.text for word in explanation.words if word.selected
    ]
    assert runs[-1].kind == "unread"
    assert cut_off(explanation).endswith(f"of {len(long)} were read: the model takes no more.")
    assert cut_off(everything[0].by["RE bert-student"]) == ""


def test_nothing_on_a_page_is_markup_and_nothing_is_fetched(models):
    bad = "the <script>alert(1)</script> scene & </div>"
    text = page(explain_all(named_explainers(models[:1]), [bad]), title="<b>")
    assert "<script" not in text
    assert "&lt;script&gt;" in text.replace("</mark>", "").replace("<mark>", "")
    assert "default-src 'none'" in text
    assert "http" not in text.replace("http-equiv", "")


def test_the_contour_runs_where_what_is_kept_ends():
    kept = np.array([[True, True], [False, False]])
    assert squares(~kept) == "M0 1h1v1h-1zM1 1h1v1h-1z"
    edges = contour(kept)
    assert edges.count("M") == 6  # around a bar of two cells
    assert "M1 0v1" not in edges  # between them there is none
    assert contour(np.zeros((2, 2), dtype=bool)) == ""


def test_images_on_a_page_are_small_and_bare(sees, tmp_path):
    file = handed.picture(tmp_path / "secret.png", side=2000)
    text = page(explain_all(named_explainers([sees]), [str(file)]), title="t")
    assert text.count("data:image/jpeg") == 2
    assert text.count('<th scope="row">') == 10  # the probability of each class, five of them folded away
    assert len(text) < 700_000
    assert "contour" in text
    assert str(Path(file).name) in text
