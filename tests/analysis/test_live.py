"""The report while a sweep runs."""

import asyncio
import json
import re
from dataclasses import asdict

import made_up
import pytest
import torch
from aiohttp.test_utils import TestClient, TestServer
from in_chromium import in_browser, look
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from analysis import live
from analysis.live import LiveReport, points
from rekd.loopback import HOST
from rekd.store.checkpoints import Checkpoints
from rekd.store.files import Store
from rekd.store.ledger import Ledger
from rekd.store.under_way import curve, records_so_far
from rekd.trial import canonical_json


def running(store: Store, *losses: float, seed: int = 7) -> str:
    """A trial that has not ended, with a record of each epoch so far."""
    trial = made_up.trial(seed=seed)
    store.write(store.running_trial_file(trial.digest), canonical_json(asdict(trial)).encode())
    records = [
        {"epoch": epoch, "dev_loss": loss, "dev_accuracy": 0.5, "seconds": 30.0} for epoch, loss in enumerate(losses, 1)
    ]
    if records:
        Checkpoints(store, trial.digest).save(len(records), {"w": torch.zeros(1000)}, {"records": records})
    return trial.digest


def asked(report: LiveReport, *paths: str) -> list[tuple[str, dict[str, str]]]:
    async def ask() -> list[tuple[str, dict[str, str]]]:
        async with TestClient(TestServer(report.app(), host=HOST)) as client:
            answers = [await client.get(path) for path in paths]
            assert all(answer.status == 200 for answer in answers)
            return [(await answer.text(), dict(answer.headers)) for answer in answers]

    return asyncio.run(ask())


def test_records_are_read_without_the_weights(tmp_path, monkeypatch):
    store = Store(tmp_path)
    digest = running(store, 2.0, 1.0)
    monkeypatch.setattr(store, "read", lambda path: pytest.fail(f"all of {path} was read"))
    assert [record["dev_loss"] for record in records_so_far(store, digest)] == [2.0, 1.0]
    assert curve(records_so_far(store, digest), "dev_loss") == [(1, 2.0), (2, 1.0)]


def test_what_is_no_checkpoint_has_no_records(tmp_path):
    store = Store(tmp_path)
    digest = running(store)
    assert records_so_far(store, digest) == []
    header = json.dumps({"__metadata__": {"state": "[1]"}}).encode()
    for content in (b"", b"\xff" * 100, b"\x00" * 8, len(header).to_bytes(8, "little") + header):
        store.write(f"{store.running_folder(digest)}/epoch-00001.safetensors", content)
        assert records_so_far(store, digest) == []
    assert curve([{"epoch": 1, "x": float("nan")}, {"epoch": "1", "x": 1.0}, {}], "x") == []


def test_what_runs_is_told_with_its_curves(tmp_path):
    store = Store(tmp_path)
    running(store, 2.0, 1.0, 1.5)
    ((text, headers),) = asked(LiveReport(str(tmp_path), {}), "/now")
    assert "cifar10 vit-tiny re, seed 7" in text
    assert "epoch 3 of 5, 60 s left" in text  # by its own pace: none of its kind has ended
    assert 'points="0.0,2.0 50.0,28.0 100.0,15.0"' in text
    assert re.fullmatch("[0-9a-f]{16}", headers["X-Report"])


def test_the_page_is_built_anew_when_a_trial_ends_and_only_then(tmp_path, monkeypatch):
    store = Store(tmp_path)
    running(store, 2.0)
    page = LiveReport(str(tmp_path), {})
    (waiting, _), (_, first) = asked(page, "/", "/now")
    assert "Waiting for the first trial" in waiting
    built = []
    write = live.report
    monkeypatch.setattr(live, "report", lambda *arguments, **options: built.append(1) or write(*arguments, **options))
    ended = made_up.trial(seed=8)
    Ledger(store).write(ended, made_up.outcome(ended), [])
    (text, _), (same, _), (now, second) = asked(page, "/", "/", "/now")
    assert first["X-Report"] != second["X-Report"]
    assert f'data-report="{second["X-Report"]}"' in text
    assert "connect-src 'self'" in text
    assert (text == same, len(built)) == (True, 1)
    assert "seed 7" in now


def test_a_name_is_no_markup(tmp_path):
    store = Store(tmp_path)
    trial = made_up.trial(task="<script>alert(1)</script>")
    store.write(store.running_trial_file(trial.digest), canonical_json(asdict(trial)).encode())
    ((text, _),) = asked(LiveReport(str(tmp_path), {}), "/now")
    assert "<script" not in text
    assert "alert(1)" in text


def test_a_line_is_drawn_of_one_point_and_of_equal_ones():
    assert points([(1, 2.0)]) == "0.0,28.0"
    assert points([(1, 2.0), (3, 2.0)]) == "0.0,28.0 100.0,28.0"


def test_the_file_has_nothing_that_asks_a_server(tmp_path):
    made_up.fill(str(tmp_path), [made_up.trial()])
    text = live.report(str(tmp_path))
    assert "fetch(" not in text
    assert "connect-src" not in text


@in_browser
def test_a_browser_shows_what_runs_and_the_report_once_a_trial_has_ended(browser, served, tmp_path):
    running(Store(tmp_path), 2.0, 1.0)
    look(browser, served(LiveReport(str(tmp_path), {}).app()), 390)
    browser.get_log("browser")
    wait = WebDriverWait(browser, 30)
    wait.until(lambda driver: "epoch 2 of 5" in driver.find_element(By.ID, "now").text)
    assert browser.find_elements(By.ID, "asked") == []
    trial = made_up.trial(seed=8)
    Ledger(Store(tmp_path)).write(trial, made_up.outcome(trial), [])
    wait.until(lambda driver: driver.find_elements(By.ID, "asked"))
    wait.until(lambda driver: "seed 7" in driver.find_element(By.ID, "now").text)
    element = "document.documentElement"
    assert browser.execute_script(f"return {element}.scrollWidth - {element}.clientWidth") == 0
    assert browser.get_log("browser") == []
