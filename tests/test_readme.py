"""The README's commands run, at toy size, and its links lead somewhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import handed
import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BASH = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("  #")[0].strip() for block in BASH for line in block.splitlines()]
TABLE = re.findall(r"^\| `(python sweeps/\w+\.py)`", README, re.MULTILINE)
HANDED = re.findall(r"## Hand it over\n\n```\n(.*?)```", README, re.DOTALL)[0].splitlines()
TUTORIAL = (ROOT / "docs" / "tutorial.py").read_text()
TOY = "--task hidden-digits --seeds 2026,2027 --epochs 1 --alphas 0.3 --teacher-seed 2026 --local"


def run(command: str, folder: Path) -> str:
    words = shlex.split(command.replace("results", str(folder / "results")))
    assert words[0] == "python", command
    ended = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `results` of the demo's command, two seeds of one epoch."""
    folder = tmp_path_factory.mktemp("readme")
    run(f"python sweeps/alpha_sweep.py {TOY} --store results", folder)
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(folder / "an-image.png")
    return folder


def test_make_demo_is_the_command_that_the_readme_names():
    assert "make demo" in COMMANDS
    (command,) = re.findall(r"`(python sweeps/alpha_sweep.py --task hidden-digits .*?)`", README)
    assert command.removeprefix("python ") in (ROOT / "Makefile").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python ")])
def test_every_command_runs(folder, command):
    if "rekd train" in command:
        command += " --epochs 1 --store results"
    if "DIGEST" in command:
        digest = sorted(path.name for path in (folder / "results" / "models").iterdir())[0]
        command = command.replace("DIGEST", digest).replace("an-image.png", str(folder / "an-image.png"))
    assert run(command, folder).strip()


@pytest.mark.slow
@pytest.mark.parametrize("command", TABLE)
def test_every_sweep_of_the_table_has_help_and_a_plan_for_digits(tmp_path, command):
    assert "--task" in run(f"{command} --help", tmp_path)
    assert "to run" in run(f"{command} --task digits --dry-run --store results", tmp_path)


def test_only_make_and_python_are_asked_for():
    assert {command.split()[0] for command in COMMANDS} <= {"make", "python", "ray"}
    assert len(TABLE) == 8


@pytest.fixture(scope="module")
def handing(tmp_path_factory):
    """A folder with nothing but `results` of hidden digits, an image, and what somebody else marked on the test split."""
    from rekd.store.files import Store
    from rekd.tasks.data import load_data
    from rekd.tasks.task import load_task

    folder = tmp_path_factory.mktemp("handing")
    store, task = Store(folder / "results"), load_task("hidden-digits")
    model = handed.kept(store, task, handed.ended(store, task, [0.3], model="vit-student", ratio=3 / 36)[0])
    handed.judged(store, task)
    (folder / "images").mkdir()
    handed.picture(folder / "images" / "a.png")
    marks = [[1] * 3 + [0] * 33] * len(load_data(task).test.labels)
    pd.DataFrame({"mask": marks}).to_parquet(folder / "marks.parquet")
    return folder, model.name


def typed(command: str, folder: Path) -> str:
    """What a command of `rekd` prints in a folder; what serves a page is ended once it says where."""
    beside = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    words = shlex.split(command) + (["--port", "0"] if command.endswith("--serve") else [])
    with subprocess.Popen(
        words, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as begun:
        assert begun.stdout is not None
        if command.endswith("--serve"):
            said = begun.stdout.readline()
            begun.terminate()
            return said
        said = begun.stdout.read()
    assert begun.returncode == 0, f"{command}\n{said}"
    return said


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("rekd", path=Path(sys.executable).parent) is None, reason="no command rekd: pip install -e ."
)
def test_a_trained_model_is_handed_over_as_it_says(handing):
    folder, digest = handing
    said = [typed(line.split("  #")[0].strip().replace("DIGEST", digest), folder) for line in HANDED]
    exported, small, page, serving, scored = said
    assert f"{digest}, the best of vit-student by dev, is in best" in exported
    assert "ONNX, 8-bit: " in small
    assert "1 inputs are explained in page.html." in page
    assert "The page is http://127.0.0.1:" in serving
    assert "those of the file" in scored
    assert (folder / "best" / "modeling_rekd.py").exists()


def test_the_task_file_is_one_that_loads(tmp_path):
    from rekd.tasks.task import load_task

    (text,) = re.findall(r"^# ```toml\n(.*?)^# ```", TUTORIAL, re.DOTALL | re.MULTILINE)
    data = tmp_path / "reviews"
    data.mkdir()
    for name in ("train", "test"):
        (data / f"{name}.csv").write_text("review,verdict\ngood,1\nbad,0\n")
    (tmp_path / "reviews.toml").write_text(re.sub(r"^# ?", "", text, flags=re.MULTILINE))
    task = load_task(tmp_path / "reviews.toml")
    assert task.trial("re", "small", seed=1).p_target == 0.10


@pytest.mark.parametrize("document", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not link.startswith("https://"):
            assert (document.parent / link).exists(), link


def test_the_tree_is_the_tree():
    (tree,) = re.findall(r"## Where things are\n\n```\n(.*?)```", README, re.DOTALL)
    for line in tree.splitlines():
        assert (ROOT / line.split()[0]).is_dir(), line
