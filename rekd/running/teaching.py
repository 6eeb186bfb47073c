"""Who teaches a trial, heard in its student's features."""

from collections.abc import Iterator

import numpy as np
import torch

from rekd.method.models import RationaleModel
from rekd.method.places import Grid
from rekd.method.teacher import Targets, Teacher, Teachers
from rekd.running.supplies import Supplies
from rekd.store.ledger import Ledger
from rekd.tasks.data import Data
from rekd.tasks.task import Task
from rekd.trial import Trial


def teacher_of(trial: Trial, task: Task, supplies: Supplies, student: RationaleModel) -> Teacher | Teachers | None:
    """The teacher that a trial hears, or its several ones as one. Raises ValueError where they cannot teach its student."""
    if trial.objective != "rekd":
        return None
    teachers = [_teacher(trial, digest, task, supplies, student) for digest in trial.teachers]
    return teachers[0] if len(teachers) == 1 else Teachers(teachers, list(trial.teachers.values()))


def _teacher(trial: Trial, digest: str, task: Task, supplies: Supplies, student: RationaleModel) -> Teacher:
    student_mask = trial.teacher_sees == "student_mask"
    augmented = task.teacher_mode(trial) == "live"
    own, grid = supplies.grid(digest), student.predictor.backbone.grid
    targets = _targets(trial, digest, task, supplies, student)
    views = supplies.view_targets(task, digest, num) if (num := task.num_view_epochs(trial)) else ()
    return Teacher(
        targets,
        model=supplies.teacher(digest) if student_mask or augmented else None,
        student_mask=student_mask,
        augmented=augmented,
        views=[_on_grid(one, own, grid) for one in views],
        grids=None if own is None or grid is None or own == grid else (own, grid),
        device=supplies.device,
    )


def _targets(trial: Trial, digest: str, task: Task, supplies: Supplies, student: RationaleModel) -> Targets:
    """What a teacher says of the task's pool, in the student's features."""
    targets = _on_grid(supplies.targets(task, digest), supplies.grid(digest), student.predictor.backbone.grid)
    num_features = student.num_features(supplies.data(task).pool.arrays)
    if not targets.selects and trial.distils != "prediction":
        raise ValueError(
            f"The teacher {digest} is a plain classifier without rationales. Choose an RE trial, or distil its predictions "
            "alone: distils = 'prediction'."
        )
    if targets.selects and targets.selection_difference.shape[1] != num_features:
        raise ValueError(
            f"The teacher {digest} selects among {targets.selection_difference.shape[1]} features, the student {trial.model} "
            f"among {num_features}, and no mapping is known. Choose a teacher that was trained on this task's samples."
        )
    return targets


def _on_grid(targets: Targets, own: Grid | None, grid: Grid | None) -> Targets:
    """Maps targets to the cells of the student's grid; texts have none."""
    return targets if own is None or grid is None else targets.on_grid(own, grid)


def teacher_masks(
    trial: Trial,
    task: Task,
    supplies: Supplies,
    student: RationaleModel,
    rows: np.ndarray,
    *,
    sampled_by: torch.Generator | None,
) -> Iterator[np.ndarray]:
    """The rationales of each teacher that has any, of some samples of the pool, in the student's features."""
    for digest in trial.teachers:
        targets = _targets(trial, digest, task, supplies, student)
        if targets.selects:
            yield targets.masks(rows, sampled_by=sampled_by)


def teacher_train_share(trial: Trial, data: Data, dev_indices: np.ndarray, supplies: Supplies) -> float | None:
    """Share of the dev split that a teacher was trained on, the largest; None where the ledger knows none of them."""
    rows = Ledger(supplies.store).trials(list(trial.teachers)).select(["split", "seed"]).to_pylist()
    shares = [float(np.isin(dev_indices, data.train_dev(row["split"], row["seed"])[0]).mean()) for row in rows]
    return max(shares, default=None)
