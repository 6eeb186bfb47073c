"""Seeds by evidence: what a race over settings asks for, and that it leads where all seeds would."""

import numpy as np
import pytest

from analysis.evidence import chance_above_zero, race
from benchmarks.seeds_by_evidence import measured

WAVE = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])


def test_the_chance_is_how_often_it_comes_so():
    rng = np.random.default_rng(1)
    values = rng.normal(0.2, 1.0, size=(20_000, 10))
    for seen in (3, 7):
        # Less the mean that all seeds turn out to have: then a chance below p comes with probability p, whatever the mean is.
        chances = chance_above_zero((values - values.mean(axis=1, keepdims=True))[:, :seen], 10)
        assert np.quantile(chances, [0.05, 0.5, 0.9]) == pytest.approx([0.05, 0.5, 0.9], abs=0.01)


def test_with_all_seeds_nothing_is_left_to_chance():
    values = np.array([[1.0, -2.0, 3.0], [-1.0, -2.0, 0.5]])
    assert chance_above_zero(values, 3).tolist() == [1.0, 0.0]
    assert chance_above_zero(values[:, :1], 3).tolist() == [0.5, 0.5]


def test_settings_that_are_far_behind_get_no_more_seeds_and_those_that_are_near_get_all():
    scores = np.stack([0.1 * WAVE, -0.1 * WAVE, 9 + 0.1 * WAVE])
    found = race(scores)
    assert found.asked.tolist() == [6, 6, 3]
    assert not found.in_race.any()


def test_where_one_is_ahead_it_ends_at_once():
    assert race(np.stack([0.1 * WAVE, 9 + 0.1 * WAVE])).asked.tolist() == [3, 3]


def test_what_all_settings_have_not_been_seen_with_does_not_count():
    """Results that came early change nothing: the same rows, the same plan, in whichever order they end."""
    whole = np.stack([0.1 * WAVE, -0.1 * WAVE, 9 + 0.1 * WAVE])
    for seen in range(3, 6):
        partly = whole.copy()
        partly[1, seen:] = np.nan
        found = race(partly)
        assert found.in_race.tolist() == [True, True, False]
        assert found.asked.tolist() == [seen + 1, seen + 1, 3]
    nothing = race(np.full((2, 6), np.nan))
    assert (nothing.asked.tolist(), nothing.in_race.tolist()) == ([3, 3], [True, True])


def test_a_ratio_that_is_far_off_is_out_however_low_its_loss():
    scores = np.stack([9 + 0.1 * WAVE, 0.1 * WAVE, -0.1 * WAVE])
    above = np.stack([0.05 + 0.001 * WAVE, -0.009 + 0.001 * WAVE, -0.009 - 0.001 * WAVE])
    assert race(-scores, [above, -above - 0.02]).asked.tolist() == [3, 6, 6]
    everywhere_off = np.stack([0.05 + 0.001 * WAVE] * 3)
    found = race(scores, [everywhere_off, -everywhere_off - 0.02])
    assert found.asked.tolist() == [3, 3, 3]
    assert not found.in_race.any()


def test_a_setting_without_a_result_is_out():
    scores = np.stack([0.1 * WAVE, np.full(6, np.nan)])
    assert race(scores, has_ended=np.ones((2, 6))).asked.tolist() == [3, 3]


@pytest.mark.parametrize("correlation", [0.0, 0.75])
def test_it_leads_to_the_choice_of_all_seeds_or_a_tie_with_a_part_of_the_trials(correlation):
    reached, _, trials = measured(correlation, 100)
    assert reached >= 0.95
    assert trials <= 0.6
