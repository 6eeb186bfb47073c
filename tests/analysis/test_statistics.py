"""Statistics over seeds, against numbers known beforehand and against their own promise of coverage."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import (
    METHODS,
    bootstrap,
    collapsed,
    generator_of,
    interquartile_mean,
    paired_differences,
    sign_flips,
    student,
    summarize,
)

NUM_SIMULATIONS = 20_000


def test_interquartile_mean_cuts_a_quarter_at_each_end() -> None:
    assert interquartile_mean([0.0, 1.0, 2.0, 1000.0]) == 1.5
    assert interquartile_mean([-1000.0, 1, 2, 3, 4, 5, 6, 1e6]) == 3.5


# --- Coverage: an interval that says 95 % holds the truth so often ----------------------------------------------------


def coverage(draws: np.ndarray, truth: float, method: str = "student", **how: int) -> float:
    """Percent of the rows whose interval holds the truth."""
    low, high, _ = METHODS[method](draws, **how)
    return 100 * np.mean((low <= truth) & (truth <= high))


def drawn(kind: str, num_simulations: int, size: int) -> tuple[np.ndarray, float]:
    """Paired differences, a row a simulated experiment, and their true mean."""
    rng = np.random.default_rng(size)
    shape = num_simulations, size
    if kind == "normal":
        return rng.normal(0.1, 0.02, shape), 0.1
    if kind == "exponential":
        return rng.exponential(0.02, shape), 0.02
    # One run in ten collapses to a tenth of accuracy.
    scores = np.where(rng.random(shape) < 0.1, 0.1, 0.8) + rng.normal(0, 0.02, shape)
    return scores, 0.9 * 0.8 + 0.1 * 0.1


@pytest.mark.parametrize("size", [5, 10, 20])
def test_students_interval_covers_what_it_says_where_scores_are_normal(size: int) -> None:
    assert coverage(*drawn("normal", NUM_SIMULATIONS, size)) == pytest.approx(95, abs=2)


@pytest.mark.parametrize(("size", "least"), [(5, 86), (10, 88), (20, 90)])
def test_students_interval_covers_less_where_scores_are_skewed(size: int, least: float) -> None:
    assert least < coverage(*drawn("exponential", NUM_SIMULATIONS, size)) < 94


@pytest.mark.parametrize(("size", "most"), [(5, 50), (10, 70), (20, 90)])
def test_no_interval_holds_where_seeds_collapse_and_that_is_seen(size: int, most: float) -> None:
    draws, truth = drawn("collapse", NUM_SIMULATIONS, size)
    for method in METHODS:
        how = {} if method == "student" else {"num_resamples": 499}
        assert coverage(draws[:400], truth, method, **how) < most
    for scores in draws[:300]:
        bad = scores < 0.5
        assert collapsed(scores).sum() in ({bad.sum()} if 0 < bad.sum() < size - 2 else range(size))


@pytest.mark.parametrize("size", [10, 20])
def test_the_other_methods_cover_too_and_the_exact_one_needs_six_pairs(size: int) -> None:
    draws, truth = drawn("normal", 1_000, size)
    for method in ("exact", "bootstrap"):
        assert coverage(draws, truth, method, num_resamples=999) == pytest.approx(95, abs=2.5)


def test_the_interval_that_stood_here_before_did_not() -> None:
    draws, truth = drawn("normal", 2_000, 5)
    resampled = draws[:, generator_of(draws).integers(5, size=(499, 5))].mean(axis=-1)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=-1)
    assert 100 * np.mean((low <= truth) & (truth <= high)) < 87


# --- One method, one interval, one p-value ---------------------------------------------------------------------------


def test_student_is_scipys_paired_test() -> None:
    before, after = np.array([0.70, 0.72, 0.69, 0.75, 0.71]), np.array([0.74, 0.73, 0.75, 0.80, 0.78])
    found = student(after - before)
    known = stats.ttest_rel(after, before)
    assert found.p_value == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval(0.95)))
    narrow = student(after - before, confidence=0.5)
    assert found.low < narrow.low < (after - before).mean() < narrow.high < found.high


def test_sign_flips_try_every_flip() -> None:
    differences = np.array([0.04, -0.01, 0.06, 0.05, 0.07, 0.02])
    flipped = [np.dot(signs, differences) for signs in itertools.product((1, -1), repeat=6)]
    expected = np.mean(np.abs(flipped) >= differences.sum() - 1e-12)
    assert sign_flips(differences).p_value == pytest.approx(expected)
    assert sign_flips(np.linspace(0.01, 0.02, 10)).p_value == pytest.approx(2 / 2**10)
    assert sign_flips([1.0, -1.0, 0.0]).p_value == 1.0
    assert sign_flips([0.1, 0.2, -0.3, 0.0]).p_value == 1.0  # which a sum of floats is not
    assert sign_flips(np.linspace(0.01, 0.02, 40)).p_value < 0.001
    five = sign_flips(np.linspace(0.01, 0.02, 5))
    assert five.p_value == pytest.approx(0.0625)
    assert np.isnan(five.low)


@pytest.mark.parametrize("method", METHODS)
def test_an_interval_holds_nothing_exactly_where_the_p_value_says_so(method: str) -> None:
    rng = np.random.default_rng(0)
    for size in (6, 8, 12):
        draws = rng.normal(0.02, 0.03, (200, size))
        low, high, p_value = METHODS[method](draws)
        told = np.abs(p_value - 0.05) > 0.002  # at the very end of an interval a quantile is a matter of rounding
        holds = (low <= 0) & (high >= 0)
        assert (holds == (p_value > 0.05))[told].all()
        assert holds.any()
        assert not holds.all()


@pytest.mark.parametrize("method", METHODS)
def test_too_few_pairs_have_no_interval(method: str) -> None:
    for few in ([], [0.1], [0.1, 0.2], [0.1, np.nan, 0.2]):
        assert np.isnan(METHODS[method](few)).all()
    low, high, p_value = METHODS[method]([0.25] * 8)
    assert (low, high) == (0.25, 0.25)
    assert p_value < 0.05
    assert METHODS[method]([0.0] * 8).p_value == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_what_is_drawn_depends_on_the_data_alone(method: str) -> None:
    scores = np.random.default_rng(3).normal(size=20)
    np.random.default_rng().normal()
    first = METHODS[method](scores)
    assert first == METHODS[method](scores[::-1])
    assert first != METHODS[method](scores + 1)
    assert bootstrap(scores, num_resamples=50) != bootstrap(scores)


def test_collapse_is_a_gap_and_the_worse_side_of_it() -> None:
    assert collapsed([0.80, 0.81, 0.79, 0.12]).tolist() == [False, False, False, True]
    assert collapsed([0.30, 0.20, 0.22, 0.24], lower_is_better=True).tolist() == [False] * 4
    assert collapsed([2.30, 0.20, 0.22, 0.24], lower_is_better=True).tolist() == [True, False, False, False]
    assert collapsed([0.1, 0.11, 0.12, 0.1, 0.8]).sum() == 4
    assert collapsed([0.8, 0.1, 0.8]).sum() == 0  # of three nobody can tell
    assert collapsed([0.8] * 5).sum() == 0
    assert collapsed([0.1013, 0.1013, 0.0991, 0.1013, 0.1013]).sum() == 0  # four are equal, and so is the fifth, nearly
    chance = [collapsed(scores).any() for scores in np.random.default_rng(0).normal(size=(1_000, 5))]
    assert np.mean(chance) < 0.05


# --- Frames ----------------------------------------------------------------------------------------------------------


def test_summarize_counts_what_it_does_not_average() -> None:
    frame = pd.DataFrame({"model": ["a"] * 3 + ["b"], "test_accuracy": [0.8, 0.9, 0.0, 0.7]})
    frame["status"] = ["ok", "ok", "diverged", "ok"]
    summary = summarize(frame, ["test_accuracy"], ["model"]).set_index("model")
    assert summary.loc["a", "test_accuracy"] == pytest.approx(0.85)
    assert summary.loc["a", "test_accuracy_std"] == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert summary[["num_seeds", "num_seeds_expected"]].to_numpy().tolist() == [[2, 3], [1, 1]]
    assert np.isnan(summary.loc["b", "test_accuracy_std"])
    by_setting = summarize(frame.assign(epochs=[1, 1, 1, 2]), ["test_accuracy"])
    assert by_setting[["model", "epochs", "num_seeds"]].to_numpy().tolist() == [["a", 1, 2], ["b", 2, 1]]


@pytest.fixture
def pairs() -> pd.DataFrame:
    rows = [("re", seed, 0.7 + seed / 100) for seed in range(10)] + [
        ("rekd", seed, 0.8 + seed / 100) for seed in range(9)
    ]
    return pd.DataFrame(rows, columns=["objective", "seed", "test_accuracy"]).assign(task="t", model="m", status="ok")


def test_paired_differences_use_the_shared_seeds(pairs: pd.DataFrame) -> None:
    result = paired_differences(pairs).iloc[0]
    assert result["num_pairs"] == result["num_better"] == 9
    for name in ("difference", "low", "high", "interquartile_difference"):
        assert result[name] == pytest.approx(0.1)
    assert result["re"] == pytest.approx(0.74)
    assert result["note"] == ""
    assert paired_differences(pairs, method="exact").iloc[0]["p_value"] == pytest.approx(2 / 2**9)
    stopped = pairs.assign(status=np.where(pairs["seed"] < 8, "ok", "diverged"))
    assert paired_differences(stopped)["num_pairs"].item() == 8
    (alone,) = paired_differences(pairs[10:])["note"]
    assert alone == "no RE of this model"
    assert paired_differences(pairs[:10]).empty


def paired(baseline: list[float], treatment: list[float]) -> pd.DataFrame:
    """A frame of two objectives on the same seeds."""
    rows = [("re", seed, value) for seed, value in enumerate(baseline)]
    rows += [("rekd", seed, value) for seed, value in enumerate(treatment)]
    return pd.DataFrame(rows, columns=["objective", "seed", "test_accuracy"]).assign(task="t", model="m", status="ok")


def test_a_tie_is_no_seed_on_which_the_treatment_is_ahead() -> None:
    result = paired_differences(paired([0.5, 0.5, 0.5, 0.5], [0.6, 0.5, 0.5, 0.4])).iloc[0]
    assert result["num_better"] == 1
    assert result["num_pairs"] == 4


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_interval_of_paired_differences_has_the_confidence_that_was_asked_for(confidence: float) -> None:
    after = 0.6 + np.random.default_rng(0).normal(0, 0.05, size=40)
    result = paired_differences(paired([0.5] * 40, after.tolist()), confidence=confidence).iloc[0]
    known = stats.t.interval(confidence, 39, loc=(after - 0.5).mean(), scale=stats.sem(after - 0.5))
    np.testing.assert_allclose((result["low"], result["high"]), known, rtol=1e-6)


def test_what_cannot_be_paired_is_refused(pairs: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="38 rows for the same seed of one setting, such as task t, objective re"):
        paired_differences(pd.concat([pairs, pairs]))
    with pytest.raises(ValueError, match="method is one of student, exact, bootstrap, got 'BCa'"):
        paired_differences(pairs, method="BCa")
    with pytest.raises(ValueError, match="paired_differences needs the columns seed"):
        paired_differences(pairs.drop(columns="seed"))


def test_collapsed_pairs_are_counted_and_said(pairs: pd.DataFrame) -> None:
    fallen = pairs.assign(test_accuracy=pairs["test_accuracy"].where(pairs.index != 3, 0.1))
    result = paired_differences(fallen).iloc[0]
    assert result["num_collapsed"] == 1
    assert result["note"] == "1 of 9 pairs have a run that collapsed: no interval holds"
    few = paired_differences(pairs[pairs["seed"] < 2]).iloc[0]
    assert (few["num_pairs"], few["note"]) == (2, "no interval below 3 pairs")
    assert np.isnan(few["low"])
    exact = paired_differences(pairs[pairs["seed"] < 5], method="exact").iloc[0]
    assert exact["note"] == "no interval by exact with 5 pairs"


def test_a_baseline_may_differ_where_it_is_told_to() -> None:
    frame = pd.DataFrame(
        [("re", 20, seed, 0.5) for seed in range(3)] + [("rekd", 35, seed, 0.6) for seed in range(3)],
        columns=["objective", "epochs", "seed", "test_accuracy"],
    )
    assert paired_differences(frame)["note"].item() == "RE has epochs 20, this epochs 35"
    free = paired_differences(frame, free=["epochs"]).iloc[0]
    assert (free["difference"], free["baseline_epochs"], free["epochs"]) == (pytest.approx(0.1), 20, 35)
    two = pd.concat([frame, frame[:3].assign(epochs=2)])
    assert paired_differences(two, free=["epochs"])["note"].item() == "RE has 2 settings: epochs 20; epochs 2"
    same = pd.concat([two, frame[:3].assign(epochs=35, test_accuracy=0.55)])
    assert paired_differences(same, free=["epochs"])["baseline_epochs"].item() == 35
