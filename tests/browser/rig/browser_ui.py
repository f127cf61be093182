"""The Prefect UI in a browser, by what a person sees there: roles, labels and texts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # The UI asks the internet for news; what is tested hangs on no network.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
WIDTH, HEIGHT, PHONE_WIDTH = 1280, 900, 390
STATES = ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut")
"""States in which a run ends."""
TIMEOUT_S = 120.0
_POLL_MS = 250
_SETTLING_MS = 1000
_FORM_HEIGHT = 1240
_MOST_BYTES = 250_000
_PASSWORD = "admin:pass"
"""What the UI's login has for a label."""


def launch(playwright: Playwright) -> Browser:
    """A browser without a window, and without anything that was kept of an earlier one."""
    return playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(FLAGS))


@dataclass
class Ui:
    """The UI in one page of a browser.

    Attributes
    ----------
    page
        The page.
    url
        Where the UI is.
    screenshots
        Folder for pictures; None takes none.
    """

    page: Page
    url: str
    screenshots: Path | None = None

    @property
    def main(self) -> Locator:
        """The page without what surrounds it."""
        return self.page.get_by_role("main")

    # --- in and around -----------------------------------------------------------------------------------------

    def log_in(self, password: str) -> None:
        """Open the UI, which asks for a password, and give it one."""
        self.page.goto(self.url)
        self.page.get_by_placeholder(_PASSWORD).fill(password)
        self.page.get_by_role("button", name="Login").click()

    def is_asking(self) -> bool:
        """Whether it asks for a password."""
        return self.page.get_by_placeholder(_PASSWORD).is_visible()

    def open_dashboard(self) -> None:
        """What ran lately."""
        self.page.get_by_role("link", name="Dashboard").click()
        self.main.get_by_text("Flow Runs", exact=True).first.wait_for()

    def open_deployment(self, flow: str, name: str) -> None:
        """The page of a deployment, by way of the list of all."""
        page = self.page
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=flow, exact=True))
        opened = re.compile(r"/deployment/[0-9a-f-]{36}")

        def is_open() -> bool:
            page.get_by_role("link", name="Deployments", exact=True).first.click()
            page.get_by_placeholder("Search deployments").fill(flow)
            # The list is drawn anew while it loads: a click on a row that goes away leads nowhere.
            page.wait_for_timeout(_SETTLING_MS)
            found = row.get_by_role("link", name=name, exact=True)
            if not found.is_visible():
                return False
            found.click()
            page.wait_for_timeout(_SETTLING_MS)
            return opened.search(page.url) is not None

        self.wait(is_open, f"the page of the deployment {flow}/{name} to open")
        page.get_by_role("button", name="Run", exact=True).wait_for()

    def open_run(self, run: str) -> None:
        """The page of a run."""
        self.page.goto(f"{self.url}/v2/runs/flow-run/{run}")
        self.main.get_by_role("tab", name="Details").wait_for()

    # --- begin a run -------------------------------------------------------------------------------------------

    def begin(self, flow: str, name: str, namespace: str, date: str, *, picture: str | None = None) -> str:
        """Run > Custom run of a deployment with namespace and date; the run's id. The page of the run is open then."""
        self.open_deployment(flow, name)
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Custom run").click()
        self.page.get_by_label("Namespace").fill(namespace)
        self.page.get_by_role("tab", name="date", exact=True).click()
        self.page.get_by_role("button", name="Pick a date").click()
        day = self.page.get_by_placeholder("yyyy-MM-dd")
        day.fill(date)
        day.press("Enter")
        self.page.keyboard.press("Escape")
        day.wait_for(state="hidden")
        if picture is not None:
            self.picture(picture, _FORM_HEIGHT)
        self.page.get_by_role("button", name="Submit").click()
        told = self.page.get_by_role("link", name="View run").first
        found = re.search(r"flow-run/([0-9a-f-]{36})", told.get_attribute("href") or "")
        assert found is not None, "the UI does not say which run it began"
        self.open_run(found[1])
        return found[1]

    # --- the run whose page is open ----------------------------------------------------------------------------

    def shown(self) -> list[str]:
        """What the head of the page says of the run: its name, tags, state, times, flow."""
        return self.main.inner_text().partition("\nDetails\n")[0].splitlines()

    def until(self, state: str, *, past: tuple[str, ...] = ()) -> None:
        """Wait until the page says that the run is in a state.

        Parameters
        ----------
        past
            States in which a run ends, and which this one may leave again.
        """

        def is_there() -> bool:
            shown = self.shown()
            ended = [each for each in STATES if each in shown and each != state and each not in past]
            assert not ended, f"the run ended as {ended[0]}, and was to become {state}"
            if any(each in shown for each in past):
                # The page of a run that has ended asks for nothing more by itself.
                self.page.wait_for_timeout(_SETTLING_MS)
                self.page.reload()
                self.main.get_by_role("tab", name="Details").wait_for()
            return state in shown

        self.wait(is_there, f"the page of the run to say {state}")

    def retry(self) -> None:
        """The button Retry."""
        self.main.get_by_role("button", name="Open menu").first.click()
        self.page.get_by_role("menuitem", name="Retry").click()
        asked = self.page.get_by_role("alertdialog")
        asked.get_by_role("button", name="Retry").click()
        asked.wait_for(state="hidden")

    def open_tab(self, name: str) -> Locator:
        """One of the tabs of the run's page."""
        self.main.get_by_role("tab", name=name, exact=True).click()
        panel = self.main.get_by_role("tabpanel", name=name, exact=True)
        panel.wait_for()
        return panel

    def until_tasks(self, word: str, wanted: dict[str, str]) -> None:
        """Wait until the tab of task runs has these states, the newest of each name, of those that begin so.

        The server hears of them some time after the run itself has ended.
        """
        found: dict[str, str] = {}

        def are_there() -> bool:
            self.page.reload()
            panel = self.open_tab("Task Runs")
            panel.get_by_placeholder("Search by run name").fill(word)
            self.page.wait_for_timeout(_SETTLING_MS)
            found.clear()
            # All at once, since the list is drawn anew while it is read: below each name stands its state.
            lines = [line for line in panel.inner_text().splitlines() if line.strip()]
            for name, state in pairwise(lines):
                if name.startswith(word):
                    found.setdefault(name, state)
            return found == wanted

        self.wait(are_there, "the task runs to be as they should", lambda: str(found))

    def open_artifact(self, key: str) -> Locator:
        """The newest version of an artifact of the run, by way of the tab and of the list of its versions."""
        self.open_tab("Artifacts").get_by_text(key, exact=True).click()
        self.main.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()
        panel = self.main.get_by_role("tabpanel", name="Artifact", exact=True)
        panel.get_by_role("heading").first.wait_for()
        return panel

    # --- for all -----------------------------------------------------------------------------------------------

    def wait(self, holds: Callable[[], bool], what: str, seen: Callable[[], str] | None = None) -> None:
        """Wait until something holds; AssertionError where it does not in time, with what was seen instead."""
        deadline = time.monotonic() + TIMEOUT_S
        while not holds():
            if time.monotonic() > deadline:
                instead = " | ".join(self.shown()) if seen is None else seen()
                raise AssertionError(f"waited {TIMEOUT_S:g} s for {what}; the page has: {instead}")
            self.page.wait_for_timeout(_POLL_MS)

    def picture(self, name: str, height: int = HEIGHT) -> None:
        """Take a picture of so many pixels for the documents, where pictures are wanted."""
        if self.screenshots is None:
            return
        self.page.set_viewport_size({"width": WIDTH, "height": height})
        self.page.wait_for_timeout(_SETTLING_MS)
        save(self.page.screenshot(animations="disabled"), self.screenshots / f"{name}.png")
        self.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})


def save(picture: bytes, path: Path) -> None:
    """Write a picture with as many colours as fit into a small file.

    Raises
    ------
    ValueError
        It does not fit.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(BytesIO(picture)) as opened:
        image = opened.convert("RGB")
    for colours in (256, 128, 64, 32):
        image.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < _MOST_BYTES:
            return
    raise ValueError(f"{path} takes {path.stat().st_size:,} bytes even in 32 colours")
