"""Patterns that the market is in: matched as of each state's time, told where they begin and where they end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from agents.baselines import FLAT
from agents.pattern import LEAST_IMPORTANCE, PatternAgent, match_confidence
from agents.replay import State
from memory import MemoryConnection, ReplayClock, replaying
from memory.errors import EncoderError, InvalidQueryError
from memory.messages import AgentMemoryMessage, MessageType
from memory.records import EpisodicMemory, Outcome, PatternMemory, SemanticType
from memory.working import WorkingMemory

DAY = datetime(2021, 6, 17, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LINE = "ns/rff-1/1"
Vector = np.ndarray[Any, np.dtype[np.float32]]
Publish = Callable[..., Awaitable[None]]


def at_distance(distance: float, direction: int = 1) -> Vector:
    """The unit vector at this cosine distance from the first axis, towards another one."""
    cosine = 1.0 - distance
    vector = np.zeros(256, np.float32)
    vector[0], vector[direction] = cosine, np.sqrt(1.0 - cosine**2)
    return vector


def state(minute: float, distance: float = 0.0, **changes: Any) -> State:
    """A state of a minute, at this distance from the place of `pattern("p-1")`."""
    values: dict[str, Any] = {
        "product_id": "BTC-USDT",
        "timestamp": DAY + minute * MINUTE,
        "features": {},
        "vector": at_distance(distance),
        "price": 100.0,
        "spread": None,
        "regime": "QUIET",
        "regime_confidence": 1.0,
    }
    return State(**(values | changes))


def outcome(q_value: float | None) -> Outcome:
    return Outcome(
        action="LONG", horizon_minutes=5, n=40, blocks=9, gross_mean=0.001, net_mean=0.0005, interval=None,
        win_rate=0.6, gross_sharpe=None, net_sharpe=None, max_drawdown=0.0, shrunk_net_mean=0.0002, q_value=q_value,
    )  # fmt: skip


def pattern(name: str = "p-1", **changes: Any) -> PatternMemory:
    """A pattern at the first axis that reaches 0.1 far."""
    values: dict[str, Any] = {
        "memory_id": name, "pattern_id": name, "description": f"{name}: quiet", "encoder_id": "rff-1", "line": LINE,
        "created_at": DAY, "valid_from": DAY, "source": "replay", "concept_vector": at_distance(0.0), "regime": "QUIET",
        "product_ids": ("BTC-USDT",), "conditions": (), "support": 5, "effective_support": 3, "states": 40,
        "windows_seen": 1, "first_seen": DAY, "last_seen": DAY, "broad": False, "status": "new", "volatility": (),
        "outcomes": (outcome(0.2), outcome(None)), "expected_return": 0.0003, "best_action": "LONG", "reach": 0.1,
    }  # fmt: skip
    return PatternMemory(**(values | changes))


@pytest.fixture
async def publish(mem: MemoryConnection) -> Publish:
    """Publishes all patterns that are known from a day on, in a memory that holds one experience."""
    first = EpisodicMemory(
        agent_id="hold", timestamp=DAY, state_vector=at_distance(0.9), action=FLAT, reward=0.0, product_id="BTC-USDT",
        regime="QUIET", encoder_id="rff-1", source="replay", run_id="run-1", known_at=DAY + MINUTE,
    )  # fmt: skip
    await mem.episodic.add(first)

    async def publish(patterns: list[PatternMemory], day: int = 0) -> None:
        await mem.link.execute("SET", mem.keys.fence, 1)
        await mem.semantic.publish(
            patterns, line=LINE, kinds=tuple(SemanticType), token=1, valid_from=DAY + timedelta(days=day)
        )

    return publish


async def told(mem: MemoryConnection) -> list[AgentMemoryMessage]:
    return list((await mem.messages.history("momentum")).messages)


# --- matching ------------------------------------------------------------------------------------------------


def test_confidence_falls_from_one_at_the_place_to_a_tenth_at_the_reach() -> None:
    assert match_confidence(0.0, 0.1) == 1.0
    assert match_confidence(0.1, 0.1) == pytest.approx(0.1)
    assert match_confidence(0.05, 0.1) == pytest.approx(0.1**0.5)
    assert (match_confidence(0.0, 0.0), match_confidence(0.01, 0.0)) == (1.0, 0.0)
    assert match_confidence(-1e-7, 0.1) == 1.0  # What rounding leaves of a distance of nothing.


async def test_a_state_is_in_the_patterns_that_reach_it_surest_first(mem: MemoryConnection, publish: Publish) -> None:
    wide = pattern("wide", reach=0.12)
    narrow = pattern("narrow", reach=0.01)
    aside = pattern("aside", concept_vector=at_distance(0.05), reach=0.1)
    await publish([wide, narrow, aside])
    matches = await PatternAgent(mem).match(state(1, 0.04))
    assert [match.pattern_id for match in matches] == ["aside", "wide"]
    assert matches[1].confidence == pytest.approx(match_confidence(0.04, 0.12), rel=1e-3)
    assert matches[1].distance == pytest.approx(0.04, abs=1e-5)
    assert matches[1].memory.best_action == "LONG"


async def test_the_reach_decides_and_the_least_similarity_bounds_it(mem: MemoryConnection, publish: Publish) -> None:
    await publish([pattern(reach=0.5)])
    agent, looser = PatternAgent(mem), PatternAgent(mem, min_similarity=0.6)
    assert await agent.match(state(1, 0.2)) == ()
    assert [match.pattern_id for match in await looser.match(state(1, 0.2))] == ["p-1"]
    assert await looser.match(state(1, 0.55)) == ()


async def test_a_pattern_counts_as_of_the_states_time(mem: MemoryConnection, publish: Publish) -> None:
    await publish([pattern()])
    await publish([pattern(reach=0.01)], day=1)
    agent = PatternAgent(mem)
    assert await agent.match(state(-1)) == ()
    assert [match.memory.reach for match in await agent.match(state(1))] == [0.1]
    assert [match.memory.reach for match in await agent.match(state(1440))] == [0.01]
    assert [match.memory.reach for match in await agent.match(state(1440), as_of=DAY)] == [0.1]


async def test_only_patterns_that_the_state_is_in_count_as_accessed(mem: MemoryConnection, publish: Publish) -> None:
    await publish([pattern(), pattern("far", concept_vector=at_distance(0.9, 2))])
    await PatternAgent(mem).match(state(1))
    counts = await mem.access.all_counts(DAY + timedelta(days=1))
    assert counts == {"p-1": 1}


async def test_an_empty_memory_has_no_pattern(mem: MemoryConnection) -> None:
    assert await PatternAgent(mem, encoder_id="rff-1").match(state(1)) == ()


async def test_a_memory_of_another_encoder_is_refused(mem: MemoryConnection, publish: Publish) -> None:
    with pytest.raises(EncoderError, match="asked in encoder rff-1"):
        await PatternAgent(mem, encoder_id="rff-2").match(state(1))


async def test_a_vector_of_nan_is_refused(mem: MemoryConnection, publish: Publish) -> None:
    with pytest.raises(InvalidQueryError, match="holds NaN"):
        await PatternAgent(mem).match(state(1, vector=np.full(256, np.nan, np.float32)))


async def test_a_replay_cannot_match_beyond_its_present(mem: MemoryConnection, publish: Publish) -> None:
    await publish([pattern()])
    with replaying(ReplayClock(DAY + MINUTE)):
        with pytest.raises(InvalidQueryError, match="the present of the replay"):
            await PatternAgent(mem).match(state(2))
        assert await PatternAgent(mem).match(state(1)) != ()


# --- beginnings and ends -------------------------------------------------------------------------------------


async def test_beginnings_and_ends_are_told_with_their_importance(mem: MemoryConnection, publish: Publish) -> None:
    await publish([pattern()])
    agent = PatternAgent(mem)
    for minute in range(4):
        await agent.observe(state(minute, 0.05))
    for minute in range(4, 12):
        await agent.observe(state(minute, 0.3))
    began, ended = await told(mem)
    assert (began.message_type, began.memory_id, began.data["entered"]) == (MessageType.PATTERN, "p-1", True)
    assert (began.timestamp, ended.timestamp) == (DAY, DAY + 8 * MINUTE)
    # How sure the match is, times how sure it is that the pattern differs from its regime (q of 0.2).
    assert began.importance == pytest.approx(match_confidence(0.05, 0.1) * 0.8, rel=1e-3)
    assert (ended.data["entered"], ended.data["minutes"], ended.importance) == (False, 8.0, LEAST_IMPORTANCE)
    assert "BTC-USDT has entered pattern p-1" in began.insight


async def test_single_minutes_outside_are_no_end(mem: MemoryConnection, publish: Publish) -> None:
    await publish([pattern()])
    agent = PatternAgent(mem)
    for minute in range(12):
        await agent.observe(state(minute, 0.3 if minute % 4 == 3 else 0.02))
    assert [message.data["entered"] for message in await told(mem)] == [True]
    assert list(agent.active("BTC-USDT")) == ["p-1"]


async def test_products_are_in_patterns_each_for_itself(mem: MemoryConnection, publish: Publish) -> None:
    await publish([pattern()])
    agent = PatternAgent(mem)
    await agent.observe(state(1))
    await agent.observe(state(1, product_id="ETH-USDT"))
    assert sorted(message.data["product_id"] for message in await told(mem)) == ["BTC-USDT", "ETH-USDT"]


async def test_a_working_memory_has_the_patterns_of_the_last_state(mem: MemoryConnection, publish: Publish) -> None:
    await publish([pattern(), pattern("wide", reach=0.12)])
    working = WorkingMemory("momentum", "BTC-USDT")
    agent = PatternAgent(mem, broadcast=False)
    await agent.observe(state(1, 0.05), working)
    assert working.active_patterns == ("wide", "p-1")
    assert working.pattern_confidences["p-1"] == pytest.approx(match_confidence(0.05, 0.1), rel=1e-3)
    await agent.observe(state(2, 0.3), working)
    assert (working.active_patterns, working.pattern_confidences) == ((), {})
    assert await told(mem) == []


async def test_a_pattern_without_a_known_difference_is_of_little_importance(
    mem: MemoryConnection, publish: Publish
) -> None:
    await publish([pattern(outcomes=(outcome(None),))])
    await PatternAgent(mem).observe(state(1))
    assert [message.importance for message in await told(mem)] == [LEAST_IMPORTANCE]
