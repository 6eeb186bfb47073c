"""Generator, predictor, and the two as one model that is saved and loaded as a folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from rekd.messages import one_line, shown
from rekd.method.backbones import Backbone
from rekd.method.equations import argmax_mask, at_budget, gumbel_noise
from rekd.method.pretrained import load_backbone
from rekd.method.samples import Inputs, as_tensor
from rekd.store.files import DamagedFileError, Store
from rekd.store.saved_model import Weights, check, checksum_of
from rekd.tasks.task_file import Kind

AUTHORS_HIDDEN = 256
"""Width of the authors' BERT generator head."""

DEVIATION = 0.02
"""The deviation of a head's first weights where the backbone's family names none."""

_DESCRIPTION = {"objective": str, "num_classes": int, "dropout": (int, float), "heads": str, "precision": str}
_SAVED = {**_DESCRIPTION, "backbone": dict, "details": dict}
_SAVED_LATER: dict[str, Any] = {
    "predictor_reads": "pooler",
    "downscaling": None,
    "budget": None,
    "encoder": "own",
    "selects_by": "logits",
}
"""What folders of 0.1.0 do not say of a model, and what it was there."""


class Generator(nn.Module):
    """g(X) = Z: a backbone and a head that maps each contextual feature to {not selected, selected} (Section 3.1)."""

    def __init__(
        self, backbone: Backbone, *, dropout: float, heads: str = "linear", initialisation: str = "backbone"
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.budget: float | None = None
        """The share of the features that is selected of every sample; None where the logits decide."""
        if heads == "authors" and backbone.kind == "text":
            backbone.freeze_embeddings()
            self.head = nn.Sequential(
                nn.Linear(backbone.hidden_size, AUTHORS_HIDDEN),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(AUTHORS_HIDDEN, 2),
            )
        else:
            self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(backbone.hidden_size, 2))
        _initialise(self.head, backbone, initialisation)

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch feature 2"]:
        with self.backbone.arithmetic():
            contextual = self.backbone.contextualise(self.backbone.embed(inputs), inputs)
        selection_logits = self.head(contextual.features.float())
        return selection_logits if self.budget is None else at_budget(selection_logits, self.budget)


class Predictor(nn.Module):
    """f(M * X) = Q: a classifier that sees only the rationale (Eq. 4)."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        dropout: float,
        heads: str = "linear",
        initialisation: str = "backbone",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.final_norm = heads != "authors"
        if not self.final_norm:
            backbone.freeze_final_norm()
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(backbone.hidden_size, num_classes))
        _initialise(self.head, backbone, initialisation)

    def forward(
        self, inputs: Inputs, mask: Float[Tensor, "batch feature"] | None = None
    ) -> Float[Tensor, "batch class"]:
        """`mask` None keeps every feature, which is plain classification (CLS)."""
        with self.backbone.arithmetic():
            embeddings = self.backbone.embed(inputs)
            if mask is not None:
                # A product, not `where`: the gradient of an unselected feature's mask is what teaches its selection.
                embeddings = embeddings * mask.unsqueeze(-1)
            contextual = self.backbone.contextualise(embeddings, inputs, final_norm=self.final_norm)
        return self.head(contextual.summary.float())


def saliency_of(predictor: Predictor, inputs: Inputs) -> Float[Tensor, "batch feature"]:
    """Gradient times input of the class that a predictor sees in the whole of each sample.

    That is the gradient by a mask of ones: the mask multiplies what stands for a feature.
    """
    num_features = predictor.backbone.num_features(inputs)
    first = next(iter(inputs.values()))
    with torch.enable_grad():
        mask = torch.ones(len(first), num_features, device=first.device, requires_grad=True)
        logits = predictor(inputs, mask)
        (gradient,) = torch.autograd.grad(logits.max(dim=-1).values.sum(), mask)
    return gradient


class SaliencyGenerator(nn.Module):
    """Selects what the answer of a trained classifier hangs on most, and learns nothing itself (`Trial.estimator`)."""

    def __init__(self, classifier: Predictor) -> None:
        super().__init__()
        self.classifier = classifier.requires_grad_(False).eval()
        self.budget: float | None = None

    @property
    def backbone(self) -> Backbone:
        return self.classifier.backbone

    def train(self, mode: bool = True) -> "SaliencyGenerator":
        """Leaves the classifier as it is at evaluation, without dropout."""
        return super().train(mode=False)

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch feature 2"]:
        saliency = saliency_of(self.classifier, inputs)
        spread = saliency.std(dim=-1, keepdim=True, correction=0).clamp(min=torch.finfo(saliency.dtype).tiny)
        selection_logits = torch.stack((torch.zeros_like(saliency), saliency / spread), dim=-1)
        return selection_logits if self.budget is None else at_budget(selection_logits, self.budget)

    def take(self, classifier: "RationaleModel") -> None:
        """Selects by this classifier from now on. Raises ValueError where it is none, or is built in another way."""
        if classifier.generator is not None:
            raise ValueError(
                "Saliency is that of a plain classifier, got a model of rationales. Give a cls trial's digest."
            )
        try:
            self.classifier.load_state_dict(classifier.predictor.state_dict())
        except RuntimeError as error:
            raise ValueError(
                "The classifier is of another architecture. Give a cls trial of the same model."
            ) from error


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a trained model says of a batch."""

    logits: Float[Tensor, "batch class"]
    mask: Float[Tensor, "batch feature"]
    """The rationale; all ones for CLS."""
    selection_logits: Float[Tensor, "batch feature 2"] | None


def mask_of(
    selection_logits: Float[Tensor, "batch feature 2"],
    *,
    sampled_by: torch.Generator | None = None,
    budget: float | None = None,
) -> Float[Tensor, "batch feature"]:
    """Eq. 2 once training is over: argmax of the selection logits, or of a Gumbel sample of them; or the budget's largest."""
    scores = selection_logits
    if sampled_by is not None:
        scores = scores + gumbel_noise(scores.shape, generator=sampled_by, device=scores.device)
    return argmax_mask(scores if budget is None else at_budget(scores, budget))


class RationaleModel(nn.Module):
    """Generator and predictor; without a generator it is a plain classifier (CLS)."""

    def __init__(
        self,
        generator: Generator | SaliencyGenerator | None,
        predictor: Predictor,
        *,
        description: Mapping[str, Any],
    ) -> None:
        """`description` is what `load` needs to build the same modules; use `build`."""
        super().__init__()
        self.generator = generator
        self.predictor = predictor
        self.description = dict(description)

    @classmethod
    def build(
        cls,
        *,
        objective: str,
        num_classes: int,
        dropout: float,
        heads: str = "linear",
        predictor_reads: str = "pooler",
        head_initialisation: str = "backbone",
        image_statistics: str = "pretrained",
        precision: str = "float32",
        downscaling: str | None = None,
        budget: float | None = None,
        encoder: str = "own",
        selects_by: str = "logits",
        source: str | None = None,
        config: Mapping[str, Any] | None = None,
        revision: str | None = None,
    ) -> "RationaleModel":
        """A model to train: both backbones from the same pretrained weights, heads freshly drawn (Section 3.1).

        With `encoder` shared it is one backbone, and what is frozen of it for one (`heads`) is frozen for both. Where it
        selects by saliency, the classifier is drawn too, until the generator takes a trained one.
        """
        generator: Generator | SaliencyGenerator | None = None
        drawn = {"dropout": dropout, "heads": heads, "initialisation": head_initialisation}
        with_pooler, is_shared = predictor_reads == "pooler", encoder == "shared"
        if selects_by == "saliency":
            backbone = load_backbone(source, config=config, revision=revision, for_classifier=with_pooler)
            generator = SaliencyGenerator(Predictor(backbone, num_classes=num_classes, **drawn))
        elif objective != "cls":
            backbone = load_backbone(source, config=config, revision=revision, for_classifier=is_shared and with_pooler)
            generator = Generator(backbone, **drawn)
        if generator is None or not is_shared:
            backbone = load_backbone(source, config=config, revision=revision, for_classifier=with_pooler)
        else:
            backbone = generator.backbone
        predictor = Predictor(backbone, num_classes=num_classes, **drawn)
        model = cls(
            generator,
            predictor,
            description={
                "objective": objective,
                "num_classes": num_classes,
                "dropout": dropout,
                "heads": heads,
                "predictor_reads": predictor_reads,
                "precision": precision,
                "downscaling": downscaling,
                "budget": budget,
                "encoder": encoder,
                "selects_by": selects_by,
            },
        )
        if generator is not None:
            generator.budget = budget
        for module in (generator, predictor):
            if module is not None:
                module.backbone.precision, module.backbone.downscaling = precision, downscaling
                if image_statistics == "imagenet":
                    module.backbone.use_imagenet_statistics()
        return model

    @property
    def kind(self) -> Kind:
        """`image` or `text`."""
        return self.predictor.backbone.kind

    def predict(self, inputs: Inputs, *, sampled_by: torch.Generator | None = None) -> Prediction:
        """Rationale (`mask_of`) and logits as at evaluation."""
        if self.generator is None:
            return Prediction(logits=self.predictor(inputs), mask=self.full_mask(inputs), selection_logits=None)
        selection_logits = self.generator(inputs)
        mask = mask_of(selection_logits, sampled_by=sampled_by, budget=self.generator.budget)
        return Prediction(logits=self.predictor(inputs, mask), mask=mask, selection_logits=selection_logits)

    def num_features(self, inputs: Mapping[str, Any]) -> int:
        """L, features of a sample, given one batch of tensors or arrays."""
        return self.predictor.backbone.num_features(inputs)

    def full_mask(self, inputs: Inputs) -> Float[Tensor, "batch feature"]:
        """Every feature kept, as CLS does."""
        first = next(iter(inputs.values()))
        return torch.ones(len(first), self.num_features(inputs), device=first.device)

    def save(self, folder: Path, *, tokenizer: Any = None, details: Mapping[str, Any] | None = None) -> None:
        """Writes config.json, model.safetensors, and what prepares an input, into a folder.

        `details` are kept in config.json under `details` for people to read, such as the trial and the class names. Beside
        them stands a checksum of both files (`rekd.store.saved_model`).
        """
        folder.mkdir(parents=True, exist_ok=True)
        backbone = self.predictor.backbone
        state = {name: value.detach().contiguous().cpu() for name, value in self.state_dict().items()}
        if (
            self.description["encoder"] == "shared"
        ):  # under two names, each of which safetensors wants a memory of its own
            state = {name: value.clone() for name, value in state.items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        if (processor := backbone.processor()) is not None:
            (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        config = self._config(details or {})
        config["sha256"] = checksum_of(config, (folder / "model.safetensors").read_bytes())
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))

    def check_saving(self) -> None:
        """Raises ValueError where what `save` writes could not be loaded."""
        with torch.device("meta"):  # which costs neither memory nor time
            type(self).assemble(self._config({}), self.state_dict())

    def _config(self, details: Mapping[str, Any]) -> dict[str, Any]:
        """What `save` writes as config.json, as it is read again: keys as text."""
        backbone = self.predictor.backbone.config.to_dict()
        config = {"model_type": "rekd", **self.description, "backbone": backbone, "details": dict(details)}
        return json.loads(json.dumps(config, default=str))

    @classmethod
    def load(cls, folder: Path) -> "RationaleModel":
        """The model of a folder that `save` wrote, in evaluation mode. Raises ValueError where it is not one."""
        config = saved_config(folder)
        try:
            content = (folder / "model.safetensors").read_bytes()
            check(config, content)
            weights = load(content)
        except (OSError, SafetensorError, DamagedFileError) as error:
            raise ValueError(f"{folder}/model.safetensors could not be read: {error}") from error
        try:
            return cls.assemble(config, weights)
        except ValueError as error:
            raise ValueError(f"{folder}/config.json: {one_line(error)}") from error

    @classmethod
    def assemble(cls, config: Mapping[str, Any], weights: Mapping[str, Any]) -> "RationaleModel":
        """The model of a saved folder's contents, frozen and in evaluation mode; `weights` (tensors or arrays) are used,
        not copied.

        Raises ValueError where the weights are not those of the config.
        """
        description = {name: config[name] for name in _DESCRIPTION}
        description |= {name: config.get(name, before) for name, before in _SAVED_LATER.items()}
        with torch.random.fork_rng(devices=[]):  # what is drawn here is replaced at once
            model = cls.build(**description, config=config["backbone"])
        try:
            model.load_state_dict({name: as_tensor(value) for name, value in weights.items()}, assign=True)
        except RuntimeError as error:
            raise ValueError(f"The weights are not those of their config.json: {one_line(error)}") from error
        return model.requires_grad_(False).eval()


def load_model(place: Store | str | Path, digest: str | None = None) -> RationaleModel:
    """The model of a finished trial of a store, or without a digest that of a folder; frozen and in evaluation mode.

    Raises ValueError where there is none. No code that a folder brings along is run.
    """
    if digest is None:
        if isinstance(place, Store):
            raise ValueError("Which model of the store? Give the digest of its trial, or a folder.")
        return RationaleModel.load(Path(place))
    store = place if isinstance(place, Store) else Store(str(place))
    weights = Weights.load(store, digest)
    return RationaleModel.assemble(weights.config, weights.arrays)


def saved_config(folder: Path) -> dict[str, Any]:
    """The config.json that `save` wrote. Raises ValueError, with the file and the key in it, where it is not one."""
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} has no config.json. Give a folder that a finished trial or `save` wrote.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file} cannot be read: {one_line(error)}. Give a folder that a finished trial wrote."
        ) from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type != "rekd":
        raise ValueError(
            f"{file} describes a {model_type!r} model, not a rationale model. Give a folder that a finished trial wrote."
        )
    for name, kind in _SAVED.items():
        if name not in config:
            raise ValueError(f"{file} has no {name!r}. Give a folder that a finished trial wrote.")
        if not isinstance(config[name], kind):
            raise ValueError(
                f"{file}: {name} cannot be {shown(config[name])}. Give a folder that a finished trial wrote."
            )
    return config


def _initialise(head: nn.Module, backbone: Backbone, initialisation: str) -> None:
    """Draws a head's weights (`Trial.head_initialisation`); biases are 0."""
    for module in head.modules():
        if isinstance(module, nn.Linear):
            if initialisation == "xavier_uniform":
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.normal_(module.weight, std=getattr(backbone.config, "initializer_range", DEVIATION))
            nn.init.zeros_(module.bias)
