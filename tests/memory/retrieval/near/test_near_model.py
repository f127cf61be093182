"""The near cache against the server itself: whatever is written, by whomever, both give the same answers."""

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
from memory.records import MarketPhase, to_ms
from memory.retrieval.near.cache import NearCache
from memory.retrieval.query import check_bounds
from tests.thoroughness import examples

DAY = datetime(2021, 6, 17, tzinfo=UTC)
AGENTS = ("a", "a.b", "A")
PRODUCTS = ("BTC-USD", "BTC", "USD")
REGIMES = ("QUIET", "VOLATILE")
TIMES = st.integers(0, 1439).map(lambda minute: DAY + timedelta(minutes=minute))


def unit_vector(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.random.default_rng(seed).standard_normal(256).astype(np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@st.composite
def records(draw: st.DrawFn) -> EpisodicMemory:
    timestamp = draw(TIMES)
    known_at = timestamp + timedelta(seconds=draw(st.integers(0, 7200)))
    step = draw(st.integers(0, 40))
    return EpisodicMemory(
        agent_id=draw(st.sampled_from(AGENTS)),
        timestamp=timestamp,
        state_vector=unit_vector(draw(st.integers(0, 12))),
        next_state_vector=draw(st.sampled_from([None, unit_vector(3)])),
        action=Action(Side.HOLD),
        reward=draw(st.sampled_from([-0.5, 0.0, 0.25])),
        product_id=draw(st.sampled_from(PRODUCTS)),
        regime=draw(st.sampled_from(REGIMES)),
        source="replay",
        step=step,
        known_at=known_at,
        terminal=draw(st.booleans()),
        cumulative_return=1.0,
        return_known_at=known_at + timedelta(hours=1),
        encoder_id=draw(st.sampled_from(["rff-1", "rff-1", "rff-1", "rff-2"])),
    )


CHANGES = st.one_of(
    st.tuples(st.just("add"), st.lists(records(), min_size=1, max_size=8)),
    st.tuples(st.just("forget"), st.sampled_from(AGENTS), TIMES),
    st.tuples(st.just("overwrite"), st.integers(0, 1000), TIMES),
    st.tuples(st.just("expire"), st.integers(0, 1000)),
    st.tuples(st.just("drop")),
)
QUESTIONS = st.fixed_dictionaries(
    {"agent_id": st.sampled_from(AGENTS)},
    optional={
        "product_id": st.sampled_from(PRODUCTS),
        "regime": st.sampled_from(REGIMES),
        "market_phase": st.sampled_from(list(MarketPhase)),
        "exclude_agent_id": st.sampled_from(AGENTS),
        "since": TIMES,
        "until": TIMES,
        "as_of": TIMES,
        "min_reward": st.sampled_from([-0.5, 0.0, 0.1]),
        "top_k": st.integers(1, 30),
        "with_next_state": st.booleans(),
    },
).filter(lambda asked: "since" not in asked or "until" not in asked or asked["since"] <= asked["until"])


def check(hits: Any, expected: Any) -> None:
    """The same answer; of records with equal vectors at the cut, the server keeps any, so ids count above it only."""
    np.testing.assert_allclose([hit.distance for hit in hits], [hit.distance for hit in expected], atol=1e-5)
    if not expected:
        return
    cut = expected[-1].distance - 1e-5
    ours = [hit for hit in hits if hit.distance < cut]
    theirs = [hit for hit in expected if hit.distance < cut]
    assert [hit.memory.memory_id for hit in ours] == [hit.memory.memory_id for hit in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for name in EpisodicMemory.__slots__:
            left, right = getattr(one.memory, name), getattr(other.memory, name)
            assert np.array_equal(left, right) if isinstance(left, np.ndarray) else left == right, name


async def change(mem: memory.MemoryConnection, what: tuple[Any, ...], keys: set[str]) -> None:
    if what[0] == "add":
        report = await mem.episodic.add_many(what[1])
        stored = set(report.stored)
        for record in what[1]:
            if record.memory_id in stored:
                keys.add(
                    mem.keys.episodic(record.agent_id, record.product_id, to_ms(record.timestamp), record.memory_id)
                )
    elif what[0] == "forget":
        await mem.episodic.forget(agent_id=what[1], before=what[2])
    elif what[0] in ("overwrite", "expire"):
        key = sorted(keys)[what[1] % len(keys)] if keys else ""
        if not await mem.link.execute("EXISTS", key):
            return
        if what[0] == "overwrite":
            await mem.link.execute("HSET", key, "known_at", to_ms(what[2]))
        else:
            await mem.link.execute("PEXPIRE", key, 0)


@given(steps=st.lists(st.tuples(CHANGES, st.booleans(), st.lists(QUESTIONS, max_size=3)), min_size=2, max_size=8))
@settings(max_examples=examples(9, 54), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_give_the_same_answers_after_every_change(servers: Any, steps: list[Any]) -> None:
    async def run() -> None:
        name = f"n-{uuid.uuid4().hex[:10]}"
        async with (
            memory.connect(redis_url=servers.redis_url, namespace=name, encoder_id="rff-1") as mem,
            memory.connect(redis_url=servers.redis_url, namespace=name, encoder_id="rff-1") as other,
        ):
            schema = await mem.indexes.ensure_episodic("rff-1")
            cache = NearCache(mem.link, servers.redis_url, mem.keys, mem.indexes, mem.reader, budget_mb=16, after=0)
            keys: set[str] = set()
            for what, by_another, questions in steps:
                if what[0] == "drop":
                    cache._lost()
                await change(other if by_another else mem, what, keys)
                for asked in questions:
                    limits = dict(asked)
                    more = {"top_k": limits.pop("top_k", 10), "with_next_state": limits.pop("with_next_state", False)}
                    bounds = check_bounds(**limits)
                    while (hits := await cache.nearest(schema, unit_vector(3), bounds, **more)) is None:
                        await asyncio.sleep(0.002)
                    check(hits, await mem.retrieval.retrieve_similar_experiences(unit_vector(3), **asked))
            await cache.close()
            for index in await mem.indexes.health():
                await mem.link.execute("FT.DROPINDEX", index.name, "DD")

    asyncio.run(run())
