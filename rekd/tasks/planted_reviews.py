"""The embedded dataset `planted-reviews`: short texts in which three words decide, and where they stand is known.

A text has 20 to 30 words. Three at random places say liking or dislike, which is the label; the others say neither, and
are drawn alike for both labels. It is made when it is first used, the same on every machine.
"""

from typing import Any

import numpy as np

from rekd.tasks.draws import Draws


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LABELS = ("disliked", "liked")

DECIDING = (
    _words(
        "awful boring clumsy dreadful dull empty flat forced hollow horrible lazy lifeless messy poor sloppy stale "
        "tedious terrible tiresome ugly unfunny weak worst wooden"
    ),
    _words(
        "amazing beautiful best brilliant charming clever delightful elegant excellent fine fresh funny graceful great "
        "gripping lovely masterful moving perfect superb tender vivid witty wonderful"
    ),
)
"""Words that say the label, by its number."""

NEUTRAL = _words(
    "the a an and of in on at to from with by as it its this that these those he she they we you who which where when "
    "then while after before during until about around over under between into through again once first last second "
    "next some any each every both other another such same own film movie story plot scene scenes script dialogue actor "
    "actors actress cast role roles camera light music song songs sound score city town street house room door window "
    "train car road river sea war year years day night morning evening summer winter man woman child mother father "
    "brother sister friend doctor soldier teacher writer director producer studio screen audience ticket seat hour "
    "minutes begins ends follows shows tells takes makes gives finds leaves returns travels meets speaks walks runs sits "
    "stands waits looks hears reads writes plays works lives moves opens closes changes is was are were has had does did "
    "will would could there here also only just still already almost three four five long short early late old new"
)
"""Words that say neither."""

NUM_DECIDING = 3
SIZES = {"train": 3000, "dev": 600, "test": 1000}
_SHORTEST, _LONGEST = 20, 30

CHECKSUM = "de5365c3d59a4fda127b9a572aa06d9aa54a2223605cd6ca5e562452d7712876"
"""SHA-256 of all that `make` returns, which a test holds and a task's digest contains."""

Row = dict[str, Any]
"""`text`, `label` (its name), and `rationale`: the deciding words' places, each the first character and the one after
the last."""


def make() -> dict[str, list[Row]]:
    """Train, dev and test."""
    return {name: _rows(count, Draws("planted-reviews", name)) for name, count in SIZES.items()}


def vocabulary() -> list[str]:
    """All words that occur, behind BERT's special tokens: what stands in the tokenizer's vocab.txt."""
    words = sorted({*NEUTRAL, *DECIDING[0], *DECIDING[1]})
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]


def _rows(count: int, draws: Draws) -> list[Row]:
    lengths = _SHORTEST + draws.below(_LONGEST - _SHORTEST + 1, count)
    neutral = draws.below(len(NEUTRAL), (count, _LONGEST))
    deciding = draws.below(len(DECIDING[0]), (count, NUM_DECIDING))
    keys = draws.orders(count, _LONGEST)
    rows = []
    for number in range(count):
        places = np.flatnonzero(np.isin(keys[number], np.sort(keys[number][: lengths[number]])[:NUM_DECIDING]))
        label = number % len(LABELS)
        words = [NEUTRAL[index] for index in neutral[number][: lengths[number]].tolist()]
        for place, index in zip(places.tolist(), deciding[number].tolist(), strict=True):
            words[place] = DECIDING[label][index]
        rows.append(_row(words, places.tolist(), label))
    return rows


def _row(words: list[str], places: list[int], label: int) -> Row:
    starts = np.cumsum([0, *(len(word) + 1 for word in words)]).tolist()
    spans = [[starts[place], starts[place] + len(words[place])] for place in places]
    return {"text": " ".join(words), "label": LABELS[label], "rationale": spans}
