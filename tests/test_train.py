"""The training loop: bitwise repeatable, resumable after any epoch, and honest about how a run ended."""

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from rekd.method.evaluate import evaluate
from rekd.method.losses import Learner, losses
from rekd.method.run_state import is_better
from rekd.method.samples import DeviceSamples
from rekd.method.streams import Streams
from rekd.method.teacher import Teacher, compute_targets
from rekd.method.train import one_thread
from rekd.store.checkpoints import Checkpoints
from rekd.store.ledger import EPOCHS_SCHEMA

OBJECTIVES = ("cls", "re", "rekd")


def teacher_for(objective: str, teachers, family: str = "vit") -> Teacher | None:
    return teachers[family].for_training() if objective == "rekd" else None


# --- Repeating and resuming -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["vit", "bert"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_same_trial_twice_is_bitwise_the_same(objective, family, teachers):
    trial = tiny.trial(objective, model=family, epochs=2)
    first, second = (tiny.run(trial, teacher=teacher_for(objective, teachers, family)) for _ in range(2))
    assert first.numbers == second.numbers
    assert tiny.same_tensors(first.weights, second.weights)
    other = tiny.run(replace(trial, seed=4), teacher=teacher_for(objective, teachers, family))
    assert other.numbers != first.numbers


@pytest.mark.parametrize("stop_after", [1, 2, 3])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_stopped_after_any_epoch_ends_as_one_that_was_not(objective, stop_after, store, teachers):
    trial = tiny.trial(objective)
    whole = tiny.run(trial, teacher=teacher_for(objective, teachers))
    checkpoints = Checkpoints(store, trial.digest)
    stopped = tiny.run(trial, teacher=teacher_for(objective, teachers), checkpoints=checkpoints, stop_after=stop_after)
    resumed = tiny.run(trial, teacher=teacher_for(objective, teachers), checkpoints=checkpoints)

    assert stopped.records == resumed.records[:stop_after]  # yielded again, so that whoever collects them has all
    assert resumed.numbers == whole.numbers
    assert tiny.same_tensors(resumed.weights, whole.weights)
    assert resumed.result.best_epoch == whole.result.best_epoch
    assert [record["attempt"] for record in resumed.records] == [1] * stop_after + [2] * (3 - stop_after)


def test_a_process_killed_while_it_writes_costs_the_epoch_that_was_written_and_changes_nothing(store):
    """The second checkpoint never ends: one epoch more is lost than the one that was being trained."""

    class Killed(Checkpoints):
        def save(self, epoch: int, *arguments: Any) -> None:
            if epoch == 1:
                super().save(epoch, *arguments)

    trial = tiny.trial(epochs=4)
    whole = tiny.run(trial)
    tiny.run(trial, checkpoints=Killed(store, trial.digest), stop_after=2)
    resumed = tiny.run(trial, checkpoints=Checkpoints(store, trial.digest))
    assert [record["attempt"] for record in resumed.records] == [1, 2, 2, 2]
    assert resumed.numbers == whole.numbers
    assert tiny.same_tensors(resumed.weights, whole.weights)


def test_checkpoints_by_time_are_fewer_and_change_nothing(store):
    trial = tiny.trial(epochs=4)
    whole, checkpoints = tiny.run(trial), Checkpoints(store, trial.digest)
    tiny.run(trial, checkpoints=checkpoints, every=3600.0, stop_after=3)
    assert checkpoints.latest() is None
    resumed = tiny.run(trial, checkpoints=checkpoints, every=1e-6)
    assert checkpoints.latest()[1]["epoch"] == 4
    assert resumed.numbers == whole.numbers


@pytest.mark.parametrize("kind", ["named", "single", "order_apart"])
@pytest.mark.parametrize("augmentation", ["none", "crop_flip", "crop_flip_seeded"])
def test_resuming_puts_back_every_stream_and_the_optimizer(kind, augmentation, store):
    trial = tiny.trial(random_streams=kind, augmentation=augmentation, weight_decay=0.01)
    whole, checkpoints = tiny.run(trial), Checkpoints(store, trial.digest)
    for _ in range(2):  # stopped again, at the epoch after
        tiny.run(trial, checkpoints=checkpoints, stop_after=1)
    tiny.run(trial, checkpoints=checkpoints, stop_after=2)
    resumed = tiny.run(trial, checkpoints=checkpoints)
    assert resumed.numbers == whole.numbers
    assert tiny.same_tensors(resumed.weights, whole.weights)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_checkpoint_costs_an_epoch_and_changes_nothing(damage, store, caplog):
    trial = tiny.trial()
    whole, checkpoints = tiny.run(trial), Checkpoints(store, trial.digest)
    tiny.run(trial, checkpoints=checkpoints, stop_after=2)
    newest = Path(checkpoints.folder) / "epoch-00002.safetensors"
    content = newest.read_bytes()
    middle = len(content) // 2
    half = content[:middle]
    newest.write_bytes(half if damage == "truncated" else half + bytes([content[middle] ^ 1]) + content[middle + 1 :])

    with caplog.at_level(logging.WARNING):
        resumed = tiny.run(trial, checkpoints=checkpoints)
    assert "is damaged" in caplog.text
    assert resumed.numbers == whole.numbers
    assert tiny.same_tensors(resumed.weights, whole.weights)
    assert [record["attempt"] for record in resumed.records] == [1, 2, 2]


def without(name):
    return lambda tensors, state: tensors.pop(name)


MISFITS = {
    "it lacks model.": lambda tensors, state: tensors.pop(min(name for name in tensors if name.startswith("model."))),
    "it lacks best.": lambda tensors, state: tensors.pop(min(name for name in tensors if name.startswith("best."))),
    "it lacks optimizer.0.exp_avg": without("optimizer.0.exp_avg"),
    "it lacks stream.global.cpu": without("stream.global.cpu"),
    "it has model.other": lambda tensors, state: tensors.update({"model.other": torch.zeros(2)}),
    "it has optimizer.9999.step": lambda tensors, state: tensors.update({"optimizer.9999.step": torch.zeros(())}),
    "it has stream.global.cuda": lambda tensors, state: tensors.update(
        {"stream.global.cuda": torch.zeros(16, dtype=torch.uint8)}
    ),
    "stream.student_noise is uint8 [16]": lambda tensors, state: tensors.update(
        {"stream.student_noise": torch.zeros(16, dtype=torch.uint8)}
    ),
    "optimizer.0.exp_avg is float32 [1]": lambda tensors, state: tensors.update(
        {"optimizer.0.exp_avg": torch.zeros(1)}
    ),
    "its state lacks step": lambda tensors, state: state.pop("step"),
    "its state has other": lambda tensors, state: state.update(other=1),
}


@pytest.mark.parametrize("why", MISFITS)
def test_a_checkpoint_that_does_not_fit_is_set_aside_and_the_run_begins_anew(why, store, caplog):
    trial = tiny.trial(epochs=2)
    whole, checkpoints = tiny.run(trial), Checkpoints(store, trial.digest)
    tiny.run(trial, checkpoints=checkpoints, stop_after=1)
    newest = checkpoints.latest()
    assert newest is not None
    tensors, state = newest
    MISFITS[why](tensors, state)
    checkpoints.save(1, tensors, state)

    with caplog.at_level(logging.WARNING):
        again = tiny.run(trial, checkpoints=checkpoints)
    assert f"does not fit ({why}" in caplog.text
    assert len(store.names_in(store.set_aside_folder)) == 1
    assert [record["attempt"] for record in again.records] == [1, 1]
    assert again.numbers == whole.numbers
    assert tiny.same_tensors(again.weights, whole.weights)


def test_a_run_beside_others_is_the_same_run(image_teacher):
    """Interleaved with another, epoch by epoch, and with a caller who draws random numbers of its own."""
    trials = [tiny.trial(seed=seed) for seed in (3, 4)]
    alone = [tiny.run(trial) for trial in trials]
    beside = [tiny.begun(trial) for trial in trials]
    for _ in range(4):
        for steps, _ in beside:
            next(steps, None)
            torch.rand(7)
    for (_, model), run in zip(beside, alone, strict=True):
        assert tiny.same_tensors(model.state_dict(), run.weights)


# --- What is learned ------------------------------------------------------------------------------------------------


def test_a_toy_problem_is_learned_from_the_pixels_that_hold_it():
    run = tiny.run(tiny.trial(epochs=25, learning_rate=5e-3, p_target=0.25), pool=tiny.images(256))
    assert run.records[0]["dev_accuracy"] < 0.8  # by chance 0.5
    assert run.records[-1]["dev_accuracy"] > 0.95
    assert abs(run.records[-1]["train_rationale_ratio"] - 0.25) < 0.1

    unseen = tiny.images(64, seed=1)
    with torch.no_grad():
        mask = run.model.predict({"image": torch.from_numpy(unseen.arrays["image"])}).mask
    how_often = mask.mean(dim=0)
    told = torch.isin(torch.arange(16), torch.tensor([5, 10]))
    assert how_often[told].max() > 0.6  # one of the two is enough
    assert how_often[~told].mean() < 0.2


def test_with_alpha_1_rekd_takes_the_steps_of_re(image_teacher):
    re = tiny.run(tiny.trial())
    rekd = tiny.run(tiny.trial("rekd", alpha=1.0), teacher=image_teacher.for_training())
    assert tiny.same_tensors(re.weights, rekd.weights)
    shared = [name for name in re.numbers[0] if name in rekd.numbers[0]]
    assert [[record[name] for name in shared] for record in re.numbers] == [
        [record[name] for name in shared] for record in rekd.numbers
    ]
    assert rekd.records[0]["train_rationale_distillation_loss"] > 0  # measured, without weight
    mixed = tiny.run(tiny.trial("rekd", alpha=0.99), teacher=image_teacher.for_training())
    assert not tiny.same_tensors(re.weights, mixed.weights)


def test_with_alpha_0_training_does_not_see_the_labels(image_teacher):
    pool = tiny.images()
    wrong = replace(pool, labels=1 - pool.labels)
    for alpha, blind in ((0.0, True), (0.3, False)):
        trial = tiny.trial("rekd", alpha=alpha, epochs=1)
        runs = [tiny.run(trial, pool=each, teacher=image_teacher.for_training()) for each in (pool, wrong)]
        assert tiny.same_tensors(runs[0].weights, runs[1].weights) == blind


def test_a_student_with_alpha_0_comes_to_agree_with_its_teacher(image_teacher):
    inputs = {"image": torch.from_numpy(tiny.images().arrays["image"])}
    teacher_mask = torch.from_numpy(image_teacher.targets.selection_difference > 0)
    trial = tiny.trial("rekd", alpha=0.0, epochs=12, learning_rate=5e-3)
    untrained = tiny.model_for(trial, Streams(trial.seed, device=tiny.CPU)).eval()
    taught = tiny.run(trial, teacher=image_teacher.for_training()).model
    with torch.no_grad():
        before, after = (
            (model.predict(inputs).mask.bool() == teacher_mask).double().mean() for model in (untrained, taught)
        )
    assert after > 0.8
    assert after > before + 0.2


def test_lambda_select_0_lets_the_ratio_go_and_a_large_one_holds_it():
    ratios = {}
    for lambda_select in (0.0, 1.0):
        trial = tiny.trial(epochs=10, learning_rate=5e-3, p_target=0.25, lambda_select=lambda_select)
        ratios[lambda_select] = tiny.run(trial).records[-1]["train_rationale_ratio"]
    assert abs(ratios[1.0] - 0.25) < 0.1 < abs(ratios[0.0] - 0.25)


# --- Records --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_record_is_a_row_of_epochs(objective, teachers):
    run = tiny.run(tiny.trial(objective), teacher=teacher_for(objective, teachers))
    columns = set(EPOCHS_SCHEMA.names)
    assert all(set(record) <= columns for record in run.records)
    missing = columns - set(run.records[0]) - {"digest"}
    distillation = {"train_rationale_distillation_loss", "train_prediction_distillation_loss"}
    distillation |= {"train_alpha", "train_lambda_rationale"}
    selection = {"train_selection_loss", "train_rationale_ratio", "dev_selection_loss", "train_lambda_select"}
    assert missing == {"cls": distillation | selection, "re": distillation, "rekd": set()}[objective]
    assert [record["epoch"] for record in run.records] == [1, 2, 3]
    assert [record["step"] for record in run.records] == [3, 6, 9]  # 96 samples, 32 a step


def test_losses_are_reported_as_they_add_up(image_teacher):
    trial = tiny.trial("rekd", epochs=1, batch_size=96, learning_rate=1e-9)  # one step, that changes nothing
    record = tiny.run(trial, teacher=image_teacher.for_training()).records[0]
    l_re = record["train_prediction_loss"] + 0.1 * record["train_selection_loss"]
    l_kd = (
        0.5 * record["train_rationale_distillation_loss"]
        + record["temperature"] ** 2 * record["train_prediction_distillation_loss"]
    )
    assert record["train_loss"] == pytest.approx(0.3 * l_re + 0.7 * l_kd, rel=1e-5)
    assert record["dev_loss"] == pytest.approx(record["dev_prediction_loss"] + 0.1 * record["dev_selection_loss"])


def test_the_temperature_falls_over_the_whole_run():
    run = tiny.run(tiny.trial(epochs=3))
    temperatures = [record["temperature"] for record in run.records]  # of each epoch's last step
    expected = [5.0 * math.exp(-math.log(5.0 / 0.1) * step / 9) for step in (2, 5, 8)]
    assert temperatures == pytest.approx(expected)
    held = tiny.run(tiny.trial(epochs=3, temperature_every=100))
    assert [record["temperature"] for record in held.records] == [5.0] * 3
    assert tiny.run(tiny.trial("cls", epochs=1)).records[0]["temperature"] is None


def test_a_last_smaller_batch_is_a_step_of_the_temperatures_fall():
    """99 samples are three batches of 32 and one of 3: K of Eq. 10 is 4 an epoch."""
    run = tiny.run(tiny.trial(epochs=2), pool=tiny.images(132))
    assert [record["step"] for record in run.records] == [4, 8]
    expected = [5.0 * math.exp(-math.log(5.0 / 0.1) * step / 8) for step in (3, 7)]
    assert [record["temperature"] for record in run.records] == pytest.approx(expected)


@pytest.mark.parametrize("family", ["vit", "bert"])
def test_weights_decay_beside_the_gradient(family):
    """AdamW's first step without decay, less a share of each weight: the decay is no part of the gradient."""
    trial = tiny.trial(model=family, epochs=1, batch_size=96, weight_decay=0.0)
    start = tiny.model_for(trial, Streams(trial.seed, device=tiny.CPU)).state_dict()
    plain, decayed = (tiny.run(each).weights for each in (trial, replace(trial, weight_decay=0.5)))
    trained = [name for name, value in start.items() if not torch.equal(value, plain[name])]
    assert len(trained) > 30
    for name in trained:
        torch.testing.assert_close(decayed[name], plain[name] - 1e-3 * 0.5 * start[name], rtol=0, atol=2e-7)
    largest = max(start[name].abs().max().item() for name in trained)
    assert 1e-3 * 0.5 * largest > 2e-5


def test_a_teacher_goes_with_rekd_and_with_nothing_else(image_teacher):
    with pytest.raises(ValueError, match="A teacher is needed by objective 'rekd' and by no other, got 'rekd'"):
        tiny.run(tiny.trial("rekd"))
    with pytest.raises(ValueError, match="got 're'"):
        tiny.run(tiny.trial("re"), teacher=image_teacher.for_training())


# --- Evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("global_stream_is_untouched")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mask", ["argmax", "sampled", "sampled_everywhere"])
def test_evaluate_leaves_everything_as_it_was(mask, training):
    model = tiny.build("vit").train(training)
    trial = tiny.trial(evaluation_mask=mask)
    streams = Streams(3, device=tiny.CPU)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = {name: value.clone() for name, value in streams.state().items()}
    samples = DeviceSamples(tiny.images(), tiny.CPU)

    first, second = (evaluate(model, samples, trial, streams=streams) for _ in range(2))
    assert first == second  # no dropout, and the same noise
    assert tiny.same_tensors(model.state_dict(), weights)
    assert tiny.same_tensors(streams.state(), before)
    assert all(module.training == training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    trained = tiny.run(tiny.trial(epochs=1))
    assert not tiny.same_tensors(
        trained.weights, tiny.model_for(tiny.trial(), Streams(3, device=tiny.CPU)).state_dict()
    )


def train_losses(run: tiny.Run) -> list[float]:
    return [record["train_loss"] for record in run.records]


def test_looking_at_the_dev_split_does_not_move_training(monkeypatch):
    """An evaluation that draws random numbers, one that draws none: the same training. Were they training's own, another."""
    looks_on = train_losses(tiny.run(tiny.trial()))
    assert train_losses(tiny.run(tiny.trial(evaluation_mask="sampled"))) == looks_on
    monkeypatch.setattr(Streams, "evaluation_noise", lambda streams: streams.student_noise)
    assert train_losses(tiny.run(tiny.trial(evaluation_mask="sampled"))) != looks_on


@pytest.mark.parametrize("family", ["vit", "bert"])
def test_evaluation_is_the_mean_over_samples_and_not_over_batches(family):
    """300 samples do not divide into batches of 256."""
    model, pool, trial = tiny.build(family), tiny.SAMPLES[family](300), tiny.trial(model=family)
    result = evaluate(model, DeviceSamples(pool, tiny.CPU), trial, streams=Streams(3, device=tiny.CPU))
    inputs, labels = (
        {name: torch.from_numpy(array) for name, array in pool.arrays.items()},
        torch.from_numpy(pool.labels),
    )
    with torch.no_grad():
        prediction = model.predict(inputs)
    count, length = prediction.mask.sum(dim=1), prediction.mask.shape[1]
    l_pred = torch.nn.functional.cross_entropy(prediction.logits, labels).item()
    l_select = (count - 0.15 * length).square().mean().item()
    assert result["prediction_loss"] == pytest.approx(l_pred, rel=1e-5)
    assert result["selection_loss"] == pytest.approx(l_select, rel=1e-5)
    assert result["loss"] == pytest.approx(l_pred + 0.1 * l_select, rel=1e-5)
    assert result["accuracy"] == pytest.approx((prediction.logits.argmax(-1) == labels).double().mean().item())
    assert result["rationale_ratio"] == pytest.approx((count / length).mean().item(), rel=1e-5)
    valid = inputs.get("valid", torch.ones_like(prediction.mask))
    ratio = (prediction.mask * valid).sum(1) / valid.sum(1)
    assert result["token_ratio"] == pytest.approx(ratio.mean().item(), rel=1e-5)
    assert (result["token_ratio"] == result["rationale_ratio"]) == (family == "vit")


@pytest.mark.parametrize("fidelity", ["paper", "authors"])
@pytest.mark.parametrize("objective", ["cls", "re", "rekd"])
@pytest.mark.parametrize("family", ["vit", "bert"])
def test_evaluate_has_the_loss_of_training_on_the_same_masks(family, objective, fidelity, teachers, monkeypatch):
    """Dev loss selects everything: it is L_RE (footnote 3), by the very terms that training minimises."""
    trial = tiny.trial(objective, model=family, fidelity=fidelity, augmentation="none", dropout=0.0)
    streams = Streams(3, device=tiny.CPU)
    model = tiny.build(family, objective, num_classes=2, heads=trial.heads)
    teacher = teachers[family].for_training() if objective == "rekd" else None
    samples = DeviceSamples(tiny.SAMPLES[family](32), tiny.CPU)
    learner = Learner.of(trial, model, streams=streams, teacher=teacher)

    # Both with the mask that argmax of the logits gives: training has no noise, and dev does not sample.
    monkeypatch.setattr("rekd.method.losses.gumbel_noise", lambda shape, **_: torch.zeros(shape))
    monkeypatch.setattr("rekd.method.models.gumbel_noise", lambda shape, **_: torch.zeros(shape))
    trained = losses(learner, samples.take(torch.arange(32)), None if objective == "cls" else 0.1)
    dev = evaluate(model, samples, trial, streams=streams)
    for term in set(trained) & set(dev) - {"loss"}:
        assert dev[term] == pytest.approx(trained[term].item(), rel=1e-5)
    l_re = trained["prediction_loss"]
    if objective != "cls":
        assert dev["selection_loss"] > 0
        l_re = l_re + trial.lambda_select * trained["selection_loss"]
    assert dev["loss"] == pytest.approx(l_re.item(), rel=1e-5)
    assert (dev["loss"] == pytest.approx(trained["loss"].item(), rel=1e-5)) == (objective != "rekd")


# --- The best epoch -------------------------------------------------------------------------------------------------


def best_of(losses: list[float], rule: str, objective: str = "re") -> int:
    best, epoch = None, 0
    for number, loss in enumerate(losses, 1):
        if is_better(loss, best, rule=rule, objective=objective):
            best, epoch = loss, number
    return epoch


def test_best_epoch_rules():
    losses = [0.9, 0.5004, 0.5001, 0.5001, 0.5003, 0.6]
    assert best_of(losses, "lowest") == 3  # unrounded, the earliest of two
    assert best_of(losses, "rounded_latest") == 5  # 0.500 to three decimals, the latest of four
    assert best_of([0.5, 0.5006], "rounded_latest") == 1  # 0.501 is worse
    for objective in ("re", "rekd"):
        assert best_of(losses, "logged_latest", objective) == 5
    assert best_of(losses, "logged_latest", "cls") == 4  # unrounded, the latest of two
    assert best_of(losses, "rounded_latest", "cls") == 5  # 0.1.0


@pytest.mark.parametrize("rule", ["lowest", "rounded_latest", "logged_latest"])
def test_the_best_version_is_the_one_that_is_returned(rule):
    trial = tiny.trial(epochs=5, learning_rate=0.02, best_epoch_rule=rule)
    run = tiny.run(trial)
    assert run.result.best_epoch == best_of([record["dev_loss"] for record in run.records], rule)
    pool = tiny.images()
    rows = np.arange(128)
    dev = DeviceSamples(pool, tiny.CPU, rows[rows % 4 == 0])
    again = evaluate(run.result.model, dev, trial, streams=Streams(3, device=tiny.CPU))
    best = run.records[run.result.best_epoch - 1]
    assert again["loss"] == best["dev_loss"]
    assert again["accuracy"] == best["dev_accuracy"]
    assert not run.result.model.training


# --- Runs that diverge ----------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_run_with_epoch_and_reason():
    run = tiny.run(tiny.trial(epochs=5, learning_rate=1e30))
    assert len(run.records) < 5
    assert run.result.diverged == f"train_loss was nan in epoch {len(run.records)}"
    assert not tiny.run(tiny.trial(epochs=1)).result.diverged


@pytest.mark.parametrize(("what", "lean"), [("nothing", -40.0), ("everything", 40.0)])
def test_a_generator_that_selects_nothing_or_everything_for_three_epochs_has_diverged(what, lean):
    run = tiny.run(tiny.trial(epochs=6, learning_rate=1e-9, temperature_initial=0.1), lean=lean)
    assert [record["train_rationale_ratio"] for record in run.records] == [float(what == "everything")] * 3
    assert run.result.diverged == f"the generator selected {what} in epochs 1 to 3"


def test_a_diverged_epoch_is_no_checkpoint_and_diverges_again(store):
    trial = tiny.trial(epochs=5, learning_rate=1e30)
    checkpoints = Checkpoints(store, trial.digest)
    first = tiny.run(trial, checkpoints=checkpoints)
    again = tiny.run(trial, checkpoints=checkpoints)
    assert first.result.diverged == again.result.diverged != ""


# --- Samples --------------------------------------------------------------------------------------------------------


def test_samples_are_taken_by_index():
    pool = tiny.texts(20)
    samples = DeviceSamples(pool, tiny.CPU, np.array([7, 3, 11]))
    batch = samples.take(torch.tensor([2, 0]))
    assert torch.equal(batch.inputs["input_ids"], torch.from_numpy(pool.arrays["input_ids"][[11, 7]]))
    assert batch.labels.tolist() == pool.labels[[11, 7]].tolist()
    assert batch.pool_rows.tolist() == [11, 7]
    assert len(samples) == 3


def test_on_a_cpu_a_run_takes_one_thread_and_gives_the_others_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread(tiny.CPU):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with one_thread(torch.device("meta")):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# --- Curricula and parts --------------------------------------------------------------------------------------------


def test_a_schedule_moves_training_and_leaves_dev_at_the_last_value(image_teacher):
    constant = tiny.trial("rekd", lambda_select=0.2)
    moving = replace(constant, alpha_schedule="linear from 1", lambda_select_schedule="step from 0 at 0.9")
    one, other = (tiny.run(trial, teacher=image_teacher.for_training()) for trial in (constant, moving))
    assert not tiny.same_tensors(one.weights, other.weights)
    alphas = [record["train_alpha"] for record in other.numbers]
    assert alphas == sorted(alphas, reverse=True)
    assert alphas[-1] == 0.3  # exactly, in the last step
    assert [record["train_lambda_select"] for record in other.numbers] == [0, 0, 0.2]
    assert {record["train_alpha"] for record in one.numbers} == {0.3}
    first = other.numbers[0]
    assert first["dev_loss"] == pytest.approx(first["dev_prediction_loss"] + 0.2 * first["dev_selection_loss"])
    assert first["train_loss"] != pytest.approx(first["train_prediction_loss"] + 0.2 * first["train_selection_loss"])


def test_a_stopped_run_goes_on_in_its_schedule(image_teacher, store):
    trial = tiny.trial("rekd", alpha_schedule="cosine from 0.9")
    whole = tiny.run(trial, teacher=image_teacher.for_training())
    checkpoints = Checkpoints(store, trial.digest)
    tiny.run(trial, teacher=image_teacher.for_training(), checkpoints=checkpoints, stop_after=2)
    resumed = tiny.run(trial, teacher=image_teacher.for_training(), checkpoints=checkpoints)
    assert resumed.numbers == whole.numbers
    assert tiny.same_tensors(resumed.weights, whole.weights)


def test_what_is_not_distilled_has_no_part_in_the_loss(image_teacher):
    """Predictions alone are lambda_rationale 0; rationales alone do not know what the teacher predicts."""
    both = tiny.trial("rekd", epochs=1, lambda_rationale=0.0)
    alone = replace(both, distils="prediction")
    runs = [tiny.run(trial, teacher=image_teacher.for_training()) for trial in (both, alone)]
    assert tiny.same_tensors(runs[0].weights, runs[1].weights)
    assert "train_rationale_distillation_loss" not in runs[1].numbers[0]

    rationale = tiny.trial("rekd", epochs=1, distils="rationale")
    silent = replace(image_teacher.targets, logits=image_teacher.targets.logits[:, ::-1].copy())
    of_one = tiny.run(rationale, teacher=image_teacher.for_training())
    of_other = tiny.run(rationale, teacher=Teacher(silent, device=tiny.CPU))
    assert tiny.same_tensors(of_one.weights, of_other.weights)
    assert not tiny.same_tensors(of_one.weights, runs[0].weights)
    (record,) = of_one.numbers
    l_re = record["train_prediction_loss"] + 0.1 * record["train_selection_loss"]
    assert record["train_loss"] == pytest.approx(0.3 * l_re + 0.7 * 0.5 * record["train_rationale_distillation_loss"])


def test_a_classifier_teaches_predictions(image_teacher):
    model = tiny.build("vit", "cls", num_classes=2, seed=5)
    teacher = Teacher(compute_targets(model, tiny.images().arrays, tiny.ASKED, device=tiny.CPU), device=tiny.CPU)
    trial = tiny.trial("rekd", epochs=1, lambda_rationale=0.0, distils="prediction")
    assert tiny.run(trial, teacher=teacher).numbers[0]["train_prediction_distillation_loss"] > 0


def test_a_convolutional_student_goes_on_where_it_stopped(image_teacher, store):
    """Its means over batches are part of a checkpoint, as its weights are."""
    trial, pool = tiny.trial("rekd", model="resnet", epochs=2), tiny.images(64)
    whole = tiny.run(trial, pool=pool, teacher=image_teacher.for_training())
    checkpoints = Checkpoints(store, trial.digest)
    tiny.run(trial, pool=pool, teacher=image_teacher.for_training(), checkpoints=checkpoints, stop_after=1)
    resumed = tiny.run(trial, pool=pool, teacher=image_teacher.for_training(), checkpoints=checkpoints)
    assert resumed.numbers == whole.numbers
    assert tiny.same_tensors(resumed.weights, whole.weights)
    assert any("running_mean" in name for name in whole.weights)
