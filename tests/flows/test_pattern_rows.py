"""Rows of patterns in the ledger, night by night: one a change, and an alias where an id changed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from flows.consolidate_memories import Parameters, consolidate_memories
from memory.ledger import Ledger, PatternRow
from memory.window import Window

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]

DAYS = [dt.date(2021, 6, 17) + dt.timedelta(days=night) for night in range(3)]
HOURS = 24
"""Of each day: half of them show too few patterns."""


def consolidate(namespace: str, day: dt.date) -> dict[str, Any]:
    return consolidate_memories(Parameters(namespace=namespace, date=day))


def test_an_id_that_a_late_record_changed_leads_to_the_pattern_that_stands_for_it(
    configured: str, ledger: Ledger, record: Callable[..., None]
) -> None:
    # Without one product's states the clusters of the night have other members, and with them other ids.
    record(configured, DAYS[:1], hours=HOURS)
    consolidate(configured, DAYS[0])
    (line,) = [item.line for item in ledger.lines.list(configured)]
    first = {row.item_id for row in ledger.projections.as_of(PatternRow, line)}
    record(configured, DAYS[:1], ("ETH-USDT",), hours=HOURS)
    consolidate(configured, DAYS[0])
    now = {row.item_id for row in ledger.projections.as_of(PatternRow, line)}
    gone = first - now
    assert gone
    # A pattern whose partition vanished (pooled before, large enough for itself now) has no successor.
    renamed = {alias.alias_id for alias in ledger.projections.aliases(line) if alias.reason == "REFOUNDED"}
    assert renamed
    assert renamed <= gone
    assert all(ledger.projections.resolve(line, name) not in first for name in renamed)


def test_a_pattern_that_no_window_changed_costs_no_row_a_night(
    configured: str, ledger: Ledger, record: Callable[..., None]
) -> None:
    for day in DAYS:
        record(configured, [day], hours=HOURS)
        consolidate(configured, day)
    (line,) = [item.line for item in ledger.lines.list(configured)]
    first, last = (Window.of_date(day) for day in (DAYS[0], DAYS[2]))
    kept = {row.item_id: row.payload for row in ledger.projections.as_of(PatternRow, line, first)}
    now = {row.item_id: row.payload for row in ledger.projections.as_of(PatternRow, line, last)}
    unchanged = [name for name, payload in kept.items() if now.get(name) == payload]
    assert unchanged
    for name in unchanged:
        assert len(ledger.projections.history(PatternRow, line, name)) == 1
