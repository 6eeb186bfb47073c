"""The teacher: a finished RE model, and what it says of every training sample, computed once."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rekd.method.equations import SELECTED, argmax_mask
from rekd.method.models import RationaleModel, mask_of
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
class Targets:
    """What a teacher says of every sample of a task's training pool (train and dev), in the pool's order."""

    selection_difference: np.ndarray
    """Z[selected] - Z[not selected], float32, "sample feature": all that a softmax over two needs (Eq. 1)."""
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
        if prediction.selection_logits is None:
            raise ValueError(
                f"The teacher {asked.teacher_digest} is a plain classifier without rationales. Choose an RE trial."
            )
        differences.append(selection_difference(prediction.selection_logits).cpu().numpy())
        logits.append(prediction.logits.cpu().numpy())
    return Targets(
        selection_difference=np.concatenate(differences),
        logits=np.concatenate(logits),
        asked=asked,
    )


def selection_difference(
    selection_logits: Float[Tensor, "batch feature 2"],
) -> Float[Tensor, "batch feature"]:
    """Z[selected] - Z[not selected]."""
    return selection_logits[..., SELECTED] - selection_logits[..., 1 - SELECTED]


def selection_logits_of(difference: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature 2"]:
    """Logits of that difference. A softmax over two depends on it alone: (0, d) serves as well as those it came from."""
    return torch.stack((torch.zeros_like(difference), difference), dim=-1)


class Teacher:
    """A teacher in a training step: stored targets where they serve, its own forward pass where they do not.

    `student_mask` makes it predict under the student's mask and `augmented` lets it see augmented views; both need `model`.
    `views` are its targets on the views of each epoch, where those are known beforehand.
    """

    def __init__(
        self,
        targets: Targets,
        *,
        model: RationaleModel | None = None,
        student_mask: bool = False,
        augmented: bool = False,
        views: Sequence[Targets] = (),
        device: torch.device,
    ) -> None:
        if (student_mask or augmented) and model is None:
            raise ValueError(
                "Under the student's mask, or on augmented views, a teacher predicts anew. Give its model."
            )
        self.device = device
        self.views = views
        self.model = None if model is None else model.to(device).eval()
        self.student_mask = student_mask
        self.augmented = augmented
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
    ) -> tuple[Float[Tensor, "batch feature 2"], Float[Tensor, "batch class"]]:
        """Selection logits and predictor logits for samples of the pool; `inputs` are the views that the student sees."""
        if self.augmented:
            assert self.model is not None
            assert self.model.generator is not None  # `compute_targets` refused a classifier
            selection_logits = self.model.generator(inputs)
        else:
            selection_logits = selection_logits_of(self.difference[indices])
        if not (self.augmented or self.student_mask):
            return selection_logits, self.logits[indices]
        assert self.model is not None
        mask = student_mask if self.student_mask else argmax_mask(selection_logits)
        return selection_logits, self.model.predictor(inputs, mask)
