"""Opening, closing, and what happens when the server is not as it should be."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import memory
from memory.errors import ConflictingRecordError, InvalidRecordError, ServerUnsuitableError, StoreUnavailableError
from memory.store.encoders import pack_encoder, unpack_encoder


def quick(**values: Any) -> memory.Settings:
    return memory.Settings(redis_timeout_s=0.5, **values)


async def test_a_server_without_search_is_refused_with_the_remedy(redis_without_search: Any) -> None:
    with pytest.raises(ServerUnsuitableError, match=r"has no search.*COINSWARM_REDIS_URL"):
        async with memory.connect(redis_url=redis_without_search.url):
            pass


async def test_a_server_that_is_not_there_is_an_error_within_the_deadline(tmp_path: Path) -> None:
    start = asyncio.get_running_loop().time()
    with pytest.raises(StoreUnavailableError, match="COINSWARM_REDIS_URL"):
        async with memory.connect(redis_url=f"unix://{tmp_path}/nobody.sock", settings=quick()):
            pass
    assert asyncio.get_running_loop().time() - start < 5


async def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ServerUnsuitableError, match="redis://host"):
        async with memory.connect(redis_url="http://localhost"):
            pass


async def test_a_database_that_cannot_be_searched_is_refused(own_redis: Any) -> None:
    own_redis.kill()
    own_redis.start("--port", "0")
    with pytest.raises(ServerUnsuitableError, match="database 3"):
        async with memory.connect(redis_url=f"{own_redis.url}?db=3"):
            pass


async def test_a_password_never_shows(own_redis: Any) -> None:
    own_redis.kill()
    own_redis.start("--requirepass", "correct")
    url = own_redis.url.replace("unix://", "unix://:s3cret@")
    with pytest.raises(ServerUnsuitableError, match="password") as caught:
        async with memory.connect(redis_url=url):
            pass
    assert "s3cret" not in str(caught.value)
    async with memory.connect(redis_url=own_redis.url.replace("unix://", "unix://:correct@")) as mem:
        assert await mem.episodic.count() == 0


@pytest.mark.parametrize("namespace", ["", "A", "a:b", "x" * 33, "a b"])
def test_a_malformed_namespace_is_refused_and_an_empty_one_not_taken_for_the_default(namespace: str) -> None:
    with pytest.raises(InvalidRecordError, match="1 to 32 of a-z"):
        memory.connect(namespace=namespace)


async def test_a_closed_memory_says_so(servers: Any, namespace: str, make: Any) -> None:
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        pass
    with pytest.raises(StoreUnavailableError, match="not open"):
        await mem.episodic.add(make(1))


def test_a_memory_belongs_to_its_event_loop(servers: Any, namespace: str, make: Any) -> None:
    async def opened() -> memory.MemoryConnection:
        mem = memory.connect(redis_url=servers.redis_url, namespace=namespace)
        await mem.open()
        return mem

    with asyncio.Runner() as first, asyncio.Runner() as second:
        mem = first.run(opened())
        with pytest.raises(StoreUnavailableError, match="another event loop"):
            second.run(mem.episodic.add(make(1)))
        first.run(mem.close())


async def test_the_embedded_server_is_started_where_none_is_configured(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COINSWARM_REDIS_URL", raising=False)
    settings = memory.Settings(home=tmp_path / "home", redis_url=None)
    async with memory.connect(settings=settings) as mem:
        await mem.episodic.add(make(1))
    async with memory.connect(settings=settings) as mem:
        assert await mem.episodic.count() == 1


async def test_more_callers_than_connections_wait_their_turn(servers: Any, namespace: str, make: Any) -> None:
    settings = memory.Settings(redis_max_connections=2)
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace, settings=settings) as mem:
        await mem.episodic.add(make(0))
        counts = await asyncio.gather(*(mem.episodic.count() for _ in range(50)))
    assert counts == [1] * 50


async def test_a_server_killed_in_the_middle_loses_and_doubles_nothing(own_redis: Any, make: Any) -> None:
    records = [make(minute) for minute in range(60)]
    async with memory.connect(redis_url=own_redis.url, namespace="ns", settings=quick()) as mem:
        await mem.episodic.add_many(records[:30])
        own_redis.kill()
        with pytest.raises(StoreUnavailableError, match="nothing twice"):
            await mem.episodic.add_many(records)
        with pytest.raises(StoreUnavailableError):
            await mem.retrieval.retrieve_similar_experiences(records[0].state_vector)
        own_redis.start()
        report = await mem.episodic.add_many(records)
        assert (len(report.stored), len(report.duplicates)) == (30, 30)
        assert await mem.episodic.count() == 60
        hits = await mem.retrieval.retrieve_similar_experiences(records[7].state_vector, top_k=1)
        assert hits[0].memory.memory_id == records[7].memory_id


async def test_a_batch_is_stored_whole_when_the_server_comes_back_in_time(own_redis: Any, make: Any) -> None:
    records = [make(minute) for minute in range(3000)]
    async with memory.connect(redis_url=own_redis.url, namespace="ns") as mem:
        await mem.episodic.add(make(0))
        writing = asyncio.create_task(mem.episodic.add_many(records))
        while await mem.episodic.count() < 400:
            await asyncio.sleep(0.005)
        assert not writing.done()
        own_redis.kill()
        await asyncio.to_thread(own_redis.start)
        report = await writing
        assert len(report.stored) + len(report.duplicates) == 3000
        assert await mem.episodic.count() == 3000


async def test_a_full_server_says_so(own_redis: Any, make: Any) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace="ns", settings=quick()) as mem:
        await mem.episodic.add(make(0))
        await mem.link.execute("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(StoreUnavailableError, match=r"is full.*prune"):
            await mem.episodic.add_many([make(minute) for minute in range(10)])
        await mem.link.execute("CONFIG", "SET", "maxmemory", "0")
        assert len((await mem.episodic.add_many([make(minute) for minute in range(10)])).stored) == 9


async def test_a_hanging_server_is_an_error_within_the_deadline(own_redis: Any, make: Any) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace="ns", settings=quick()) as mem:
        await mem.episodic.add(make(0))
        async with memory.connect(redis_url=own_redis.url, namespace="ns") as other:
            await other.link.execute("CLIENT", "PAUSE", 1500, "ALL")
            with pytest.raises(StoreUnavailableError, match=r"did not answer within 0\.5 s"):
                await mem.episodic.add(make(1))
        await asyncio.sleep(1.2)
        await mem.episodic.add(make(1))
        assert await mem.episodic.count() == 2


async def test_encoders_are_registered_once(mem: memory.MemoryConnection) -> None:
    from datetime import UTC, datetime

    from memory.errors import ConflictingRecordError

    until = datetime(2021, 6, 17, tzinfo=UTC)
    record = await mem.encoders.register("rff-1", fitted_until=until, definition={"seed": 1})
    assert await mem.encoders.register("rff-1", fitted_until=until, definition={"seed": 1}) == record
    assert await mem.encoders.get("rff-1") == record
    assert await mem.encoders.get("rff-2") is None
    with pytest.raises(ConflictingRecordError, match="id of its own"):
        await mem.encoders.register("rff-1", fitted_until=until, definition={"seed": 2})


async def test_an_encoder_comes_back_from_its_packed_record(servers: Any, mem: memory.MemoryConnection) -> None:
    until = datetime(2021, 6, 1, tzinfo=UTC)
    record = await mem.encoders.register("rff-1", fitted_until=until, definition={"seed": 1}, dimension=8)
    packed = pack_encoder(record)
    async with memory.connect(redis_url=servers.redis_url, namespace=f"{mem.namespace}-b") as other:
        assert await other.encoders.restore(unpack_encoder(packed)) == record
        assert await other.encoders.dimension("rff-1") == 8
        assert await other.semantic.digest() == await mem.semantic.digest()
        await other.encoders.register("rff-2", fitted_until=until, definition={})
        assert await other.semantic.digest() != await mem.semantic.digest()
        with pytest.raises(ConflictingRecordError, match="rff-1"):
            await other.encoders.restore(dataclasses.replace(record, dimension=9))
