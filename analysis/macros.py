"""Numbers of a store as LaTeX macros, one a number, so that the text of a paper never goes stale."""

import re
from collections.abc import Iterator

import pandas as pd

from analysis.experiment import Stages
from analysis.settings import variants
from analysis.tables import comparison_table, performance_table

MEASURES = {
    "test_accuracy": "Accuracy",
    "test_accuracy_std": "AccuracyStd",
    "test_rationale_ratio": "Ratio",
    "test_rationale_ratio_std": "RatioStd",
    "num_seeds": "Seeds",
}
"""The first words of macros about a setting, by the column of `performance_table`."""

DIFFERENCES = {"difference": "Gain", "low": "GainLow", "high": "GainHigh", "p_value": "GainP", "num_pairs": "GainPairs"}
"""The first words of macros about REKD less RE, by the column of `comparison_table`."""

DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")


def to_macros(stages: Stages, *, source: str) -> str:
    r"""A file for `\input`: a macro a number, such as `\rekdAccuracyDigitsRekdVitStudent`.

    Numbers are those of Tables 1 to 3 (fractions to three decimals) and of REKD less RE. What tells several settings of a
    model apart is part of the name. A macro that is no longer made is an error in the paper that uses it. Raises ValueError
    where two numbers would have one name.
    """
    found: dict[str, tuple[str, str]] = {}
    for name, value, about in _numbers(stages):
        if name in found:
            raise ValueError(
                f"Two numbers would be \\{name}: of {found[name][1]} and of {about}. Rename a task or a model."
            )
        found[name] = (value, about)
    lines = [f"\\newcommand{{\\{name}}}{{{value}}} % {about}" for name, (value, about) in found.items()]
    return "\n".join([f"% {len(found)} numbers of {_comment(source)}, written by `rekd macros`.", *lines]) + "\n"


def _numbers(stages: Stages) -> Iterator[tuple[str, str, str]]:
    """Names of macros, their values, and what they are about."""
    performance = performance_table(stages)
    yield from _of(performance, MEASURES, performance["objective"])
    differences = comparison_table(stages)
    yield from _of(differences, DIFFERENCES, pd.Series("rekd", index=differences.index))


def _of(table: pd.DataFrame, measures: dict[str, str], objectives: pd.Series) -> Iterator[tuple[str, str, str]]:
    several = variants(table.assign(objective=objectives)) if len(table) else []
    for objective, variant, (_, row) in zip(objectives, several, table.iterrows(), strict=True):
        words = [row["task"], objective, row["model"], variant]
        about = _comment(", ".join(word for word in (str(row["task"]), objective, str(row["model"]), variant) if word))
        for column, measure in measures.items():
            if not pd.isna(row[column]):
                yield macro_name(measure, *words), _value(column, row[column]), f"{column} of {about}"


def macro_name(*words: str) -> str:
    """A name of letters alone, as TeX wants it: `vit-tiny` is `VitTiny`, `cifar10` is `CifarOneZero`.

    >>> macro_name("Accuracy", "cifar10", "rekd", "vit-tiny", "p_target 9.5 %")
    'rekdAccuracyCifarOneZeroRekdVitTinyPTargetNinePointFivePercent'
    """
    parts = []
    for word in words:
        spoken = re.sub(r"(?<=\d)\.(?=\d)", " point ", word).replace("%", " percent ")
        spoken = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit[0])]} ", spoken)
        parts += [piece[0].upper() + piece[1:] for piece in re.split(r"[^a-zA-Z]+", spoken) if piece]
    return "rekd" + "".join(parts)


def _value(column: str, value: float) -> str:
    if column.startswith("num_"):
        return str(int(value))
    if column != "p_value":
        return f"{value:.3f}"
    digits, _, power = f"{value:.2g}".partition("e")
    return f"\\ensuremath{{{digits}\\times 10^{{{int(power)}}}}}" if power else digits


def _comment(text: str) -> str:
    """A text that stays in one line, and in its comment."""
    return " ".join(text.split())
