"""The files of a tokenizer's folder: which of them change what tokens a text becomes."""

import json
from pathlib import Path
from typing import Any

from rekd.tasks.local_files import sha256_of

VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spm.model",
    "tokenizer.model",
)
"""Files one of which a tokenizer's folder has."""

TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "bpe.codes",
    "byte_maps.json",
    "dict.txt",
    "emoji.json",
    "entity_vocab.json",
    "normalizer.json",
    "prophetnet.tokenizer",
    "source.spm",
    "spm_char.model",
    "target.spm",
    "target_vocab.json",
    "vocab-src.json",
    "vocab-tgt.json",
    "word_pronunciation.json",
    "word_shape.json",
)
"""Every file that a tokenizer of transformers may read. What else lies in the folder, such as weights, is no part of it."""


def tokenizer_content(folder: Path) -> dict[str, str]:
    """Digests of a tokenizer's files by their names."""
    files = (folder / name for name in TOKENIZER_FILES)
    return {file.name: sha256_of(file) for file in files if file.is_file()}


_USUAL = {
    "bpe.codes": ("bertweet",),
    "vocab.txt": ("bert", "distilbert", "electra"),
    "vocab.json": ("roberta",),
    "spiece.model": ("albert",),
}
"""Families whose tokenizers read a vocabulary in the usual way, by the file that it is told by."""


def class_told(folder: Path) -> str | None:
    """What a model's config.json alone makes a folder's vocabulary: the tokenizer's class or the model's family.

    None where the tokenizer's own files say it, and where it is what such a vocabulary usually is.
    """
    own = _settings(folder / "tokenizer_config.json").get("tokenizer_class")
    vocabulary = next((name for name in ("tokenizer.json", *_USUAL) if (folder / name).is_file()), None)
    if own is not None or vocabulary not in _USUAL:
        return None
    config = _settings(folder / "config.json")
    told = config.get("tokenizer_class") or config.get("model_type")
    family = str(told).removesuffix("Fast").removesuffix("Tokenizer").lower()
    return None if told is None or family in _USUAL[vocabulary] else str(told)


def pads_left(folder: Path) -> bool:
    """Whether the tokenizer was saved to pad on the left, as its settings say or else its fast form."""
    side = _settings(folder / "tokenizer_config.json").get("padding_side")
    if side is None:
        side = (_settings(folder / "tokenizer.json").get("padding") or {}).get("direction", "right")
    return str(side).lower() == "left"


def _settings(file: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is none, which who reads the tokenizer will say."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}
