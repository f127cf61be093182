"""Correlations of a product: all that it takes part in, strongest first, with who leads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from memory import MemoryConnection
from memory.errors import InvalidQueryError
from memory.learning.correlations import ALL_REGIMES as LEARNED_ALL_REGIMES
from memory.retrieval.correlations import ALL_REGIMES

DAY = datetime(2021, 6, 17, tzinfo=UTC)
NIGHT = timedelta(days=1)


@pytest.fixture
def memories(build: Any) -> list[Any]:
    correlation = build["correlation"]
    return [
        correlation("BTC-USDT", "ETH-USDT", 0.7),
        correlation("BTC-USDT", "DOT-USDT", -0.8, bar=15),
        correlation("DOT-USDT", "ETH-USDT", 0.9),
        correlation("BTC-USDT", "ETH-USDT", 0.3, lag=2, bar=15),
        correlation("ADA-USDT", "BTC-USDT", 0.2, lag=-3, regime="QUIET", claimed=False),
    ]


async def test_the_strongest_come_first_and_leaders_are_named(
    mem: MemoryConnection, publish: Any, memories: list[Any]
) -> None:
    await publish(memories)
    hits = await mem.retrieval.retrieve_correlations("BTC-USDT")
    assert [(hit.other, hit.memory.correlation, hit.leader, hit.lead_minutes) for hit in hits] == [
        ("DOT-USDT", -0.8, None, 0),
        ("ETH-USDT", 0.7, None, 0),
        ("ETH-USDT", 0.3, "BTC-USDT", 30),
        ("ADA-USDT", 0.2, "BTC-USDT", 3),
    ]
    assert [hit.score for hit in hits] == [0.8, 0.7, 0.3, 0.2]
    (follower,) = [hit for hit in await mem.retrieval.retrieve_correlations("ETH-USDT") if hit.leader]
    assert (follower.product_id, follower.other, follower.leader, follower.lead_minutes) == (
        *("ETH-USDT", "BTC-USDT", "BTC-USDT"),
        -30,
    )
    assert await mem.retrieval.retrieve_correlations("XRP-USDT") == []


async def test_filters_let_through_what_they_name(mem: MemoryConnection, publish: Any, memories: list[Any]) -> None:
    await publish(memories)

    async def found(**filters: Any) -> list[float]:
        return [hit.memory.correlation for hit in await mem.retrieval.retrieve_correlations("BTC-USDT", **filters)]

    assert await found(regime="QUIET") == [0.2]
    assert await found(regime="ALL") == [-0.8, 0.7, 0.3]
    assert await found(regime="CRISIS") == []
    assert await found(bar_minutes=15) == [-0.8, 0.3]
    assert await found(claimed_only=True) == [-0.8, 0.7, 0.3]
    assert await found(claimed_only=True, bar_minutes=15, regime="ALL") == [-0.8, 0.3]
    assert ALL_REGIMES == LEARNED_ALL_REGIMES


async def test_they_are_as_they_were_known(mem: MemoryConnection, build: Any, publish: Any) -> None:
    await publish([build["correlation"]("BTC-USDT", "ETH-USDT", 0.5)])
    await publish(
        [
            build["correlation"]("BTC-USDT", "ETH-USDT", 0.6),
            build["correlation"]("BTC-USDT", "DOT-USDT", 0.9),
        ],
        night=1,
    )
    retrieve = mem.retrieval.retrieve_correlations
    assert await retrieve("BTC-USDT", as_of=DAY - timedelta(milliseconds=1)) == []
    past = await retrieve("BTC-USDT", as_of=DAY + NIGHT - timedelta(milliseconds=1))
    assert [(hit.memory.correlation, hit.memory.valid_to) for hit in past] == [(0.5, None)]
    locked = await mem.at(DAY).retrieval.retrieve_correlations("BTC-USDT")
    assert [hit.memory.correlation for hit in locked] == [0.5]
    assert [hit.memory.correlation for hit in await retrieve("BTC-USDT")] == [0.9, 0.6]


async def test_a_caller_may_keep_and_change_what_it_gets(mem: MemoryConnection, build: Any, publish: Any) -> None:
    await publish([build["correlation"]("BTC-USDT", "ETH-USDT", 0.5), build["regime"]("QUIET")])
    (hit,) = await mem.retrieval.retrieve_correlations("BTC-USDT")
    hit.memory.correlation = 0.0
    known = await mem.retrieval.retrieve_regime_knowledge("QUIET")
    assert known.memory is not None
    known.memory.transition_probability.clear()
    (again,) = await mem.retrieval.retrieve_correlations("BTC-USDT")
    assert again.memory.correlation == 0.5
    known = await mem.retrieval.retrieve_regime_knowledge("QUIET")
    assert known.transitions is not None
    assert sum(known.transitions.probability.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("asked", "argument"),
    [
        *(({"product_id": name}, "product_id") for name in (None, "", "*", "a|b", "x" * 10_000, 7)),
        *(({"regime": name}, "regime") for name in ("MIXED", "all", "*", 7)),
        *(({"bar_minutes": minutes}, "bar_minutes") for minutes in (0, -1, 1.0, True, "1")),
        *(({"claimed_only": flag}, "claimed_only") for flag in (None, 1, "yes")),
    ],
)
async def test_malformed_questions_are_refused_before_anything_is_sent(
    mem: MemoryConnection, asked: dict[str, Any], argument: str
) -> None:
    await mem.link.close()
    with pytest.raises(InvalidQueryError) as caught:
        await mem.retrieval.retrieve_correlations(**{"product_id": "BTC-USDT", **asked})
    assert caught.value.argument == argument
