"""The rules give the choices that the paper made from the numbers that the paper prints."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import alpha_settings, lambda_settings, published, select_alpha, select_lambda_select, select_teacher
from analysis.evidence import chance_above_zero
from analysis.selection import SelectionRule, choices, judged


def one_setting(ratio: float, dev_loss: float = 0.2, **columns: object) -> dict[str, object]:
    values = {"model": "m", "lambda_select": 1e-3, "p_target": 0.15, "dev_rationale_ratio": ratio, "dev_loss": dev_loss}
    return values | columns


@pytest.mark.parametrize("number", [4, 5])
def test_lambda_select_is_the_papers(number: int) -> None:
    chosen = select_lambda_select(published.lambda_sweep(number)).set_index("model")["lambda_select"]
    assert len(chosen) == 3
    for model, value in chosen.items():
        assert value == published.CHOSEN_LAMBDA_SELECT[str(model)]


@pytest.mark.parametrize("number", [6, 7])
def test_alpha_is_the_papers(number: int) -> None:
    assert select_alpha(published.alpha_sweep(number))["alpha"].tolist() == [published.CHOSEN_ALPHA] * 2


def test_without_the_tolerance_the_paper_would_have_chosen_otherwise() -> None:
    loose = select_lambda_select(published.lambda_sweep(5), tolerance=0.5).set_index("model")["lambda_select"]
    assert loose["BERT Base"] == loose["BERT Mini"] == 1e-5


@pytest.mark.parametrize(("ratio", "target"), [(0.16, 0.15), (0.14, 0.15), (0.09, 0.10), (0.11, 0.10)])
def test_one_point_away_is_eligible(ratio: float, target: float) -> None:
    at = pd.DataFrame([one_setting(ratio, p_target=target)])
    assert lambda_settings(at)["eligible"].tolist() == [True]
    beyond = ratio + (1e-4 if ratio > target else -1e-4)
    past = pd.DataFrame([one_setting(beyond, p_target=target)])
    assert lambda_settings(past)["eligible"].tolist() == [False]


def test_boundary_cases_of_the_paper() -> None:
    vit = lambda_settings(published.lambda_sweep(4)).set_index(["model", "lambda_select"])["eligible"]
    assert vit["ViT Base", 5e-4]  # 16 % against 15 %
    assert vit["ViT Tiny", 5e-3]  # 14 %
    assert not vit["ViT Tiny", 1e-2]  # 13.8 %
    bert = lambda_settings(published.lambda_sweep(5)).set_index(["model", "lambda_select"])["eligible"]
    assert bert["BERT Base", 1e-4]  # 9 % against 10 %
    assert not bert["BERT Mini", 5e-5]  # 11.1 %


def test_bert_small_is_tuned_at_ten_percent_not_at_its_later_target() -> None:
    sweep = published.lambda_sweep(5).query("model == 'BERT Small'")
    assert select_lambda_select(sweep)["lambda_select"].item() == 1e-4
    assert select_lambda_select(sweep.assign(p_target=0.095))["lambda_select"].item() == 5e-4


def test_seeds_and_their_means_choose_alike() -> None:
    means = published.lambda_sweep(4)
    shifts = np.array([-0.004, 0.0, 0.004])
    runs = pd.concat(
        [
            means.assign(
                seed=seed,
                dev_loss=means["dev_loss"] + shift,
                dev_rationale_ratio=means["dev_rationale_ratio"] - shift,
            )
            for seed, shift in enumerate(shifts)
        ]
    ).drop(columns="num_seeds")
    from_runs, from_means = select_lambda_select(runs), select_lambda_select(means)
    same = ["task", "model", "p_target", "lambda_select", "num_settings", "num_eligible", "nearest_lambda_select"]
    pd.testing.assert_frame_equal(from_runs[same], from_means[same])
    np.testing.assert_allclose(from_runs["dev_loss"], from_means["dev_loss"])
    assert from_runs["num_seeds"].tolist() == [3, 3, 3]
    assert from_means["num_seeds"].tolist() == [10, 10, 10]


def test_nothing_eligible_chooses_none_and_names_the_nearest() -> None:
    frame = pd.DataFrame([one_setting(0.18, lambda_select=1e-4), one_setting(0.17, lambda_select=1e-3)])
    choice = select_lambda_select(frame).iloc[0]
    assert np.isnan(choice["lambda_select"])
    assert np.isnan(choice["dev_loss"])
    assert choice["num_eligible"] == 0
    assert choice["nearest_lambda_select"] == 1e-3
    assert choice["why"].startswith("Nothing is within 1 point of p_target; nearest is lambda_select 0.001 with 17 %.")


def test_stopped_runs_are_counted_and_not_averaged() -> None:
    runs = [one_setting(0.15, 0.2, seed=seed, status="ok") for seed in range(9)]
    runs += [one_setting(0.9, 99.0, seed=9, status="diverged")]
    runs += [one_setting(0.15, 0.3, seed=seed, status="ok", lambda_select=1e-2) for seed in range(10)]
    runs += [one_setting(np.nan, np.nan, seed=0, status="failed", lambda_select=1e-1)]
    choice = select_lambda_select(pd.DataFrame(runs)).iloc[0]
    assert choice["lambda_select"] == 1e-3
    assert choice["dev_loss"] == pytest.approx(0.2)
    assert (choice["num_seeds"], choice["num_seeds_expected"]) == (9, 10)
    assert "Fewer seeds: lambda_select 0.001 (9 of 10)." in choice["why"]
    assert "lambda_select 0.1 (none of 1 runs has a result: failed)" in choice["why"]


def test_a_run_without_a_ratio_has_no_result_where_the_ratio_decides() -> None:
    runs = pd.DataFrame(
        [
            one_setting(0.15, 0.3, seed=1),
            one_setting(np.nan, 0.1, seed=2),
            one_setting(np.nan, 0.1, seed=1, lambda_select=1e-2),
        ]
    )
    settings = lambda_settings(runs).set_index("lambda_select")
    assert settings["num_seeds"].to_dict() == {1e-3: 1, 1e-2: 0}
    assert settings.loc[1e-3, "dev_loss"] == 0.3
    assert np.isnan(settings.loc[1e-2, "dev_loss"])
    assert settings.loc[1e-2, "reason"] == "none of 1 runs has a result: no dev result"
    assert select_lambda_select(runs)["lambda_select"].tolist() == [1e-3]

    teacher = select_teacher(runs[:2]).iloc[0]
    assert (teacher["seed"], teacher["num_seeds"], teacher["num_seeds_expected"]) == (1, 1, 2)
    of_alpha = runs.rename(columns={"lambda_select": "alpha"})  # of alpha the loss alone decides
    assert alpha_settings(of_alpha)["num_seeds"].tolist() == [2, 1]


def test_unequal_counts_of_the_paper_are_shown() -> None:
    why = select_lambda_select(published.lambda_sweep(5)).set_index("model")["why"]
    assert "1e-05 (9 of 10)" in why["BERT Base"]
    assert "1e-05 (8 of 10); lambda_select 5e-05 (7 of 10)" in why["BERT Small"]
    assert "Fewer seeds" not in why["BERT Mini"]


def test_ties_go_to_the_smaller_value() -> None:
    frame = pd.DataFrame([one_setting(0.15, lambda_select=value) for value in (1e-2, 1e-3, 1e-1)])
    assert select_lambda_select(frame)["lambda_select"].item() == 1e-3
    seeds = pd.DataFrame([one_setting(0.15, seed=seed) for seed in (3, 1, 2)])
    assert select_teacher(seeds)["seed"].item() == 1


def test_test_results_decide_nothing() -> None:
    frame = published.lambda_sweep(4)
    spoiled = frame.assign(test_accuracy=np.linspace(1, 0, len(frame)), test_loss="not a number")
    pd.testing.assert_frame_equal(select_lambda_select(frame), select_lambda_select(spoiled))
    assert not any(name.startswith("test") for name in select_lambda_select(spoiled))


def test_missing_columns_are_named() -> None:
    with pytest.raises(ValueError, match=r"select_lambda_select needs the columns dev_loss, p_target"):
        select_lambda_select(published.lambda_sweep(4).drop(columns=["dev_loss", "p_target"]))
    with pytest.raises(ValueError, match="select_alpha needs the columns alpha"):
        select_alpha(published.lambda_sweep(4))
    with pytest.raises(ValueError, match="select_teacher needs the columns seed"):
        select_teacher(published.lambda_sweep(4))


def test_a_run_given_twice_or_a_tolerance_below_zero_is_refused() -> None:
    runs = pd.DataFrame([one_setting(0.15, seed=1), one_setting(0.15, seed=1)])
    with pytest.raises(ValueError, match=r"2 rows stand for the same runs, such as model=m, p_target=0.15"):
        select_lambda_select(runs)
    with pytest.raises(ValueError, match="tolerance is a fraction"):
        select_lambda_select(runs.iloc[:1], tolerance=-0.01)


def test_other_settings_are_never_averaged() -> None:
    runs = [one_setting(0.15, loss, seed=1, learning_rate=rate) for rate, loss in ((1e-5, 0.2), (1e-3, 0.4))]
    choices = select_lambda_select(pd.DataFrame(runs))
    assert choices[["learning_rate", "dev_loss"]].to_numpy().tolist() == [[1e-5, 0.2], [1e-3, 0.4]]
    alike = select_lambda_select(pd.DataFrame(runs).assign(learning_rate=1e-5, seed=[1, 2]))
    assert alike["dev_loss"].item() == pytest.approx(0.3)
    assert alike.columns.tolist() == choices.columns.tolist()  # whatever values there are
    assert alike.columns.tolist()[:3] == ["model", "p_target", "lambda_select"]
    assert alike.columns[-1] == "learning_rate"
    targets = pd.DataFrame([one_setting(0.15), one_setting(0.35, p_target=0.35)])
    assert select_lambda_select(targets)["p_target"].tolist() == [0.15, 0.35]


def many_seeds(losses: dict[float, list[float]], **columns: object) -> pd.DataFrame:
    rows = [
        one_setting(0.15, loss, seed=seed, lambda_select=value, **columns)
        for value, of_seeds in losses.items()
        for seed, loss in enumerate(of_seeds)
    ]
    return pd.DataFrame(rows)


def test_settings_that_a_paired_test_cannot_tell_from_the_choice_are_named() -> None:
    near, noise = [0.20, 0.30, 0.40, 0.50], [0.01, -0.01, 0.015, -0.005]
    runs = many_seeds(
        {
            1e-3: near,
            1e-2: [loss + more + 0.002 for loss, more in zip(near, noise, strict=True)],
            1e-1: [
                loss + more / 10 + 0.05 for loss, more in zip(near, noise, strict=True)
            ],  # far, though seeds spread more
        }
    )
    settings = lambda_settings(runs).set_index("lambda_select")
    assert settings["tied"].to_dict() == {1e-3: False, 1e-2: True, 1e-1: False}
    assert settings.loc[1e-1, "tied_p"] < 0.05 < settings.loc[1e-2, "tied_p"]
    assert settings["tied_pairs"].tolist() == [0, 4, 4]
    choice = select_lambda_select(runs).iloc[0]
    assert choice["num_tied"] == 1
    assert "Not told apart from it by a paired test: lambda_select 0.01 (p 0.5 on 4 seeds)." in choice["why"]
    two = select_lambda_select(runs[runs["seed"] < 2]).iloc[0]
    assert two["num_tied"] == 2
    assert "lambda_select 0.1 (2 shared seeds, too few to tell)" in two["why"]
    means = runs.groupby(["model", "lambda_select", "p_target"], as_index=False).mean().drop(columns="seed")
    assert select_lambda_select(means.assign(num_seeds=4))["num_tied"].item() == 0  # of means nobody can tell


def test_a_choice_that_rests_on_fewer_than_half_of_the_seeds_is_marked() -> None:
    runs = many_seeds({1e-3: [0.1] * 10, 1e-2: [0.2] * 10})
    runs["status"] = np.where((runs["lambda_select"] == 1e-3) & (runs["seed"] > 3), "diverged", "ok")
    choice = select_lambda_select(runs).iloc[0]
    assert (choice["lambda_select"], choice["few_seeds"]) == (1e-3, True)
    assert "It rests on 4 of 10 seeds, fewer than half." in choice["why"]
    half = select_lambda_select(runs.assign(status=np.where(runs["seed"] > 4, "diverged", "ok"))).iloc[0]
    assert not half["few_seeds"]


def test_another_rule_is_one_instance_and_speaks_for_itself() -> None:
    rule = SelectionRule(
        name="select_by_accuracy",
        chosen="epochs",
        objective="re",
        score="dev_accuracy",
        highest=True,
        says="Highest mean dev accuracy",
    )
    rows = [
        {"model": "m", "epochs": epochs, "seed": seed, "dev_loss": 1.0, "dev_accuracy": accuracy, "learning_rate": rate}
        for rate, shift in ((1e-3, 0.0), (1e-2, 0.1))
        for epochs, accuracy in ((2, 0.5 - shift), (5, 0.7 - shift), (9, 0.6 + shift))
        for seed in range(3)
    ]
    picked = choices(rule, pd.DataFrame(rows))
    assert picked[["learning_rate", "epochs"]].to_numpy().tolist() == [[1e-3, 5], [1e-2, 9]]
    assert picked["dev_accuracy"].tolist() == pytest.approx([0.7, 0.7])
    assert picked["why"].str.startswith("Highest mean dev accuracy of 3 eligible.").all()
    assert judged(rule, pd.DataFrame(rows))["chosen"].sum() == 2
    with pytest.raises(ValueError, match="select_by_accuracy needs the columns dev_accuracy"):
        choices(rule, pd.DataFrame(rows).drop(columns="dev_accuracy"))


def test_only_rows_of_the_objective_count() -> None:
    rows = [one_setting(0.15, 0.5, seed=1, objective="re"), one_setting(0.15, 0.1, seed=1, objective="rekd", alpha=0.3)]
    assert select_lambda_select(pd.DataFrame(rows))["dev_loss"].item() == 0.5
    assert select_teacher(pd.DataFrame(rows))["dev_loss"].item() == 0.5
    assert select_alpha(pd.DataFrame(rows))["dev_loss"].item() == 0.1


def test_plain_re_is_no_candidate_for_alpha() -> None:
    rows = [{"model": "m", "alpha": alpha, "dev_loss": loss} for alpha, loss in ((1.0, 0.1), (0.5, 0.2), (0.0, 0.3))]
    choice = select_alpha(pd.DataFrame(rows)).iloc[0]
    assert choice["alpha"] == 0.5
    assert choice["why"] == "Lowest mean dev loss of 2 eligible. Not eligible: alpha 1 (plain RE, the baseline)."
    assert np.isnan(choice["dev_rationale_ratio"])
    alone = select_alpha(pd.DataFrame(rows[:1]))
    assert alone["alpha"].isna().all()
    assert alpha_settings(pd.DataFrame(rows[:1]))["chosen"].tolist() == [False]


def test_the_teacher_is_the_best_run_within_tolerance() -> None:
    rows = [
        one_setting(0.19, 0.1, seed=1, digest="a"),
        one_setting(0.16, 0.3, seed=2, digest="b"),
        one_setting(0.15, 0.4, seed=3, digest="c"),
        one_setting(np.nan, np.nan, seed=4, digest="d"),
    ]
    choice = select_teacher(pd.DataFrame(rows)).iloc[0]
    assert (choice["seed"], choice["digest"], choice["dev_loss"]) == (2, "b", 0.3)
    assert (choice["num_seeds"], choice["num_seeds_expected"], choice["num_eligible"]) == (3, 4, 2)
    assert choice["nearest_seed"] == 3
    assert "seed 20260501 (" in select_teacher(pd.DataFrame([rows[0] | {"seed": 20260501}, rows[1]]))["why"].item()
    none = select_teacher(pd.DataFrame(rows[:1])).iloc[0]
    assert pd.isna(none["seed"])
    assert pd.isna(none["digest"])
    assert none["nearest_seed"] == 1


@pytest.mark.parametrize("rule", [select_lambda_select, select_alpha, select_teacher])
def test_an_empty_frame_gives_no_rows_and_the_same_columns(rule) -> None:
    frame = pd.DataFrame([one_setting(0.15, seed=1, alpha=0.3)])
    assert rule(frame.iloc[:0]).columns.tolist() == rule(frame).columns.tolist()
    assert len(rule(frame.iloc[:0])) == 0


# --- Properties -----------------------------------------------------------------------------------------------------

TARGET, TOLERANCE = 0.25, 0.0625
"""Like all numbers below, a sum of powers of two: means of such numbers do not depend on the order of the rows."""
GRID = {"lambda_select": (1e-4, 1e-3, 1e-2, 1e-1), "alpha": (0.0, 0.25, 0.5, 0.75), "seed": (1, 2, 3, 4)}
RULES = {
    "lambda_select": lambda runs: select_lambda_select(runs, TOLERANCE),
    "alpha": select_alpha,
    "seed": lambda runs: select_teacher(runs, TOLERANCE),
}
"""By what they choose."""
statuses = st.sampled_from(["ok"] * 5 + ["diverged", "failed"])
losses = st.integers(1, 8).map(lambda count: count / 8)  # few, so that ties are frequent
ratios = st.integers(0, 32).map(lambda count: count / 64)


@st.composite
def runs_of(draw: st.DrawFn, chosen: str) -> pd.DataFrame:
    """One row a run, of one or two models: some values of the grid, some seeds, some runs without a result."""
    rows = []
    for model in draw(st.sampled_from([["a"], ["a", "b"]])):
        for value in draw(st.lists(st.sampled_from(GRID[chosen]), min_size=1, unique=True)):
            for seed in [value] if chosen == "seed" else draw(st.lists(st.integers(1, 3), min_size=1, unique=True)):
                row = one_setting(draw(ratios), draw(losses), model=model, p_target=TARGET, status=draw(statuses))
                rows.append(row | {"seed": seed, chosen: value})
    return pd.DataFrame(rows)


def settings_of(runs: pd.DataFrame, chosen: str) -> pd.DataFrame:
    """Means of the runs that have a result, and whether they may be chosen, by another way than the rules'."""
    means = runs[runs["status"] == "ok"].groupby(["model", chosen])[["dev_loss", "dev_rationale_ratio"]].mean()
    means["eligible"] = True if chosen == "alpha" else (means["dev_rationale_ratio"] - TARGET).abs() <= TOLERANCE
    candidates = means[means["eligible"]].index
    behind = [one for one in candidates if any(left_behind(runs, one, other, chosen) for other in candidates)]
    means.loc[behind, "eligible"] = False
    return means.reset_index()


def left_behind(runs: pd.DataFrame, one: tuple[str, float], other: tuple[str, float], chosen: str) -> bool:
    """Whether a setting has fewer seeds than another of its model and could not be ahead of it with as many as any has."""
    if chosen == "seed" or one[0] != other[0]:
        return False
    rows = [runs[(runs["model"] == model) & (runs[chosen] == value)] for model, value in (one, other)]
    most = runs[runs["model"] == one[0]].groupby(chosen).size().max()
    ok = [each[each["status"] == "ok"].set_index("seed")["dev_loss"] for each in rows]
    differences = (ok[0] - ok[1]).dropna().to_numpy()
    return len(rows[0]) < len(rows[1]) and bool(chance_above_zero(differences, most) >= 0.95)


def choices_of(runs: pd.DataFrame, chosen: str) -> pd.DataFrame:
    """By model: the choice with its numbers, but without the words on what was not chosen."""
    return RULES[chosen](runs).set_index("model")[[chosen, "dev_loss", "dev_rationale_ratio", "num_eligible"]]


@pytest.mark.parametrize("chosen", RULES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_the_choice_is_the_eligible_setting_of_the_lowest_loss_and_of_those_the_smallest(chosen, data) -> None:
    runs = data.draw(runs_of(chosen))
    choices = choices_of(runs, chosen)
    assert set(choices.index) == set(runs["model"])
    means = settings_of(runs, chosen)
    for model, choice in choices.iterrows():
        eligible = means[means["eligible"] & (means["model"] == model)]
        assert choice["num_eligible"] == len(eligible)
        if eligible.empty:
            assert pd.isna(choice[chosen])
            continue
        best = eligible.sort_values(["dev_loss", chosen]).iloc[0]
        assert choice[[chosen, "dev_loss", "dev_rationale_ratio"]].tolist() == [
            best[chosen],
            best["dev_loss"],
            best["dev_rationale_ratio"],
        ]


@pytest.mark.parametrize("chosen", RULES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_the_choice_does_not_depend_on_the_order_of_rows(chosen, data) -> None:
    runs = data.draw(runs_of(chosen))
    shuffled = runs.iloc[data.draw(st.permutations(range(len(runs))))]
    pd.testing.assert_frame_equal(RULES[chosen](shuffled), RULES[chosen](runs))


@pytest.mark.parametrize("chosen", RULES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_setting_that_is_not_eligible_changes_no_choice_and_an_eligible_one_may(chosen, data) -> None:
    runs = data.draw(runs_of(chosen))
    before = choices_of(runs, chosen)
    new = 1.0 if chosen == "alpha" else 9  # plain RE; a value that is none of the grid's
    ratio = TARGET if chosen == "alpha" else TARGET + data.draw(st.sampled_from([-1, 1])) * (TOLERANCE + 1 / 64)
    low = one_setting(ratio, 1 / 16, model="a", p_target=TARGET, status="ok") | {"seed": 9, chosen: new}
    pd.testing.assert_frame_equal(choices_of(pd.concat([runs, pd.DataFrame([low])]), chosen), before)
    stopped = low | {"dev_rationale_ratio": TARGET, "status": "diverged", chosen: 9}
    pd.testing.assert_frame_equal(choices_of(pd.concat([runs, pd.DataFrame([stopped])]), chosen), before)

    eligible = stopped | {"status": "ok"}
    after = choices_of(pd.concat([runs, pd.DataFrame([eligible])]), chosen)
    assert after.loc["a", chosen] == 9
    assert after.loc["a", "num_eligible"] == before.loc["a", "num_eligible"] + 1
    pd.testing.assert_frame_equal(after.drop("a"), before.drop("a"))


def test_a_setting_that_got_fewer_seeds_because_it_was_behind_is_not_chosen_for_having_had_easy_ones() -> None:
    losses = {1e-3: [0.30, 0.31, 0.29, 0.80, 0.90], 1e-2: [0.40, 0.41, 0.39]}
    rows = [
        one_setting(0.15, loss, seed=seed, lambda_select=value)
        for value, seen in losses.items()
        for seed, loss in enumerate(seen)
    ]
    frame = pd.DataFrame(rows)
    choice = select_lambda_select(frame).iloc[0]
    assert frame.groupby("lambda_select")["dev_loss"].mean().idxmin() == 1e-2
    assert choice["lambda_select"] == 1e-3
    assert "lambda_select 0.01 (3 of 5 seeds, behind lambda_select 0.001 on them)" in choice["why"]
    ahead = frame.assign(dev_loss=frame["dev_loss"].where(frame["lambda_select"] == 1e-3, 0.2))
    assert select_lambda_select(ahead)["lambda_select"].item() == 1e-2
