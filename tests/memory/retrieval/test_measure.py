"""The benchmark of retrieval measures what is stored, and says so where nothing is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from agents.baselines import baseline_agents
from agents.fitting import default_encoder
from agents.market import Market
from agents.simulation import simulate
from memory import MemoryConnection
from memory.errors import WindowError
from memory.retrieval.measure import measure_retrieval

DAY = datetime(2021, 6, 17, tzinfo=UTC)


async def test_a_namespace_without_experiences_cannot_be_measured(mem: MemoryConnection) -> None:
    with pytest.raises(WindowError, match="Record the window first"):
        await measure_retrieval(mem, DAY, DAY + timedelta(days=1))


async def test_recall_is_complete_with_an_exact_index_and_every_query_is_counted(mem: MemoryConnection) -> None:
    night = simulate(
        Market.sample("binance", ["BTC-USDT"]), DAY, DAY + timedelta(days=1), baseline_agents()[:2], default_encoder()
    )
    experiences = list(night.experiences())[:600]
    await mem.episodic.add_many(experiences)
    figures = await measure_retrieval(mem, DAY, DAY + timedelta(days=1), queries=30, agents=3, recall_queries=10)
    assert figures.documents == 600
    assert figures.recall == 1.0
    assert len(figures.concurrent_ms) == 90
    assert all(len(taken) == 30 for taken in figures.latencies_ms.values())
    assert np.concatenate([figures.concurrent_ms, *figures.latencies_ms.values()]).min() > 0


async def test_recall_shows_what_a_lossy_memory_misses(mem: MemoryConnection) -> None:
    night = simulate(
        Market.sample("binance", ["BTC-USDT"]), DAY, DAY + timedelta(days=1), baseline_agents()[:1], default_encoder()
    )
    await mem.episodic.add_many(list(night.experiences())[:300])
    search = mem.retrieval.retrieve_similar_experiences

    class Lossy:
        """Answers with the worse half of what was found."""

        async def retrieve_similar_experiences(self, *arguments: object, top_k: int, **named: object) -> object:
            return (await search(*arguments, top_k=2 * top_k, **named))[top_k:]  # type: ignore[arg-type]

    mem.retrieval = Lossy()  # type: ignore[assignment]
    figures = await measure_retrieval(mem, DAY, DAY + timedelta(days=1), queries=20, agents=2, recall_queries=10)
    assert figures.recall < 0.5
