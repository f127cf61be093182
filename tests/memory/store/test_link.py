"""Transactions on the line to Redis: what is read and what is written are one step, whatever happens in between."""

from __future__ import annotations

from typing import Any

import pytest

import memory
from memory.errors import StoreUnavailableError
from memory.store.link import TRANSACTION_ATTEMPTS, Command, Read


async def test_a_transaction_whose_connection_broke_while_it_read_is_done_all_the_same(
    mem: memory.MemoryConnection,
) -> None:
    key = f"{mem.namespace}:counter"
    prepared: list[int] = []

    async def prepare(read: Read) -> tuple[list[Command], int]:
        own = int(await read("CLIENT", "ID"))
        prepared.append(own)
        if len(prepared) == 1:
            await mem.link.execute("CLIENT", "KILL", "ID", own)
        before = int(await read("GET", key) or 0)
        return [("SET", key, before + 1)], before

    assert await mem.link.transaction([key], prepare) == 0
    assert len(set(prepared)) == 2
    assert await mem.link.execute("GET", key) == b"1"


async def test_a_transaction_reads_again_what_another_has_written(mem: memory.MemoryConnection) -> None:
    key = f"{mem.namespace}:counter"
    seen: list[int] = []

    async def prepare(read: Read) -> tuple[list[Command], None]:
        seen.append(int(await read("GET", key) or 0))
        if len(seen) == 1:
            await mem.link.execute("SET", key, 41)
        return [("SET", key, seen[-1] + 1)], None

    await mem.link.transaction([key], prepare)
    assert seen == [0, 41]
    assert await mem.link.execute("GET", key) == b"42"


async def test_a_transaction_that_others_never_let_through_gives_up_and_writes_nothing(
    mem: memory.MemoryConnection,
) -> None:
    key = f"{mem.namespace}:counter"
    attempts: list[int] = []

    async def prepare(read: Read) -> tuple[list[Command], None]:
        await read("GET", key)
        attempts.append(len(attempts))
        await mem.link.execute("SET", key, "theirs", "EX", 60 + len(attempts))
        return [("SET", key, "ours")], None

    with pytest.raises(StoreUnavailableError, match=f"changed {TRANSACTION_ATTEMPTS} times"):
        await mem.link.transaction([key], prepare)
    assert len(attempts) == TRANSACTION_ATTEMPTS
    assert await mem.link.execute("GET", key) == b"theirs"


async def test_a_server_that_was_restarted_has_another_life(own_redis: Any) -> None:
    async with memory.connect(redis_url=own_redis.url) as mem:
        before = await mem.link.server_life()
        assert await mem.link.server_life() == before != ""
        own_redis.kill()
        own_redis.start()
        assert await mem.link.server_life() not in {"", before}
