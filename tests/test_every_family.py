"""The table of all families and estimators: nobody is missing in it, and its cells are what a ledger and audits say."""

import pandas as pd
import pytest

from benchmarks.every_family import FAMILIES, cell, table
from rekd.method.backbones import BACKBONES
from rekd.tasks.task import load_task


def test_every_family_has_a_model_in_a_task_of_its_kind():
    tasks = [load_task(file) for file in FAMILIES]
    found = {name: (task.models[name].config["model_type"], task.kind) for task in tasks for name in models_of(task)}
    assert found == {family: (family, BACKBONES[family].kind) for family in BACKBONES}


def models_of(task) -> tuple[str, ...]:
    return (task.teacher, *task.students)


def test_a_row_is_a_way_and_an_encoder_and_counts_what_audits_found():
    known = {"objective": "re", "status": "ok", "model": "vit", "encoder": "own", "test_rationale_ratio": 0.0834}
    numbers = {"test_accuracy": 0.9, "test_rationale_f1": 0.75, "train_seconds": 4.4}
    trials = pd.DataFrame(
        [
            known | numbers | {"digest": "c", "estimator": "gumbel", "encoder": "shared"},
            known | numbers | {"digest": "a", "estimator": "top_k"},
            known | numbers | {"digest": "b", "estimator": "top_k", "test_accuracy": 0.8},
            known | numbers | {"digest": "d", "estimator": None, "objective": "cls"},
            known | numbers | {"digest": "e", "estimator": "gumbel", "status": "diverged"},
        ]
    )
    audits = pd.DataFrame([("a", True, True, False), ("b", True, False, False)])
    audits.columns = ["digest", "follows", "is_sufficient", "leaks"]
    head, line, *rows = table(trials, audits)
    assert head.count("|") == line.count("|") == 11
    assert rows == [
        "| top_k | vit | 2 | .850 (.071) | 8.3 % (0.0 %) | .750 (.000) | 2 of 2 | 1 of 2 | 0 of 2 | 4 |",
        "| FR | vit | 1 | .900 | 8.3 % | .750 | - | - | - | 4 |",
    ]


@pytest.mark.parametrize(("values", "told"), [([1.0], "1.000"), ([10.06], "10.060"), ([0.5, 0.5], ".500 (.000)")])
def test_numbers_below_one_have_no_zero_in_front(values, told):
    assert cell(pd.Series(values), percent=False) == told
