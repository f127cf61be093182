"""The charts of a night's report as a browser lays them out, with more nights than fit the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from browser_ui import HEIGHT, PHONE_WIDTH, WIDTH

from memory.reporting import write_report
from tests.memory.reporting.drawn_report import make_data

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

NIGHTS = 30
LEAST_TEXT = 9.5
"""Pixels: smaller letters are hard to read at arm's length."""

SMALLEST_TEXT = """() => Math.min(...[...document.querySelectorAll('svg.chart')].flatMap(chart => {
    const scale = chart.getBoundingClientRect().width / chart.viewBox.baseVal.width
    const sizes = [...chart.querySelectorAll('text')].map(text => scale * parseFloat(getComputedStyle(text).fontSize))
    return scale ? sizes : []
}))"""

OVERLAPS = """() => [...document.querySelectorAll('svg.chart')].flatMap(chart => {
    const texts = [...chart.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()])
    return texts.flatMap(([one, a], i) => texts.slice(i + 1).filter(([, b]) =>
        Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
        Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3
    ).map(([other]) => `${chart.getAttribute('aria-label')}: '${one}' and '${other}'`))
})"""


@pytest.fixture(scope="module", params=[PHONE_WIDTH, WIDTH], ids=["phone", "wide"])
def page(request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    report = write_report(make_data(nights=NIGHTS), tmp_path_factory.mktemp("report"))
    with browser.new_context(viewport={"width": request.param, "height": HEIGHT}) as context:
        shown = context.new_page()
        shown.goto(report.as_uri())
        yield shown


def test_text_of_charts_can_be_read(page: Page) -> None:
    assert page.evaluate(SMALLEST_TEXT) >= LEAST_TEXT


def test_no_text_of_a_chart_lies_over_another(page: Page) -> None:
    assert page.evaluate(OVERLAPS) == []


def test_of_more_nights_than_fit_the_newest_are_seen(page: Page) -> None:
    box = page.get_by_role("region", name="Patterns by night")
    newest = box.get_by_role("columnheader").last
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    assert newest.evaluate("night => night.getBoundingClientRect().right") <= page.evaluate("innerWidth")
    assert newest.text_content() == "06-21"
