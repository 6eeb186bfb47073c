"""Pictures for paper and page, all in one style: a column wide, colours that the colour-blind tell apart, and a marker and
a line of its own for each, so that a grey print can be read too. Seeds are points, means are lines.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.frames import narrow
from analysis.selection import alpha_settings, lambda_settings
from analysis.stages import Stages
from analysis.tables import OBJECTIVES, file_name

COLUMN_WIDTH = 3.25
"""Inches; a figure of this width is legible in a column of a paper and on a phone."""

# Okabe and Ito's palette, in an order whose neighbours differ in lightness too.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_LINES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)))
_OBJECTIVE_STYLE = {"cls": 2, "re": 1, "rekd": 0}

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,  # text that a publisher's check accepts
    "svg.fonttype": "none",  # text that a browser can search
    "text.parse_math": False,  # a model's name may hold a dollar sign
}


@dataclass(frozen=True)
class Picture:
    """A figure, what it is called, and what its points say when somebody points at them."""

    name: str
    """Fit for a file name, such as `ratio-digits`."""
    task: str
    title: str
    """Without the task."""
    figure: Figure
    labels: dict[str, list[str]] = field(default_factory=dict)
    """By the SVG id of a group of points: one text a point, in the order of drawing."""

    def render(self, kind: str) -> bytes:
        """The picture as `svg`, `pdf` or `png` (300 dots an inch); the same bytes for the same data."""
        # Without a salt, ids in an SVG are random; without a date, a file says when it was made.
        metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
        with mpl.rc_context({**_STYLE, "svg.hashsalt": self.name}), io.BytesIO() as buffer:
            self.figure.savefig(buffer, format=kind, dpi=300, metadata=metadata)
            return buffer.getvalue()

    def inline_svg(self) -> str:
        """The SVG as an element of a page: no prologue, and ids that do not meet those of other pictures."""
        text = self.render("svg").decode()
        text = text[text.index("<svg") :]
        prefix = f"{self.name}--"
        text = re.sub(r'\bid="', f'id="{prefix}', text)
        return re.sub(r"(url\(#|href=\"#)", rf"\g<1>{prefix}", text)


def ratio_picture(stages: Stages, task: str) -> Picture | None:
    """Figure 2: accuracy against the ratio that was reached, a line a model, CLS at 100 %; points carry their p_target.

    None where no model has two points.
    """
    rows = _finished(narrow(stages.ratios, task=task), ["test_accuracy"])
    rows = rows.assign(
        test_rationale_ratio=rows["test_rationale_ratio"].mask(rows["objective"] == "cls", 1.0),
        point=[_target(p) for p in rows["p_target"]],
    )
    if rows.empty or rows.groupby("model")["point"].nunique().max() < 2:
        return None
    name, labels = file_name("ratio", task), {}
    figure, (axes,) = _figure(1, 2.4)
    with mpl.rc_context(_STYLE):
        for index, model in enumerate(_by_size(rows)):
            of_model = rows[rows["model"] == model]
            colour = _COLOURS[index % 6]
            seeds = of_model.sort_values("test_rationale_ratio")
            _seed_points(axes, seeds["test_rationale_ratio"] * 100, seeds["test_accuracy"], colour)
            means = of_model.groupby("point").agg(
                ratio=("test_rationale_ratio", "mean"), accuracy=("test_accuracy", "mean"), n=("seed", "size")
            )
            means = means.sort_values("ratio")
            axes.plot(means["ratio"] * 100, means["accuracy"], color=colour, linestyle=_LINES[index % 6])
            gid = f"{name}-{index}"
            _mean_points(axes, means["ratio"] * 100, means["accuracy"], index, gid, label=model)
            for point, row in means.iterrows():
                axes.annotate(
                    str(point),
                    (row["ratio"] * 100, row["accuracy"]),
                    xytext=(0, -8),
                    textcoords="offset points",
                    ha="center",
                    fontsize=5.5,
                    color="#444444",
                )
            labels[gid] = [
                f"{model}, {'CLS' if point == 'cls' else f'p_target {point}'}: "
                f"{row['ratio'] * 100:.1f} %, accuracy {row['accuracy']:.3f}, {_runs(row['n'])}"
                for point, row in means.iterrows()
            ]
        axes.set(xlabel="rationale ratio reached, %", ylabel="test accuracy")
        axes.margins(y=0.12)
        _legend(figure)
    return Picture(name, task, "Rationale ratio and accuracy", figure, labels)


def lambda_picture(stages: Stages, task: str) -> Picture | None:
    """Dev loss and ratio against `lambda_select`, a column a model: seeds as points, the means of settings that are not
    eligible hollow, the chosen one in a ring, the tolerance around `p_target` as a band.

    None where no model has two settings.
    """
    stage = narrow(stages.lambdas, task=task)
    settings = lambda_settings(stage, stages.tolerance)
    return _sweep_picture(
        "lambda", task, "Dev loss and ratio against lambda_select", stage, settings, "lambda_select", stages.tolerance
    )


def alpha_picture(stages: Stages, task: str) -> Picture | None:
    """Dev loss against `alpha`, as `lambda_picture`; RE of the same student as a line across (alpha 1)."""
    stage = narrow(stages.alphas, task=task)
    baseline = narrow(stages.finals, task=task, objective="re")
    return _sweep_picture(
        "alpha", task, "Dev loss against alpha", stage, alpha_settings(stage), "alpha", None, baseline
    )


def seeds_picture(stages: Stages, task: str) -> Picture | None:
    """Test accuracy of CLS, RE and REKD at the settings that were chosen: seeds as points, joined from RE to REKD.

    None where there are none.
    """
    rows = _finished(narrow(stages.finals, task=task), ["test_accuracy"])
    if rows.empty:
        return None
    name, labels = file_name("seeds", task), {}
    figure, (axes,) = _figure(1, 2.2)
    models = _by_size(rows)
    offset = {"cls": -0.25, "re": 0.0, "rekd": 0.25}
    with mpl.rc_context(_STYLE):
        for place, model in enumerate(models):
            of_model = rows[rows["model"] == model]
            scores = {key: group.set_index("seed")["test_accuracy"] for key, group in of_model.groupby("objective")}
            if {"re", "rekd"} <= set(scores):
                pairs = scores["re"].rename("re").to_frame().join(scores["rekd"].rename("rekd"), how="inner")
                for re_score, rekd_score in pairs.itertuples(index=False):
                    axes.plot([place, place + 0.25], [re_score, rekd_score], color="#999999", linewidth=0.5, zorder=1)
            for objective in OBJECTIVES:
                group = of_model[of_model["objective"] == objective].sort_values("seed")
                if group.empty:
                    continue
                gid = f"{name}-{place}-{objective}"
                at = np.full(len(group), place + offset[objective])
                style = _OBJECTIVE_STYLE[objective]
                label = objective.upper() if not any(key.endswith(objective) for key in labels) else None
                axes.scatter(
                    at,
                    group["test_accuracy"],
                    s=14,
                    color=_COLOURS[style],
                    marker=_MARKERS[style],
                    alpha=0.8,
                    linewidths=0,
                    gid=gid,
                    label=label,
                    zorder=2,
                )
                mean = group["test_accuracy"].mean()
                axes.plot([at[0] - 0.09, at[0] + 0.09], [mean, mean], color="black", linewidth=1.2, zorder=3)
                labels[gid] = [
                    f"{objective.upper()} {model}, seed {seed}: {accuracy:.3f}; mean {mean:.3f} of {_runs(len(group))}"
                    for seed, accuracy in zip(group["seed"], group["test_accuracy"], strict=True)
                ]
        axes.set_xticks(range(len(models)), models)
        axes.set(ylabel="test accuracy", xlim=(-0.5, len(models) - 0.5))
        axes.grid(visible=False, axis="x")
        _legend(figure)
    return Picture(name, task, "CLS, RE and REKD, seed by seed", figure, labels)


def training_picture(stages: Stages, epochs: pd.DataFrame, task: str) -> Picture | None:
    """Dev loss over the epochs of the RE and REKD trials of the settings that were chosen, a column a model, and below
    it the temperature. Thin lines are seeds, thick lines their means.

    Takes rows of `epochs`. None where there are no epochs of such trials.
    """
    final = narrow(stages.finals, task=task, objective=["re", "rekd"])
    curves = epochs.merge(final[["digest", "model", "objective", "seed", "num_parameters"]], on="digest")
    curves = curves[np.isfinite(curves["dev_loss"].astype(float))]
    if curves.empty:
        return None
    name, labels = file_name("training", task), {}
    models = _by_size(curves)
    figure, all_axes = _figure(len(models), 2.6, heights=(3, 1), sharey="row")
    with mpl.rc_context(_STYLE):
        for column, model in enumerate(models):
            upper, lower = all_axes[column], all_axes[len(models) + column]
            for objective in ("re", "rekd"):
                group = curves[(curves["model"] == model) & (curves["objective"] == objective)]
                if group.empty:
                    continue
                style = _OBJECTIVE_STYLE[objective]
                for _, run in group.groupby("digest"):
                    upper.plot(run["epoch"], run["dev_loss"], color=_COLOURS[style], linewidth=0.4, alpha=0.5)
                mean = group.groupby("epoch").agg(
                    dev_loss=("dev_loss", "mean"), temperature=("temperature", "mean"), n=("digest", "nunique")
                )
                upper.plot(
                    mean.index,
                    mean["dev_loss"],
                    color=_COLOURS[style],
                    linestyle=_LINES[style],
                    linewidth=1.8,
                    label=objective.upper(),
                )
                gid = f"{name}-{column}-{objective}"
                upper.scatter(mean.index, mean["dev_loss"], s=8, color=_COLOURS[style], linewidths=0, gid=gid)
                labels[gid] = [
                    f"{objective.upper()} {model}, epoch {epoch}: dev loss {row['dev_loss']:.4f}, "
                    f"temperature {row['temperature']:.2f}, {_runs(row['n'])}"
                    for epoch, row in mean.iterrows()
                ]
                lower.plot(mean.index, mean["temperature"], color=_COLOURS[style], linestyle=_LINES[style])
            upper.set_title(model)
            upper.tick_params(labelbottom=False)
            lower.set_xlabel("epoch")
            lower.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        # Losses fall by orders of magnitude where lambda_select is large.
        low, high = curves["dev_loss"].min(), curves["dev_loss"].max()
        if low > 0 and high / low > 30:
            all_axes[0].set_yscale("log")
        all_axes[0].set_ylabel("dev loss")
        all_axes[len(models)].set_ylabel("temp.")
        _legend(figure)
    return Picture(name, task, "Training, and the temperature", figure, labels)


def all_pictures(stages: Stages, epochs: pd.DataFrame) -> list[Picture]:
    """Every picture that has something to show, tasks in alphabetical order."""
    pictures: list[Picture | None] = []
    for task in sorted(stages.trials["task"].unique()):
        pictures += [
            seeds_picture(stages, task),
            ratio_picture(stages, task),
            alpha_picture(stages, task),
            lambda_picture(stages, task),
            training_picture(stages, epochs, task),
        ]
    return [picture for picture in pictures if picture is not None]


def _sweep_picture(
    kind: str,
    task: str,
    title: str,
    runs: pd.DataFrame,
    settings: pd.DataFrame,
    chosen: str,
    tolerance: float | None,
    baseline: pd.DataFrame | None = None,
) -> Picture | None:
    settings = settings[settings["num_seeds"] > 0]
    if settings.empty or settings.groupby("model")[chosen].nunique().max() < 2:
        return None
    name, labels = file_name(kind, task), {}
    models = _by_size(runs)
    with_ratio = tolerance is not None
    figure, all_axes = _figure(len(models), 2.9 if with_ratio else 2.0, heights=(3, 2) if with_ratio else (1,))
    runs = _finished(runs, ["dev_loss"])
    # Evenly spaced: grids of a factor 5 and of a factor 2 alternate, and 0 has no place on a log scale.
    values = sorted(settings[chosen].unique())
    place = {value: index for index, value in enumerate(values)}
    with mpl.rc_context(_STYLE):
        for column, model in enumerate(models):
            upper = all_axes[column]
            of_model = settings[settings["model"] == model]
            of_runs = runs[runs["model"] == model]
            at = of_model[chosen].map(place)
            _seed_points(upper, of_runs[chosen].map(place), of_runs["dev_loss"], _COLOURS[0])
            if len(of_model) == of_model[chosen].nunique():
                upper.plot(at, of_model["dev_loss"], color=_COLOURS[0])
            if baseline is not None:
                plain = _finished(baseline[baseline["model"] == model], ["dev_loss"])["dev_loss"]
                if len(plain):
                    style = _OBJECTIVE_STYLE["re"]
                    upper.axhline(plain.mean(), color=_COLOURS[style], linestyle=_LINES[style], label="RE (alpha 1)")
            axes_of = [(upper, "dev_loss", "dev loss", 1.0)]
            if tolerance is not None:
                lower = all_axes[len(models) + column]
                _seed_points(lower, of_runs[chosen].map(place), of_runs["dev_rationale_ratio"] * 100, _COLOURS[0])
                target = of_model["p_target"].iloc[0] * 100
                lower.axhspan(target - tolerance * 100, target + tolerance * 100, color="#009E73", alpha=0.2)
                axes_of.append((lower, "dev_rationale_ratio", "ratio, %", 100.0))
                upper.tick_params(labelbottom=False)
            for axes, value, label, scale in axes_of:
                for eligible, group in of_model.groupby("eligible"):
                    gid = f"{name}-{column}-{value}-{'in' if eligible else 'out'}"
                    x, y = group[chosen].map(place), group[value] * scale
                    _mean_points(axes, x, y, 0, gid, hollow=not eligible)
                    labels[gid] = [_setting_label(row, chosen) for _, row in group.iterrows()]
                best = of_model[of_model["chosen"]]
                ring = {"s": 90, "facecolors": "none", "edgecolors": "black", "linewidths": 1.2, "zorder": 4}
                axes.scatter(best[chosen].map(place), best[value] * scale, **ring)
                if column == 0:
                    axes.set_ylabel(label)
                axes.set_xticks(range(len(values)), [f"{number:g}" for number in values])
                axes.set_xlim(-0.5, len(values) - 0.5)
            upper.set_title(model)
            bottom = axes_of[-1][0]
            bottom.set_xlabel(chosen)
            if len(values) > 4:
                bottom.tick_params(axis="x", labelrotation=60)
        _legend(figure)
    return Picture(name, task, title, figure, labels)


def _setting_label(row: pd.Series, chosen: str) -> str:
    ratio = "" if pd.isna(row["dev_rationale_ratio"]) else f", ratio {row['dev_rationale_ratio'] * 100:.1f} %"
    mark = " (chosen)" if row["chosen"] else "" if row["eligible"] else f" (not eligible: {row['reason']})"
    return f"{row['model']}, {chosen} {row[chosen]:g}: dev loss {row['dev_loss']:.4f}{ratio}, " + (
        f"{_runs(row['num_seeds'])}{mark}"
    )


def _figure(
    num_columns: int, height: float, heights: Sequence[float] = (1,), sharey: Literal["none", "row"] = "none"
) -> tuple[Figure, list[Axes]]:
    """A figure of `num_columns` by `len(heights)` axes, which come row by row."""
    width = COLUMN_WIDTH if num_columns == 1 else 1.95 * num_columns
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(
            len(heights), num_columns, squeeze=False, height_ratios=list(heights), sharex="col", sharey=sharey
        )
    return figure, list(grid.ravel())


def _legend(figure: Figure) -> None:
    """One legend above all axes, each name once: inside, it would sit on somebody's points."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(list(found.values()), list(found), loc="outside upper center", ncols=3, handletextpad=0.4)


def _seed_points(axes: Axes, x: pd.Series, y: pd.Series, colour: str) -> None:
    axes.scatter(x, y, s=5, color=colour, alpha=0.45, linewidths=0, zorder=1.5)


def _mean_points(
    axes: Axes, x: pd.Series, y: pd.Series, index: int, gid: str, *, hollow: bool = False, label: str | None = None
) -> None:
    colour = _COLOURS[index % 6]
    face = "white" if hollow else colour
    marker = _MARKERS[index % 6]
    axes.scatter(x, y, s=22, facecolor=face, edgecolor=colour, marker=marker, gid=gid, label=label, zorder=3)


def _finished(rows: pd.DataFrame, values: Sequence[str]) -> pd.DataFrame:
    return rows[rows["status"] == "ok"].dropna(subset=list(values))


def _by_size(rows: pd.DataFrame) -> list[str]:
    """Models by number of parameters, largest first, then by name."""
    sizes = rows.groupby("model")["num_parameters"].max().astype(float).fillna(0)
    return [str(model) for model in sorted(sizes.index, key=lambda model: (-sizes[model], model))]


def _target(p_target: float) -> str:
    return "cls" if pd.isna(p_target) else f"{p_target * 100:g}%"


def _runs(number: float) -> str:
    return f"{number:g} run" + ("" if number == 1 else "s")
