"""An audit of a model's rationales: do they follow the input, do they suffice, and does their shape tell the label?

What is compared has the same number of features in every sample. All of it is asked of the test split; where something is
chosen (the best fixed mask), it is chosen on dev.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from rekd.method.judge import answers, saliency
from rekd.method.models import RationaleModel
from rekd.method.samples import DeviceSamples

SEED = 2026
"""The seed of masks and partners that are drawn: the same for every model."""

NUM_DRAWN = 8
"""Fixed masks that are drawn at random, beside those with a reason, before the best is taken."""

Masks = Bool[np.ndarray, "sample feature"]


@dataclass(frozen=True)
class Auditor:
    """Audits rationales of one task, with its judge."""

    judge: RationaleModel
    dev: DeviceSamples
    test: DeviceSamples

    def audit(self, mask: Masks, model: RationaleModel | None = None) -> dict[str, Any]:
        """All that is found of a model's rationales of the test split, by the columns of `rekd.store.audits`.

        Without its model the swap, which asks the model itself, is left out.
        """
        found = self._by_judge(mask) | leak_by_probe(mask, self.labels)
        return found if model is None else found | leak_by_swap(model, self.test, mask)

    @cached_property
    def labels(self) -> Int64[np.ndarray, "sample"]:
        return self.test.labels.cpu().numpy()

    def _by_judge(self, mask: Masks) -> dict[str, float]:
        """How often the judge is right when it is shown the rationale, the rest, or as much of something else."""
        sizes = mask.sum(axis=1)
        baselines = {
            "dealt": mask[partners(self.labels, same_class=None)],
            "random": _random(sizes, self._real_features),
            "fixed": np.broadcast_to(self.best_fixed(mask), mask.shape),
            "saliency": top(self._saliency, sizes),
        }
        right = self._right(mask)
        of = {name: self._right(other) for name, other in baselines.items()}
        gain = right.astype(float) - of[max(("dealt", "fixed"), key=lambda name: of[name].mean())]
        return {
            "judge_whole": float(self._whole.mean()),
            "judge_rationale": float(right.mean()),
            "judge_rest": float(self._right(~mask).mean()),
            **{f"judge_{name}": float(values.mean()) for name, values in of.items()},
            "follow_gain": float(gain.mean()),
            "follow_error": float(gain.std() / np.sqrt(len(gain))),
        }

    def best_fixed(self, mask: Masks) -> Bool[np.ndarray, "feature"]:
        """Finds the one mask for all that is best on dev by the judge, with as many features as rationales have on average.

        Candidates are what the model selects most often, what is most salient on average, and eight at random.
        """
        size = round(float(mask.sum(axis=1).mean()))
        rng = np.random.default_rng(SEED)
        scores = [mask.mean(axis=0), self._dev_saliency.mean(axis=0)]
        scores += [rng.random(mask.shape[1]) for _ in range(NUM_DRAWN)]
        candidates = [top(score[None], np.array([size]))[0] for score in scores]
        labels = self.dev.labels.cpu().numpy()
        accuracy = [
            (answers(self.judge.predictor, self.dev, np.tile(candidate, (len(labels), 1))) == labels).mean()
            for candidate in candidates
        ]
        return candidates[int(np.argmax(accuracy))]

    def _right(self, mask: Masks | None) -> Bool[np.ndarray, "sample"]:
        return answers(self.judge.predictor, self.test, mask) == self.labels

    @cached_property
    def _whole(self) -> Bool[np.ndarray, "sample"]:
        return self._right(None)

    @cached_property
    def _saliency(self) -> Float[np.ndarray, "sample feature"]:
        return saliency(self.judge.predictor, self.test)

    @cached_property
    def _dev_saliency(self) -> Float[np.ndarray, "sample feature"]:
        return saliency(self.judge.predictor, self.dev)

    @cached_property
    def _real_features(self) -> Masks:
        """False for padding."""
        valid = self.test.inputs.get("valid")
        return np.ones(self._saliency.shape, dtype=bool) if valid is None else valid.bool().cpu().numpy()


def top(scores: Float[np.ndarray, "sample feature"], sizes: Int64[np.ndarray, "sample"]) -> Masks:
    """Selects as many features of each sample as it is given, those with the highest scores; the first of a tie."""
    return ranks(scores) < sizes[:, None]


def ranks(scores: Float[np.ndarray, "sample feature"]) -> Int64[np.ndarray, "sample feature"]:
    """The place of each feature among those of its sample, 0 for the highest score; the first of a tie comes first."""
    return np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")


def _random(sizes: Int64[np.ndarray, "sample"], real: Masks) -> Masks:
    """Selects as many features as each sample is given, drawn among the real ones first."""
    return top(np.random.default_rng(SEED).random(real.shape) + real, sizes)


def partners(labels: Int64[np.ndarray, "sample"], *, same_class: bool | None) -> Int64[np.ndarray, "sample"]:
    """Draws for each sample another one: of its class, of another class, or (None) of any.

    A sample whose class has no other is its own partner.
    """
    rng = np.random.default_rng(SEED)
    chosen = np.arange(len(labels))
    for number in np.unique(labels):
        own = np.flatnonzero(labels == number)
        others = (
            np.arange(len(labels)) if same_class is None else own if same_class else np.flatnonzero(labels != number)
        )
        if len(others) > 1:
            drawn = rng.choice(others, len(own))
            clash = drawn == own
            drawn[clash] = others[(np.searchsorted(others, drawn[clash]) + 1) % len(others)]
            chosen[own] = drawn
    return chosen


def leak_by_probe(mask: Masks, labels: Int64[np.ndarray, "sample"]) -> dict[str, float]:
    """How often a linear probe tells the label from the mask alone, each half of the samples by what it learnt of the other.

    That it can is no leak by itself: where evidence of a class has its place, a good rationale is there.
    """
    from sklearn.linear_model import LogisticRegression

    right = [
        LogisticRegression(max_iter=1000, C=0.1).fit(mask[rows], labels[rows]).predict(mask[~rows]) == labels[~rows]
        for rows in _halves(labels)
        if len(np.unique(labels[rows])) > 1
    ]
    most_frequent = float(np.bincount(labels).max() / len(labels))
    return {
        "probe_accuracy": float(np.concatenate(right).mean()) if right else most_frequent,
        "probe_chance": most_frequent,
    }


def _halves(labels: np.ndarray) -> Iterator[Bool[np.ndarray, "sample"]]:
    first = np.zeros(len(labels), dtype=bool)
    for number in np.unique(labels):  # every class is on both sides
        first[np.flatnonzero(labels == number)[::2]] = True
    yield first
    yield ~first


def leak_by_swap(model: RationaleModel, samples: DeviceSamples, mask: Masks) -> dict[str, float]:
    """Whether the model answers with the class of a mask that was made for a sample of another class.

    `swap_rate`: how often it says class i of the content of class j under a mask made for class i. Some of that is no
    leak: under a wrong mask it errs, and may err to i. `swap_control` is how often it says that same i of that same
    content under a mask made for another sample of class j. `swap_error` is the standard error of their difference.
    """
    labels = samples.labels.cpu().numpy()
    others = partners(labels, same_class=False)
    asked = labels[others]  # the class i whose mask is tried
    swapped = answers(model.predictor, samples, mask[others]) == asked
    control = answers(model.predictor, samples, mask[partners(labels, same_class=True)]) == asked
    difference = swapped.astype(float) - control
    return {
        "swap_rate": float(swapped.mean()),
        "swap_control": float(control.mean()),
        "swap_error": float(difference.std() / np.sqrt(len(difference))),
    }
