"""Patterns: near enough or not, filtered by a caller, in one round trip, and never those of yesterday's line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import memory
from memory import MemoryConnection, SemanticType, Settings
from memory.errors import InvalidQueryError
from memory.retrieval.service import MemoryRetrievalService
from memory.store import snapshots

DAY = datetime(2021, 6, 17, tzinfo=UTC)
NIGHT = timedelta(days=1)


def between(one: Any, other: Any, cosine: float) -> Any:
    """The unit vector at this cosine from `one`, towards `other`."""
    rest = other - (one @ other) * one
    return (cosine * one + np.sqrt(1 - cosine**2) * rest / np.linalg.norm(rest)).astype(np.float32)


@pytest.fixture
def trips(mem: MemoryConnection, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Round trips as they are made: the names of the commands of each."""
    made: list[tuple[str, ...]] = []
    execute, pipeline = mem.link.execute, mem.link.pipeline

    def counted_execute(*command: Any, **more: Any) -> Any:
        made.append((command[0],))
        return execute(*command, **more)

    def counted_pipeline(commands: Any, **more: Any) -> Any:
        made.append(tuple(command[0] for command in commands))
        return pipeline(commands, **more)

    monkeypatch.setattr(mem.link, "execute", counted_execute)
    monkeypatch.setattr(mem.link, "pipeline", counted_pipeline)
    return made


async def test_a_state_near_a_pattern_is_taken_for_it(
    mem: MemoryConnection, build: Any, publish: Any, vector: Any
) -> None:
    await publish([build["pattern"]("p-1", seed=1), build["pattern"]("p-2", seed=2, regime="CRISIS")])
    find = mem.retrieval.find_similar_pattern
    inside, outside = between(vector(1), vector(2), 0.9), between(vector(1), vector(2), 0.85)
    hit = await find(inside)
    assert hit is not None
    assert (hit.memory.memory_id, hit.score) == ("p-1", pytest.approx(0.9, abs=1e-4))
    assert await find(outside) is None
    looser = await find(outside, min_similarity=0.8)
    assert looser is not None
    assert await find(inside, min_similarity=0.95) is None
    assert await find(inside, regime="CRISIS") is None
    assert await find(inside, product_id="DOT-USDT") is None
    assert (await find(vector(2), regime="CRISIS")) is not None


async def test_a_state_is_taken_for_the_nearest_pattern_that_reaches_it(
    mem: MemoryConnection, build: Any, publish: Any, vector: Any
) -> None:
    state = vector(0)
    near = [
        build["pattern"](f"p-{number}", concept_vector=between(state, vector(10 + number), 0.99), reach=0.005)
        for number in range(6)  # More than are looked at first.
    ]
    wide = build["pattern"]("wide", concept_vector=between(state, vector(1), 0.92), reach=0.1)
    find = mem.retrieval.find_similar_pattern
    await publish(near)
    assert await find(state) is None
    assert await mem.access.all_counts(datetime.now(UTC) + NIGHT) == {}
    await publish([*near, wide], night=1)
    hit = await find(state)
    assert hit is not None
    assert hit.memory.memory_id == "wide"
    assert await find(state, min_similarity=0.95) is None
    counted = await mem.access.all_counts(datetime.now(UTC) + NIGHT)
    assert counted == {"wide": 1}


async def test_how_near_is_near_is_a_setting(mem: MemoryConnection, build: Any, publish: Any, vector: Any) -> None:
    await publish([build["pattern"]("p-1", seed=1)])
    state = between(vector(1), vector(2), 0.5)
    strict = MemoryRetrievalService(mem.retrieval._context, Settings(pattern_similarity=0.6))
    loose = MemoryRetrievalService(mem.retrieval._context, Settings(pattern_similarity=0.4))
    assert await strict.find_similar_pattern(state) is None
    assert await loose.find_similar_pattern(state) is not None


async def test_a_pattern_that_was_found_later_is_not_found_before(
    mem: MemoryConnection, build: Any, publish: Any, vector: Any
) -> None:
    await publish([build["pattern"]("p-1", seed=1)])
    await publish([build["pattern"]("p-1", seed=2)], night=1)
    find = mem.retrieval.find_similar_pattern
    assert await find(vector(1), as_of=DAY - timedelta(milliseconds=1)) is None
    past = await find(vector(1), as_of=DAY + NIGHT - timedelta(milliseconds=1))
    assert past is not None
    assert past.memory.valid_to is None
    assert await find(vector(2), as_of=DAY) is None
    assert await find(vector(1)) is None
    assert await mem.at(DAY).retrieval.find_similar_pattern(vector(1)) is not None


async def test_a_filter_chooses_among_patterns(mem: MemoryConnection, build: Any, publish: Any, vector: Any) -> None:
    await publish([build["pattern"](f"p-{number}", seed=number, demoted=number % 2 == 0) for number in range(20)])

    def standing(hits: Any) -> Any:
        return [hit for hit in hits if not hit.memory.demoted]

    nearest = [hit.memory.memory_id for hit in await mem.retrieval.retrieve_patterns(vector(0), top_k=20)]
    kept = [hit.memory.memory_id for hit in await mem.retrieval.retrieve_patterns(vector(0), post_filter=standing)]
    assert kept == [name for name in nearest if int(name.removeprefix("p-")) % 2][:5]
    with pytest.raises(InvalidQueryError, match="post_filter"):
        await mem.retrieval.retrieve_patterns(vector(0), post_filter=3)  # type: ignore[arg-type]


async def test_patterns_equally_near_come_in_the_order_of_their_ids(
    mem: MemoryConnection, build: Any, publish: Any, vector: Any
) -> None:
    names = [f"p-{number:02}" for number in range(20)]
    await publish([*(build["pattern"](name, seed=1) for name in reversed(names)), build["pattern"]("nearer", seed=2)])
    question = between(vector(2), vector(1), 0.9)
    for top_k in (1, 2, 4, 20, 21, 30):
        hits = await mem.retrieval.retrieve_patterns(question, top_k=top_k)
        assert [hit.memory.memory_id for hit in hits] == ["nearer", *names][:top_k]


async def test_more_patterns_than_are_kept_are_found_by_many_at_once(
    mem: MemoryConnection, build: Any, publish: Any, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "VERSIONS_KEPT", 3)
    await publish([build["pattern"](f"p-{number}", seed=number) for number in range(12)])
    for _ in range(3):
        found = await asyncio.gather(
            *(mem.retrieval.retrieve_patterns(vector(number), top_k=number % 5 + 1) for number in range(12))
        )
        assert [hits[0].memory.memory_id for hits in found] == [f"p-{number}" for number in range(12)]
        assert [len(hits) for hits in found] == [number % 5 + 1 for number in range(12)]


# --- round trips ---------------------------------------------------------------------------------------------


async def test_each_question_is_one_round_trip_while_nothing_is_published(
    mem: MemoryConnection, build: Any, publish: Any, make: Any, vector: Any, trips: list[tuple[str, ...]]
) -> None:
    await mem.encoders.register("rff-1", fitted_until=DAY - NIGHT, definition={})
    await mem.episodic.add(make(0))
    await publish([build["pattern"]("p-1", seed=1), build["regime"]("QUIET")])
    locked = mem.at(DAY)
    asked: list[tuple[Callable[..., Any], tuple[Any, ...], tuple[str, ...]]] = [
        (mem.retrieval.retrieve_patterns, (vector(1),), ("HGET", "GET", "FT.SEARCH", "GET")),
        (mem.retrieval.find_similar_pattern, (vector(1),), ("HGET", "GET", "FT.SEARCH", "GET")),
        (mem.retrieval.retrieve_regime_knowledge, ("QUIET",), ("HGET", "GET")),
        (mem.retrieval.retrieve_correlations, ("BTC-USDT",), ("HGET", "GET")),
    ]
    for ask, arguments, _ in asked:
        await ask(*arguments)
        await getattr(locked.retrieval, ask.__name__)(*arguments)
    await mem.access.flush()
    for ask, arguments, commands in asked:
        # As of a time, which line answered then is asked for in the same round trip.
        past = (commands[0], "HGETALL", *commands[1:])
        for repeated, expected in ((ask, commands), (getattr(mem.at(DAY).retrieval, ask.__name__), past)):
            trips.clear()
            await repeated(*arguments)
            assert trips == [expected]
    await mem.access.flush()


async def test_a_publication_is_seen_by_the_next_question(
    servers: Any, mem: MemoryConnection, build: Any, publish: Any, vector: Any
) -> None:
    await publish([build["pattern"]("p-1", seed=1), build["regime"]("QUIET", spells=1)])
    async with memory.connect(redis_url=servers.redis_url, namespace=mem.namespace) as reader:
        for spells in range(1, 6):
            # The same night anew, so that neither times nor the number of versions tell the difference.
            await publish([build["pattern"]("p-1", seed=1, support=spells), build["regime"]("QUIET", spells=spells)])
            known = await reader.retrieval.retrieve_regime_knowledge("QUIET")
            assert known.memory is not None
            assert known.memory.spells == spells
            past = await reader.retrieval.retrieve_regime_knowledge("QUIET", as_of=DAY)
            assert past.memory is not None
            assert past.memory.spells == spells
            (hit,) = await reader.retrieval.retrieve_patterns(vector(1))
            assert hit.memory.support == spells
        await publish([], night=0)
        assert (await reader.retrieval.retrieve_regime_knowledge("QUIET")).memory is None
        assert await reader.retrieval.retrieve_patterns(vector(1)) == []


async def test_another_line_takes_over_with_the_next_question(
    servers: Any, mem: MemoryConnection, build: Any, publish: Any, vector: Any
) -> None:
    other = "ns/rff-1/2"
    await publish([build["pattern"]("p-1", seed=1), build["regime"]("QUIET", spells=1)])
    await mem.semantic.publish(
        [build["pattern"]("p-1", seed=1, line=other, support=9), build["regime"]("QUIET", line=other, spells=9)],
        line=other,
        kinds=tuple(SemanticType),
        token=1,
        valid_from=DAY,
    )
    async with memory.connect(redis_url=servers.redis_url, namespace=mem.namespace) as reader:
        for line, expected in (("ns/rff-1/1", (5, 1)), (other, (9, 9)), ("ns/rff-1/1", (5, 1))):
            await mem.semantic.set_current_line(line, "rff-1", token=1)
            (hit,) = await reader.retrieval.retrieve_patterns(vector(1))
            known = await reader.retrieval.retrieve_regime_knowledge("QUIET")
            assert known.memory is not None
            assert (hit.memory.support, known.memory.spells) == expected


async def test_a_memory_that_was_emptied_answers_as_an_empty_one(
    mem: MemoryConnection, build: Any, publish: Any, vector: Any
) -> None:
    await publish([build["pattern"]("p-1", seed=1), build["regime"]("QUIET")])
    assert len(await mem.retrieval.retrieve_patterns(vector(1))) == 1
    assert (await mem.retrieval.retrieve_regime_knowledge("QUIET")).memory is not None
    await mem.access.flush()
    for index in await mem.indexes.health():
        await mem.link.execute("FT.DROPINDEX", index.name, "DD")
    for key in await mem.link.execute("KEYS", f"{mem.namespace}:*"):
        await mem.link.execute("UNLINK", key)
    assert await mem.retrieval.retrieve_patterns(vector(1)) == []
    assert (await mem.retrieval.retrieve_regime_knowledge("QUIET")).memory is None
    await publish([build["pattern"]("p-2", seed=1), build["regime"]("QUIET")])
    assert [hit.memory.memory_id for hit in await mem.retrieval.retrieve_patterns(vector(1))] == ["p-2"]


@pytest.mark.parametrize(
    ("asked", "argument"),
    [
        *(({"min_similarity": value}, "min_similarity") for value in (1.5, -2, float("nan"), "near", True)),
        *(({"product_id": name}, "product_id") for name in ("", "*", "a|b", "x" * 10_000)),
        *(({"regime": name}, "regime") for name in ("quiet", "ALL", "*")),
        ({"state_vector": np.zeros(256, dtype=np.float32)}, "state_vector"),
        ({"as_of": "now"}, "as_of"),
    ],
)
async def test_malformed_questions_are_refused_before_anything_is_sent(
    mem: MemoryConnection, make: Any, vector: Any, asked: dict[str, Any], argument: str
) -> None:
    await mem.episodic.add(make(0))
    await mem.retrieval.retrieve_similar_experiences(vector(0))
    await mem.link.close()
    with pytest.raises(InvalidQueryError) as caught:
        await mem.retrieval.find_similar_pattern(**{"state_vector": vector(0), **asked})
    assert caught.value.argument == argument
