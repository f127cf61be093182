"""A browser, and the `coinswarm up` whose UI it opens."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

RIG = Path(__file__).parent / "rig"
sys.path.insert(0, str(RIG))

from browser_home import BrowserHome  # noqa: E402
from browser_ui import CHROMIUM, HEIGHT, TIMEOUT_S, WIDTH, Ui, launch  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots", type=Path, metavar="DIR", help="Take the pictures of the documents and put them there."
    )
    parser.addoption(
        "--report",
        type=Path,
        metavar="FILE",
        help="The report to look at, and to take pictures of; without it the tests' own night is looked at.",
    )


@pytest.fixture(scope="session")
def screenshots(request: pytest.FixtureRequest) -> Path | None:
    """Folder for the pictures of the documents; None where none are wanted."""
    wanted: Path | None = request.config.getoption("--screenshots")
    return wanted


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: extra `test`")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no {CHROMIUM}: install Debian's package chromium")
    with sync_api.sync_playwright() as playwright:
        opened = launch(playwright)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def home(browser: Browser) -> Iterator[BrowserHome]:
    """A home, and the `up` in it."""
    folder = Path(tempfile.mkdtemp(prefix="coinswarm-browser-"))
    made = BrowserHome(folder)
    try:
        made.start()
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def logged_in(browser: Browser, home: BrowserHome, screenshots: Path | None) -> Iterator[Ui]:
    """The UI, opened with the password of the home."""
    with browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}) as context:
        context.set_default_timeout(1000 * TIMEOUT_S)
        ui = Ui(context.new_page(), home.ui_url, screenshots)
        ui.log_in(home.login)
        ui.page.get_by_role("link", name="Dashboard").wait_for()
        yield ui


@pytest.fixture
def ui(logged_in: Ui, home: BrowserHome, tmp_path: Path) -> Iterator[Ui]:
    """It, and nothing that strikes the runs; what a test that fails leaves is kept in its folder."""
    yield logged_in
    home.strikes.spare()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what the page showed, and what was logged, of a test that failed, and say where."""
    report = yield
    if report.failed and report.when == "call" and "ui" in getattr(item, "funcargs", {}):
        ui, home, kept = (item.funcargs[name] for name in ("ui", "home", "tmp_path"))
        ui.page.screenshot(path=kept / "page.png")
        (kept / "logs.txt").write_text(home.log_tails(), encoding="utf-8")
        report.sections.append(("what the browser showed, and what was logged", f"{kept}/page.png\n{kept}/logs.txt"))
    return report
