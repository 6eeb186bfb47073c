"""The page to try models on: what it answers, to whom, and in a real browser."""

import asyncio
import io

import aiohttp
import handed
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from handed import TEXT
from in_chromium import in_browser, look
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from rekd.command_line import run_app
from rekd.commands import app
from rekd.handover import try_page
from rekd.handover.side_by_side import named_explainers
from rekd.handover.try_page import TryPage
from rekd.loopback import HOST, Route, loopback_app


@pytest.fixture(scope="module")
def reads(tmp_path_factory):
    return named_explainers(handed.reviews(tmp_path_factory.mktemp("reads"))[1])


@pytest.fixture(scope="module")
def sees(tmp_path_factory):
    return named_explainers([handed.digits(tmp_path_factory.mktemp("sees"))])


def asked(application: web.Application, method: str, path: str, **options) -> tuple[int, str, dict[str, str]]:
    async def ask():
        async with TestClient(TestServer(application, host=HOST)) as client:
            response = await client.request(method, path, **options)
            return response.status, await response.text(), dict(response.headers)

    return asyncio.run(ask())


def png(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side), 100).save(buffer, format="PNG")
    return buffer.getvalue()


def test_the_page_runs_its_own_script_alone_and_asks_nobody(reads):
    status, text, headers = asked(TryPage(reads).app(), "GET", "/")
    assert status == 200
    assert "RE bert-teacher, RE bert-student, REKD bert-student" in text
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; img-src data:;")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "http" not in text


def test_a_text_is_answered_by_every_model_and_escaped(reads):
    status, text, _ = asked(TryPage(reads).app(), "POST", "/explain?features=", data=f"{TEXT} <b>bold</b>".encode())
    assert status == 200
    assert text.count("<section>") == 3
    assert "<b>bold" not in text
    assert "bold" in text


def test_a_slider_sets_how_much_is_read(reads):
    page = TryPage(reads)
    assert page.num_features == 32
    _, text, _ = asked(page.app(), "POST", "/explain?features=8", data=TEXT.encode())
    assert text.count("from 25.0&nbsp;% of the features") == 3


def test_an_image_is_answered_with_its_contour(sees):
    status, text, _ = asked(TryPage(sees).app(), "POST", "/explain?features=3", data=png(60))
    assert status == 200
    assert "from 8.3&nbsp;% of the features" in text
    assert 'class="contour"' in text


@pytest.mark.parametrize(
    ("models", "query", "content", "message"),
    [
        ("reads", "", b" ", "An input is an empty text"),
        ("reads", "", b"\xff\xfe", "can't decode byte"),
        ("reads", "", b"x" * 100_001, "A text has 100,000 characters at most here, this one has 100,001."),
        ("reads", "0", b"x", "A number of features is one of 1 to 32."),
        ("reads", "1e9", b"x", "A number of features is one of 1 to 32."),
        ("sees", "", b"no image", "That is no image that can be read."),
        ("sees", "", png(7000), "An image has 40,000,000 pixels at most here, this one has 49,000,000."),
    ],
)
def test_what_is_no_input_is_a_sentence(request, models, query, content, message):
    application = TryPage(request.getfixturevalue(models)).app()
    status, text, _ = asked(application, "POST", f"/explain?features={query}", data=content)
    assert status == 422
    assert message in text
    assert "\n" not in text


def test_an_upload_has_an_end(sees, monkeypatch):
    monkeypatch.setattr(try_page, "LARGEST", 1000)
    status, _, headers = asked(TryPage(sees).app(), "POST", "/explain", data=b"x" * 2000)
    assert status == 413
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_an_answer_that_takes_long_is_given_up(reads, monkeypatch):
    monkeypatch.setattr(try_page, "PATIENCE", 0.0)
    assert asked(TryPage(reads).app(), "POST", "/explain", data=TEXT.encode())[0] == 503


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:1", "Origin": "http://evil.example:1"},
        {"Origin": "https://evil.example"},
    ],
)
def test_other_sites_are_not_answered(reads, headers):
    """By a name of theirs that leads here, or by a form of theirs that is sent here."""
    for method, path in (("GET", "/"), ("POST", "/explain")):
        status, text, _ = asked(TryPage(reads).app(), method, path, headers=headers)
        assert status == 403
        assert "bert" not in text


def test_a_folder_that_is_none_and_a_port_that_is_taken_are_one_line(reads, capsys, tmp_path):
    folder = handed.digits(tmp_path)
    with TestPort() as taken:
        for arguments, message in (
            (["some text"], "some text is no folder of a trained model; the page of --serve takes its inputs itself."),
            (["--port", str(taken)], f"Port {taken} of this machine is taken"),
        ):
            with pytest.raises(SystemExit) as ended:
                run_app(app, ["explain", str(folder), "--serve", *arguments])
            captured = capsys.readouterr()
            assert ended.value.code == 2
            assert message in captured.err
            assert captured.err.count("\n") == 1


class TestPort:
    """A port of this machine that somebody listens on."""

    __test__ = False

    def __enter__(self) -> int:
        import socket

        self.socket = socket.create_server((HOST, 0))
        return self.socket.getsockname()[1]

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def wait(browser: webdriver.Chrome, condition) -> None:
    WebDriverWait(browser, 20).until(lambda driver: condition(driver))


def overflow(browser: webdriver.Chrome) -> int:
    return browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")


@in_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_typing_shows_what_every_model_reads_and_sliding_changes_it(browser, served, reads, width):
    look(browser, served(TryPage(reads).app()), width)
    browser.get_log("browser")
    browser.find_element(By.ID, "text").send_keys(f"{TEXT} <img src=x onerror=alert(1)>")
    wait(browser, lambda driver: len(driver.find_elements(By.CSS_SELECTOR, "#answer section")) == 3)
    assert browser.find_elements(By.CSS_SELECTOR, "#answer img") == []
    before = browser.find_element(By.ID, "answer").text
    browser.execute_script(
        "const slider = document.getElementById('features'); slider.value = 20;"
        "slider.dispatchEvent(new Event('input'));"
    )
    wait(browser, lambda driver: "62.5 % of the features" in driver.find_element(By.ID, "answer").text)
    assert browser.find_element(By.ID, "answer").text != before
    assert browser.find_element(By.ID, "chosen").text == "20 of 32"
    assert overflow(browser) == 0
    assert browser.get_log("browser") == []


DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), letter => letter.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], "a.png", { type: "image/png" }));
document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
"""


@in_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_dropping_an_image_shows_what_is_read_and_what_is_none_is_said(browser, served, sees, width):
    import base64

    look(browser, served(TryPage(sees).app()), width)
    browser.execute_script(DROP, base64.b64encode(png(60)).decode())
    wait(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, "#answer .contour"))
    assert overflow(browser) == 0
    browser.execute_script(DROP, base64.b64encode(b"no image").decode())
    wait(browser, lambda driver: driver.find_element(By.ID, "error").is_displayed())
    assert "no image that can be read" in browser.find_element(By.ID, "error").text
    assert browser.find_elements(By.CSS_SELECTOR, "#answer *") == []


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(tmp_path):
    """As a process of its own: it says where, answers there, and ends by Ctrl-C with status 0."""
    import os
    import signal
    import subprocess
    import sys

    folder = handed.digits(tmp_path)
    command = [sys.executable, "-m", "rekd", "explain", str(folder), "--serve", "--port", "0"]
    # What is started in a shell's background ignores SIGINT, and would hand that down.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as run:
        assert run.stdout is not None
        address = run.stdout.readline().split()[3]

        async def get() -> int:
            async with aiohttp.ClientSession() as session, session.get(address) as response:
                return response.status

        assert asyncio.run(get()) == 200
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=30) == 0


def test_a_body_is_refused_where_none_is_expected():
    async def nothing(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    small = loopback_app([Route("POST", "/", nothing)])
    assert asked(small, "POST", "/", data=b"x" * 100)[:2] == (200, "100")
    assert asked(loopback_app([Route("POST", "/", nothing)]), "POST", "/", data=b"x" * 5000)[0] == 413
