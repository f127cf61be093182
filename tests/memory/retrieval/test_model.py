"""Retrieval against a plain Python model of the same memory."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memory
from memory import Action, EpisodicMemory, Side
from memory.records import MarketPhase

DAY = datetime(2021, 6, 17, tzinfo=UTC)
AGENTS = ("a", "a.b", "a-b", "A")
PRODUCTS = ("BTC-USD", "BTC", "USD")
REGIMES = ("QUIET", "VOLATILE")
TIMES = st.integers(0, 1439).map(lambda minute: DAY + timedelta(minutes=minute))


def unit_vector(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.random.default_rng(seed).standard_normal(256).astype(np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@st.composite
def memories(draw: st.DrawFn) -> list[EpisodicMemory]:
    records = []
    for step in range(draw(st.integers(1, 25))):
        timestamp = draw(TIMES)
        known_at = timestamp + timedelta(seconds=draw(st.integers(0, 7200)))
        records.append(
            EpisodicMemory(
                agent_id=draw(st.sampled_from(AGENTS)),
                timestamp=timestamp,
                state_vector=unit_vector(step),
                action=Action(Side.HOLD),
                reward=draw(st.sampled_from([-0.5, 0.0, 0.25])),
                product_id=draw(st.sampled_from(PRODUCTS)),
                regime=draw(st.sampled_from(REGIMES)),
                source=draw(st.sampled_from(["backtest", "replay"])),
                step=step,
                known_at=known_at,
                cumulative_return=1.0,
                return_known_at=known_at + timedelta(hours=1),
            )
        )
    return records


QUESTIONS = st.fixed_dictionaries(
    {},
    optional={
        "agent_id": st.sampled_from(AGENTS),
        "product_id": st.sampled_from(PRODUCTS),
        "regime": st.sampled_from(REGIMES),
        "market_phase": st.sampled_from(list(MarketPhase)),
        "exclude_agent_id": st.sampled_from(AGENTS),
        "since": TIMES,
        "until": TIMES,
        "as_of": TIMES,
        "min_reward": st.sampled_from([-0.5, 0.0, 0.1]),
        "top_k": st.integers(1, 30),
    },
).filter(lambda asked: "since" not in asked or "until" not in asked or asked["since"] <= asked["until"])


def expected(records: list[EpisodicMemory], vector: Any, asked: dict[str, Any]) -> list[float]:
    fit = [
        record
        for record in records
        if asked.get("agent_id", record.agent_id) == record.agent_id
        and asked.get("product_id", record.product_id) == record.product_id
        and asked.get("regime", record.regime) == record.regime
        and asked.get("market_phase", record.market_phase) == record.market_phase
        and asked.get("exclude_agent_id") != record.agent_id
        and asked.get("since", record.timestamp) <= record.timestamp
        and ("until" not in asked or record.timestamp < asked["until"])
        and ("as_of" not in asked or (record.known_at is not None and record.known_at <= asked["as_of"]))
        and asked.get("min_reward", -1.0) <= record.reward
    ]
    return sorted(1.0 - float(record.state_vector @ vector) for record in fit)[: asked.get("top_k", 10)]


@given(records=memories(), others=memories(), questions=st.lists(QUESTIONS, min_size=1, max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_filters_as_of_and_namespaces_are_exact(
    servers: Any, records: list[EpisodicMemory], others: list[EpisodicMemory], questions: list[dict[str, Any]]
) -> None:
    async def check() -> None:
        name = f"m-{uuid.uuid4().hex[:10]}"
        async with (
            memory.connect(redis_url=servers.redis_url, namespace=name) as mem,
            memory.connect(redis_url=servers.redis_url, namespace=f"{name}-other") as neighbour,
        ):
            report = await mem.episodic.add_many(records)
            await neighbour.episodic.add_many(others)
            stored = dict.fromkeys(report.stored)
            kept = [record for record in records if record.memory_id in stored]
            assert len(kept) == len(stored) == len(records)
            for asked in questions:
                vector = unit_vector(500)
                hits = await mem.retrieval.retrieve_similar_experiences(vector, **asked)
                np.testing.assert_allclose([hit.distance for hit in hits], expected(kept, vector, asked), atol=1e-5)
                if "as_of" in asked:
                    visible = [hit.memory.cumulative_return is not None for hit in hits]
                    by_id = {record.memory_id: record.return_known_at for record in kept}
                    assert visible == [by_id[hit.memory.memory_id] <= asked["as_of"] for hit in hits]  # type: ignore[operator]
            for index in await mem.indexes.health():
                await mem.link.execute("FT.DROPINDEX", index.name, "DD")
            for index in await neighbour.indexes.health():
                await neighbour.link.execute("FT.DROPINDEX", index.name, "DD")

    asyncio.run(check())
