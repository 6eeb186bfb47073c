"""Backbones with pretrained weights, from a folder or the hub, or freshly initialised from a configuration.

What a library raises here becomes one line that says what was being read; what cannot be read as it was meant is refused.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from rekd.messages import one_line
from rekd.method.backbones import BACKBONES, Backbone
from rekd.store.saved_model import check
from rekd.tasks.hub import find, quiet
from rekd.tasks.normalisation import PROCESSOR_FILES

_OF_BACKBONE = "predictor.backbone."
"""What the names of a saved classifier's weights begin with, but for those of its head."""

_LEFT_OUT = ("pooler.", "embeddings.mask_token", "embeddings.position_ids", "embeddings.token_type_ids")
"""Weights of an encoder that are not needed: of parts that only pretraining uses, and counts that are made anew."""


def load_backbone(
    source: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
    for_classifier: bool = True,
) -> Backbone:
    """A backbone with the weights of `source` (hub name or local folder), or freshly initialised from `config`.

    `config` is a Hugging Face configuration as a dictionary, with its `model_type`. A source may also be the folder of a cls
    trial that has ended: then it is that classifier's backbone. Not `for_classifier` it does without
    the parts that only a classifier uses. Raises ValueError where the source is not there, is of an unknown family, or
    is not what its configuration says.
    """
    if source is None:
        settings = _made_config(config)
        family = BACKBONES[settings.model_type]
        with _reading(f"The config of a {settings.model_type!r} is not valid", "Correct its values."):
            parts = family.parts(for_classifier=for_classifier)
            encoder = AutoModel.from_config(settings, trust_remote_code=False, **parts)
        return family.made_of(encoder, None)
    if (trained := _trained_here(source)) is not None:
        return _of_classifier(Path(source), trained, for_classifier=for_classifier)
    weights = _find_weights(source, revision)
    settings = _stored_config(weights)
    family = BACKBONES[settings.model_type]
    encoder = _pretrained(weights, settings, family.parts(for_classifier=for_classifier))
    return family.made_of(encoder, weights.read)


def read_config(
    source: str | None = None, *, config: Mapping[str, Any] | None = None, revision: str | None = None
) -> PretrainedConfig:
    """The Hugging Face configuration behind a source or a dictionary. Raises ValueError as `load_backbone` does."""
    if source is None:
        return _made_config(config)
    trained = _trained_here(source)
    return _stored_config(_find_weights(source, revision)) if trained is None else _made_config(trained["backbone"])


def _trained_here(source: str) -> dict[str, Any] | None:
    """The config.json of a folder that a finished trial wrote; None of any other source."""
    file = Path(source) / "config.json"
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # which whoever reads it as another model says
        return None
    return config if isinstance(config, dict) and config.get("model_type") == "rekd" else None


def _of_classifier(folder: Path, config: Mapping[str, Any], *, for_classifier: bool) -> Backbone:
    """The backbone of a classifier that was trained here, its head left behind."""
    if config.get("objective") != "cls":
        raise ValueError(
            f"The model {folder} is of a trial of {config.get('objective')}, whose predictor knows rationales alone. Give that "
            "of a cls trial, or pretrained weights."
        )
    with _reading(f"The weights of {folder} could not be loaded", "Train the trial again."):
        content = (folder / "model.safetensors").read_bytes()
        check(config, content)
        backbone = load_backbone(config=config["backbone"], for_classifier=for_classifier)
        own = {name.removeprefix(_OF_BACKBONE): value for name, value in load(content).items()}
        backbone.load_state_dict({name: own[name] for name in backbone.state_dict()})
    return backbone


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """Where pretrained weights, their configuration and what prepares their inputs are."""

    source: str
    """Name on the hub or local folder."""
    revision: str | None
    """Branch, tag or commit on the hub; None is its default branch."""
    reading: Callable[[], AbstractContextManager[Any]]
    """What the libraries read it in: quiet, and of the hub quick where there is no network."""
    is_offline: bool = False
    """Whether only what was downloaded before can be read."""

    def read(self, name: str) -> bytes | None:
        """The content of one of its files; None where it has none of that name."""
        with self.reading(), _reading(f"{name} of the model {self.source} could not be read", "Fetch or save it anew."):
            path = cached_file(self.source, name, revision=self.revision, _raise_exceptions_for_missing_entries=False)
            if path is None and self.is_offline and name == PROCESSOR_FILES[-1] and not self._lacks(name):
                raise ValueError("it was not downloaded, and the hub cannot be reached")
            return None if path is None else Path(path).read_bytes()

    def _lacks(self, name: str) -> bool:
        """Whether the hub said, when it could be reached, that there is no such file."""
        return try_to_load_from_cache(self.source, name, revision=self.revision or "main") is _CACHED_NO_EXIST


def _find_weights(source: str, revision: str | None) -> _Weights:
    if Path(source).is_absolute() and not Path(source).is_dir():
        raise ValueError(f"The folder {source} of a model is not there. Give one that was written by save_pretrained.")
    if Path(source).is_dir():
        return _Weights(source=source, revision=revision, reading=quiet)
    instead = "source = '/path/to/folder', written by save_pretrained, below the model's name in a task file"
    repository = find("model", source, revision=revision, instead=instead)
    return _Weights(
        source=source,
        revision=repository.commit or revision,
        reading=repository.reading,
        is_offline=repository.offline is not None,
    )


def _made_config(config: Mapping[str, Any] | None) -> PretrainedConfig:
    if not config or "model_type" not in config:
        raise ValueError(f"A backbone needs a source or a config with its model_type, got {config!r}.")
    values = dict(config)
    model_type = values.pop("model_type")
    _check_family(model_type, "config")
    with _reading(f"The config of a {model_type!r} is not valid", "Correct its values."):
        made = AutoConfig.for_model(model_type, **values)
    _check_architecture(made, "config")
    return made


def _stored_config(weights: _Weights) -> PretrainedConfig:
    advice = f"Give one of the families {', '.join(sorted(BACKBONES))}, as save_pretrained writes it."
    with weights.reading(), _reading(f"The configuration of the model {weights.source} could not be read", advice):
        found = AutoConfig.from_pretrained(weights.source, revision=weights.revision, trust_remote_code=False)
    _check_family(found.model_type, weights.source)
    _check_architecture(found, weights.source)
    return found


def _check_family(model_type: str, where: str) -> None:
    if model_type not in BACKBONES:
        raise ValueError(
            f"The model {where} is of the family {model_type!r}, which has no adapter here. "
            f"Families: {', '.join(sorted(BACKBONES))}. Another one is a small class in rekd/method/backbones.py."
        )


def _check_architecture(config: Any, where: str) -> None:
    """Raises ValueError on what a family's configuration may ask for and its encoder then does not do."""
    positions = getattr(config, "position_embedding_type", None)
    if positions not in (None, "absolute"):
        raise ValueError(
            f"The model {where} has position_embedding_type = {positions!r}, which its library no longer computes. "
            "Choose one with absolute positions."
        )
    if getattr(config, "quantization_config", None):
        raise ValueError(f"The model {where} is quantised, and so cannot be trained. Choose its original.")
    for name in ("is_decoder", "add_cross_attention"):
        if getattr(config, name, False):
            raise ValueError(
                f"The model {where} has {name} = true: its tokens do not see those behind them. Choose an encoder."
            )


def _pretrained(weights: _Weights, settings: PretrainedConfig, parts: dict[str, Any]) -> PreTrainedModel:
    source = weights.source
    if all((Path(source) / name).is_file() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        raise ValueError(
            f"The folder {source} holds weights twice: {SAFE_WEIGHTS_NAME}, and the files of {SAFE_WEIGHTS_INDEX_NAME}. "
            "Keep one."
        )
    # Quiet: a classifier's own head is left behind on purpose. A pytorch_model.bin, a pickle as the paper's BERTs are, is
    # read by transformers with weights_only.
    with (
        weights.reading(),
        _reading(f"The weights of {source} could not be loaded", "Fetch or save them anew."),
    ):
        encoder, report = AutoModel.from_pretrained(
            source,
            config=settings,
            revision=weights.revision,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # which are refused below, by name
            trust_remote_code=False,
            **parts,
        )
    # What only pretraining uses may be absent, and a pooler from a masked language model; anything else means another
    # architecture.
    missing = [name for name in report["missing_keys"] if not name.startswith(_LEFT_OUT)]
    mismatched = [name for name, *_ in report["mismatched_keys"]]
    unused = [name for name in report["unexpected_keys"] if _is_encoders(name, encoder)]
    if wrong := sorted(missing) + sorted(mismatched) + sorted(unused):
        raise ValueError(
            f"The weights of {source} do not fit its own config: {len(missing)} missing, {len(mismatched)} of another "
            f"shape, {len(unused)} without a use, such as {wrong[0]}. Is its config.json that of another model?"
        )
    broken = [name for name, weight in encoder.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise ValueError(f"The weights of {source} are not all numbers, such as {broken[0]}. Fetch or save them anew.")
    return encoder


def _is_encoders(name: str, encoder: PreTrainedModel) -> bool:
    """Whether a weight that was not loaded belongs to the encoder proper, and not to a head or to what is left out."""
    own = name.removeprefix(f"{encoder.base_model_prefix}.")
    parts = {part for part, _ in encoder.named_children()}
    return own.partition(".")[0] in parts and not own.startswith(_LEFT_OUT)


@contextmanager
def _reading(what: str, advice: str) -> Iterator[None]:
    """Whatever the libraries raise inside becomes a ValueError of one line: they have no common base for it."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):  # which is nothing wrong with what is read
            raise
        raise ValueError(f"{what}: {_reason(error)}. {advice}") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was lacking, on a GPU or a CPU."""
    # What torch raises on a CPU is a plain RuntimeError.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _reason(error: Exception) -> str:
    """What a library says, where its advice would not be ours, else its first line."""
    if isinstance(error, UnpicklingError):
        return "a file of theirs holds more than tensors, which is not unpickled here"
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is not run here"
    if isinstance(error, StrictDataclassError):  # the field in the first line, what is wrong with it in the next
        return one_line(error).rstrip(".")
    said = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "no reason given"
    return said if isinstance(error, (ValueError, OSError, RuntimeError)) else f"{type(error).__name__}: {said}"
