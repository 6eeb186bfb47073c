"""What a sweep writes, before it does."""

import pandas as pd
import pytest

from rekd.running.estimate import COLUMNS, Estimator
from rekd.running.written import written
from rekd.tasks.task import load_task

NOTHING = pd.DataFrame(columns=list(COLUMNS))


def test_checkpoints_are_sixteen_bytes_a_parameter_and_epoch_and_models_four():
    task = load_task("cifar10")
    trial = task.trial("re", "vit-small", seed=1, epochs=20)
    estimator = Estimator(NOTHING, [task], device="cuda")
    parameters = estimator.num_parameters(trial)
    assert parameters == pytest.approx(2 * 21.6e6, rel=0.02)  # ViT-Small's encoder has 21.6 million
    found = written([(trial, 3)], estimator)
    assert (found.checkpoints, found.largest, found.models) == (960 * parameters, 16 * parameters, 12 * parameters)
    by_time = written([(trial, 3)], estimator, checkpoint_every=estimator.seconds(trial).expected / 5)
    assert by_time.checkpoints == pytest.approx(found.checkpoints / 4)
    assert written([(trial, 3)], estimator, checkpoint_every=1e-3) == found


def test_parameters_that_the_ledger_knows_are_taken_from_it():
    task = load_task("digits")
    trial = task.trial("cls", "vit-student", seed=1)
    kind = {"task_digest": trial.task_digest, "model_digest": trial.model_digest, "objective": "cls"}
    estimator = Estimator(pd.DataFrame([kind | {"num_parameters": 1234}]), [task], device="cpu")
    assert estimator.num_parameters(trial) == 1234
    assert estimator.num_parameters(task.trial("re", "vit-student", seed=1)) != 1234
