"""Backbones: our two halves are the library's own forward, and a mask between them hides what it hides exactly."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, GPT2Config, GPT2Model

from rekd.method.backbones import BACKBONES, Backbone
from rekd.method.models import RationaleModel
from rekd.method.pretrained import load_backbone, read_config


def backbone_of(family: str, **config) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return load_backbone(config={**tiny.CONFIGS[family], "initializer_range": 0.3, **config}).eval()


def library_forward(backbone: Backbone, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """All hidden states of the encoder, as the library itself computes them from an input."""
    if backbone.kind == "image":
        pixels = (inputs["image"] / 255 - 0.5) / 0.5
        return backbone.encoder(pixel_values=pixels).last_hidden_state
    return backbone.encoder(input_ids=inputs["input_ids"], attention_mask=inputs["valid"]).last_hidden_state


# --- The two halves -------------------------------------------------------------------------------------------------


def test_every_family_is_tested_here():
    assert set(tiny.FAMILIES) == set(BACKBONES)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_embed_and_contextualise_are_the_librarys_own_forward(family):
    backbone, inputs = backbone_of(family), tiny.tensors(family)
    contextual = backbone.contextualise(backbone.embed(inputs), inputs)
    expected = library_forward(backbone, inputs)

    if family in ("resnet", "convnext"):
        cells, pooled = expected.flatten(2).transpose(1, 2), expected.mean(dim=(2, 3))
        if family == "convnext":
            cells, pooled = (backbone.encoder.layernorm(values) for values in (cells, pooled))
        torch.testing.assert_close(contextual.features, cells)
        torch.testing.assert_close(contextual.summary, pooled)
        return
    num_prefix = {"vit": 1, "deit": 2, "dinov2": 1}.get(family, 0)
    torch.testing.assert_close(contextual.features, expected[:, num_prefix:])  # padding too: it may be selected
    if family in ("bert", "albert"):
        pooler = backbone.encoder.pooler
        pooled = torch.tanh((pooler if family == "albert" else pooler.dense)(expected[:, 0]))
        torch.testing.assert_close(contextual.summary, pooled)
    else:
        torch.testing.assert_close(contextual.summary, expected[:, 0])

    other = backbone.contextualise(backbone.embed(tiny.tensors(family, seed=1)), inputs)
    assert not torch.allclose(other.summary, contextual.summary, atol=1e-2)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_features_are_what_is_selected_among(family):
    backbone, inputs = backbone_of(family), tiny.tensors(family)
    expected = 16 if backbone.kind == "image" else 8
    assert backbone.num_features(inputs) == expected
    assert backbone.embed(inputs).shape[:2] == (4, expected)
    assert backbone.contextualise(backbone.embed(inputs), inputs).features.shape == (4, expected, 16)


def test_electras_embeddings_are_masked_before_they_are_widened():
    backbone, inputs = backbone_of("electra"), tiny.tensors("electra")
    assert backbone.embed(inputs).shape[-1] == 8 != backbone.hidden_size


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_the_backbone_of_a_generator_has_no_pooler(family):
    config = tiny.CONFIGS[family]
    assert load_backbone(config=config, for_classifier=False).encoder.pooler is None
    assert load_backbone(config=config).encoder.pooler is not None


@pytest.mark.parametrize("heads", ["linear", "authors"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_trainable_parameter_gets_a_gradient(family, heads):
    model, inputs = tiny.build(family, heads=heads), tiny.tensors(family)
    assert model.generator is not None
    mask = model.generator(inputs).softmax(-1)[..., 1]
    model.predictor(inputs, mask).square().sum().backward()
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    without = {name for name, parameter in trainable.items() if parameter.grad is None or not parameter.grad.any()}
    assert without == set()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_rationale_of_an_image_has_rows_and_columns(family):
    backbone = backbone_of(family)
    assert backbone.grid == ((4, 4) if backbone.kind == "image" else None)
    assert (backbone.processor() is None) == (backbone.kind == "text")


# --- Faithfulness ---------------------------------------------------------------------------------------------------


def changed(family: str, inputs: dict[str, torch.Tensor], feature: int) -> dict[str, torch.Tensor]:
    """The inputs with other content in one feature of every sample."""
    if "image" in inputs:
        image = inputs["image"].clone()
        side = image.shape[-1] // 4
        row, column = (place * side for place in divmod(feature, 4))
        cell = image[..., row : row + side, column : column + side]
        cell.copy_(255 - cell)
        return {"image": image}
    ids = inputs["input_ids"].clone()
    ids[:, feature] = torch.where(ids[:, feature] == 5, 6, 5)
    return {**inputs, "input_ids": ids}


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_with_the_mask_held_only_selected_features_reach_the_prediction(family):
    model, inputs = tiny.build(family), tiny.tensors(family)
    num_features = model.num_features(inputs)
    mask = (torch.rand(4, num_features, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    mask[:, 0], mask[:, 1] = 1, 0
    logits = model.predictor(inputs, mask)

    for feature in range(num_features):
        after = model.predictor(changed(family, inputs, feature), mask)
        unselected = mask[:, feature] == 0
        assert torch.equal(after[unselected], logits[unselected])  # to the last bit
        real = ~unselected
        if "valid" in inputs:
            real &= inputs["valid"][:, feature].bool()
        assert (after[real] != logits[real]).any(dim=-1).all()

    everything_unselected = inputs
    for feature in range(num_features):
        if (mask[:, feature] == 0).all():
            everything_unselected = changed(family, everything_unselected, feature)
    assert torch.equal(model.predictor(everything_unselected, mask), logits)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_with_nothing_selected_all_inputs_of_a_length_are_one(family):
    model = tiny.build(family)
    first, second = (tiny.tensors(family, seed=seed) for seed in (0, 1))
    nothing = torch.zeros(4, model.num_features(first))
    assert torch.equal(model.predictor(first, nothing), model.predictor(second, nothing))
    assert not torch.allclose(model.predictor(first), model.predictor(second), atol=1e-3)
    assert torch.equal(model.predictor(first), model.predictor(first, 1 - nothing))  # no mask keeps everything


@pytest.mark.parametrize("family", tiny.TEXT_FAMILIES)
@torch.no_grad()
def test_padding_reaches_neither_prediction_nor_selection(family):
    """The attention mask stays: what stands in a padded position changes nothing, selected or not."""
    model, inputs = tiny.build(family), tiny.tensors(family)
    padded = inputs["valid"] == 0
    assert padded.any()
    other = {**inputs, "input_ids": torch.where(padded, 9, inputs["input_ids"])}
    everything = torch.ones(4, 8)
    torch.testing.assert_close(model.predictor(other, everything), model.predictor(inputs, everything))
    torch.testing.assert_close(model.generator(other)[~padded], model.generator(inputs)[~padded])

    seen = {**inputs, "valid": torch.ones_like(inputs["valid"])}
    shorter = padded.any(dim=1)
    assert not torch.allclose(model.predictor(seen, everything)[shorter], model.predictor(inputs, everything)[shorter])


@pytest.mark.parametrize("family", tiny.TEXT_FAMILIES)
@torch.no_grad()
def test_a_text_says_the_same_with_more_padding(family):
    model, inputs = tiny.build(family), tiny.tensors(family)
    padding = 1 if family == "roberta" else 0
    longer = {
        "input_ids": torch.nn.functional.pad(inputs["input_ids"], (0, 3), value=padding),
        "valid": torch.nn.functional.pad(inputs["valid"], (0, 3)),
    }
    torch.testing.assert_close(model.predictor(longer), model.predictor(inputs))


def test_the_gradient_of_an_unselected_feature_is_that_of_its_mask_alone():
    """It has none of its own, yet the mask's gradient tells the generator what selecting it would do."""
    model, inputs = tiny.build("vit"), tiny.tensors("vit")
    mask = torch.zeros(4, 16)
    mask[:, :4] = 1
    mask.requires_grad_()
    embeddings = model.predictor.backbone.embed(inputs).detach().requires_grad_()
    backbone = model.predictor.backbone
    backbone.contextualise(embeddings * mask.unsqueeze(-1), inputs).summary.square().sum().backward()
    assert embeddings.grad[:, 4:].abs().max() == 0
    assert embeddings.grad[:, :4].abs().max() > 0
    assert mask.grad[:, 4:].abs().min() > 0


def test_a_convolutional_network_has_whole_cells():
    with pytest.raises(ValueError, match=r"cells of 2 x 2 pixels, got image_size 7 x 7 pixels.*a multiple of 2"):
        backbone_of("convnext", image_size=7)
    assert backbone_of("convnext", image_size=[8, 4]).grid == (4, 2)
    config = {name: value for name, value in tiny.CONFIGS["resnet"].items() if name != "image_size"}
    assert load_backbone(config=config).grid == (56, 56)
    assert backbone_of("resnet", depths=[1, 1], hidden_sizes=[8, 16], downsample_in_first_stage=True).grid == (1, 1)


# --- Images ---------------------------------------------------------------------------------------------------------


def test_images_are_normalised_and_scaled_on_the_device_from_8_bits():
    backbone = backbone_of("vit")
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).repeat(16)[:16].view(1, 1, 4, 4)
    assert backbone.pixel_values(image).unique().tolist() == pytest.approx([-1, -0.6, 1])
    small = image[:, :, :2, :2]
    scaled = backbone.pixel_values(small)
    assert scaled.shape == (1, 1, 4, 4)
    expected = torch.nn.functional.interpolate((small / 255 - 0.5) / 0.5, size=(4, 4), mode="bilinear")
    torch.testing.assert_close(scaled, expected)


def sides(size: int, side: int, *, seed: int = 0) -> np.ndarray:
    """A photograph, as far as scaling is concerned: smooth shapes of all sizes. uint8 [side, side]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    waves = [rng.normal() * np.sin(2 * np.pi * (f * rows + g * columns)) for f in range(size) for g in range(size)]
    values = np.sum(waves, axis=0)
    return np.rint(255 * (values - values.min()) / (values.max() - values.min())).astype(np.uint8)


def scaled(image: np.ndarray, downscaling: str | None) -> np.ndarray:
    """An image as the encoder of 32 x 32 pixels sees it, in 0..255."""
    backbone = backbone_of("vit", image_size=32, patch_size=8)
    backbone.downscaling = downscaling
    pixels = backbone.pixel_values(torch.from_numpy(image)[None, None])[0, 0]
    return (pixels.numpy() + 1) * 127.5


def test_images_that_are_larger_are_scaled_down_as_pillow_does():
    from PIL import Image

    lines = np.zeros((256, 256), np.uint8)
    lines[::8] = 255  # one white line in eight
    for image in (lines, sides(40, 256)):
        expected = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR), dtype=float)
        assert np.abs(scaled(image, "antialiased") - expected).mean() < 0.5
        assert np.abs(scaled(image, None) - expected).mean() > 5  # as 0.1.0 did
    assert scaled(lines, "antialiased").mean() == pytest.approx(255 / 8, abs=0.5)
    assert scaled(lines, None).mean() == 0


def test_images_that_are_smaller_are_scaled_up_as_ever():
    small = sides(3, 8)
    assert np.array_equal(scaled(small, "antialiased"), scaled(small, None))


def test_images_that_are_larger_are_refused_where_the_trial_does_not_say_how_they_are_scaled():
    backbone = backbone_of("vit")
    larger = {"image": np.zeros((1, 1, 4, 9), np.uint8)}
    with pytest.raises(
        ValueError,
        match=r"reads images of 4 x 4 pixels, the task's have 9 x 4 pixels\. Set image_size = 4 in the task, or",
    ):
        backbone.check(larger)
    backbone.downscaling = "antialiased"
    backbone.check(larger)


def test_the_mean_and_deviation_of_pretrained_weights_are_used(tmp_path):
    import stand_ins

    folder = stand_ins.save_vit(tmp_path)
    black = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert load_backbone(str(folder)).pixel_values(black).unique().tolist() == [-1]
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.2] * 3, "image_std": [0.1] * 3}))
    assert load_backbone(str(folder)).pixel_values(black).unique().tolist() == pytest.approx([-2])
    file.unlink()
    assert load_backbone(str(folder)).pixel_values(black).unique().tolist() == [-1]


def save_backbone(backbone: Backbone, folder: Path) -> None:
    """As pretrained weights are published: with what prepares an image."""
    backbone.encoder.save_pretrained(folder)
    if (processor := backbone.processor()) is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))


# --- Loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_backbone_has_the_weights_of_its_folder(family, tmp_path):
    original = backbone_of(family)
    save_backbone(original, tmp_path)
    loaded = load_backbone(str(tmp_path)).eval()
    inputs = tiny.tensors(family)
    pairs = [backbone.contextualise(backbone.embed(inputs), inputs).features for backbone in (original, loaded)]
    assert torch.equal(*pairs)
    drawn = load_backbone(config=tiny.CONFIGS[family]).eval()
    assert not torch.allclose(drawn.contextualise(drawn.embed(inputs), inputs).features, pairs[0])


def test_an_unknown_family_lists_those_that_have_an_adapter(tmp_path):
    GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=8, n_positions=8)).save_pretrained(tmp_path)
    listed = re.escape(f"Families: {', '.join(sorted(BACKBONES))}.")
    with pytest.raises(ValueError, match=f"is of the family 'gpt2', which has no adapter here. {listed}"):
        load_backbone(str(tmp_path))
    with pytest.raises(ValueError, match=f"is of the family 'llama'.*{listed}"):
        read_config(config={"model_type": "llama"})
    with pytest.raises(ValueError, match="needs a source or a config with its model_type"):
        load_backbone(config={"hidden_size": 16})


def test_a_source_that_is_not_there_says_what_to_give_instead(tmp_path):
    with pytest.raises(
        ValueError, match=r"nowhere of a model is not there. Give one that was written by save_pretrained"
    ):
        load_backbone(str(tmp_path / "nowhere"))


def test_weights_of_another_architecture_are_refused(tmp_path):
    encoder = backbone_of("vit").encoder
    encoder.save_pretrained(tmp_path)
    encoder.config.num_hidden_layers = 3
    encoder.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"do not fit its own config: \d+ missing"):
        load_backbone(str(tmp_path))
    encoder.config.num_hidden_layers, encoder.config.intermediate_size = 2, 48
    encoder.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"do not fit its own config: 0 missing, \d+ of another shape"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_weights_without_a_place_in_the_encoder_are_refused_and_those_of_heads_are_left_behind(family, tmp_path):
    backbone = backbone_of(family)
    save_backbone(backbone, tmp_path)
    prefix = backbone.encoder.base_model_prefix
    weights = load_file(tmp_path / "model.safetensors")
    harmless = {"classifier.weight": torch.zeros(2), f"{prefix}.embeddings.position_ids": torch.arange(3)[None]}

    def load_with(more: dict[str, torch.Tensor]) -> Backbone:
        named = {f"{prefix}.{name}": value for name, value in weights.items()}
        save_file({**named, **more}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return load_backbone(str(tmp_path))

    assert tiny.same_tensors(load_with(harmless).state_dict(), backbone.state_dict())
    first = next(name for name in weights if any(part in name for part in (".attention", ".attn", "conv")))
    embeddings = "embedder" if family == "resnet" else "embeddings"
    for name in (f"{prefix}.{embeddings}.distances.weight", f"{prefix}.{first}.more"):
        with pytest.raises(
            ValueError, match="do not fit its own config: 0 missing, 0 of another shape, 1 without a use"
        ):
            load_with({**harmless, name: torch.zeros(2)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"position_embedding_type": "relative_key"},
            "has position_embedding_type = 'relative_key', which its library",
        ),
        ({"is_decoder": True}, "has is_decoder = true: its tokens do not see those behind them. Choose an encoder"),
        ({"add_cross_attention": True}, "has add_cross_attention = true"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "is quantised, and so cannot be trained"),
        ({"num_hidden_layers": 1}, r"0 missing, 0 of another shape, \d+ without a use, such as encoder.layer.1"),
        ({"hidden_act": "nonsense"}, "The weights of .* could not be loaded: KeyError: 'nonsense'"),
        ({"attn_implementation": "flash_attention_2"}, "The weights of .* could not be loaded: ImportError: Flash"),
        ({"dtype": "nonsense"}, "The configuration of the model .* could not be read: AttributeError: module 'torch'"),
        ({"id2label": 3}, "The configuration of the model .* could not be read: AttributeError"),
    ],
)
def test_what_a_configuration_asks_for_in_vain_is_refused_in_one_line(changes, message, tmp_path):
    backbone_of("bert").encoder.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(ValueError, match=message) as caught:
        load_backbone(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_config_of_a_task_is_refused_as_one_of_a_folder_is():
    with pytest.raises(
        ValueError, match=r"The config of a 'bert' is not valid: KeyError: 'nonsense'\. Correct its values"
    ):
        backbone_of("bert", hidden_act="nonsense")
    with pytest.raises(ValueError, match="The model config has is_decoder = true"):
        backbone_of("bert", is_decoder=True)


def test_too_little_memory_is_nothing_wrong_with_a_model(monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr("rekd.method.pretrained.AutoModel.from_config", full)
    with pytest.raises(MemoryError):
        backbone_of("bert")


def test_a_missing_pooler_is_no_reason_to_refuse(tmp_path):
    AutoModel.from_config(read_config(config=tiny.CONFIGS["bert"]), add_pooling_layer=False).save_pretrained(tmp_path)
    assert load_backbone(str(tmp_path)).encoder.pooler is not None


def test_damaged_weights_are_refused_with_a_reason(tmp_path):
    backbone_of("vit").encoder.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="could not be loaded"):
        load_backbone(str(tmp_path))


def test_weights_that_are_not_all_numbers_are_refused(tmp_path):
    encoder = backbone_of("vit").encoder
    with torch.no_grad():
        encoder.layernorm.weight[0] = torch.nan
    encoder.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"not all numbers, such as layernorm.weight\. Fetch or save"):
        load_backbone(str(tmp_path))


def test_weights_in_parts_and_of_half_precision_are_read_and_two_sets_of_them_are_refused(tmp_path):
    encoder = backbone_of("bert").encoder.half()
    encoder.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert tiny.same_tensors(load_backbone(str(tmp_path)).encoder.state_dict(), encoder.float().state_dict())
    encoder.save_pretrained(tmp_path / "whole")
    (tmp_path / "whole/model.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds weights twice: model.safetensors, and the files of .*\. Keep one"):
        load_backbone(str(tmp_path))


# --- Models of strangers --------------------------------------------------------------------------------------------


class Touch:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def save_bin(folder: Path, content: dict) -> None:
    """A BERT as the paper's are: `pytorch_model.bin`, and no safetensors."""
    backbone_of("bert").encoder.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**weights, **content}, folder / "pytorch_model.bin")


def test_a_pytorch_model_bin_is_read(tmp_path):
    save_bin(tmp_path, {})
    assert tiny.same_tensors(
        load_backbone(str(tmp_path)).encoder.state_dict(), backbone_of("bert").encoder.state_dict()
    )


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickled_object_in_a_pytorch_model_bin_is_refused_and_does_nothing(tmp_path, is_zip):
    file, marker = tmp_path / "model/pytorch_model.bin", tmp_path / "written"
    save_bin(tmp_path / "model", {"extra": Touch(marker)})
    if not is_zip:
        file.write_bytes(pickle.dumps({"extra": Touch(marker)}))
    with pytest.raises(
        ValueError, match=r"The weights of .*model could not be loaded: a file of theirs holds more than tensors"
    ):
        load_backbone(str(tmp_path / "model"))
    assert not marker.exists()
    if is_zip:
        torch.load(file, weights_only=False)
    else:
        pickle.loads(file.read_bytes())
    assert marker.exists()  # it was one that would have


@pytest.mark.parametrize("upstream", ["", "somebody/else--"])
def test_a_model_that_brings_code_is_refused_without_a_question(tmp_path, monkeypatch, upstream):
    marker = tmp_path / "written"
    (tmp_path / "model").mkdir()
    auto_map = dict.fromkeys(("AutoConfig", "AutoModel"), f"{upstream}code.Mine")
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": "mine", "auto_map": auto_map}))
    (tmp_path / "model/code.py").write_text(f"open({str(marker)!r}, 'w')\nclass Mine: pass\n")
    asked = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    with pytest.raises(
        ValueError, match=r"could not be read: it needs code of its own, which is not run here\. Give one"
    ) as one:
        load_backbone(str(tmp_path / "model"))
    assert "\n" not in str(one.value)
    assert not asked
    assert not marker.exists()


def test_code_beside_a_model_of_a_known_family_is_left_alone(tmp_path):
    backbone_of("bert").encoder.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModel"), "code.Mine")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise AssertionError")
    assert type(load_backbone(str(tmp_path)).encoder).__module__.startswith("transformers.")
    assert load_backbone(config=config).hidden_size == 16


# --- What a backbone cannot read ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "arrays", "message"),
    [
        ("vit", {"input_ids": np.zeros((1, 4), int)}, "reads images, got input_ids. Choose an encoder of texts"),
        (
            "vit",
            {"image": np.zeros((1, 3, 4, 4), np.uint8)},
            "reads 1 channels, the task's images have 3. Set image_mode",
        ),
        ("bert", {"image": np.zeros((1, 1, 4, 4), np.uint8)}, "reads texts, got image. Choose an encoder of images"),
        (
            "bert",
            {"input_ids": np.zeros((1, 13), int)},
            "positions for 12 tokens, the task's texts have 13. Lower max_length",
        ),
        ("roberta", {"input_ids": np.zeros((1, 13), int)}, "positions for 12 tokens"),
        ("bert", {"input_ids": np.full((1, 4), 40)}, "knows 40 tokens, the tokenizer gave number 40"),
    ],
)
def test_samples_that_an_encoder_cannot_read_are_refused(family, arrays, message):
    with pytest.raises(ValueError, match=message):
        backbone_of(family).check(arrays)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_samples_that_an_encoder_can_read_pass(family):
    backbone = backbone_of(family)
    backbone.check({name: value.numpy() for name, value in tiny.tensors(family).items()})
    if backbone.kind == "text":  # the longest that it has positions for
        ids = torch.full((1, tiny.MAX_LENGTH), tiny.VOCABULARY - 1)
        inputs = {"input_ids": ids, "valid": torch.ones_like(ids)}
        backbone.check({"input_ids": ids.numpy()})
        assert backbone.contextualise(backbone.embed(inputs), inputs).features.isfinite().all()


def test_a_models_kind_is_that_of_its_backbone():
    assert tiny.build("vit").kind == "image"
    assert tiny.build("bert", "cls").kind == "text"
    assert isinstance(tiny.build("bert", "cls"), RationaleModel)
