"""Lineage in the report: what the ledger noted of a pattern, told from that pattern's side."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from memory.ledger import EventRow, Projection, PruneDecision
from memory.records import PatternMemory, SemanticType
from memory.reporting.data import LineageEvent
from tasks.projections import memories_as_of
from tasks.report_lineage import lineage_of

MATCHED = {"states": 24, "cosine": 0.91, "threshold": 0.83, "rule": "null"}
BY_NULL = "nearer than 95 % of the random balls that match"


def named(pattern_id: str, *aliases: str) -> Any:
    """As much of a pattern as its lineage needs."""
    return SimpleNamespace(pattern_id=pattern_id, aliases=aliases)


@pytest.fixture
def told(days: Any) -> Any:
    """Writes events of windows, and tells those of some patterns up to a window."""
    token = days.context.fencing_token
    line = days.ledger.lines.ensure(token, "enc", "2")

    def tell(patterns: list[Any], *nights: list[EventRow], until: int = 8) -> dict[str, tuple[LineageEvent, ...]]:
        for number, events in enumerate(nights):
            days.ledger.events.save(token, line, days.window(number), events)
        decision = PruneDecision(
            memory_id="p-1",
            memory_type="PATTERN",
            kept=False,
            rules=(),
            details={"sharpe": 0.24, "random_share": 0.081},
        )
        days.ledger.projections.save(token, line, days.window(1), Projection(prune_decisions=[decision]))
        return lineage_of(days.ledger, line, days.window(until), patterns)

    return tell


def test_a_comparison_is_told_with_cosine_threshold_and_rule(told: Any) -> None:
    found = told([named("p-1")], [EventRow(kind="CONFIRMED", pattern_id="p-1", label=3, **MATCHED)])
    confirmed = LineageEvent(
        window_name="2021-06-17", event="confirmed", states=24, cosine=0.91, threshold=0.83, note=BY_NULL
    )
    assert found == {"p-1": (confirmed,)}


def test_a_split_is_told_from_both_sides(told: Any) -> None:
    split = EventRow(kind="SPLIT", pattern_id="p-part", other_id="p-whole", **MATCHED)
    found = told([named("p-part"), named("p-whole")], [split])
    assert [(event.event, event.other) for event in found["p-part"]] == [("split from", "p-whole")]
    assert [(event.event, event.other) for event in found["p-whole"]] == [("gave off", "p-part")]


def test_what_happened_under_a_former_name_belongs_to_the_pattern(told: Any) -> None:
    founded = EventRow(kind="FOUNDED", pattern_id="p-gone", states=9)
    merged = EventRow(kind="MERGED", pattern_id="p-gone", other_id="p-1", **MATCHED)
    first, second = told([named("p-1", "p-gone")], [founded], [merged])["p-1"]
    assert (first.event, first.name, first.states) == ("founded", "p-gone", 9)
    assert (second.event, second.name, second.other, second.note) == ("merged with", "", "p-gone", BY_NULL)


def test_a_removal_is_told_with_what_was_decided_and_what_random_sets_would_pass(told: Any) -> None:
    (pruned,) = told([named("p-1")], [], [EventRow(kind="PRUNED", pattern_id="p-1")])["p-1"]
    assert pruned.note == "no rule kept it: Sharpe 0.2, 8% of random sets pass"


@pytest.mark.parametrize(
    ("kind", "event"),
    [
        ("FADED", "faded"),
        ("RETURNED", "returned"),
        ("DEMOTED", "demoted"),
        ("REINSTATED", "reinstated"),
        ("PROMOTED", "published"),
    ],
)
def test_what_no_comparison_decided_says_what_it_means(told: Any, kind: str, event: str) -> None:
    (found,) = told([named("p-1")], [EventRow(kind=kind, pattern_id="p-1")])["p-1"]
    assert found.event == event
    assert found.note
    assert found.cosine is None


def test_neither_later_windows_nor_other_patterns_are_told(told: Any) -> None:
    near = EventRow(kind="FOUNDED", pattern_id="p-stranger", other_id="p-1", cosine=0.4, threshold=0.83)
    later = EventRow(kind="FADED", pattern_id="p-1")
    assert told([named("p-1")], [near], [later], until=0) == {"p-1": ()}


def test_patterns_of_two_days_were_founded_and_confirmed(days: Any) -> None:
    days.record(0, 1)
    days.consolidate(0, 1)
    days.fold()
    patterns = [
        memory
        for memory in memories_as_of(days.ledger, days.line, days.window(1), [SemanticType.PATTERN])
        if isinstance(memory, PatternMemory)
    ]
    assert patterns
    for events in lineage_of(days.ledger, days.line, days.window(1), patterns).values():
        assert events[0].event == "founded"
        (confirmed,) = (event for event in events if event.event == "confirmed")
        assert confirmed.window_name == days.window(1).name
        assert confirmed.cosine is not None
        assert confirmed.threshold is not None
        assert confirmed.cosine > confirmed.threshold
