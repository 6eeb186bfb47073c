"""What makes a setting, and that nothing mixes two."""

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import made_up
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis import load_epochs, load_trials, select_alpha, select_lambda_select, select_teacher
from analysis import report as report_module
from analysis import settings as settings_module
from analysis.cli import app
from analysis.experiment import split_stages
from analysis.figures import all_pictures
from analysis.report import report
from analysis.settings import setting_columns, variants, with_settings
from analysis.statistics import paired_differences, summarize
from analysis.tables import Table, all_tables, alpha_table, comparison_sentence, lambda_table
from rekd.store.ledger import Ledger
from rekd.trial import Trial, grown

MADE = made_up.mixed_trials()
NUMBERS = made_up.setting_numbers(MADE)


def numbers_of(objective: str) -> set[int]:
    return {NUMBERS[made.digest] for made in MADE if made.objective == objective}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two learning rates, two batch sizes, two edits of a task, two teachers, and two epochs beside the real run."""
    folder = str(tmp_path_factory.mktemp("mixed"))
    made_up.fill_mixed(folder)
    return folder


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def tables(store: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("tables")
    run("tables", store, "--out", str(folder), "--format", "csv")
    return {path.stem.removesuffix("-cifar10"): pd.read_csv(path) for path in folder.glob("*.csv")}


def hundredths(values: pd.Series) -> list[int]:
    """Numbers of settings, from their scores; fails where a score is not that of one setting."""
    scaled = values * 100
    assert np.allclose(scaled, scaled.round(), atol=1e-6), values
    return scaled.round().astype(int).tolist()


def test_every_setting_is_a_row_of_the_tables_and_none_mixes_two(tables: dict[str, pd.DataFrame]) -> None:
    assert sorted(hundredths(tables["lambda"]["dev_loss"] - 1)) == sorted(numbers_of("re"))
    assert sorted(hundredths(tables["alpha"]["dev_loss"] - 1)) == sorted(numbers_of("rekd"))
    performance = hundredths(tables["performance"]["test_accuracy"])
    assert len(set(performance)) == len(performance)
    for name in ("lambda", "alpha", "performance", "ratio"):
        assert set(tables[name]["num_seeds"]) == {made_up.NUM_MIXED_SEEDS}
        assert not tables[name].duplicated(setting_columns(tables[name])).any()


def test_a_difference_is_of_two_settings_that_agree_in_all_that_re_reads(tables: dict[str, pd.DataFrame]) -> None:
    rows = tables["comparison"]
    assert len(rows) == 6  # alpha 0 has the lower loss everywhere: five settings and a second teacher
    by_trial = {made.digest: made for made in MADE}
    settings = {NUMBERS[digest]: by_trial[digest] for digest in NUMBERS}
    for plain, distilled in zip(hundredths(rows["re"]), hundredths(rows["rekd"]), strict=True):
        same = replace(settings[distilled], objective="re", alpha=None, lambda_rationale=None, teacher_digest=None)
        assert replace(settings[plain], seed=0).digest == replace(same, seed=0).digest
    assert rows["num_pairs"].tolist() == [3] * 6
    assert rows["difference"].tolist() == pytest.approx((rows["rekd"] - rows["re"]).tolist())


def test_select_names_every_group(store: str) -> None:
    out = run("select", store)
    for words in ("learning_rate", "batch_size", "epochs", "task_digest", "taught by"):
        assert words in out
    choices = select_alpha(load_trials(store))
    assert len(choices) == 6
    assert set(hundredths(choices["dev_loss"] - 1)) <= numbers_of("rekd")


def test_a_picture_has_a_line_a_setting_and_a_legend_that_names_them(store: str) -> None:
    trials = load_trials(store)
    pictures = {one.name: one for one in all_pictures(split_stages(trials), load_epochs(store))}
    for name in ("alpha-cifar10", "lambda-cifar10", "seeds-cifar10", "training-cifar10"):
        said = [text for texts in pictures[name].labels.values() for text in texts]
        (legend,) = pictures[name].figure.legends
        names = " ".join(text.get_text() for text in legend.get_texts())
        for words in ("learning_rate 0.0001", "batch_size 64", "epochs 2", "task_digest eeeeeeee"):
            assert any(words in text for text in said), (name, words)
            assert words in names, (name, words)
        for text in said:
            assert "3 runs" in text, text
    losses = {
        round(100 * (float(match[1]) - 1))
        for texts in pictures["alpha-cifar10"].labels.values()
        for text in texts
        if (match := re.search(r"dev loss ([\d.]+)", text))
    }
    assert losses == numbers_of("rekd")


def test_the_figure_of_training_shows_the_weights_that_move(tmp_path: Path) -> None:
    """Beside the temperature, for the settings that have a schedule."""
    ledger, plain = Ledger(str(tmp_path)), made_up.trial()
    ledger.write(plain, made_up.outcome(plain), [{"epoch": 1, "dev_loss": 1.0, "temperature": 5.0}])
    for schedule, alphas in (("constant", (0.3, 0.3)), ("cosine from 0.9", (0.6, 0.3))):
        made = made_up.trial(objective="rekd", alpha_schedule=schedule)
        records = [
            {"epoch": epoch, "dev_loss": 1.0 / epoch, "temperature": 5.0 / epoch, "train_alpha": alpha}
            for epoch, alpha in enumerate(alphas, start=1)
        ]
        ledger.write(made, made_up.outcome(made), records)
    pictures = all_pictures(split_stages(load_trials(str(tmp_path))), load_epochs(str(tmp_path)))
    (picture,) = [one for one in pictures if one.name.startswith("training")]
    said = [text for texts in picture.labels.values() for text in texts]
    assert sum("alpha 0.6" in text for text in said) == 1
    assert sum(", alpha 0.3, " in text for text in said) == 1  # of the setting that moves, in its last epoch
    drawn = [line for axes in picture.figure.axes for line in axes.lines if line.get_linestyle() == ":"]
    (curve,) = [line for line in drawn if line.get_marker() == "|"]
    assert list(np.asarray(curve.get_ydata())) == pytest.approx([1.0, 0.5])


def test_the_axis_of_losses_that_fall_far_has_numbers_and_no_markup(tmp_path: Path) -> None:
    trial = made_up.trial()
    records = [{"epoch": epoch, "dev_loss": 10.0 ** (2 - epoch), "temperature": 1.0} for epoch in (1, 2, 3)]
    Ledger(str(tmp_path)).write(trial, made_up.outcome(trial), records)
    pictures = all_pictures(split_stages(load_trials(str(tmp_path))), load_epochs(str(tmp_path)))
    (picture,) = [one for one in pictures if one.name.startswith("training")]
    text = picture.render("svg").decode()
    assert ">0.1<" in text
    assert "mathdefault" not in text


def test_the_report_says_what_the_tables_say(store: str, tables: dict[str, pd.DataFrame]) -> None:
    page = report(store)
    for _, row in tables["comparison"].iterrows():
        assert (
            f"REKD {row['rekd']:.3f}, RE {row['re']:.3f} in test accuracy; difference {row['difference']:+.3f}" in page
        )
    assert page.count("<h3>") == 0  # no rationales were written


# --- The right numbers after a try and then the real run --------------------------------------------------------------


def scored(objective: str, accuracies: dict[int, float], **changes: object) -> list[dict[str, object]]:
    trials = [made_up.trial(objective=objective, seed=seed, **changes) for seed in accuracies]
    return [
        asdict(made) | {"status": "ok", "test_accuracy": accuracy}
        for made, accuracy in zip(trials, accuracies.values(), strict=True)
    ]


TRY = scored("re", {1: 0.1, 2: 0.1}, epochs=2)
RE = scored("re", {3: 0.8, 4: 0.8}, epochs=35)
REKD = scored("rekd", dict.fromkeys((1, 2, 3, 4), 0.8), epochs=35)


def test_a_try_is_not_paired_with_the_real_run() -> None:
    (row,) = paired_differences(pd.DataFrame(TRY + RE + REKD)).to_dict("records")
    assert (row["difference"], row["num_pairs"]) == (0.0, 2)  # and not +.350 on 4 seeds
    assert row["note"] == "no interval below 3 pairs"


def test_with_re_of_other_epochs_alone_there_is_no_difference_and_a_reason() -> None:
    (row,) = paired_differences(pd.DataFrame(TRY + REKD)).to_dict("records")
    assert np.isnan(row["difference"])  # and not +.700
    assert (row["num_pairs"], row["note"]) == (0, "RE has epochs 2, this epochs 35")
    (row,) = paired_differences(pd.DataFrame(REKD)).to_dict("records")
    assert row["note"] == "no RE of this model"
    later = [run | {"seed": run["seed"] + 10} for run in RE]
    (row,) = paired_differences(pd.DataFrame(later + REKD)).to_dict("records")
    assert row["note"] == "no seed in common: RE 13, 14, REKD 1, 2, 3, 4"


def test_one_pair_has_a_difference_and_no_interval_in_words() -> None:
    (row,) = paired_differences(pd.DataFrame(RE[:1] + REKD)).iterrows()
    assert comparison_sentence(row[1]) == (
        "REKD 0.800, RE 0.800 in test accuracy; difference +0.000, ahead on 0 of 1 seed; no interval below 3 pairs."
    )
    (row,) = paired_differences(pd.DataFrame(TRY + REKD)).iterrows()
    assert comparison_sentence(row[1]) == "REKD is not compared with RE: RE has epochs 2, this epochs 35."


def test_point_three_and_a_tenth_more_than_two_tenths_are_two_settings_and_two_texts() -> None:
    frame = pd.DataFrame(
        [{"model": "m", "alpha": alpha, "dev_loss": 1.0, "seed": 1} for alpha in (0.3, 0.1 + 0.2)]
        + [{"model": "m", "alpha": 0.5, "dev_loss": 2.0, "seed": 1}]
    )
    assert summarize(frame, ["dev_loss"])["num_seeds"].tolist() == [1, 1, 1]
    assert variants(frame).tolist() == ["alpha 0.3", "alpha 0.30000000000000004", "alpha 0.5"]
    assert settings_module.percent(0.1 + 0.2) == "30.000000000000004 %"
    assert [settings_module.percent(value) for value in (0.15, 0.095, 0.3)] == ["15 %", "9.5 %", "30 %"]


# --- A field that is born later --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class GrownTrial(Trial):
    """`Trial` with one field more that all read, and one whose name is text."""

    lambda_sparse: float = grown(default=0.0, neutral=0.0)
    sampler: str = grown(default="gumbel", neutral="gumbel")


@pytest.fixture
def two_ledgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """The rows of a ledger that lacks two fields, and those of one that has them: another value on other seeds."""
    old = load_trials(made_up.fill(tmp_path / "old"))
    new = load_trials(made_up.fill(tmp_path / "new")).assign(lambda_sparse=0.5, sampler="kuma")
    shift = {name: new[name] + 100 for name in ("seed",)} | {
        name: new[name] + 1 for name in ("dev_loss", "test_accuracy")
    }
    neutral = old.iloc[:0].assign(lambda_sparse=0.0, sampler="gumbel")
    monkeypatch.setattr(settings_module, "Trial", GrownTrial)
    digests = new["digest"].str[:8] + "new"
    return pd.concat([old, neutral, new.assign(digest=digests, **shift)], ignore_index=True)


def test_what_a_row_of_before_lacks_is_neutral(two_ledgers: pd.DataFrame) -> None:
    filled = with_settings(two_ledgers)
    assert set(filled["lambda_sparse"]) == {0.0, 0.5}
    assert set(filled["sampler"]) == {"gumbel", "kuma"}
    assert {"lambda_sparse", "sampler"} <= set(setting_columns(filled))
    with_neutral = two_ledgers.fillna({"lambda_sparse": 0.0, "sampler": "gumbel"})
    pd.testing.assert_frame_equal(with_settings(with_neutral), filled, check_dtype=False)


def test_everything_keeps_the_values_of_a_new_field_apart(
    two_ledgers: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apart(frame: pd.DataFrame, value: str) -> bool:
        means = frame[frame[value].notna()].groupby("sampler")[value]
        return set(means.groups) == {"gumbel", "kuma"} and means.max()["gumbel"] < 1.1 < means.min()["kuma"]

    stages = split_stages(two_ledgers)
    for rule in (select_lambda_select, select_teacher):
        assert apart(rule(stages.lambdas), "dev_loss")
    assert apart(select_alpha(two_ledgers), "dev_loss")
    for table in (lambda_table(stages), alpha_table(stages)):
        assert apart(table, "dev_loss")
    made: list[Table] = all_tables(stages)
    for table in made:
        if "test_accuracy" in table.frame:
            assert apart(table.frame, "test_accuracy")
            assert "sampler" in table.shown
    pairs = paired_differences(two_ledgers)
    assert set(pairs["num_pairs"]) == {3}
    assert apart(pairs, "rekd")
    pictures = all_pictures(stages, pd.DataFrame({"digest": []}))
    for picture in pictures:
        texts = [text for texts in picture.labels.values() for text in texts]
        assert any("sampler kuma" in text for text in texts), picture.name
        assert any("sampler gumbel" in text for text in texts), picture.name
    monkeypatch.setattr(report_module, "load_trials", lambda _: two_ledgers)
    findings = re.findall(r"<li>cifar10, (.*?), ahead on 3 of 3 seeds", report(str(tmp_path)))
    assert len(findings) == 4  # two students, with either value
    assert sum("sampler kuma" in finding for finding in findings) == 2


# --- Teachers of the same seed ---------------------------------------------------------------------------------------


def test_a_teacher_of_each_seed_is_grouped_by_the_rule_and_a_fixed_one_by_its_digest() -> None:
    teachers = [made_up.trial(model="vit-base", seed=seed) for seed in (1, 2, 3)]
    own = [made_up.trial(objective="rekd", seed=one.seed, teacher_digest=one.digest) for one in teachers]
    fixed = [replace(one, alpha=0.7, teacher_digest=teachers[0].digest) for one in own]
    rows = [
        asdict(made) | {"digest": made.digest, "status": "ok", "dev_loss": 1.0, "dev_rationale_ratio": 0.15}
        for made in [*teachers, *own, *fixed]
    ]
    frame = with_settings(pd.DataFrame(rows))
    of_own = frame[frame["alpha"] == 0.3]
    (rule,) = of_own["teacher"].unique()
    assert rule.startswith("of the same seed (")
    assert frame[frame["alpha"] == 0.7]["teacher"].tolist() == [teachers[0].digest] * 3
    assert select_alpha(frame)["num_seeds_expected"].tolist() == [3, 3]
    alone = with_settings(frame[frame["objective"] == "rekd"].drop(columns="teacher"))
    assert (
        alone["teacher"].tolist() == alone["teacher_digest"].tolist()
    )  # of teachers that nobody knows nothing is said
    known = with_settings(frame[frame["objective"] == "rekd"].drop(columns="teacher"), teachers=frame)
    assert known["teacher"].tolist() == frame[frame["objective"] == "rekd"]["teacher"].tolist()


def test_teachers_of_two_settings_are_two_rules() -> None:
    rows = []
    for rate in (1e-5, 1e-4):
        teachers = [made_up.trial(model="vit-base", seed=seed, learning_rate=rate) for seed in (1, 2)]
        own = [made_up.trial(objective="rekd", seed=one.seed, teacher_digest=one.digest) for one in teachers]
        rows += [asdict(made) | {"digest": made.digest} for made in (*teachers, *own)]
    frame = with_settings(pd.DataFrame(rows))
    assert frame[frame["objective"] == "rekd"].groupby("teacher")["seed"].nunique().tolist() == [2, 2]


def test_seeds_that_ran_elsewhere_are_said(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    for seed, device, version in ((1, "cpu", "2.13.0"), (2, "cpu", "2.13.0"), (3, "NVIDIA L40S", "2.14.0")):
        made = made_up.trial(seed=seed)
        ended = replace(made_up.outcome(made), device=device, versions=f"rekd 0.2.0, torch {version}")
        ledger.write(made, ended)
    table = next(one for one in all_tables(split_stages(load_trials(ledger))) if one.name.startswith("performance"))
    assert table.notes == (
        "Seeds of one setting ran on different kinds of device: RE vit-tiny (1 NVIDIA L40S, 2 cpu).",
        "Seeds of one setting ran with different versions: RE vit-tiny (2 torch 2.13.0, 1 torch 2.14.0).",
    )
    assert "different kinds of device" in run("tables", str(tmp_path))
