"""The compact copies of a ledger, made again while a sweep runs: a store of many thousand trials is read fast at any time."""

import contextlib
import threading

from rekd.store.ledger import Ledger
from rekd.store.table import WORTHWHILE


class CompactCopies:
    """Looks after the copies of one ledger, in a thread beside the sweep."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._num_ended = 0
        self._thread: threading.Thread | None = None

    def ended(self) -> None:
        """A trial has ended. Once so many have that a copy may be worth its while, the ledger decides whether to make one."""
        self._num_ended += 1
        if self._num_ended >= WORTHWHILE and not self.is_copying:
            self._num_ended = 0
            self._thread = threading.Thread(target=self.make, name="compact copies", daemon=True)
            self._thread.start()

    @property
    def is_copying(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def make(self) -> None:
        """Makes new copies where the ledger holds enough that is not in them."""
        with contextlib.suppress(OSError):  # it makes reading faster; what has ended is in the ledger without it
            self._ledger.compact()
