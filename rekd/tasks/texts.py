"""A table's column of texts as numbers of tokens, and the tokenizer that makes them."""

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rekd.messages import one_line, shown
from rekd.tasks.dataset_tables import at_row
from rekd.tasks.hub import hub, quiet
from rekd.tasks.task import Model, Task
from rekd.tasks.tokenizer_files import TOKENIZER_FILES, VOCABULARY_FILES, pads_left

if TYPE_CHECKING:
    import datasets
    import transformers

NUM_COMPARED = 200
"""Texts by which two readings of a tokenizer's files are compared."""

MANY = 0.2
"""Share of unknown tokens from which on they are mentioned."""


def read_texts(
    task: Task, tables: "dict[str, datasets.Dataset]", tokenizer: "transformers.PreTrainedTokenizerBase"
) -> dict[str, dict[str, np.ndarray]]:
    """Arrays by role: `input_ids`, int32 [sample, feature], and `valid`, uint8, 1 where there is a token."""
    assert task.max_length is not None
    for role, name in task.splits.items():
        for row, text in enumerate(tables[role][task.input_column]):
            if not isinstance(text, str) or not text.strip():
                got = "an empty text" if isinstance(text, str) else shown(text)
                raise ValueError(
                    f"{at_row(task, name, row)}: column {task.input_column!r} holds {got}, from which nothing can be "
                    "selected. Remove the row, or name another input_column."
                )
    arrays = {}
    for role, table in tables.items():
        input_ids = np.zeros((len(table), task.max_length), dtype=np.int32)
        valid = np.zeros((len(table), task.max_length), dtype=np.uint8)
        for start in range(0, len(table), 1000):
            texts = table[start : start + 1000][task.input_column]
            tokens = tokenizer(
                texts, truncation=True, padding="max_length", max_length=task.max_length, return_attention_mask=True
            )
            input_ids[start : start + 1000] = tokens["input_ids"]
            valid[start : start + 1000] = tokens["attention_mask"]
        arrays[role] = {"input_ids": input_ids, "valid": valid}
    return arrays


def load_tokenizer(task: Task) -> "transformers.PreTrainedTokenizerBase":
    """The tokenizer of a text task, which pads on the right: a classifier reads the first token.

    Raises ValueError where there is none, or it does not fit a model of the task.
    """
    source, revision = task.tokenizer_source
    tokenizer = _read(task, source, task.tokenizer_commit or revision)
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"{task.name}: the tokenizer {source} has no padding token. Add one, or use another tokenizer."
        )
    if tokenizer.padding_side == "left" and not (Path(source).is_absolute() and pads_left(Path(source))):
        # Rows of 0.1.0, where the classifier read padding, would pass for these: no digest tells them apart.
        raise ValueError(
            f"{task.name}: the tokenizer {source} pads on the left. Set its padding_side to 'right', write it with "
            "tokenizer.save_pretrained(folder), and name the folder as the task's tokenizer."
        )
    tokenizer.padding_side = "right"
    for model in task.readers:
        config = _known_config(model)
        if config.get("vocab_size", math.inf) < len(tokenizer):
            raise ValueError(
                f"{task.name}: the tokenizer {source} has {len(tokenizer)} tokens, but the model {model.name} knows "
                f"{config['vocab_size']}. Use the tokenizer that the model was trained with."
            )
        if config.get("max_position_embeddings", math.inf) < (task.max_length or 0):
            raise ValueError(
                f"{task.name}: max_length is {task.max_length}, but the model {model.name} has "
                f"{config['max_position_embeddings']} positions. Give a max_length that it can take."
            )
    return tokenizer


def check_reading(
    task: Task,
    tables: "dict[str, datasets.Dataset]",
    tokenizer: "transformers.PreTrainedTokenizerBase",
    arrays: Mapping[str, Mapping[str, np.ndarray]],
) -> Iterator[str]:
    """Whether the tokenizer knows the texts. A remark where many of their tokens are unknown to it.

    Raises ValueError where it knows none, and where the folder's config.json makes it another one than its own files do.
    """
    source = Path(task.tokenizer_source[0])
    num_words, num_unknown, num_empty = np.sum([_counted(tokenizer, **of_role) for of_role in arrays.values()], axis=0)
    if num_unknown == num_words:
        raise ValueError(
            f"{task.name}: the tokenizer {source}, read as {type(tokenizer).__name__}, knows no word of {task.dataset}. "
            "Write it anew with tokenizer.save_pretrained(folder), by the class that it is of."
        )
    if source.is_absolute() and (source / "config.json").is_file():
        _check_class(task, source, tokenizer, list(tables["train"][:NUM_COMPARED][task.input_column]))
    if num_unknown >= MANY * num_words:
        yield (
            f"{task.name}: {num_unknown / num_words:.0%} of the tokens of {task.dataset} are unknown to the tokenizer "
            f"{source}: its vocabulary is that of other texts."
        )
    if num_empty:
        yield f"{task.name}: {num_empty} texts of {task.dataset} have no token: there is nothing to select from."


def _counted(
    tokenizer: "transformers.PreTrainedTokenizerBase", *, input_ids: np.ndarray, valid: np.ndarray
) -> tuple[int, int, int]:
    """Tokens that are neither special nor padding, those of them that the tokenizer does not know, and texts without any."""
    special = [number for number in tokenizer.all_special_ids if number != tokenizer.unk_token_id]
    is_word = valid.astype(bool) & ~np.isin(input_ids, special)
    is_unknown = is_word & np.isin(input_ids, [number for number in [tokenizer.unk_token_id] if number is not None])
    return int(is_word.sum()), int(is_unknown.sum()), int((~is_word.any(axis=1)).sum())


def _check_class(task: Task, folder: Path, tokenizer: "transformers.PreTrainedTokenizerBase", texts: list[str]) -> None:
    """Raises ValueError where texts become other tokens without the config.json that lies beside a tokenizer's own files.

    It says which class is meant where they do not; where they do, no digest would tell one reading from the other.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copy(folder / name, scratch)
        try:
            with quiet():
                alone = read_tokenizer(Path(scratch), name="", advice="")
        except ValueError:
            return  # its class is told by config.json alone
    how = {"truncation": True, "max_length": task.max_length}
    for text, ours, own in zip(texts, *(each(texts, **how)["input_ids"] for each in (tokenizer, alone)), strict=True):
        if ours != own:
            raise ValueError(
                f"{task.name}: {folder}/config.json makes the tokenizer there a {type(tokenizer).__name__}, which cuts "
                f"{shown(text)} otherwise than its own files say. Keep the tokenizer in a folder of its own, or write it "
                "there with tokenizer.save_pretrained."
            )


def check_vocabularies(
    task: Task, tokenizer: "transformers.PreTrainedTokenizerBase", arrays: Mapping[str, Mapping[str, np.ndarray]]
) -> Iterator[str]:
    """Whether the models were made with this tokenizer. A remark on each whose own one cannot be read.

    Raises ValueError where a model's own tokenizer gives a token of the texts another number: it would read nonsense.
    """
    numbers = np.unique(np.concatenate([np.unique(of_role["input_ids"]) for of_role in arrays.values()])).tolist()
    used = dict(zip(tokenizer.convert_ids_to_tokens(numbers), numbers, strict=True))
    for model in task.readers:
        source = (str(model.source), model.revision)
        if model.source is None or source == task.tokenizer_source or not _has_tokenizer(model):
            continue
        try:
            own = _read(task, source[0], model.commit or model.revision).get_vocab()
        except ValueError as error:
            yield f"{task.name}: whether the model {model.name} has the task's tokenizer is not known. {error}"
            continue
        _check_vocabulary(task, model, used, own)


def _check_vocabulary(task: Task, model: Model, used: Mapping[str, int], own: Mapping[str, int]) -> None:
    for token, number in used.items():
        if own.get(token) != number:
            has = f"number {own[token]}" if token in own else "no number"
            raise ValueError(
                f"{task.name}: the tokenizer {task.tokenizer_source[0]} gives {token!r} the number {number}, that of the "
                f"model {model.name} {has}: the model would read nonsense. Choose models that share one tokenizer, and name "
                "it as the task's tokenizer."
            )


def _has_tokenizer(model: Model) -> bool:
    return not model.is_local or any((Path(str(model.source)) / name).is_file() for name in VOCABULARY_FILES)


def _read(task: Task, source: str, revision: str | None) -> "transformers.PreTrainedTokenizerBase":
    import transformers

    with quiet():
        if not Path(source).is_absolute():
            instead = f"a TOML file with extends = {task.name!r} and tokenizer = '/path/to/folder'"
            with hub("model", source, revision=revision, instead=instead):
                return transformers.AutoTokenizer.from_pretrained(
                    source, revision=revision or "main", trust_remote_code=False
                )
        advice = "Write the folder with tokenizer.save_pretrained(folder)."
        return read_tokenizer(Path(source), name=f"{task.name}: the tokenizer {source}", advice=advice)


def read_tokenizer(folder: Path, *, name: str, advice: str) -> "transformers.PreTrainedTokenizerBase":
    """The tokenizer in a folder of this machine. Raises ValueError, a line that begins and ends as given, where it is none."""
    import transformers

    # Without its files, transformers makes one of no words: every text would be a row of unknown tokens.
    if not any((folder / file).is_file() for file in VOCABULARY_FILES):
        raise ValueError(f"{name} cannot be read: there is none of {', '.join(VOCABULARY_FILES)}. {advice}")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # these libraries have no common base for what they raise
        raise ValueError(f"{name} cannot be read: {one_line(error)}. {advice}") from error


def _known_config(model: Model) -> dict[str, Any]:
    """The model's configuration as far as it is known without the network."""
    if model.config is not None:
        return model.config
    if not model.is_local:
        return {}
    file = Path(str(model.source)) / "config.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except Exception as error:  # of a file that may hold anything
        raise ValueError(
            f"The configuration {file} of the model {model.name} cannot be read: {one_line(error)}"
        ) from error
