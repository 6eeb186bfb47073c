"""Tables 1-8 from a made-up ledger, beside the paper's numbers."""

import re
from dataclasses import replace
from pathlib import Path

import made_up
import numpy as np
import pandas as pd
import pytest

from analysis import load_epochs, load_trials, narrow, published
from analysis.experiment import Stages, split_stages
from analysis.figures import all_pictures
from analysis.tables import (
    Table,
    all_tables,
    alpha_table,
    behaviour_table,
    comparison_sentence,
    comparison_table,
    lambda_table,
    longer_sentence,
    performance_table,
    printable,
    ratio_table,
    stopped_table,
    telling,
    to_latex,
    to_markdown,
)


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return load_trials(made_up.fill(str(tmp_path_factory.mktemp("store"))))


@pytest.fixture(scope="module")
def stages(trials: pd.DataFrame) -> Stages:
    return split_stages(trials)


def test_stages_of_a_ledger_that_holds_them_all(trials: pd.DataFrame, stages: Stages) -> None:
    assert stages.used.groupby("model")["lambda_select"].unique().map(list).tolist() == [[made_up.BEST_LAMBDA]] * 3
    assert set(stages.lambdas["p_target"]) == {0.15}
    assert set(stages.lambdas["lambda_select"]) == set(made_up.LAMBDAS)
    assert set(stages.alphas["alpha"]) == set(made_up.ALPHAS)
    assert set(stages.ratios["p_target"].dropna()) == {0.15, *made_up.P_TARGETS}
    assert set(narrow(stages.finals, objective="rekd")["alpha"]) == {made_up.BEST_ALPHA}
    assert set(narrow(stages.finals, objective="re")["p_target"]) == {0.15}
    assert len(narrow(stages.finals, objective="cls")) == 9
    for rows in (stages.lambdas, stages.alphas, stages.ratios, stages.finals):
        assert set(rows["digest"]) <= set(trials["digest"])


def test_what_later_stages_used_comes_before_the_rule(tmp_path: Path) -> None:
    overridden = [replace(made, lambda_select=5e-2) for made in made_up.paper_trials() if made.objective == "rekd"]
    kept = [made for made in made_up.paper_trials() if made.objective == "re"]
    stages = split_stages(load_trials(made_up.fill(str(tmp_path), [*kept, *overridden])))
    assert narrow(stages.used, model="vit-tiny")["lambda_select"].tolist() == [5e-2]
    assert set(narrow(stages.finals, model="vit-tiny", objective="re")["lambda_select"]) == {5e-2}


def test_final_runs_of_bert_small_aim_at_nine_and_a_half_percent(tmp_path: Path) -> None:
    base = made_up.trial(task="imdb", model="bert-small", p_target=0.10, lambda_select=1e-2)
    made = [replace(base, seed=seed, p_target=target) for seed in (1, 2) for target in (0.10, 0.095)]
    made += [replace(base, seed=seed, lambda_select=5e-2) for seed in (1, 2)]
    made += [replace(base, model="bert-mini", seed=seed) for seed in (1, 2)]
    stages = split_stages(load_trials(made_up.fill(str(tmp_path), made)))
    assert narrow(stages.lambdas, model="bert-small")["p_target"].unique().tolist() == [0.10]
    finals = stages.finals.groupby("model")["p_target"].unique()
    assert finals["bert-small"].tolist() == [0.095]
    assert finals["bert-mini"].tolist() == [0.10]


def test_performance_beside_the_paper(stages: Stages) -> None:
    table = performance_table(stages)
    order = [*zip(table["objective"], table["model"], strict=True)]
    assert order == [(o, m) for o, m in order if o == "cls"] + [x for x in order if x[0] != "cls"]
    assert len(table) == 8
    assert table["num_seeds"].tolist() == [3] * 8
    tiny = table.set_index(["model", "objective"]).loc["vit-tiny"]
    assert tiny.loc["re", "change"] == pytest.approx(tiny.loc["re", "test_accuracy"] - tiny.loc["cls", "test_accuracy"])
    assert tiny.loc["rekd", "change"] == pytest.approx(
        tiny.loc["rekd", "test_accuracy"] - tiny.loc["re", "test_accuracy"]
    )
    assert tiny.loc["rekd", "paper_test_accuracy"] == 0.936
    assert tiny.loc["rekd", "difference_test_accuracy"] == pytest.approx(tiny.loc["rekd", "test_accuracy"] - 0.936)
    assert tiny.loc["cls", "test_rationale_ratio"] == 1
    assert table[table["is_teacher"]][["objective", "model"]].to_numpy().tolist() == [["re", "vit-base"]]


def test_sweep_tables_mark_the_choice(stages: Stages) -> None:
    lambdas, alphas, ratios = lambda_table(stages), alpha_table(stages), ratio_table(stages)
    assert lambdas[lambdas["chosen"]]["lambda_select"].tolist() == [made_up.BEST_LAMBDA] * 3
    assert not lambdas[lambdas["lambda_select"] == 1e-3]["eligible"].any()
    five = lambdas[(lambdas["model"] == "vit-tiny") & (lambdas["lambda_select"] == 5e-2)].iloc[0]
    assert (five["num_seeds"], five["num_seeds_expected"]) == (3, 5)
    assert five["paper_dev_loss"] == 0.6994
    assert alphas[alphas["chosen"]]["paper_dev_loss"].tolist() == [0.145, 0.271]
    assert ratios.groupby("model").size().tolist() == [5, 5, 5]
    assert ratios[ratios["objective"] == "cls"]["paper_test_accuracy"].tolist() == [0.984, 0.981, 0.968]


def test_comparison_pairs_the_seeds(stages: Stages) -> None:
    table = comparison_table(stages)
    assert table["model"].tolist() == ["vit-small", "vit-tiny"]
    assert table["num_pairs"].tolist() == [3, 3]
    assert (table["difference"] > 0).all()
    assert ((table["low"] > 0) == (table["p_value"] < 0.05)).all()
    exact = comparison_table(stages, method="exact")
    assert exact["p_value"].tolist() == [0.25, 0.25]
    assert exact["low"].isna().all()
    with pytest.raises(ValueError, match="baseline is one of same, chosen, got 'best'"):
        comparison_table(stages, baseline="best")


def test_re_at_its_own_choice_is_a_baseline_that_is_asked_for(tmp_path: Path) -> None:
    """REKD at another lambda_select than the one that is best for RE."""
    made = [one for one in made_up.paper_trials() if one.objective != "rekd"]
    made += [replace(one, lambda_select=5e-2) for one in made_up.paper_trials() if one.objective == "rekd"]
    stages = split_stages(load_trials(made_up.fill(str(tmp_path), made)))
    same, chosen = (
        narrow(comparison_table(stages, baseline=how), model="vit-tiny").iloc[0] for how in ("same", "chosen")
    )
    assert (same["lambda_select"], same["num_pairs"]) == (5e-2, 3)
    assert (chosen["lambda_select"], chosen["baseline_lambda_select"]) == (5e-2, made_up.BEST_LAMBDA)
    plain = narrow(stages.trials, objective="re", model="vit-tiny", p_target=0.15, lambda_select=made_up.BEST_LAMBDA)
    assert chosen["re"] == pytest.approx(plain["test_accuracy"].mean())
    assert chosen["note"] == ""
    assert "RE at lambda_select 0.01; REKD at lambda_select 0.05" in comparison_sentence(chosen)
    # Where nothing is eligible it is the nearest, and that is said.
    strict = comparison_table(split_stages(load_trials(str(tmp_path)), tolerance=0.0), baseline="chosen")
    assert strict["note"].str.startswith("nothing of RE is eligible: its nearest").all()
    assert narrow(strict, model="vit-tiny")["num_pairs"].item() == 3


def test_re_that_was_given_more_epochs_is_told_beside_the_comparison(tmp_path: Path) -> None:
    made = made_up.paper_trials()
    re = [
        one for one in made if (one.objective, one.model, one.lambda_select) == ("re", "vit-tiny", made_up.BEST_LAMBDA)
    ]
    re = [one for one in re if one.p_target == 0.15]
    longer = [replace(one, epochs=4 * one.epochs) for one in re]
    stages = split_stages(load_trials(made_up.fill(str(tmp_path), [*made, *longer])))
    for _, row in comparison_table(stages).iterrows():
        told = longer_sentence(stages, row)
        is_longer = row["model"] == "vit-tiny"
        assert (
            told.startswith(f"RE was also given more than {row['epochs']} epochs: with {4 * row['epochs']} it")
            == is_longer
        )
        assert told.endswith(f"(n = {len(re)}).") == is_longer
        assert bool(told) == is_longer


def test_re_at_its_own_learning_rate_is_the_baseline_where_there_is_no_other(tmp_path: Path) -> None:
    """RE and REKD are each at what a search found for them, and the sentence says so."""
    made = [
        replace(one, learning_rate=4e-5) if one.objective == "rekd" else one
        for one in made_up.paper_trials()
        if one.objective != "re" or one.lambda_select == made_up.BEST_LAMBDA
    ]
    stages = split_stages(load_trials(made_up.fill(str(tmp_path), made)))
    row = narrow(comparison_table(stages), model="vit-tiny").iloc[0]
    assert (row["learning_rate"], row["baseline_learning_rate"], row["num_pairs"]) == (4e-5, 1e-5, 3)
    assert "baseline_lambda_select" not in row
    assert "(RE at learning_rate 1e-05; REKD at learning_rate 4e-05)" in comparison_sentence(row)
    # The one that does not differ is preferred, and then nothing is said.
    same = [replace(one, learning_rate=4e-5) for one in made if one.objective == "re"]
    both = split_stages(load_trials(made_up.fill(str(tmp_path / "both"), [*made, *same])))
    row = narrow(comparison_table(both), model="vit-tiny").iloc[0]
    assert row["num_pairs"] == 3
    assert "baseline_learning_rate" not in row


def test_change_is_what_the_comparison_says(stages: Stages) -> None:
    performance = narrow(performance_table(stages), objective="rekd").set_index("model")
    compared = comparison_table(stages).set_index("model")
    assert performance["change"].to_dict() == compared["difference"].to_dict()
    assert performance["num_pairs"].to_dict() == compared["num_pairs"].to_dict()


def test_two_teachers_are_two_rows(tmp_path: Path) -> None:
    made = made_up.paper_trials()
    again = [replace(one, teacher_digest="f" * 16) for one in made if one.objective == "rekd"]
    stages = split_stages(load_trials(made_up.fill(str(tmp_path), [*made, *again])))
    table = performance_table(stages)
    assert len(table[table["objective"] == "rekd"]) == 4
    assert len(comparison_table(stages)) == 4


def test_behaviour_takes_the_columns_that_are_there(trials: pd.DataFrame) -> None:
    with_columns = trials.assign(test_sufficiency=0.25, test_distinct_masks=np.nan)
    table = behaviour_table(split_stages(with_columns))
    assert "test_distinct_masks" not in telling(table)
    assert "test_comprehensiveness" not in behaviour_table(split_stages(trials.drop(columns="test_comprehensiveness")))
    assert table["test_sufficiency"].tolist() == [0.25] * 5


def test_stopped_trials_keep_their_reason(trials: pd.DataFrame) -> None:
    assert stopped_table(trials)[["status", "error"]].to_numpy().tolist() == [
        ["failed", "<b>out of memory</b>"],
        ["diverged", "epoch 3: the generator selects nothing"],
    ]


@pytest.mark.parametrize("objective", ["cls", "re", "rekd", "none"])
def test_a_part_of_the_experiment_alone(trials: pd.DataFrame, objective: str, tmp_path: Path) -> None:
    stages = split_stages(narrow(trials, objective=objective))
    for table in all_tables(stages):
        assert to_markdown(table)
    assert isinstance(all_pictures(stages, load_epochs(tmp_path)), list)


def test_printed_numbers() -> None:
    frame = pd.DataFrame(
        {
            "model": ["a", "b"],
            "test_accuracy": [0.9684, np.nan],
            "test_accuracy_std": [0.006, np.nan],
            "test_rationale_ratio": [0.148, 0.1],
            "lambda_select": [1e-5, 0.01],
            "num_seeds": [10, 9],
            "num_seeds_expected": [10, 10],
            "difference_test_rationale_ratio": [-0.0001, 0.012],
        }
    )
    assert printable(frame).to_dict("list") == {
        "model": ["a", "b"],
        "accuracy": ["0.968 (0.006)", ""],
        "ratio": ["14.8 %", "10.0 %"],
        "lambda_select": ["1e-05", "0.01"],
        "seeds": ["10", "9 of 10"],
        "ours - paper, ratio, points": ["+0.0", "+1.2"],
    }


def test_markup_in_names_stays_text() -> None:
    table = Table("x", "a|b", "50 % & more", pd.DataFrame({"model": ["x_1|<b>", "y\nz"], "num_seeds": [1, 2]}))
    assert to_markdown(table).splitlines() == [
        r"**a\|b: 50 % & more**",
        "",
        "| model | seeds |",
        "| --- | ---: |",
        r"| x\_1\|\<b\> | 1 |",
        "| y z | 2 |",
    ]
    latex = to_latex(table)
    assert r"x\_1|<b> & 1 \\" in latex
    assert r"\caption{a|b: 50 \% \& more}" in latex
    assert r"\begin{tabular}{lr}" in latex


def test_the_papers_numbers_are_those_of_its_text() -> None:
    text = (Path(__file__).parents[1] / "fixtures" / "paper-tables.txt").read_text(encoding="utf-8")
    for number in (1, 2, 3):
        block = text[text.index(f"Table {number}. ") :]
        for row in published.performance(number).itertuples():
            assert f".{row.test_accuracy:.3f}"[2:] in block
    for number, sweep in ((4, published.lambda_sweep(4)), (5, published.lambda_sweep(5))):
        block = text[text.index(f"Table {number}. Tuning") :][:1500]
        for model, rows in sweep.groupby("model"):
            line = re.search(rf"^{model}\t(.*)$", block, re.MULTILINE)
            assert line is not None
            printed = [f"{r.dev_rationale_ratio * 100:g}%; {r.dev_loss:g}" for r in rows.itertuples()]
            assert [re.sub(r"\(.*", "", entry) for entry in line[1].split("\t")] == printed
            counts = [re.search(r"\((\d+) runs\)", entry) for entry in line[1].split("\t")]
            assert [10 if found is None else int(found[1]) for found in counts] == rows["num_seeds"].tolist()
    for number in (6, 7):
        block = text[text.index(f"Table {number}. Tuning") :][:600]
        for model, rows in published.alpha_sweep(number).groupby("model"):
            assert f"{model}\t" + "\t".join(f"{loss:.3f}" for loss in rows["dev_loss"]) in block
    block = text[text.index("Table 8. ViT") :]
    for model, rows in published.ratio_sweep().groupby("model"):
        line = re.search(rf"^{model}\t(.*)$", block, re.MULTILINE)
        assert line is not None
        entries = [tuple(map(float, entry.split(";"))) for entry in line[1].split("\t")]
        assert entries == [(pytest.approx(r.test_rationale_ratio * 100), r.test_accuracy) for r in rows.itertuples()]
