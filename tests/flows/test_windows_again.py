"""Windows that are consolidated again: late records, other settings; and what pruning leaves alone meanwhile."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import memory
from flows.benchmark_memory import Parameters as BenchmarkParameters
from flows.benchmark_memory import benchmark_memory
from flows.consolidate_memories import Parameters as ConsolidateParameters
from flows.consolidate_memories import consolidate_memories
from flows.prune_memories import Parameters as PruneParameters
from flows.prune_memories import prune_memories
from flows.record_experiences import Parameters as RecordParameters
from flows.record_experiences import record_experiences
from memory.ledger import Ledger
from memory.records import EpisodicMemory, SemanticType
from memory.window import Window

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]

DAYS = [dt.date(2021, 6, 17) + dt.timedelta(days=night) for night in range(3)]


def record(namespace: str, day: dt.date, **parameters: Any) -> dict[str, Any]:
    given = {"source": "market", "products": ["BTC-USDT"], **parameters}
    return record_experiences(RecordParameters(namespace=namespace, date=day, **given))


def consolidate(namespace: str, day: dt.date) -> dict[str, Any]:
    return consolidate_memories(ConsolidateParameters(namespace=namespace, date=day))


def with_memory(
    servers: Any, namespace: str, call: Callable[[memory.MemoryConnection], Coroutine[Any, Any, Any]]
) -> Any:
    async def run() -> Any:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            return await call(mem)

    return asyncio.run(run())


def store_late(servers: Any, namespace: str, day: dt.date, like: dt.date, agent: str, count: int = 50) -> None:
    """Experiences of one more agent on a day, made from those that another day still holds."""
    window, apart = Window.of_date(like), like - day

    async def call(mem: memory.MemoryConnection) -> None:
        found: list[EpisodicMemory] = [
            item async for page in mem.episodic.read_window(window.start, window.end, agent_id="hold") for item in page
        ]
        late = sorted(found, key=lambda item: item.timestamp)[:count]
        for item in late:
            item.agent_id, item.memory_id, item.market_phase = agent, "", ""
            item.timestamp -= apart
            item.known_at = item.timestamp + dt.timedelta(minutes=1)
            item.cumulative_return = item.return_known_at = None
        report = await mem.episodic.add_many(late)
        assert len(report.stored) == count

    with_memory(servers, namespace, call)


def digest(servers: Any, namespace: str) -> str:
    with Ledger.open(servers.database_url) as ledger:
        return ledger.digest(namespace).digest


def test_a_window_with_late_records_is_consolidated_again_by_the_next_night(configured: str, servers: Any) -> None:
    clean = f"{configured}-b"
    for day in DAYS[:2]:
        record(configured, day)
        record(clean, day)
    store_late(servers, clean, DAYS[0], DAYS[0], "latecomer")
    for day in DAYS[:2]:
        consolidate(clean, day)

    consolidate(configured, DAYS[0])
    store_late(servers, configured, DAYS[0], DAYS[0], "latecomer")
    assert consolidate(configured, DAYS[1])["windows_again"] == ["2021-06-17"]
    assert consolidate(configured, DAYS[1])["windows_again"] == []
    assert digest(servers, configured) == digest(servers, clean)


def test_an_id_that_a_late_record_changed_leads_to_the_pattern_that_stands_for_it(
    configured: str, servers: Any
) -> None:
    from memory.ledger import PatternRow

    # Without one product's states the clusters of the night have other members, and with them other ids.
    record(configured, DAYS[0])
    consolidate(configured, DAYS[0])
    with Ledger.open(servers.database_url) as ledger:
        (line,) = [item.line for item in ledger.lines.list(configured)]
        first = {row.item_id for row in ledger.projections.as_of(PatternRow, line)}
    record(configured, DAYS[0], products=["ETH-USDT"])
    consolidate(configured, DAYS[0])
    with Ledger.open(servers.database_url) as ledger:
        now = {row.item_id for row in ledger.projections.as_of(PatternRow, line)}
        gone = first - now
        assert gone
        # A pattern whose partition vanished (pooled before, large enough for itself now) has no successor.
        renamed = {alias.alias_id for alias in ledger.projections.aliases(line) if alias.reason == "REFOUNDED"}
        assert renamed
        assert renamed <= gone
        assert all(ledger.projections.resolve(line, name) not in first for name in renamed)


def test_other_settings_consolidate_all_windows_of_the_line_again(
    configured: str, servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = f"{configured}-b"
    for day in DAYS[:2]:
        record(configured, day)
        record(clean, day)
    for day in DAYS[:2]:
        consolidate(configured, day)
    monkeypatch.setenv("COINSWARM_COST_BP", "5")
    assert consolidate(configured, DAYS[1])["windows_again"] == ["2021-06-17"]
    for day in DAYS[:2]:
        consolidate(clean, day)
    assert digest(servers, configured) == digest(servers, clean)


def test_the_order_of_recording_and_consolidating_makes_no_difference(configured: str, servers: Any) -> None:
    other = f"{configured}-b"
    for day in DAYS[:2]:
        record(configured, day)
        consolidate(configured, day)
    for day in DAYS[:2]:
        record(other, day)
    for day in DAYS[:2]:
        consolidate(other, day)
    assert digest(servers, configured) == digest(servers, other)


def test_what_came_after_its_window_was_archived_is_not_pruned_before_it_is_archived_too(
    configured: str, servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in DAYS:
        record(configured, day)
        consolidate(configured, day)
    monkeypatch.setenv("COINSWARM_EPISODIC_RETENTION_DAYS", "1")

    def prune() -> int:
        result = prune_memories(PruneParameters(namespace=configured, date=DAYS[2]))
        return int(result["forgotten_experiences"])

    assert prune() == 2 * 7200
    store_late(servers, configured, DAYS[0], DAYS[2], "latecomer")
    assert prune() == 0
    assert consolidate(configured, DAYS[2])["windows_again"] == ["2021-06-17"]
    assert prune() == 50


def test_what_is_recorded_again_after_it_was_pruned_is_consolidated_once(
    configured: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in DAYS[:2]:
        record(configured, day)
        consolidate(configured, day)
    monkeypatch.setenv("COINSWARM_EPISODIC_RETENTION_DAYS", "1")
    prune_memories(PruneParameters(namespace=configured, date=DAYS[1]))
    assert record(configured, DAYS[0])["stored"] == 7200
    assert consolidate(configured, DAYS[1])["windows_again"] == ["2021-06-17"]
    assert consolidate(configured, DAYS[1])["windows_again"] == []


def test_two_markets_in_one_namespace_each_have_their_knowledge_and_their_benchmark(
    configured: str, servers: Any
) -> None:
    from deployments.pattern_choice import Choice
    from deployments.patterns import patterns

    coinbase = dt.date(2018, 4, 5)
    record(configured, DAYS[0])
    record(configured, coinbase, market="coinbase", products=["BTC-USD"])
    for day in (DAYS[0], coinbase):
        consolidate(configured, day)
        figures = benchmark_memory(BenchmarkParameters(namespace=configured, date=day, queries=20, agents=2))
        assert figures["recall"] >= 0.99

    async def published(mem: memory.MemoryConnection) -> dict[str, int]:
        return {
            line: len(await mem.semantic.current(SemanticType.PATTERN, line=line))
            for line in await mem.semantic.current_lines()
        }

    found = with_memory(servers, configured, published)
    assert len(found) == 2
    shown = [pattern["line"] for pattern in patterns(configured, None, Choice())]
    assert {line: shown.count(line) for line in found} == found


def test_a_pattern_that_no_window_changed_costs_no_row_a_night(configured: str, servers: Any) -> None:
    from memory.ledger import PatternRow

    for day in DAYS:
        record(configured, day)
        consolidate(configured, day)
    with Ledger.open(servers.database_url) as ledger:
        (line,) = [item.line for item in ledger.lines.list(configured)]
        first, last = (Window.of_date(day) for day in (DAYS[0], DAYS[2]))
        kept = {row.item_id: row.payload for row in ledger.projections.as_of(PatternRow, line, first)}
        now = {row.item_id: row.payload for row in ledger.projections.as_of(PatternRow, line, last)}
        unchanged = [name for name, payload in kept.items() if now.get(name) == payload]
        assert unchanged
        for name in unchanged:
            assert len(ledger.projections.history(PatternRow, line, name)) == 1
