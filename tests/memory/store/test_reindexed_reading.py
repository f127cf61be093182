"""What is read after an index was changed: in the encoder that is asked for, wherever the vector lies now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

import memory
from memory import MemoryConnection
from memory.store.windows import read_window_data
from memory.window import Window
from tests.memory.store.changing import NEW, OLD, change, encode_anew, lived

from .conftest import unit_vector

DAY = datetime(2021, 6, 17, tzinfo=UTC)


async def test_a_next_state_kept_as_a_vector_survives_a_change_of_type(mem: MemoryConnection, make: Any) -> None:
    record = make(0)
    await mem.episodic.add(record)
    await change(mem, "single", "FLAT", "FLOAT16")
    found = await mem.episodic.get(record.memory_id)
    assert found is not None
    assert found.next_state_vector is not None
    assert np.allclose(found.next_state_vector, unit_vector(1), atol=1e-3)


async def test_hits_and_reads_name_the_encoder_of_the_vector(mem: MemoryConnection, servers: Any, make: Any) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    await mem.retrieval.retrieve_similar_experiences(make(7).state_vector)  # It asks in the old encoder from now on.
    await encode_anew(mem)
    async with memory.connect(redis_url=servers.redis_url, namespace=mem.namespace) as asking:
        (hit, *_) = await asking.retrieval.retrieve_similar_experiences(-make(7).state_vector, agent_id="hold")
        assert hit.memory.encoder_id == NEW
        (old, *_) = await mem.retrieval.retrieve_similar_experiences(make(7).state_vector, agent_id="hold")
        assert old.memory.encoder_id == OLD
        data = await read_window_data(asking, Window.containing(DAY))
    assert set(data) == {(OLD, "replay"), (NEW, "replay")}
    for encoder_id, sign in ((OLD, 1), (NEW, -1)):
        states = data[encoder_id, "replay"].states
        assert states.encoder_id == encoder_id
        assert np.allclose(states.vectors[0], sign * unit_vector(0))


async def test_an_experience_is_got_by_id_once_its_old_encoder_is_gone(mem: MemoryConnection, make: Any) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    await encode_anew(mem, remove_old=True)
    found = await mem.episodic.get(records[3].memory_id)
    assert found is not None
    assert found.encoder_id == NEW
    assert np.allclose(found.state_vector, -records[3].state_vector)


async def test_a_next_state_that_is_not_in_the_new_encoding_is_left_out(mem: MemoryConnection, make: Any) -> None:
    record = make(0)
    await mem.episodic.add(record)
    await encode_anew(mem, remove_old=True)
    found = await mem.episodic.get(record.memory_id)
    assert found is not None
    assert found.next_state_vector is None


@pytest.mark.parametrize("asked", [{"agent_id": "hold", "product_id": "ETH-USDT"}, {"agent_id": "hold"}, {}])
@pytest.mark.parametrize("knows_pairs", [False, True])
async def test_a_client_that_knew_partitions_that_are_gone_finds_everything(
    servers: Any, namespace: str, make: Any, asked: dict[str, str], knows_pairs: bool
) -> None:
    settings = memory.Settings(index_layout="partitioned", near_cache_mb=0)
    async with (
        memory.connect(redis_url=servers.redis_url, namespace=namespace, settings=settings) as mem,
        memory.connect(redis_url=servers.redis_url, namespace=namespace, settings=settings) as late,
    ):
        await mem.episodic.add(make(0))
        assert await late.episodic.count() == 1
        if knows_pairs:
            await late.retrieval.retrieve_similar_experiences(make(7).state_vector, top_k=5)
        await mem.episodic.add_many(lived(make))
        await change(mem, "single", "FLAT", "FLOAT32")
        hits = await late.retrieval.retrieve_similar_experiences(make(7).state_vector, top_k=5, **asked)
        assert len(hits) == 5


async def test_an_index_built_again_after_a_change_has_its_alias(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many(lived(make))
    await change(mem, "single", "HNSW", "FLOAT32")
    schema = await mem.indexes.current_schema("rff-1")
    assert schema is not None
    await mem.link.execute("FT.DROPINDEX", schema.name)
    await mem.indexes.restore(mem.indexes.experiences, "rff-1")
    aliased = await mem.link.execute("FT.INFO", mem.keys.episodic_alias)
    assert aliased[b"index_name"].decode() == schema.name
