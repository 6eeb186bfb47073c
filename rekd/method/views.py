"""Augmented views of training images: a random crop and a horizontal flip."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from rekd.method.streams import stream_seed


@dataclass(frozen=True)
class Views:
    """How each of some images is seen."""

    offsets: Int[Tensor, "2 sample"]
    """Row and column at which the crop of the padded image starts."""
    flipped: Bool[Tensor, " sample"]

    @classmethod
    def draw(cls, num_samples: int, *, height: int, generator: torch.Generator | None) -> "Views":
        """Crops after padding of an eighth of the side (4 of 32, as the authors); half of the images flipped."""
        offsets = torch.randint(0, 2 * _padding(height) + 1, (2, num_samples), generator=generator)
        return cls(offsets, torch.rand(num_samples, generator=generator) < 0.5)

    @classmethod
    def of_epoch(cls, epoch: int, num_samples: int, *, height: int) -> "Views":
        """The views of a pool's images in an epoch (from 1), the same in every run: a teacher can be asked beforehand."""
        generator = torch.Generator().manual_seed(stream_seed(epoch, "views"))
        return cls.draw(num_samples, height=height, generator=generator)

    def __getitem__(self, rows: Tensor | slice) -> "Views":
        return Views(self.offsets[:, rows], self.flipped[rows])

    def to(self, device: torch.device) -> "Views":
        return Views(self.offsets.to(device), self.flipped.to(device))

    def of(self, image: UInt8[Tensor, "sample channel height width"]) -> UInt8[Tensor, "sample channel height width"]:
        """The images as they are seen; padding is black."""
        height, width = image.shape[2:]
        offsets, flipped = self.offsets.to(image.device), self.flipped.to(image.device)
        padded = F.pad(image, (_padding(height),) * 4)
        rows = offsets[0][:, None] + torch.arange(height, device=image.device)
        columns = offsets[1][:, None] + torch.arange(width, device=image.device)
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
        sample = torch.arange(len(image), device=image.device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def crop_flip(image: UInt8[Tensor, "sample channel height width"], *, generator: torch.Generator | None) -> Tensor:
    """The images in views drawn now."""
    return Views.draw(len(image), height=image.shape[2], generator=generator).of(image)


def _padding(height: int) -> int:
    return height // 8
