"""The report, clicked in a real browser where there is one."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import made_up
import numpy as np
import pandas as pd
import pytest
from in_chromium import in_browser, look
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from analysis import load_trials
from analysis.experiment import split_stages
from analysis.rationales import Piece, students_of, text_pieces
from analysis.report import _shared_samples, _warnings, report
from rekd.store.files import Store

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    place = Store(tmp_path_factory.mktemp("store"))
    made_up.fill_everything(place)
    return place


@pytest.fixture(scope="module")
def page(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report(store, now=NOW), encoding="utf-8")
    return path


def column(table, index: int) -> list[str]:
    return [
        row.find_elements(By.TAG_NAME, "td")[index].text for row in table.find_elements(By.CSS_SELECTOR, "tbody tr")
    ]


def captioned(browser: webdriver.Chrome, words: str):
    return next(t for t in browser.find_elements(By.TAG_NAME, "table") if words in t.text.split("\n")[0])


@in_browser
def test_a_click_sorts_a_table_by_its_numbers(browser: webdriver.Chrome, page: Path) -> None:
    look(browser, page.as_uri(), 1280)
    table = captioned(browser, "Tuning lambda_select (the paper's Table 4)")
    headers = [header.text for header in table.find_elements(By.TAG_NAME, "th")]
    index = next(index for index, header in enumerate(headers) if header.startswith("dev loss"))
    header = table.find_elements(By.TAG_NAME, "th")[index]
    before = [float(cell.split()[0]) for cell in column(table, index)]
    header.find_element(By.TAG_NAME, "button").click()
    assert [float(cell.split()[0]) for cell in column(table, index)] == sorted(before) != before
    assert header.get_attribute("aria-sort") == "ascending"
    header.find_element(By.TAG_NAME, "button").click()
    assert [float(cell.split()[0]) for cell in column(table, index)] == sorted(before, reverse=True)
    assert header.get_attribute("aria-sort") == "descending"
    # Rows move whole: the chosen ones are still those of the chosen lambda.
    chosen = table.find_elements(By.CSS_SELECTOR, "tr.chosen")
    assert [row.find_elements(By.TAG_NAME, "td")[2].text for row in chosen] == ["0.01"] * 3


@in_browser
def test_pointing_at_a_plot_shows_its_values(browser: webdriver.Chrome, page: Path) -> None:
    look(browser, page.as_uri(), 1280)
    tip = browser.find_element(By.ID, "tip")
    assert not tip.is_displayed()
    group = browser.find_element(By.ID, "ratio-cifar10--ratio-cifar10-2")
    mark = group.find_elements(By.TAG_NAME, "use")[1]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    heading = browser.find_element(By.TAG_NAME, "h1")

    def is_shown(_: object) -> bool:  # a browser that is still scrolling tells nobody where the pointer is
        ActionChains(browser).move_to_element(mark).perform()
        return tip.is_displayed()

    WebDriverWait(browser, 20).until(is_shown)
    assert re.fullmatch(r"vit-tiny, p_target 15%: 15\.0 %, accuracy 0\.\d{3}, 3 runs", tip.text)
    ActionChains(browser).move_to_element(heading).perform()
    WebDriverWait(browser, 20).until(lambda _: not tip.is_displayed())


@in_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_overflows_the_page(browser: webdriver.Chrome, page: Path, width: int) -> None:
    look(browser, page.as_uri(), width)
    root = "document.documentElement"
    needed, given = browser.execute_script(f"return [{root}.scrollWidth, {root}.clientWidth]")
    assert needed <= given <= width
    # Whatever is wider than its place scrolls inside it.
    sticking_out = browser.execute_script(
        """
        const inside = (element) => element.closest(".scroll, .plot, .review");
        return [...document.querySelectorAll("body *")].filter((element) =>
          !inside(element) && element.getBoundingClientRect().right > innerWidth + 1).map((element) => element.outerHTML);
        """
    )
    assert sticking_out == []


@in_browser
def test_data_is_shown_and_not_run(browser: webdriver.Chrome, page: Path) -> None:
    look(browser, page.as_uri(), 1280)
    assert browser.title == "Rationale extraction and its distillation"
    text = browser.find_element(By.TAG_NAME, "body").text
    assert "<script>document.title = 'hacked'</script>" in text
    assert "<b>out of memory</b>" in text
    assert "says <i>positive</i>" in text
    assert len(browser.find_elements(By.TAG_NAME, "script")) == 1
    assert "truly wonderful" in [mark.text for mark in browser.find_elements(By.TAG_NAME, "mark")]
    # A script that a sample smuggles in all the same would not run either.
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'document.title = \"ran\"'; document.body.append(s)"
    )
    assert browser.title == "Rationale extraction and its distillation"


@in_browser
def test_the_page_asks_for_nothing_and_complains_of_nothing(browser: webdriver.Chrome, page: Path) -> None:
    look(browser, page.as_uri(), 1280)
    browser.get_log("browser")
    look(browser, page.as_uri(), 390)
    assert browser.get_log("browser") == []
    requests = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in requests if not name.startswith("data:")] == []
    broken = browser.execute_script("return [...document.images].filter((image) => !image.naturalWidth).length")
    assert broken == 0


def test_the_report_is_whole_and_the_same_twice(store: Store, page: Path) -> None:
    first = page.read_text(encoding="utf-8")
    assert first == report(store, now=NOW)
    assert len(first) < 2_000_000
    for word in ("What was asked", "What was chosen", "Rationales", "commit 0123abc", "generator selects nothing"):
        assert word in first
    ids = re.findall(r'\bid="([^"]+)"', first)
    assert len(ids) == len(set(ids))


def test_collapse_and_leak_are_said() -> None:
    finals = pd.DataFrame(
        {
            "task": "digits",
            "model": "m",
            "objective": ["re", "re", "rekd"],
            "test_distinct_masks": [0.002, 0.9, 0.8],
            "dev_teacher_train_share": [np.nan, np.nan, 0.8],
        }
    )
    collapse, leak = _warnings(finals)
    assert collapse.startswith("digits, RE m: 1 of 2 final trials have collapsed")
    assert leak.startswith("digits, REKD m: 1 of 1 final trials have dev samples that their teacher was trained on")
    assert _warnings(finals[["task"]]) == []


def test_what_rows_warn_of_is_said_and_what_was_read_of_the_hub(tmp_path: Path) -> None:
    trials = [made_up.trial(lambda_select=select, seed=seed) for select in (1e-3, 1e-2) for seed in (1, 2)]
    store = made_up.fill(str(tmp_path), trials)
    text = report(store)
    assert "has a warning" not in text
    assert "was at commit" not in text
    for number, made in enumerate(trials):
        commits = json.dumps({"dataset a/films (main)": ("c" if number else "d") * 40})
        warning = "It selects (almost) nothing." if number == 2 else None
        store.write(made, replace(made_up.outcome(made), commits=commits, warning=warning))
    text = report(store)
    assert "lambda_select 0.01: 1 of 2 trials has a warning. It selects (almost) nothing." in text
    moved = "cccccccccccc (3 of 4 trials), dddddddddddd (1 of 4 trials): it has moved between them."
    assert f"The dataset a/films (main) was at commit {moved}" in text


def test_nothing_eligible_is_said(tmp_path: Path) -> None:
    far = [made_up.trial(lambda_select=1e-3, seed=seed) for seed in (1, 2)]
    text = report(made_up.fill(str(tmp_path), far))
    assert "Nothing is within 1 point of p_target; nearest is lambda_select 0.001" in text
    assert ">none</td>" in text
    assert "the rule chooses nothing" in text


def test_an_empty_store_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no finished trial"):
        report(str(tmp_path))


def test_samples_are_chosen_by_the_students_right_and_wrong(store: Store) -> None:
    students = students_of(store, split_stages(load_trials(store)))
    assert [(student.task, student.model) for student in students] == [
        (task, model) for task in ("<script>reviews</script>", "cifar10") for model in ("vit-small", "vit-tiny")
    ]
    for student in students:
        assert [(example.sample, example.right) for example in student.examples] == [
            (1, True),
            (2, True),
            (3, True),
            (0, False),
            (5, False),
        ]
        whose = [view.who.split(",")[0] for view in student.examples[0].views]
        assert whose == ["teacher: RE vit-base", f"RE {student.model}", f"REKD {student.model}"]
    review = students[0].examples[0].views[0]
    assert review.num_special == 3
    assert "".join(piece.text for piece in review.pieces) == made_up.REVIEW


def test_damaged_or_missing_rationales_leave_the_rest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    trials = made_up.paper_trials()
    made_up.fill(store, trials)
    assert students_of(store, split_stages(load_trials(store))) == []
    made_up.write_images(store, trials[0].task_digest, [made.digest for made in trials if made.objective == "rekd"])
    alone = students_of(store, split_stages(load_trials(store)))
    assert [len(student.examples[0].views) for student in alone] == [1, 1]
    store.write(store.samples_file(trials[0].task_digest), b"not a Parquet file")
    assert students_of(store, split_stages(load_trials(store))) == []


def test_text_is_cut_where_selection_begins_and_ends() -> None:
    text = "a fine  film"
    spans = [(0, 0), (0, 1), (2, 6), (8, 12), (0, 0)]
    assert text_pieces(text, spans, np.array([1, 0, 1, 1, 1])) == (Piece("a ", False), Piece("fine  film", True))
    assert text_pieces(text, spans, np.array([0, 1, 0, 1, 0])) == (
        Piece("a", True),
        Piece(" fine  ", False),
        Piece("film", True),
    )
    assert text_pieces(text, spans, np.zeros(5)) == (Piece(text, False),)
    assert text_pieces("", [(0, 0)], np.ones(1)) == ()


def test_what_was_not_read_of_a_text_is_not_shown_as_unselected(tmp_path: Path) -> None:
    text = "a fine  film indeed"
    pieces = text_pieces(text, [(0, 1), (2, 6), (8, 12)], np.array([0, 0, 1]), read=(0, 12))
    assert pieces == (Piece("a fine  ", False), Piece("film", True), Piece(" indeed", False, read=False))
    store = Store(tmp_path)
    trials = made_up.paper_trials()
    made_up.fill(store, trials)
    digests = [made.digest for made in trials if made.objective == "rekd"]
    made_up.write_reviews(store, trials[0].task_digest, digests)
    assert "<del" not in report(store)
    made_up.write_reviews(store, trials[0].task_digest, digests, read=(0, 10))
    assert "<del" in report(store)


def test_samples_that_stand_in_two_splits_are_said() -> None:
    finals = pd.DataFrame(
        {"task": ["a", "a", "b"], "num_dev_in_train": [3, 4, 0], "num_test_in_train": [0, np.nan, np.nan]}
    )
    assert _shared_samples(finals) == ["a: 4 samples of dev stand in train too, with the same content."]
    finals["num_test_in_train"] = [2, 1, 5]
    assert _shared_samples(finals) == [
        "a: 4 samples of dev and 2 samples of test stand in train too, with the same content.",
        "b: 5 samples of test stand in train too, with the same content.",
    ]
    assert _shared_samples(finals[["task"]]) == []
