"""Seeds by evidence on simulated sweeps: how often they lead to the choice of all seeds, and with how many trials.

`python -m benchmarks.seeds_by_evidence [--sweeps 1000]`, a row a correlation; `--store STORE` replays the choices of a ledger,
as if its seeds had come one after the other.

A simulated sweep has the means of one model's row of Tables 4 to 7: the mean dev loss of each setting and, in Tables 4 and 5,
its mean ratio. The paper prints how accuracies and ratios of ten seeds deviate (Tables 1 to 3) and not how dev losses do: a dev
loss is taken to deviate by the share by which the error rate does. Losses are normal; those of one seed are correlated between
settings, by how much is not known: the correlation is varied. Ratios are normal and independent.

The reference is the choice of all ten seeds by the rules of C.1 and C.2. What the race ends with counts as reached where it is
that choice or a setting that is tied with it: eligible, and not told apart by Student's t on all ten paired differences.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import pandas as pd

from analysis import load_trials, published
from analysis.evidence import ERROR, race
from analysis.selection import SIGNIFICANT, alpha_rule, lambda_rule
from analysis.settings import grouping_columns, with_settings
from analysis.statistics import student

NUM_SEEDS = len(published.SEEDS)
TOLERANCE = 0.01
CORRELATIONS = (0.0, 0.25, 0.5, 0.75, 0.9)
FINALS = {4: 1, 5: 3, 6: 1, 7: 2}
"""Which of Tables 1 to 3 tells how the runs of a table deviate."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model's row of Tables 4 to 7."""

    losses: np.ndarray
    loss_std: float
    ratios: np.ndarray | None
    """The ratios of Tables 4 and 5, less `p_target`."""
    ratio_std: float

    def drawn(
        self, rng: np.random.Generator, correlation: float, spread: float
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Dev losses and ratios of a sweep, a row a setting and a column a seed."""
        shape = len(self.losses), NUM_SEEDS
        own, common = rng.normal(size=shape), rng.normal(size=NUM_SEEDS)
        noise = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
        ratios = (
            None if self.ratios is None else self.ratios[:, None] + spread * self.ratio_std * rng.normal(size=shape)
        )
        return self.losses[:, None] + spread * self.loss_std * noise, ratios


def rows() -> list[Row]:
    """All ten rows of Tables 4 to 7."""
    found = []
    for number, final in FINALS.items():
        sweep = published.lambda_sweep(number) if number < 6 else published.alpha_sweep(number)
        finals = published.performance(final).set_index(["objective", "model"])
        for model, settings in sweep.groupby("model", sort=False):
            deviation = finals.loc[(settings["objective"].iloc[0], model)]
            found.append(_row(settings, deviation))
    return found


def _row(settings: pd.DataFrame, final: pd.Series) -> Row:
    share = final["test_accuracy_std"] / (1 - final["test_accuracy"])
    has_ratio = "dev_rationale_ratio" in settings
    return Row(
        losses=settings["dev_loss"].to_numpy(),
        loss_std=share * settings["dev_loss"].min(),
        ratios=(settings["dev_rationale_ratio"] - settings["p_target"]).to_numpy() if has_ratio else None,
        ratio_std=final["test_rationale_ratio_std"],
    )


def choice(losses: np.ndarray, ratios: np.ndarray | None, asked: np.ndarray) -> int | None:
    """The rule on what was asked for: the lowest mean loss of the eligible settings that were asked for most."""
    means = np.array([setting[:num].mean() for setting, num in zip(losses, asked, strict=True)])
    eligible = asked == asked.max()
    if ratios is not None:
        off = np.array([abs(setting[:num].mean()) for setting, num in zip(ratios, asked, strict=True)])
        eligible &= np.round(off * 10_000) <= TOLERANCE * 10_000
    return int(np.where(eligible, means, np.inf).argmin()) if eligible.any() else None


def is_reached(found: int | None, losses: np.ndarray, ratios: np.ndarray | None) -> bool:
    """Whether what was found is the choice of all seeds, or tied with it."""
    everything = np.full(len(losses), losses.shape[1])
    best = choice(losses, ratios, everything)
    if found is None or best is None or found == best:
        return found == best
    if choice(losses[[found]], None if ratios is None else ratios[[found]], everything[:1]) is None:
        return False  # not eligible
    return not student(losses[found] - losses[best]).p_value < SIGNIFICANT


def of_ledger(store: str) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """What was tried for each choice of a ledger that has four seeds or more of every value: losses, and ratios less target."""
    trials = with_settings(load_trials(store))
    for rule in (lambda_rule(), alpha_rule()):
        runs = trials[(trials["objective"] == rule.objective) & (trials["status"] == "ok")]
        keys = grouping_columns(runs, rule.group_columns(runs))
        for _, group in runs.groupby(keys, dropna=False) if len(runs) else ():
            table = group.pivot_table(index=rule.chosen, columns="seed", values=["dev_loss", "dev_rationale_ratio"])
            table = table.dropna(axis=1)
            if len(table) < 2 or len(table.columns) < 2 * 4:
                continue
            off = table["dev_rationale_ratio"].to_numpy() - group["p_target"].iloc[0]
            name = f"{rule.chosen} of {group['model'].iloc[0]} on {group['task'].iloc[0]}"
            yield name, table["dev_loss"].to_numpy(), off if rule.tolerance is not None else None


def raced(losses: np.ndarray, ratios: np.ndarray | None, *, first: int = 3, error: float = ERROR) -> np.ndarray:
    """The number of seeds that a race asks for, of each setting."""
    beyond = None if ratios is None else np.stack([ratios - TOLERANCE, -ratios - TOLERANCE])
    return race(losses, beyond, first=first, error=error).asked


def measured(
    correlation: float, num_sweeps: int, *, first: int = 3, error: float = ERROR, spread: float = 1.0
) -> tuple[float, float, float]:
    """Shares of simulated sweeps that reach the choice or a tie, and the choice itself; and of trials that they run."""
    rng = np.random.default_rng(2026)
    reached, same, trials = [], [], []
    for row in islice(cycle(rows()), num_sweeps):
        losses, ratios = row.drawn(rng, correlation, spread)
        asked = raced(losses, ratios, first=first, error=error)
        found = choice(losses, ratios, asked)
        reached.append(is_reached(found, losses, ratios))
        same.append(found == choice(losses, ratios, np.full(len(losses), NUM_SEEDS)))
        trials.append(asked.sum() / losses.size)
    return float(np.mean(reached)), float(np.mean(same)), float(np.mean(trials))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=1000)
    parser.add_argument("--first", type=int, default=3)
    parser.add_argument("--error", type=float, default=ERROR)
    parser.add_argument("--spread", type=float, default=1.0, help="times what the paper's tables give")
    parser.add_argument("--store", help="a ledger whose choices are replayed")
    options = parser.parse_args()
    for name, losses, ratios in of_ledger(options.store) if options.store else ():
        asked = raced(losses, ratios, first=options.first, error=options.error)
        verdict = "reached" if is_reached(choice(losses, ratios, asked), losses, ratios) else "NOT reached"
        print(f"{name}: {verdict} with {asked.sum()} of {losses.size} trials (seeds: {', '.join(map(str, asked))})")
    if options.store:
        return
    how = {"first": options.first, "error": options.error, "spread": options.spread}
    for correlation in CORRELATIONS:
        reached, same, trials = measured(correlation, options.sweeps, **how)
        print(
            f"correlation {correlation:g}: {reached:.1%} reached ({same:.1%} the same choice), {trials:.1%} of the trials"
        )


if __name__ == "__main__":
    main()
