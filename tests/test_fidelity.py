"""What the paper leaves open: every point, as the paper's text has it and as the authors' code does.

Where both do the same, the test runs under both presets. Steps of training are computed a second time here, from the
equations and the run's own random streams.
"""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rekd.method.equations import (
    gumbel_noise,
    gumbel_softmax,
    prediction_distillation_loss,
    prediction_loss,
    rationale_distillation_loss,
)
from rekd.method.evaluate import evaluate, faithfulness, masks_of, rationale_noise
from rekd.method.models import Generator, RationaleModel
from rekd.method.run_state import is_better
from rekd.method.samples import DeviceSamples
from rekd.method.streams import Streams
from rekd.method.views import crop_flip
from rekd.tasks.data import Data, Split
from rekd.tasks.task import load_task
from rekd.trial import FIDELITY, Trial

PRESETS = ("paper", "authors")
both_presets = pytest.mark.parametrize("fidelity", PRESETS)


def one_step(objective: str = "rekd", *, fidelity: str, **fields) -> Trial:
    """A trial whose first epoch is a single step that changes nothing, without dropout: what it reports can be computed."""
    values = {"epochs": 1, "batch_size": 96, "learning_rate": 1e-12, "dropout": 0.0}
    if objective != "cls":
        values["temperature_every"] = 100  # the step has tau_0 in both presets
    return tiny.trial(objective, fidelity=fidelity, **values | fields)


@dataclass
class Step:
    """A first step of training, computed from the equations."""

    inputs: dict[str, Tensor]
    rows: Tensor
    labels: Tensor
    selection_logits: Tensor
    noise: Tensor
    mask: Tensor
    logits: Tensor
    teacher_noise: Tensor


@torch.no_grad()
def by_hand(trial: Trial) -> Step:
    """Draws in the order of the loop: data order, augmentation, student noise, teacher noise."""
    pool, streams = tiny.SAMPLES[trial.model](), Streams(trial.seed, kind=trial.random_streams, device=tiny.CPU)
    model = tiny.model_for(trial, streams).train()
    with streams.training():
        train_rows = torch.arange(128)[torch.arange(128) % 4 != 0]
        rows = train_rows[streams.order(96)]
        inputs = {name: torch.from_numpy(array)[rows] for name, array in pool.arrays.items()}
        if trial.augmentation == "crop_flip":
            inputs["image"] = crop_flip(inputs["image"], generator=streams.augmentation)
        selection_logits = model.generator(inputs)
        noise = gumbel_noise(selection_logits.shape, generator=streams.student_noise)
        scores = selection_logits + noise
        mask = (scores[..., 1] > scores[..., 0]).float()
        logits = model.predictor(inputs, mask)
        teacher_noise = gumbel_noise(noise.shape, generator=streams.teacher_noise)
    labels = torch.from_numpy(pool.labels)[rows]
    return Step(inputs, rows, labels, selection_logits, noise, mask, logits, teacher_noise)


def teacher_of(trial: Trial, image_teacher: tiny.MadeTeacher):
    """As a sweep gives it: with its model where it predicts anew."""
    options = {"student_mask": trial.teacher_sees == "student_mask", "augmented": trial.augmentation != "none"}
    return image_teacher.for_training(**options, model=image_teacher.model if any(options.values()) else None)


def test_every_point_of_the_presets_is_tested_here():
    assert (
        set(FIDELITY["paper"])
        == set(FIDELITY["authors"])
        == {
            "evaluation_mask",
            "selection_loss_form",
            "teacher_sees",
            "heads",
            "split",
            "augmentation",
            "best_epoch_rule",
            "random_streams",
            "predictor_reads",
            "temperature_step",
            "dev_means",
            "head_initialisation",
            "image_statistics",
        }
    )


def mean_of(values: Tensor, *, fidelity: str, size: int = 96) -> float:
    """Mean over samples; of the authors, over batches of the mean of each (96 and then 32 of 128)."""
    batches = values.split(size) if fidelity == "authors" else (values,)
    return torch.stack([batch.mean() for batch in batches]).mean().item()


# --- Mask at evaluation ---------------------------------------------------------------------------------------------


def evaluation_ratio(trial: Trial, model: RationaleModel) -> float:
    samples = DeviceSamples(tiny.images(), tiny.CPU)
    return evaluate(model, samples, trial, streams=Streams(trial.seed, device=tiny.CPU))["rationale_ratio"]


def test_paper_evaluates_the_argmax_of_the_logits():
    model, trial = tiny.build("vit", num_classes=2), tiny.trial()
    with torch.no_grad():
        logits = model.generator({"image": torch.from_numpy(tiny.images().arrays["image"])})
    argmax = (logits[..., 1] > logits[..., 0]).double().mean().item()
    assert evaluation_ratio(trial, model) == pytest.approx(argmax)
    assert evaluation_ratio(replace(trial, seed=99), model) == pytest.approx(argmax)  # nothing is drawn


def test_authors_evaluate_a_sample():
    model, trial = tiny.build("vit", num_classes=2), tiny.trial(fidelity="authors", batch_size=32)
    with torch.no_grad():
        logits = model.generator({"image": torch.from_numpy(tiny.images(128).arrays["image"])})
    noise = gumbel_noise(logits.shape, generator=Streams(3, device=tiny.CPU).evaluation_noise())
    sampled = ((logits + noise)[..., 1] > (logits + noise)[..., 0]).double().mean().item()
    assert evaluation_ratio(trial, model) == pytest.approx(sampled)
    argmax = (logits[..., 1] > logits[..., 0]).double().mean().item()
    assert evaluation_ratio(trial, model) != pytest.approx(argmax)
    assert evaluation_ratio(replace(trial, seed=99), model) != pytest.approx(sampled)


@pytest.mark.parametrize(("mask", "is_sampled"), [("argmax", False), ("sampled", False), ("sampled_everywhere", True)])
def test_rationales_are_measured_as_their_mask_says(mask, is_sampled):
    """Sufficiency, overlap and what is shown: argmax in `paper`, and in what 0.1.0 took for the authors' code."""
    assert [preset["evaluation_mask"] for preset in FIDELITY.values()] == ["argmax", "sampled_everywhere"]
    model, arrays = tiny.build("vit", num_classes=2), tiny.images(128).arrays
    noise = rationale_noise(tiny.trial(evaluation_mask=mask), device=tiny.CPU)
    assert (noise is not None) == is_sampled
    measured = faithfulness(model, arrays, device=tiny.CPU, sampled_by=noise)
    masks = {}
    with torch.no_grad():
        inputs = {"image": torch.from_numpy(arrays["image"])}
        for name, generator in (("sampled", Streams(3, device=tiny.CPU).evaluation_noise()), ("argmax", None)):
            prediction = model.predict(inputs, sampled_by=generator)
            chosen = prediction.logits.argmax(dim=-1, keepdim=True)
            whole, kept = (
                logits.softmax(-1).gather(-1, chosen) for logits in (model.predictor(inputs), prediction.logits)
            )
            masks[name] = (prediction.mask.bool().numpy(), (whole - kept).mean().item())
    (expected, sufficiency), (other, _) = (
        masks["sampled" if is_sampled else "argmax"],
        masks["argmax" if is_sampled else "sampled"],
    )
    assert measured["sufficiency"] == pytest.approx(sufficiency, abs=1e-6)
    noise = rationale_noise(tiny.trial(evaluation_mask=mask), device=tiny.CPU)
    shown, _ = masks_of(model, arrays, device=tiny.CPU, sampled_by=noise)
    assert np.array_equal(shown, expected)
    assert not np.array_equal(shown, other)


def test_a_teachers_own_rationale_is_measured_as_its_students(image_teacher):
    targets, rows = image_teacher.targets, np.array([5, 3, 100])
    difference = targets.selection_difference[rows]
    assert np.array_equal(targets.masks(rows), difference > 0)
    noise = gumbel_noise((3, 16, 2), generator=Streams(3, device=tiny.CPU).evaluation_noise()).numpy()
    sampled = targets.masks(rows, sampled_by=Streams(3, device=tiny.CPU).evaluation_noise())
    assert np.array_equal(sampled, difference + noise[..., 1] > noise[..., 0])
    assert not np.array_equal(sampled, difference > 0)


# --- L_select over a batch ------------------------------------------------------------------------------------------


@both_presets
def test_selection_loss_over_a_batch(fidelity):
    """paper: mean of the squares. authors: square of the mean. In training, and on dev in the same form."""
    trial = one_step("re", fidelity=fidelity)
    difference = by_hand(trial).mask.sum(dim=1) - 16 * 0.15
    forms = {"paper": difference.square().mean().item(), "authors": difference.mean().square().item()}
    assert forms["paper"] > 1.05 * forms["authors"]
    record = tiny.run(trial).records[0]
    assert record["train_selection_loss"] == pytest.approx(forms[fidelity], rel=1e-5)

    model = tiny.build("vit", num_classes=2)
    samples, streams = DeviceSamples(tiny.images(), tiny.CPU), Streams(3, device=tiny.CPU)
    with torch.no_grad():
        generator = streams.evaluation_noise() if fidelity == "authors" else None
        difference = model.predict(samples.inputs, sampled_by=generator).mask.sum(dim=1) - 16 * 0.15
    by_batch = torch.stack([batch.mean().square() for batch in difference.split(96)]).mean()
    forms = {"paper": difference.square().mean().item(), "authors": by_batch.item()}
    assert forms["authors"] > 1.05 * difference.mean().square().item()  # what 0.1.0 took for the authors'
    assert evaluate(model, samples, trial, streams=streams)["selection_loss"] == pytest.approx(
        forms[fidelity], rel=1e-5
    )


# --- What the teacher's predictor sees ------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher_sees", ["teacher_mask", "student_mask"])
def test_the_teacher_predicts_under_its_own_rationale_or_the_students(teacher_sees, image_teacher):
    trial = one_step(fidelity="paper", teacher_sees=teacher_sees)
    assert FIDELITY["paper"]["teacher_sees"] == "teacher_mask"
    assert FIDELITY["authors"]["teacher_sees"] == "student_mask"
    step = by_hand(trial)
    with torch.no_grad():
        own = image_teacher.model.predict(step.inputs)
        logits = {
            "teacher_mask": own.logits,
            "student_mask": image_teacher.model.predictor(step.inputs, step.mask),
            "everything": image_teacher.model.predictor(step.inputs),
        }
    losses = {
        name: prediction_distillation_loss(step.logits, each, temperature=5.0).item() for name, each in logits.items()
    }
    record = tiny.run(trial, teacher=teacher_of(trial, image_teacher)).records[0]
    assert record["train_prediction_distillation_loss"] == pytest.approx(losses.pop(teacher_sees), rel=1e-4)
    for other in losses.values():
        assert record["train_prediction_distillation_loss"] != pytest.approx(other, rel=1e-2)


# --- The teacher generator's noise; KL for features -----------------------------------------------------------------


@both_presets
def test_the_teachers_noise_is_fresh_and_features_are_summed(fidelity, image_teacher):
    trial = one_step(fidelity=fidelity)
    step = by_hand(trial)
    with torch.no_grad():
        teacher_logits = image_teacher.model.predict(step.inputs).selection_logits
    fresh, shared, none = (
        rationale_distillation_loss(step.selection_logits, step.noise, teacher_logits, noise, temperature=5.0).item()
        for noise in (step.teacher_noise, step.noise, 0 * step.noise)
    )
    record = tiny.run(trial, teacher=teacher_of(trial, image_teacher)).records[0]
    assert record["train_rationale_distillation_loss"] == pytest.approx(fresh, rel=1e-4)
    assert record["train_rationale_distillation_loss"] != pytest.approx(shared, rel=1e-2)
    assert record["train_rationale_distillation_loss"] != pytest.approx(none, rel=1e-2)

    student, teacher = (
        gumbel_softmax(logits, noise, temperature=5.0)
        for logits, noise in ((step.selection_logits, step.noise), (teacher_logits, step.teacher_noise))
    )
    each = (teacher * (teacher / student).log()).sum(dim=-1)  # one divergence a feature
    assert record["train_rationale_distillation_loss"] == pytest.approx(each.sum(dim=1).mean().item(), rel=1e-3)
    assert record["train_rationale_distillation_loss"] == pytest.approx(16 * each.mean().item(), rel=1e-3)
    correlation = torch.corrcoef(torch.stack((step.noise.flatten(), step.teacher_noise.flatten())))[0, 1]
    assert abs(correlation) < 0.1


# --- Which positions may be selected; L -----------------------------------------------------------------------------


@both_presets
def test_all_positions_may_be_selected_padding_too_and_the_ratio_over_real_tokens_is_reported(fidelity):
    trial = one_step("re", fidelity=fidelity, model="bert")
    pool = tiny.texts()
    streams = Streams(trial.seed, kind=trial.random_streams, device=tiny.CPU)
    model = tiny.model_for(trial, streams).eval()
    samples = DeviceSamples(pool, tiny.CPU)
    generator = streams.evaluation_noise() if fidelity == "authors" else None
    with torch.no_grad():
        assert model.generator(samples.inputs).shape == (128, 8, 2)
        mask = model.predict(samples.inputs, sampled_by=generator).mask
    result = evaluate(model, samples, trial, streams=streams)
    assert result["rationale_ratio"] == pytest.approx(mean_of(mask.sum(dim=1) / 8, fidelity=fidelity), rel=1e-5)
    assert result["selection_loss"] > 0
    valid = torch.from_numpy(pool.arrays["valid"])
    ratios = (mask * valid).sum(dim=1) / valid.sum(dim=1)
    assert result["token_ratio"] == pytest.approx(mean_of(ratios, fidelity=fidelity), rel=1e-5)

    with torch.no_grad():  # made to select everything, it selects padding and the first token as well
        last = [module for module in model.generator.head.children() if isinstance(module, nn.Linear)][-1]
        last.bias[1] = 50
        everything = model.predict(samples.inputs, sampled_by=generator).mask
    assert (valid == 0).any()
    assert everything.min() == 1


# --- Where the mask acts --------------------------------------------------------------------------------------------


@both_presets
@torch.no_grad()
def test_the_mask_of_a_vit_acts_on_patches_before_cls_and_positions(fidelity):
    heads = FIDELITY[fidelity]["heads"]
    model, inputs = tiny.build("vit", heads=heads), tiny.tensors("vit")
    mask = (torch.rand(4, 16, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    encoder = model.predictor.backbone.encoder
    patches = encoder.embeddings.patch_embeddings((inputs["image"] / 255 - 0.5) / 0.5) * mask[..., None]
    cls = encoder.embeddings.cls_token.expand(4, -1, -1)
    positions = encoder.embeddings.position_embeddings

    def rest(hidden: Tensor) -> Tensor:
        for layer in encoder.layers:
            hidden = layer(hidden)
        hidden = hidden if heads == "authors" else encoder.layernorm(hidden)
        return model.predictor.head(hidden[:, 0])

    before_positions = torch.cat((cls, patches), dim=1) + positions
    after_positions = torch.cat((cls + positions[:, :1], patches + positions[:, 1:] * mask[..., None]), dim=1)
    torch.testing.assert_close(model.predictor(inputs, mask), rest(before_positions))
    assert not torch.allclose(model.predictor(inputs, mask), rest(after_positions), atol=1e-3)


@both_presets
@torch.no_grad()
def test_the_mask_of_a_bert_acts_on_words_before_positions_and_layernorm_and_attention_stays(fidelity):
    model, inputs = tiny.build("bert", heads=FIDELITY[fidelity]["heads"]), tiny.tensors("bert")
    mask = (torch.rand(4, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    encoder = model.predictor.backbone.encoder
    words = encoder.embeddings.word_embeddings(inputs["input_ids"]) * mask[..., None]

    def rest(words: Tensor, attention: Tensor) -> Tensor:
        return model.predictor.head(encoder(inputs_embeds=words, attention_mask=attention).pooler_output)

    logits = model.predictor(inputs, mask)
    torch.testing.assert_close(logits, rest(words, inputs["valid"]))
    assert not torch.allclose(logits, rest(words, inputs["valid"] * mask), atol=1e-3)  # not hidden from attention
    normed = encoder.embeddings(input_ids=inputs["input_ids"])
    late = encoder.encoder(normed * mask[..., None]).last_hidden_state  # after positions and LayerNorm
    assert not torch.allclose(logits, model.predictor.head(encoder.pooler(late)), atol=1e-3)


# --- Heads ----------------------------------------------------------------------------------------------------------


def linear_shapes(head: nn.Module) -> list[tuple[int, int]]:
    return [(module.in_features, module.out_features) for module in head.modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_paper_heads_are_one_linear_map(family):
    model = tiny.build(family)
    assert linear_shapes(model.generator.head) == [(16, 2)]
    assert linear_shapes(model.predictor.head) == [(16, 3)]
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("family", tiny.TEXT_FAMILIES)
def test_authors_heads_of_a_text_generator_are_an_mlp_on_frozen_words(family):
    model = tiny.build(family, heads="authors")
    layers = [type(layer) for layer in model.generator.head.children()]
    assert layers == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert linear_shapes(model.generator.head) == [(16, 256), (256, 2)]
    assert linear_shapes(model.predictor.head) == [(16, 3)]
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    words = "tok_embeddings" if family == "modernbert" else "word_embeddings"
    assert frozen == [f"generator.backbone.encoder.embeddings.{words}.weight"]


@pytest.mark.parametrize("heads", ["linear", "authors"])
def test_training_moves_the_words_of_a_berts_generator_unless_they_are_frozen(heads):
    trial = tiny.trial(model="bert", epochs=1, heads=heads)
    before = tiny.model_for(trial, Streams(trial.seed, device=tiny.CPU)).state_dict()
    after = tiny.run(trial).weights
    name = "backbone.encoder.embeddings.word_embeddings.weight"
    assert torch.equal(before[f"generator.{name}"], after[f"generator.{name}"]) == (heads == "authors")
    assert not torch.equal(before[f"predictor.{name}"], after[f"predictor.{name}"])
    positions = "generator.backbone.encoder.embeddings.position_embeddings.weight"
    assert not torch.equal(before[positions], after[positions])


@pytest.mark.parametrize("family", tiny.PATCH_FAMILIES)
@torch.no_grad()
def test_authors_vit_predictor_has_no_final_layernorm_and_its_generator_has(family):
    ours, theirs = (tiny.build(family, heads=heads) for heads in ("linear", "authors"))
    theirs.load_state_dict(ours.state_dict())
    inputs = tiny.tensors(family)
    assert torch.equal(ours.generator(inputs), theirs.generator(inputs))
    assert not torch.allclose(ours.predictor(inputs), theirs.predictor(inputs), atol=1e-3)
    for model, moved in ((ours, True), (theirs, False)):
        before = model.predictor(inputs)
        model.predictor.backbone.encoder.layernorm.bias.add_(1)
        assert torch.equal(model.predictor(inputs), before) != moved


# --- Heads at the start ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
@both_presets
def test_weights_of_heads_are_normal_or_uniform_after_glorot_and_biases_are_0(family, fidelity):
    trial = tiny.trial(model=family, fidelity=fidelity)
    model = tiny.model_for(trial, Streams(3, device=tiny.CPU))
    for layer in (module for part in (model.generator, model.predictor) for module in part.head.modules()):
        if not isinstance(layer, nn.Linear):
            continue
        assert (layer.bias == 0).all()
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
        largest = layer.weight.abs().max().item()
        if fidelity == "authors":
            assert 0.85 * bound < largest <= bound
        else:  # a deviation of .02
            assert 0.02 < largest < 0.1 < bound


# --- What a BERT's predictor reads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reads", ["pooler", "first_token"])
@torch.no_grad()
def test_a_berts_predictor_reads_the_pooler_or_the_first_token(reads, tmp_path):
    assert [preset["predictor_reads"] for preset in FIDELITY.values()] == ["pooler", "first_token"]
    model, inputs = tiny.build("bert", predictor_reads=reads), tiny.tensors("bert")
    mask = (torch.rand(4, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    with_pooler = tiny.build("bert")
    with_pooler.load_state_dict(model.state_dict(), strict=False)
    predictor = with_pooler.predictor
    embedded = predictor.backbone.embed(inputs) * mask[..., None]
    output = predictor.backbone.encoder(inputs_embeds=embedded, attention_mask=inputs["valid"])
    read = {"pooler": output.pooler_output, "first_token": output.last_hidden_state[:, 0]}
    logits = {name: predictor.head(values) for name, values in read.items()}
    torch.testing.assert_close(model.predictor(inputs, mask), logits.pop(reads))
    assert not torch.allclose(model.predictor(inputs, mask), *logits.values(), atol=1e-3)
    assert not model.predictor.training

    model.save(tmp_path)
    assert torch.equal(RationaleModel.load(tmp_path).predictor(inputs, mask), model.predictor(inputs, mask))


def test_a_model_of_before_reads_the_pooler(tmp_path):
    model, inputs = tiny.build("bert"), tiny.tensors("bert")
    del model.description["predictor_reads"]  # 0.1.0 did not write it
    model.save(tmp_path)
    assert torch.equal(RationaleModel.load(tmp_path).predictor(inputs), model.predictor(inputs))


# --- Image statistics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", ["pretrained", "imagenet"])
def test_pixels_are_normalised_by_the_checkpoints_statistics_or_imagenets(statistics, tmp_path):
    assert [preset["image_statistics"] for preset in FIDELITY.values()] == ["pretrained", "imagenet"]
    config = {**tiny.CONFIGS["vit"], "num_channels": 3}
    model = RationaleModel.build(objective="re", num_classes=2, dropout=0.0, image_statistics=statistics, config=config)
    model.save(tmp_path)
    image = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    expected = {
        "pretrained": [-1, 1, (0.2 - 0.5) / 0.5],
        "imagenet": [-0.485 / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225],
    }
    for each in (model, RationaleModel.load(tmp_path)):
        for part in (each.generator, each.predictor):
            assert part.backbone.pixel_values(image)[0, :, 0, 0].tolist() == pytest.approx(
                expected[statistics], abs=1e-6
            )
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == pytest.approx(
        {"pretrained": [0.5] * 3, "imagenet": [0.485, 0.456, 0.406]}[statistics]
    )


def test_of_one_channel_imagenets_statistics_are_their_mean():
    model = tiny.model_for(tiny.trial(image_statistics="imagenet"), Streams(3, device=tiny.CPU))
    white = model.predictor.backbone.pixel_values(torch.full((1, 1, 4, 4), 255, dtype=torch.uint8))
    assert white.unique().item() == pytest.approx((1 - (0.485 + 0.456 + 0.406) / 3) / ((0.229 + 0.224 + 0.225) / 3))


# --- Means over dev and test ----------------------------------------------------------------------------------------


@both_presets
@pytest.mark.parametrize("objective", ["cls", "re"])
@torch.no_grad()
def test_losses_and_ratios_are_means_over_samples_or_over_batches(objective, fidelity):
    """100 samples are three batches of 32 and one of 4, which weighs as much in the authors' code."""
    model = tiny.build("vit", objective, num_classes=2)
    trial = tiny.trial(objective, fidelity=fidelity, evaluation_mask="argmax")
    pool = tiny.images(100)
    result = evaluate(model, DeviceSamples(pool, tiny.CPU), trial, streams=Streams(3, device=tiny.CPU))
    prediction = model.predict({"image": torch.from_numpy(pool.arrays["image"])})
    labels = torch.from_numpy(pool.labels)
    losses = torch.nn.functional.cross_entropy(prediction.logits, labels, reduction="none")
    own, other = (
        mean_of(losses, fidelity=each, size=32) for each in sorted(PRESETS, key=lambda each: each != fidelity)
    )
    assert result["prediction_loss"] == pytest.approx(own, rel=1e-5)
    assert own != pytest.approx(other, rel=1e-3)
    assert result["accuracy"] == pytest.approx((prediction.logits.argmax(-1) == labels).double().mean().item())
    ratio = prediction.mask.mean(dim=1)
    assert result["rationale_ratio"] == pytest.approx(mean_of(ratio, fidelity=fidelity, size=32), rel=1e-5)
    expected = result["prediction_loss"] + (0 if objective == "cls" else 0.1 * result["selection_loss"])
    assert result["loss"] == pytest.approx(expected)


# --- Dropout --------------------------------------------------------------------------------------------------------


@both_presets
@pytest.mark.parametrize(("family", "dropout"), [("vit", 0.1), ("bert", 0.5)])
def test_dropout_is_on_the_heads_and_a_backbone_keeps_its_own(family, dropout, fidelity):
    trial = tiny.trial(model=family, dropout=dropout, fidelity=fidelity)
    model = tiny.model_for(trial, Streams(3, device=tiny.CPU))
    for part in (model.generator, model.predictor):
        on_head = [module.p for module in part.head.modules() if isinstance(module, nn.Dropout)]
        of_backbone = {module.p for module in part.backbone.modules() if isinstance(module, nn.Dropout)}
        assert on_head == [dropout]
        assert of_backbone == {0.1 if family == "bert" else 0.0}  # what their configurations say
    assert isinstance(model.generator, Generator)


@both_presets
@pytest.mark.parametrize(("task", "dropout", "weight_decay"), [("cifar10", 0.1, 1e-3), ("imdb", 0.5, 0.0)])
def test_the_papers_tasks_have_its_dropout_temperature_and_weight_decay(task, dropout, weight_decay, fidelity):
    loaded = load_task(task)
    for model in (loaded.teacher, *loaded.students):
        trial = loaded.trial("re", model, seed=2026, fidelity=fidelity)
        assert (trial.dropout, trial.weight_decay, trial.learning_rate, trial.batch_size) == (
            dropout,
            weight_decay,
            1e-5,
            32,
        )
        assert (trial.temperature_initial, trial.temperature_final, trial.temperature_every) == (5.0, 0.1, 100)
        assert trial.epochs == 35
        assert loaded.trial("cls", model, seed=2026, fidelity=fidelity).epochs == 20
        assert trial.fidelity == fidelity


# --- Temperature ----------------------------------------------------------------------------------------------------


@both_presets
def test_the_temperature_is_equation_10_in_steps_with_a_floor(fidelity):
    """Every 2 of 4 steps: tau(2) is that of the third step, or of the second already."""
    trial = one_step("re", fidelity=fidelity, epochs=4, temperature_every=2)
    temperatures = [record["temperature"] for record in tiny.run(trial).records]
    middle = (5.0 * 0.1) ** 0.5
    expected = {"paper": [5.0, 5.0, middle, middle], "authors": [5.0, middle, middle, 0.1]}
    assert temperatures == pytest.approx(expected[fidelity])


# --- Split ----------------------------------------------------------------------------------------------------------


def data_of(labels: np.ndarray) -> Data:
    split = Split({"image": np.zeros((len(labels), 1, 4, 4), np.uint8)}, labels)
    return Data(
        kind="image",
        num_classes=2,
        class_names=None,
        pool=split,
        test=split,
        dev_indices=None,
        dev_fraction=0.2,
        fingerprint="x",
    )


def test_papers_split_is_fixed_and_the_authors_is_drawn_with_the_seed_and_both_are_stratified():
    labels = np.repeat([0, 1], [30, 70]).astype(np.int64)
    data = data_of(labels)
    fixed = {seed: data.train_dev(FIDELITY["paper"]["split"], seed) for seed in range(2026, 2036)}
    drawn = {seed: data.train_dev(FIDELITY["authors"]["split"], seed) for seed in range(2026, 2036)}
    for train, dev in (*fixed.values(), *drawn.values()):
        assert (len(train), len(dev)) == (80, 20)
        assert not np.intersect1d(train, dev).size

    assert all(np.array_equal(*pair) for pair in zip(fixed[2026], fixed[2027], strict=True))
    assert not np.array_equal(np.sort(drawn[2026][1]), np.sort(drawn[2027][1]))
    for _, dev in (*fixed.values(), *drawn.values()):
        assert np.bincount(labels[dev]).tolist() == [6, 14]
    plain = [data.train_dev("by_seed", seed)[1] for seed in range(2026, 2036)]  # what 0.1.0 took for the authors'
    assert any(np.bincount(labels[dev]).tolist() != [6, 14] for dev in plain)

    # So with `authors` a student is judged on samples that its teacher was trained on. `tests/test_run.py`: reported.
    assert np.isin(drawn[2027][1], drawn[2026][0]).mean() > 0.5
    assert np.isin(fixed[2027][1], fixed[2026][0]).mean() == 0


@pytest.mark.parametrize("counts", [[30, 70], [3, 3, 3, 5, 13, 20], [50] * 10, [2, 2, 97]])
def test_the_authors_split_is_the_one_that_datasets_makes_in_its_order(counts):
    """Their code calls `train_test_split` with `stratify_by_column`, and its order decides what is in a batch."""
    from datasets import ClassLabel, Dataset, Features, Value

    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    data = data_of(labels)
    features = Features({"label": ClassLabel(num_classes=len(counts)), "row": Value("int64")})
    dataset = Dataset.from_dict({"label": labels, "row": np.arange(len(labels))}, features=features)
    for seed in (2026, 2027):
        halves = dataset.train_test_split(test_size=data.num_dev, stratify_by_column="label", seed=seed)
        for ours, theirs in zip(data.train_dev("stratified_by_seed", seed), halves.values(), strict=True):
            assert ours.tolist() == list(theirs["row"])


def test_the_authors_split_is_the_same_in_every_version():
    labels = np.repeat(np.arange(10), 20)
    _, dev = data_of(labels).train_dev("stratified_by_seed", 2026)
    assert dev[:10].tolist() == [53, 19, 10, 123, 89, 4, 93, 7, 42, 192]


def test_a_dev_split_of_the_datasets_own_is_the_authors_too():
    data = replace(data_of(np.repeat([0, 1], [30, 70])), dev_indices=np.arange(90, 100))
    train, dev = data.train_dev("stratified_by_seed", 2026)
    assert (train.tolist(), dev.tolist()) == (list(range(90)), list(range(90, 100)))


# --- Augmentation ---------------------------------------------------------------------------------------------------


@both_presets
def test_paper_trains_on_images_as_they_are_and_authors_on_crops_and_flips(fidelity):
    trial = one_step("re", fidelity=fidelity)
    step = by_hand(trial)
    originals = torch.from_numpy(tiny.images().arrays["image"])[step.rows]
    assert torch.equal(step.inputs["image"], originals) == (fidelity == "paper")
    assert tiny.run(trial).records[0]["train_prediction_loss"] == pytest.approx(
        prediction_loss(step.logits, step.labels).item(), rel=1e-4
    )


def test_crops_of_32_pixels_have_a_padding_of_4():
    image = torch.ones(2000, 1, 32, 32, dtype=torch.uint8)
    views = crop_flip(image, generator=torch.Generator().manual_seed(0))
    empty_rows = (views.sum(dim=(1, 3)) == 0).sum(dim=1)
    empty_columns = (views.sum(dim=(1, 2)) == 0).sum(dim=1)
    for empty in (empty_rows, empty_columns):
        assert sorted(empty.unique().tolist()) == [0, 1, 2, 3, 4]
        assert abs((empty == 0).double().mean() - 1 / 9) < 0.03  # 9 offsets, each as likely
    ramp = torch.arange(32, dtype=torch.uint8).view(1, 1, 1, 32).repeat(2000, 1, 32, 1)
    flipped = crop_flip(ramp, generator=torch.Generator().manual_seed(0))[:, 0, 16]
    assert abs((flipped[:, 10] > flipped[:, 20]).double().mean() - 0.5) < 0.05


@both_presets
def test_dev_and_texts_are_never_augmented(fidelity):
    plain = tiny.trial(fidelity=fidelity, augmentation="none", epochs=1, learning_rate=1e-12)
    pairs = [tiny.run(replace(plain, augmentation=each)).records[0]["dev_loss"] for each in ("none", "crop_flip")]
    assert pairs[0] == pytest.approx(pairs[1], rel=1e-6)
    text = replace(plain, model="bert")
    assert tiny.run(text).numbers == tiny.run(replace(text, augmentation="crop_flip")).numbers


# --- Best epoch -----------------------------------------------------------------------------------------------------


@both_presets
@pytest.mark.parametrize("objective", ["cls", "re"])
def test_of_epochs_that_tie_paper_takes_the_first_and_authors_the_last(objective, fidelity):
    """No step of this run changes the model, so that all its epochs are equally good. Of cls the authors round nothing:
    `tests/test_train.py`."""
    run = tiny.run(one_step(objective, fidelity=fidelity, epochs=4, learning_rate=1e-30))
    assert len({round(record["dev_loss"], 3) for record in run.records}) == 1
    losses = [record["dev_loss"] for record in run.records]
    assert run.result.best_epoch == {"paper": losses.index(min(losses)) + 1, "authors": 4}[fidelity]


@pytest.mark.parametrize("rounds", [True, False])
def test_of_cls_the_authors_code_rounds_no_loss(rounds):
    losses = [0.50041, 0.50042, 0.6]
    rule = "rounded_latest" if rounds else FIDELITY["authors"]["best_epoch_rule"]
    assert is_better(losses[1], losses[0], rule=rule, objective="cls") == rounds
    assert is_better(losses[0], losses[0], rule=rule, objective="cls")
    assert is_better(losses[1], losses[0], rule=rule, objective="re")


# --- Random streams -------------------------------------------------------------------------------------------------


@both_presets
def test_papers_re_and_rekd_of_one_seed_are_paired_and_the_authors_are_not(fidelity, image_teacher):
    trials = [tiny.trial(objective, fidelity=fidelity, epochs=2) for objective in ("re", "rekd")]
    re = tiny.run(trials[0])
    rekd = tiny.run(replace(trials[1], alpha=1.0), teacher=teacher_of(trials[1], image_teacher))
    assert tiny.same_tensors(re.weights, rekd.weights) == (fidelity == "paper")


def test_the_authors_data_order_is_that_of_a_dataloader_with_a_generator_of_its_own():
    streams = Streams(2026, kind=FIDELITY["authors"]["random_streams"], device=tiny.CPU)
    loader = DataLoader(range(100), batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(2026))
    for _ in range(3):
        with streams.training():
            torch.rand(5)  # noise and dropout do not move it
            ours = streams.order(100)
        assert ours.tolist() == [row for batch in loader for row in batch.tolist()]


def test_a_run_goes_through_the_samples_in_that_order(monkeypatch):
    seen = []
    take = DeviceSamples.take
    monkeypatch.setattr(DeviceSamples, "take", lambda samples, rows: seen.append(rows) or take(samples, rows))
    trial = tiny.trial(fidelity="authors", epochs=2)
    steps, _ = tiny.begun(trial)
    next(steps)
    expected = Streams(trial.seed, kind="order_apart", device=tiny.CPU).order(96)
    assert torch.equal(torch.cat(seen[:3]), expected)
