"""Accesses are counted together, once each, and none is lost to a failure."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import memory
from memory import MemoryConnection
from memory.errors import StoreUnavailableError
from memory.store import access
from memory.store.access import AccessCounters, uncounted
from memory.store.link import RedisLink

DAY = datetime(2021, 6, 18, tzinfo=UTC)
NIGHT = timedelta(days=1)


@pytest.fixture
def sent(mem: MemoryConnection, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Commands of each round trip that writes, as they leave."""
    made: list[int] = []
    pipeline = mem.link.pipeline

    def counted(commands: Any, **more: Any) -> Any:
        made.append(len(commands))
        return pipeline(commands, **more)

    monkeypatch.setattr(mem.link, "pipeline", counted)
    return made


async def count_of(mem: MemoryConnection, name: str, until: datetime = DAY + NIGHT) -> int:
    return (await mem.semantic.access_counts([name], until))[name].count


async def test_many_accesses_leave_in_one_command_and_start_one_task(mem: MemoryConnection, sent: list[int]) -> None:
    tasks = len(asyncio.all_tasks())
    for _ in range(1000):
        mem.access.note(["p-1", "p-2"], DAY)
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) <= tasks + 1
    await mem.access.flush()
    # A busy machine may let the delay pass while they are noted: then they leave in two.
    assert sent in ([1], [1, 1])
    assert await count_of(mem, "p-1") == await count_of(mem, "p-2") == 1000


async def test_they_are_written_by_themselves_soon(servers: Any, mem: MemoryConnection) -> None:
    mem.access.note(["p-1"], DAY)
    async with memory.connect(redis_url=servers.redis_url, namespace=mem.namespace) as other:
        for _ in range(200):
            if await count_of(other, "p-1"):
                break
            await asyncio.sleep(0.02)
        assert await count_of(other, "p-1") == 1


async def test_a_command_holds_no_more_than_its_share(
    mem: MemoryConnection, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "WRITE_SIZE", 10)
    mem.access.note([f"p-{number}" for number in range(35)], DAY)
    await mem.access.flush()
    assert sent == [1, 1, 1, 1]
    counts = await mem.semantic.access_counts([f"p-{number}" for number in range(35)], DAY + NIGHT)
    assert {count.count for count in counts.values()} == {1}


async def test_closing_writes_what_waits(servers: Any, namespace: str) -> None:
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        mem.access.note(["p-1"], DAY)
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        assert await count_of(mem, "p-1") == 1


async def test_several_processes_add_to_the_same_counter(servers: Any, namespace: str) -> None:
    async def reader(times: int) -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            for _ in range(times):
                mem.access.note(["p-1"], DAY)

    await asyncio.gather(*(reader(times) for times in (3, 5, 7)))
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        assert await count_of(mem, "p-1") == 15


async def test_what_a_process_counted_it_finds_at_once(mem: MemoryConnection) -> None:
    mem.access.note(["p-1"], DAY)
    assert await count_of(mem, "p-1") == 1


async def test_a_batch_whose_answer_was_lost_counts_once(
    mem: MemoryConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = mem.link.pipeline

    async def loses_the_answer(commands: Any, **more: Any) -> Any:
        await pipeline(commands, **more)
        monkeypatch.setattr(mem.link, "pipeline", pipeline)
        raise StoreUnavailableError("the line broke.", remedy="Try again.")

    monkeypatch.setattr(mem.link, "pipeline", loses_the_answer)
    mem.access.note(["p-1", "p-2"], DAY)
    with pytest.raises(StoreUnavailableError):
        await mem.access.flush()
    mem.access.note(["p-1"], DAY)
    await mem.access.flush()
    assert (await count_of(mem, "p-1"), await count_of(mem, "p-2")) == (2, 1)


async def test_while_the_server_is_away_nothing_is_lost(own_redis: Any, namespace: str) -> None:
    link = RedisLink(own_redis.url, timeout_s=0.3)
    await link.open()
    counters = AccessCounters(link, memory.connection.Keys(namespace))
    counters.note(["p-1"], DAY)
    await counters.flush()
    own_redis.kill()
    counters.note(["p-1", "p-2"], DAY)
    with pytest.raises(StoreUnavailableError):
        await counters.flush()
    # Nobody waits for this attempt, which fails as well.
    counters.note(["p-1"], DAY)
    counters._start()
    assert counters._writer is not None
    await counters._writer
    own_redis.start()
    counts = await counters.counts(["p-1", "p-2"], DAY + NIGHT)
    assert [counts[name].count for name in ("p-1", "p-2")] == [3, 1]
    await link.close()


async def test_a_cancelled_flush_counts_once(mem: MemoryConnection) -> None:
    mem.access.note(["p-1"], DAY)
    flushing = asyncio.create_task(mem.access.flush())
    await asyncio.sleep(0)
    flushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flushing
    await mem.access.flush()
    assert await count_of(mem, "p-1") == 1


async def test_a_user_who_may_not_write_is_answered_and_told_once(
    own_redis: Any, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace=namespace) as mem:
        await mem.link.execute("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-@write", "-@scripting")
    restricted = own_redis.url.replace("unix://", "unix://reader:pw@")
    async with memory.connect(redis_url=restricted, namespace=namespace) as mem:
        for _ in range(2):
            await mem.access.count_access(["p-1"], DAY)
    assert sum("not counted" in record.message for record in caplog.records) == 1


async def test_all_counters_of_the_days_before_a_time_are_found_whatever_they_count(
    servers: Any, mem: MemoryConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "READ_SIZE", 3)
    await mem.access.count_access(["p-1", "gone-long-ago", "p-2"], DAY)
    await mem.access.count_access(["p-1", "p-1"], DAY + NIGHT)
    await mem.access.count_access(["too-old"], DAY - 2 * NIGHT)
    await mem.access.count_access(["too-new"], DAY + 2 * NIGHT)
    mem.access.note(["waiting"], DAY)
    async with memory.connect(redis_url=servers.redis_url, namespace=f"{mem.namespace}x") as other:
        await other.access.count_access(["theirs"], DAY)
    counts = await mem.access.all_counts(DAY + 2 * NIGHT, days=3)
    assert list(counts.items()) == [("gone-long-ago", 1), ("p-1", 3), ("p-2", 1), ("waiting", 1)]
    single = await mem.access.counts(list(counts), DAY + 2 * NIGHT, days=3)
    assert {name: single[name].count for name in counts} == counts
    assert await mem.access.all_counts(DAY - 30 * NIGHT) == {}


async def test_what_is_counted_while_a_batch_is_on_its_way_is_written_by_itself(own_redis: Any, namespace: str) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace=namespace) as mem:
        own_redis.signal(signal.SIGSTOP)
        mem.access.note(["p-1"], DAY)
        async with asyncio.timeout(5):
            while mem.access._waiting:
                await asyncio.sleep(0.01)
        mem.access.note(["p-2"], DAY)
        own_redis.signal(signal.SIGCONT)
        async with asyncio.timeout(5):
            while await mem.link.execute("GET", mem.keys.access("p-2", DAY)) != b"1":
                await asyncio.sleep(0.02)
        assert await mem.link.execute("GET", mem.keys.access("p-1", DAY)) == b"1"


async def test_what_is_only_looked_at_is_not_counted(mem: MemoryConnection) -> None:
    async def look() -> None:
        mem.access.note(["p-1"], DAY)

    with uncounted():
        await mem.access.count_access(["p-1"], DAY)
        await asyncio.gather(look(), look())
    assert await count_of(mem, "p-1") == 0
    await mem.access.count_access(["p-1"], DAY)
    assert await count_of(mem, "p-1") == 1
