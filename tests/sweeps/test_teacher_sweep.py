"""The sweep beyond the paper: what it asks for, and how a grid says that a number moves."""

import pandas as pd
import pytest
import typer

import sweeps.teacher_sweep as teacher_sweep_module
from rekd.store.ledger import TRIALS_SCHEMA
from sweeps.options import Options, parse_grid
from sweeps.teacher_sweep import ALPHAS, teacher_sweep

NOTHING = TRIALS_SCHEMA.empty_table().to_pandas()


def planned(monkeypatch: pytest.MonkeyPatch, results: pd.DataFrame, *, other_teachers: bool = False, **options):
    """The plan that the sweep makes of some results."""
    plans = []

    def keep(plan, *arguments, **more) -> int:
        plans.append(plan(results))
        return 0

    monkeypatch.setattr(teacher_sweep_module, "start", keep)
    asked = Options(seeds=(2026, 2027), teacher_seed=2026, **options)
    assert teacher_sweep(asked, alphas=ALPHAS, other_teachers=other_teachers) == 0
    return plans[0]


def test_every_student_has_its_re_and_every_part_with_and_without_a_curriculum(monkeypatch):
    before = planned(monkeypatch, NOTHING)
    teachers = [trial for trial in before.trials if trial.model == "vit-teacher"]
    assert (len(before.trials), len(before.postponed)) == (8, 18)
    row = dict.fromkeys(NOTHING.columns) | {"digest": teachers[0].digest, "status": "ok"}
    plan = planned(monkeypatch, pd.DataFrame([row]))
    rekd = [trial for trial in plan.trials if trial.objective == "rekd"]
    settings = {(trial.model, trial.distils, trial.alpha_schedule) for trial in rekd}
    assert (len(rekd), len(settings)) == (36, 18)
    assert {model for model, _, _ in settings} == {"vit-student", "vit-fine", "resnet"}
    assert {schedule for _, _, schedule in settings} == {"constant", "cosine from 0.9"}
    assert {trial.alpha for trial in rekd} == {0.3}
    assert {trial.lambda_rationale for trial in rekd if trial.distils == "prediction"} == {0}
    assert len({trial.digest for trial in rekd}) == 36


def test_teachers_of_the_same_seed_and_all_of_them_teach_students_and_themselves(monkeypatch):
    before = planned(monkeypatch, NOTHING, other_teachers=True, models=["resnet"])
    teachers = [trial for trial in before.trials if trial.model == "vit-teacher"]
    assert len(teachers) == 2
    rows = [dict.fromkeys(NOTHING.columns) | {"digest": trial.digest, "status": "ok"} for trial in teachers]
    plan = planned(monkeypatch, pd.DataFrame(rows), other_teachers=True, models=["resnet"])
    assert not plan.postponed
    by_seed = {trial.seed: trial.digest for trial in teachers}
    for model in ("vit-teacher", "resnet"):
        rekd = [trial for trial in plan.trials if (trial.objective, trial.model) == ("rekd", model)]
        own, all_of_them = rekd[-4:-2], rekd[-2:]
        assert {trial.seed: trial.teacher_digest for trial in own} == by_seed
        assert {tuple(trial.teachers) for trial in all_of_them} == {tuple(sorted(by_seed.values()))}
    assert sum(group.num_trials for group in before.postponed) == 12 + 2 * 4


def test_a_grid_has_numbers_and_numbers_that_move():
    assert parse_grid("0.3,0.90->0.1:cosine,0->1:step@0.25") == (0.3, "0.9->0.1:cosine", "0->1:step@0.25")
    for text, message in (("0.3,0.9->0.1", "A value that moves is written"), ("a", "got 'a'"), ("1,1.0", "twice")):
        with pytest.raises(typer.BadParameter, match=message):
            parse_grid(text)
