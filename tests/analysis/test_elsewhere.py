"""A store's numbers in other programs: LaTeX macros, CSV and Parquet."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import made_up
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from analysis import load_trials
from analysis.cli import app
from analysis.copies import ledger_files
from analysis.experiment import split_stages
from analysis.macros import _value, macro_name, to_macros
from analysis.tables import performance_table
from rekd.store.ledger import Ledger, Outcome

MACRO = re.compile(r"\\newcommand\{\\([a-zA-Z]+)\}\{(.*)\} % .*")


def macros(store: str) -> dict[str, str]:
    first, *lines = to_macros(split_stages(load_trials(store)), source=f"the store {store}").splitlines()
    assert first.startswith(f"% {len(lines)} numbers of the store {store}")
    found = [(str(match[1]), str(match[2])) for line in lines if (match := MACRO.fullmatch(line))]
    assert len(found) == len(lines) == len(dict(found))
    return dict(found)


def test_a_macro_a_number_of_the_main_tables(tmp_path: Path) -> None:
    made_up.fill(str(tmp_path))
    found = macros(str(tmp_path))
    table = performance_table(split_stages(load_trials(str(tmp_path))))
    (row,) = table[(table["model"] == "vit-tiny") & (table["objective"] == "rekd")].to_dict("records")
    assert found["rekdAccuracyCifarOneZeroRekdVitTiny"] == f"{row['test_accuracy']:.3f}"
    assert found["rekdSeedsCifarOneZeroRekdVitTiny"] == "3"
    assert found["rekdGainCifarOneZeroRekdVitTiny"] == f"{row['change']:.3f}"


def test_settings_of_one_model_have_names_of_their_own(tmp_path: Path) -> None:
    made_up.fill_mixed(str(tmp_path))
    names = [name for name in macros(str(tmp_path)) if name.startswith("rekdAccuracyCifarOneZeroReVitTiny")]
    assert len(names) > 1


def test_two_numbers_of_one_name_are_refused(tmp_path: Path) -> None:
    made_up.fill(str(tmp_path), made_up.paper_trials(task="a-b") + made_up.paper_trials(task="a_b"))
    with pytest.raises(ValueError, match=r"Two numbers would be \\rekdAccuracyABClsVitBase: "):
        macros(str(tmp_path))


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("num_seeds", 3.0, "3"),
        ("test_accuracy", 0.6915, "0.692"),
        ("difference", -0.05, "-0.050"),
        ("p_value", 0.0412, "0.041"),
        ("p_value", 1.23e-7, r"\ensuremath{1.2\times 10^{-7}}"),
    ],
)
def test_values_are_what_tex_prints(column: str, value: float, text: str) -> None:
    assert _value(column, value) == text


def test_a_paper_that_uses_them_compiles_where_there_is_latex(tmp_path: Path) -> None:
    """Without LaTeX, that the file holds nothing that TeX would stumble over."""
    made_up.fill(str(tmp_path / "a %_\n$store"))
    text = CliRunner().invoke(app, ["macros", str(tmp_path / "a %_\n$store")]).stdout
    assert all(line.startswith("%") or MACRO.fullmatch(line) for line in text.splitlines())
    if shutil.which("pdflatex"):
        (tmp_path / "numbers.tex").write_text(text)
        (tmp_path / "paper.tex").write_text(
            r"\documentclass{article}\input{numbers}\begin{document}\rekdAccuracyCifarOneZeroRekdVitTiny\end{document}"
        )
        command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


def test_names_are_letters_whatever_the_words(tmp_path: Path) -> None:
    assert macro_name("Ratio", "café-Ω_2.5", "") == "rekdRatioCafTwoPointFive"


def test_the_ledger_is_written_whole_in_both_formats(tmp_path: Path) -> None:
    made_up.fill(str(tmp_path / "store"))
    for kind in ("csv", "parquet"):
        arguments = ["export-ledger", str(tmp_path / "store"), "--to", kind, "--out", str(tmp_path / "out")]
        assert CliRunner().invoke(app, arguments).stdout.startswith(f"trials.{kind}, epochs.{kind} are in ")
    read = pd.read_csv(tmp_path / "out/epochs.csv")
    assert read["dev_loss"].tolist() == pq.read_table(tmp_path / "out/epochs.parquet")["dev_loss"].to_pylist()
    assert pq.read_table(tmp_path / "out/trials.parquet").num_rows == Ledger(tmp_path / "store").trials().num_rows


TRACKIO = """
import json, pathlib
log = pathlib.Path(__file__).with_name("log.jsonl")
class Run:
    def __init__(self, **given): self.told = [given]
    def log(self, values, step): self.told.append([step, values])
    def finish(self): log.open("a").write(json.dumps(self.told) + chr(10))
def init(**given): return Run(**given)
"""
"""The three names of trackio that are called, with what they were given in a file: its own cannot be installed beside rekd."""


def test_the_ledger_goes_to_trackio_without_this_program(tmp_path: Path) -> None:
    made_up.fill(str(tmp_path / "store"))
    out = tmp_path / "out"
    said = CliRunner().invoke(app, ["export-ledger", str(tmp_path / "store"), "--to", "trackio", "--out", str(out)])
    assert f"`python {out / 'into_trackio.py'}` puts them there" in said.stdout
    (out / "trackio.py").write_text(TRACKIO)
    ran = subprocess.run([sys.executable, "-I", out / "into_trackio.py"], cwd=tmp_path, capture_output=True, text=True)
    assert "No module named 'trackio'" in ran.stderr  # isolated: nothing beside it is found, and rekd is not asked for
    subprocess.run([sys.executable, out / "into_trackio.py", "mine"], cwd=tmp_path, check=True)
    told = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    epochs = Ledger(tmp_path / "store").epochs().to_pandas()
    assert len(told) == epochs["digest"].nunique()
    (begun, *steps) = told[0]
    digest = begun["name"].split()[-1]
    of_trial = epochs[epochs["digest"] == digest]
    row = Ledger(tmp_path / "store").row(digest)
    assert row is not None
    assert (begun["project"], begun["config"]["lambda_select"]) == ("mine", row["lambda_select"])
    assert [step for step, _ in steps] == of_trial["step"].tolist()
    assert [values["dev_loss"] for _, values in steps] == of_trial["dev_loss"].tolist()
    assert steps[-1][1]["test_accuracy"] == row["test_accuracy"]


def test_no_text_of_the_csv_is_computed_by_a_spreadsheet(tmp_path: Path) -> None:
    Ledger(tmp_path).write(made_up.trial(task="=1+1"), Outcome(status="failed", error="@x"))
    ((_, content), _) = ledger_files(str(tmp_path), "csv")
    assert "'=1+1" in content.decode()
    assert "'@x" in content.decode()
