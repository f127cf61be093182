"""What the checks of a memory see where records are in no index, or in one that was given up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

import memory
from memory import MemoryConnection
from memory.store import health_indexes
from memory.store.health import CheckStatus
from memory.store.reindexing import Reindexer
from tests.memory.store.checking import checked, fill, register, turned

MISSING = "0" * 32


# --- indexes ---------------------------------------------------------------------------------------------------


async def test_a_vector_of_the_wrong_length_leaves_a_record_out_of_the_index_and_is_named(
    mem: MemoryConnection, make: Any
) -> None:
    await fill(mem, make)
    key = mem.keys.episodic("momentum", "BTC-USDT", 1, MISSING)
    await mem.link.execute("HSET", key, "state_vector:rff-1", b"\0" * 100, "scope", "a=momentum", "timestamp", 1)
    found = await checked(mem)
    assert found["episodic index"].status is CheckStatus.FAIL
    assert "1 of 41 experiences are in no index" in found["episodic index"].seen
    failures = found["index failures"]
    assert (failures.status, key in failures.seen, f"UNLINK {key}" in failures.remedy) == (CheckStatus.FAIL, True, True)
    assert "100 bytes, not 1,024" in found["episodic vectors"].seen

    await mem.link.execute("UNLINK", key)
    after = await checked(mem)
    assert after["episodic index"].status is CheckStatus.OK
    assert after["index failures"].status is CheckStatus.WARN


async def test_an_index_that_was_dropped_is_missed(mem: MemoryConnection, make: Any) -> None:
    await fill(mem, make)
    await mem.shared.add_shared_experience(make(1), 0.9)
    for name, index in (("episodic", mem.keys.episodic_index("rff-1")), ("shared", mem.keys.shared_index("rff-1"))):
        await mem.link.execute("FT.DROPINDEX", index)
        check = (await checked(mem))[f"{name} index"]
        assert (check.status, index in check.seen) == (CheckStatus.FAIL, True)
        assert "reindex_memory" in check.remedy
        family = mem.indexes.experiences if name == "episodic" else mem.indexes.pool
        assert await mem.indexes.restore(family, "rff-1") == [index]
        assert (await checked(mem))[f"{name} index"].status is CheckStatus.OK
        assert await mem.indexes.restore(family, "rff-1") == []


async def test_records_of_an_encoder_without_an_index_are_counted_and_it_is_named(
    mem: MemoryConnection, make: Any
) -> None:
    await fill(mem, make)
    for number in range(3):
        key = mem.keys.episodic("momentum", "BTC-USDT", number, MISSING)
        vector = make(number).state_vector.tobytes()
        await mem.link.execute("HSET", key, "state_vector:foreign-7", vector, "scope", "a=momentum", "timestamp", 1)
    check = (await checked(mem))["episodic index"]
    assert check.status is CheckStatus.FAIL
    assert "3 of 43 experiences" in check.seen
    assert "foreign-7" in check.seen
    assert "mem.indexes.ensure_episodic('foreign-7')" in check.remedy
    await mem.indexes.ensure_episodic("foreign-7")
    assert (await checked(mem))["episodic index"].status is CheckStatus.OK


async def test_patterns_without_an_index_are_missed(mem: MemoryConnection) -> None:
    key = mem.keys.semantic("PATTERN", "p-1", 0, "line")
    await mem.link.execute("HSET", key, "body", b"x")
    check = (await checked(mem))["semantic index"]
    assert (check.status, "1 of 1" in check.seen) == (CheckStatus.FAIL, True)
    assert check.remedy.endswith(f"coinswarm run rebuild_memory --namespace {mem.namespace}")


async def test_patterns_whose_index_is_being_built_are_not_missed(
    mem: MemoryConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_indexes, "BUILD_PATIENCE_S", 0.0)
    await register(mem)
    await mem.link.execute("HSET", mem.keys.semantic("PATTERN", "p-1", 0, "line"), "body", b"x")
    vectors = np.random.default_rng(0).standard_normal((1000, 256)).astype(np.float32)
    await mem.link.pipeline(
        [("HSET", f"{mem.namespace}:record:{row}", "vector", vector.tobytes()) for row, vector in enumerate(vectors)]
    )
    index = mem.keys.semantic_index("rff-1")
    await mem.link.execute(
        *("FT.CREATE", index, "ON", "HASH", "PREFIX", 1, f"{mem.namespace}:record:", "SCHEMA"),
        *("vector", "VECTOR", "HNSW", 8, "TYPE", "FLOAT32", "DIM", 256, "DISTANCE_METRIC", "L2"),
        *("EF_CONSTRUCTION", 1000),  # Looks at every record for each, so that building takes seconds.
    )
    check = (await checked(mem))["semantic index"]
    assert (check.status, "is being built" in check.seen) == (CheckStatus.WARN, True)
    await mem.link.execute("FT.DROPINDEX", index)


async def test_an_alias_that_leads_elsewhere_is_named_with_the_command(mem: MemoryConnection, make: Any) -> None:
    await fill(mem, make)
    await mem.episodic.add(make(1, encoder_id="other-2", agent_id="hold"))
    alias, wrong = mem.keys.episodic_alias, mem.keys.episodic_index("other-2")
    await mem.link.execute("FT.ALIASUPDATE", alias, wrong)
    check = (await checked(mem))["aliases"]
    assert (check.status, wrong in check.seen) == (CheckStatus.WARN, True)
    assert check.remedy == f"FT.ALIASUPDATE {alias} {mem.keys.episodic_index('rff-1')}"
    await mem.link.execute("FT.ALIASDEL", alias)
    assert "leads to nothing" in (await checked(mem))["aliases"].seen


async def test_an_index_of_no_known_encoder_is_an_orphan(mem: MemoryConnection, make: Any) -> None:
    await fill(mem, make)
    ghost = mem.keys.episodic_index("ghost")
    await mem.link.execute("FT.CREATE", ghost, "PREFIX", 1, "nobody:", "SCHEMA", "scope", "TAG")
    try:
        check = (await checked(mem))["orphan indexes"]
    finally:
        await mem.link.execute("FT.DROPINDEX", ghost)
    assert (check.status, ghost in check.seen, check.remedy.endswith(f"FT.DROPINDEX {ghost}")) == (
        CheckStatus.WARN,
        True,
        True,
    )


# --- layouts ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def divided(servers: Any, namespace: str, make: Any) -> AsyncIterator[MemoryConnection]:
    """A memory with an index for each agent and product."""
    settings = memory.Settings(index_layout="partitioned")
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace, settings=settings) as mem:
        await register(mem)
        await mem.episodic.add_many([make(minute, agent_id=agent) for minute in range(20) for agent in ("a", "b")])
        yield mem


async def test_partitions_that_hold_everything_are_well(divided: MemoryConnection) -> None:
    found = await checked(divided)
    assert {name for name in turned(found) if "index" in name} == set()
    assert found["episodic index"].seen == "40 experiences in 3 indexes, 40 keys"


async def test_a_partition_that_was_dropped_is_missed(divided: MemoryConnection) -> None:
    part = f"{divided.keys.episodic_index('rff-1')}:b:BTC-USDT"
    await divided.link.execute("FT.DROPINDEX", part)
    check = (await checked(divided))["episodic index"]
    assert (check.status, part in check.seen, "reindex_memory" in check.remedy) == (CheckStatus.FAIL, True, True)
    assert await divided.indexes.restore(divided.indexes.experiences, "rff-1") == [part]
    assert (await checked(divided))["episodic index"].seen == "40 experiences in 3 indexes, 40 keys"


async def test_records_that_no_partition_holds_are_counted(divided: MemoryConnection, make: Any) -> None:
    part = f"{divided.keys.episodic_index('rff-1')}:b:BTC-USDT"
    schema = await divided.indexes.current_schema("rff-1")
    assert schema is not None
    await divided.link.execute("FT.DROPINDEX", part)
    await divided.indexes.partitions.create(schema, [("b", "BTC-USDT")], holds_all_from_now_on=True)
    check = (await checked(divided))["episodic index"]
    assert (check.status, "20 of 40" in check.seen) == (CheckStatus.FAIL, True)
    assert check.remedy.startswith(f"FT.DROPINDEX {part} ")
    await divided.link.execute("FT.DROPINDEX", part)
    await divided.indexes.restore(divided.indexes.experiences, "rff-1")
    assert (await checked(divided))["episodic index"].status is CheckStatus.OK


async def test_pairs_that_are_not_listed_are_missed(divided: MemoryConnection) -> None:
    schema = await divided.indexes.current_schema("rff-1")
    assert schema is not None
    await divided.link.execute("DEL", divided.indexes.experiences.pairs_key(schema))
    check = (await checked(divided))["episodic index"]
    assert (check.status, "40 of 40" in check.seen) == (CheckStatus.FAIL, True)
    assert "layout=single" in check.remedy


async def test_a_change_of_the_index_that_was_stopped_is_pointed_out(mem: MemoryConnection, make: Any) -> None:
    await fill(mem, make)
    reindexer = Reindexer(mem.link, mem.indexes, mem.reader, mem.fence, mem.indexes.experiences)
    job = await reindexer.begin("rff-1", layout="single", algorithm="HNSW", vector_type="FLOAT16")
    assert job is not None
    check = (await checked(mem))["reindexing"]
    assert (check.status, job.target.name in check.seen) == (CheckStatus.WARN, True)
    choices = "--param layout=single --param algorithm=HNSW --param vector_type=FLOAT16"
    assert check.remedy.endswith(f"coinswarm run reindex_memory {choices} --namespace {mem.namespace}")
    async for reached in reindexer.fill(job):
        job = reached
    job = await reindexer.swap(job)
    await reindexer.retire(job)
    assert (await checked(mem))["reindexing"].remedy == check.remedy, "the old vectors are still there"


async def test_clients_of_an_old_encoder_are_what_a_new_one_waits_for(mem: MemoryConnection, make: Any) -> None:
    await fill(mem, make)
    reindexer = Reindexer(mem.link, mem.indexes, mem.reader, mem.fence, mem.indexes.experiences)
    kept: Any = {"layout": "single", "algorithm": "FLAT", "vector_type": "FLOAT32"}
    job = await reindexer.begin_encoder("rff-1", "rff-2", 256, **kept)
    assert job is not None
    check = (await checked(mem))["reindexing"]
    assert check.remedy.endswith(f"run reindex_memory --param encoder=rff-2 --namespace {mem.namespace}")

    def encode(names: tuple[str, ...], values: Any) -> Any:
        return np.stack([make(int(row)).state_vector for row in range(len(values))])

    async for reached in reindexer.fill(job, encode):
        job = reached
    await reindexer.swap(job, encode)
    check = (await checked(mem))["reindexing"]
    assert check.remedy.endswith(f"--param encoder=rff-2 --param remove_old=true --namespace {mem.namespace}")
    assert "restart clients of rff-1 with rff-2" in check.remedy
