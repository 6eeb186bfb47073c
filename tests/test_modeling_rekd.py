"""The file that an exported folder brings along: the same model without this program."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

from rekd.handover import modeling_rekd
from rekd.handover.forms import as_given, load_exported
from rekd.method.streams import evaluation_noise

MODELING = Path(modeling_rekd.__file__)


def given(family: str) -> dict[str, torch.Tensor]:
    arrays = {name: value.numpy() for name, value in tiny.tensors(family).items()}
    return {name: torch.from_numpy(value) for name, value in as_given(arrays).items()}


def saved(family: str, folder: Path, **options):
    model = tiny.build(family, **options)
    model.save(folder)
    return model, load_exported(folder)


def test_it_needs_torch_and_transformers_only():
    imports = [
        node for node in ast.walk(ast.parse(MODELING.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"torch", "transformers"}


def test_it_builds_every_family():
    assert set(modeling_rekd.FAMILIES) == set(tiny.FAMILIES)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"heads": "authors", "predictor_reads": "first_token"},
        {"objective": "cls"},
        {"budget": 0.3, "encoder": "shared"},
    ],
)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_it_answers_as_ours_on_every_family(family, options, tmp_path):
    ours, theirs = saved(family, tmp_path, **options)
    with torch.no_grad():
        expected = ours.predict(tiny.tensors(family))
    found = theirs(**given(family))
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.mask, expected.mask)


@pytest.mark.parametrize("family", ["vit", "bert"])
def test_it_samples_as_ours(family, tmp_path):
    ours, theirs = saved(family, tmp_path)
    with torch.no_grad():
        expected = ours.predict(tiny.tensors(family), sampled_by=evaluation_noise(3, tiny.CPU))
    found = theirs(**given(family), sampled_by=evaluation_noise(3, tiny.CPU))
    assert torch.equal(found.mask, expected.mask)
    assert not torch.equal(found.mask, theirs(**given(family)).mask)


def test_images_of_another_size_are_scaled_as_ours(tmp_path):
    for downscaling in (None, "antialiased"):
        folder = tmp_path / str(downscaling)
        ours = tiny.build("vit")
        ours.description["downscaling"] = downscaling
        for part in (ours.generator, ours.predictor):
            part.backbone.downscaling = downscaling
        ours.save(folder)
        for side in (8, 3):
            image = torch.randint(0, 256, (2, 1, side, side), dtype=torch.uint8)
            assert torch.equal(load_exported(folder)(image=image).logits, ours.predict({"image": image}).logits)


@pytest.mark.parametrize("family", tiny.PATCH_FAMILIES + tiny.TEXT_FAMILIES)
def test_what_is_left_out_takes_no_part(family, tmp_path):
    """Where everything is selected nothing is left out; else the answer is another one, and the same alone as in a batch."""
    _, model = saved(family, tmp_path)
    inputs = given(family)
    whole = torch.ones_like(model(**inputs).mask)
    with torch.no_grad():
        everything = model.predictor.without_the_rest(inputs, whole)
        torch.testing.assert_close(everything, model.predictor(inputs, whole)[0], rtol=0, atol=1e-5)
    dropped = model(**inputs, drop=True)
    assert torch.equal(dropped.mask, model(**inputs).mask)
    assert not torch.allclose(dropped.logits, model(**inputs).logits, atol=1e-3)
    alone = [
        model(**{name: value[row : row + 1] for name, value in inputs.items()}, drop=True).logits for row in range(4)
    ]
    torch.testing.assert_close(torch.cat(alone), dropped.logits, rtol=0, atol=1e-5)


def test_transformers_loads_it_by_the_folders_own_code_where_it_is_told_to(tmp_path):
    """In a process that cannot import this program."""
    from rekd.handover.export import exported_config
    from rekd.handover.trained_model import find_trained

    ours = tiny.build("bert")
    ours.save(tmp_path / "model", details={"inputs": {"input_ids": [8]}, "class_names": ["a", "b", "c"]})
    trained = find_trained(str(tmp_path / "model"), "nowhere")
    assert exported_config(trained.config)["id2label"] == {"0": "a", "1": "b", "2": "c"}
    folder = export(tmp_path / "model", tmp_path / "out")
    program = f"""
import sys, torch
sys.modules["rekd"] = None
from transformers import AutoModel
model = AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True).eval()
ids = torch.arange(3, 11)[None]
print(model.config.id2label[0], model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.tolist())
"""
    environment = {"HF_HOME": str(tmp_path / "hf"), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    name, _, logits = done.stdout.partition(" ")
    ids = torch.arange(3, 11)[None]
    expected = ours.predict({"input_ids": ids, "valid": torch.ones_like(ids)}).logits
    assert name == "a"
    torch.testing.assert_close(torch.tensor(ast.literal_eval(logits)), expected, rtol=0, atol=1e-6)


def export(model: Path, to: Path) -> Path:
    from rekd.handover.export import new_folder, write_export
    from rekd.handover.trained_model import find_trained

    with new_folder(to) as folder:
        write_export(find_trained(str(model), "nowhere"), folder)
    return to


def test_the_copy_is_the_file_and_is_never_run_by_us(tmp_path):
    from rekd import load_model

    model = tiny.build("bert")
    model.save(tmp_path / "model", details={"inputs": {"input_ids": [8]}})
    folder = export(tmp_path / "model", tmp_path / "out")
    assert (folder / "modeling_rekd.py").read_bytes() == MODELING.read_bytes()
    (folder / "modeling_rekd.py").write_text("raise AssertionError")
    assert tiny.same_tensors(load_model(folder).state_dict(), model.state_dict())
    assert load_exported(folder)(**given("bert")).logits.shape == (4, 3)
    shutil.rmtree(folder)
