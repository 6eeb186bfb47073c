"""What is born later leaves what was stored before as it is: digests, rows, and what still has to be trained."""

import json
import shutil
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from analysis.frames import load_trials
from rekd.running.plan import fixed_plan, to_run
from rekd.store.formats import FORMAT, format_of
from rekd.store.ledger import Ledger, Outcome
from rekd.store.packed import pack
from rekd.tasks.task import Model, Task, load_task
from rekd.trial import FIDELITY, Trial, digest_of, first_born, grown, is_read, later_born, neutral_values

FIXTURES = Path(__file__).parent / "fixtures"

MADE_BY_0_1_0 = json.loads((FIXTURES / "digests-0.1.0.json").read_text())
"""Trials as version 0.1.0 made and named them: how, with which fields, by which digest."""


@dataclass(frozen=True, kw_only=True)
class GrownTrial(Trial):
    """`Trial` with two fields more, one of which has another default than its neutral value."""

    lambda_sparse: float = grown(default=0.0, neutral=0.0)
    sampler: str | None = grown(default="kuma", neutral="gumbel")


def grown_from(record: dict, **changes) -> Trial:
    return replace(GrownTrial.from_record(record), **changes)


@pytest.mark.parametrize("made", MADE_BY_0_1_0, ids=lambda made: made["digest"])
def test_a_trial_of_before_keeps_its_digest(made):
    trial = Trial.from_record(made["record"])
    assert trial.digest == made["digest"]
    assert grown_from(made["record"]).digest == made["digest"]
    assert grown_from(made["record"], lambda_sparse=0.5).digest != made["digest"]


@pytest.mark.parametrize(
    "made", [made for made in MADE_BY_0_1_0 if made["made"]["fidelity"] == "paper"], ids=lambda made: made["digest"]
)
def test_a_task_makes_the_trial_that_it_made_before(made):
    how = made["made"]
    task = load_task(how["task"])
    trial = task.trial(how["objective"], how["model"], seed=how["seed"], **how["overrides"])
    assert trial.digest == made["digest"]


@pytest.mark.parametrize(
    "made", [made for made in MADE_BY_0_1_0 if made["made"]["fidelity"] == "authors"], ids=lambda made: made["digest"]
)
def test_what_0_1_0_took_for_the_authors_code_keeps_its_name_and_is_no_trial_of_today(made):
    how = made["made"]
    assert Trial.from_record(made["record"]).fidelity == "authors of 0.1.0"
    trial = load_task(how["task"]).trial(
        how["objective"], how["model"], seed=how["seed"], fidelity="authors", **how["overrides"]
    )
    assert trial.fidelity == "authors"
    assert trial.digest != made["digest"]


def test_a_row_of_before_stands_beside_those_of_today(store):
    """Its missing columns hold what was so before there were any, and its preset has the name of today."""
    ledger = Ledger(store)
    old = next(made["record"] for made in MADE_BY_0_1_0 if made["made"]["fidelity"] == "authors")
    trials = [Trial.from_record(old), replace(Trial.from_record(old), **FIDELITY["authors"])]
    for trial in trials:
        ledger.write(trial, Outcome(status="ok"))
    file = store.trial_file(trials[0].digest)
    table = pq.read_table(file)
    table = table.drop_columns(list(neutral_values(Trial)))
    index = table.schema.get_field_index("fidelity")
    pq.write_table(table.set_column(index, "fidelity", pa.array(["authors"])), file)  # as 0.1.0 wrote it

    fidelities = {trials[0].digest: "authors of 0.1.0", trials[1].digest: "authors"}
    for read in (ledger.trials().to_pylist(), [ledger.row(trial.digest) for trial in trials]):
        assert {row["digest"]: row["fidelity"] for row in read} == fidelities
    assert load_trials(store).set_index("digest")["fidelity"].to_dict() == fidelities
    row = ledger.row(trials[0].digest)
    assert row is not None
    assert Trial.from_record({name: row[name] for name in asdict(trials[0])}).digest == trials[0].digest


def test_what_is_born_later_has_its_neutral_value_in_rows_of_before(old_store):
    of_paper = old_store.trials()
    assert set(of_paper["fidelity"].to_pylist()) == {"paper"}
    for name, neutral in neutral_values(Trial).items():
        for row in of_paper.select([name, "objective"]).to_pylist():
            assert row[name] == (neutral if is_read(name, row["objective"]) else None)


def test_a_default_that_is_not_neutral_is_another_trial():
    record = MADE_BY_0_1_0[1]["record"]
    assert GrownTrial(**record).sampler == "kuma"
    assert GrownTrial(**record).digest != grown_from(record).digest == Trial(**record).digest


def test_an_unused_field_of_later_is_no_part_of_a_digest():
    record = MADE_BY_0_1_0[0]["record"]
    assert grown_from(record, sampler=None).digest == Trial(**record).digest


def test_what_a_newer_version_wrote_is_refused_by_name():
    with pytest.raises(ValueError, match="A newer version wrote this trial: lambda_sparse, sampler is not known here"):
        Trial.from_record(asdict(GrownTrial(**MADE_BY_0_1_0[1]["record"])))


def test_tasks_and_models_grow_by_the_same_rule():
    @dataclass(frozen=True, kw_only=True)
    class GrownModel(Model):
        adapter: str | None = grown(default=None, neutral=None)

    @dataclass(frozen=True, kw_only=True)
    class GrownTask(Task):
        lower_case: bool = grown(default=False, neutral=False)

    task = load_task("digits")
    model = task.models[task.teacher]
    values = {own.name: getattr(model, own.name) for own in fields(model)}
    assert GrownModel(**values).digest == model.digest != GrownModel(**values, adapter="lora").digest
    values = {own.name: getattr(task, own.name) for own in fields(task)}
    assert GrownTask(**values).digest == task.digest != GrownTask(**values, lower_case=True).digest


def test_the_order_in_which_fields_are_born_changes_no_digest():
    @dataclass(frozen=True)
    class One:
        a: int = 1
        b: int = grown(default=2, neutral=0)
        c: int = grown(default=3, neutral=0)

    @dataclass(frozen=True)
    class Other:
        a: int = 1
        c: int = grown(default=3, neutral=0)
        b: int = grown(default=2, neutral=0)
        d: list = field(default_factory=list, metadata={"neutral": []})

    digests = {digest_of({**first_born(values), **later_born(values)}) for values in (One(), Other())}
    assert len(digests) == 1


@pytest.fixture
def old_store(tmp_path) -> Ledger:
    """A ledger as 0.1.0 left it after the alpha sweep of digits, five seeds: compact copies, and a file a trial.

    Three of the files are kept as they were; the others are written anew, of the rows that the copies have.
    """
    folder = shutil.copytree(FIXTURES / "store-0.1.0", tmp_path / "store")
    for name in ("trials", "epochs"):
        copy = pq.read_table(folder / "compact" / f"{name}.parquet")
        for digest in copy["digest"].unique().to_pylist():
            if not (file := folder / name / f"{digest}.parquet").exists():
                pq.write_table(copy.filter(pc.field("digest") == digest), file, write_page_checksum=True)
    return Ledger(str(folder))


def test_a_store_of_before_has_nothing_to_train(old_store):
    table = old_store.trials()
    assert table.num_rows == 30
    trials = [Trial.from_record(json.loads(config)) for config in table["config"].to_pylist()]
    assert [trial.digest for trial in trials] == table["digest"].to_pylist()
    results = table.to_pandas()
    assert to_run(fixed_plan(trials)(results), results) == []
    assert to_run(fixed_plan([replace(trials[0], seed=7)])(results), results) != []


def test_a_row_a_compact_file_and_a_checkpoint_say_which_version_wrote_them(old_store):
    trial = replace(Trial.from_record(MADE_BY_0_1_0[0]["record"]), seed=99)
    old_store.write(trial, Outcome(status="ok"))
    rows = {row["digest"]: row["format"] for row in old_store.trials().to_pylist()}
    assert rows.pop(trial.digest) == FORMAT
    assert set(rows.values()) == {None}  # 0.1.0 did not say

    store = old_store.store
    before = pq.read_metadata(FIXTURES / "store-0.1.0" / "compact" / "trials.parquet")
    assert format_of(before.metadata) == 1
    store.remove_file(store.compact_file("trials"))
    old_store.compact(at_least=0)
    for path in (store.compact_file("trials"), store.trial_file(trial.digest)):
        assert format_of(pq.read_metadata(path).metadata) == FORMAT

    content = pack({"a": torch.zeros(2)}, {"epoch": 1})
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert format_of(header["__metadata__"]) == FORMAT
    assert header["__metadata__"]["rekd.version"]
