"""What a notebook imports, and the one command."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rekd
import rekd_command
from rekd import Ledger, Trial, load_model, load_task, run_sweep

REKD = Path(sys.executable).with_name("rekd")


def test_every_public_name_is_there_and_listed():
    assert dir(rekd) == sorted(rekd.__all__) == sorted(rekd._HOMES)
    for name in rekd.__all__:
        assert getattr(rekd, name).__name__ == name
        assert getattr(rekd, name).__doc__
    with pytest.raises(AttributeError, match="module 'rekd' has no attribute 'nothing'"):
        rekd.nothing  # noqa: B018


def test_a_sweep_from_a_notebook_and_from_a_row_to_its_model(tmp_path, capsys):
    digits = load_task("digits")
    trials = [digits.trial("re", "vit-student", seed=seed, epochs=1) for seed in range(2)]
    result = run_sweep(trials, tasks=[digits], store=tmp_path)
    assert result.is_complete
    assert result.num_trained == 2
    assert Ledger(str(tmp_path)).done() == {trial.digest for trial in trials}
    assert run_sweep(trials, tmp_path, tasks=[digits]).num_trained == 0

    model = load_model(tmp_path, trials[0].digest)
    image = torch.from_numpy(np.zeros((1, 1, 8, 8), dtype=np.uint8))
    assert model.predict({"image": image}).logits.shape == (1, 10)
    with pytest.raises(ValueError, match="The trial 0123 has no "):
        load_model(tmp_path, "0123")
    import ray

    assert not ray.is_initialized()  # what was started for it is stopped


def test_a_trial_of_later_is_the_same_class():
    assert rekd.Trial is Trial


def called(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([REKD, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_command_is_ours_in_a_folder_with_modules_of_the_same_names(tmp_path):
    for name in ("analysis", "sweeps", "rekd"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')\n")
    swept = called("alpha-sweep", "--task", "digits", "--dry-run", cwd=tmp_path)
    assert swept.returncode == 0
    assert "30 trials: 0 in the ledger results, 30 to run." in swept.stdout
    asked = called("status", "results", cwd=tmp_path)
    assert asked.returncode == 2
    assert asked.stderr.startswith("Error: There is no store at results.")


@pytest.fixture
def typed(monkeypatch, capsys):
    """Types a command in this process: its exit status and what it printed."""

    def type_(*arguments: str) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["rekd", *arguments])
        with pytest.raises(SystemExit) as end:
            rekd_command.main()
        return end.value.code, *capsys.readouterr()

    return type_


def test_the_command_lists_what_it_can_do(typed):
    status, listed, _ = typed()
    assert status == 0
    for name in rekd_command._commands():
        assert f"\n  {name} " in listed
    assert {"train", "explain", "down", "select", "report", *rekd_command.SWEEPS} <= set(rekd_command._commands())
    status, _, error = typed("alpha_sweep")
    assert status == 2
    assert error.startswith("Error: No such command 'alpha_sweep'. It is one of train, ")
    assert typed("explain", "--help")[1].startswith("Usage: rekd explain ")
    assert typed("search", "--help")[1].startswith("Usage: rekd search ")


def test_every_sweep_is_a_command():
    scripts = (
        file
        for file in Path(rekd_command.__file__).with_name("sweeps").glob("*.py")
        if "__main__" in file.read_text(encoding="utf-8")
    )
    assert {file.stem.replace("_", "-") for file in scripts} == set(rekd_command.SWEEPS)
