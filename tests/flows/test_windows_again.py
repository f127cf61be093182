"""Windows that are consolidated again: late records, other settings, what was pruned meanwhile."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

import memory
from flows.consolidate_memories import Parameters as ConsolidateParameters
from flows.consolidate_memories import consolidate_memories
from flows.prune_memories import Parameters as PruneParameters
from flows.prune_memories import prune_memories
from memory.ledger import Ledger
from memory.records import EpisodicMemory
from memory.window import Window

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]

HOURS = 8
"""Of each day: 480 states, still enough for patterns."""
Record = Callable[[str, Sequence[dt.date]], None]

DAYS = [dt.date(2021, 6, 17) + dt.timedelta(days=night) for night in range(3)]
RECORDED = 2 * 60 * HOURS
"""Experiences of a short day."""
LATE = 50


@pytest.fixture
def record(record: Callable[..., None]) -> Record:
    """Records short days."""
    return partial(record, hours=HOURS)


def consolidate(namespace: str, day: dt.date) -> dict[str, Any]:
    return consolidate_memories(ConsolidateParameters(namespace=namespace, date=day))


def prune(namespace: str, day: dt.date) -> int:
    return int(prune_memories(PruneParameters(namespace=namespace, date=day))["forgotten_experiences"])


def store_late(servers: Any, namespace: str, day: dt.date, like: dt.date) -> None:
    """Experiences of one more agent on a day, made from those that another day still holds."""
    window, apart = Window.of_date(like), like - day

    async def call() -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            pages = mem.episodic.read_window(window.start, window.end, agent_id="breakout")
            found: list[EpisodicMemory] = [item async for page in pages for item in page]
            late = sorted(found, key=lambda item: item.timestamp)[:LATE]
            for item in late:
                item.agent_id, item.memory_id, item.market_phase = "latecomer", "", ""
                item.timestamp -= apart
                item.known_at = item.timestamp + dt.timedelta(minutes=1)
                item.cumulative_return = item.return_known_at = None
            report = await mem.episodic.add_many(late)
            assert len(report.stored) == LATE

    asyncio.run(call())


def digest(servers: Any, namespace: str) -> str:
    with Ledger.open(servers.database_url) as ledger:
        return ledger.digest(namespace).digest


def test_a_window_with_late_records_is_consolidated_again_by_the_next_night(
    configured: str, servers: Any, record: Record
) -> None:
    clean = f"{configured}-b"
    for namespace in (configured, clean):
        record(namespace, DAYS[:2])
    store_late(servers, clean, DAYS[0], DAYS[0])
    for day in DAYS[:2]:
        consolidate(clean, day)

    consolidate(configured, DAYS[0])
    before = digest(servers, configured)
    store_late(servers, configured, DAYS[0], DAYS[0])
    assert consolidate(configured, DAYS[1])["windows_again"] == ["2021-06-17"]
    assert consolidate(configured, DAYS[1])["windows_again"] == []
    assert digest(servers, configured) == digest(servers, clean) != before


def test_other_settings_consolidate_all_windows_of_the_line_again(
    configured: str, servers: Any, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = f"{configured}-b"
    for namespace in (configured, clean):
        record(namespace, DAYS[:2])
    for day in DAYS[:2]:
        consolidate(configured, day)
    before = digest(servers, configured)
    monkeypatch.setenv("COINSWARM_COST_BP", "5")
    assert consolidate(configured, DAYS[1])["windows_again"] == ["2021-06-17"]
    for day in DAYS[:2]:
        consolidate(clean, day)
    assert digest(servers, configured) == digest(servers, clean) != before


def test_the_order_of_recording_and_consolidating_makes_no_difference(
    configured: str, servers: Any, record: Record
) -> None:
    other = f"{configured}-b"
    for day in DAYS[:2]:
        record(configured, [day])
        consolidate(configured, day)
    record(other, DAYS[:2])
    for day in DAYS[:2]:
        consolidate(other, day)
    assert digest(servers, configured) == digest(servers, other)


def test_what_came_after_its_window_was_archived_is_not_pruned_before_it_is_archived_too(
    configured: str, servers: Any, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in DAYS:
        record(configured, [day])
        consolidate(configured, day)
    monkeypatch.setenv("COINSWARM_EPISODIC_RETENTION_DAYS", "1")
    assert prune(configured, DAYS[2]) == 2 * RECORDED
    store_late(servers, configured, DAYS[0], DAYS[2])
    assert prune(configured, DAYS[2]) == 0
    assert consolidate(configured, DAYS[2])["windows_again"] == ["2021-06-17"]
    assert prune(configured, DAYS[2]) == LATE


def test_what_is_recorded_again_after_it_was_pruned_is_consolidated_once(
    configured: str, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in DAYS[:2]:
        record(configured, [day])
        consolidate(configured, day)
    monkeypatch.setenv("COINSWARM_EPISODIC_RETENTION_DAYS", "1")
    assert prune(configured, DAYS[1]) == RECORDED
    record(configured, DAYS[:1])
    assert consolidate(configured, DAYS[1])["windows_again"] == ["2021-06-17"]
    assert consolidate(configured, DAYS[1])["windows_again"] == []
