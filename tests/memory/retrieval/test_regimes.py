"""Similar regimes: distinct remembered states, the vote among them, and what is known of each regime."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import MemoryConnection
from memory.errors import EncoderError, InvalidQueryError
from memory.records import REGIMES, Action, EpisodicMemory, Side
from memory.retrieval.hits import Hit
from memory.retrieval.regimes import KERNEL_OFFSET, distinct_states

DAY = datetime(2021, 6, 17, tzinfo=UTC)
AGENTS = ("a", "b", "c", "d", "e", "f", "g", "h", "i")
VECTOR = np.eye(256, dtype=np.float32)[0]


async def test_agents_that_share_a_state_count_once(mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.episodic.add_many([make(minute, agent_id=agent) for minute in range(20) for agent in AGENTS])
    found = await mem.retrieval.retrieve_similar_regimes(vector(3), top_k=4)
    distances = {minute: 1.0 - float(vector(minute) @ vector(3)) for minute in range(20)}
    nearest = sorted(distances, key=distances.__getitem__)[:4]
    assert [state.timestamp for state in found.states] == [DAY + timedelta(minutes=minute) for minute in nearest]
    assert [state.distance for state in found.states] == pytest.approx(
        [distances[minute] for minute in nearest], abs=1e-5
    )
    assert {state.product_id for state in found.states} == {"BTC-USDT"}
    assert found.vote == {"QUIET": pytest.approx(1.0)}


async def test_products_and_sources_make_other_states(mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.episodic.add_many(
        [
            make(0),
            make(0, agent_id="hold", run_id="run-2"),
            make(0, product_id="ETH-USDT"),
            make(0, source="backtest"),
        ]
    )
    states = (await mem.retrieval.retrieve_similar_regimes(vector(0))).states
    assert [(state.product_id, state.source) for state in states] == [
        ("BTC-USDT", "backtest"),
        ("BTC-USDT", "replay"),
        ("ETH-USDT", "replay"),
    ]
    only = (await mem.retrieval.retrieve_similar_regimes(vector(0), product_id="ETH-USDT")).states
    assert [state.product_id for state in only] == ["ETH-USDT"]


async def test_nearer_states_weigh_more_in_the_vote(mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.episodic.add_many(
        [
            make(0, regime="CRISIS"),
            *(make(minute, regime="QUIET") for minute in range(1, 3)),
            make(9, regime="VOLATILE"),
        ]
    )
    found = await mem.retrieval.retrieve_similar_regimes(vector(0))
    assert next(state.regime for state in found.states) == "CRISIS"
    weights = {state.timestamp: 1.0 / (max(state.distance, 0.0) + KERNEL_OFFSET) for state in found.states}
    total = sum(weights.values())
    for state in found.states:
        assert state.weight == pytest.approx(weights[state.timestamp] / total)
    assert sum(found.vote.values()) == pytest.approx(1.0)
    assert next(iter(found.vote)) == "CRISIS"
    assert list(found.vote.values()) == sorted(found.vote.values(), reverse=True)


async def test_memories_of_the_regimes_come_beside_them(
    mem: MemoryConnection, build: Any, publish: Any, make: Any, vector: Any
) -> None:
    await mem.episodic.add(make(0))
    await publish(
        [
            build["regime"]("QUIET", seed=1),
            build["regime"]("CRISIS", seed=2),
            build["regime"]("CRISIS", "BTC-USDT", seed=3),
        ]
    )
    pooled = (await mem.retrieval.retrieve_similar_regimes(vector(2))).memories
    assert [(hit.memory.regime_name, hit.memory.product_id) for hit in pooled] == [("CRISIS", "ALL"), ("QUIET", "ALL")]
    assert pooled[0].score == pytest.approx(1.0, abs=1e-5)
    own = (await mem.retrieval.retrieve_similar_regimes(vector(3), product_id="BTC-USDT")).memories
    assert [(hit.memory.regime_name, hit.memory.product_id) for hit in own] == [
        ("CRISIS", "BTC-USDT"),
        ("QUIET", "ALL"),
    ]


async def test_nothing_that_became_known_later_has_a_vote(
    mem: MemoryConnection, build: Any, publish: Any, make: Any, vector: Any
) -> None:
    await mem.episodic.add_many([make(0), make(1, regime="CRISIS")])
    await publish([build["regime"]("QUIET", seed=1)])
    await publish([build["regime"]("QUIET", seed=2)], night=1)
    retrieve = mem.retrieval.retrieve_similar_regimes
    past = await retrieve(vector(1), as_of=DAY + timedelta(minutes=1))
    assert (past.vote, [state.regime for state in past.states]) == ({"QUIET": 1.0}, ["QUIET"])
    assert [hit.memory.valid_to for hit in past.memories] == [None]
    assert past.memories[0].score == pytest.approx(1.0, abs=1e-5)
    empty = await retrieve(vector(1), as_of=DAY - timedelta(seconds=1))
    assert (empty.states, empty.vote, empty.memories) == ((), {}, ())
    assert set((await retrieve(vector(1))).vote) == {"QUIET", "CRISIS"}
    await mem.encoders.register("rff-1", fitted_until=DAY, definition={})
    with pytest.raises(EncoderError):
        await retrieve(vector(1), as_of=DAY - timedelta(seconds=1))


async def test_what_the_states_became_has_a_vote_of_its_own(mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.episodic.add_many(
        [make(minute, regime="CRISIS" if minute in (12, 13) else "QUIET", agent_id=agent) for minute in range(14)
         for agent in AGENTS]
    )  # fmt: skip
    found = await mem.retrieval.retrieve_similar_regimes(vector(2), top_k=14, ahead_minutes=10)
    became = {state.timestamp: state.regime_ahead for state in found.states}
    expected = {0: "QUIET", 1: "QUIET", 2: "CRISIS", 3: "CRISIS"}
    assert became == {DAY + timedelta(minutes=minute): expected.get(minute) for minute in range(14)}
    weights = {state.timestamp: state.weight for state in found.states if state.regime_ahead is not None}
    crisis = sum(weights[DAY + timedelta(minutes=minute)] for minute in (2, 3)) / sum(weights.values())
    assert found.vote_ahead == {"CRISIS": pytest.approx(crisis), "QUIET": pytest.approx(1.0 - crisis)}
    assert next(iter(found.vote_ahead)) == "CRISIS"


async def test_what_became_known_later_of_a_state_does_not_count(mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.episodic.add_many([make(minute, regime="CRISIS" if minute == 5 else "QUIET") for minute in range(8)])
    retrieve = mem.retrieval.retrieve_similar_regimes
    # Known a minute after its decision.
    before = await retrieve(vector(0), top_k=1, ahead_minutes=5, as_of=DAY + timedelta(minutes=5))
    after = await retrieve(vector(0), top_k=1, ahead_minutes=5, as_of=DAY + timedelta(minutes=6))
    assert ([state.regime_ahead for state in before.states], before.vote_ahead) == ([None], {})
    assert ([state.regime_ahead for state in after.states], after.vote_ahead) == (["CRISIS"], {"CRISIS": 1.0})
    assert (await retrieve(vector(0), top_k=1)).vote_ahead == {}


async def test_an_empty_memory_has_no_vote(mem: MemoryConnection, vector: Any) -> None:
    found = await mem.retrieval.retrieve_similar_regimes(vector(0))
    assert (found.states, found.vote, found.memories) == ((), {}, ())


@given(
    drawn=st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.1, 0.2, 0.5]), st.integers(0, 9), st.integers(1, 12)), max_size=15
    ),
    top_k=st.integers(1, 8),
)
@settings(max_examples=150, deadline=None)
def test_the_nearest_distinct_states_are_found_however_many_share_them(
    drawn: list[tuple[float, int, int]], top_k: int
) -> None:
    import asyncio

    hits = []
    for number, (distance, _, agents) in enumerate(drawn):
        for agent in range(agents):
            memory = EpisodicMemory(
                agent_id=f"a{agent}",
                timestamp=DAY + timedelta(minutes=number),
                state_vector=VECTOR,
                action=Action(Side.HOLD),
                reward=0.0,
                product_id=f"p{drawn[number][1]}",
                regime=REGIMES[number % len(REGIMES)],
                memory_id=f"{agent}-{number}",
            )
            hits.append(Hit(memory, distance, 1.0 - distance))
    hits.sort(key=lambda hit: (hit.distance, hit.memory.memory_id))

    async def fetch(count: int) -> list[Hit]:
        return hits[:count]

    found = asyncio.run(distinct_states(fetch, top_k, 1000))
    expected = sorted(
        (distance, f"p{product}", DAY + timedelta(minutes=number))
        for number, (distance, product, _) in enumerate(drawn)
    )[:top_k]
    assert [(hit.distance, hit.memory.product_id, hit.memory.timestamp) for hit in found] == expected
    assert all(hit.memory.memory_id.startswith("0-") for hit in found)


@pytest.mark.parametrize(
    ("asked", "argument"),
    [
        ({"feature_vector": np.zeros(256, dtype=np.float32)}, "feature_vector"),
        ({"feature_vector": np.full(256, np.nan, dtype=np.float32)}, "feature_vector"),
        ({"feature_vector": VECTOR[:255]}, "feature_vector"),
        ({"feature_vector": VECTOR.astype(np.float64)}, "feature_vector"),
        ({"feature_vector": None}, "feature_vector"),
        ({"top_k": 0}, "top_k"),
        ({"product_id": "*"}, "product_id"),
        ({"as_of": datetime(2021, 6, 17)}, "as_of"),
    ],
)
async def test_malformed_questions_are_refused_before_anything_is_sent(
    mem: MemoryConnection, make: Any, vector: Any, asked: dict[str, Any], argument: str
) -> None:
    await mem.episodic.add(make(0))
    await mem.retrieval.retrieve_similar_regimes(vector(0))
    await mem.access.flush()
    await mem.link.close()
    with pytest.raises(InvalidQueryError) as caught:
        await mem.retrieval.retrieve_similar_regimes(**{"feature_vector": vector(0), **asked})
    assert caught.value.argument == argument
