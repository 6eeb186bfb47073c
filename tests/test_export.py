"""From a row of the ledger to a folder that others load: what is in it, and which trial it is."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import handed
import numpy as np
import pytest
import tiny
import torch

from rekd import load_model
from rekd.command_line import run_app
from rekd.commands import app
from rekd.handover.card import card, plain_cell
from rekd.handover.export import export_model
from rekd.handover.forms import as_given, compare, torch_form
from rekd.handover.onnx_files import onnx_form, write_int8, write_onnx
from rekd.handover.trained_model import best_trial, find_trained
from rekd.store.audits import AUDITS_SCHEMA, Audit, Audits
from rekd.store.files import Store
from rekd.store.saved_model import check
from rekd.tasks.task import load_task

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnxruntime", "onnxscript")),
    reason="needs the extra: pip install -e '.[onnx]'",
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return handed.reviews(tmp_path_factory.mktemp("handed"))


def exported(*arguments: str, capsys: pytest.CaptureFixture, status: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        run_app(app, ["export", *arguments])
    captured = capsys.readouterr()
    assert (ended.value.code or 0) == status, captured.err
    return captured.out + captured.err


def test_a_folder_is_whole_and_is_the_same_model(results, tmp_path, capsys):
    store, (_, _, student) = results
    said = exported(student.name, "--to", str(tmp_path / "out"), "--store", str(store), capsys=capsys)
    folder = tmp_path / "out"
    assert said == f"{student.name} is in {folder}; its card is {folder}/README.md.\n"
    names = {
        "README.md",
        "config.json",
        "model.safetensors",
        "modeling_rekd.py",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {file.name for file in folder.iterdir()} == names
    assert oct(folder.stat().st_mode)[-3:] == "755"
    check(json.loads((folder / "config.json").read_text()), (folder / "model.safetensors").read_bytes())
    assert tiny.same_tensors(load_model(folder).state_dict(), load_model(store, student.name).state_dict())


def test_the_card_says_what_the_ledger_says(results):
    _, (_, _, student) = results
    text = card(find_trained(str(student), "elsewhere"))  # its store lies around it
    assert "# bert-student on planted-reviews" in text
    assert "seed 2026 of 2 of its setting" in text
    assert "| dev loss | 0.200 | 0.225 ± 0.035 |" in text
    assert "| sufficiency by ERASER (test; 0 or less suffices) | 0.050 | 0.050 ± 0.000 |" in text
    assert "It was taught by `bert-teacher`" in text
    assert "| p_target | 0.09375 |" in text
    assert "Texts made by rekd" in text
    assert "rekd 0.2.0, torch 2.13.0; on cpu" in text
    assert "It was not audited" in text
    assert "{" not in text.replace("{\n", "")
    assert "\n\n\n" not in text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "image"])
def test_what_the_card_says_loads_the_model_without_this_program(kind, results, tmp_path):
    """Its code as it stands there, in a process that cannot import `rekd`, without a word of warning."""
    model = results[1][2] if kind == "text" else handed.digits(tmp_path / "store")
    folder = export_model(model, tmp_path / "out")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    program = f"import sys\nsys.modules['rekd'] = None\n{code.replace('FOLDER', str(folder))}"
    environment = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tensor(") == 2
    assert "[transformers]" not in done.stderr


def test_an_audit_is_on_the_card(results):
    store, (_, plain, _) = results
    numbers = {name: 0.5 for name in AUDITS_SCHEMA.names if name not in ("digest", "judge")}
    Audits(store).write(plain.name, Audit(judge="judge", **numbers))
    text = card(find_trained(plain.name, str(store)))
    assert "Audit: " in text
    assert "right about 50.0% of the rationales" in text


def test_without_a_ledger_the_card_claims_no_number(tmp_path):
    model = handed.digits(tmp_path / "store")
    alone = model.rename(tmp_path / "alone")
    text = card(find_trained(str(alone), "elsewhere"))
    assert "No ledger was at hand" in text
    assert "dev loss" not in text
    assert "Optical Recognition" in text


def test_nothing_in_a_name_is_markup():
    assert plain_cell("a|b\n<script>`x`[y](z)") == r"a\|b \<script\>\`x\`\[y\](z)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Which model? Give the digest"),
        (("0123", "--best", "bert-student"), "Which model? Give the digest"),
        (("0123",), "There is neither a folder 0123 nor a model of a trial of that digest"),
        (("--best", "bert"), "has no finished RE or REKD trial of a model bert."),
        (("--best", "bert-student", "--task", "digits"), "has no finished RE or REKD trial of a model bert-student."),
    ],
)
def test_what_is_no_model_is_one_line_and_leaves_nothing(results, tmp_path, capsys, arguments, message):
    store, _ = results
    said = exported(*arguments, "--to", str(tmp_path / "out"), "--store", str(store), capsys=capsys, status=2)
    assert message in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_model_leaves_no_folder_behind(tmp_path, capsys):
    model = handed.digits(tmp_path / "store")
    (model / "model.safetensors").write_bytes(b"no weights")
    assert "could not be read" in exported(str(model), "--to", str(tmp_path / "out"), capsys=capsys, status=2)
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


def test_a_folder_that_is_there_is_left_alone(results, tmp_path, capsys):
    _, (teacher, *_) = results
    (tmp_path / "mine.txt").write_text("mine")
    said = exported(str(teacher), "--to", str(tmp_path), capsys=capsys, status=2)
    assert "is there already and is not empty" in said
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@needs_onnx
def test_forms_need_the_task_they_were_trained_on(results, tmp_path, capsys):
    _, (teacher, *_) = results
    arguments = (str(teacher), "--to", str(tmp_path / "out"), "--onnx", "--task", "digits")
    assert "is not the one that the model was trained on" in exported(*arguments, capsys=capsys, status=2)


def test_the_best_is_the_best_setting_s_best_seed_on_dev(tmp_path):
    store, task = Store(tmp_path), load_task("planted-reviews")
    handed.ended(store, task, [0.01, 0.01], model="bert-student")  # RE: REKD is what was asked about
    chosen = handed.ended(
        store, task, [0.3, 0.2], model="bert-student", objective="rekd", alpha=0.3, teacher_digest="t"
    )
    handed.ended(store, task, [0.1, 0.9], model="bert-student", objective="rekd", alpha=0.5, teacher_digest="t")
    assert best_trial(str(tmp_path), "bert-student") == chosen[1].digest


def test_what_selects_too_much_is_not_eligible(tmp_path):
    from rekd.store.ledger import Ledger

    store, task = Store(tmp_path), load_task("planted-reviews")
    ratios = {0.01: 0.1038, 0.02: 0.1037}  # of 9.375 %, which is 938 basis points: 100 away is still near
    trials = {}
    for weight, ratio in ratios.items():
        trials[weight] = task.trial("re", "bert-student", seed=1, lambda_select=weight)
        Ledger(store).write(trials[weight], handed.row(dev_loss=weight, dev_rationale_ratio=ratio + 0.0001), [])
    assert best_trial(str(tmp_path), "bert-student") == trials[0.02].digest
    Ledger(store).write(trials[0.02], handed.row(dev_rationale_ratio=0.5), [])
    with pytest.raises(ValueError, match="No setting of bert-student has a dev ratio within a percentage point"):
        best_trial(str(tmp_path), "bert-student")


def test_settings_that_do_not_compare_are_not_ranked(tmp_path):
    store, task = Store(tmp_path), load_task("planted-reviews")
    handed.ended(store, task, [0.1], model="bert-student")
    handed.ended(store, task, [0.2], model="bert-student", epochs=3)
    with pytest.raises(ValueError, match=r"differ in epochs \(10, 3\)"):
        best_trial(str(tmp_path), "bert-student")


@needs_onnx
@pytest.mark.parametrize(
    ("family", "budget"),
    [pytest.param(family, None, marks=pytest.mark.slow) for family in tiny.FAMILIES] + [("vit", 0.3)],
)
def test_onnx_gives_the_masks_and_logits_of_the_model(family, budget, tmp_path):
    model = tiny.build(family, budget=budget)
    with torch.no_grad():  # what begins at zero would be divided by its own deviation, which is rounding
        for name, value in model.named_parameters():
            if name.endswith(("cls_token", "distillation_token", "position_embeddings")):
                value.normal_(generator=torch.Generator().manual_seed(len(name)))
    model.save(tmp_path)
    arrays = {name: value.numpy() for name, value in tiny.tensors(family, 3).items()}
    write_onnx(tmp_path, arrays)
    more = {name: value.numpy() for name, value in tiny.tensors(family, 5, seed=7).items()}  # another size of batch
    logits, mask = onnx_form(tmp_path)(more)
    expected = model.predict({name: torch.from_numpy(value) for name, value in more.items()})
    real = more.get("valid", np.ones_like(mask)).astype(bool)
    assert np.array_equal(mask[real], expected.mask.numpy()[real])
    np.testing.assert_allclose(logits, expected.logits.detach().numpy(), atol=1e-4)
    assert set(as_given(more)) == {given.name for given in _inputs(tmp_path)} - {"mask"}
    write_int8(tmp_path)
    rounded, _ = onnx_form(tmp_path, ".int8.onnx")(more)
    assert np.abs(rounded - logits).max() > 0


def _inputs(folder: Path):
    from rekd.handover.onnx_files import _session

    return _session(folder / "predictor.onnx").get_inputs()


def test_forms_are_compared_where_there_is_something_to_compare(tmp_path):
    tiny.build("bert", num_classes=2).save(tmp_path)
    samples = tiny.texts(100)
    first, dropped = compare({"a": (torch_form(tmp_path), 7), "b": (torch_form(tmp_path, drop=True), 7)}, samples)
    assert (first.equal_masks, first.logit_difference, first.num_samples) == (1.0, 0.0, 100)
    assert dropped.equal_masks == 1.0
    assert dropped.logit_difference > 0
    assert first.milliseconds > 0
    logits, _ = torch_form(tmp_path)(samples.arrays)
    assert first.accuracy == pytest.approx((logits.argmax(1) == samples.labels).mean())


def test_a_family_that_the_folder_s_code_does_not_build_is_refused(tmp_path, capsys):
    model = handed.digits(tmp_path / "store")
    handed.changed(model, backbone={"model_type": "swin"})
    said = exported(str(model), "--to", str(tmp_path / "out"), capsys=capsys, status=2)
    assert "A model of the family 'swin' cannot be exported" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "cls"}, "a plain classifier (cls) selects nothing."),
        ({"backbone": {"model_type": "resnet"}}, "and a resnet has none."),
    ],
)
def test_where_nothing_can_be_left_out_drop_is_refused(tmp_path, capsys, changes, message):
    model = handed.digits(tmp_path / "store")
    handed.changed(model, **changes)
    assert message in exported(str(model), "--to", str(tmp_path / "out"), "--drop", capsys=capsys, status=2)
    assert not (tmp_path / "out").exists()
