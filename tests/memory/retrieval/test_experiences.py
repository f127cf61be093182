"""Similar experiences: exact filters, strict as-of, and nothing that an argument could smuggle in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import memory
from memory import MemoryConnection
from memory.errors import EncoderError, InvalidQueryError, StoreUnavailableError
from memory.store.answers import check_complete

DAY = datetime(2021, 6, 17, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def steps(hits: Any) -> list[int]:
    return [hit.memory.step for hit in hits]


async def test_the_nearest_come_first_with_their_distances(mem: MemoryConnection, make: Any, vector: Any) -> None:
    records = [make(minute) for minute in range(30)]
    await mem.episodic.add_many(records)
    question = vector(1000)
    hits = await mem.retrieval.retrieve_similar_experiences(question, top_k=7)
    distances = {record.step: 1.0 - float(record.state_vector @ question) for record in records}
    assert steps(hits) == sorted(distances, key=distances.__getitem__)[:7]
    for hit in hits:
        assert hit.distance == pytest.approx(distances[hit.memory.step], abs=1e-5)
        assert hit.score == pytest.approx(1.0 - hit.distance)
        assert hit.score_parts == {"similarity": hit.score}


async def test_a_hit_is_the_whole_experience(mem: MemoryConnection, make: Any, vector: Any) -> None:
    record = make(3)
    await mem.episodic.add(record)
    (hit,) = await mem.retrieval.retrieve_similar_experiences(vector(3))
    found = hit.memory
    assert np.array_equal(found.state_vector, record.state_vector)
    assert (found.memory_id, found.action, found.features) == (record.memory_id, record.action, record.features)
    assert (found.known_at, found.market_phase, found.reward) == (record.known_at, "OPEN", record.reward)


async def test_next_states_come_where_they_are_asked_for(mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.episodic.add_many([make(minute, next_state_vector=vector(minute + 1)) for minute in range(3)])
    retrieve = mem.retrieval.retrieve_similar_experiences
    hits = await retrieve(vector(0), with_next_state=True)
    for hit in hits:
        assert np.array_equal(hit.memory.next_state_vector, vector(hit.memory.step + 1))
    assert [hit.memory.next_state_vector for hit in await retrieve(vector(0))] == [None] * 3


async def test_filters_let_through_exactly_what_they_name(mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.episodic.add_many(
        [
            make(0),
            make(1, agent_id="hold"),
            make(2, product_id="ETH-USDT"),
            make(3, regime="CRISIS"),
            make(600),
            make(4, agent_id="hold", product_id="ETH-USDT", regime="CRISIS"),
        ]
    )

    async def found(**filters: Any) -> list[int]:
        return sorted(steps(await mem.retrieval.retrieve_similar_experiences(vector(0), **filters)))

    assert await found() == [0, 1, 2, 3, 4, 600]
    assert await found(agent_id="hold") == [1, 4]
    assert await found(product_id="ETH-USDT") == [2, 4]
    assert await found(regime="CRISIS") == [3, 4]
    assert await found(agent_id="hold", product_id="ETH-USDT") == [4]
    assert await found(agent_id="momentum", regime="QUIET") == [0, 2, 600]
    assert await found(product_id="BTC-USDT", regime="QUIET") == [0, 1, 600]
    assert await found(agent_id="hold", product_id="ETH-USDT", regime="CRISIS") == [4]
    assert await found(market_phase="MIDDAY") == [600]
    assert await found(exclude_agent_id="hold") == [0, 2, 3, 600]
    assert await found(agent_id="hold", exclude_agent_id="hold") == []
    assert await found(since=DAY + 2 * MINUTE, until=DAY + 4 * MINUTE) == [2, 3]
    assert await found(min_reward=0.003) == [3, 4, 600]
    assert await found(as_of=DAY + 3 * MINUTE) == [0, 1, 2]
    assert await found(agent_id="nobody") == []


async def test_what_became_known_later_is_not_seen(mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.episodic.add(make(0))
    retrieve = mem.retrieval.retrieve_similar_experiences
    assert await retrieve(vector(0), as_of=DAY + MINUTE - timedelta(milliseconds=1)) == []
    (hit,) = await retrieve(vector(0), as_of=DAY + MINUTE)
    assert (hit.memory.cumulative_return, hit.memory.return_known_at) == (None, None)
    (hit,) = await retrieve(vector(0), as_of=DAY + timedelta(days=1))
    assert hit.memory.cumulative_return == 0.25
    (hit,) = await retrieve(vector(0))
    assert hit.memory.cumulative_return == 0.25


async def test_parts_of_a_millisecond_do_not_leak(mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.episodic.add(make(0, known_at=DAY + timedelta(microseconds=1500)))
    retrieve = mem.retrieval.retrieve_similar_experiences
    assert await retrieve(vector(0), as_of=DAY + timedelta(microseconds=1400)) == []
    assert len(await retrieve(vector(0), as_of=DAY + timedelta(milliseconds=2))) == 1


async def test_a_locked_memory_sees_the_past_only(mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.episodic.add_many([make(minute) for minute in range(10)])
    past = mem.at(DAY + 4 * MINUTE).retrieval
    assert sorted(steps(await past.retrieve_similar_experiences(vector(0)))) == [0, 1, 2, 3]
    assert sorted(steps(await past.retrieve_similar_experiences(vector(0), as_of=DAY + 2 * MINUTE))) == [0, 1]
    with pytest.raises(InvalidQueryError, match="locked") as caught:
        await past.retrieve_similar_experiences(vector(0), as_of=DAY + 5 * MINUTE)
    assert caught.value.argument == "as_of"


async def test_an_encoder_fitted_later_is_refused(mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.encoders.register("rff-1", fitted_until=DAY, definition={"seed": 1})
    await mem.episodic.add(make(0))
    with pytest.raises(EncoderError, match="rff-1 was fitted"):
        await mem.retrieval.retrieve_similar_experiences(vector(0), as_of=DAY - MINUTE)
    assert len(await mem.retrieval.retrieve_similar_experiences(vector(0), as_of=DAY + MINUTE)) == 1


async def test_a_client_asks_in_its_own_encoder(servers: Any, mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.episodic.add_many([make(0), make(1, encoder_id="rff-2")])
    async with memory.connect(redis_url=servers.redis_url, namespace=mem.namespace, encoder_id="rff-2") as other:
        assert steps(await other.retrieval.retrieve_similar_experiences(vector(0))) == [1]
    assert steps(await mem.retrieval.retrieve_similar_experiences(vector(0))) == [0]


async def test_an_empty_memory_knows_nothing(mem: MemoryConnection, vector: Any) -> None:
    assert await mem.retrieval.retrieve_similar_experiences(vector(0)) == []
    assert await mem.retrieval.retrieve_patterns(vector(0)) == []


HOSTILE = [
    "*",
    "a|b",
    "BTC-USDT|ETH-USDT",
    "}",
    "{a}",
    '"',
    "'",
    "\\",
    "a b",
    " ",
    "",
    "a\n",
    "\x00",
    "x" * 10_000,
    "-@",
]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", ["agent_id", "product_id", "exclude_agent_id", "regime", "market_phase"])
async def test_hostile_names_are_refused_before_anything_is_sent(
    mem: MemoryConnection, vector: Any, name: str, value: str
) -> None:
    await mem.link.close()  # Whatever is sent from here on fails otherwise.
    with pytest.raises(InvalidQueryError) as caught:
        await mem.retrieval.retrieve_similar_experiences(vector(0), **{name: value})
    assert caught.value.argument == name


BAD_ARGUMENTS = [
    ("top_k", 0),
    ("top_k", -1),
    ("top_k", 1001),
    ("top_k", 2**64 - 1),
    ("top_k", 2.0),
    ("top_k", True),
    ("since", datetime(2021, 6, 17)),
    ("until", "2021-06-17"),
    ("as_of", datetime(2021, 6, 17)),
    ("min_reward", float("nan")),
    ("min_reward", "much"),
    ("agent_id", 7),
    ("regime", "quiet"),
    ("market_phase", "NIGHT"),
]


@pytest.mark.parametrize(("name", "value"), BAD_ARGUMENTS)
async def test_arguments_that_cannot_be_answered_are_named(
    mem: MemoryConnection, vector: Any, name: str, value: Any
) -> None:
    await mem.link.close()
    with pytest.raises(InvalidQueryError) as caught:
        await mem.retrieval.retrieve_similar_experiences(vector(0), **{name: value})
    assert caught.value.argument == name


async def test_a_span_that_runs_backwards_is_refused(mem: MemoryConnection, vector: Any) -> None:
    with pytest.raises(InvalidQueryError, match="Swap"):
        await mem.retrieval.retrieve_similar_experiences(vector(0), since=DAY + MINUTE, until=DAY)


BAD_VECTORS = [
    np.full(256, np.nan, dtype=np.float32),
    np.zeros(256, dtype=np.float32),
    np.ones(256, dtype=np.float32),
    np.full(255, 1 / np.sqrt(255), dtype=np.float32),
    np.full((1, 256), 1 / 16, dtype=np.float32),
    np.full(256, 1 / 16, dtype=np.float64),
    [1 / 16] * 256,
    np.array([], dtype=np.float32),
    None,
]


@pytest.mark.parametrize("bad", BAD_VECTORS, ids=range(len(BAD_VECTORS)))
@pytest.mark.parametrize("recorded", [False, True])
async def test_vectors_that_spoil_results_are_refused(
    mem: MemoryConnection, make: Any, bad: Any, recorded: bool
) -> None:
    if recorded:
        await mem.episodic.add(make(0))
    for question in (mem.retrieval.retrieve_similar_experiences, mem.retrieval.retrieve_patterns):
        with pytest.raises(InvalidQueryError, match="state_vector"):
            await question(bad)


def test_a_partial_answer_is_an_error() -> None:
    with pytest.raises(StoreUnavailableError, match="in part only: Timeout"):
        check_complete({b"results": [], b"warning": [b"Timeout limit was reached"]})
