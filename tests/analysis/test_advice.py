"""What is said where a rule finds nothing."""

import pandas as pd
import pytest

from analysis.advice import advise, advised
from analysis.selection import alpha_rule, judged, lambda_rule, teacher_rule


def runs(*seen: tuple[float, float], seed: int = 1, **columns: object) -> pd.DataFrame:
    """One run for each (lambda_select, ratio), all at 15 %."""
    rows = [
        {"task": "t", "model": "m", "seed": seed + number, "lambda_select": value, "p_target": 0.15, "dev_loss": 1.0}
        | {"dev_rationale_ratio": ratio, "digest": f"d{number}"}
        | columns
        for number, (value, ratio) in enumerate(seen)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("seen", "lambdas", "tolerance"),
    [
        ([(0.001, 0.4), (0.01, 0.3), (0.1, 0.2)], (1.0, 10.0), 0.05),
        ([(0.001, 0.2), (0.01, 0.3), (0.1, 0.0)], (1e-5, 1e-4), 0.05),
        ([(0.001, 0.4), (0.01, 0.17), (0.1, 0.0)], (0.003, 0.03), 0.02),
        ([(0.01, 0.0)], (0.001, 0.1, 1.0), 0.15),
    ],
)
def test_another_grid_lies_where_the_ratio_came_nearest(seen, lambdas, tolerance):
    advice = advise(lambda_rule(), judged(lambda_rule(), runs(*seen)))
    assert advice.lambdas == lambdas
    assert advice.tolerance == tolerance
    assert advice.why


def test_the_tolerance_that_is_advised_is_the_least_that_finds_something():
    frame = runs((0.001, 0.4), (0.01, 0.1712))
    tolerance = advise(lambda_rule(), judged(lambda_rule(), frame)).tolerance
    assert judged(lambda_rule(tolerance), frame)["chosen"].any()
    assert not judged(lambda_rule(tolerance - 1e-4), frame)["chosen"].any()


def test_of_runs_the_nearest_is_named_by_its_seed():
    frame = runs((0.01, 0.192), (0.01, 0.127))
    advice = advise(teacher_rule(), judged(teacher_rule(), frame))
    assert (advice.seed, advice.tolerance) == (2, 0.023)
    assert "The ratios of single runs lie around 15.95%" in advice.why


def test_where_all_diverged_a_smaller_lambda_is_told():
    frame = runs((0.01, 0.2), (0.1, 0.2), status="diverged")
    advice = advise(lambda_rule(), judged(lambda_rule(), frame))
    assert (advice.lambdas, advice.tolerance) == ((1e-4, 1e-3), None)


def test_plain_re_alone_is_no_alpha():
    frame = runs((0.01, 0.15), alpha=1.0)
    assert advise(alpha_rule(), judged(alpha_rule(), frame)).alphas == (0.0, 0.3, 0.5, 0.7)


def test_nothing_is_said_where_something_was_chosen():
    frame = pd.concat([runs((0.01, 0.15)), runs((0.01, 0.5)).assign(model="other")])
    assert [group["model"] for group, _ in advised(lambda_rule(), frame)] == ["other"]
