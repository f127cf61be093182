"""Index layouts: what is chosen, and that each of them finds the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest

import memory
from memory import EpisodicMemory, MemoryConnection
from memory.settings import Settings
from memory.store.layout import SINGLE_UP_TO, choose, decode_schema

DAY = datetime(2021, 6, 17, tzinfo=UTC)
AGENTS, PRODUCTS = ("momentum", "g1"), ("BTC-USDT", "1")
ENCODER = "rff-1"


@pytest.fixture
def partitioned_settings() -> Settings:
    return Settings(index_layout="partitioned", vector_type="FLOAT16")


@pytest.fixture
async def partitioned(servers: Any, namespace: str, partitioned_settings: Settings) -> AsyncIterator[MemoryConnection]:
    async with memory.connect(
        redis_url=servers.redis_url, namespace=namespace, settings=partitioned_settings
    ) as connection:
        yield connection


def records(make: Any, minutes: int = 20) -> list[EpisodicMemory]:
    return [
        make(minute, agent_id=agent, product_id=product, regime=("QUIET", "CRISIS")[minute % 2])
        for agent in AGENTS
        for product in PRODUCTS
        for minute in range(minutes)
    ]


def nearest(lived: list[EpisodicMemory], state: Any, count: int, **wanted: Any) -> list[str]:
    """Ids by brute force, with vectors as FLOAT16 has them."""
    chosen = [record for record in lived if all(getattr(record, name) == value for name, value in wanted.items())]
    distances = {
        record.memory_id: 1.0 - float(record.state_vector.astype(np.float16).astype(np.float64) @ state)
        for record in chosen
    }
    return sorted(distances, key=lambda memory_id: (round(distances[memory_id], 5), memory_id))[:count]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ("single", "FLAT")),
        ({"vector_algorithm": "HNSW"}, ("single", "HNSW")),
        ({"expected_memories": SINGLE_UP_TO}, ("single", "FLAT")),
        ({"expected_memories": SINGLE_UP_TO + 1}, ("partitioned", "HNSW")),
        ({"expected_memories": SINGLE_UP_TO + 1, "index_layout": "single"}, ("single", "FLAT")),
        ({"index_layout": "partitioned"}, ("partitioned", "HNSW")),
    ],
)
def test_the_layout_follows_the_settings(values: dict[str, Any], expected: tuple[str, str]) -> None:
    assert choose(Settings(**values)) == expected


def test_schemas_of_older_versions_are_read() -> None:
    old = {"name": "n", "vector_field": "f", "vector_attribute": "a", "algorithm": "FLAT", "vector_type": "FLOAT32"}
    schema = decode_schema(msgspec.json.encode({**old, "dimension": 256}), ENCODER)
    assert (schema.encoder_id, schema.layout, schema.generation) == (ENCODER, "single", 0)


@pytest.mark.parametrize(
    "asked",
    [
        {"agent_id": "g1", "product_id": "1", "regime": "QUIET"},
        {"agent_id": "g1", "product_id": "1"},
        {"agent_id": "momentum"},
        {"product_id": "BTC-USDT", "regime": "CRISIS"},
        {"regime": "QUIET"},
        {},
    ],
)
async def test_partitions_find_what_brute_force_finds(
    partitioned: MemoryConnection, make: Any, asked: dict[str, Any]
) -> None:
    lived = records(make)
    await partitioned.episodic.add_many(lived)
    state = make(7).state_vector
    hits = await partitioned.retrieval.retrieve_similar_experiences(state, top_k=12, **asked)
    distances = {record.memory_id: record for record in lived}
    expected = nearest(lived, state, 12, **asked)
    assert len(hits) == len(expected)
    for hit, memory_id in zip(hits, expected, strict=True):
        # Records of one minute are equally near whoever lived through them: which comes first is a matter of ids.
        assert hit.memory.timestamp == distances[memory_id].timestamp


async def test_partitioned_windows_are_read_and_counted(partitioned: MemoryConnection, make: Any) -> None:
    lived = records(make)
    await partitioned.episodic.add_many(lived)
    assert await partitioned.episodic.count() == len(lived)
    assert await partitioned.episodic.count(agent_id="g1", regime="QUIET") == len(lived) // 4
    window = partitioned.episodic.read_window(DAY, DAY + timedelta(minutes=5), with_next_state=True)
    read = [record async for page in window for record in page]
    assert len(read) == 5 * len(AGENTS) * len(PRODUCTS)
    assert all(record.next_state_vector is not None for record in read)


async def test_each_pair_has_an_index_of_its_own(partitioned: MemoryConnection, make: Any) -> None:
    await partitioned.episodic.add_many(records(make))
    documents = {index.name: index.documents for index in await partitioned.indexes.health()}
    name = partitioned.keys.episodic_index(ENCODER)
    assert documents[name] == 80
    assert {documents[f"{name}:{agent}:{product}"] for agent in AGENTS for product in PRODUCTS} == {20}


async def test_a_pair_that_another_process_began_is_found_at_once(
    partitioned: MemoryConnection, servers: Any, partitioned_settings: Settings, make: Any
) -> None:
    await partitioned.episodic.add(make(0))
    question = partitioned.retrieval.retrieve_similar_experiences
    assert len(await question(make(0).state_vector)) == 1
    other = memory.connect(redis_url=servers.redis_url, namespace=partitioned.namespace, settings=partitioned_settings)
    async with other as writer:
        for number, agent in enumerate(("second", "third", "fourth")):
            await writer.episodic.add(make(1, agent_id=agent))
            assert len(await question(make(0).state_vector)) == 2 + number
            assert len(await question(make(0).state_vector, agent_id=agent)) == 1
            assert len(await question(make(0).state_vector, agent_id=agent, product_id="BTC-USDT")) == 1


async def test_a_pair_without_experiences_finds_nothing(partitioned: MemoryConnection, make: Any) -> None:
    await partitioned.episodic.add(make(0))
    question = partitioned.retrieval.retrieve_similar_experiences
    assert await question(make(0).state_vector, agent_id="nobody", product_id="BTC-USDT") == []
    assert await question(make(0).state_vector, agent_id="nobody") == []


async def test_pairs_are_begun_by_many_writers_at_once(
    servers: Any, namespace: str, partitioned_settings: Settings, make: Any
) -> None:
    async def write(number: int) -> None:
        async with memory.connect(
            redis_url=servers.redis_url, namespace=namespace, settings=partitioned_settings
        ) as writer:
            lived = records(make, 4)
            report = await writer.episodic.add_many([*lived[number:], *lived[:number]])
            assert report.rejections == ()

    await asyncio.gather(*(write(number) for number in range(6)))
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as reader:
        assert await reader.episodic.count() == 16
        assert len(await reader.retrieval.retrieve_similar_experiences(make(0).state_vector, top_k=50)) == 16


async def test_settings_do_not_change_an_index_that_is_there(
    partitioned: MemoryConnection, servers: Any, make: Any
) -> None:
    await partitioned.episodic.add(make(0))
    before = await partitioned.indexes.current_schema(ENCODER)
    plain = memory.connect(redis_url=servers.redis_url, namespace=partitioned.namespace, settings=Settings())
    async with plain as other:
        await other.episodic.add(make(1, agent_id="other"))
        assert await other.indexes.current_schema(ENCODER) == before
        assert len(await other.retrieval.retrieve_similar_experiences(make(0).state_vector)) == 2


async def test_two_encoders_do_not_see_each_other(partitioned: MemoryConnection, make: Any) -> None:
    await partitioned.episodic.add_many([make(0), make(1, encoder_id="rff-2")])
    documents = {index.name: index.documents for index in await partitioned.indexes.health()}
    for encoder in ("rff-1", "rff-2"):
        name = partitioned.keys.episodic_index(encoder)
        assert (documents[name], documents[f"{name}:momentum:BTC-USDT"]) == (1, 1)
