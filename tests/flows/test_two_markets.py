"""Two markets in one namespace: each has an encoder, knowledge and a benchmark of its own."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest

import memory
from deployments.pattern_choice import Choice
from deployments.patterns import patterns
from flows.benchmark_memory import Parameters as BenchmarkParameters
from flows.benchmark_memory import benchmark_memory
from flows.consolidate_memories import Parameters as ConsolidateParameters
from flows.consolidate_memories import consolidate_memories
from flows.record_experiences import Parameters as RecordParameters
from flows.record_experiences import record_experiences
from memory.records import SemanticType

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]

DAY_OF = {("binance", "BTC-USDT"): dt.date(2021, 6, 17), ("coinbase", "BTC-USD"): dt.date(2018, 4, 5)}


def test_two_markets_in_one_namespace_each_have_their_knowledge_and_their_benchmark(
    configured: str, servers: Any
) -> None:
    for (market, product), day in DAY_OF.items():
        record_experiences(
            RecordParameters(namespace=configured, date=day, source="market", market=market, products=[product])
        )
    for day in DAY_OF.values():
        consolidate_memories(ConsolidateParameters(namespace=configured, date=day))
        figures = benchmark_memory(BenchmarkParameters(namespace=configured, date=day, queries=20, agents=2))
        assert figures["recall"] >= 0.99

    async def published() -> dict[str, int]:
        async with memory.connect(redis_url=servers.redis_url, namespace=configured) as mem:
            return {
                line: len(await mem.semantic.current(SemanticType.PATTERN, line=line))
                for line in await mem.semantic.current_lines()
            }

    found = asyncio.run(published())
    assert len(found) == 2
    shown = [pattern["line"] for pattern in patterns(configured, None, Choice())["patterns"]]
    assert {line: shown.count(line) for line in found} == found
