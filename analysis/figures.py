"""Pictures for paper and page, all in one style: a column wide, colours that the colour-blind tell apart, and a marker and
a line of its own for each, so that a grey print can be read too. Seeds are points, means are lines.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from analysis.experiment import Stages
from analysis.frames import narrow
from analysis.selection import SelectionRule, alpha_rule, alpha_settings, lambda_rule, lambda_settings
from analysis.settings import TUNED, percent, setting_columns, variants
from analysis.settings import labels as labels_of
from analysis.statistics import Baselines, summarize
from analysis.tables import OBJECTIVES, file_name
from rekd.messages import number
from rekd.schedule import SCHEDULED
from rekd.store.ledger import BUDGET_COLUMNS
from rekd.trial import num_selected

COLUMN_WIDTH = 3.25
"""Inches; a figure of this width is legible in a column of a paper and on a phone."""

# Okabe and Ito's palette, in an order whose neighbours differ in lightness too.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_LINES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)))
_OBJECTIVE_STYLE = {"cls": 2, "re": 1, "rekd": 0}

STYLE: dict[Any, Any] = {
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
    """The labels by the SVG id of a group of points: one text a point, in the order of drawing."""

    def render(self, kind: str) -> bytes:
        """The picture as `svg`, `pdf` or `png` (300 dots an inch); the same bytes for the same data."""
        # Without a salt, ids in an SVG are random; without a date, a file says when it was made.
        metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
        with mpl.rc_context({**STYLE, "svg.hashsalt": self.name}), io.BytesIO() as buffer:
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
    """Figure 2: accuracy against the ratio that was reached, a line a setting, its CLS at 100 %; points carry their p_target.

    None where no setting has two points.
    """
    rows = _finished(narrow(stages.ratios, task=task), ["test_accuracy"])
    rows = rows.assign(test_rationale_ratio=rows["test_rationale_ratio"].mask(rows["objective"] == "cls", 1.0))
    lines = _ratio_lines(rows)
    if not lines or max(len(means) for means in lines.values()) < 2:
        return None
    name, labels = file_name("ratio", task), {}
    figure, (axes,) = _figure(1, 2.4)
    with mpl.rc_context(STYLE):
        _seed_points(axes, rows["test_rationale_ratio"] * 100, rows["test_accuracy"], "#888888")
        for index, (label, means) in enumerate(lines.items()):
            at = means["test_rationale_ratio"] * 100, means["test_accuracy"]
            axes.plot(*at, color=_colour(index), linestyle=_line(index))
            gid = f"{name}-{index}"
            _mean_points(axes, *at, index, gid, label=label)
            points = [_target(p_target) for p_target in means["p_target"]]
            for point, place in zip(points, zip(*at, strict=True), strict=True):
                _write_at(axes, point, place)
            labels[gid] = [
                f"{label}, {'CLS' if point == 'cls' else f'p_target {point}'}: "
                f"{row['test_rationale_ratio'] * 100:.1f} %, accuracy {row['test_accuracy']:.3f}, {_runs(row['num_seeds'])}"
                for point, (_, row) in zip(points, means.iterrows(), strict=True)
            ]
        axes.set(xlabel="rationale ratio reached, %", ylabel="test accuracy")
        axes.margins(y=0.12)
        _legend(figure)
    return Picture(name, task, "Rationale ratio and accuracy", figure, labels)


def _ratio_lines(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Means of each setting that differs in `p_target` alone, by its label: CLS behind the RE that it is the baseline of,
    or alone."""
    means = summarize(rows, ["test_rationale_ratio", "test_accuracy"])
    means = means.assign(variant=variants(means, but=["p_target"]))
    baselines, attached, lines = Baselines(means, "cls", free=["epochs"]), set(), {}
    re = means[means["objective"] == "re"]
    for model in _by_size(rows):
        for variant, line in re[re["model"] == model].groupby("variant", sort=False):
            cls, _ = baselines.of(line.iloc[0])
            attached |= set(cls.index)
            line = pd.concat([line, cls]).sort_values("test_rationale_ratio")
            lines[_comma(model, str(variant))] = line
    alone = means[(means["objective"] == "cls") & ~means.index.isin(attached)]
    for _, row in alone.iterrows():
        lines[_comma(f"CLS {row['model']}", row["variant"])] = row.to_frame().T.infer_objects()
    return lines


def budget_picture(stages: Stages, task: str) -> Picture | None:
    """Accuracy at exact budgets of RE and REKD at the settings that were chosen: a line a setting, a point a budget,
    through the mean of the seeds.

    None where no trial was measured so.
    """
    rows = narrow(stages.finals, task=task)
    if "test_accuracy_area" not in rows or not rows["test_accuracy_area"].notna().any():
        return None
    rows = _finished(rows[rows["objective"] != "cls"], ["test_accuracy_area"])
    means = summarize(rows, [*BUDGET_COLUMNS, "num_features"])
    means = means.assign(label=labels_of(means))
    name, labels = file_name("budgets", task), {}
    figure, (axes,) = _figure(1, 2.4)
    with mpl.rc_context(STYLE):
        for index, (_, row) in enumerate(means.iterrows()):
            count = row["num_features"]
            ratios = {at: num_selected(budget, count) / count * 100 for at, budget in BUDGET_COLUMNS.items()}
            points = pd.DataFrame({"ratio": ratios, "accuracy": row[list(BUDGET_COLUMNS)].astype(float)})
            points = points.drop_duplicates("ratio")
            axes.plot(points["ratio"], points["accuracy"], color=_colour(index), linestyle=_line(index))
            gid = f"{name}-{index}"
            _mean_points(axes, points["ratio"], points["accuracy"], index, gid, label=row["label"])
            labels[gid] = [
                f"{row['label']}, at {ratio:.1f} %: accuracy {accuracy:.3f}, {_runs(row['num_seeds'])}"
                for ratio, accuracy in points.to_numpy()
            ]
        axes.set(xlabel="features that are kept, %", ylabel="test accuracy", xscale="log")
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        _legend(figure)
    return Picture(name, task, "Accuracy at exact budgets", figure, labels)


def epochs_picture(stages: Stages, task: str) -> Picture | None:
    """Accuracy against the epochs that RE and REKD were given, each trial from its start: does one catch up, given time?
    A line a setting through the mean of its seeds, which are points.

    None where no setting was trained for two numbers of epochs.
    """
    rows = _finished(narrow(stages.trials, task=task, objective=["re", "rekd"]), ["test_accuracy"])
    if rows.empty:
        return None
    rows = rows.assign(label=labels_of(rows, but=["epochs"]))
    rows = rows[rows.groupby("label")["epochs"].transform("nunique") > 1]
    if rows.empty:
        return None
    name, labels = file_name("epochs", task), {}
    figure, (axes,) = _figure(1, 2.2)
    with mpl.rc_context(STYLE):
        for index, (who, runs) in enumerate(rows.groupby("label")):
            means = runs.groupby("epochs", as_index=False)["test_accuracy"].agg(["mean", "size"])
            _seed_points(axes, runs["epochs"], runs["test_accuracy"], _colour(index))
            axes.plot(means["epochs"], means["mean"], color=_colour(index), linestyle=_line(index))
            gid = f"{name}-{index}"
            _mean_points(axes, means["epochs"], means["mean"], index, gid, label=str(who))
            labels[gid] = [
                f"{who}, {row['epochs']:.0f} epochs: accuracy {row['mean']:.3f}, {_runs(row['size'])}"
                for _, row in means.iterrows()
            ]
        axes.set(xlabel="epochs", ylabel="test accuracy", xscale="log")
        axes.set_xticks(sorted(rows["epochs"].unique()))
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        _legend(figure)
    return Picture(name, task, "Accuracy, and the epochs that were given", figure, labels)


def lambda_picture(stages: Stages, task: str) -> Picture | None:
    """Dev loss and ratio against `lambda_select`, a column a model and a line a setting: seeds as points, the means of those
    that are not eligible hollow, the chosen one in a ring, the tolerance around `p_target` as a band.

    None where no model has two values of `lambda_select`.
    """
    stage = narrow(stages.lambdas, task=task)
    settings = lambda_settings(stage, stages.tolerance)
    sweep = _Sweep(file_name("lambda", task), lambda_rule(stages.tolerance), stage, settings)
    return sweep.picture(task, "Dev loss and ratio against lambda_select")


def alpha_picture(stages: Stages, task: str) -> Picture | None:
    """Dev loss against `alpha`, as `lambda_picture`; RE of the same student and setting as a line across (alpha 1)."""
    stage = narrow(stages.alphas, task=task)
    baseline = narrow(stages.trials, task=task, objective="re")
    sweep = _Sweep(file_name("alpha", task), alpha_rule(), stage, alpha_settings(stage))
    return sweep.picture(task, "Dev loss against alpha", baseline)


def seeds_picture(stages: Stages, task: str) -> Picture | None:
    """Test accuracy of CLS, RE and REKD at the settings that were chosen: seeds as points, joined from RE to REKD of the
    same setting, or at RE's own learning rate and lambda_select.

    None where there are none.
    """
    rows = _finished(narrow(stages.finals, task=task), ["test_accuracy"])
    if rows.empty:
        return None
    name, labels = file_name("seeds", task), {}
    models = _by_size(rows)
    rows, styles = _with_series(rows)
    slots = _slots(rows, models, styles)
    widest = max(len(of_model) for of_model in slots.values())
    figure, (axes,) = _figure(1, 2.2, width=max(COLUMN_WIDTH, 0.3 * sum(map(len, slots.values()))))
    with mpl.rc_context(STYLE):
        places = {}
        for place, model in enumerate(models):
            for slot, series in enumerate(slots[model]):
                at = place + (slot - (len(slots[model]) - 1) / 2) * min(0.25, 0.8 / widest)
                places[model, series] = at
                group = rows[(rows["model"] == model) & (rows["series"] == series)].sort_values("seed")
                gid = f"{name}-{place}-{slot}"
                how = {"s": 14, "color": _colour(styles[series]), "marker": _marker(styles[series]), "alpha": 0.8}
                across = np.full(len(group), at)
                axes.scatter(across, group["test_accuracy"], linewidths=0, gid=gid, label=series, zorder=2, **how)
                mean = group["test_accuracy"].mean()
                axes.plot([at - 0.09, at + 0.09], [mean, mean], color="black", linewidth=1.2, zorder=3)
                who = _comma(f"{group['objective'].iloc[0].upper()} {model}", group["variant"].iloc[0])
                labels[gid] = [
                    f"{who}, seed {seed}: {accuracy:.3f}; mean {mean:.3f} of {_runs(len(group))}"
                    for seed, accuracy in zip(group["seed"], group["test_accuracy"], strict=True)
                ]
        for start, end, pairs in _joined(rows, places):
            axes.plot([start, end], pairs.T, color="#999999", linewidth=0.5, zorder=1)
        axes.set_xticks(range(len(models)), models)
        axes.set(ylabel="test accuracy", xlim=(-0.5, len(models) - 0.5))
        axes.grid(visible=False, axis="x")
        _legend(figure)
    return Picture(name, task, "CLS, RE and REKD, seed by seed", figure, labels)


def _joined(rows: pd.DataFrame, places: dict[tuple[str, str], float]) -> Iterator[tuple[float, float, np.ndarray]]:
    """Yields from where to where lines go, and the pairs that they join: RE and REKD of one setting and seed."""
    baselines = Baselines(rows, "re", free=TUNED)
    for (model, series), group in rows[rows["objective"] == "rekd"].groupby(["model", "series"]):
        plain, _ = baselines.of(group.iloc[0])
        if len(plain):
            scores = [runs.set_index("seed")["test_accuracy"] for runs in (plain, group)]
            pairs = pd.concat(scores, axis=1, join="inner").to_numpy()
            yield places[str(model), plain["series"].iloc[0]], places[str(model), str(series)], pairs


def _slots(rows: pd.DataFrame, models: list[str], styles: dict[str, int]) -> dict[str, list[str]]:
    """Gives by model the series that it has, in order."""
    return {
        model: [name for name in styles if name in set(rows.loc[rows["model"] == model, "series"])] for model in models
    }


def training_picture(stages: Stages, epochs: pd.DataFrame, task: str) -> Picture | None:
    """Dev loss over the epochs of the RE and REKD trials of the settings that were chosen, a column a model, and below
    it the temperature. Thin lines are seeds, thick lines the means of a setting.

    Takes rows of `epochs`. None where there are no epochs of such trials.
    """
    final = narrow(stages.finals, task=task, objective=["re", "rekd"])
    final = final[final["digest"].isin(set(epochs["digest"]))]
    if final.empty:
        return None
    final, styles = _with_series(final)
    known = ["digest", "model", "objective", "variant", "series", "num_parameters"]
    curves = epochs.merge(final[known], on="digest")
    curves = curves[np.isfinite(curves["dev_loss"].astype(float))]
    if curves.empty:
        return None
    name, labels = file_name("training", task), {}
    models = _by_size(curves)
    figure, all_axes = _figure(len(models), 2.6, heights=(3, 1), sharey="row")
    with mpl.rc_context(STYLE):
        for column, model in enumerate(models):
            upper, lower = all_axes[column], all_axes[len(models) + column]
            of_model = curves[curves["model"] == model]
            for slot, series in enumerate(name for name in styles if name in set(of_model["series"])):
                group = of_model[of_model["series"] == series]
                colour, line = _colour(styles[series]), _line(styles[series])
                for _, run in group.groupby("digest"):
                    upper.plot(run["epoch"], run["dev_loss"], color=colour, linewidth=0.4, alpha=0.5)
                moving = _moving(group)
                mean = group.groupby("epoch").agg(
                    n=("digest", "nunique"), **{name: (name, "mean") for name in ("dev_loss", "temperature", *moving)}
                )
                upper.plot(mean.index, mean["dev_loss"], color=colour, linestyle=line, linewidth=1.8, label=series)
                gid = f"{name}-{column}-{slot}"
                upper.scatter(mean.index, mean["dev_loss"], s=8, color=colour, linewidths=0, gid=gid)
                who = _comma(f"{group['objective'].iloc[0].upper()} {model}", group["variant"].iloc[0])
                labels[gid] = [
                    f"{who}, epoch {epoch}: dev loss {row['dev_loss']:.4f}, "
                    f"temperature {row['temperature']:.2f}, "
                    + "".join(f"{weight.removeprefix('train_')} {row[weight]:.3g}, " for weight in moving)
                    + _runs(row["n"])
                    for epoch, row in mean.iterrows()
                ]
                lower.plot(mean.index, mean["temperature"], color=colour, linestyle=line)
                for weight in moving:  # beside the temperature, each as a share of its largest value
                    shares = mean[weight] / mean[weight].max()
                    _right(lower).plot(mean.index, shares, color=colour, linestyle=":", marker="|")
            upper.set_title(model)
            upper.tick_params(labelbottom=False)
            lower.set_xlabel("epoch")
            lower.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        # Losses fall by orders of magnitude where lambda_select is large.
        low, high = curves["dev_loss"].min(), curves["dev_loss"].max()
        if low > 0 and high / low > 30:
            all_axes[0].set_yscale("log")
            for upper in all_axes[: len(models)]:  # math is not parsed
                upper.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
                upper.yaxis.set_minor_formatter(NullFormatter())
        all_axes[0].set_ylabel("dev loss")
        all_axes[len(models)].set_ylabel("temp.")
        _legend(figure)
    return Picture(name, task, "Training, and the temperature", figure, labels)


def _moving(curves: pd.DataFrame) -> list[str]:
    """The weights that a schedule moves in some of these runs."""
    known = [f"train_{name}" for name in SCHEDULED if f"train_{name}" in curves]
    runs = [run for _, run in curves.groupby("digest")]
    return [name for name in known if any(run[name].min() < run[name].max() for run in runs)]


def _right(axes: Axes) -> Axes:
    """The axes on the right side of others, for weights that move; made when they are first asked for."""
    beside = [other for other in axes.figure.axes if other is not axes and other.bbox.bounds == axes.bbox.bounds]
    if beside:
        return beside[0]
    right = axes.twinx()
    right.set(ylim=(0, 1.05), ylabel="weights, of max.")
    right.grid(visible=False)
    return right


def all_pictures(stages: Stages, epochs: pd.DataFrame) -> list[Picture]:
    """Every picture that has something to show, tasks in alphabetical order."""
    pictures: list[Picture | None] = []
    for task in sorted(stages.trials["task"].unique()):
        pictures += [
            seeds_picture(stages, task),
            ratio_picture(stages, task),
            budget_picture(stages, task),
            epochs_picture(stages, task),
            alpha_picture(stages, task),
            lambda_picture(stages, task),
            training_picture(stages, epochs, task),
        ]
    return [picture for picture in pictures if picture is not None]


class _Sweep:
    """What a rule chooses from: settings, their runs, and how both are drawn, a column a model."""

    def __init__(self, name: str, rule: SelectionRule, runs: pd.DataFrame, settings: pd.DataFrame) -> None:
        self.name = name
        self.rule = rule
        self.models = _by_size(runs)
        settings = settings[settings["num_seeds"] > 0]
        self.settings = settings.assign(variant=variants(settings, but=[rule.chosen]))
        runs = _finished(runs, ["dev_loss"])
        self.runs = runs.assign(variant=variants(runs, but=[rule.chosen]))
        self.labels: dict[str, list[str]] = {}
        self.variants = list(dict.fromkeys(self.settings["variant"]))
        # Evenly spaced: grids of a factor 5 and of a factor 2 alternate, and 0 has no place on a log scale.
        self.values = sorted(settings[rule.chosen].unique())
        self.place = {value: index for index, value in enumerate(self.values)}

    def picture(self, task: str, title: str, baseline: pd.DataFrame | None = None) -> Picture | None:
        """Draws dev loss, and the ratio where the rule looks at it; None where no model has two values to choose from.

        `baseline` has the RE runs that stand as lines across.
        """
        if self.settings.empty or self.settings.groupby("model")[self.rule.chosen].nunique().max() < 2:
            return None
        with_ratio = self.rule.tolerance is not None
        heights = (3, 2) if with_ratio else (1,)
        figure, all_axes = _figure(len(self.models), 2.9 if with_ratio else 2.0, heights=heights)
        values = [("dev_loss", "dev loss", 1.0), *([("dev_rationale_ratio", "ratio, %", 100.0)] if with_ratio else [])]
        with mpl.rc_context(STYLE):
            for column, model in enumerate(self.models):
                rows = all_axes[column :: len(self.models)]
                for axes, (value, label, scale) in zip(rows, values, strict=True):
                    self.draw(axes, column, value, scale)
                    if column == 0:
                        axes.set_ylabel(label)
                if baseline is not None:
                    self.draw_baseline(rows[0], model, baseline)
                if with_ratio:
                    self.draw_targets(rows[-1], model)
                    rows[0].tick_params(labelbottom=False)
                rows[0].set_title(model)
                rows[-1].set_xlabel(self.rule.chosen)
            _legend(figure)
        return Picture(self.name, task, title, figure, self.labels)

    def draw(self, axes: Axes, column: int, value: str, scale: float) -> None:
        """Draws the lines of one model: means over `rule.chosen`, and seeds."""
        chosen, model = self.rule.chosen, self.models[column]
        of_model = self.settings[self.settings["model"] == model]
        runs = self.runs[self.runs["model"] == model]
        for index, variant in enumerate(self.variants):
            line = of_model[of_model["variant"] == variant]
            seeds = runs[runs["variant"] == variant]
            _seed_points(axes, seeds[chosen].map(self.place), seeds[value] * scale, _colour(index))
            if line.empty:
                continue
            label = variant if len(self.variants) > 1 else None
            at = line[chosen].map(self.place)
            axes.plot(at, line[value] * scale, color=_colour(index), linestyle=_line(index), label=label)
            for eligible, group in line.groupby("eligible"):
                gid = f"{self.name}-{column}-{value}-{index}-{'in' if eligible else 'out'}"
                _mean_points(axes, group[chosen].map(self.place), group[value] * scale, index, gid, hollow=not eligible)
                self.labels[gid] = [_setting_label(row, chosen) for _, row in group.iterrows()]
            best = line[line["chosen"]]
            ring = {"s": 90, "facecolors": "none", "edgecolors": "black", "linewidths": 1.2, "zorder": 4}
            axes.scatter(best[chosen].map(self.place), best[value] * scale, **ring)
        axes.set_xticks(range(len(self.values)), [number(value) for value in self.values])
        axes.set_xlim(-0.5, len(self.values) - 0.5)
        if len(self.values) > 4:
            axes.tick_params(axis="x", labelrotation=60)

    def draw_targets(self, axes: Axes, model: str) -> None:
        """The tolerance around each `p_target` of a model."""
        assert self.rule.tolerance is not None
        near = self.rule.tolerance * 100
        for target in self.settings.loc[self.settings["model"] == model, "p_target"].unique() * 100:
            axes.axhspan(target - near, target + near, color="#009E73", alpha=0.2)

    def draw_baseline(self, axes: Axes, model: str, runs: pd.DataFrame) -> None:
        """RE of the same settings as lines across."""
        # A dev loss holds lambda_select: at another one it does not compare.
        baselines = Baselines(_finished(runs, ["dev_loss"]), "re", free=["learning_rate"])
        of_model = self.settings[self.settings["model"] == model]
        found = [baselines.of(setting)[0] for _, setting in of_model.iterrows()]
        plain = pd.concat([runs.iloc[:0], *found])
        plain = plain[~plain.index.duplicated()]
        for index, (variant, group) in enumerate(plain.groupby(variants(plain), sort=True)):
            style = len(self.variants) + index
            label = _comma("RE (alpha 1)", str(variant))
            axes.axhline(group["dev_loss"].mean(), color=_colour(style), linestyle=_line(style), label=label)


def _setting_label(row: pd.Series, chosen: str) -> str:
    ratio = "" if pd.isna(row["dev_rationale_ratio"]) else f", ratio {row['dev_rationale_ratio'] * 100:.1f} %"
    mark = " (chosen)" if row["chosen"] else "" if row["eligible"] else f" (not eligible: {row['reason']})"
    who = _comma(row["model"], row["variant"])
    return (
        f"{who}, {chosen} {number(row[chosen])}: dev loss {row['dev_loss']:.4f}{ratio}, {_runs(row['num_seeds'])}{mark}"
    )


def _figure(
    num_columns: int,
    height: float,
    heights: Sequence[float] = (1,),
    sharey: Literal["none", "row"] = "none",
    width: float = COLUMN_WIDTH,
) -> tuple[Figure, list[Axes]]:
    """A figure of `num_columns` by `len(heights)` axes, which come row by row."""
    width = width if num_columns == 1 else 1.95 * num_columns
    with mpl.rc_context(STYLE):
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
        longest = 0.45 + 0.055 * max(map(len, found))
        figure.set_figwidth(max(figure.get_figwidth(), longest))
        num_columns = max(1, min(len(found), int(figure.get_figwidth() // longest)))
        figure.set_figheight(figure.get_figheight() + 0.15 * (-(-len(found) // num_columns) - 1))
        place = {"loc": "outside upper center", "ncols": num_columns, "handletextpad": 0.4}
        figure.legend(list(found.values()), list(found), **place)


def _with_series(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows with their `variant` (what tells settings of an objective and model apart) and `series` (the objective with
    that), and the style of each series, in the order of objectives."""
    rows = rows.assign(variant=variants(rows))
    rows["series"] = [_comma(one.upper(), other) for one, other in zip(rows["objective"], rows["variant"], strict=True)]
    styles = {}
    for objective in OBJECTIVES:
        of = rows[rows["objective"] == objective].sort_values(setting_columns(rows))
        for index, name in enumerate(dict.fromkeys(of["series"])):
            styles[name] = _OBJECTIVE_STYLE[objective] + 3 * index
    return rows, styles


def _comma(first: str, then: str) -> str:
    return f"{first}, {then}" if then else first


def _colour(style: int) -> str:
    return _COLOURS[style % 6]


def _marker(style: int) -> str:
    return _MARKERS[(style + style // 6) % 6]  # beyond six, a colour comes back with another marker and line


def _line(style: int) -> Any:
    return _LINES[(style + style // 6) % 6]


def _write_at(axes: Axes, text: str, place: tuple[float, float]) -> None:
    """Small words below a point."""
    how: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 5.5, "color": "#444444"}
    axes.annotate(text, place, xytext=(0, -8), **how)


def _seed_points(axes: Axes, x: pd.Series, y: pd.Series, colour: str) -> None:
    axes.scatter(x, y, s=5, color=colour, alpha=0.45, linewidths=0, zorder=1.5)


def _mean_points(
    axes: Axes, x: pd.Series, y: pd.Series, index: int, gid: str, *, hollow: bool = False, label: str | None = None
) -> None:
    colour = _colour(index)
    face = "white" if hollow else colour
    axes.scatter(x, y, s=22, facecolor=face, edgecolor=colour, marker=_marker(index), gid=gid, label=label, zorder=3)


def _finished(rows: pd.DataFrame, values: Sequence[str]) -> pd.DataFrame:
    return rows[rows["status"] == "ok"].dropna(subset=list(values))


def _by_size(rows: pd.DataFrame) -> list[str]:
    """Models by number of parameters, largest first, then by name."""
    sizes = rows.groupby("model")["num_parameters"].max().astype(float).fillna(0)
    return [str(model) for model in sorted(sizes.index, key=lambda model: (-sizes[model], model))]


def _target(p_target: float) -> str:
    return "cls" if pd.isna(p_target) else percent(p_target).replace(" ", "")


def _runs(number: float) -> str:
    return f"{number:g} run" + ("" if number == 1 else "s")
