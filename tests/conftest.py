"""Fixtures that several test files share, and a last word on what was skipped.

`tiny` is imported inside the fixtures: most tests do without transformers.
"""

import os

import pytest
import torch

torch.set_num_threads(1)  # two test processes on two cores, and sums in one order


def skipped(terminal) -> list[str]:
    """The reasons for which tests were skipped, each once; they say how to have them."""
    return sorted({report.longrepr[2].removeprefix("Skipped: ") for report in terminal.stats.get("skipped", [])})


def pytest_terminal_summary(terminalreporter):
    """Ends a run with a line of what was skipped and how to have it, so that green says what it is worth."""
    reasons, number = skipped(terminalreporter), len(terminalreporter.stats.get("skipped", []))
    if reasons:
        terminalreporter.write_line(f"Not tested here, {number} skipped: {'; '.join(reasons)}.", yellow=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Where nothing may be skipped (REKD_NO_SKIPS=1: where all that tests need was installed), a skip is a failure."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("REKD_NO_SKIPS") and terminal is not None and exitstatus == 0 and skipped(terminal):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser for the pages of a test file, whose tests are marked `in_chromium.in_browser`."""
    import in_chromium

    with in_chromium.started(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def served():
    """Serves applications for a browser, and gives their addresses."""
    import in_chromium

    with in_chromium.serving() as start:
        yield start


@pytest.fixture
def store(tmp_path):
    """An empty results folder."""
    from rekd.store.files import Store

    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def image_task(tmp_path_factory):
    """A task file as `cifar10`, with stand-ins for its data and models beside it. Copy the folder to change it."""
    import stand_ins

    return stand_ins.save_image_task(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def text_task(tmp_path_factory):
    """A task file as `imdb`, with stand-ins for its data and models beside it. Copy the folder to change it."""
    import stand_ins

    return stand_ins.save_text_task(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def image_teacher():
    """An RE model of toy images and what it says of them."""
    import tiny

    return tiny.made_teacher("vit")


@pytest.fixture(scope="session")
def text_teacher():
    """An RE model of toy texts and what it says of them."""
    import tiny

    return tiny.made_teacher("bert")


@pytest.fixture(scope="session")
def teachers(image_teacher, text_teacher):
    """Both, by the family of their backbone."""
    return {"vit": image_teacher, "bert": text_teacher}


@pytest.fixture
def global_stream_is_untouched():
    """Fails a test that moves torch's global random stream, which belongs to the caller."""
    torch.manual_seed(1234)
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)
