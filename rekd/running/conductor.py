"""Who runs what: trials are given out one at a time, claimed from other sweeps, and taken in when they have ended.

It knows no Ray: whoever runs trials (`rekd.running.tune`) asks `next_trial` and tells `begun`, `reached` and `ended`.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from rich.markup import escape

from rekd.running.agenda import Agenda
from rekd.running.compacting import CompactCopies
from rekd.running.plan import SweepResult
from rekd.running.progress import Progress
from rekd.running.retries import MAX_FAILURES, Retries
from rekd.running.silence import Silence
from rekd.store.claims import AT_A_TIME, SLOW, Claims
from rekd.store.ledger import Ledger, Outcome
from rekd.store.saved_model import is_saved
from rekd.trial import Trial

AHEAD = 0.25
"""The share of the slots for which a store where claiming takes long (`SLOW`) is asked ahead."""


class Conductor:
    """Gives out the trials of an agenda, each to one runner that is known by a key of its own."""

    def __init__(
        self,
        agenda: Agenda,
        ledger: Ledger,
        claims: Claims,
        *,
        progress: Progress,
        is_supplied: Callable[[Trial], bool],
    ) -> None:
        """`is_supplied` says whether what a trial needs is there, and asks for it where it is not."""
        self.agenda, self.ledger, self.claims, self.progress = agenda, ledger, claims, progress
        self.is_supplied = is_supplied
        self.copies = CompactCopies(ledger)
        self.slots = 1
        """Trials that may run at a time."""
        self.live: dict[str, Trial] = {}
        """What runs, by the key of who runs it."""
        self.retries = Retries()
        self.silence = Silence(lambda trial: agenda.seconds(trial) / trial.epochs)
        progress.reasons.append(self.silence.said)
        self.num_trained = 0
        """Trials that were run here."""
        self.is_interrupted = False
        self.held = ""
        """Why nothing is started any more; what runs goes on to its end."""
        self.limit: Callable[..., str] = lambda **of_a_trial: ""
        """Says why nothing more is to be started, or not a trial of so many `seconds` and `gpu_seconds` with all before it;
        nothing as long as there is no reason."""
        self.gpus_of: Callable[[Trial], float] = lambda trial: 1.0
        """Says how many GPUs a trial takes; 1 where it needs none."""
        self.gpu_seconds = 0.0
        """What the trials took that have ended here."""
        self._since: dict[str, float] = {}  # when the process of a key began with its trial
        self._ready: deque[Trial] = deque()  # claimed, and not given out yet
        self._ahead = 0
        self._ended: list[Trial] = []
        self._expect()

    @property
    def is_over(self) -> bool:
        """Whether no result can bring another trial."""
        return self.is_interrupted or not (self.live or ((self.agenda.queue or self._ready) and not self.held))

    def look_at_limit(self) -> None:
        """Starts nothing more from now on where there is a reason. The first one stands."""
        if not self.held and (why := self.limit()):
            self._hold(why)

    def _hold(self, why: str) -> None:
        self.held = why
        while self._ready:
            self._put_back(self._ready.pop())
        self.progress.say(f"[yellow]No more trials are started:[/] {escape(why)}")

    def next_trial(self, key: str) -> Trial | None:
        """The trial that `key` is to run; None where there is none now: all slots are taken, or supplies are missing."""
        self.look_at_limit()
        if self.agenda.replan_if_due():
            self._expect()
        if self.is_interrupted or self.held or len(self.live) >= self.slots:
            return None
        trial = self._claimed()
        if trial is not None:
            self.live[key] = trial
            self.progress.start(trial)
        return trial

    def begun(self, key: str, where: Callable[[], str]) -> None:
        """A process has begun with the trial of `key`; `where` names its machine."""
        if key in self.live:
            self._since[key] = time.monotonic()
            self.silence.begun(self.live[key], where)

    def refused(self, why: str) -> None:
        """A process may not use the store. It would be no better with the next trial, which is why none is started."""
        if not self.held:
            self._hold(
                f"a machine may not use the store: {why.rstrip('.')}. Give it what it needs, such as a role or the rights to "
                "the folder, and type the same command again."
            )

    def hangs(self, key: str) -> bool:
        """Whether the process that runs `key` is to be ended, because nothing was heard of it for long. It says so."""
        trial = self.live.get(key)
        if trial is None or not (why := self.silence.ends(trial)):
            return False
        self.progress.say(
            f"[yellow]{trial} ({trial.digest}): {escape(why)}.[/] Its process is ended; it is tried again."
        )
        return True

    def reached(self, key: str, record: dict[str, Any]) -> None:
        """The trial of `key` has finished an epoch."""
        if key in self.live:
            self.retries.reached(self.live[key], record["epoch"])
            self.silence.epoch(self.live[key], record.get("seconds", 0.0))
            self.progress.epoch(self.live[key], record)

    def ended(self, key: str, *, error: bool = False) -> None:
        """Whoever runs `key` is done with it, in an error or not. What came out is what the ledger says."""
        trial, since = self.live.pop(key, None), self._since.pop(key, None)
        if trial is None or self.is_interrupted:
            return
        self.silence.over(trial)
        row = self._row(trial)
        has_failed = row is None or row["status"] == "failed"
        # Another sweep runs it, or it had not begun yet: an old failure is not its result.
        if has_failed and (trial.digest in self.claims.lost or (self.held and not error and since is None)):
            self._put_back(trial)
            return
        if row is None or (error and has_failed):
            if self.retries.once_more(trial):
                self._put_back(trial)
                return
            row = self._given_up(trial)
        self.claims.release_soon(trial.digest)
        self.num_trained += 1
        seconds = row["train_seconds"] or (0.0 if since is None else time.monotonic() - since)  # a failure says none
        self.gpu_seconds += seconds * self.gpus_of(trial)
        self._take_in(trial, row)
        self.copies.ended()

    def is_taken_over(self, key: str) -> bool:
        """Whether another sweep has taken over what `key` runs."""
        return key in self.live and self.live[key].digest in self.claims.lost

    def result(self) -> SweepResult:
        """What became of the sweep."""
        if self.agenda.is_stale:
            self.agenda.replan()
        return SweepResult.of(
            self.agenda.plan,
            self.agenda.results,
            num_trained=self.num_trained,
            is_interrupted=self.is_interrupted,
            held=self.held,
        )

    def _claimed(self) -> Trial | None:
        """The next trial that is supplied and that no other sweep has claimed."""
        while True:
            if not self._ready and not self._claim_more():
                return None
            trial = self._ready.popleft()
            if trial.digest not in self.claims.lost:
                return trial
            self._put_back(trial)

    def _claim_more(self) -> bool:
        """Claims trials of the queue in their order, as many as can start, at once; whether any is this sweep's now."""
        started = time.monotonic()
        elsewhere = self.claims.elsewhere()
        refused: dict[str, str] = {}
        self.progress.elsewhere = sum(trial.digest in elsewhere for trial in self.agenda.queue)
        free = self.slots - len(self.live) + self._ahead
        passed = set(elsewhere)
        # What another sweep has run meanwhile may let more start.
        while not self._ready and (asked := [*islice(self._startable(passed, refused), free)]):
            passed |= {trial.digest for trial in asked}
            held = self.claims.take_all(trial.digest for trial in asked)
            taken = [trial for trial in asked if trial.digest in held]
            for trial, row in zip(taken, self._rows_meanwhile(taken), strict=True):
                self.agenda.give(trial)
                if row is None:
                    self._ready.append(trial)
                else:
                    self.claims.release_soon(trial.digest)
                    self._take_in(trial, row)
        self._ahead = round(AHEAD * self.slots) if time.monotonic() - started > SLOW else 0
        # As long as something runs, its end may tell that others take less than was thought, or bring shorter ones.
        if refused and not (self.live or self._ready) and self._none_fits(refused):
            if self.agenda.is_stale:  # results that the plan has not seen may bring shorter ones too
                self.agenda.replan()
                self._expect()
                return self._claim_more()
            self._hold(next(iter(refused.values())))
        return bool(self._ready)

    def _startable(self, passed: set[str], refused: dict[str, str]) -> Iterator[Trial]:
        """The trials of the queue, but for those that are passed over, that have what they need and fit into the limits.

        Each counts for those after it. Why others do not fit is added to `refused`, by digest.
        """
        given_out = self.gpu_seconds + sum(map(self._gpu_seconds, [*self.live.values(), *self._ready]))
        for trial in list(self.agenda.queue):
            if trial.digest in passed or not trial.teachers.keys().isdisjoint(self.agenda.again):
                continue
            with_it = given_out + self._gpu_seconds(trial)
            if why := self.limit(seconds=self.agenda.seconds(trial), gpu_seconds=with_it):
                refused[trial.digest] = why
            elif self.is_supplied(trial):
                given_out = with_it
                yield trial

    def _none_fits(self, refused: dict[str, str]) -> bool:
        """Whether every trial of the queue is refused, or waits for a teacher that is."""
        return all(
            trial.digest in refused or not refused.keys().isdisjoint(trial.teachers) for trial in self.agenda.queue
        )

    def _gpu_seconds(self, trial: Trial) -> float:
        return self.agenda.seconds(trial) * self.gpus_of(trial)

    def _rows_meanwhile(self, trials: list[Trial]) -> list[dict[str, Any] | None]:
        """The results of trials that another sweep has run since the ledger was read; None for the others."""
        if len(trials) == 1:
            return [self._row_meanwhile(trials[0])]
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            return list(pool.map(self._row_meanwhile, trials))

    def _row_meanwhile(self, trial: Trial) -> dict[str, Any] | None:
        if not self.ledger.store.exists(self.ledger.store.trial_file(trial.digest)):
            return None
        row = self._row(trial)
        return None if row is None or row["status"] == "failed" else row

    def _put_back(self, trial: Trial) -> None:
        """It did not end, and is to be run again: here, or where another sweep has taken it over."""
        self.claims.release(trial.digest)
        self.agenda.put_back(trial)
        self.progress.lost(trial)

    def _given_up(self, trial: Trial) -> dict[str, Any]:
        reason = (
            f"its process ended {MAX_FAILURES + 1} times without an epoch in between: a lost node, or too little memory; "
            "try fewer trials at once (--max-concurrent) or a smaller batch_size"
        )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.ledger.write(trial, Outcome(status="failed", error=reason, finished_at=now))
        row = self.ledger.failure(trial.digest)
        assert row is not None
        return row

    def _row(self, trial: Trial) -> dict[str, Any] | None:
        """What a trial has come to; of a teacher that is run again, what it has come to since."""
        if trial.digest in self.agenda.again and not is_saved(self.ledger.store, trial.digest):
            return self.ledger.failure(trial.digest)
        return self.ledger.row(trial.digest)

    def _take_in(self, trial: Trial, row: dict[str, Any]) -> None:
        """A trial has ended, here or in another sweep, with this row."""
        self.agenda.take_in(row)
        self._ended.append(trial)
        self.progress.end(trial, status=row["status"], dev_loss=row["dev_loss"], error=row["error"])

    def _expect(self) -> None:
        agenda = self.agenda
        given = [*self.live.values(), *self._ready]
        num_total = len(self._ended) + len(agenda.queue) + len(given) + agenda.num_postponed
        self.progress.expect(
            num_total=num_total,
            work_done=sum(agenda.seconds(trial) for trial in self._ended),
            work_left=agenda.seconds_left + sum(agenda.seconds(trial) for trial in given),
        )
