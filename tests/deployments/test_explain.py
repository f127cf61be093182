"""`coinswarm explain`: the lineage of a pattern, under each of its names."""

from __future__ import annotations

from datetime import date

import pytest
import rich.console

from deployments.explain import explain, show_lineage
from memory.errors import InvalidQueryError
from memory.ledger import AliasRow, EventRow, FencingToken, Ledger, Projection, PruneDecision
from memory.window import Window

FIRST, SECOND, THIRD = (Window.of_date(date(2021, 6, day)) for day in (17, 18, 19))


@pytest.fixture
def line(configured: str, ledger: Ledger) -> str:
    """A line in which a pattern was founded, joined by another, and pruned."""
    run_id = ledger.runs.start("consolidate_memories", configured, {}, lease_s=60)
    token: FencingToken = ledger.fence.acquire(configured, run_id, flow="consolidate_memories", lease_s=60)
    line = ledger.lines.ensure(token, "rff-1", "2")
    founded = EventRow(kind="FOUNDED", pattern_id="p-kept", label=3, states=40)
    other = EventRow(kind="FOUNDED", pattern_id="p-joined", label=4, states=30)
    stranger = EventRow(kind="FOUNDED", pattern_id="p-stranger", label=5, states=20)
    ledger.events.save(token, line, FIRST, [founded, other, stranger])
    confirmed = EventRow(kind="CONFIRMED", pattern_id="p-kept", states=35, cosine=0.91, threshold=0.83, rule="null")
    merged = EventRow(kind="MERGED", pattern_id="p-joined", other_id="p-kept", cosine=0.95, threshold=0.83)
    ledger.events.save(token, line, SECOND, [confirmed, merged])
    ledger.events.save(token, line, THIRD, [EventRow(kind="PRUNED", pattern_id="p-kept")])
    ledger.projections.save(
        token,
        line,
        THIRD,
        Projection(
            prune_decisions=[
                PruneDecision(memory_id="p-kept", memory_type="PATTERN", kept=False, rules=(), details={"sharpe": 0.2})
            ]
        ),
    )
    ledger.projections.add_aliases(token, line, SECOND, [AliasRow(alias_id="p-joined", pattern_id="p-kept")])
    ledger.fence.release(token)
    return line


def test_every_name_of_a_pattern_leads_to_all_that_happened_to_it(configured: str, line: str) -> None:
    by_own, by_former = explain(configured, "p-kept"), explain(configured, "p-joined")
    assert by_own["lines"] == by_former["lines"]
    (found,) = by_former["lines"]
    assert (found["line"], found["pattern"], found["names_before"]) == (line, "p-kept", ["p-joined"])
    assert [(event["window"], event["kind"], event["pattern_id"]) for event in found["events"]] == [
        ("2021-06-17", "FOUNDED", "p-kept"),
        ("2021-06-17", "FOUNDED", "p-joined"),
        ("2021-06-18", "CONFIRMED", "p-kept"),
        ("2021-06-18", "MERGED", "p-joined"),
        ("2021-06-19", "PRUNED", "p-kept"),
    ]
    confirmed, pruned = found["events"][2], found["events"][4]
    assert (confirmed["cosine"], confirmed["threshold"], confirmed["rule"]) == (0.91, 0.83, "null")
    assert pruned["decision"] == {"sharpe": 0.2}


def test_the_table_names_nights_cosines_and_thresholds(configured: str, line: str) -> None:
    out = rich.console.Console(width=160, force_terminal=False)
    with out.capture() as captured:
        show_lineage(explain(configured, "p-kept"), out)
    text = captured.get()
    assert "before: p-joined" in text
    assert all(part in text for part in ("2021-06-18", "CONFIRMED", "0.9100", "0.8300", "null", "MERGED"))


def test_an_id_that_nobody_ever_had_is_refused(configured: str, line: str) -> None:
    with pytest.raises(InvalidQueryError, match="never had a pattern 'p-nobody'"):
        explain(configured, "p-nobody")
