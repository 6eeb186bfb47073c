"""The paper's experiment, stage by stage: which trials each stage has, and what is chosen from them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.advice import Advice, advise
from analysis.evidence import race
from analysis.selection import SelectionRule, alpha_rule, choices, judged, lambda_rule, teacher_rule
from analysis.settings import with_settings
from rekd.running.plan import LaterTrials, Plan
from rekd.schedule import CONSTANT, Move, Schedule
from rekd.tasks.task import Task
from rekd.trial import Objective, Trial, taught_by
from sweeps.options import Options, SeedsByEvidence
from sweeps.typed import next_command


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a rule chose, or why it has not."""

    value: Any = None
    pending: bool = False
    """Whether results are missing that the rule needs."""
    why: str = ""
    what: str = ""
    """What is chosen, such as `the teacher of cifar10`."""
    next: str = ""
    """What to type where nothing was found, and why."""
    advice: Advice | None = None
    """The same as values."""
    nearest: Any = None
    """What came nearest to being chosen, where nothing was."""

    @property
    def is_made(self) -> bool:
        return self.value is not None


@dataclass(kw_only=True)
class Stage:
    """Trials of one kind on one task: it names them, and adds them to a plan once its choices are made."""

    task: Task
    options: Options
    results: pd.DataFrame
    plan: Plan = field(default_factory=Plan)

    def trials(
        self, objective: Objective, model: str, *, seeds: Sequence[int] | None = None, **overrides: Any
    ) -> list[Trial]:
        """One setting, a trial a seed; `seeds` take the place of the sweep's own."""
        return [
            self.task.trial(
                objective,
                model,
                seed=seed,
                fidelity=self.options.fidelity,
                **{**self.options.overrides(objective), **overrides},
            )
            for seed in seeds or self.options.seeds_of(self.task)
        ]

    def add(
        self,
        what: str,
        choices: Sequence[Choice],
        trials: Callable[..., list[Trial]],
        *,
        stand_ins: Sequence[Any] = (),
        shared: bool = False,
    ) -> list[Trial]:
        """Adds `trials(*values of the choices)` once all are made; says what they wait for, or why they will not come.

        `stand_ins` take the place of values that are not chosen yet, to tell how many trials follow and how long they
        take; `shared` says that the plan has these trials already, whatever is chosen.
        """
        refused = [choice for choice in choices if not choice.is_made and not choice.pending]
        pending = [choice for choice in choices if choice.pending]
        if refused:
            told = f"{refused[0].why}{self.too_short()} {refused[0].next}".rstrip()
            reason = f"{what} on {self.task.name}: no {refused[0].what}. {told}"
            if reason not in self.plan.stopped:
                self.plan.stopped.append(reason)
            return []
        if pending:
            values = [
                choice.value if choice.is_made else stand_in
                for choice, stand_in in zip(choices, stand_ins or [None] * len(choices), strict=True)
            ]
            expected = trials(*values)
            self.plan.postponed.append(
                LaterTrials(
                    what=f"{what} on {self.task.name}",
                    num_trials=0 if shared else len(expected),
                    num_shared=len(expected) if shared else 0,
                    needs=pending[0].what,
                    like=expected[0],
                )
            )
            return []
        named = trials(*(choice.value for choice in choices))
        self.plan.trials += named
        return named

    def needed(self, rule: SelectionRule, settings: Sequence[list[Trial]]) -> list[Trial]:
        """The trials that a choice among settings needs, of each its trials by seed: all of them, or by evidence.

        Where more may be needed, the plan says so.
        """
        seeds = self.options.seeds
        if not isinstance(seeds, SeedsByEvidence):
            return [trial for setting in settings for trial in setting]
        scores, ratios, ended = _seen(self.results, rule, settings)
        target, slack = (
            settings[0][0].p_target or 0.0,
            (rule.tolerance or 0.0) + 5e-5,
        )  # the rule rounds to basis points
        beyond = None if rule.tolerance is None else [ratios - target - slack, target - ratios - slack]
        found = race(scores, beyond, has_ended=ended, first=seeds.first)
        num_left = int((len(settings[0]) - found.asked)[found.in_race].sum())
        if num_left:
            like = settings[0][0]
            what, needs = f"More seeds of {like.model} on {like.task}", f"evidence of the first seeds of {like.model}"
            self.plan.postponed.append(LaterTrials(what=what, num_trials=num_left, needs=needs, like=like))
        return [trial for setting, number in zip(settings, found.asked, strict=True) for trial in setting[:number]]

    def too_short(self) -> str:
        """A word where the reason that nothing can be chosen may be that the trials were too short."""
        own = self.task.trial("re", self.task.teacher, seed=0, fidelity=self.options.fidelity).epochs
        if self.options.epochs is None or self.options.epochs >= own:
            return ""
        return (
            f" These trials have {self.options.epochs} of the task's {own} epochs (--epochs), which may be too few to learn "
            "what to select at all."
        )


def rows_of(results: pd.DataFrame, trials: Iterable[Trial]) -> pd.DataFrame:
    """The rows of these trials that have ended."""
    rows = results[results["digest"].isin([trial.digest for trial in trials])]
    return rows[rows["status"] != "failed"]


def _seen(
    results: pd.DataFrame, rule: SelectionRule, settings: Sequence[list[Trial]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and ratios of settings (rows) by seed, missing where a run has no result, and which runs have ended."""
    rows = rows_of(results, [trial for setting in settings for trial in setting]).set_index("digest")
    ok = rows[rows["status"] == "ok"]
    digests = [trial.digest for setting in settings for trial in setting]
    shape = len(settings), len(settings[0])
    scores, ratios = (
        ok[name].reindex(digests).to_numpy(dtype=float).reshape(shape) for name in (rule.score, "dev_rationale_ratio")
    )
    sign = -1 if rule.highest else 1
    return sign * scores, ratios, np.array([digest in rows.index for digest in digests]).reshape(shape)


def choose_lambda(stage: Stage, candidates: list[Trial], *, model: str) -> Choice:
    """The lambda_select of a model by rule (C.1), once every candidate has ended."""
    rule = lambda_rule(stage.options.tolerance)
    return _by_rule(rule, stage, candidates, model, f"lambda_select of {model} on {stage.task.name}")


def choose_alpha(stage: Stage, candidates: list[Trial], *, model: str) -> Choice:
    """The alpha of a student by rule (C.2), once every candidate has ended."""
    return _by_rule(alpha_rule(), stage, candidates, model, f"alpha of {model} on {stage.task.name}")


def choose_teacher(stage: Stage, candidates: list[Trial]) -> Choice:
    """The digest of the teacher: by rule once every candidate has ended, or that of `--teacher-seed` as soon as it has.

    Raises ValueError where no candidate has that seed.
    """
    what, seed = f"teacher of {stage.task.name}", stage.options.teacher_seed
    if seed is None:
        return _by_rule(teacher_rule(stage.options.tolerance), stage, candidates, stage.task.teacher, what)
    asked = [trial for trial in candidates if trial.seed == seed]
    if not asked:
        seeds = ", ".join(str(trial.seed) for trial in candidates)
        raise ValueError(f"--teacher-seed {seed} is none of the teacher's seeds on {stage.task.name}: {seeds}.")
    return _once_ended(stage, asked[0], what, why="asked for by --teacher-seed")


def _once_ended(stage: Stage, trial: Trial, what: str, *, why: str) -> Choice:
    """The choice of a trial's digest, once it has a result."""
    rows = rows_of(stage.results, [trial])
    if rows.empty:
        return Choice(pending=True, what=what, why=f"The trial of seed {trial.seed} has not ended")
    if rows.iloc[0]["status"] == "ok":
        return Choice(value=trial.digest, what=what, why=why)
    return Choice(what=what, why=f"The trial of seed {trial.seed} {rows.iloc[0]['status']}: {rows.iloc[0]['error']}.")


def _by_rule(rule: SelectionRule, stage: Stage, candidates: list[Trial], model: str, what: str) -> Choice:
    """What a rule chooses among trials that are alike but for what is chosen, once every one has ended."""
    rows = rows_of(stage.results, candidates)
    if len(rows) < len(candidates):
        return Choice(pending=True, what=what, why=f"{len(rows)} of {len(candidates)} trials have ended")
    rows = with_settings(rows, teachers=stage.results)  # each may have a teacher of its own seed
    # Numbers that move over the run are groups of their own; the best of all is the choice.
    chosen = choices(rule, rows).sort_values(rule.score, ascending=not rule.highest, kind="stable").iloc[0]
    value = chosen["digest" if rule.picks_a_run else rule.chosen]
    if pd.isna(value):
        advice = advise(rule, judged(rule, rows))
        told = f"{advice.why} Next: {next_command(stage.options, stage.task, model, advice)}"
        return Choice(what=what, why=str(chosen["why"]), next=told, advice=advice, nearest=_nearest(rule, rows, chosen))
    value = str(value) if rule.picks_a_run else _in_a_grid(chosen, rule.chosen)
    return Choice(value=value, what=what, why=str(chosen["why"]))


def _in_a_grid(chosen: pd.Series, name: str) -> float | str:
    """The value of a field as a grid has it: a number, or the way of one that moves."""
    schedule = chosen.get(f"{name}_schedule", CONSTANT)
    moves = None if pd.isna(schedule) else Schedule.read(str(schedule), name)
    return float(chosen[name]) if moves is None else str(Move(last=float(chosen[name]), schedule=moves))


def _nearest(rule: SelectionRule, rows: pd.DataFrame, chosen: pd.Series) -> Any:
    """The value, or the digest of the run, that came nearest to `p_target`; None where none has a result."""
    value = chosen.get(f"nearest_{rule.chosen}")
    if value is None or pd.isna(value):
        return None
    return rows.loc[rows["seed"] == value, "digest"].iloc[0] if rule.picks_a_run else float(value)


def lambda_trials(stage: Stage, model: str, lambdas: Sequence[float]) -> list[Trial]:
    """RE of a model over lambda_select, with the seeds that the choice needs, all at the task's p_target.

    Table 5 tunes BERT Small at 10 %; only its later RE runs are at 9.5 %.
    """
    overrides = {name: stage.task.defaults[name] for name in ("p_target",) if name in stage.task.defaults}
    settings = [stage.trials("re", model, lambda_select=value, **overrides) for value in lambdas]
    return stage.needed(lambda_rule(stage.options.tolerance), settings)


def add_staged(stage: Stage, model: str) -> None:
    """Adds CLS of a model and, once a seed's has ended, RE of that seed on what is most salient to it (Jain et al. 2020)."""
    for classifier in stage.trials("cls", model):
        what = f"classifier of {model} on {stage.task.name} of seed {classifier.seed}"
        choice = _once_ended(stage, classifier, what, why="of the same seed")

        def trials(digest: str, seed: int = classifier.seed) -> list[Trial]:
            return stage.trials("re", model, seeds=[seed], estimator="saliency", encoder=None, teacher_digest=digest)

        stage.plan.trials.append(classifier)
        stage.add(f"RE of {model} by saliency, seed {classifier.seed}", [choice], trials, stand_ins=["not ended yet"])


def add_teacher(stage: Stage, **overrides: Any) -> Choice:
    """Adds RE of the teacher's model, a trial a seed, and chooses among them."""
    seeds = stage.options.teacher_seeds_of(stage.task)
    candidates = stage.trials("re", stage.task.teacher, seeds=seeds, **overrides)
    stage.plan.trials += candidates
    return choose_teacher(stage, candidates)


def add_alphas(stage: Stage, teacher: Choice, student: str, alphas: Sequence[float | str], **overrides: Any) -> Choice:
    """Adds REKD of a student over alpha, once its teacher is chosen, with the seeds that the choice needs; and chooses.

    By evidence the choice gets all seeds, which RE has too.
    """
    if not teacher.is_made:
        for alpha in alphas:
            add_distilled(stage, teacher, student, alpha=alpha, **overrides)
        return Choice(pending=teacher.pending, what=f"alpha of {student} on {stage.task.name}", why=teacher.why)
    how = {"teacher_digest": teacher.value, **overrides}
    tuning = stage.needed(alpha_rule(), [stage.trials("rekd", student, alpha=alpha, **how) for alpha in alphas])
    stage.plan.trials += tuning
    chosen = choose_alpha(stage, tuning, model=student)
    if chosen.is_made and isinstance(stage.options.seeds, SeedsByEvidence):
        stage.plan.trials += stage.trials("rekd", student, alpha=chosen.value, **how)
    return chosen


def add_distilled(stage: Stage, teacher: Choice, student: str, **overrides: Any) -> list[Trial]:
    """Adds REKD of a student, a trial a seed, once its teacher is chosen."""

    def trials(teacher_digest: str) -> list[Trial]:
        return stage.trials("rekd", student, teacher_digest=teacher_digest, **overrides)

    return stage.add(f"REKD of {student}", [teacher], trials, stand_ins=["not chosen yet"])


def add_taught_by_own_seed(stage: Stage, student: str, **overrides: Any) -> None:
    """Adds REKD of a student in which each seed learns from the teacher's trial of that seed, as the authors tried too."""
    for teacher in stage.trials("re", stage.task.teacher):
        what = f"teacher of {stage.task.name} of each seed"
        choice = _once_ended(stage, teacher, what, why="of the same seed")
        of_seed = {"seeds": [teacher.seed], **overrides}
        stage.plan.trials += [] if teacher in stage.plan.trials else [teacher]
        stage.add(
            f"REKD of {student} by the teacher of its seed",
            [choice],
            lambda digest, how=of_seed: stage.trials("rekd", student, teacher_digest=digest, **how),
            stand_ins=["not chosen yet"],
        )


def add_taught_by_all(stage: Stage, student: str, **overrides: Any) -> None:
    """Adds REKD of a student that learns from the teacher's trials of all seeds, averaged."""
    teachers = stage.trials("re", stage.task.teacher, seeds=stage.options.teacher_seeds_of(stage.task))
    stage.plan.trials += [teacher for teacher in teachers if teacher not in stage.plan.trials]
    what = f"teacher of {stage.task.name} of every seed"
    stage.add(
        f"REKD of {student} by all teachers",
        [_once_ended(stage, teacher, what, why="one of several") for teacher in teachers],
        lambda *digests: stage.trials("rekd", student, **taught_by(dict.fromkeys(digests, 1.0)), **overrides),
        stand_ins=[f"not-ended-{teacher.seed}" for teacher in teachers],
    )
