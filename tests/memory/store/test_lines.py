"""Which line is read: the current one, and as of a time the one that was current then."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memory
from memory import MemoryConnection, SemanticType
from memory.errors import FencedOutError, PastExpiredError
from memory.store.lines import Succession
from memory.store.semantic import SemanticVersion

DAY = datetime(2021, 6, 18, tzinfo=UTC)
NIGHT = timedelta(days=1)
OLD, NEW = "ns/rff-1/1", "ns/rff-1/2"
ENCODER = "rff-1"


@pytest.fixture
async def two_lines(mem: MemoryConnection, build: Any) -> MemoryConnection:
    """A memory with two lines from the same day on; the first one is read."""
    await mem.link.execute("SET", mem.keys.fence, 1)
    for line, value in ((OLD, 1), (NEW, 2)):
        await publish(mem, build, line, {0: value})
    return mem


async def publish(mem: MemoryConnection, build: Any, line: str, nights: dict[int, int], **how: Any) -> Any:
    """One pattern and one regime of each night on; their support says of which line they are."""
    changes = [
        *(
            SemanticVersion(
                SemanticType.PATTERN, "p-1", DAY + at * NIGHT, build["pattern"]("p-1", seed=1, line=line, support=value)
            )
            for at, value in sorted(nights.items())
        ),
        *(
            SemanticVersion(
                SemanticType.REGIME, "r-1", DAY + at * NIGHT, build["regime"]("r-1", line=line, spells=value)
            )
            for at, value in sorted(nights.items())
        ),
    ]
    how = {"since": None, "horizon": None, **how}
    return await mem.semantic.publish_versions(changes, line=line, kinds=tuple(SemanticType), token=1, **how)


async def answers(mem: Any, build: Any, **bound: Any) -> set[int]:
    """What each kind of question answers with."""
    patterns = await mem.retrieval.retrieve_patterns(build["vector"](1), **bound)
    similar = await mem.retrieval.find_similar_pattern(build["vector"](1), **bound)
    knowledge = await mem.retrieval.retrieve_regime_knowledge("QUIET", **bound)
    found = {hit.memory.support for hit in patterns} | ({similar.memory.support} if similar else set())
    return found | ({knowledge.memory.spells} if knowledge.memory else set())


async def test_as_of_a_time_before_a_line_took_over_the_old_one_answers(
    servers: Any, two_lines: MemoryConnection, build: Any
) -> None:
    mem = two_lines
    async with memory.connect(redis_url=servers.redis_url, namespace=mem.namespace) as reader:
        assert await answers(reader, build) == {1}
        await mem.semantic.take_over(NEW, ENCODER, current_from=DAY + 5 * NIGHT, token=1)
        for asking in (mem, reader):
            assert await answers(asking, build) == {2}
            assert await answers(asking, build, as_of=DAY + 5 * NIGHT) == {2}
            assert await answers(asking, build, as_of=DAY + 5 * NIGHT - timedelta(milliseconds=1)) == {1}
            past = asking.at(DAY + NIGHT)
            assert await answers(past, build) == {1}
            assert {item.line for item in await past.semantic.current()} == {OLD}
            assert {item.line for item in await asking.semantic.as_of(DAY + 6 * NIGHT)} == {NEW}
        assert await reader.semantic.line_at(DAY) == OLD
        assert await reader.semantic.succession(ENCODER) == [(None, OLD), (DAY + 5 * NIGHT, NEW)]


async def test_taking_over_again_changes_nothing(two_lines: MemoryConnection) -> None:
    semantic = two_lines.semantic
    await semantic.take_over(NEW, ENCODER, current_from=DAY + 5 * NIGHT, token=1)
    before = await semantic.digest()
    await semantic.take_over(NEW, ENCODER, current_from=DAY + 5 * NIGHT, token=1)
    assert await semantic.digest() == before


async def test_an_overtaken_run_makes_no_line_current(two_lines: MemoryConnection) -> None:
    await two_lines.fence.raise_to(2)
    before = await two_lines.semantic.digest()
    with pytest.raises(FencedOutError):
        await two_lines.semantic.take_over(NEW, ENCODER, current_from=DAY, token=1)
    with pytest.raises(FencedOutError):
        await two_lines.semantic.drop_line(OLD, 1)
    assert await two_lines.semantic.digest() == before


async def test_a_line_that_is_not_adopted_is_not_read(mem: MemoryConnection, build: Any) -> None:
    await mem.link.execute("SET", mem.keys.fence, 1)
    await publish(mem, build, OLD, {0: 1}, adopt=False)
    assert await mem.semantic.current_line() is None
    assert await answers(mem, build) == set()
    await mem.semantic.take_over(OLD, ENCODER, current_from=DAY, token=1)
    assert await answers(mem, build, as_of=DAY) == {1}


async def test_a_dropped_line_leaves_nothing_and_the_one_before_it_is_read(
    two_lines: MemoryConnection, build: Any
) -> None:
    mem = two_lines
    keys = await mem.link.execute("KEYS", f"{mem.namespace}:*{NEW}*")
    assert keys
    before = await mem.semantic.digest()
    await mem.semantic.take_over(NEW, ENCODER, current_from=DAY + 5 * NIGHT, token=1)
    assert await mem.semantic.lines() == [OLD, NEW]
    assert await mem.semantic.drop_line(NEW, 1) == 2
    assert await mem.link.execute("KEYS", f"{mem.namespace}:*{NEW}*") == []
    assert await answers(mem, build) == {1}
    assert await mem.semantic.drop_line(NEW, 1) == 0
    await publish(mem, build, NEW, {0: 2})
    await mem.semantic.set_current_line(OLD, ENCODER, token=1)
    assert await mem.semantic.digest() == before


async def test_while_a_line_takes_over_every_answer_is_wholly_of_one(
    servers: Any, two_lines: MemoryConnection, build: Any
) -> None:
    mem = two_lines
    seen: list[set[int]] = []
    done = asyncio.Event()

    async def ask() -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=mem.namespace) as reader:
            while not done.is_set():
                hits = await reader.retrieval.retrieve_patterns(build["vector"](1))
                seen.append({hit.memory.support for hit in hits})

    asking = asyncio.ensure_future(ask())
    for number in range(6):
        line = (OLD, NEW)[number % 2]
        await mem.semantic.take_over(line, ENCODER, current_from=DAY + number * NIGHT, token=1)
        await asyncio.sleep(0.02)
    done.set()
    await asking
    assert {frozenset(found) for found in seen} == {frozenset({1}), frozenset({2})}


# --- the past that has expired -------------------------------------------------------------------------------


async def test_every_kind_of_question_about_an_expired_past_is_refused(
    servers: Any, mem: MemoryConnection, build: Any, make: Any
) -> None:
    await mem.link.execute("SET", mem.keys.fence, 1)
    await mem.episodic.add(make(0))
    nights = {0: 1, 4: 2, 8: 3}
    await publish(mem, build, OLD, nights)
    expired, kept = DAY + 3 * NIGHT, DAY + 4 * NIGHT
    async with memory.connect(
        redis_url=servers.redis_url, namespace=mem.namespace, replica_urls=[servers.redis_url]
    ) as replicated:
        for asking in (mem, replicated):  # All of it is held in the process by now.
            assert await answers(asking, build, as_of=expired) == {1}
            assert len(await asking.semantic.as_of(expired)) == 2
        await publish(mem, build, OLD, nights, horizon=kept)
        vector = build["vector"](1)
        for asking in (mem, replicated):
            retrieval, semantic = asking.retrieval, asking.semantic
            locked = asking.at(expired)
            for question in (
                lambda retrieval=retrieval: retrieval.retrieve_patterns(vector, as_of=expired),
                lambda retrieval=retrieval: retrieval.find_similar_pattern(vector, as_of=expired),
                lambda retrieval=retrieval: retrieval.retrieve_regime_knowledge("QUIET", as_of=expired),
                lambda retrieval=retrieval: retrieval.retrieve_similar_regimes(vector, as_of=expired),
                lambda retrieval=retrieval: retrieval.retrieve_correlations("BTC-USDT", as_of=expired),
                lambda retrieval=retrieval: retrieval.estimate(vector, "LONG", 5, regime="QUIET", as_of=expired),
                lambda semantic=semantic: semantic.as_of(expired),
                lambda locked=locked: locked.semantic.current(),
                lambda locked=locked: locked.semantic.get("p-1"),
                lambda locked=locked: locked.semantic.versions("p-1"),
                lambda locked=locked: locked.semantic.counts(),
                lambda locked=locked: locked.retrieval.retrieve_patterns(vector),
            ):
                with pytest.raises(PastExpiredError, match="coinswarm run rebuild_memory"):
                    await question()
            assert await answers(asking, build, as_of=kept) == {2}
            assert await answers(asking, build) == {3}


# --- the succession ------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc")), min_size=1, max_size=8))
def test_at_every_time_the_line_that_took_over_last_before_it_answers(taken: list[tuple[int, str]]) -> None:
    succession, first = Succession(("z",), ()), "z"
    model: list[tuple[int, str]] = []
    for since, line in taken:
        succession = succession.taken_over(line, since)
        model = [(at, own) for at, own in model if at < since] + [(since, line)]
        assert (
            Succession.decode({name.encode(): own.encode() for name, own in succession.encode().items()}) == succession
        )
        for time in range(-1, 11):
            assert succession.at(time) == next((own for at, own in reversed(model) if at <= time), first)
        assert all(one != other for one, other in zip(succession.lines, succession.lines[1:], strict=False))
