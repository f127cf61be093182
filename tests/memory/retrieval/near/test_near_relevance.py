"""Relevance answered by the near cache is what `memory.retrieval.ranking` says of all experiences."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.records import Action, EpisodicMemory, Side, from_ms
from memory.retrieval.hits import Hit
from memory.retrieval.near.arena import NEVER_MS
from memory.retrieval.near.rows import AgentRows, StoredRow
from memory.retrieval.near.search import Question
from memory.retrieval.ranking import Relevance, RelevanceWeights
from memory.tables import TRAILING_VOLATILITY
from tests.thoroughness import examples

DIMENSION = 16
MINUTE_MS = 60_000
NOW = datetime(2021, 6, 18, tzinfo=UTC)
LOADED = {"agent_id": "momentum"}
WEIGHT = st.sampled_from([0.0, 0.1, 0.8, 3.0])
WEIGHTS = st.builds(
    RelevanceWeights,
    similarity=st.sampled_from([0.05, 0.8, 1.0]),
    recency=WEIGHT,
    reward=WEIGHT,
    half_life_days=st.sampled_from([1e-300, 1e-4, 0.01, 30.0, 1e300]),
    reward_scale=st.sampled_from([1e-300, 0.001, 5.0]),
)


def held(number: int, palette: Any, generator: np.random.Generator) -> StoredRow:
    """A record whose vector, age, reward and volatility are drawn from few, so that many are equally relevant."""
    vector = palette[generator.integers(len(palette))].astype("<f4")
    decided_ms = 1_623_974_400_000 - int(generator.integers(-5, 50)) * MINUTE_MS
    return StoredRow(
        key=f"ns:episodic:a:BTC:{decided_ms}:{number:032x}".encode(),
        body=b"body",
        vector=vector.tobytes(),
        product_id=("BTC", "ETH")[number % 2],
        timestamp_ms=decided_ms,
        regime=int(generator.integers(3)),
        feature_schema="",
        known_ms=decided_ms,
        recorded_ms=decided_ms,
        expires_ms=NEVER_MS,
        reward=float(generator.choice([-0.01, 0.0, 0.0005, 1e300])),
        volatility=float(generator.choice([0.0, 0.001, 0.02])),
    )


def hits_of(rows: AgentRows, found: Any, by_key: dict[bytes, StoredRow]) -> list[Hit]:
    hits = []
    for slot, distance, vector in zip(found.slots, found.distances, found.vectors, strict=True):
        item = by_key[rows.key(slot)]
        memory = EpisodicMemory(
            agent_id="a",
            timestamp=from_ms(item.timestamp_ms),
            state_vector=vector,
            action=Action(Side.HOLD),
            reward=item.reward,
            product_id=item.product_id,
            regime="",
            memory_id=item.key.decode().split(":")[-1],
            features={TRAILING_VOLATILITY: item.volatility} if item.volatility else {},
        )
        hits.append(Hit(memory, distance, 1.0 - distance))
    return hits


@given(
    seed=st.integers(0, 10_000),
    count=st.sampled_from([1, 7, 90, 700]),
    colours=st.integers(1, 200),
    weights=WEIGHTS,
    top_k=st.integers(1, 30),
    late=st.sampled_from([timedelta(), timedelta(microseconds=1), timedelta(days=40), timedelta(minutes=-20)]),
    asked=st.sampled_from([{}, {"product_id": "BTC"}, {"product_id": "ETH", "regime": 1}, {"regime": 2}]),
)
@settings(max_examples=examples(100, 600), deadline=None)
def test_the_most_relevant_of_all_rows_are_among_those_found(
    seed: int, count: int, colours: int, weights: RelevanceWeights, top_k: int, late: timedelta, asked: dict[str, Any]
) -> None:
    generator = np.random.default_rng(seed)
    palette = generator.standard_normal((colours, DIMENSION))
    palette /= np.linalg.norm(palette, axis=1, keepdims=True)
    items = [held(number, palette, generator) for number in range(count)]
    by_key = {item.key: item for item in items}
    rows = AgentRows("FLOAT32", DIMENSION, count)
    rows.fill(items[: count // 2])
    rows.settle()
    for item in items[count // 2 :]:
        rows.put(item)
    for item in items[::9]:
        rows.remove(item.key)
    relevance = Relevance(weights, NOW + late)
    state = rows.as_stored((palette[0] + 0.1 * generator.standard_normal(DIMENSION)).astype(np.float32))
    everything = relevance.order(hits_of(rows, rows.nearest(Question(state, count, **asked), 0), by_key))
    found = hits_of(rows, rows.most_relevant(Question(state, top_k, **asked), relevance, 0), by_key)
    best = relevance.order(found)[:top_k]
    assert [(hit.memory.memory_id, hit.score, hit.score_parts, hit.distance) for hit in best] == [
        (hit.memory.memory_id, hit.score, hit.score_parts, hit.distance) for hit in everything[:top_k]
    ]


async def test_relevance_is_answered_as_the_server_is_ranked(near: Any, make: Any, vector: Any) -> None:
    records = [
        make(
            minute,
            reward=0.001 * (minute % 7 - 3),
            features={TRAILING_VOLATILITY: 0.001 * (1 + minute % 3)} if minute % 4 else {"trend": 1.0},
            next_state_vector=vector(minute + 1),
        )
        for minute in range(120)
    ]
    await near.mem.episodic.add_many(records)
    await near.answer(vector(0), **LOADED)
    near.mem.retrieval._context.near = near.cache
    for weights in (None, RelevanceWeights(similarity=0.2, recency=1.0, reward=1.0, half_life_days=0.02)):
        asked = {
            **LOADED,
            "as_of": NOW + timedelta(hours=1),
            "ranking": "relevance",
            "weights": weights,
            "with_next_state": True,
        }
        hits_before = near.cache.describe().hits
        cached = await near.mem.retrieval.retrieve_similar_experiences(vector(5), **asked)
        assert near.cache.describe().hits == hits_before + 1
        near.mem.retrieval._context.near = None
        wired = await near.mem.retrieval.retrieve_similar_experiences(vector(5), **asked)
        near.mem.retrieval._context.near = near.cache
        assert [hit.memory.memory_id for hit in cached] == [hit.memory.memory_id for hit in wired]
        assert [hit.score for hit in cached] == pytest.approx([hit.score for hit in wired], abs=1e-6)
        for one, other in zip(cached, wired, strict=True):
            assert one.score_parts == pytest.approx(other.score_parts, abs=1e-6)
            assert np.array_equal(one.memory.next_state_vector, other.memory.next_state_vector)


async def test_where_too_many_are_equally_relevant_the_nearest_are_ranked(
    near: Any, make: Any, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await near.mem.episodic.add_many([make(minute, reward=0.0) for minute in range(40)])
    await near.answer(vector(0), **LOADED)
    near.mem.retrieval._context.near = near.cache
    monkeypatch.setattr("memory.retrieval.near.answer.MOST_EQUALLY_RELEVANT", 5)
    reward_only = RelevanceWeights(similarity=0.0, recency=0.0, reward=1.0)
    hits = await near.mem.retrieval.retrieve_similar_experiences(
        vector(0), **LOADED, ranking="relevance", weights=reward_only
    )
    assert [hit.memory.memory_id for hit in hits] == sorted(hit.memory.memory_id for hit in hits)
    assert len(hits) == 10
