"""Patterns against the nights: which sign a cell has, which patterns come first, and what is said of a first night."""

from __future__ import annotations

from dataclasses import replace

from memory.reporting import ReportData, render_report
from memory.reporting.data import LineageEvent
from memory.reporting.strip import LOOKS, NIGHTS, PATTERNS, pattern_strip

DAYS = tuple(f"2021-06-{day:02d}" for day in range(1, 31))


def test_a_cell_shows_what_matters_most_and_names_all_that_happened(full: ReportData) -> None:
    pattern = full.patterns[0]
    events = (
        LineageEvent(window_name=DAYS[0], event="founded", states=10),
        LineageEvent(window_name=DAYS[1], event="confirmed", states=40),
        LineageEvent(window_name=DAYS[1], event="merged with", other="p-1"),
        LineageEvent(window_name=DAYS[3], event="faded"),
    )
    strip = pattern_strip([pattern], {pattern.pattern_id: events}, DAYS[:4])
    assert strip is not None
    first, second, third, fourth = strip.rows[0].cells
    assert (first.look, first.states, first.depth) == (LOOKS["founded"], 10, 0.25)
    assert (second.look, second.states, second.depth) == (LOOKS["merged"], 40, 1.0)
    assert second.events == "confirmed, merged with p-1"
    assert third.look is None
    assert (fourth.look, fourth.states) == (LOOKS["faded"], None)
    assert {look.name for look in strip.used} == {"founded", "merged", "faded"}


def test_those_seen_in_most_nights_come_first_and_faded_ones_last(full: ReportData) -> None:
    often, rare, faded = (
        replace(pattern, status=status, windows_seen=seen)
        for pattern, status, seen in zip(full.patterns, ("confirmed", "new", "faded"), (7, 1, 9), strict=False)
    )
    strip = pattern_strip([faded, rare, often], {}, DAYS)
    assert strip is not None
    assert [row.pattern for row in strip.rows] == [often, rare, faded]
    assert strip.nights == DAYS[-NIGHTS:]


def test_patterns_beyond_the_table_are_counted(full: ReportData) -> None:
    strip = pattern_strip(full.patterns, {}, DAYS)
    assert strip is not None
    assert (len(strip.rows), strip.left_out) == (PATTERNS, len(full.patterns) - PATTERNS)


def test_a_first_night_is_said_and_not_drawn(full: ReportData) -> None:
    assert pattern_strip(full.patterns, full.lineage, DAYS[:1]) is None
    page = render_report(ReportData(facts=full.facts, nights=full.nights[-1:], patterns=full.patterns[:1]))
    assert "drawn from the second night on" in page
    assert "A first night has no history" in page


def test_every_look_is_told_apart_without_its_hue() -> None:
    assert len({look.sign for look in LOOKS.values()}) == len(LOOKS)
