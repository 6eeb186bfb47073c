"""A rationale in other features: what both can say stays as it is, and as much is selected."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rekd.method.places import by_area, by_characters, log_odds

SIDES = st.integers(1, 9)
GRIDS = st.tuples(SIDES, SIDES)


def drawn(num: int, seed: int) -> torch.Tensor:
    return torch.rand(2, num, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- Cells of images ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(own=GRIDS, other=GRIDS, seed=st.integers(0, 99))
def test_the_area_that_is_selected_stays_as_large(own, other, seed):
    before = drawn(own[0] * own[1], seed)
    after = by_area(before, own=own, other=other)
    torch.testing.assert_close(after.mean(dim=1), before.mean(dim=1), rtol=0, atol=1e-12)
    assert after.min() >= before.min() - 1e-12
    assert after.max() <= before.max() + 1e-12


@settings(max_examples=60, deadline=None)
@given(common=GRIDS, own=GRIDS, other=GRIDS, seed=st.integers(0, 99))
def test_there_and_back_loses_nothing_that_both_grids_can_express(common, own, other, seed):
    """Both grids refine a common one: what is constant on its cells is said exactly by either."""
    own, other = ((common[0] * grid[0], common[1] * grid[1]) for grid in (own, other))
    before = by_area(drawn(common[0] * common[1], seed), own=common, other=own)
    there = by_area(before, own=own, other=other)
    torch.testing.assert_close(by_area(there, own=other, other=own), before, rtol=0, atol=1e-12)


def test_what_only_one_grid_can_express_is_spread_over_the_others_cells():
    corner = torch.zeros(1, 16, dtype=torch.float64)
    corner[0, 0] = 1  # one of 4 x 4
    there = by_area(corner, own=(4, 4), other=(2, 2))
    assert torch.equal(there, torch.tensor([[0.25, 0, 0, 0]], dtype=torch.float64))
    back = by_area(there, own=(2, 2), other=(4, 4))
    assert torch.equal(back.view(4, 4)[:2, :2], torch.full((2, 2), 0.25, dtype=torch.float64))
    assert not torch.equal(back, corner)


def test_rows_are_not_columns():
    top = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert torch.equal(by_area(top, own=(2, 2), other=(2, 1)), torch.tensor([[1.0, 0.0]]))
    assert torch.equal(by_area(top, own=(2, 2), other=(1, 2)), torch.tensor([[0.5, 0.5]]))


def test_odds_are_finite_and_give_the_probabilities():
    probabilities = torch.tensor([0.0, 1e-9, 0.3, 1.0], dtype=torch.float64)
    odds = log_odds(probabilities)
    assert torch.isfinite(odds).all()
    torch.testing.assert_close(odds.sigmoid(), probabilities, rtol=0, atol=1e-11)


# --- Tokens of texts ------------------------------------------------------------------------------------------------


def cut(length: int, cuts: set[int]) -> np.ndarray:
    """The spans into which a text of that length falls at some places."""
    at = [0, *sorted(place for place in cuts if 0 < place < length), length]
    return np.array(list(pairwise(at)))


def mapped(values, own, other, *, own_valid=None, other_valid=None) -> np.ndarray:
    own, other = np.array(own), np.array(other)
    return by_characters(
        np.array(values, dtype=float),
        own=own,
        other=other,
        own_valid=np.ones(len(own), dtype=bool) if own_valid is None else np.array(own_valid),
        other_valid=np.ones(len(other), dtype=bool) if other_valid is None else np.array(other_valid),
    )


def characters(values: np.ndarray, spans: np.ndarray) -> float:
    return float((values * (spans[:, 1] - spans[:, 0])).sum())


CUTS = st.sets(st.integers(1, 29))


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 30), own=CUTS, other=CUTS, seed=st.integers(0, 99))
def test_the_characters_that_are_selected_stay_as_many(length, own, other, seed):
    own, other = cut(length, own), cut(length, other)
    before = np.random.default_rng(seed).random(len(own))
    assert characters(mapped(before, own, other), other) == pytest.approx(characters(before, own), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 30), common=CUTS, own=CUTS, other=CUTS, seed=st.integers(0, 99))
def test_there_and_back_loses_nothing_that_both_tokenizers_can_express(length, common, own, other, seed):
    words, own, other = cut(length, common), cut(length, common | own), cut(length, common | other)
    before = mapped(np.random.default_rng(seed).random(len(words)), words, own)
    assert mapped(mapped(before, own, other), other, own) == pytest.approx(before, abs=1e-9)


def test_a_word_is_as_probable_as_its_pieces_are_on_average():
    pieces, words = [(0, 2), (2, 3), (4, 8)], [(0, 3), (4, 8)]
    assert mapped([0.9, 0.3, 0.5], pieces, words) == pytest.approx([0.7, 0.5])
    assert mapped([0.7, 0.5], words, pieces) == pytest.approx([0.7, 0.7, 0.5])


def test_pieces_of_one_character_share_it():
    """Tokens of bytes: three make one character, which is selected as often as they are on average."""
    assert mapped([1.0, 0.0, 0.5, 0.2], [(0, 1), (0, 1), (0, 1), (1, 2)], [(0, 2)]) == pytest.approx([0.35])


def test_special_tokens_stand_for_special_tokens_and_padding_for_padding():
    own, valid = [(0, 0), (0, 3), (0, 0), (0, 0)], [True, True, True, False]
    other, other_valid = [(0, 0), (0, 1), (1, 3), (0, 0), (0, 0), (0, 0)], [True, True, True, True, False, False]
    got = mapped([0.2, 0.9, 0.4, 0.1], own, other, own_valid=valid, other_valid=other_valid)
    assert got == pytest.approx([0.3, 0.9, 0.9, 0.3, 0.1, 0.1])
    assert mapped([0.2, 0.9, 0.4], own[:3], other, own_valid=valid[:3], other_valid=other_valid)[-1] == 0


def test_what_the_teacher_did_not_read_is_not_selected():
    assert mapped([1.0], [(0, 4)], [(0, 4), (5, 9), (2, 6)]) == pytest.approx([1.0, 0.0, 0.5])
