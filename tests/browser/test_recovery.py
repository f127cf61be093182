"""Recovery as a person does it: in the Prefect UI of `coinswarm up`, with a browser.

Each run is begun by Run > Custom run. All days hold the same: five partitions, so what is known after a day hangs on
nothing but the day.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from browser_home import BrowserHome
from browser_ui import HEIGHT, PHONE_WIDTH, WIDTH, Ui, save
from planted_partitions import SIZES, THIRD
from strikes import DEFECT, HOLD

from memory.records import REGIMES

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

DAY = dt.date(2021, 6, 17)
PICTURE_HEIGHT = 1900
"""Of the report, which is far taller."""
NEXT_DAY = DAY + dt.timedelta(days=1)
NAMESPACE = "default"
FLOW = "consolidate_memories"
PARTITIONS = {regime: f"summarise-{DAY}-replay-{regime}" for regime in REGIMES}
STEPS = (*PARTITIONS.values(), f"summarise-{DAY}-replay-sequences")


@dataclass(frozen=True)
class Clean:
    """A consolidation that nothing disturbed.

    Attributes
    ----------
    run
        Prefect's id of it.
    digests
        Of what was known after it, in the ledger and in Redis.
    clustered
        States of the partitions that it clustered.
    """

    run: str
    digests: tuple[str, str]
    clustered: list[int]


@pytest.fixture(scope="module")
def clean(logged_in: Ui, home: BrowserHome) -> Clean:
    """A day of the memory `default`, consolidated."""
    home.remember(NAMESPACE, DAY)
    run = logged_in.begin(FLOW, NAMESPACE, NAMESPACE, DAY.isoformat(), picture="prefect-custom-run")
    logged_in.until("Completed")
    return Clean(run, home.digests(NAMESPACE), home.strikes.clustered())


def test_the_ui_opens_for_the_password_of_the_home_and_for_no_other(home: BrowserHome, browser: Browser) -> None:
    assert httpx.get(f"{home.ui_url}/api/admin/settings").status_code == 401
    with browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}) as context:
        stranger = Ui(context.new_page(), home.ui_url)
        stranger.log_in("coinswarm:guessed")
        stranger.page.get_by_text("Authentication failed").or_(stranger.page.get_by_text("Invalid")).first.wait_for()
        assert stranger.is_asking()
        stranger.log_in(home.login)
        stranger.page.get_by_role("link", name="Dashboard").wait_for()
        assert not stranger.is_asking()


def test_a_custom_run_with_a_date_completes_and_leaves_its_artifacts(ui: Ui, home: BrowserHome, clean: Clean) -> None:
    ui.open_run(clean.run)
    assert clean.clustered == list(SIZES)
    ui.until_tasks("summarise", dict.fromkeys(STEPS, "Completed"))
    told = ui.open_artifact(f"consolidation-{NAMESPACE}").inner_text()
    assert f"Learned from {DAY}" in told
    assert f"states: {sum(SIZES):,}" in told
    ui.picture("prefect-artifact")
    assert home.runs(NAMESPACE, FLOW)[0] == ("SUCCEEDED", clean.run)


def test_retry_takes_a_failed_run_up_in_its_partition_and_shows_the_others_as_cached(
    ui: Ui, home: BrowserHome, clean: Clean
) -> None:
    namespace = "retried"
    home.remember(namespace, DAY)
    home.strikes.tell(DEFECT, THIRD)
    run = ui.begin(FLOW, NAMESPACE, namespace, DAY.isoformat())
    ui.until("Failed")
    struck = PARTITIONS[REGIMES[2]]
    ui.until_tasks("summarise", {name: "Failed" if name == struck else "Completed" for name in STEPS})
    assert home.strikes.clustered() == [size for size in SIZES if size != THIRD]
    home.strikes.tell(DEFECT, None)
    ui.retry()
    ui.until("Completed", past=("Failed",))
    assert home.strikes.clustered() == [THIRD]
    ui.until_tasks("summarise", {name: "Completed" if name == struck else "Cached" for name in STEPS})
    ui.picture("prefect-retried-run", 1400)
    assert home.runs(namespace, FLOW) == [("FAILED", run), ("SUCCEEDED", run)]
    assert home.digests(namespace) == clean.digests


def test_a_run_whose_process_is_killed_is_marked_crashed_and_retried_by_itself(
    ui: Ui, home: BrowserHome, clean: Clean
) -> None:
    namespace = "killed"
    home.remember(namespace, DAY)
    home.strikes.tell(HOLD, THIRD)
    run = ui.begin(FLOW, NAMESPACE, namespace, DAY.isoformat())
    home.until_held()
    ui.until("Running")
    home.kill_run(run)
    ui.until("Crashed")
    home.strikes.tell(HOLD, None)
    # Nobody presses anything: the server schedules it again.
    ui.until("Completed", past=("Crashed",))
    assert home.runs(namespace, FLOW) == [("DEAD", run), ("SUCCEEDED", run)]
    assert home.digests(namespace) == clean.digests


def test_a_second_night_waits_for_the_first_and_then_completes(ui: Ui, home: BrowserHome, clean: Clean) -> None:
    home.send(NAMESPACE, NEXT_DAY)
    home.strikes.tell(HOLD, THIRD)
    first = ui.begin("nightly", NAMESPACE, NAMESPACE, NEXT_DAY.isoformat())
    home.until_held()
    second = ui.begin("nightly", NAMESPACE, NAMESPACE, NEXT_DAY.isoformat())
    ui.until("AwaitingConcurrencySlot")
    ui.picture("prefect-waiting-night")
    home.strikes.tell(HOLD, None)
    ui.open_run(first)
    ui.until("Completed")
    known = home.digests(NAMESPACE)
    ui.open_run(second)
    ui.until("Completed")
    assert home.runs(NAMESPACE, "nightly") == [("SUCCEEDED", first), ("SUCCEEDED", second)]
    # It found all done.
    assert home.digests(NAMESPACE) == known
    assert home.strikes.clustered() == list(SIZES)
    ui.open_dashboard()
    ui.picture("prefect-dashboard")


@pytest.fixture
def report(ui: Ui, home: BrowserHome, clean: Clean, request: pytest.FixtureRequest) -> Path:
    """The report of a night: of the one before, or that the command line names."""
    named: Path | None = request.config.getoption("--report")
    if named is not None:
        return named.resolve()
    of_night = home.home.directory / "reports" / f"nightly-{NAMESPACE}-{NEXT_DAY}.html"
    if not of_night.exists():
        home.send(NAMESPACE, NEXT_DAY)
        ui.begin("nightly", NAMESPACE, NAMESPACE, NEXT_DAY.isoformat())
        ui.until("Completed")
    return of_night


def test_the_report_needs_no_network_and_fits_light_and_dark_screens_and_a_phone(
    browser: Browser, report: Path, screenshots: Path | None, request: pytest.FixtureRequest
) -> None:
    # The tests' own night is too small to look at.
    wanted = screenshots if request.config.getoption("--report") is not None else None
    backgrounds = {}
    for look, width, scheme in (("light", WIDTH, "light"), ("dark", WIDTH, "dark"), ("phone", PHONE_WIDTH, "light")):
        with browser.new_context(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme) as context:
            page = context.new_page()
            asked: list[str] = []
            wrong: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("console", lambda said, wrong=wrong: wrong.append(said.text))
            page.goto(report.as_uri())
            page.get_by_role("heading", level=1).wait_for()
            assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
            assert wrong == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            backgrounds[look] = page.evaluate("getComputedStyle(document.body).backgroundColor")
            if wanted is not None:
                page.set_viewport_size({"width": width, "height": PICTURE_HEIGHT})
                save(page.screenshot(), wanted / f"report-{look}.png")
    assert backgrounds["light"] == backgrounds["phone"] != backgrounds["dark"]
