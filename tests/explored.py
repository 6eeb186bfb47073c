"""What several sweeps, readers and compactions do to one store in a schedule, and what must hold whatever its order is."""

from collections import Counter
from contextlib import suppress
from dataclasses import replace

from schedules import Actor, Schedule, world_of

from rekd.store.claims import BEAT, LEASE, LOOK_AGAIN, Claims
from rekd.store.files import Store
from rekd.store.ledger import Ledger, Outcome
from rekd.store.upkeep import clear_ended, run_again
from rekd.trial import Trial

TRIAL = Trial(task="t", task_digest="x", model="m", model_digest="y", objective="cls", seed=0, epochs=3)
TRIALS = NEW, FINISHED, COMPACT, REDONE, OVERLAPPING, DAMAGED = [replace(TRIAL, seed=seed) for seed in range(6)]
"""What the sweeps want. `NEW` nobody has run; `FINISHED` and `COMPACT` have ended before; `REDONE` too, and it is asked for
again meanwhile.
`OVERLAPPING` has failed, and two run it without a claim, as where a node was given up too early; of `DAMAGED` there is
half a file, and one runs it so."""
WITHDRAWN = replace(TRIAL, seed=6)
"""It has ended before, is asked for again meanwhile, and no sweep wants it."""
OK = Outcome(status="ok", num_epochs=3)
EPOCHS = [{"attempt": 1, "epoch": epoch, "step": epoch} for epoch in (1, 2, 3)]


class Explored:
    """One schedule of two sweeps, a compaction, a reader, a redo and two workers that overlap."""

    def __init__(self, seed: int) -> None:
        self.schedule = schedule = Schedule(
            seed,
            kills=(0.0, 0.004)[seed % 2],
            stalls=(0.0, 0.0, 0.004)[seed % 3],
            failures=(0.0, 0.0, 0.0, 0.0, 0.02)[seed % 5],
        )
        self.seed = seed
        self.inside: dict[str, set[Actor]] = {trial.digest: set() for trial in TRIALS}
        self.is_withdrawn = False
        before = Ledger(schedule.store())
        for trial in (COMPACT, REDONE, WITHDRAWN):
            before.write(trial, OK, EPOCHS)
        before.compact(at_least=1)
        before.write(FINISHED, OK, EPOCHS)
        before.write(OVERLAPPING, Outcome(status="failed", error="earlier"))
        schedule.write(before.store.trial_file(DAMAGED.digest), b"half a f")

    def run(self) -> None:
        """Raises AssertionError, with the last steps, where something does not hold."""
        schedule = self.schedule
        with world_of(schedule, knows_processes=self.seed % 7 > 2):
            for name in ("sweep 1", "sweep 2"):
                schedule.add(name, self.sweep)
            schedule.add("compaction", self.compact)
            schedule.add("reader", self.read)
            schedule.add("redo", self.redo)
            schedule.add("late, ok", lambda: self.ledger().write(DAMAGED, OK, EPOCHS))
            schedule.add("overlapping, ok", lambda: self.ledger().write(OVERLAPPING, OK, EPOCHS))
            schedule.add("overlapping, fails", self.overlap)
            schedule.run()
            self.check_rows({FINISHED, COMPACT})
            schedule.add("last sweep", self.sweep, is_safe=True)  # whoever was killed, somebody types the command again
            schedule.add("last compaction", self.compact, is_safe=True)
            schedule.run()
            self.check_rows(set(TRIALS))
            self.check_rubbish()

    # --- Actors -------------------------------------------------------------------------------------------------------

    def ledger(self) -> Ledger:
        return Ledger(self.schedule.store())

    def sweep(self) -> None:
        """Claims one trial after another, looks again, runs it, writes what came out and releases it, until all have ended."""
        ledger = self.ledger()
        claims = Claims(ledger.store)
        self.beat(claims)
        done = ledger.done()
        clear_ended(ledger.store, claims, done)
        left = [trial for trial in TRIALS if trial.digest not in done]
        while left:
            self.beat(claims)
            claims.check()
            trial = self.schedule.chance.choice(left[:2])
            if trial.digest not in claims.elsewhere() and claims.take(trial.digest):
                self.train(ledger, claims, trial)
                if self.is_finished(ledger, trial):
                    left.remove(trial)
                claims.release(trial.digest)
            self.schedule.sleep(LOOK_AGAIN)
        ledger.store.remove_file(ledger.store.owner_file(claims.owner))

    def beat(self, claims: Claims) -> None:
        with suppress(OSError):  # the next one follows, as it does in the thread that this is in a sweep
            claims._beat()

    def train(self, ledger: Ledger, claims: Claims, trial: Trial) -> None:
        if self.is_finished(ledger, trial):
            return
        self.enter(trial)
        for _ in range(2):
            self.schedule.sleep(BEAT)
            self.beat(claims)
            claims.check()
            if trial.digest in claims.lost:
                self.leave(trial)
                return
        fails = self.schedule.chance.random() < 0.2
        ledger.write(trial, Outcome(status="failed", error="memory") if fails else OK, () if fails else EPOCHS)
        self.leave(trial)

    def is_finished(self, ledger: Ledger, trial: Trial) -> bool:
        row = ledger.row(trial.digest)
        return row is not None and row["status"] == "ok"

    def compact(self) -> None:
        for _ in range(2):
            self.ledger().compact(at_least=1)

    def read(self) -> None:
        """Whoever reads sees every trial once, an `ok` row with its epochs, and what it has seen finished stays finished."""
        ledger, seen = self.ledger(), set[str]()
        for _ in range(3):
            rows = ledger.trials().to_pylist()
            epochs = Counter(ledger.epochs()["digest"].to_pylist())
            digests = [row["digest"] for row in rows]
            ok = {row["digest"] for row in rows if row["status"] == "ok"}
            self.schedule.check(len(digests) == len(set(digests)), "a reader sees a digest twice")
            self.schedule.check(OVERLAPPING.digest in digests, "a row is gone for a reader")
            self.schedule.check(all(epochs[digest] == 3 for digest in ok), "a reader sees a row without its epochs")
            self.schedule.check(seen - {REDONE.digest, WITHDRAWN.digest} <= ok, "a finished row is gone for a reader")
            seen |= ok

    def redo(self) -> None:
        """Asks for a finished trial again; where a sweep runs it, as may be after a stall, it is left."""
        try:
            run_again(self.schedule.store(), [WITHDRAWN.digest])
            self.is_withdrawn = True
            run_again(self.schedule.store(), [REDONE.digest])
        except ValueError:
            return

    def overlap(self) -> None:
        self.ledger().write(OVERLAPPING, Outcome(status="failed", error="its checkpoints are gone"))

    # --- What must hold -----------------------------------------------------------------------------------------------

    def enter(self, trial: Trial) -> None:
        """An actor runs the trial; no other may, but for one that stalled for so long that it counts as dead."""
        actor = self.schedule.actor()
        assert actor is not None
        if not self.is_given_up(actor):  # it will learn of it at its next epoch
            others = {other for other in self.inside[trial.digest] if not (other.is_dead or self.is_given_up(other))}
            names = ", ".join(sorted(other.name for other in others))
            self.schedule.check(not others, f"{names} and {actor.name} run the same trial")
        self.inside[trial.digest].add(actor)

    def leave(self, trial: Trial) -> None:
        self.inside[trial.digest].discard(self.schedule.actor())  # pyright: ignore[reportArgumentType]

    def is_given_up(self, actor: Actor) -> bool:
        return actor.stalled_at > float("-inf") and actor.asleep_until - actor.stalled_at > LEASE - BEAT

    def check_rows(self, finished: set[Trial]) -> None:
        """Every finished row is there, once, with its epochs: as readers see it, and in the files without the copy."""
        for is_compact in (True, False):
            if not is_compact:
                for name in ("trials", "epochs", "failures"):
                    self.schedule.files.pop(self.schedule.store().compact_file(name), None)
            rows = self.ledger().trials().to_pylist()
            epochs = Counter(self.ledger().epochs()["digest"].to_pylist())
            status = {row["digest"]: row["status"] for row in rows}
            self.schedule.check(len(rows) == len(status), "a digest is there twice")
            for trial in finished:
                found = status.get(trial.digest), epochs[trial.digest]
                self.schedule.check(found == ("ok", 3), f"the finished row of seed {trial.seed} is {found}")
            self.schedule.check(
                not self.is_withdrawn or status[WITHDRAWN.digest] == "failed", "what was withdrawn is ok again"
            )

    def check_rubbish(self) -> None:
        store: Store = self.schedule.store()
        kept = [store.read(f"{store.set_aside_folder}/{name}") for name in store.names_in(store.set_aside_folder)]
        self.schedule.check(all(content == b"half a f" for content in kept), "a good file was set aside")
