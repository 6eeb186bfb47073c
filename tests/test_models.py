"""Generator, predictor, and the folder that the two are saved in."""

import json

import numpy as np
import pytest
import stand_ins
import tiny
import torch
from disturbed import DAMAGES, damaged
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer

from rekd.handover.forms import as_given, load_exported
from rekd.method.models import RationaleModel


def parameters_of(part: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in part.state_dict().items() if not name.startswith("head")}


# --- Building -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_model_is_a_generator_over_two_and_a_predictor_over_the_classes(family):
    model, inputs = tiny.build(family), tiny.tensors(family)
    num_features = model.num_features(inputs)
    assert model.generator(inputs).shape == (4, num_features, 2)
    assert model.predictor(inputs).shape == (4, 3)
    assert tiny.build(family, "cls").generator is None


def test_generator_and_predictor_start_from_the_same_pretrained_weights(tmp_path):
    folder = str(stand_ins.save_bert(tmp_path))
    model = RationaleModel.build(objective="re", num_classes=2, dropout=0.5, source=folder)
    generator, predictor = parameters_of(model.generator), parameters_of(model.predictor)
    assert all(torch.equal(value, predictor[name]) for name, value in generator.items())
    assert {name.split(".")[2] for name in predictor.keys() - generator.keys()} == {"pooler"}
    with torch.no_grad():  # the same at first, and two networks
        next(model.generator.backbone.parameters()).add_(1)
    assert not torch.equal(next(model.generator.backbone.parameters()), next(model.predictor.backbone.parameters()))


def test_heads_are_drawn_as_the_family_draws_its_own():
    model = tiny.build("vit")
    weight, bias = model.predictor.head[1].weight, model.predictor.head[1].bias
    assert 0.2 < weight.std() < 0.4  # the initializer_range of these models is 0.3
    assert bias.abs().max() == 0


# --- Predicting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_a_prediction_is_that_of_the_rationale_it_shows(family):
    model, inputs = tiny.build(family), tiny.tensors(family)
    prediction = model.predict(inputs)
    assert set(prediction.mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(
        prediction.mask.bool(), prediction.selection_logits[..., 1] > prediction.selection_logits[..., 0]
    )
    assert torch.equal(prediction.logits, model.predictor(inputs, prediction.mask))
    assert not torch.allclose(prediction.logits, model.predictor(inputs))


@torch.no_grad()
def test_a_classifier_predicts_from_every_feature():
    model, inputs = tiny.build("vit", "cls"), tiny.tensors("vit")
    prediction = model.predict(inputs)
    assert torch.equal(prediction.mask, torch.ones(4, 16))
    assert prediction.selection_logits is None
    assert torch.equal(prediction.logits, model.predictor(inputs, torch.ones(4, 16)))


@torch.no_grad()
def test_predictions_do_not_depend_on_the_batch_that_they_are_in():
    model, inputs = tiny.build("bert"), tiny.tensors("bert")
    together = model.predict(inputs)
    alone = model.predict({name: value[1:2] for name, value in inputs.items()})
    assert torch.equal(alone.mask[0], together.mask[1])
    torch.testing.assert_close(alone.logits[0], together.logits[1])


# --- A folder in the Hugging Face manner ----------------------------------------------------------------------------


@pytest.mark.parametrize("heads", ["linear", "authors"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_a_saved_model_is_the_same_model(family, heads, tmp_path):
    model, inputs = tiny.build(family, heads=heads), tiny.tensors(family)
    model.save(tmp_path)
    loaded = RationaleModel.load(tmp_path)
    assert tiny.same_tensors(model.state_dict(), loaded.state_dict())
    assert torch.equal(loaded.predict(inputs).logits, model.predict(inputs).logits)
    assert torch.equal(loaded.predict(inputs).mask, model.predict(inputs).mask)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_classifier_is_saved_without_a_generator(tmp_path):
    tiny.build("vit", "cls").save(tmp_path)
    assert RationaleModel.load(tmp_path).generator is None
    assert not any(name.startswith("generator") for name in load_file(tmp_path / "model.safetensors"))


def test_the_folder_says_what_it_holds(tmp_path):
    tiny.build("vit").save(tmp_path, details={"class_names": ["a", "b", "c"]})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "rekd"
    assert (config["objective"], config["num_classes"], config["heads"]) == ("re", 3, "linear")
    assert config["backbone"]["model_type"] == "vit"
    assert config["details"] == {"class_names": ["a", "b", "c"]}
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 4, "width": 4}
    assert processor["image_mean"] == pytest.approx([0.5])


def test_the_mean_and_deviation_of_images_travel_with_the_model(tmp_path):
    source = stand_ins.save_vit(tmp_path / "source")
    file = source / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.1, 0.2, 0.3]}))
    model = RationaleModel.build(objective="re", num_classes=2, dropout=0.1, source=str(source)).eval()
    model.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "preprocessor_config.json").read_text())
    assert saved["image_mean"] == pytest.approx([0.1, 0.2, 0.3])
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    loaded = RationaleModel.load(tmp_path / "saved")
    assert torch.equal(loaded.predict({"image": image}).logits, model.predict({"image": image}).logits)


def test_the_tokenizer_travels_with_the_model(tmp_path):
    source = stand_ins.save_bert(tmp_path / "source")
    model = RationaleModel.build(objective="re", num_classes=2, dropout=0.1, source=str(source))
    tokenizer = AutoTokenizer.from_pretrained(source)
    model.save(tmp_path / "saved", tokenizer=tokenizer)
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    text = "A great film, it was moving."
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    model.save(tmp_path / "bare")
    assert not (tmp_path / "bare" / "tokenizer.json").exists()


def test_the_way_in_which_larger_images_are_scaled_down_travels_with_the_model(tmp_path):
    image = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    predictions = []
    for downscaling in (None, "antialiased"):
        model = RationaleModel.build(
            objective="cls", num_classes=2, dropout=0.1, downscaling=downscaling, config=tiny.CONFIGS["vit"]
        ).eval()
        model.save(tmp_path)
        loaded = RationaleModel.load(tmp_path)
        predictions.append(loaded.predict({"image": image}).logits)
        assert torch.equal(predictions[-1], model.predict({"image": image}).logits)
    config = {**json.loads((tmp_path / "config.json").read_text())}
    for name in ("downscaling", "sha256"):  # as 0.1.0 saved it
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert not torch.allclose(RationaleModel.load(tmp_path).predict({"image": image}).logits, predictions[1])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_whether_a_model_can_be_loaded_is_known_before_it_is_saved(family):
    model = tiny.build(family)
    model.check_saving()
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.description["num_classes"] = 4
    with pytest.raises(ValueError, match=r"not those of their config\.json"):
        model.check_saving()


def test_assembling_uses_read_only_arrays_without_a_copy(tmp_path):
    model, inputs = tiny.build("bert"), tiny.tensors("bert")
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    arrays = {name: value.numpy() for name, value in load_file(tmp_path / "model.safetensors").items()}
    for array in arrays.values():
        array.flags.writeable = False  # as the object store gives them

    assembled = RationaleModel.assemble(config, arrays)
    for name, value in assembled.state_dict().items():
        assert value.data_ptr() == arrays[name].__array_interface__["data"][0]
    assert torch.equal(assembled.predict(inputs).logits, model.predict(inputs).logits)

    copied = RationaleModel.assemble(config, {name: np.array(array) for name, array in arrays.items()})
    assert copied.predictor.head[1].weight.data_ptr() != assembled.predictor.head[1].weight.data_ptr()


@pytest.mark.usefixtures("global_stream_is_untouched")
def test_loading_draws_nothing_from_the_callers_stream(tmp_path):
    tiny.build("vit").save(tmp_path)
    RationaleModel.load(tmp_path)


def test_a_folder_that_is_no_rationale_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json. Give a folder that a finished trial"):
        RationaleModel.load(tmp_path / "nowhere")
    stand_ins.save_vit(tmp_path / "vit")
    with pytest.raises(ValueError, match="describes a 'vit' model, not a rationale model"):
        RationaleModel.load(tmp_path / "vit")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model_type": "rekd"}', "has no 'objective'. Give a folder that a finished trial wrote"),
        (
            '{"model_type": "rekd"',
            "cannot be read: Expecting ',' delimiter.* Give a folder that a finished trial wrote",
        ),
        ("[1]", "describes a None model, not a rationale model"),
        ("\udcff", "cannot be read: 'utf-8' codec"),
        ({"backbone": None}, "has no 'backbone'"),
        ({"details": None}, "has no 'details'"),
        ({"backbone": "bert"}, "backbone cannot be 'bert'. Give a folder"),
        ({"num_classes": "three"}, "num_classes cannot be 'three'. Give a folder"),
        ({"details": []}, r"details cannot be \[\]. Give a folder"),
        (
            {"backbone": {"model_type": "vit", "hidden_size": "wide"}},
            "The config of a 'vit' is not valid: .*hidden_size",
        ),
    ],
)
def test_a_config_that_is_no_config_is_refused_with_file_and_key(tmp_path, content, message):
    tiny.build("vit").save(tmp_path)
    file = tmp_path / "config.json"
    if isinstance(content, dict):
        config = {**json.loads(file.read_text()), **content}
        del config["sha256"]
        content = json.dumps({name: value for name, value in config.items() if value is not None})
    file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message) as caught:
        RationaleModel.load(tmp_path)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_those_of_the_config_are_refused(tmp_path):
    tiny.build("vit").save(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    del config["sha256"]
    file.write_text(json.dumps({**config, "num_classes": 4}))
    with pytest.raises(ValueError, match=r"(?s)not those of their config\.json: .*size mismatch"):
        RationaleModel.load(tmp_path)
    file.write_text(json.dumps({**config, "objective": "cls"}))
    with pytest.raises(ValueError, match=r"not those of their config\.json"):
        RationaleModel.load(tmp_path)


@pytest.mark.parametrize("damage", ["missing", *DAMAGES])
def test_damaged_weights_are_refused(tmp_path, damage):
    tiny.build("vit").save(tmp_path)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(damaged(content, damage))
    with pytest.raises(ValueError, match=r"model\.safetensors could not be read"):
        RationaleModel.load(tmp_path)


def test_a_number_of_the_config_that_is_not_what_was_saved_is_noticed(tmp_path):
    tiny.build("vit").save(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": 5e-12'))
    with pytest.raises(ValueError, match=r"the checksum in its config\.json is not that of its files"):
        RationaleModel.load(tmp_path)


# --- Precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["vit", "bert"])
def test_bfloat16_is_the_backbones_arithmetic_and_no_more(family):
    inputs = tiny.tensors(family)
    exact, rounded = tiny.build(family), tiny.build(family)
    for module in (rounded.generator, rounded.predictor):
        assert module is not None
        module.backbone.precision = "bfloat16"
    assert all(parameter.dtype == torch.float32 for parameter in rounded.parameters())
    mask = torch.ones(4, rounded.num_features(inputs), requires_grad=True)
    logits = rounded.predictor(inputs, mask)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, exact.predictor(inputs, mask))
    torch.testing.assert_close(logits, exact.predictor(inputs, mask), rtol=0.1, atol=0.15)
    (gradient,) = torch.autograd.grad(logits.sum(), mask)
    assert gradient.dtype == torch.float32
    assert gradient.isfinite().all()


def test_a_saved_model_keeps_its_precision(tmp_path):
    model = RationaleModel.build(
        objective="re", num_classes=3, dropout=0.1, precision="bfloat16", config=tiny.CONFIGS["vit"]
    )
    model.save(tmp_path)
    assert RationaleModel.load(tmp_path).predictor.backbone.precision == "bfloat16"


# --- One encoder for both -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["vit", "bert"])
def test_with_a_shared_encoder_generator_and_predictor_are_two_heads_on_one(family):
    shared, apart = (tiny.build(family, encoder=encoder) for encoder in ("shared", "own"))
    assert shared.generator.backbone is shared.predictor.backbone
    of_heads = {name for name, _ in shared.named_parameters() if ".head." in name}
    encoder = sum(parameter.numel() for parameter in apart.predictor.backbone.parameters())
    count = sum(parameter.numel() for parameter in shared.parameters())
    assert count == encoder + sum(dict(shared.named_parameters())[name].numel() for name in of_heads)

    inputs = tiny.tensors(family)
    mask = shared.generator(inputs).softmax(dim=-1)[..., 1]
    shared.predictor(inputs, mask).logsumexp(dim=-1).sum().backward()
    assert all(parameter.grad is not None for parameter in shared.parameters())


@pytest.mark.parametrize("family", ["vit", "bert"])
def test_a_model_with_a_shared_encoder_is_saved_and_answers_the_same(family, tmp_path):
    model = tiny.build(family, encoder="shared")
    model.check_saving()
    model.save(tmp_path)
    loaded = RationaleModel.load(tmp_path)
    assert loaded.generator.backbone is loaded.predictor.backbone
    assert tiny.same_tensors(loaded.state_dict(), model.state_dict())
    inputs = tiny.tensors(family)
    with torch.no_grad():
        expected, found = model.predict(inputs), loaded.predict(inputs)
    assert torch.equal(found.logits, expected.logits)
    arrays = as_given({name: value.numpy() for name, value in inputs.items()})
    theirs = load_exported(tmp_path)(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    assert torch.equal(theirs.logits, expected.logits)
