"""The teacher: a finished RE model, and what it says of every training sample, computed once."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rekd.method.equations import argmax_mask, selection_difference
from rekd.method.models import RationaleModel, mask_of
from rekd.method.places import LEAST, Grid, by_area, by_characters, log_odds
from rekd.method.samples import BATCH, Inputs, as_tensor, batches
from rekd.method.views import Views
from rekd.store.files import DamagedFileError, Store
from rekd.store.packed import pack, unpack
from rekd.trial import digest_of

_WORDS = {
    "teacher_digest": "teacher",
    "teacher_sha256": "saved model",
    "data_fingerprint": "data",
    "view_epoch": "epoch of views",
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What was asked about what: a teacher, as it was saved, and samples, as they are seen."""

    teacher_digest: str
    """The digest of the teacher's trial."""
    teacher_sha256: str
    """The checksum of its saved model: trained again, on another device, it may be another one."""
    data_fingerprint: str
    """Content of the samples."""
    view_epoch: int = 0
    """The epoch whose views of the images are meant (`Views.of_epoch`); 0 for the images themselves."""

    @property
    def fingerprint(self) -> str:
        """Names the targets, beside the teacher's digest."""
        return digest_of([self.teacher_sha256, self.data_fingerprint, self.view_epoch])

    def file_in(self, store: Store) -> str:
        """Where the targets are stored."""
        return store.targets_file(self.teacher_digest, self.fingerprint)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens of texts by one tokenizer."""

    places: Int[np.ndarray, "sample feature 2"]
    """Where each stands: the first character and the one after the last; 0 and 0 of one that stands nowhere."""
    valid: Bool[np.ndarray, "sample feature"]
    """False for padding."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a teacher says of every sample of a task's training pool (train and dev), in the pool's order."""

    selection_difference: np.ndarray
    """Z[selected] - Z[not selected], float32, "sample feature": all that a softmax over two needs (Eq. 1). A plain classifier
    selects among no features."""
    logits: np.ndarray
    """The predictor's logits under the teacher's own rationale, float32, "sample class"."""
    asked: Question

    def check(self, asked: Question) -> None:
        """Raises ValueError where these are the targets of another teacher, of other samples or of other views."""
        for name, what in _WORDS.items():
            got, expected = getattr(self.asked, name), getattr(asked, name)
            if got != expected:
                raise ValueError(
                    f"The teacher's targets belong to the {what} {got}, the trial needs {expected}. "
                    "Compute them from this teacher on this task's own data."
                )

    @property
    def selects(self) -> bool:
        """Whether the teacher has rationales; a plain classifier has none."""
        return self.selection_difference.shape[1] > 0

    def on_grid(self, own: Grid, other: Grid) -> "Targets":
        """What the same teacher says in the cells of another grid; itself where the grids are one, or it selects nothing."""
        if own == other or not self.selects:
            return self
        difference = _by_area(torch.from_numpy(self.selection_difference), own, other)
        return replace(self, selection_difference=difference.numpy())

    def in_tokens(self, own: "Tokens", other: "Tokens") -> "Targets":
        """What the same teacher says in the tokens that another tokenizer makes of the same texts."""
        if not self.selects:
            return self
        probabilities = torch.from_numpy(self.selection_difference).double().sigmoid().numpy()
        mapped = [
            by_characters(
                row, own=own.places[at], other=other.places[at], own_valid=own.valid[at], other_valid=other.valid[at]
            )
            for at, row in enumerate(probabilities)
        ]
        return replace(self, selection_difference=log_odds(torch.from_numpy(np.stack(mapped))).float().numpy())

    def masks(
        self, rows: Int[np.ndarray, " sample"], *, sampled_by: torch.Generator | None = None
    ) -> Bool[np.ndarray, "sample feature"]:
        """The teacher's own rationales of some samples of the pool."""
        device = None if sampled_by is None else sampled_by.device
        logits = selection_logits_of(torch.from_numpy(self.selection_difference[rows]).to(device))
        return mask_of(logits, sampled_by=sampled_by).bool().cpu().numpy()

    def save(self, store: Store) -> None:
        """Writes them beside the ledger."""
        arrays = {name: torch.from_numpy(getattr(self, name)) for name in ("selection_difference", "logits")}
        store.write(self.asked.file_in(store), pack(arrays, asdict(self.asked)))

    @classmethod
    def load(cls, store: Store, asked: Question) -> "Targets | None":
        """The stored targets; None where there are none.

        A damaged file is set aside with a warning and counts as none: it is computed again.
        """
        path = asked.file_in(store)
        if not store.exists(path):
            return None
        content = store.read(path)
        try:
            arrays, identity = unpack(content)
        except DamagedFileError as error:
            store.set_aside(path, content, f"is damaged ({error}); the targets are computed again")
            return None
        targets = cls(**{name: array.numpy() for name, array in arrays.items()}, asked=Question(**identity))
        targets.check(asked)
        return targets


@torch.no_grad()
def compute_targets(
    model: RationaleModel,
    inputs: Mapping[str, np.ndarray],
    asked: Question,
    *,
    device: torch.device,
) -> Targets:
    """One pass of the teacher over all samples (or an epoch's views), in evaluation mode, with its own argmax rationale."""
    model = model.to(device).eval()
    differences, logits = [], []
    for number, batch in enumerate(batches(inputs, device=device)):
        if asked.view_epoch:
            num_samples, _, height, _ = inputs["image"].shape
            views = Views.of_epoch(asked.view_epoch, num_samples, height=height)
            batch = {"image": views[number * BATCH : (number + 1) * BATCH].of(batch["image"])}
        prediction = model.predict(batch)
        selection_logits = prediction.selection_logits
        if selection_logits is None:  # a plain classifier selects among no features
            selection_logits = prediction.logits.new_zeros(len(prediction.logits), 0, 2)
        differences.append(selection_difference(selection_logits).cpu().numpy())
        logits.append(prediction.logits.cpu().numpy())
    return Targets(
        selection_difference=np.concatenate(differences),
        logits=np.concatenate(logits),
        asked=asked,
    )


def _by_area(difference: Float[Tensor, "batch own"], own: Grid, other: Grid) -> Float[Tensor, "batch other"]:
    """The selection differences of a grid's cells in those of another: their probabilities are mapped (`places`)."""
    return log_odds(by_area(difference.double().sigmoid(), own=own, other=other)).to(difference.dtype)


def selection_logits_of(difference: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature 2"]:
    """Logits of that difference. A softmax over two depends on it alone: (0, d) serves as well as those it came from."""
    return torch.stack((torch.zeros_like(difference), difference), dim=-1)


class Teacher:
    """A teacher in a training step: stored targets where they serve, its own forward pass where they do not.

    `student_mask` makes it predict under the student's mask and `augmented` lets it see augmented views; both need `model`.
    `views` are its targets on the views of each epoch, where those are known beforehand. All targets are in the student's
    features. `grids` are the teacher's and the student's where they differ: what it says of a view is mapped.
    """

    def __init__(
        self,
        targets: Targets,
        *,
        model: RationaleModel | None = None,
        student_mask: bool = False,
        augmented: bool = False,
        views: Sequence[Targets] = (),
        grids: tuple[Grid, Grid] | None = None,
        device: torch.device,
    ) -> None:
        if (student_mask or augmented) and model is None:
            raise ValueError(
                "Under the student's mask, or on augmented views, a teacher predicts anew. Give its model."
            )
        if student_mask and grids is not None:
            raise ValueError(
                f"The teacher selects among {grids[0][0]} x {grids[0][1]} features, the student among {grids[1][0]} x "
                f"{grids[1][1]}: a mask of the one is none of the other. Set teacher_sees = 'teacher_mask'."
            )
        self.device = device
        self.views = views
        self.model = None if model is None else model.to(device).eval()
        self.student_mask = student_mask
        self.augmented = augmented
        self.grids = grids
        self._use(targets)

    def begin_epoch(self, epoch: int) -> None:
        """Shows the samples from here on as they are seen in that epoch (from 1)."""
        if self.views:
            self._use(self.views[epoch - 1])

    def _use(self, targets: Targets) -> None:
        self.difference = as_tensor(targets.selection_difference).to(self.device)
        self.logits = as_tensor(targets.logits).to(self.device)

    @torch.no_grad()
    def __call__(
        self, indices: Int[Tensor, " batch"], inputs: Inputs, student_mask: Float[Tensor, "batch feature"]
    ) -> tuple[Float[Tensor, "batch selected 2"], Float[Tensor, "batch class"]]:
        """Selection logits (of no features, where it selects nothing) and predictor logits for samples of the pool; `inputs`
        are the views that the student sees."""
        if not self.augmented:
            selection_logits = selection_logits_of(self.difference[indices])
            if not self.student_mask:
                return selection_logits, self.logits[indices]
            assert self.model is not None
            return selection_logits, self.model.predictor(inputs, student_mask)
        assert self.model is not None
        if self.model.generator is None:
            mask = student_mask if self.student_mask else None
            return student_mask.new_zeros(len(indices), 0, 2), self.model.predictor(inputs, mask)
        selection_logits = self.model.generator(inputs)
        mask = student_mask if self.student_mask else argmax_mask(selection_logits)
        logits = self.model.predictor(inputs, mask)
        if self.grids is not None:
            selection_logits = selection_logits_of(_by_area(selection_difference(selection_logits), *self.grids))
        return selection_logits, logits


class Teachers:
    """Several teachers as one: probabilities of selection, and of classes, are averaged by weight.

    Those that select nothing have no part in what is said of selection.
    """

    def __init__(self, teachers: Sequence[Teacher], weights: Sequence[float]) -> None:
        self.teachers, self.weights = teachers, weights

    def begin_epoch(self, epoch: int) -> None:
        """Shows the samples to each as they are seen in that epoch (from 1)."""
        for teacher in self.teachers:
            teacher.begin_epoch(epoch)

    @torch.no_grad()
    def __call__(
        self, indices: Int[Tensor, " batch"], inputs: Inputs, student_mask: Float[Tensor, "batch feature"]
    ) -> tuple[Float[Tensor, "batch selected 2"], Float[Tensor, "batch class"]]:
        """Logits of the averaged probabilities, as a single `Teacher` gives its own."""
        said = [teacher(indices, inputs, student_mask) for teacher in self.teachers]
        selected = [
            (selection_difference(selection).double().sigmoid(), weight)
            for (selection, _), weight in zip(said, self.weights, strict=True)
            if selection.shape[1]
        ]
        classes = [
            (logits.double().softmax(-1), weight) for (_, logits), weight in zip(said, self.weights, strict=True)
        ]
        logits = _mean(classes).clamp(min=LEAST).log().to(said[0][1].dtype)
        if not selected:
            return said[0][0], logits
        return selection_logits_of(log_odds(_mean(selected)).to(logits.dtype)), logits


def _mean(weighted: Sequence[tuple[Tensor, float]]) -> Tensor:
    total = sum(weight for _, weight in weighted)
    return torch.stack([values * (weight / total) for values, weight in weighted]).sum(dim=0)
