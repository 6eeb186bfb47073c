"""Statistics over seeds, against numbers known beforehand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import (
    bootstrap_interval,
    interquartile_mean,
    paired_differences,
    sign_flip_test,
    summarize,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_interquartile_mean_cuts_a_quarter_at_each_end() -> None:
    assert interquartile_mean([0.0, 1.0, 2.0, 1000.0]) == 1.5
    assert interquartile_mean([-1000.0, 1, 2, 3, 4, 5, 6, 1e6]) == 3.5


def test_bootstrap_interval_is_near_students_and_covers(rng: np.random.Generator) -> None:
    scores = rng.normal(0.9, 0.02, size=40)
    low, high = bootstrap_interval(scores, rng=rng)
    student = stats.t.interval(0.95, 39, loc=scores.mean(), scale=stats.sem(scores))
    np.testing.assert_allclose((low, high), student, atol=1.5e-3)
    narrow = bootstrap_interval(scores, rng=rng, confidence=0.5)
    assert low < narrow.low < scores.mean() < narrow.high < high


def test_bootstrap_interval_is_repeatable_and_takes_any_statistic() -> None:
    scores = np.arange(10.0)
    first = bootstrap_interval(scores, interquartile_mean, rng=np.random.default_rng(1))
    assert first == bootstrap_interval(scores, interquartile_mean, rng=np.random.default_rng(1))
    coarse = [bootstrap_interval(scores, rng=np.random.default_rng(seed), num_resamples=50) for seed in (1, 2)]
    assert coarse[0] != coarse[1]


def test_intervals_of_too_little(rng: np.random.Generator) -> None:
    assert bootstrap_interval([0.5, 0.5, 0.5], rng=rng) == (0.5, 0.5)
    low, high = bootstrap_interval([1.0, 0.0, 0.0, 0.0], np.median, rng=rng)
    assert low == 0
    assert high > 0
    assert np.isnan(bootstrap_interval([0.5], rng=rng)).all()
    assert np.isnan(bootstrap_interval([0.5, np.nan], rng=rng)).all()


def paired(baseline: list[float], treatment: list[float]) -> pd.DataFrame:
    """A frame of two objectives on the same seeds."""
    rows = [("re", seed, value) for seed, value in enumerate(baseline)]
    rows += [("rekd", seed, value) for seed, value in enumerate(treatment)]
    return pd.DataFrame(rows, columns=["objective", "seed", "test_accuracy"]).assign(task="t", model="m")


def test_a_tie_is_no_seed_on_which_the_treatment_is_ahead(rng: np.random.Generator) -> None:
    result = paired_differences(paired([0.5, 0.5, 0.5, 0.5], [0.6, 0.5, 0.5, 0.4]), rng=rng).iloc[0]
    assert result["num_better"] == 1
    assert result["num_seeds"] == 4


def test_the_interval_of_paired_differences_has_the_confidence_that_was_asked_for(rng: np.random.Generator) -> None:
    frame = paired([0.5] * 40, (0.6 + rng.normal(0, 0.05, size=40)).tolist())
    difference = frame["test_accuracy"][40:].to_numpy() - 0.5
    for confidence in (0.5, 0.95):
        result = paired_differences(frame, rng=rng, confidence=confidence).iloc[0]
        student = stats.t.interval(confidence, 39, loc=difference.mean(), scale=stats.sem(difference))
        np.testing.assert_allclose((result["low"], result["high"]), student, atol=3e-3)


def test_sign_flips_are_exact_for_ten_seeds(rng: np.random.Generator) -> None:
    assert sign_flip_test(np.linspace(0.01, 0.02, 10), rng=rng) == pytest.approx(2 / 2**10)
    assert sign_flip_test([1.0, -1.0], rng=rng) == 1.0
    assert sign_flip_test(np.linspace(0.01, 0.02, 40), rng=rng) < 0.001
    assert np.isnan(sign_flip_test([], rng=rng))


def test_summarize_counts_what_it_does_not_average() -> None:
    frame = pd.DataFrame({"model": ["a"] * 3 + ["b"], "test_accuracy": [0.8, 0.9, 0.0, 0.7]})
    frame["status"] = ["ok", "ok", "diverged", "ok"]
    summary = summarize(frame, ["model"], ["test_accuracy"]).set_index("model")
    assert summary.loc["a", "test_accuracy"] == pytest.approx(0.85)
    assert summary.loc["a", "test_accuracy_std"] == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert summary[["num_seeds", "num_seeds_expected"]].to_numpy().tolist() == [[2, 3], [1, 1]]
    assert np.isnan(summary.loc["b", "test_accuracy_std"])


def test_paired_differences_use_the_shared_seeds(rng: np.random.Generator) -> None:
    rows = [("re", seed, 0.7 + seed / 100) for seed in range(10)] + [
        ("rekd", seed, 0.8 + seed / 100) for seed in range(9)
    ]
    frame = pd.DataFrame(rows, columns=["objective", "seed", "test_accuracy"]).assign(task="t", model="m", status="ok")
    result = paired_differences(frame, rng=rng).iloc[0]
    assert result["num_seeds"] == result["num_better"] == 9
    for name in ("difference", "low", "high", "interquartile_difference"):
        assert result[name] == pytest.approx(0.1)
    assert result["re"] == pytest.approx(0.74)
    assert result["p_value"] == pytest.approx(2 / 2**9)

    with pytest.raises(ValueError, match="20 rows for the same seeds"):
        paired_differences(pd.concat([frame[:10], frame[:10]]), rng=rng)
    assert paired_differences(frame[:10], rng=rng).empty
    stopped = frame.assign(status=np.where(frame["seed"] < 8, "ok", "diverged"))
    assert paired_differences(stopped, rng=rng)["num_seeds"].item() == 8
