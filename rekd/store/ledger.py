"""The ledger: what has been run and what came out, one row a trial and one row an epoch, in Parquet."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from rekd.store.files import Store
from rekd.store.formats import FORMAT, written_by
from rekd.trial import Trial, canonical_json, plain_type

WORTHWHILE = 100
"""Trials in files of their own from which on they are worth a compact copy: reading them takes 0.2 s."""

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
    """Probability of the predicted class from the whole input minus that from the rationale (ERASER)."""
    test_comprehensiveness: float | None = None
    """Probability of the predicted class from the whole input minus that from all but the rationale (ERASER)."""
    test_distinct_masks: float | None = None
    """Different masks a sample; 1 / samples where one mask serves every input (collapse)."""
    dev_teacher_overlap: float | None = None
    """Mean intersection over union of the student's and the teacher's rationales."""
    dev_teacher_train_share: float | None = None
    """Share of the dev split that the teacher was trained on: 0 with a fixed split."""

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
    ]
)
"""Columns of `epochs`. Train values are means over the epoch's steps; dev values are at its end."""


class Ledger:
    """Finished trials of one store. Every method may be called from any number of processes at once."""

    def __init__(self, store: Store | str) -> None:
        self.store = store if isinstance(store, Store) else Store(store)

    def write(self, trial: Trial, outcome: Outcome, epochs: Iterable[dict[str, Any]] = ()) -> None:
        """Records that a trial has ended. Its epochs go first: whoever sees the row of `trials` sees them all.

        A failure leaves the row of a run that did not fail: two may overlap where a node was given up too early.
        """
        digest = trial.digest
        if outcome.status == "failed" and (row := self.row(digest)) is not None and row["status"] != "failed":
            return
        records = [{"digest": digest, **record} for record in epochs]
        self.store.write(self.store.epochs_file(digest), _parquet(records, EPOCHS_SCHEMA))
        row = {"digest": digest, **asdict(trial), "fidelity": trial.fidelity, **asdict(outcome)}
        row |= {"config": canonical_json(asdict(trial)), "format": FORMAT}
        self.store.write(self.store.trial_file(digest), _parquet([row], TRIALS_SCHEMA))

    def trials(self, digests: Sequence[str] | None = None) -> pa.Table:
        """One row a trial, sorted by digest; of the given digests only, where they are given."""
        return self._read("trials", TRIALS_SCHEMA, digests).sort_by("digest")

    def row(self, digest: str) -> dict[str, Any] | None:
        """The row of one trial; None where it has not ended."""
        table = self._read_or_set_aside(self.store.trial_file(digest), TRIALS_SCHEMA)
        if table is None:  # the compact copy may have it
            table = self.trials([digest])
        return next(iter(table.to_pylist()), None)

    def epochs(self, digests: Sequence[str] | None = None) -> pa.Table:
        """One row an epoch of a finished trial, sorted by digest and epoch."""
        table = self._read("epochs", EPOCHS_SCHEMA, digests)
        return table.sort_by([("digest", "ascending"), ("epoch", "ascending")])

    def done(self) -> set[str]:
        """Digests that need not run again: those that ended `ok` or `diverged`."""
        table = self.trials().select(["digest", "status"]).to_pydict()
        return {digest for digest, status in zip(table["digest"], table["status"], strict=True) if status != "failed"}

    def withdraw(self, digest: str, why: str) -> None:
        """A trial that ended `ok` counts as `failed` from now on and runs again: what it left is of no use.

        What it said as a teacher goes with it: trained again, on another device, it may say something else.
        """
        rows = [row for row in self.trials([digest]).to_pylist() if row["status"] == "ok"]
        if not rows:
            return
        for name in ("trials", "epochs"):  # what the copies hold is not to change, and now it does
            self.store.remove_file(self.store.compact_file(name))
        rows[0] |= {"status": "failed", "error": why}
        self.store.write(self.store.trial_file(digest), _parquet(rows, TRIALS_SCHEMA))
        for name in self.store.names_in(self.store.targets_folder):
            if name.startswith(f"{digest}-"):
                self.store.remove_file(f"{self.store.targets_folder}/{name}")

    def compact(self, *, at_least: int = WORTHWHILE) -> None:
        """Copies rows that will not change (`ok` and `diverged`) into one file a table, which is read 100 times faster.

        Nothing is deleted: the files of single trials stay what the ledger is, and another writer is not disturbed.
        Nothing happens with fewer than `at_least` trials that are not in there yet.
        """
        known = len(self._read_compact("trials", TRIALS_SCHEMA))
        if len(self.store.names_in(self.store.trials_folder)) - known < at_least:
            return
        trials = self.trials()
        final = trials.filter(pc.field("status") != "failed")
        epochs = self.epochs().filter(pc.field("digest").isin(pa.array(final["digest"].to_pylist(), pa.string())))
        # Epochs first, as in `write`: a trial that is compact has its epochs there.
        for name, table in (("epochs", epochs), ("trials", final)):
            self.store.write(self.store.compact_file(name), _as_parquet(table))

    def _read(self, name: str, schema: pa.Schema, digests: Sequence[str] | None) -> pa.Table:
        folder = f"{self.store.root}/{name}"
        compact = self._read_compact(name, schema)
        known = set(compact["digest"].unique().to_pylist())
        if digests is None:
            wanted = [name.removesuffix(".parquet") for name in self.store.names_in(folder)]
        else:
            wanted = sorted(set(digests))
            compact = compact.filter(pc.field("digest").isin(pa.array(wanted, pa.string())))
        paths = [f"{folder}/{digest}.parquet" for digest in wanted if digest not in known]
        if digests is not None:
            paths = [path for path in paths if self.store.exists(path)]
        return pa.concat_tables([compact, self._read_files(paths, schema)])

    def _read_compact(self, name: str, schema: pa.Schema) -> pa.Table:
        path = self.store.compact_file(name)
        table = self._read_or_set_aside(path, schema) if self.store.exists(path) else None
        return schema.empty_table() if table is None else table

    def _read_files(self, paths: list[str], schema: pa.Schema) -> pa.Table:
        if not paths:
            return schema.empty_table()
        try:
            return self._scan(paths, schema)
        except (pa.ArrowException, OSError):
            tables = [table for path in paths if (table := self._read_or_set_aside(path, schema)) is not None]
            return pa.concat_tables(tables) if tables else schema.empty_table()

    def _scan(self, paths: list[str], schema: pa.Schema) -> pa.Table:
        dataset = pads.dataset(paths, schema=schema, format=_FORMAT, filesystem=self.store.file_system)
        table = dataset.to_table()
        for fragment in dataset.get_fragments():  # the scan has read their footers: no file is opened again
            _check_names(fragment.metadata)
        return table

    def _read_or_set_aside(self, path: str, schema: pa.Schema) -> pa.Table | None:
        try:
            content = self.store.read(path)
        except FileNotFoundError:
            return None
        try:
            return _parsed(content, schema)
        except (pa.ArrowException, OSError) as error:  # not the store's: the content is here
            self.store.set_aside(path, f"could not be read ({error}); what is lost with it runs again")
            return None


_FORMAT = pads.ParquetFileFormat(
    default_fragment_scan_options=pads.ParquetFragmentScanOptions(page_checksum_verification=True)
)


def _parsed(content: bytes, schema: pa.Schema) -> pa.Table:
    """The table in a file's content. Columns that it lacks, because an earlier version wrote it, come back as nulls."""
    fragment = _FORMAT.make_fragment(pa.BufferReader(content))
    table = fragment.to_table(schema=schema)
    _check_names(fragment.metadata)
    return table


def _check_names(footer: pq.FileMetaData) -> None:
    """Raises ArrowInvalid where a column's name is damaged.

    Pages have checksums, the footer has none: the column would pass for one that an earlier version did not write.
    Arrow keeps a second copy of the names there.
    """
    encoded = (footer.metadata or {}).get(b"ARROW:schema")
    if encoded is None:  # written by another program
        return
    try:
        names, copies = footer.schema.names, pa.ipc.read_schema(pa.py_buffer(base64.b64decode(encoded))).names
    except ValueError as error:  # not UTF-8, not Base64, not a schema
        raise pa.ArrowInvalid(f"its schema is damaged: {error}") from error
    if names != copies:
        raise pa.ArrowInvalid("the name of a column is damaged")


def _parquet(records: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    return _as_parquet(pa.Table.from_pylist(records, schema=schema))


def _as_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(written_by()), sink, write_page_checksum=True)
    return sink.getvalue().to_pybytes()
