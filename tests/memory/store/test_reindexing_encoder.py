"""An index is replaced by that of another encoder: readers of both find everything until the old one goes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

import memory
from memory import MemoryConnection
from memory.errors import ReindexError
from tests.memory.store.changing import NEW, OLD, change, encode_anew, fields, lived, reindexer
from tests.memory.store.conftest import unit_vector


@pytest.fixture
async def asking_new(servers: Any, mem: MemoryConnection) -> AsyncIterator[MemoryConnection]:
    """A client that asks in the new encoder."""
    async with memory.connect(redis_url=servers.redis_url, namespace=mem.namespace, encoder_id=NEW) as connection:
        yield connection


async def test_records_are_found_in_the_new_encoder(
    mem: MemoryConnection, asking_new: MemoryConnection, make: Any
) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    await encode_anew(mem)
    assert await mem.encoders.current() == NEW
    hits = await asking_new.retrieval.retrieve_similar_experiences(-make(7).state_vector, agent_id="hold", top_k=2)
    assert [hit.memory.timestamp for hit in hits] == 2 * [make(7).timestamp]
    assert hits[0].distance == pytest.approx(0.0, abs=1e-5)


async def test_clients_of_the_old_encoder_go_on(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many(lived(make))
    state = make(7).state_vector
    before = await mem.retrieval.retrieve_similar_experiences(state, agent_id="hold")
    await encode_anew(mem)
    after = await mem.retrieval.retrieve_similar_experiences(state, agent_id="hold")
    assert [hit.memory.memory_id for hit in after] == [hit.memory.memory_id for hit in before]


async def test_what_they_record_is_caught_up_with(
    mem: MemoryConnection, asking_new: MemoryConnection, make: Any
) -> None:
    await mem.episodic.add_many(lived(make))
    await encode_anew(mem)
    record = make(400, agent_id="late", encoder_id=OLD)
    await mem.episodic.add(record)
    assert await reindexer(mem).waiting(OLD) == 1
    await encode_anew(mem)
    assert await reindexer(mem).waiting(OLD) == 0
    hits = await asking_new.retrieval.retrieve_similar_experiences(-record.state_vector, agent_id="late")
    assert [hit.memory.memory_id for hit in hits] == [record.memory_id]


async def test_records_without_the_features_are_listed(mem: MemoryConnection, make: Any) -> None:
    bare = make(50, features={})
    partial = make(51, features={"trend": 1.0})
    await mem.episodic.add_many([*lived(make), bare, partial])
    job = await encode_anew(mem)
    refused = await reindexer(mem).refused(OLD)
    assert {key.rpartition(":")[2] for key in refused} == {bare.memory_id, partial.memory_id}
    assert job.refused == {"the record holds no features.": 1, "the features lack trailing_volatility.": 1}
    with pytest.raises(ReindexError, match="2 experiences"):
        await reindexer(mem).retire(job)


async def test_a_next_state_follows_into_the_new_encoder(
    mem: MemoryConnection, asking_new: MemoryConnection, make: Any
) -> None:
    for minute in (0, 1, 2):
        await mem.episodic.add(make(minute))  # One by one: next states are kept as vectors.
    job = await encode_anew(mem)
    assert job.next_states_lost == 1
    hits = await asking_new.retrieval.retrieve_similar_experiences(-make(0).state_vector, top_k=3, with_next_state=True)
    following = {hit.memory.step: hit.memory.next_state_vector for hit in hits}
    assert np.allclose(following[0], -unit_vector(1))
    assert np.allclose(following[1], -unit_vector(2))


async def test_recording_again_in_either_encoder_stores_nothing(
    mem: MemoryConnection, asking_new: MemoryConnection, make: Any
) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    await encode_anew(mem)
    assert len((await mem.episodic.add_many(lived(make))).duplicates) == len(records)
    anew = [
        make(
            record.step,
            agent_id=record.agent_id,
            product_id=record.product_id,
            encoder_id=NEW,
            state_vector=-record.state_vector,
            next_state_vector=-unit_vector(record.step + 1),
        )
        for record in records
    ]
    report = await asking_new.episodic.add_many(anew)
    assert (len(report.duplicates), report.rejections) == (len(records), ())


async def test_the_old_encoder_can_be_taken_away(
    mem: MemoryConnection, asking_new: MemoryConnection, make: Any
) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    old = await mem.indexes.current_schema(OLD)
    assert old is not None
    await encode_anew(mem, remove_old=True)
    assert await mem.indexes.current_schema(OLD) is None
    assert old.vector_field not in await fields(mem, records[0])
    assert await mem.episodic.count() == len(records)
    hits = await asking_new.retrieval.retrieve_similar_experiences(-make(7).state_vector, top_k=200)
    assert len(hits) == len(records)


async def test_the_successor_may_be_indexed_otherwise_before_the_rest_catches_up(
    mem: MemoryConnection, asking_new: MemoryConnection, make: Any
) -> None:
    await mem.episodic.add_many(lived(make))
    await encode_anew(mem)
    await change(mem, "single", "FLAT", "FLOAT16", encoder_id=NEW)
    record = make(400, agent_id="late", encoder_id=OLD)
    await mem.episodic.add(record)
    await encode_anew(mem)
    hits = await asking_new.retrieval.retrieve_similar_experiences(-record.state_vector, agent_id="late")
    assert [hit.memory.memory_id for hit in hits] == [record.memory_id]


async def test_records_are_not_encoded_for_an_index_that_is_being_changed(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many(lived(make))
    await encode_anew(mem)
    await reindexer(mem).begin(NEW, layout="single", algorithm="FLAT", vector_type="FLOAT16")
    with pytest.raises(ReindexError, match="itself"):
        await encode_anew(mem)
