"""From a task file to a student: the grid that grows, what is taken where nothing keeps to the ratio, and the whole way."""

import subprocess
import sys
from pathlib import Path

import handed
import numpy as np
import pytest
from rich.console import Console
from test_plans import NOTHING, run_to_the_end

from analysis import load_trials
from analysis.verdicts import load_audits
from rekd.tasks.task import load_task
from sweeps import best_student as module
from sweeps import show
from sweeps.best_student import LIMITS, MOST, beyond
from sweeps.options import Options, parse_seeds
from sweeps.stages import Choice

ROOT = Path(__file__).parents[2]


@pytest.fixture
def plan_of(monkeypatch):
    """The plan function of the sweep on digits with three seeds of each setting, and nothing started."""

    def plan_of(seeds: str = "1-3", **options):
        caught = {}
        monkeypatch.setattr(module, "start", lambda plan, tasks, options, **how: caught.update(plan=plan) or 0)
        assert module.best_student(Options(task=["digits"], seeds=parse_seeds(seeds), **options)) == 0
        return caught["plan"]

    return plan_of


def best_at(lambda_select: float, ratio=lambda trial: trial.p_target):
    """Results whose loss is lowest at one lambda_select, and at alpha .5."""

    def dev_loss(trial):
        return abs(np.log10(trial.lambda_select / lambda_select)) + abs((trial.alpha or 0.5) - 0.5) + 0.01 * trial.seed

    return {"dev_loss": dev_loss, "ratio": ratio}


def grids(plan) -> dict[str, list[float]]:
    found: dict[str, set[float]] = {}
    for trial in plan.trials:
        if trial.objective == "re":
            found.setdefault(trial.model, set()).add(trial.lambda_select)
    return {model: sorted(values) for model, values in found.items()}


def test_the_grid_grows_by_decades_until_the_best_lies_within(plan_of):
    function = plan_of()
    assert len(grids(function(NOTHING))["vit-student"]) == 3
    plan, _ = run_to_the_end(function, **best_at(1e-4))
    assert min(grids(plan)["vit-student"]) == 1e-5
    assert not plan.stopped
    assert not plan.postponed
    assert {trial.lambda_select for trial in plan.trials if trial.objective == "rekd"} == {1e-4}


def test_the_whole_way_is_planned_from_the_ledger_alone(plan_of):
    function = plan_of("auto:2-4")
    plan, results = run_to_the_end(function, **best_at(1e-2))
    (teacher,) = {trial.teacher_digest for trial in plan.trials if trial.objective == "rekd"}
    row = results.set_index("digest").loc[teacher]
    assert (row["model"], row["lambda_select"], row["seed"]) == ("vit-teacher", 1e-2, 2026)
    students = [trial for trial in plan.trials if trial.model == "vit-student" and trial.lambda_select == 1e-2]
    finals = {(trial.objective, trial.seed) for trial in students if trial.alpha in (None, 0.5)}
    assert finals == {(objective, seed) for objective in ("re", "rekd") for seed in range(2026, 2030)}
    assert function(results.sample(frac=1, random_state=1)).trials == plan.trials


def test_where_no_run_keeps_to_the_ratio_the_nearest_is_taken_and_it_ends(plan_of):
    """As with the snippets: the seeds of a teacher on both sides of the target, and their mean near it."""

    def ratio(trial):
        return trial.p_target + (0.04 if trial.seed == 1 else -0.02)

    plan, results = run_to_the_end(plan_of(), **best_at(1e-2, ratio))
    (teacher,) = {trial.teacher_digest for trial in plan.trials if trial.objective == "rekd"}
    assert results.set_index("digest").loc[teacher, "seed"] == 2
    assert not plan.stopped
    assert not plan.postponed


def test_a_grid_ends_somewhere():
    lowest = (LIMITS[0], 10 * LIMITS[0])
    assert beyond(lowest, Choice(value=lowest[0])) == ()
    assert beyond((1e-3, 1e-2, 1e-1), Choice(value=1e-2)) == ()
    assert beyond((1e-3, 1e-2, 1e-1), Choice(value=1e-1)) == (1.0,)
    many = tuple(float(f"1e{power}") for power in range(-7, MOST - 7))
    assert beyond(many, Choice(value=many[-1])) == ()


def test_it_wants_a_task():
    with pytest.raises(ValueError, match=r"needs a task: --task mine\.toml"):
        module.best_student(Options())


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """A store with trials of which two have models, and the digests of the teacher and the student."""
    store, (_, teacher, student) = handed.reviews(tmp_path_factory.mktemp("reviews"))
    return store, teacher.name, student.name


def test_the_final_runs_are_audited_and_no_others_nor_where_they_ran_on_gpus(reviews, monkeypatch):
    store, teacher, student = reviews
    task, console = load_task("planted-reviews"), Console(quiet=True)
    monkeypatch.setattr("rekd.running.auditor.judge_of", lambda task, _: handed.drawn(task, task.teacher, "cls"))
    rows = load_trials(store, [student])
    show._audit(task, rows.assign(device="NVIDIA H100"), store, console)
    assert load_audits(store).empty
    show._audit(task, rows, store, console)
    assert list(load_audits(store)["digest"]) == [student]
    assert teacher in set(load_trials(store)["digest"])


def test_the_best_model_is_exported_once_and_what_cannot_be_is_told(reviews, tmp_path, capsys):
    store, _, student = reviews
    row = load_trials(store, [student]).iloc[0]
    folder = show._export(row, tmp_path / "exported", store, Console(width=1000))
    assert (Path(folder) / "modeling_rekd.py").exists()
    assert show._export(row, tmp_path / "exported", store, Console(width=1000)) == folder
    gone = row.replace(student, "0" * 16)
    found = show._export(gone, tmp_path / "exported", store, Console(width=1000))
    assert found == store.model_folder("0" * 16)
    said = capsys.readouterr().out
    assert said.count(f"Exported to {folder}; its card is {folder}/README.md.") == 2
    assert "Not exported: There is neither a folder" in said


@pytest.mark.slow
def test_from_a_task_to_an_audited_and_exported_student_and_again_from_the_ledger(tmp_path, image_task):
    """The grid begins at its lower limit, where two epochs put the lowest loss: it has nowhere to grow to."""
    task = tmp_path / "mine.toml"
    lines = [f'extends = "{image_task}"', 'students = ["vit-tiny"]', "[defaults]", "lambda_select = 1e-6"]
    task.write_text("\n".join(lines))
    command = [sys.executable, "sweeps/best_student.py", "--task", str(task), "--seeds", "auto:2-3"]
    command += ["--alphas", "0.3,0.7", "--tolerance", "0.05", "--local", "--store", str(tmp_path / "results")]
    command += ["--to", str(tmp_path / "exported")]

    def typed() -> str:
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return " ".join(ended.stdout.split())

    typed()
    said = typed()
    assert "nothing is trained" in said
    assert "Best student: vit-tiny." in said
    path = said.partition("Best student: vit-tiny. `python -m rekd explain ")[2].partition(" INPUT`")[0]
    assert Path(path).parent == tmp_path / "exported"
    assert (Path(path) / "model.safetensors").exists()
    assert Path(path).name.rpartition("-")[2] in set(load_trials(tmp_path / "results")["digest"])
    assert "in test accuracy; difference" in said
    assert " leak" in said
    assert "0 trials audited now." in said
