"""Pages in a real browser, where there is one; the fixture `browser` is of conftest.py."""

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from rekd.loopback import HOST

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
in_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no Chromium: apt-get install chromium chromium-driver runs the browser's tests too",
)


@contextmanager
def started(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser that asks for nothing by itself, and that keeps what pages complain of."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"):
        options.add_argument(f"--{flag}")
    for flag in ("disable-background-networking", "disable-component-update", "disable-sync"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def look(browser: webdriver.Chrome, address: str, width: int) -> None:
    """Opens a page as wide as that. A window cannot be made as narrow as a phone; its viewport can."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(address)


@contextmanager
def serving() -> Iterator[Callable[[web.Application], str]]:
    """Serves applications from a thread each, and gives their addresses."""
    ends: list[tuple[asyncio.AbstractEventLoop, asyncio.Event, threading.Thread]] = []

    def start(application: web.Application) -> str:
        address: Future[str] = Future()

        async def run() -> None:
            runner = web.AppRunner(application)
            await runner.setup()
            await web.TCPSite(runner, HOST, 0).start()
            end = asyncio.Event()
            ends.append((asyncio.get_running_loop(), end, threading.current_thread()))
            address.set_result(f"http://{HOST}:{runner.addresses[0][1]}/")
            await end.wait()
            await runner.cleanup()

        threading.Thread(target=asyncio.run, args=(run(),), daemon=True).start()
        return address.result(timeout=30)

    yield start
    for loop, end, thread in ends:
        loop.call_soon_threadsafe(end.set)
        thread.join(30)
