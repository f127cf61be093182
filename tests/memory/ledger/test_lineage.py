"""Lineage of patterns, and foldings again that outlive their run."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta

from memory.ledger import EventRow, FencingToken, Ledger
from memory.window import Window

FOUNDED = EventRow(kind="FOUNDED", pattern_id="p-1", label=3, states=120)
MERGED = EventRow(
    kind="MERGED",
    pattern_id="p-1",
    other_id="p-2",
    label=0,
    states=80,
    cosine=0.93,
    threshold=0.875,
    rule="null",
    details={"nights": 3},
)


def day(index: int) -> Window:
    return Window.of_date(date(2021, 6, 17) + timedelta(days=index))


def test_events_come_back_by_pattern_whichever_side_it_was_on(ledger: Ledger, token: FencingToken, line: str) -> None:
    other = EventRow(kind="FOUNDED", pattern_id="p-2")
    ledger.events.save(token, line, day(0), [other, FOUNDED])
    ledger.events.save(token, line, day(1), [MERGED])
    assert ledger.events.of(line, "p-2") == [(day(0), other), (day(1), MERGED)]
    assert ledger.events.of(line, "p-1") == [(day(0), FOUNDED), (day(1), MERGED)]
    assert ledger.events.of(line, window=day(0)) == [(day(0), other), (day(0), FOUNDED)]
    assert ledger.events.of(line, "p-3") == []


def test_other_events_of_a_window_drop_what_followed_from_the_former(
    ledger: Ledger, token: FencingToken, line: str
) -> None:
    founded = dataclasses.replace(FOUNDED, details={"regimes": ("QUIET", "CRISIS"), "share": 0.1})
    ledger.events.save(token, line, day(0), [founded])
    ledger.events.save(token, line, day(1), [MERGED])
    ledger.events.save(token, line, day(0), [founded])
    assert len(ledger.events.of(line)) == 2
    ledger.events.save(token, line, day(0), [EventRow(kind="FOUNDED", pattern_id="p-1", label=4)])
    assert [event.label for _, event in ledger.events.of(line)] == [4]


def test_dropping_what_was_folded_drops_its_events(ledger: Ledger, token: FencingToken, line: str) -> None:
    ledger.events.save(token, line, day(0), [FOUNDED])
    ledger.events.save(token, line, day(1), [MERGED])
    ledger.truncate_from(token, line, day(1))
    assert ledger.events.of(line) == [(day(0), FOUNDED)]


def test_a_refold_is_open_until_it_is_finished(ledger: Ledger, token: FencingToken, line: str) -> None:
    assert ledger.refolds.open(line) is None
    begun = ledger.refolds.begin(token, line, first=day(1), last=day(4), payload=b"names")
    assert ledger.refolds.open(line) == begun
    assert (begun.first, begun.last, begun.payload) == (day(1), day(4), b"names")
    ledger.refolds.finish(token, line)
    assert ledger.refolds.open(line) is None


def test_a_refold_that_begins_before_the_last_one_ended_keeps_the_names_of_that_one(
    ledger: Ledger, token: FencingToken, line: str
) -> None:
    """What a run that died had folded half way is nobody's knowledge; what was known before it is."""
    ledger.refolds.begin(token, line, first=day(2), last=day(4), payload=b"names that agents hold")
    ledger.refolds.begin(token, line, first=day(3), last=day(3), payload=b"names of half a fold")
    begun = ledger.refolds.begin(token, line, first=day(0), last=day(3), payload=b"names of half a fold")
    assert (begun.first, begun.last, begun.payload) == (day(0), day(4), b"names that agents hold")
