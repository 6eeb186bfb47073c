"""A rationale in other features: by the place of each, cells of an image by area, tokens of a text by characters.

A feature's probability of being selected holds all over its place. In other features it is the mean over the place of
each, so that the area, or the characters, that are selected on average stay as many.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns into which an image is divided evenly."""

LEAST = 1e-12
"""A probability nearer than this to 0 or to 1 counts as so far from it: its logit is finite."""


def by_area(probabilities: Float[Tensor, "*sample own"], *, own: Grid, other: Grid) -> Float[Tensor, "*sample other"]:
    """Probabilities of the cells of a grid, in the cells of another grid of the same image; row after row.

    >>> by_area(torch.tensor([[1.0, 0.0, 0.5]]), own=(1, 3), other=(1, 2))
    tensor([[0.6667, 0.3333]])
    """
    rows, columns = (_shares(*sizes) for sizes in zip(own, other, strict=True))
    return probabilities @ torch.kron(rows, columns).T.to(probabilities)


def _shares(own: int, other: int) -> Float[Tensor, "other own"]:
    """How much of each of `other` equal parts of a line lies in each of `own` equal parts of it; each sums to 1."""
    # The line is own * other long: then all that is subtracted is whole.
    starts, own_starts = torch.arange(other)[:, None] * own, torch.arange(own) * other
    overlap = torch.minimum(starts + own, own_starts + other) - torch.maximum(starts, own_starts)
    return overlap.clamp(min=0).double() / own


def by_characters(
    probabilities: Float[np.ndarray, "own"],
    *,
    own: Int[np.ndarray, "own 2"],
    other: Int[np.ndarray, "other 2"],
    own_valid: Bool[np.ndarray, "own"],
    other_valid: Bool[np.ndarray, "other"],
) -> Float[np.ndarray, "other"]:
    """Probabilities of the tokens of a text, in the tokens that another tokenizer makes of it.

    Places are the first character and the one after the last. Where pieces of one character share it, each has a part. What
    was read by the other tokenizer alone is not selected. Tokens without a place stand for those of their kind, special
    tokens or padding (not `valid`): they get the mean of these, and are not selected where there are none.
    """
    total = max(int(own.max(initial=0)), int(other.max(initial=0)))
    covering = _painted(own, np.ones(len(own)), total)
    selected = _painted(own, probabilities, total) / np.maximum(covering, 1)
    until = np.concatenate([[0.0], np.cumsum(selected)])
    lengths = other[:, 1] - other[:, 0]
    mapped = (until[other[:, 1]] - until[other[:, 0]]) / np.maximum(lengths, 1)
    own_placed = own[:, 1] > own[:, 0]
    for kind in (True, False):
        alike = probabilities[~own_placed & (own_valid == kind)]
        mapped[(lengths == 0) & (other_valid == kind)] = alike.mean() if len(alike) else 0.0
    return np.clip(mapped, 0.0, 1.0)  # a difference of sums may be a rounding beside


def _painted(
    spans: Int[np.ndarray, "feature 2"], values: Float[np.ndarray, "feature"], total: int
) -> Float[np.ndarray, "character"]:
    """The sum, at each character, of the values of the spans over it."""
    painted = np.zeros(total)
    for (start, end), value in zip(spans.tolist(), values.tolist(), strict=True):
        painted[start:end] += value
    return painted


def log_odds(probabilities: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The difference of selection logits that gives these probabilities."""
    return torch.logit(probabilities, eps=LEAST)
