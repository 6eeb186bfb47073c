"""What audits found, one row a trial, beside the ledger: an audit comes after the trial, and may be made anew."""

from dataclasses import asdict, dataclass, fields

import pyarrow as pa

from rekd.store.files import Store
from rekd.store.table import Table
from rekd.trial import plain_type

NOTABLE = 0.05
"""Share of samples from which on a difference counts."""

CLOSE = 0.05
"""Share of samples that a rationale may cost the judge, and still suffice."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was found in a trial's rationales of the test split. Accuracies and rates are fractions."""

    judge: str
    """Name of the judge (`rekd.method.judge`)."""
    judge_whole: float
    """How often the judge is right about the whole input."""
    judge_rationale: float
    """And when it is shown the rationale alone."""
    judge_rest: float
    """And all but the rationale."""
    judge_random: float
    """And as many features at random; padding last."""
    judge_fixed: float
    """And the best one mask for all inputs, of as many features as the rationales have on average."""
    judge_dealt: float
    """And the rationale that was made for another input."""
    judge_saliency: float
    """And as many features, by the judge's gradient times input on the whole input."""
    follow_gain: float
    """`judge_rationale` above the better of `judge_fixed` and `judge_dealt`."""
    follow_error: float
    """Standard error of that."""
    probe_accuracy: float
    """How often a linear probe tells the label from the mask alone."""
    probe_chance: float
    """Share of the most frequent class."""
    swap_rate: float | None = None
    """How often the model says class i of content of class j under a mask that was made for class i."""
    swap_control: float | None = None
    """And under a mask that was made for another input of class j: what is no leak."""
    swap_error: float | None = None
    """Standard error of the difference."""
    rationale_precision: float | None = None
    """Agreement with the truth, where it is known (`rekd.tasks.truth`): of what is selected, the share that is evidence."""
    rationale_recall: float | None = None
    rationale_f1: float | None = None
    rationale_iou: float | None = None

    @property
    def follows(self) -> bool:
        """Whether the rationales follow the input: by them the judge is right more often than by the best one mask for all,
        and than by rationales made for other inputs; by `NOTABLE` at least, and by more than chance (two standard errors).
        """
        return self.follow_gain >= NOTABLE and self.follow_gain > 2 * self.follow_error

    @property
    def is_sufficient(self) -> bool:
        """Whether the judge is right about the rationales nearly as often (`CLOSE`) as about the whole inputs."""
        return self.judge_rationale >= self.judge_whole - CLOSE

    @property
    def leaks(self) -> bool | None:
        """Whether the model reads the label off the mask: it answers with the class of a mask made for another class more
        often than it errs to that class, by `NOTABLE` at least and by more than chance; None where nobody could ask it."""
        if self.swap_rate is None or self.swap_control is None or self.swap_error is None:
            return None
        excess = self.swap_rate - self.swap_control
        return excess >= NOTABLE and excess > 2 * self.swap_error

    @property
    def verdict(self) -> str:
        """All three in a few words."""
        follows = "follows the input" if self.follows else "does not follow the input"
        sufficient = "sufficient by the judge" if self.is_sufficient else "not sufficient by the judge"
        leaks = {True: "leaks", False: "no leak", None: "leak not asked"}[self.leaks]
        return f"{follows}, {sufficient}, {leaks}"


_ARROW = {str: pa.string(), float: pa.float64()}

AUDITS_SCHEMA = pa.schema(
    [("digest", pa.string()), *((field.name, _ARROW[plain_type(field.type)]) for field in fields(Audit))]
)


class Audits:
    """The audits of a store."""

    def __init__(self, store: Store) -> None:
        self._table = Table(store, "audits", AUDITS_SCHEMA)

    def write(self, digest: str, audit: Audit) -> None:
        """Writes what was found of a trial, in the place of an earlier audit."""
        self._table.write(digest, [asdict(audit)])

    def read(self) -> pa.Table:
        """A row an audited trial, sorted by digest."""
        return self._table.read()
