"""Where the tokens of a text stand in it, so that a selected token can be shown there.

What is marked for a token is its whole word. Scripts that write no spaces have no words to a tokenizer but whole
sentences: there it is the token itself.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Any

Span = tuple[int, int]
"""First character, counted from 0, and the one after the last; (0, 0) where there is nothing to show."""

WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "YI", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""Scripts that do not set words apart, as Unicode's names of their letters begin."""


@dataclass(frozen=True, kw_only=True)
class ReadText:
    """A text as a tokenizer reads it."""

    text: str
    input_ids: list[int]
    valid: list[int]
    """1 where there is a token, 0 where there is padding."""
    tokens: list[str]
    """The tokens as the vocabulary writes them."""
    spans: list[Span]
    """What is marked in the text for each position that is selected."""
    read: Span
    """What of the text was read: less than all of it where it has more tokens than fit."""


def read_text(tokenizer: Any, text: str, *, max_length: int) -> ReadText:
    """A text's tokens, padded or cut to `max_length`, and their places. Tokenizers that know none are aligned by text."""
    encoded, tokens, places = _encoded(tokenizer, text, max_length=max_length)
    if tokenizer.is_fast:
        words = encoded.word_ids()  # to some tokenizers a whole text is one word
        is_cut = bool(encoded.encodings[0].overflowing)
    else:
        words = [None if place == (0, 0) else 0 for place in places]
        is_cut = encoded.get("num_truncated_tokens", 0) > 0
    found = [place for place in places if place != (0, 0)]
    return ReadText(
        text=text,
        input_ids=encoded["input_ids"],
        valid=encoded["attention_mask"],
        tokens=tokens,
        spans=_marked(text, places, [(word, _run_of(text, place)) for word, place in zip(words, places, strict=True)]),
        read=(found[0][0], found[-1][1]) if is_cut and found else (0, len(text)),
    )


def token_places(tokenizer: Any, text: str, *, max_length: int) -> list[Span]:
    """Where each token of a text stands by itself, not its word; special tokens and padding stand nowhere."""
    return _encoded(tokenizer, text, max_length=max_length)[2]


def _encoded(tokenizer: Any, text: str, *, max_length: int) -> tuple[Any, list[str], list[Span]]:
    """What the tokenizer makes of a text, its tokens as the vocabulary writes them, and the place of each."""
    encoded = tokenizer(
        text,
        truncation=True,
        padding="max_length",
        max_length=max_length,
        return_attention_mask=True,
        return_special_tokens_mask=True,
        return_offsets_mapping=tokenizer.is_fast,
        return_overflowing_tokens=not tokenizer.is_fast,
    )
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    if not tokenizer.is_fast:
        return encoded, tokens, _aligned_places(tokenizer, text, tokens, encoded["special_tokens_mask"])
    # A space that a tokenizer puts before a text stands, by its account, where the first letter does.
    places = [
        _trimmed(text, *place) if token.strip("▁Ġ") else (0, 0)
        for token, place in zip(tokens, encoded["offset_mapping"], strict=True)
    ]
    return encoded, tokens, places


def _trimmed(text: str, start: int, end: int) -> Span:
    """Without the white space that some tokenizers count to the word behind it."""
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return (start, start + len(piece.strip())) if piece.strip() else (0, 0)


def _marked(text: str, places: Sequence[Span], words: Sequence[tuple[int | None, int | None]]) -> list[Span]:
    """What is marked for each token: from the first to the last of its word's, or itself in scripts without spaces."""
    spans: list[Span] = []
    for (word, run), group in groupby(zip(words, places, strict=True), key=lambda pair: pair[0]):
        of_word = [place for _, place in group]
        shown = [place for place in of_word if place != (0, 0)]
        if word is None or run is None:
            spans += [(0, 0)] * len(of_word)
        elif _has_spaces(text[shown[0][0] : shown[-1][1]]):
            spans += [(shown[0][0], shown[-1][1])] * len(of_word)
        else:
            spans += of_word
    return spans


def _has_spaces(word: str) -> bool:
    """Whether it is written in scripts that set words apart."""
    return not any(unicodedata.name(letter, "").startswith(WITHOUT_SPACES) for letter in word)


def _run_of(text: str, place: Span) -> int | None:
    """Where the characters between white space begin among which a token stands; None where it stands nowhere."""
    if place == (0, 0):
        return None
    return next((index + 1 for index in range(place[0] - 1, -1, -1) if text[index].isspace()), 0)


def _aligned_places(tokenizer: Any, text: str, tokens: Sequence[str], is_special: Sequence[int]) -> list[Span]:
    pieces = ["" if special else _surface(tokenizer, token) for token, special in zip(tokens, is_special, strict=True)]
    unknown = [not special and token == tokenizer.unk_token for token, special in zip(tokens, is_special, strict=True)]
    return aligned(text, ["\0" if is_unknown else piece for piece, is_unknown in zip(pieces, unknown, strict=True)])


def _surface(tokenizer: Any, token: str) -> str:
    """What a token looks like in a text, without the marks of word pieces."""
    text = tokenizer.convert_tokens_to_string([token]).strip()
    return text.removesuffix("@@").removesuffix("</w>").removeprefix("##").strip("▁ ")


def aligned(text: str, pieces: Sequence[str]) -> list[Span]:
    """Where pieces stand that were cut from a text, which may be spelt otherwise there.

    One that is not found takes what lies between those that are. Empty pieces stand nowhere.
    """
    letters = [index for index, letter in enumerate(text) if not letter.isspace()]
    ours, theirs = "".join(map(_plain, pieces)), _plain("".join(text[index] for index in letters))
    matched = {
        block.a + step: letters[block.b + step]
        for block in SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
        for step in range(block.size)
    }
    found: list[Span | None] = []
    at = 0
    for piece in pieces:
        places = [matched[index] for index in range(at, at + len(piece)) if index in matched]
        found.append((places[0], places[-1] + 1) if places else None)
        at += len(piece)
    return list(_with_gaps(text, pieces, found))


def _with_gaps(text: str, pieces: Sequence[str], found: Sequence[Span | None]) -> Iterator[Span]:
    for index, place in enumerate(found):
        if not pieces[index]:
            yield (0, 0)
        elif place is not None:
            yield place
        else:
            before = max((one[1] for one in found[:index] if one is not None), default=0)
            after = min((one[0] for one in found[index + 1 :] if one is not None), default=_end_of_word(text, before))
            yield _trimmed(text, before, after)


def _end_of_word(text: str, start: int) -> int:
    """Where the next word ends: with nothing found behind it, a piece may be the last that fits."""
    word = re.compile(r"\S+").search(text, start)
    return len(text) if word is None else word.end()


def _plain(text: str) -> str:
    """Small letters without accents, as many as there were."""
    return "".join(unicodedata.normalize("NFD", letter)[0].lower()[0] for letter in text)
