"""The ledger: what has been run and what came out, one row a trial and one row an epoch, in Parquet.

A result (`ok` or `diverged`) and a failure are files of their own. So no failure can take the place of a result, however
two that run the same trial meet; where both are there, the result is the trial's row.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pyarrow as pa

from rekd.schedule import SCHEDULED
from rekd.store.files import Store
from rekd.store.formats import FORMAT
from rekd.store.table import Table
from rekd.trial import PRESETS, Trial, canonical_json, is_read, neutral_values, plain_type

Status = Literal["ok", "diverged", "failed"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a trial came to. Ratios and accuracies are fractions, losses are in nats, times in seconds."""

    status: Status
    """`ok`, `diverged` (its numbers are of no use, running it again would give them again) or `failed` (an error)."""
    error: str = ""
    """Why it diverged or failed, in one line."""
    best_epoch: int | None = None
    """The epoch, from 1, whose version was kept and tested."""
    num_epochs: int | None = None
    """Epochs that were run."""
    num_features: int | None = None
    """L, features of a sample."""
    num_parameters: int | None = None
    """Trainable parameters of generator and predictor."""

    dev_loss: float | None = None
    """L_RE of the best version for re and rekd (footnote 3), L_pred for cls."""
    dev_accuracy: float | None = None
    dev_rationale_ratio: float | None = None
    """Share of all L positions that is selected."""
    dev_token_ratio: float | None = None
    """Share of the real positions (not padding) that is selected."""
    test_loss: float | None = None
    test_accuracy: float | None = None
    test_rationale_ratio: float | None = None
    test_token_ratio: float | None = None

    test_sufficiency: float | None = None
    """Probability of the class that is predicted from the rationale: from the whole input minus from the rationale."""
    test_comprehensiveness: float | None = None
    """Probability of the same class: from the whole input minus from all but the rationale."""
    test_distinct_masks: float | None = None
    """Different masks a sample; 1 / samples where one mask serves every input (collapse)."""
    dev_teacher_overlap: float | None = None
    """Mean intersection over union of the student's and the teacher's rationales."""
    dev_teacher_train_share: float | None = None
    """Share of the dev split that the teacher was trained on: 0 with a fixed split."""
    num_dev_in_train: int | None = None
    """Samples of dev that stand in train too, with the same content."""
    num_test_in_train: int | None = None
    """Samples of test that stand in train too, with the same content."""

    train_seconds: float | None = None
    """Time in training and evaluation, over all attempts that contributed."""
    device: str = ""
    """What it ran on, such as `cpu` or `NVIDIA L40S`."""
    attempt: int = 1
    """How many times the trial was started."""
    finished_at: str = ""
    """When it ended, UTC, ISO 8601."""
    versions: str = ""
    """Versions of rekd, torch and transformers, and the commit where it is known."""
    commits: str | None = None
    """What names of the hub stood for: commits as JSON, by what was asked for; None where nothing was of the hub."""
    test_eraser_sufficiency: float | None = None
    """Probability of the class that is predicted from the whole input: from that minus from the rationale (ERASER). The
    model's own predictor says so, which never saw whole inputs in training; the audit has a judge that did."""
    test_eraser_comprehensiveness: float | None = None
    """Probability of the same class: from the whole input minus from all but the rationale."""
    dev_expected_ratio: float | None = None
    """Share of all positions that is selected on average, over the samples of the mask that training draws."""
    dev_argmax_ratio: float | None = None
    """Share of all positions that is selected by argmax: the more probable half of each."""
    test_expected_ratio: float | None = None
    test_argmax_ratio: float | None = None
    test_rationale_precision: float | None = None
    """The share of what is selected that is evidence by the task's `rationale_column`; a mean over samples, as are the
    next three (`rekd.tasks.truth`)."""
    test_rationale_recall: float | None = None
    test_rationale_f1: float | None = None
    test_rationale_iou: float | None = None
    test_rationale_auprc: float | None = None
    """Mean area under the precision-recall curve of the selection logits."""
    warning: str | None = None
    """What went wrong beside the result, in one line: such as samples to look at that could not be written."""


_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64()}


TRIALS_SCHEMA = pa.schema(
    [
        ("digest", pa.string()),
        *((field.name, _ARROW[plain_type(field.type)]) for field in fields(Trial)),
        ("fidelity", pa.string()),
        *((field.name, _ARROW[plain_type(field.type)]) for field in fields(Outcome)),
        ("config", pa.string()),
        ("format", pa.int64()),
    ]
)
"""Columns of `trials`: the digest, every field of `Trial`, its fidelity preset, every field of `Outcome`, the trial as
JSON, and the format in which the row was written (missing where 0.1.0 wrote it)."""

EPOCHS_SCHEMA = pa.schema(
    [
        ("digest", pa.string()),
        ("attempt", pa.int64()),
        ("epoch", pa.int64()),
        ("step", pa.int64()),
        ("temperature", pa.float64()),
        ("train_loss", pa.float64()),
        ("train_prediction_loss", pa.float64()),
        ("train_selection_loss", pa.float64()),
        ("train_rationale_distillation_loss", pa.float64()),
        ("train_prediction_distillation_loss", pa.float64()),
        ("train_rationale_ratio", pa.float64()),
        ("dev_loss", pa.float64()),
        ("dev_prediction_loss", pa.float64()),
        ("dev_selection_loss", pa.float64()),
        ("dev_accuracy", pa.float64()),
        ("dev_rationale_ratio", pa.float64()),
        ("dev_token_ratio", pa.float64()),
        ("seconds", pa.float64()),
        *((f"train_{name}", pa.float64()) for name in SCHEDULED),
    ]
)
"""Columns of `epochs`. Train values are means over the epoch's steps; dev values are at its end; the temperature and what
a schedule may move are those of the last step."""


class Ledger:
    """Trials of one store that have ended. Every method may be called from any number of processes at once.

    >>> import tempfile
    >>> from rekd import Trial
    >>> trial = Trial(
    ...     task="mine", task_digest="0", model="tiny", model_digest="0", objective="cls", seed=2026, epochs=20
    ... )
    >>> ledger = Ledger(tempfile.mkdtemp())
    >>> ledger.write(trial, Outcome(status="ok", dev_loss=0.25), [{"epoch": 1, "dev_loss": 0.25}])
    >>> ledger.done() == {trial.digest}
    True
    >>> ledger.row(trial.digest)["dev_loss"]
    0.25
    """

    def __init__(self, store: Store | str) -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self._results = Table(self.store, "trials", TRIALS_SCHEMA)
        self._failures = Table(self.store, "failures", TRIALS_SCHEMA)
        self._epochs = Table(self.store, "epochs", EPOCHS_SCHEMA)

    def write(self, trial: Trial, outcome: Outcome, epochs: Iterable[dict[str, Any]] = ()) -> None:
        """Records that a trial has ended. Its epochs go first: whoever sees the row of `trials` sees them all.

        A failure leaves the result of another run of the trial, and has no epochs.
        """
        row = {**asdict(trial), "fidelity": trial.fidelity, **asdict(outcome)}
        row |= {"config": canonical_json(asdict(trial)), "format": FORMAT}
        row["error"] = outcome.error.encode(errors="replace").decode()  # it may name a file whose name is no UTF-8
        if outcome.status == "failed":
            self._failures.write(trial.digest, [row])
            return
        self._epochs.write(trial.digest, epochs)
        self._results.write(trial.digest, [row])
        self._failures.remove(trial.digest)

    def trials(self, digests: Sequence[str] | None = None) -> pa.Table:
        """One row a trial, sorted by digest; of the given digests only, where they are given."""
        failures = self._failures.read(digests)  # first: one that is gone by then has given way to a result
        rows = self._results.read(digests)
        results = _chosen(rows, lambda digest, status: status not in (None, "failed"))
        known = _digests(results)
        failed = _chosen(failures, lambda digest, status: status == "failed" and digest not in known)
        known |= _digests(failed)
        # 0.1.0 put failures among the results.
        before = _chosen(rows, lambda digest, status: status == "failed" and digest not in known)
        return _as_known_now(pa.concat_tables([results, failed, before])).sort_by("digest")

    def row(self, digest: str) -> dict[str, Any] | None:
        """The row of one trial; None where it has not ended."""
        rows = _as_known_now(self._results.read([digest])).to_pylist()
        if rows and rows[0]["status"] != "failed":
            return rows[0]
        return next(iter(self.trials([digest]).to_pylist()), None)

    def failure(self, digest: str) -> dict[str, Any] | None:
        """The row of a trial's last failure, where it has failed since it last had a result."""
        return next(iter(self._failures.read([digest]).to_pylist()), None)

    def epochs(self, digests: Sequence[str] | None = None) -> pa.Table:
        """One row an epoch of a finished trial, sorted by digest and epoch."""
        return self._epochs.read(digests)

    def done(self) -> set[str]:
        """Digests that need not run again: those that ended `ok` or `diverged`."""
        return _digests(_chosen(self.trials(), lambda digest, status: status != "failed"))

    def withdraw(self, digest: str, why: str) -> None:
        """A trial that has a result counts as failed from now on, with its numbers, and runs again.

        What it said as a teacher goes with it: trained again, on another device, it may say something else. For the holder
        of the trial's claim: another run of it might end meanwhile.
        """
        row = self.row(digest)
        if row is not None and row["status"] != "failed":
            self._failures.write(digest, [row | {"status": "failed", "error": why}])
            self._results.remove(digest)
        for name in self.store.names_in(self.store.targets_folder):
            if name.startswith(f"{digest}-"):
                self.store.remove_file(f"{self.store.targets_folder}/{name}")

    def compact(self, *, at_least: int | None = None) -> None:
        """Copies all rows into one file a table, which is read 100 times faster, where `at_least` trials are not there yet.

        By itself it chooses how many are worth it, so that a sweep may call it whenever a trial has ended. The files of
        single trials stay what the ledger is (`rekd.store.table`).
        """
        if self._results.compact(at_least=at_least):
            self._epochs.compact(at_least=1)
            self._failures.compact(at_least=1)


def _chosen(rows: pa.Table, is_wanted: Callable[[str, str | None], bool]) -> pa.Table:
    """The rows whose digest and status are wanted."""
    wanted = [*map(is_wanted, rows["digest"].to_pylist(), rows["status"].to_pylist())]
    return rows if all(wanted) else rows.filter(pa.array(wanted, pa.bool_()))


def _as_known_now(trials: pa.Table) -> pa.Table:
    """Rows of earlier versions beside those of this one: fields that were born since have their neutral values, and a
    preset that came to mean something else has another name."""
    objectives = trials["objective"].to_pylist()
    for name, neutral in neutral_values(Trial).items():
        pairs = zip(trials[name].to_pylist(), objectives, strict=True)
        values = [neutral if value is None and is_read(name, objective) else value for value, objective in pairs]
        trials = _with_column(trials, name, values)
    before = "authors of 0.1.0"
    points = zip(*(trials[name].to_pylist() for name in PRESETS[before]), strict=True)
    is_before = [point == tuple(PRESETS[before].values()) for point in points]
    pairs = zip(trials["fidelity"].to_pylist(), is_before, strict=True)
    return _with_column(trials, "fidelity", [before if is_old else name for name, is_old in pairs])


def _with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))


def _digests(rows: pa.Table) -> set[str]:
    return set(rows["digest"].to_pylist())
