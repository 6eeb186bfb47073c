"""What becomes of a trained model's row: its best epoch's dev values as they were recorded, and what the test split says."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rekd.messages import one_line
from rekd.method.budgets import budget_curve
from rekd.method.evaluate import (
    Predictions,
    faithfulness,
    masks_of,
    measures,
    overlap,
    predictions,
    rationale_noise,
    tested,
)
from rekd.method.models import RationaleModel
from rekd.method.samples import DeviceSamples
from rekd.method.streams import Streams
from rekd.method.train import TrainResult
from rekd.running.supplies import Supplies
from rekd.running.teaching import teacher_masks, teacher_train_share
from rekd.store.ledger import Outcome
from rekd.tasks.data import Data
from rekd.tasks.task import Task
from rekd.tasks.truth import Truth, agreement, auprc
from rekd.trial import Trial

NOTHING = 0.1
"""Share of `p_target` below which a rationale ratio is as good as none."""


@dataclass(frozen=True)
class Examination:
    """The examination of a trial's trained model."""

    trial: Trial
    task: Task
    data: Data
    dev_indices: np.ndarray
    """The samples of `data.pool` that are the trial's dev split."""
    streams: Streams
    supplies: Supplies

    def outcome(self, result: TrainResult) -> Outcome:
        """Tests the best version of a run, and stores what it says of the test split. A run that diverged is not tested."""
        parameters = sum(parameter.numel() for parameter in result.model.parameters() if parameter.requires_grad)
        outcome = Outcome(
            status="diverged" if result.diverged else "ok",
            error=result.diverged,
            best_epoch=result.best_epoch,
            num_epochs=len(result.records),
            num_parameters=parameters,
            train_seconds=result.seconds,
            attempt=result.records[-1]["attempt"],
        )
        if result.diverged or result.best_epoch is None:
            return outcome
        best = result.records[result.best_epoch - 1]
        return replace(
            outcome,
            num_features=result.model.num_features(self.data.test.arrays),
            **{f"num_{name}_in_train": count for name, count in self._counts_in_train().items()},
            **{f"dev_{name}": best[f"dev_{name}"] for name in ("loss", "accuracy", "rationale_ratio", "token_ratio")},
            **self._of_test(result.model),
            **self._of_teacher(result.model),
        )

    def _counts_in_train(self) -> dict[str, int]:
        return self.data.in_train(self.trial.split, self.trial.seed)

    def _of_test(self, model: RationaleModel) -> dict[str, Any]:
        """Loss, accuracy and ratios on the test split, and what is said of the rationales there."""
        trial, device, arrays = self.trial, self.supplies.device, self.data.test.arrays
        samples = DeviceSamples(self.data.test, device)
        found = tested(model, samples, trial, streams=self.streams)
        found.kept().save(self.supplies.store, trial.digest)
        test = measures(found, trial)
        noise = rationale_noise(trial, device=device)
        measured = faithfulness(model, arrays, device=device, sampled_by=noise)
        names = ("loss", "accuracy", "rationale_ratio", "token_ratio")
        values = {f"test_{name}": test[name] for name in names} | {f"test_{name}": n for name, n in measured.items()}
        if trial.objective == "cls":
            return values
        values |= self._of_rationales(model, found)
        return values | self._of_budgets(model, samples, found, str(values.get("warning", "")))

    def _of_budgets(
        self, model: RationaleModel, samples: DeviceSamples, found: Predictions, warning: str
    ) -> dict[str, Any]:
        """Accuracy at exact budgets. It may fail, not the trial: then there is a word beside the `warning` of before."""
        assert self.trial.p_target is not None  # `Trial` asks re and rekd for it
        try:
            return dict(budget_curve(model.predictor, samples, found, p_target=self.trial.p_target))
        except Exception as error:
            failed = f"Its accuracy at exact budgets could not be measured: {one_line(error)}"
            return {"warning": " ".join(filter(None, (warning, failed)))}

    def _of_rationales(self, model: RationaleModel, found: Predictions) -> dict[str, Any]:
        """Both ratios on both splits, agreement with the truth where it is known, and a warning."""
        p_target = self.trial.p_target
        of_dev = predictions(model, DeviceSamples(self.data.pool, self.supplies.device, self.dev_indices))
        values: dict[str, Any] = {f"test_{name}_ratio": value for name, value in found.ratios.items()}
        values |= {f"dev_{name}_ratio": value for name, value in of_dev.ratios.items()}
        if self.data.test.truth is not None:
            values |= _agreement(model, found, self.data.test.truth)
        assert p_target is not None  # `Trial` asks re and rekd for it
        if values["dev_argmax_ratio"] < NOTHING * p_target:
            values["warning"] = (
                f"It selects (almost) nothing on dev: {values['dev_argmax_ratio']:.1%} of features by argmax, "
                f"{values['dev_expected_ratio']:.1%} when sampled, of {p_target:.1%} aimed at."
            )
        return values

    def _of_teacher(self, model: RationaleModel) -> dict[str, Any]:
        """How far the rationales of the dev split are those of its teachers, on average; nothing where there is none."""
        trial, supplies, dev_indices = self.trial, self.supplies, self.dev_indices
        if trial.objective != "rekd":
            return {}
        dev = {name: array[dev_indices] for name, array in self.data.pool.arrays.items()}
        noise = rationale_noise(trial, device=supplies.device)
        mask, _ = masks_of(model, dev, device=supplies.device, sampled_by=noise)
        masks = teacher_masks(trial, self.task, supplies, model, dev_indices, sampled_by=noise)
        overlaps = [overlap(mask, teacher_mask) for teacher_mask in masks]
        share = teacher_train_share(trial, self.data, dev_indices, supplies)
        return {
            "dev_teacher_overlap": sum(overlaps) / len(overlaps) if overlaps else None,
            "dev_teacher_train_share": share,
        }


def _agreement(model: RationaleModel, found: Predictions, truth: Truth) -> dict[str, float]:
    """The measures of `rekd.tasks.truth` on the test split."""
    marks = truth.of_features(found.mask.shape[1], model.predictor.backbone.grid)[truth.known]
    mask = found.mask.bool().cpu().numpy()[truth.known]
    scores = found.selection_difference.cpu().numpy()[truth.known]
    values = agreement(mask, marks) | {"auprc": auprc(scores, marks)}
    return {f"test_rationale_{name}": value for name, value in values.items() if not math.isnan(value)}
