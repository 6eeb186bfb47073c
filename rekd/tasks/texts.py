"""A table's column of texts as numbers of tokens, and the tokenizer that makes them."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rekd.messages import one_line, shown
from rekd.tasks.hub import hub, quiet
from rekd.tasks.tables import at_row
from rekd.tasks.task import VOCABULARY_FILES, Model, Task

if TYPE_CHECKING:
    import datasets
    import transformers


def read_texts(task: Task, tables: "dict[str, datasets.Dataset]") -> dict[str, dict[str, np.ndarray]]:
    """Arrays by role: `input_ids`, int32 [sample, feature], and `valid`, uint8, 1 where there is a token."""
    tokenizer = load_tokenizer(task)
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
            tokens = tokenizer(texts, truncation=True, padding="max_length", max_length=task.max_length)
            input_ids[start : start + 1000] = tokens["input_ids"]
            valid[start : start + 1000] = tokens["attention_mask"]
        arrays[role] = {"input_ids": input_ids, "valid": valid}
    return arrays


def load_tokenizer(task: Task) -> "transformers.PreTrainedTokenizerBase":
    """The tokenizer of a text task. Raises ValueError where there is none, or it does not fit a model of the task."""
    import transformers

    source, revision = task.tokenizer_source
    revision = task.tokenizer_commit or revision
    with quiet():
        if Path(source).is_absolute():
            # Without its files, transformers makes one of no words: every text would be a row of unknown tokens.
            if not any((Path(source) / name).is_file() for name in VOCABULARY_FILES):
                raise ValueError(
                    f"{task.name}: the tokenizer {source} cannot be read: there is none of {', '.join(VOCABULARY_FILES)}. "
                    "Write the folder with tokenizer.save_pretrained(folder)."
                )
            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    source, local_files_only=True, trust_remote_code=False
                )
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{task.name}: the tokenizer {source} cannot be read: {one_line(error)}. "
                    "Write the folder with tokenizer.save_pretrained(folder)."
                ) from error
        else:
            instead = f"a TOML file with extends = {task.name!r} and tokenizer = '/path/to/folder'"
            with hub("model", source, revision=revision, instead=instead):
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    source, revision=revision or "main", trust_remote_code=False
                )
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"{task.name}: the tokenizer {source} has no padding token. Add one, or use another tokenizer."
        )
    for model in task.models.values():
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


def _known_config(model: Model) -> dict[str, Any]:
    """The model's configuration as far as it is known without the network."""
    if model.config is not None:
        return model.config
    if not model.is_local:
        return {}
    file = Path(str(model.source)) / "config.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"The configuration {file} of the model {model.name} cannot be read: {error}") from error
