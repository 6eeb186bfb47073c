"""Audits as people read them: a frame with verdicts, a table of settings, a line a model in the report, pictures."""

import io

import numpy as np
import pandas as pd
import pytest
from made_up import fill, paper_trials, trial
from PIL import Image

from analysis import load_audits, load_trials
from analysis.rationales import CONTOUR, PICTURE_SIDE, _selected
from analysis.report import report
from analysis.settings import percent
from analysis.verdicts import audit_sentence, audit_table
from rekd.store.audits import Audit, Audits
from rekd.store.files import Store
from sweeps.show import _settings_table

GOOD = {
    "judge": "j",
    "judge_whole": 0.99,
    "judge_rationale": 0.98,
    "judge_rest": 0.2,
    "judge_random": 0.3,
    "judge_fixed": 0.35,
    "judge_dealt": 0.33,
    "judge_saliency": 0.8,
    "follow_gain": 0.63,
    "follow_error": 0.01,
    "probe_accuracy": 0.11,
    "probe_chance": 0.1,
    "swap_rate": 0.08,
    "swap_control": 0.08,
    "swap_error": 0.01,
}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "follows the input, sufficient by the judge, no leak"),
        ({"follow_gain": 0.04}, "does not follow the input, sufficient by the judge, no leak"),
        ({"follow_error": 0.4}, "does not follow the input, sufficient by the judge, no leak"),
        ({"judge_rationale": 0.9}, "follows the input, not sufficient by the judge, no leak"),
        ({"swap_rate": 0.22}, "follows the input, sufficient by the judge, leaks"),
        ({"swap_rate": 0.22, "swap_error": 0.1}, "follows the input, sufficient by the judge, no leak"),
        ({"swap_rate": None}, "follows the input, sufficient by the judge, leak not asked"),
    ],
)
def test_a_verdict_needs_a_difference_that_is_notable_and_more_than_chance(changes, verdict):
    assert Audit(**{**GOOD, **changes}).verdict == verdict


@pytest.fixture
def store(tmp_path) -> Store:
    """Three seeds of RE, on one of which the rationales follow nothing."""
    place = Store(tmp_path)
    trials = [trial(seed=seed) for seed in (1, 2, 3)]
    fill(place, trials)
    for made, gain in zip(trials, (0.63, 0.6, 0.0), strict=True):
        Audits(place).write(made.digest, Audit(**{**GOOD, "follow_gain": gain, "rationale_f1": 0.9}))
    return place


def test_a_setting_is_a_line_that_says_on_how_many_seeds(store):
    audits = load_audits(store)
    assert audits["follows"].sum() == 2
    table = audit_table(load_trials(store), audits)
    assert table[["num_seeds", "num_follow", "num_sufficient", "num_leak"]].to_numpy().tolist() == [[3, 2, 3, 0]]
    said = audit_sentence(table.iloc[0])
    assert said.startswith(
        "follows the input on 2 of 3 seeds, sufficient by the judge, no leak (the judge is right about 0.980"
    )
    assert audit_table(load_trials(store), audits.iloc[:0]).empty


def test_the_report_answers_before_it_shows_tables(store, tmp_path):
    fill(store, paper_trials((1, 2, 3)))
    page = report(store)
    places = [page.index(f'id="{name}"') for name in ("asked", "short", "audited", "audit", "chosen", "task-1")]
    assert places == sorted(places)
    assert "follows the input on 2 of 3 seeds" in page
    assert "no objective measure" not in page  # no truth here
    without = report(fill(Store(tmp_path / "other"), paper_trials((1, 2, 3))).store)
    assert 'id="audited"' not in without


def test_a_store_of_before_has_no_audits_and_null_columns(tmp_path):
    fill(Store(tmp_path), [trial()])
    assert load_audits(tmp_path).empty
    row = load_trials(tmp_path).iloc[0]
    assert pd.isna(row[["test_rationale_f1", "dev_expected_ratio", "test_eraser_sufficiency"]]).all()


def test_a_selected_dark_patch_is_no_hole():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, format="PNG")
    mask = np.zeros((2, 2), dtype=bool)
    mask[0, 1] = True
    shown = np.asarray(_selected(buffer.getvalue(), mask.ravel(), 2, 2))
    half = PICTURE_SIDE // 2
    assert (shown[half // 2, half + half // 2] == 0).all()  # selected: black as it is
    assert tuple(shown[0, half]) == CONTOUR == tuple(shown[half - 1, PICTURE_SIDE - 1])
    assert (shown[half + 5, 5] > 100).all()  # not selected: faded, though as black


def test_a_share_whose_digits_do_not_end_is_told_as_one_and_no_other_number_passes_for_it():
    assert percent(3 / 36) == "8.33 % (1/12)"
    assert percent(0.15) == "15 %"
    assert percent(0.1 + 0.2) == "30.000000000000004 %"
    assert percent(0.0833333333) == "8.33333333 %"


def test_the_terminals_table_has_f1_beside_accuracy_where_the_truth_is_known(store):
    rows = load_trials(store)
    plain = _settings_table("", rows, "alpha").columns
    known = _settings_table("", rows.assign(test_rationale_f1=[0.8, 0.9, 1.0]), "alpha").columns
    assert [column.header for column in plain][-2:] == ["test ratio %", "test accuracy"]
    assert [column.header for column in known][-2:] == ["test accuracy", "rationale F1"]
    assert list(known[-1].cells) == ["0.900 ± 0.100"]
