"""An index is replaced while it is used: nobody notices, and nothing is left out."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import memory
from memory import EpisodicMemory, MemoryConnection
from memory.errors import ConflictingRecordError, FencedOutError, ReindexError
from memory.records import VECTOR_DIMENSION, to_ms
from memory.retrieval.shared import ShareStatus
from tests.memory.store.changing import CHANGES, OLD, change, fields, lived, reindexer
from tests.memory.store.conftest import unit_vector

# --- layout, algorithm, type -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "algorithm", "vector_type"), CHANGES)
async def test_what_was_recorded_is_found_after_a_change(
    mem: MemoryConnection, make: Any, same: Any, layout: str, algorithm: str, vector_type: str
) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    await change(mem, layout, algorithm, vector_type)
    schema = await mem.indexes.current_schema(OLD)
    assert schema is not None
    assert schema.describe() == f"{layout} {algorithm} {vector_type}"
    assert await mem.episodic.count() == len(records)
    hits = await mem.retrieval.retrieve_similar_experiences(
        make(7).state_vector, agent_id="hold", product_id="ETH-USDT", top_k=5, with_next_state=True
    )
    assert len(hits) == 5
    assert hits[0].memory.timestamp == make(7).timestamp
    next_state = hits[0].memory.next_state_vector
    assert next_state is not None
    assert np.allclose(next_state, unit_vector(8), atol=1e-3)


async def test_changing_back_and_forth_leaves_what_was_there(mem: MemoryConnection, make: Any) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    before = [await fields(mem, record) for record in records]
    await change(mem, "partitioned", "HNSW", "FLOAT16")
    await change(mem, "single", "FLAT", "FLOAT16")
    after = [await fields(mem, record) for record in records]
    names = {index.name for index in await mem.indexes.health()}
    schema = await mem.indexes.current_schema(OLD)
    assert schema is not None
    assert schema.generation == 2
    assert {name for name in names if ":episodic:" in name} == {schema.name}
    for one, other in zip(before, after, strict=True):
        assert len(one) == len(other)
        assert one["body"][:16] == other["body"][:16]
        assert len(other[schema.vector_field]) == 2 * VECTOR_DIMENSION


async def test_the_same_change_again_is_none(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many(lived(make))
    await change(mem, "partitioned", "HNSW", "FLOAT16")
    schema = await mem.indexes.current_schema(OLD)
    assert await change(mem, "partitioned", "HNSW", "FLOAT16") is None
    assert await mem.indexes.current_schema(OLD) == schema


async def test_a_memory_without_experiences_has_nothing_to_change(mem: MemoryConnection) -> None:
    assert await change(mem, "partitioned", "HNSW", "FLOAT16") is None


@pytest.mark.parametrize("vector_type", ["FLOAT16", "FLOAT32"])
async def test_recording_again_after_a_change_stores_nothing(
    mem: MemoryConnection, make: Any, vector_type: str
) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    await change(mem, "partitioned", "HNSW", vector_type)
    again = await mem.episodic.add_many(lived(make))
    assert len(again.duplicates) == len(records)
    assert (again.stored, again.rejections) == ((), ())


async def test_sharing_again_after_a_change_to_half_precision_shares_nothing(mem: MemoryConnection, make: Any) -> None:
    records = [dataclasses.replace(each, quality=0.9) for each in lived(make)]
    await mem.episodic.add_many(records)
    first = await mem.shared.add_shared_experiences(records)
    assert len(first.stored) == len(records)
    await change(mem, "single", "FLAT", "FLOAT16")
    read = await mem.episodic.get(records[3].memory_id)
    assert read is not None
    assert not np.array_equal(read.state_vector, records[3].state_vector)
    outcome = await mem.shared.add_shared_experience(read)
    assert outcome.status is ShareStatus.DUPLICATE
    with pytest.raises(ConflictingRecordError):
        await mem.shared.add_shared_experience(dataclasses.replace(read, reward=99.0))


async def test_other_content_under_an_id_is_refused_after_a_change(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many(lived(make))
    await change(mem, "single", "FLAT", "FLOAT16")
    with pytest.raises(ConflictingRecordError):
        await mem.episodic.add(make(3, reward=99.0))
    with pytest.raises(ConflictingRecordError):
        await mem.episodic.add(make(3, state_vector=unit_vector(77)))


# --- under load ------------------------------------------------------------------------------------------------


async def _until(stop: asyncio.Event, work: Callable[[int], Any]) -> int:
    rounds = 0
    while not stop.is_set():
        await work(rounds)
        rounds += 1
        await asyncio.sleep(0)
    return rounds


@pytest.mark.parametrize(("layout", "algorithm", "vector_type"), [CHANGES[0], CHANGES[1], CHANGES[3]])
async def test_readers_and_writers_notice_nothing(
    servers: Any, mem: MemoryConnection, make: Any, layout: str, algorithm: str, vector_type: str
) -> None:
    steady = lived(make)
    await mem.episodic.add_many(steady)
    written: list[EpisodicMemory] = []
    state = make(7).state_vector
    asked = [record for record in steady if (record.agent_id, record.product_id) == ("hold", "ETH-USDT")]
    asked.sort(key=lambda record: float(1 - record.state_vector.astype(np.float16).astype(np.float64) @ state))
    expected = [record.timestamp for record in asked[:10]]

    async def read(connection: MemoryConnection, _: int) -> None:
        hits = await connection.retrieval.retrieve_similar_experiences(
            state, agent_id="hold", product_id="ETH-USDT", with_next_state=True
        )
        assert [hit.memory.timestamp for hit in hits] == expected
        assert all(hit.memory.next_state_vector is not None for hit in hits)
        assert len(await connection.retrieval.retrieve_similar_experiences(state, agent_id="hold", top_k=60)) == 60

    async def write(connection: MemoryConnection, number: int) -> None:
        # Every third record begins a pair of its own.
        agent = f"new-{number}" if number % 3 == 0 else "busy"
        record = make(1000 + number, agent_id=agent)
        await connection.episodic.add(record)
        written.append(record)
        (hit,) = await connection.retrieval.retrieve_similar_experiences(
            record.state_vector, agent_id=agent, product_id="BTC-USDT", top_k=1
        )
        assert hit.memory.memory_id == record.memory_id

    async with contextlib.AsyncExitStack() as stack:
        reader, writer = [
            await stack.enter_async_context(memory.connect(redis_url=servers.redis_url, namespace=mem.namespace))
            for _ in range(2)
        ]
        await read(reader, 0)  # It knows the old index from now on.
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as load:
            tasks = [
                load.create_task(_until(stop, lambda number: read(reader, number))),
                load.create_task(_until(stop, lambda number: write(writer, number))),
            ]
            await change(mem, layout, algorithm, vector_type, pause=lambda: asyncio.sleep(0.15))
            stop.set()
        rounds = [task.result() for task in tasks]
    assert min(rounds) > 5
    assert await mem.episodic.count() == len(steady) + len(written)
    for record in written:
        hits = await mem.retrieval.retrieve_similar_experiences(record.state_vector, agent_id=record.agent_id, top_k=1)
        assert [hit.memory.memory_id for hit in hits] == [record.memory_id]


async def test_a_writer_that_knew_the_old_rules_only_leaves_nothing_out(
    servers: Any, mem: MemoryConnection, make: Any
) -> None:
    await mem.episodic.add_many(lived(make))
    rules = await mem.indexes.rules(mem.indexes.experiences, OLD)
    assert rules is not None
    async with memory.connect(redis_url=servers.redis_url, namespace=mem.namespace) as late:
        collection = late.episodic.collection
        actual = collection.rules
        stale = [rules]

        async def remembered(encoder_id: str) -> Any:
            return stale.pop() if stale else await actual(encoder_id)

        collection.rules = remembered  # type: ignore[method-assign]
        await change(mem, "partitioned", "HNSW", "FLOAT16")
        record = make(500, agent_id="late")
        await late.episodic.add(record)
    hits = await mem.retrieval.retrieve_similar_experiences(record.state_vector, agent_id="late")
    assert [hit.memory.memory_id for hit in hits] == [record.memory_id]
    assert rules.schema.vector_field not in await fields(mem, record)


# --- resuming --------------------------------------------------------------------------------------------------


async def test_a_change_is_taken_up_at_every_step(mem: MemoryConnection, make: Any) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    wanted: Any = {"layout": "partitioned", "algorithm": "HNSW", "vector_type": "FLOAT16"}
    begun = await reindexer(mem).begin(OLD, **wanted)
    assert begun is not None
    for _ in range(2):
        job = await reindexer(mem).begin(OLD, **wanted)
        assert job is not None
        assert job.target == begun.target
        async for _reached in reindexer(mem).fill(job):
            pass
    job = await reindexer(mem).begin(OLD, **wanted)
    assert job is not None
    assert (job.looked_at, job.converted) == (len(records), len(records))
    while await reindexer(mem).progress(job) < 1.0:
        await asyncio.sleep(0.02)
    assert await reindexer(mem).verify(job) == len(records)
    for _ in range(2):
        job = await reindexer(mem).begin(OLD, **wanted)
        assert job is not None
        job = await reindexer(mem).swap(job)
    for _ in range(2):
        job = await reindexer(mem).begin(OLD, **wanted)
        assert job is not None
        job = await reindexer(mem).retire(job)
    await reindexer(mem).clean(job)
    assert await reindexer(mem).job(OLD) is None
    assert await mem.episodic.count() == len(records)


async def test_another_change_is_refused_while_one_is_under_way(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add(make(0))
    await reindexer(mem).begin(OLD, layout="single", algorithm="HNSW", vector_type="FLOAT32")
    with pytest.raises(ReindexError, match="abandon"):
        await reindexer(mem).begin(OLD, layout="partitioned", algorithm="HNSW", vector_type="FLOAT32")


async def test_an_abandoned_change_leaves_no_trace(mem: MemoryConnection, make: Any) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    before = [await fields(mem, record) for record in records]
    work = reindexer(mem)
    job = await work.begin(OLD, layout="partitioned", algorithm="HNSW", vector_type="FLOAT16")
    assert job is not None
    async for _reached in work.fill(job):
        pass
    await work.abandon(OLD)
    assert [await fields(mem, record) for record in records] == before
    assert len([index for index in await mem.indexes.health() if ":episodic:" in index.name]) == 1
    await mem.episodic.add(make(99))
    assert await mem.episodic.count() == len(records) + 1


async def test_an_overtaken_run_changes_nothing_more(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many(lived(make))
    await mem.fence.raise_to(5)
    job = await reindexer(mem, token=5).begin(OLD, layout="single", algorithm="HNSW", vector_type="FLOAT32")
    assert job is not None
    await mem.fence.raise_to(6)
    with pytest.raises(FencedOutError):
        await reindexer(mem, token=5).swap(job)
    schema = await mem.indexes.current_schema(OLD)
    assert schema == job.source


async def test_an_index_that_lacks_records_is_not_swapped_in(mem: MemoryConnection, make: Any) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    work = reindexer(mem)
    job = await work.begin(OLD, layout="single", algorithm="FLAT", vector_type="FLOAT16")
    assert job is not None
    async for reached in work.fill(job):
        job = reached
    record = records[0]
    key = mem.keys.episodic(record.agent_id, record.product_id, to_ms(record.timestamp), record.memory_id)
    await mem.link.execute("HDEL", key, job.target.vector_field)
    with pytest.raises(ReindexError, match="holds 119 records"):
        await work.verify(job)
