"""`python -m analysis`, and what is behind its commands."""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import made_up
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.table import Table as RichTable
from typer.testing import CliRunner

from analysis.cli import app
from analysis.query import query
from analysis.status import status
from rekd.command_line import PlainConsole, run_app
from rekd.store.files import Store
from rekd.store.ledger import Ledger, Outcome


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
    "sql",
    [
        "select nope from trials",
        "select * from '/etc/passwd'",
        "copy trials to 'x.csv'",
        "selec",
        "",
        "select cast(digest as int) from trials",  # an error while rows are fetched
        "select error('boom') from trials",
        "call enable_logging(storage='file', storage_config={'path': 'x'})",
        "select * from enable_logging(storage='file', storage_config={'path': 'x'})",
        "set enable_external_access=true",
        "install httpfs",
    ],
)
def test_a_query_sees_the_two_tables_only(
    store: str, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = run("query", store, sql)
    assert code == 2
    assert error.startswith("Error: The query ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_column_is_told_with_those_that_are_near(store: str) -> None:
    code, _, error = run("query", store, "select dev_los from trials")
    assert code == 2
    assert 'Referenced column "dev_los" not found' in error
    assert "dev_loss" in error
    assert error.endswith("`DESCRIBE trials` and `DESCRIBE epochs` list the columns.\n")
    assert len(error) < 300
    assert "dev_loss,DOUBLE" in run("query", store, "describe trials")[1]


def test_a_query_may_end_the_process_by_no_statement(store: str) -> None:
    """DuckDB aborts where a log that was switched on cannot be written when it closes: in a process of its own."""
    sql = "CALL enable_logging(storage='file', storage_config={'path': '/nowhere/x'})"
    command = [sys.executable, "-m", "analysis", "query", store, sql]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("Error: The query cannot be answered: ")


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
    os.utime(f"{store.running_folder('f' * 16)}/epoch-00001.safetensors", (0, 0))
    assert "ago; it has probably been stopped" in " ".join(run("status", tmp_path)[1].split())
    store.write(store.claim_file("f" * 16, "owner"), b"")
    assert "ago; it hangs, or its sweep was killed" in " ".join(run("status", tmp_path)[1].split())
    shutil.rmtree(tmp_path / "running")
    assert status(store).running.empty


ANYTHING = {
    "seed that int64 cannot hold": json.dumps(asdict(made_up.trial(seed=3)) | {"seed": 2**63}).encode(),
    "epochs of another type": json.dumps(asdict(made_up.trial(seed=3)) | {"epochs": {"a": [1]}, "seed": True}).encode(),
    "a list": b"[1, 2]",
    "deep": b"[" * 100_000,
    "not text": b"\xff\xfe",
    "half": b'{"task": "dig',
    "a number": b"7",
}


@pytest.mark.parametrize("what", ANYTHING)
def test_status_survives_any_file(tmp_path: Path, what: str) -> None:
    store = Store(tmp_path)
    digest = made_up.trial(seed=3).digest
    store.write(store.running_trial_file(digest), ANYTHING[what])
    store.write(f"{store.running_folder(digest)}/epoch-newest.safetensors", b"")
    store.write(f"{store.running_folder(digest)}/epoch-{'9' * 40}.safetensors", b"")
    store.write(f"{store.running_folder(digest)}/epoch-00002.safetensors/in a folder", b"")
    store.write(f"{store.all_running_folder}/a file", b"")
    store.write(f"{store.running_folder('not a digest')}/trial.json", b"")
    now = status(store).running.set_index("digest")
    assert now.loc[digest, "epoch"] == 0
    assert set(now.index) == {digest, "not a digest"}
    code, out, _ = run("status", tmp_path)
    assert code == 0
    assert digest in out


HOSTILE = "=HYPERLINK(0)\x1b]0;owned\x07\x1b[31m"


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    """A store with a trial whose error would be a formula to a spreadsheet and commands to a terminal."""
    store = str(tmp_path / "hostile")
    Ledger(store).write(made_up.trial(), Outcome(status="failed", error=HOSTILE))
    return store


def test_a_text_of_a_store_is_no_formula_in_a_csv_file(hostile: str, tmp_path: Path) -> None:
    run("query", hostile, "select error, -1.5 as number from trials", "--out", tmp_path / "all.csv")
    _, out, _ = run("query", hostile, "select error, -1.5 as number from trials")
    for written in ((tmp_path / "all.csv").read_text(), out):
        assert "'=HYPERLINK" in written
        assert "-1.5" in written
        assert "'-1.5" not in written
    run("query", hostile, "select error from trials", "--out", tmp_path / "all.parquet")
    assert pq.read_table(tmp_path / "all.parquet")["error"].to_pylist() == [HOSTILE]


def test_a_text_of_a_store_is_no_command_to_a_terminal(hostile: str) -> None:
    for command in (("query", hostile, "select error from trials"), ("status", hostile)):
        _, out, err = run(*command)
        assert "\x1b" not in out + err
        assert "\x07" not in out + err


def test_our_own_console_spells_what_others_would_command() -> None:
    console = PlainConsole(file=io.StringIO(), force_terminal=True, width=100)
    table = RichTable()
    table.add_row(HOSTILE, style="red")
    console.print(table)
    console.print(f"[bold]{HOSTILE}[/]")
    said = console.file.getvalue()
    assert "\x1b]0;" not in said
    assert "\\x1b]0;owned" in said
    assert "\x1b[31m" in said  # rich's own red
    assert "\x1b[1m" in said
