"""Orders of machines, as the head of a rented cluster and its sweeps tell each other of them; and which may be made now.

Three files of the head hold it, since those who talk are processes of different kinds: what rents is Ray's monitor, what
waits is a sweep. Neither Ray nor boto3 is needed here.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

REST = 60.0
"""Seconds for which an order that was refused is not repeated."""

MOST_REFUSALS, WINDOW = 5, 60.0
"""So many orders may be refused within so many seconds; then none is made until the window has moved on."""

MOST_FAILURES = 3
"""Machines in a row that may fail to be set up. After them none is ordered: each is paid for, and the next would fail too."""

ZONE_ONLY = frozenset(
    {"InsufficientInstanceCapacity", "InsufficientCapacity", "InsufficientFreeAddressesInSubnet", "Unsupported"}
)
"""AWS's words for what another zone may have. All others (quota, role, permission) hold in every zone."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What an order asks for."""

    machine: str
    """AWS's name of the type, such as g6e.xlarge."""
    market: str
    """`spot` or `on demand`."""
    zone: str
    """A subnet, which lies in one zone."""


class Refusals:
    """Which orders were refused, so that they are not repeated at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused: dict[Offer, tuple[float, str]] = {}
        self._latest: deque[float] = deque(maxlen=MOST_REFUSALS)

    def note(self, offers: Iterable[Offer], code: str) -> None:
        """One order was refused, for a reason that holds for these offers."""
        now = self._clock()
        self._latest.append(now)
        self._refused |= dict.fromkeys(offers, (now, code))

    def standing(self, offer: Offer) -> str | None:
        """Why the offer was refused, as long as it rests."""
        refused_at, code = self._refused.get(offer, (-REST, ""))
        return code if self._clock() - refused_at < REST and code else None

    def are_too_many(self) -> bool:
        """Whether no order at all may be made now."""
        return len(self._latest) == MOST_REFUSALS and self._clock() - self._latest[0] < WINDOW


FRESH = 60.0
"""Seconds for which a note of a refusal counts: as long as machines are missing, Ray asks, and it is written, every few."""


@dataclass(frozen=True)
class Notes:
    """The three files."""

    folder: Path = Path("~/.rekd")

    def refused(self) -> str | None:
        """Why machines that are asked for now do not come; None where they come, are not asked for, or are not rented."""
        with contextlib.suppress(OSError):
            age = time.time() - (self.folder.expanduser() / "refused").stat().st_mtime
            return self._read("refused") if age < FRESH else None
        return None

    def write_refused(self, reason: str | None) -> None:
        self._write("refused", reason)

    def hold(self) -> str | None:
        """Why no machine is to be ordered; None where they may be. Those that there are go on."""
        return self._read("hold")

    def write_hold(self, reason: str | None) -> None:
        self._write("hold", reason)

    def given_up(self) -> str | None:
        """Why no machine is ordered any more, whatever is asked for, until the next `ray up`."""
        return self._read("given-up")

    def write_given_up(self, reason: str | None) -> None:
        self._write("given-up", reason)

    def _read(self, name: str) -> str | None:
        with contextlib.suppress(OSError):
            return (self.folder.expanduser() / name).read_text().strip() or None
        return None

    def _write(self, name: str, text: str | None) -> None:
        path = self.folder.expanduser() / name
        if text is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{name}.{os.getpid()}")
        new.write_text(f"{text}\n")
        new.replace(path)
