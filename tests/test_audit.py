"""Every verdict of an audit has a model that was built to fail it, and one beside it that does not."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from rekd.method.audit import Auditor, leak_by_probe, leak_by_swap, partners, top
from rekd.method.judge import answers, saliency, train_judge
from rekd.method.samples import DeviceSamples
from rekd.method.streams import Streams
from rekd.store.audits import Audit, Audits
from rekd.store.files import Store

TEST = tiny.texts(400, seed=2)
EVIDENCE = np.isin(TEST.arrays["input_ids"], (7, 8))
"""The one word that tells the class, wherever it stands among eight: the truth."""

CODED = EVIDENCE | (np.eye(8, dtype=bool)[7] & (TEST.labels == 1)[:, None])
"""As well as the last place, where the class is 1: a mask whose shape tells the label."""


@pytest.fixture(scope="module")
def auditor() -> Auditor:
    """Of the problem of one word, with a judge that was trained on random parts of its texts."""
    trial = tiny.trial("cls", seed=0, epochs=4, learning_rate=3e-3, model="bert")
    streams = Streams(0, device=tiny.CPU)
    train, dev = (DeviceSamples(tiny.texts(count, seed=seed), tiny.CPU) for count, seed in ((400, 0), (100, 1)))
    judge = train_judge(tiny.model_for(trial, streams), train, trial, streams)
    return Auditor(judge, dev, DeviceSamples(TEST, tiny.CPU))


def audited(auditor: Auditor, mask, model=None) -> Audit:
    return Audit(judge="judge", **auditor.audit(mask, model))


def test_a_judge_is_right_about_wholes_and_parts_and_knows_when_it_sees_nothing(auditor):
    found = audited(auditor, EVIDENCE)
    assert found.judge_whole > 0.95
    assert found.judge_rationale > 0.95 > 0.7 > found.judge_random
    assert found.judge_rest < 0.65  # without the evidence it guesses
    assert 1 > found.judge_saliency > found.judge_random + 0.1


def test_a_model_that_selects_the_evidence_follows_the_input_and_suffices(auditor):
    found = audited(auditor, EVIDENCE)
    assert (found.follows, found.is_sufficient, found.leaks) == (True, True, None)
    assert found.verdict == "follows the input, sufficient by the judge, leak not asked"


def test_a_model_with_one_mask_for_all_does_not_follow_even_where_that_suffices(auditor):
    found = audited(auditor, np.ones((400, 8), dtype=bool))
    assert (found.follows, found.is_sufficient) == (False, True)
    assert found.judge_dealt == found.judge_rationale


def test_a_model_that_selects_something_else_of_every_input_does_not_suffice(auditor):
    found = audited(auditor, np.roll(EVIDENCE, 1, axis=1))
    assert (found.follows, found.is_sufficient) == (False, False)


def test_a_model_that_selects_nothing_neither_follows_nor_suffices(auditor):
    found = audited(auditor, np.zeros((400, 8), dtype=bool))
    assert (found.follows, found.is_sufficient) == (False, False)
    assert found.judge_rest == found.judge_whole


class _ReadsTheMask(torch.nn.Module):
    """A predictor that never looks at the content: its answer is whether the last place is kept."""

    def forward(self, inputs, mask):
        return torch.stack((1 - mask[:, 7], mask[:, 7]), dim=-1)


def test_a_model_that_reads_the_label_off_the_mask_leaks_and_one_that_reads_the_content_does_not(auditor):
    content = audited(auditor, CODED, SimpleNamespace(predictor=auditor.judge.predictor))
    mask = audited(auditor, CODED, SimpleNamespace(predictor=_ReadsTheMask()))
    assert mask.leaks is True
    assert mask.swap_rate > 0.9
    assert mask.swap_control < 0.1
    assert content.leaks is False
    assert mask.verdict.endswith(", leaks")
    # To a probe both are alike, for their masks are: only the swap tells who reads them.
    assert content.probe_accuracy == mask.probe_accuracy > 0.9 > 0.6 > content.probe_chance


def test_a_probe_tells_nothing_from_masks_that_are_alike_for_all_classes():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 2000)
    found = leak_by_probe(rng.random((2000, 16)) < 0.2, labels)
    assert found["probe_accuracy"] == pytest.approx(0.25, abs=0.04)
    assert found["probe_chance"] == pytest.approx(np.bincount(labels).max() / 2000)


def test_what_a_model_says_by_mistake_is_no_leak():
    """A model that always says class 0, under any mask: to class 0 it errs all the time."""
    always = SimpleNamespace(predictor=lambda inputs, mask: torch.tensor([[1.0, 0.0]]).expand(len(mask), 2))
    found = leak_by_swap(always, DeviceSamples(TEST, tiny.CPU), EVIDENCE)
    assert found["swap_rate"] == found["swap_control"] > 0.4


def test_partners_are_others_of_the_class_that_is_asked_for():
    labels = np.array([0, 1, 2] * 20 + [3])
    everyone = np.arange(61)
    same, other, any_class = (partners(labels, same_class=which) for which in (True, False, None))
    assert (labels[same] == labels).all()
    assert (same != everyone)[:60].all()
    assert same[60] == 60  # the only one of its class
    assert (labels[other] != labels).all()
    assert (any_class != everyone).all()
    assert np.array_equal(other, partners(labels, same_class=False))


def test_baselines_have_as_many_features_as_the_rationale():
    scores, sizes = np.random.default_rng(0).random((50, 16)), np.arange(50) % 17
    kept = top(scores, sizes)
    assert kept.sum(axis=1).tolist() == sizes.tolist()
    assert all(scores[row][mask].min(initial=2) >= scores[row][~mask].max(initial=-1) for row, mask in enumerate(kept))


def test_saliency_is_the_gradient_by_the_mask(auditor):
    found = saliency(auditor.judge.predictor, auditor.test)
    step, row, feature = 1e-3, 3, int(EVIDENCE[3].argmax())
    inputs = auditor.test.take(torch.tensor([row])).inputs
    mask = torch.ones(2, 8)
    mask[0, feature] += step
    mask[1, feature] -= step
    with torch.no_grad():
        logits = auditor.judge.predictor({name: values.expand(2, -1) for name, values in inputs.items()}, mask)
    slope = (logits[0] - logits[1])[logits[0].argmax()] / (2 * step)
    assert found[row, feature] == pytest.approx(slope.item(), rel=0.1)


def test_a_judge_of_images_sees_pixels():
    trial = tiny.trial("cls", seed=0, epochs=4, learning_rate=3e-3)
    streams = Streams(0, device=tiny.CPU)
    judge = train_judge(tiny.model_for(trial, streams), DeviceSamples(tiny.images(400), tiny.CPU), trial, streams)
    pool = tiny.images(200, seed=2)
    pixels = np.eye(16, dtype=bool)[np.where(pool.labels == 1, 5, 10)]
    assert (answers(judge.predictor, DeviceSamples(pool, tiny.CPU), pixels) == pool.labels).mean() > 0.95


def test_audits_are_kept_by_trial(auditor, tmp_path):
    kept, found = Audits(Store(tmp_path)), audited(auditor, EVIDENCE)
    kept.write("0" * 16, found)
    (row,) = kept.read().to_pylist()
    assert row.pop("digest") == "0" * 16
    assert Audit(**row) == found
