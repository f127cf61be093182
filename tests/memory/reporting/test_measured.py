"""Speed and room in the report: trends with their regressions, growth, and what is said where there is too little."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from memory.reporting import ReportData, markdown_summary, readings, render_report
from memory.reporting.charts.storage import KINDS_DRAWN, REST, bytes_of, growth_panel, kinds_of, redis_growth
from memory.reporting.charts.trends import trend_panel
from memory.reporting.data import NightSizes
from memory.reporting.measured import size_rows
from memory.reporting.svg import drawing


@pytest.fixture(scope="module")
def page(full: ReportData) -> str:
    return render_report(
        ReportData(facts=full.facts, trends=full.trends, sizes=full.sizes, machine=full.machine, regressions=("slow",))
    )


def test_every_chart_has_a_text_alternative_and_a_reading(page: str, full_page: str) -> None:
    for text in (page, full_page):
        figures = re.findall(r"<figure.*?</figure>", text, flags=re.DOTALL)
        assert figures
        assert len(re.findall(r'class="chart"', text)) == sum(figure.count('class="chart"') for figure in figures)
        for figure in figures:
            assert re.search(r'aria-label="[^"]{10,}"', figure)
            assert re.search(r"<figcaption>[^<]{10,}</figcaption>", figure)


def test_a_regression_is_marked_in_its_trend_and_named(page: str, full: ReportData) -> None:
    (trend,) = [trend for trend in full.trends if trend.points[-1].regressed]
    with drawing():
        marked = trend_panel(trend, 0)
        plain = trend_panel(replace(trend, points=tuple(replace(p, regressed=False) for p in trend.points)), 0)
    assert marked is not None
    assert plain is not None
    assert "var(--vermillion)" in marked
    assert "var(--vermillion)" not in plain
    assert "1 of them regressions" in marked
    assert "5.5 against a median of 2.05 (limit 3.28): a regression." in page
    assert "✗ regression</span> slow." in page
    assert "**Regression:** slow." in markdown_summary(replace(full, regressions=("slow",)))


def test_a_single_run_and_a_single_night_are_said_and_not_drawn(full: ReportData) -> None:
    one = tuple(replace(trend, points=trend.points[:1]) for trend in full.trends)
    page = render_report(ReportData(facts=full.facts, trends=one, sizes=full.sizes[:1]))
    assert "1 run on this machine so far: a trend takes two." in page
    assert "Sizes of 1 night are known: growth takes two." in page
    assert 'class="chart"' not in page
    assert "26.0\u00a0MB" in page


def test_small_kinds_are_drawn_as_one_layer_and_nothing_is_lost(full: ReportData) -> None:
    kinds = kinds_of(full.sizes)
    assert (len(kinds), kinds[-1]) == (KINDS_DRAWN + 1, REST)
    for night in full.sizes:
        assert sum(bytes_of(night, kind, kinds) for kind in kinds) == night.redis_total


def test_sizes_are_listed_with_what_the_last_night_added(full: ReportData) -> None:
    rows = {row.what: row for row in size_rows(full.sizes)}
    first = rows["Redis: experiences"]
    assert (first.number, first.bytes, first.added) == (108_000, 130_000_000, 26_000_000)
    assert rows["archive"].added == 5_100_000
    assert rows["ledger, all namespaces"].bytes == 24_000_000
    assert size_rows(full.sizes[:1])[0].added is None
    assert size_rows(()) == []


def test_a_night_without_sizes_of_the_archive_leaves_a_gap() -> None:
    sizes = [NightSizes(window_name=f"2021-06-{day}", archive_bytes=size) for day, size in ((17, 1), (18, None))]
    with drawing():
        assert growth_panel(sizes, lambda night: night.archive_bytes, title="archive", name="a") is None
        assert redis_growth(sizes[:1]) is None


def test_readings_say_what_a_chart_shows(full: ReportData) -> None:
    assert readings.history(full.nights) == (
        "Last night 12 confirmed, where the null would have confirmed 7, 26 new, 12 faded; 138 patterns stand."
    )
    assert readings.confirmation(full.nights) == "In 4 of 4 nights more clusters matched than random balls."
    assert readings.redis_growth(full.sizes) == "251 MB, +50.0 MB last night; most of it: experiences.".replace(
        " MB", "\u00a0MB"
    )
    assert re.fullmatch(
        r"Patterns above the null in \d of 4 nights; mean difference [+−]0\.\d{3}\.",
        readings.scorecard(full.scorecards, "volatility", 5),
    )
