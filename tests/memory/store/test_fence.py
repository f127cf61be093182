"""Only the run that announced itself last may write, and only while the server remembers it."""

from __future__ import annotations

from typing import Any

import pytest

import memory
from memory import MemoryConnection
from memory.errors import FencedOutError, StoreUnavailableError


async def test_a_run_that_announced_itself_writes_and_an_older_one_does_not(mem: MemoryConnection) -> None:
    key = f"{mem.namespace}:written"
    await mem.fence.raise_to(3)
    await mem.fence.raise_to(3)
    await mem.fence.write([("SET", key, 3)], 3)
    await mem.fence.raise_to(5)
    with pytest.raises(FencedOutError, match=r"token 3.*token 5"):
        await mem.fence.write([("SET", key, 4)], 3)
    with pytest.raises(FencedOutError, match=r"token 4.*token 5"):
        await mem.fence.raise_to(4)
    assert await mem.link.execute("GET", key) == b"3"
    assert await mem.fence.highest() == 5


async def test_a_run_that_did_not_announce_itself_writes_nothing(mem: MemoryConnection) -> None:
    with pytest.raises(FencedOutError, match="token 7, but Redis holds none"):
        await mem.fence.write([("SET", f"{mem.namespace}:written", 1)], 7)
    assert await mem.link.execute("EXISTS", f"{mem.namespace}:written") == 0


async def test_whoever_wrote_to_a_redis_that_was_emptied_since_has_to_begin_anew(
    mem: MemoryConnection, build: Any
) -> None:
    await mem.fence.raise_to(4)
    await mem.fence.raise_to(5)
    await mem.link.execute("DEL", mem.keys.fence)
    for token in (4, 5):
        with pytest.raises(FencedOutError, match="emptied"):
            await mem.semantic.publish([build["pattern"]()], line="ns/rff-1/1", kinds=("PATTERN",), token=token,
                                       valid_from=build["pattern"]().created_at)  # type: ignore[arg-type]  # fmt: skip
    await mem.fence.raise_to(6)
    await mem.fence.write([("SET", f"{mem.namespace}:written", 1)], 6)


# --- on disk -------------------------------------------------------------------------------------------------


async def test_waiting_for_the_disk_leaves_nothing_behind(own_redis: Any) -> None:
    async with memory.connect(redis_url=own_redis.url) as mem:
        await mem.link.execute("SET", "a", "b")
        assert await mem.link.on_disk()
        assert await mem.link.execute("KEYS", "*") == [b"a"]


async def test_what_others_wrote_is_waited_for_too(own_redis: Any) -> None:
    own_redis.stop()
    own_redis.start("--appendfsync", "everysec")
    async with memory.connect(redis_url=own_redis.url) as mem, memory.connect(redis_url=own_redis.url) as other:
        await other.link.execute("SET", "a", "b")
        await mem.link.on_disk()  # The next time is a second away.
        await other.link.execute("SET", "a", "c")
        with pytest.raises(StoreUnavailableError, match=r"disk within 0\.1 s"):
            await mem.link.on_disk(timeout_s=0.1)
        assert await mem.link.on_disk()


async def test_a_server_without_an_append_only_file_promises_nothing(own_redis: Any) -> None:
    async with memory.connect(redis_url=own_redis.url) as mem:
        await mem.link.execute("CONFIG", "SET", "appendonly", "no")
        assert not await mem.link.on_disk()


async def test_a_user_who_may_not_ask_is_promised_nothing(own_redis: Any) -> None:
    async with memory.connect(redis_url=own_redis.url) as mem:
        await mem.link.execute("ACL", "SETUSER", "default", "resetkeys", f"~{mem.namespace}:*")
        assert await mem.link.on_disk()
        await mem.link.execute("ACL", "SETUSER", "default", "-waitaof")
        assert not await mem.link.on_disk()
