"""A classifier that was trained here as the start of RE: the paper starts from weights that know the task."""

import pytest
import tiny
import torch

from rekd.method.models import RationaleModel
from rekd.method.pretrained import load_backbone, read_config


@pytest.fixture(params=["vit", "bert"])
def classifier(request, tmp_path):
    model = tiny.build(request.param, "cls", seed=5)
    model.save(tmp_path / "cls")
    return model, str(tmp_path / "cls")


def test_both_backbones_of_an_re_model_start_as_the_classifiers_and_its_heads_anew(classifier):
    model, folder = classifier
    re = RationaleModel.build(objective="re", num_classes=7, dropout=0.1, source=folder)
    of_classifier = model.predictor.backbone.state_dict()
    for backbone in (re.generator.backbone, re.predictor.backbone):
        assert all(torch.equal(value, of_classifier[name]) for name, value in backbone.state_dict().items())
        assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert re.predictor.backbone.state_dict().keys() == of_classifier.keys()
    assert re.predictor.head[1].out_features == 7  # another head: of other classes, if need be
    inputs = tiny.tensors(model.predictor.backbone.config.model_type)
    whole = re.eval().predictor.backbone.contextualise(re.predictor.backbone.embed(inputs), inputs).summary
    same = model.predictor.backbone.contextualise(model.predictor.backbone.embed(inputs), inputs).summary
    assert torch.equal(whole, same)
    assert read_config(folder).model_type == model.predictor.backbone.config.model_type


def test_only_a_classifier_whose_file_is_whole_is_a_start(classifier, tmp_path):
    model, folder = classifier
    tiny.build(model.predictor.backbone.config.model_type, "re").save(tmp_path / "re")
    with pytest.raises(ValueError, match=r"re is of a trial of re, .*Give that of a cls trial, or pretrained weights"):
        load_backbone(str(tmp_path / "re"))
    file = tmp_path / "cls" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match=r"The weights of .*cls could not be loaded: .*Train the trial again"):
        load_backbone(folder)
