"""Random streams: who draws random numbers, and from where, so that two runs of one seed can be compared."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor


def stream_seed(seed: int, name: str) -> int:
    """The seed of one named stream of a run: 63 bits, unrelated from name to name and from seed to seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


def evaluation_noise(seed: int, device: torch.device) -> torch.Generator:
    """What a run of that seed draws its masks by once they train nothing."""
    return torch.Generator(device).manual_seed(stream_seed(seed, "evaluation noise"))


class Streams:
    """The random streams of one training run.

    `named`: initialisation, data order, student noise, teacher noise and dropout each draw from a stream of their own,
    so that RE and REKD of one seed start alike, see the same batches and draw the same student noise. `single`: all of
    them draw from torch's global stream in turn. `order_apart`: all but the data order, as in the authors' code.

    torch's modules (initialisation, dropout) draw from the global stream only. It is therefore swapped in by
    `initialising` and `training`, and given back to its owner afterwards.
    """

    def __init__(self, seed: int, *, kind: str = "named", device: torch.device) -> None:
        self.seed = seed
        self.device = device
        self.kind = kind
        self.data_order: torch.Generator | None = None
        self.augmentation: torch.Generator | None = None
        self.student_noise: torch.Generator | None = None
        self.teacher_noise: torch.Generator | None = None
        if kind == "named":
            self.data_order = torch.Generator().manual_seed(stream_seed(seed, "data order"))
            self.augmentation = self.data_order
            self.student_noise = torch.Generator(device).manual_seed(stream_seed(seed, "student noise"))
            self.teacher_noise = torch.Generator(device).manual_seed(stream_seed(seed, "teacher noise"))
        if kind == "order_apart":
            self.data_order = torch.Generator().manual_seed(seed)
        with _borrowed_global_stream(device):
            torch.manual_seed(stream_seed(seed, "dropout") if kind == "named" else seed)
            self._global = _global_state(device)

    @contextmanager
    def initialising(self) -> Iterator[None]:
        """torch's global stream is the one for initialisation."""
        with _borrowed_global_stream(self.device):
            if self.kind == "named":
                torch.manual_seed(stream_seed(self.seed, "initialisation"))
                yield
            else:
                _set_global_state(self._global, self.device)
                yield
                self._global = _global_state(self.device)

    @contextmanager
    def training(self) -> Iterator[None]:
        """torch's global stream is the one for dropout."""
        with _borrowed_global_stream(self.device):
            _set_global_state(self._global, self.device)
            yield
            self._global = _global_state(self.device)

    def order(self, num_samples: int) -> Int[Tensor, " sample"]:
        """The order of the samples in the next epoch."""
        if self.kind != "order_apart":
            return torch.randperm(num_samples, generator=self.data_order)
        # What torch's DataLoader draws beside the order: a seed for its workers, and an order for what may be left over.
        torch.empty((), dtype=torch.int64).random_(generator=self.data_order)
        order, _ = (torch.randperm(num_samples, generator=self.data_order) for _ in range(2))
        return order

    def evaluation_noise(self) -> torch.Generator:
        """A fresh generator, the same at every evaluation: looking at the dev split moves no stream of training."""
        return evaluation_noise(self.seed, self.device)

    def state(self) -> dict[str, Tensor]:
        """All streams as they stand, as byte tensors."""
        state = {f"stream.global.{name}": value for name, value in self._global.items()}
        for name in ("data_order", "student_noise", "teacher_noise"):
            if (generator := getattr(self, name)) is not None:
                state[f"stream.{name}"] = generator.get_state()
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Puts every stream back to where `state` was taken."""
        self._global = {name: state[f"stream.global.{name}"] for name in self._global}
        for name in ("data_order", "student_noise", "teacher_noise"):
            if (generator := getattr(self, name)) is not None:
                generator.set_state(state[f"stream.{name}"])


def _global_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_global_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def _borrowed_global_stream(device: torch.device) -> Iterator[None]:
    before = _global_state(device)
    try:
        yield
    finally:
        _set_global_state(before, device)
