"""What the sweeps ask for: the paper's grids, choices that wait for their results, branches that stop alone."""

from collections import Counter
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from analysis import load_trials
from rekd.running.plan import Plan, to_run
from rekd.store.ledger import TRIALS_SCHEMA
from rekd.tasks.task import load_task
from sweeps import alpha_sweep, lambda_sweep, p_target_sweep, reproduce, seed_sweep
from sweeps.options import Options, parse_seeds
from sweeps.stages import Stage, add_teacher
from sweeps.typed import of_one, typed

SWEEPS = {
    "alpha": (alpha_sweep, alpha_sweep.alpha_sweep),
    "lambda": (lambda_sweep, lambda_sweep.lambda_sweep),
    "p_target": (p_target_sweep, p_target_sweep.p_target_sweep),
    "seed": (seed_sweep, seed_sweep.seed_sweep),
    "reproduce": (reproduce, reproduce.reproduce),
}

NOTHING = load_trials("/nonexistent/store")


@pytest.fixture
def plan_of(monkeypatch):
    """The plan function of a sweep, and nothing started."""

    def plan_of(name, options=None, **grids):
        module, sweep = SWEEPS[name]
        caught = {}
        monkeypatch.setattr(module, "start", lambda plan, tasks, options, **how: caught.update(plan=plan) or 0)
        assert sweep(options or Options(), **grids) == 0
        return caught["plan"]

    return plan_of


def size(plan: Plan) -> int:
    return len(plan.unique_trials()) + sum(group.num_trials for group in plan.postponed)


def asked(plan: Plan) -> int:
    later = sum(group.num_trials + group.num_shared for group in plan.postponed)
    return len(plan.trials) + later


def finished(trials, dev_loss=lambda trial: 1.0, ratio=lambda trial: trial.p_target, status="ok") -> pd.DataFrame:
    """Rows of `trials` as if these had been run."""
    rows = [
        {"digest": trial.digest, **asdict(trial), "status": status, "dev_loss": dev_loss(trial)}
        | {"dev_rationale_ratio": ratio(trial) if trial.p_target else 1.0, "train_seconds": 1.0, "num_epochs": 1}
        for trial in trials
    ]
    return pd.DataFrame(rows).reindex(columns=TRIALS_SCHEMA.names)


def run_to_the_end(plan_function, **how) -> tuple[Plan, pd.DataFrame]:
    """Gives every trial a result as soon as it is asked for, until nothing more is."""
    results = NOTHING
    for _ in range(20):
        plan = plan_function(results)
        to_do = to_run(plan, results)
        if not to_do:
            return plan, results
        results = (
            pd.concat([results, finished(to_do, **how)], ignore_index=True) if len(results) else finished(to_do, **how)
        )
    raise AssertionError("the plan does not end")


@pytest.mark.parametrize(
    ("name", "num_trials"),
    # Tables 6 and 7: two tasks, of each 10 teachers, 2 students of 10 RE and 4 x 10 REKD runs. Tables 4 and 5: six
    # models, 6 values, 10 seeds. Table 8: three models, 8 values and CLS. Tables 1-3: three tasks of 3 + 3 + 2 rows.
    [("alpha", 2 * (10 + 2 * (10 + 40))), ("lambda", 6 * 6 * 10), ("p_target", 3 * 9 * 10), ("seed", 3 * 8 * 10)],
)
def test_without_a_task_a_sweep_is_the_papers(plan_of, name, num_trials):
    assert size(plan_of(name)(NOTHING)) == num_trials


def test_the_whole_paper_is_880_trials_of_1030(plan_of):
    plan = plan_of("reproduce")(NOTHING)
    assert (size(plan), asked(plan)) == (880, 1030)


def test_the_plan_ends_with_as_many_trials_as_it_announced(plan_of):
    plan, results = run_to_the_end(plan_of("reproduce"))
    assert (len(plan.unique_trials()), len(plan.trials)) == (880, 1030)
    assert not plan.postponed
    assert not plan.stopped
    assert results["digest"].is_unique


def test_students_wait_for_their_teacher_and_then_all_learn_from_it(plan_of):
    function = plan_of("alpha", Options(task=["digits"], seeds=(1, 2)))
    before = function(NOTHING)
    assert {trial.objective for trial in before.trials} == {"re"}
    assert {group.needs for group in before.postponed} == {"teacher of digits"}
    results = finished(before.trials, dev_loss=lambda trial: trial.seed)  # seed 1 is the better one
    after = function(results)
    (teacher,) = {trial.teacher_digest for trial in after.trials if trial.objective == "rekd"}
    row = results[results["digest"] == teacher].iloc[0]
    assert (row["model"], row["seed"]) == ("vit-teacher", 1)
    assert not after.postponed


def test_a_teacher_may_be_asked_for_by_its_seed(plan_of):
    function = plan_of("alpha", Options(task=["digits"], seeds=(1, 2), teacher_seed=2))
    trials = function(NOTHING).trials
    ended = [trial for trial in trials if trial.model == "vit-teacher" and trial.seed == 2]
    plan = function(finished(ended))  # the other seed need not have ended
    assert {trial.teacher_digest for trial in plan.trials if trial.objective == "rekd"} == {ended[0].digest}


def test_a_teacher_seed_that_is_not_run_is_refused(plan_of):
    function = plan_of("alpha", Options(task=["digits"], seeds=(1, 2), teacher_seed=3))
    with pytest.raises(ValueError, match=r"--teacher-seed 3 is none of the teacher's seeds on digits: 1, 2"):
        function(NOTHING)


def test_a_branch_without_an_eligible_setting_stops_alone(plan_of):
    function = plan_of("reproduce", Options(task=["digits"], seeds=(1,)))

    def ratio(trial):
        return 0.9 if trial.model == "vit-student" else trial.p_target

    plan, _ = run_to_the_end(function, ratio=ratio)
    assert all("vit-student" in reason for reason in plan.stopped)
    assert any("lambda_select of vit-student" in reason for reason in plan.stopped)
    # The teacher's own branch went on: its p_target sweep is there.
    assert (
        len({trial.p_target for trial in plan.trials if trial.model == "vit-teacher" and trial.objective == "re"}) > 6
    )
    assert not [trial for trial in plan.trials if trial.objective == "rekd"]


@pytest.mark.parametrize(("epochs", "is_said"), [(1, True), (None, False)])
def test_where_nothing_is_eligible_after_a_short_run_the_plan_says_that_it_was_short(plan_of, epochs, is_said):
    function = plan_of("alpha", Options(task=["digits"], seeds=(1,), epochs=epochs))
    plan, _ = run_to_the_end(function, ratio=lambda trial: 0.9)
    assert plan.stopped
    assert ("These trials have 1 of the task's 50 epochs" in plan.stopped[0]) == is_said


def test_a_stage_starts_when_what_it_needs_is_there_not_when_the_whole_stage_is(plan_of):
    function = plan_of("reproduce", Options(task=["cifar10"], seeds=(1,)))
    tuning = [trial for trial in function(NOTHING).trials if trial.model == "vit-tiny" and trial.objective == "re"]
    plan = function(finished(tuning))
    assert any(trial.model == "vit-tiny" and trial.p_target == 0.75 for trial in plan.trials)
    assert not any(trial.model == "vit-base" and trial.p_target == 0.75 for trial in plan.trials)


def test_cifar100_takes_lambda_select_from_cifar10(plan_of):
    function = plan_of("reproduce", Options(task=["cifar10", "cifar100"], seeds=(1,)))
    plan, _ = run_to_the_end(function, dev_loss=lambda trial: abs((trial.lambda_select or 0) - 5e-3))
    chosen = {trial.lambda_select for trial in plan.trials if trial.task == "cifar100" and trial.objective != "cls"}
    assert chosen == {5e-3}


def test_only_and_through_leave_stages_out(plan_of):
    options = Options(task=["cifar10"], seeds=(1,))
    only = plan_of("reproduce", options, only=["cls"])(NOTHING)
    assert {trial.objective for trial in only.trials} == {"cls"}
    through, _ = run_to_the_end(plan_of("reproduce", options, through="re"))
    assert {trial.objective for trial in through.trials} == {"cls", "re"}
    assert {trial.p_target for trial in through.trials if trial.objective == "re"} == {0.15}


def test_given_choices_take_the_place_of_the_rules(plan_of):
    options = Options(task=["cifar10"], seeds=(1,))
    function = plan_of("reproduce", options, only=["re"], lambda_select=["vit-tiny=0.3"])
    chosen = [trial.lambda_select for trial in function(NOTHING).trials if trial.model == "vit-tiny"]
    assert chosen == [0.3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lambda_select": ["vit-huge=1"]}, "names the model 'vit-huge'. Models: vit-base, vit-small, vit-tiny"),
        ({"alpha": ["vit-tiny"]}, "is MODEL=VALUE such as vit-tiny=0.05, got 'vit-tiny'"),
        ({"only": ["cls"], "through": "re"}, "--only and --through exclude each other"),
    ],
)
def test_bad_choices_are_refused(plan_of, given, message):
    with pytest.raises(ValueError, match=message):
        plan_of("reproduce", Options(task=["cifar10"]), **given)


def test_two_tasks_of_one_name_are_refused():
    with pytest.raises(ValueError, match="told apart by name, got digits, digits"):
        Options(task=["digits", "digits"]).tasks(())


def test_the_teacher_may_be_chosen_among_seeds_of_its_own(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('extends = "digits"\nteacher_seeds = "1-3"\n')
    task = load_task(file)
    stage = Stage(task=task, options=Options(), results=NOTHING)
    assert add_teacher(stage).pending
    assert [trial.seed for trial in stage.plan.trials] == [1, 2, 3]
    assert [trial.seed for trial in stage.trials("re", "vit-student")] == list(task.seeds)
    assert task.digest == load_task("digits").digest


# --- What to type next ----------------------------------------------------------------------------------------------


def test_a_branch_without_a_teacher_says_what_to_type(plan_of, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sweeps/alpha_sweep.py", "--task", "digits", "--seeds", "1,2"])
    function = plan_of("alpha", Options(task=["digits"], seeds=(1, 2)))
    plan, _ = run_to_the_end(function, ratio=lambda trial: 0.25 + 0.02 * trial.seed)
    (reason,) = plan.stopped
    assert "no teacher of digits" in reason
    same = "`python sweeps/alpha_sweep.py --task digits --seeds 1,2"
    assert f"{same} --teacher-seed 1`" in reason
    assert f"{same} --tolerance 0.02`" in reason
    assert "`python sweeps/lambda_sweep.py --task digits --models vit-teacher --seeds 1,2 --lambdas " in reason


def test_the_tolerance_is_an_option_and_no_part_of_a_trial(plan_of):
    digests = []
    for tolerance in (0.01, 0.02):
        function = plan_of("alpha", Options(task=["digits"], seeds=(1, 2), tolerance=tolerance))
        plan, _ = run_to_the_end(function, ratio=lambda trial: 0.27)
        assert bool(plan.stopped) == (tolerance == 0.01)
        digests.append({trial.digest for trial in plan.trials})
    assert digests[0] < digests[1]


def test_a_command_is_typed_with_the_options_that_are_not_as_usual():
    options = Options(task=["digits"], seeds=(1, 2, 3), epochs=3, local=True, teacher_seed=2, store="s3://b/a b")
    task = load_task("digits")
    assert typed("lambda_sweep", of_one(options, task, "vit-student")) == (
        "python sweeps/lambda_sweep.py --task digits --models vit-student --seeds 1-3 --epochs 3 --store 's3://b/a b' --local"
    )


# --- Seeds by evidence ----------------------------------------------------------------------------------------------


def noise(trial) -> float:
    return 0.01 * np.random.default_rng([trial.seed, round(1e6 * (trial.lambda_select or 0))]).normal()


def test_by_evidence_a_setting_that_is_far_behind_gets_no_more_seeds(plan_of):
    function = plan_of("lambda", Options(task=["digits"], models=("vit-student",), seeds=parse_seeds("auto:3-6")))
    first = function(NOTHING)
    grid = {trial.lambda_select for trial in first.trials}
    assert {trial.seed for trial in first.trials} == {2026, 2027, 2028}
    assert sum(group.num_trials for group in first.postponed) == 3 * len(grid)

    close = {sorted(grid)[2]: 0.01, sorted(grid)[3]: -0.01}

    def dev_loss(trial):
        return (-1) ** trial.seed * close.get(trial.lambda_select, 0) + 5 * (trial.lambda_select not in close)

    plan, results = run_to_the_end(function, dev_loss=dev_loss)
    counts = results.groupby("lambda_select").size().to_dict()
    assert {value for value, number in counts.items() if number == 6} == set(close)
    assert set(counts.values()) == {3, 6}
    assert not plan.postponed
    assert set(results["digest"]) == {trial.digest for trial in plan.trials}
    assert function(results.sample(frac=1, random_state=1)).trials == plan.trials


def test_by_evidence_the_paper_is_planned_to_its_end_with_fewer_trials(plan_of):
    how = {"through": "rekd"}
    function = plan_of("reproduce", Options(task=["digits"], seeds=parse_seeds("auto")), **how)
    num_all = size(plan_of("reproduce", Options(task=["digits"]), **how)(NOTHING))

    def dev_loss(trial):
        return abs(np.log10(trial.lambda_select or 1) + 2) + abs((trial.alpha or 0.3) - 0.3) + noise(trial)

    plan, _ = run_to_the_end(function, dev_loss=dev_loss)
    assert not plan.stopped
    assert not plan.postponed
    assert len(plan.unique_trials()) < 0.8 * num_all
    finals = [trial.seed for trial in plan.unique_trials().values() if (trial.objective, trial.alpha) == ("rekd", 0.3)]
    assert sorted(finals) == list(load_task("digits").seeds)  # the choice has all


def test_by_evidence_a_curriculum_may_be_the_choice_and_gets_all_seeds(plan_of):
    options = Options(task=["digits"], seeds=parse_seeds("auto"))
    function = plan_of("alpha", options, alphas=(0.1, "0.9->0.1:cosine"))
    plan, _ = run_to_the_end(function, dev_loss=lambda t: 1.0 + (t.alpha_schedule == "constant") + noise(t))
    counts = Counter(trial.alpha_schedule for trial in plan.unique_trials().values() if trial.objective == "rekd")
    assert counts == {"constant": 3, "cosine from 0.9": 5}


def test_seeds_by_evidence_are_the_tasks_and_those_that_follow():
    task = load_task("digits")
    assert parse_seeds("auto").of(task) == task.seeds
    assert parse_seeds("auto:3-7").of(task) == tuple(range(2026, 2033))
    assert parse_seeds("auto:2-3").of(task) == (2026, 2027, 2028)
    assert [str(parse_seeds(text)) for text in ("auto", "auto:4-7")] == ["auto", "auto:4-7"]
