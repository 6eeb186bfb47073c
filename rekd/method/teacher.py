"""The teacher: a finished RE model, and what it says of every training sample, computed once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rekd.method.equations import SELECTED, argmax_mask
from rekd.method.models import RationaleModel
from rekd.method.samples import BATCH, Inputs, as_tensor, batches
from rekd.method.views import Views
from rekd.store.files import DamagedFileError, Store
from rekd.store.packed import pack, unpack
from rekd.trial import digest_of


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a teacher says of every sample of a task's training pool (train and dev), in the pool's order."""

    selection_difference: np.ndarray
    """Z[selected] - Z[not selected], float32, "sample feature": all that a softmax over two needs (Eq. 1)."""
    logits: np.ndarray
    """The predictor's logits under the teacher's own rationale, float32, "sample class"."""
    teacher_digest: str
    data_fingerprint: str
    """Content of the samples that they belong to."""
    view_epoch: int = 0
    """The epoch whose views of the images they belong to (`Views.of_epoch`); 0 for the images themselves."""

    @property
    def fingerprint(self) -> str:
        return targets_fingerprint(self.teacher_digest, self.data_fingerprint, self.view_epoch)

    def check(self, *, teacher_digest: str, data_fingerprint: str, view_epoch: int = 0) -> None:
        """Raises ValueError where these are the targets of another teacher, of other samples or of other views."""
        for what, got, expected in (
            ("teacher", self.teacher_digest, teacher_digest),
            ("data", self.data_fingerprint, data_fingerprint),
            ("epoch of views", self.view_epoch, view_epoch),
        ):
            if got != expected:
                raise ValueError(
                    f"The teacher's targets belong to the {what} {got}, the trial needs {expected}. "
                    "Compute them from this teacher on this task's own data."
                )

    def save(self, store: Store) -> None:
        """Writes them beside the ledger, under their fingerprint."""
        arrays = {name: torch.from_numpy(getattr(self, name)) for name in ("selection_difference", "logits")}
        identity = {name: getattr(self, name) for name in ("teacher_digest", "data_fingerprint", "view_epoch")}
        store.write(store.targets_file(self.fingerprint), pack(arrays, identity))

    @classmethod
    def load(cls, store: Store, *, teacher_digest: str, data_fingerprint: str, view_epoch: int = 0) -> "Targets | None":
        """The stored targets of a teacher on these samples; None where there are none.

        A damaged file is set aside with a warning and counts as none: it is computed again.
        """
        path = store.targets_file(targets_fingerprint(teacher_digest, data_fingerprint, view_epoch))
        if not store.exists(path):
            return None
        try:
            arrays, identity = unpack(store.read(path))
        except DamagedFileError as error:
            store.set_aside(path, f"is damaged ({error}); the targets are computed again")
            return None
        targets = cls(**{name: array.numpy() for name, array in arrays.items()}, **identity)
        targets.check(teacher_digest=teacher_digest, data_fingerprint=data_fingerprint, view_epoch=view_epoch)
        return targets


def targets_fingerprint(teacher_digest: str, data_fingerprint: str, view_epoch: int = 0) -> str:
    """Name of the targets of one teacher on one set of samples, or on an epoch's views of them."""
    return digest_of([teacher_digest, data_fingerprint, *([view_epoch] if view_epoch else [])])


@torch.no_grad()
def compute_targets(
    model: RationaleModel,
    inputs: Mapping[str, np.ndarray],
    *,
    teacher_digest: str,
    data_fingerprint: str,
    device: torch.device,
    view_epoch: int = 0,
) -> Targets:
    """One pass of the teacher over all samples (or an epoch's views), in evaluation mode, with its own argmax rationale."""
    model = model.to(device).eval()
    differences, logits = [], []
    for number, batch in enumerate(batches(inputs, device=device)):
        if view_epoch:
            num_samples, _, height, _ = inputs["image"].shape
            views = Views.of_epoch(view_epoch, num_samples, height=height)
            batch = {"image": views[number * BATCH : (number + 1) * BATCH].of(batch["image"])}
        prediction = model.predict(batch)
        if prediction.selection_logits is None:
            raise ValueError(
                f"The teacher {teacher_digest} is a plain classifier without rationales. Choose an RE trial."
            )
        differences.append(selection_difference(prediction.selection_logits).cpu().numpy())
        logits.append(prediction.logits.cpu().numpy())
    return Targets(
        selection_difference=np.concatenate(differences),
        logits=np.concatenate(logits),
        teacher_digest=teacher_digest,
        data_fingerprint=data_fingerprint,
        view_epoch=view_epoch,
    )


def selection_difference(
    selection_logits: Float[Tensor, "batch feature 2"],
) -> Float[Tensor, "batch feature"]:
    """Z[selected] - Z[not selected]."""
    return selection_logits[..., SELECTED] - selection_logits[..., 1 - SELECTED]


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
        """From here on the samples are seen as in that epoch (from 1)."""
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
            difference = self.difference[indices]
            # A softmax over two depends on the difference alone: (0, d) serves as well as the logits themselves.
            selection_logits = torch.stack((torch.zeros_like(difference), difference), dim=-1)
        if not (self.augmented or self.student_mask):
            return selection_logits, self.logits[indices]
        assert self.model is not None
        mask = student_mask if self.student_mask else argmax_mask(selection_logits)
        return selection_logits, self.model.predictor(inputs, mask)
