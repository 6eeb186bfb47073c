"""`python -m analysis`, and what is behind its commands."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import made_up
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.cli import app
from analysis.query import query
from analysis.status import status
from rekd.command_line import run as run_app
from rekd.store.files import Store
from rekd.store.ledger import Outcome


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("store"))
    made_up.fill(folder)
    return folder


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_select_says_what_and_why(store: str) -> None:
    code, out, _ = run("select", store)
    assert code == 0
    assert "vit-tiny\t15 %\t0.01\t0.2627" in out
    assert "Not eligible: lambda_select 0.001 (ratio 17.96 %, 2.96 points from 15 %)" in out
    assert "# teacher" in out


def test_tables_are_shown_or_written(store: str, tmp_path: Path) -> None:
    code, out, _ = run("tables", store)
    assert code == 0
    assert "cifar10: Predictive performance" in out
    code, out, _ = run("tables", store, "--out", tmp_path, "--format", "latex", "--format", "csv")
    assert code == 0
    assert "7 tables" in out
    assert sorted({path.suffix for path in tmp_path.iterdir()}) == [".csv", ".tex"]
    lambdas = pd.read_csv(tmp_path / "lambda-cifar10.csv")
    assert lambdas[lambdas["chosen"]]["lambda_select"].tolist() == [0.01] * 3


def test_figures_are_written_and_repeatable(store: str, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        assert run("figures", store, "--out", tmp_path / folder, "--format", "svg")[0] == 0
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == [f"{kind}-cifar10.svg" for kind in ("alpha", "lambda", "ratio", "seeds", "training")]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_query_to_text_csv_and_parquet(store: str, tmp_path: Path) -> None:
    sql = "SELECT model, count(*) AS n FROM trials WHERE objective = 'cls' GROUP BY ALL ORDER BY ALL"
    assert run("query", store, sql)[1] == "model,n\nvit-base,3\nvit-small,3\nvit-tiny,3\n"
    for suffix, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        path = tmp_path / f"answer{suffix}"
        assert run("query", store, sql, "--out", path)[0] == 0
        assert read(path)["n"].tolist() == [3, 3, 3]
    joined = query(store, "select count(*) n, max(epoch) e from epochs join trials using (digest) where alpha = 0.3")
    assert joined.to_pylist() == [{"n": 30, "e": 5}]


@pytest.mark.parametrize(
    "sql", ["select nope from trials", "select * from '/etc/passwd'", "copy trials to 'x.csv'", "selec", ""]
)
def test_a_query_sees_the_two_tables_only(
    store: str, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = run("query", store, sql)
    assert code == 2
    assert "quer" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("select", "NOWHERE"),
        ("status", "NOWHERE"),
        ("report", "NOWHERE"),
        ("query", "NOWHERE", "select 1"),
        ("query", "STORE", "select 1", "--out", "x.txt"),
        ("tables", "STORE", "--task", "mnist"),
        ("select", "STORE", "--tolerance", "-1"),
        ("select", "nosuch://bucket"),
    ],
)
def test_bad_input_is_one_message_and_status_2(store: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    places = {"NOWHERE": str(tmp_path / "nowhere"), "STORE": store}
    code, _, error = run(*(places.get(argument, argument) for argument in arguments))
    assert code == 2
    assert error.startswith("Error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["select"], "Missing argument 'STORE'."),
        (["selct"], "No such command 'selct'."),
        (["select", "x", "--tolerance", "much"], "Invalid value for '--tolerance': Input should be a valid number"),
        (["tables", "x", "--format", "word"], "Invalid value for '--format': 'word' is not one of 'markdown', 'latex'"),
        (["status", "x", "--watch"], "No such option: --watch"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(arguments: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        run_app(app, arguments, prog_name="python -m analysis")
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.err.startswith(f"Error: {message}")
    assert captured.err.endswith(" Try --help.\n")
    assert captured.err.count("\n") == 1
    assert all(value in captured.err for value in arguments[3:])
    assert captured.out == ""


def test_help_is_printed(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        run_app(app, ["--help"], prog_name="python -m analysis")
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("Usage: python -m analysis [OPTIONS] COMMAND")


def test_status_of_a_store_in_use(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ledger = made_up.fill(store, [made_up.trial(seed=seed) for seed in (1, 2)])
    failed = made_up.trial(seed=5)
    ledger.write(failed, Outcome(status="failed", error="out of memory"))
    for made, epoch in ((made_up.trial(seed=3), 2), (made_up.trial(seed=1), 5), (failed, 0)):
        store.write(f"{store.running_folder(made.digest)}/trial.json", json.dumps(asdict(made)).encode())
        if epoch:
            store.write(f"{store.running_folder(made.digest)}/epoch-{epoch:05d}.safetensors", b"weights")
    store.write(f"{store.running_folder('f' * 16)}/epoch-00001.safetensors", b"weights")

    now = status(store)
    # A finished trial's leftovers do not run; a failed one that is tried again does.
    assert set(now.running["digest"]) == {made_up.trial(seed=3).digest, failed.digest, "f" * 16}
    kinds = now.kinds.iloc[0]
    assert kinds[["num_ok", "num_failed", "num_diverged", "num_running"]].tolist() == [2, 1, 0, 2]
    each = (61 + 62) / 2
    assert kinds["seconds_each"] == each
    running = now.running.set_index("digest")
    assert running.loc[made_up.trial(seed=3).digest, "seconds_left"] == pytest.approx(3 / 5 * each)
    assert np.isnan(running.loc["f" * 16, "seconds_left"])
    assert now.seconds_left == pytest.approx(each)
    assert not running["is_idle"].any()

    later = status(store, now=pd.Timestamp.now(tz="UTC") + pd.Timedelta(hours=5))
    assert later.running["is_idle"].all()
    assert np.isnan(later.seconds_left)
    code, out, _ = run("status", tmp_path)
    assert code == 0
    assert "cifar10 vit-tiny re seed=3: epoch 2 of 5" in out
    assert f"{'f' * 16} trial: epoch 1" in out
    shutil.rmtree(tmp_path / "running")
    assert status(store).running.empty
