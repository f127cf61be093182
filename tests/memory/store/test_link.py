"""The line to Redis: transactions are one step whatever happens in between, and refusals say what to do about them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import memory
from memory.errors import AccessDeniedError, ServerUnsuitableError, StoreUnavailableError
from memory.store.link import TRANSACTION_ATTEMPTS, Command, Read, RedisLink
from memory.store.wire import WireConnection
from tests.memory.retrieval.latency_proxy import LatencyProxy
from tests.memory.retrieval.redis_processes import RedisProcess


@pytest.fixture
async def link(own_redis: Any) -> AsyncIterator[RedisLink]:
    """A link to a Redis of the test's own that does not wait long."""
    opened = RedisLink(own_redis.url, timeout_s=0.5)
    await opened.open()
    yield opened
    await opened.close()


async def increment(read: Read) -> tuple[list[Command], None]:
    return [("SET", "key", int(await read("GET", "key") or 0) + 1)], None


WRITES: dict[str, Callable[[RedisLink], Awaitable[Any]]] = {
    "command": lambda link: link.execute("SET", "key", "1"),
    "blocking": lambda link: link.execute("BLMOVE", "list", "other", "LEFT", "LEFT", 0.01),
    "pipeline": lambda link: link.pipeline([("GET", "key"), ("SET", "key", "1")]),
    "step": lambda link: link.pipeline([("GET", "key"), ("SET", "key", "1")], transaction=True),
    "transaction": lambda link: link.transaction(["key"], increment),
}


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


async def test_a_transaction_whose_server_stops_answering_ends_by_its_deadline(own_redis: Any) -> None:
    async with LatencyProxy(own_redis.socket, 0.0) as proxy:
        link = RedisLink(proxy.url, timeout_s=0.3)
        await link.open()

        async def prepare(read: Read) -> tuple[list[Command], None]:
            await read("GET", "key")
            proxy.stall()
            return [("SET", "key", await read("GET", "key"))], None

        async with asyncio.timeout(3):
            with pytest.raises(StoreUnavailableError, match="did not answer"):
                await link.transaction(["key"], prepare)
        proxy.mend()
        await link.transaction(["key"], increment)
        assert await link.execute("GET", "key") == b"1"
        await link.close()


# --- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", WRITES)
async def test_a_script_that_keeps_the_server_busy_is_waited_for(own_redis: Any, write: str) -> None:
    link = RedisLink(own_redis.url, timeout_s=5)
    await link.open()
    await link.execute("CONFIG", "SET", "busy-reply-threshold", 1)
    other = await WireConnection.open(own_redis.url, timeout_s=5)
    endless = other.send("EVAL", "while true do end", 0)
    await asyncio.sleep(0.05)
    writing = asyncio.ensure_future(WRITES[write](link))
    await asyncio.sleep(0.1)
    assert not writing.done()
    killing = await WireConnection.open(own_redis.url, timeout_s=5)
    await killing.execute("SCRIPT", "KILL")
    await writing
    await asyncio.gather(endless, return_exceptions=True)
    for connection in (other, killing):
        await connection.close()
    await link.close()


@pytest.mark.parametrize("write", WRITES)
async def test_a_script_that_does_not_end_is_named_at_the_deadline(own_redis: Any, link: RedisLink, write: str) -> None:
    await link.execute("CONFIG", "SET", "busy-reply-threshold", 1)
    other = await WireConnection.open(own_redis.url, timeout_s=5)
    endless = other.send("EVAL", "while true do end", 0)
    await asyncio.sleep(0.05)
    with pytest.raises(StoreUnavailableError, match="SCRIPT KILL"):
        await WRITES[write](link)
    await link.execute("SCRIPT", "KILL")
    await asyncio.gather(endless, return_exceptions=True)
    await other.close()


@pytest.mark.parametrize("write", WRITES)
async def test_a_server_that_takes_no_writes_says_why_whatever_way_they_go(link: RedisLink, write: str) -> None:
    await link.execute("CONFIG", "SET", "min-replicas-to-write", 1)
    with pytest.raises(
        StoreUnavailableError, match=r"takes no writes: NOREPLICAS Not enough good replicas to write\. "
    ):
        await WRITES[write](link)


@pytest.mark.parametrize("write", WRITES)
async def test_a_replica_is_named_as_such(link: RedisLink, write: str) -> None:
    await link.execute("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(StoreUnavailableError, match=r"takes no writes: You can.t write against a read only replica\. "):
        await WRITES[write](link)


async def test_a_replica_that_answers_nothing_without_its_primary_is_named_as_such(link: RedisLink) -> None:
    await link.execute("CONFIG", "SET", "replica-serve-stale-data", "no")
    await link.execute("REPLICAOF", "127.0.0.1", 1)
    for asking in (
        link.execute("GET", "key"),
        link.pipeline([("GET", "key")]),
        link.pipeline([("GET", "key")], transaction=True),
        link.transaction(["key"], increment),
    ):
        with pytest.raises(StoreUnavailableError, match="has lost its primary"):
            await asking


async def test_writes_go_where_the_url_leads_once_their_server_is_no_primary_any_more(tmp_path: Path) -> None:
    former, latter = RedisProcess(tmp_path / "former"), RedisProcess(tmp_path / "latter")
    former.start()
    latter.start()
    try:
        async with LatencyProxy(former.port, 0.0) as proxy:
            link = RedisLink(proxy.url, timeout_s=2)
            await link.open()
            for write in WRITES.values():
                await write(link)  # Each way has a connection to the former primary.
            proxy.lead_to(latter.port)
            former.ask("REPLICAOF", "127.0.0.1", str(latter.port))
            former.wait_for("INFO replication", "master_link_status:up")
            for write in WRITES.values():
                await write(link)
            assert "master_link_status" not in (await link.execute("INFO", "replication")).decode()
            await link.close()
    finally:
        former.kill()
        latter.kill()


# --- rights --------------------------------------------------------------------------------------------------


async def as_user(own_redis: Any, *rights: str) -> RedisLink:
    """A link of a user who has some rights."""
    admin = RedisLink(own_redis.url)
    await admin.open()
    await admin.execute("ACL", "SETUSER", "guest", "reset", "on", ">pw", *rights)
    await admin.close()
    link = RedisLink(f"unix://guest:pw@{urlsplit(own_redis.url).path}", timeout_s=0.5)
    await link.open()
    return link


@pytest.mark.parametrize("write", WRITES)
async def test_a_right_that_is_missing_is_named_with_how_to_give_it(own_redis: Any, write: str) -> None:
    link = await as_user(own_redis, "~*", "+@all", "-set", "-blmove")
    with pytest.raises(AccessDeniedError, match=r"guest of .* may not run (SET|BLMOVE)\.") as refused:
        await WRITES[write](link)
    assert refused.value.remedy.startswith(
        ("Allow it there: ACL SETUSER guest +set;", "Allow it there: ACL SETUSER guest +blmove;")
    )
    await link.close()


async def test_a_right_that_a_script_lacks_is_named(own_redis: Any) -> None:
    link = await as_user(own_redis, "~*", "+@all", "-incrby", "-client|tracking")
    script = link.register("return redis.call('INCRBY', KEYS[1], 1)")
    with pytest.raises(AccessDeniedError, match="may not run INCRBY"):
        await link.pipeline([script.call(["key"], [])])
    with pytest.raises(AccessDeniedError, match="may not run CLIENT TRACKING") as refused:
        await link.execute("CLIENT", "TRACKING", "ON")
    assert "+client|tracking" in refused.value.remedy
    await link.close()


@pytest.mark.parametrize("write", WRITES)
async def test_keys_that_a_user_may_not_use_are_told_apart_from_commands(own_redis: Any, write: str) -> None:
    link = await as_user(own_redis, "~elsewhere:*", "+@all")
    with pytest.raises(AccessDeniedError, match=r"guest of .* may not use a key or an index that \S+ needs") as refused:
        await WRITES[write](link)
    assert "ACL SETUSER guest ~KEY" in refused.value.remedy
    assert "coinswarm acl" in refused.value.remedy
    await link.close()


async def test_a_database_that_does_not_exist_is_told_on_opening(own_redis: Any) -> None:
    with pytest.raises(ServerUnsuitableError, match="DB index is out of range"):
        await memory.connect(redis_url=f"{own_redis.url}?db=99").open()


async def test_a_server_that_takes_no_further_connection_is_named(tmp_path: Path) -> None:
    server = RedisProcess(tmp_path)
    server.start()
    try:
        first = RedisLink(server.url)
        await first.open()
        await first.execute("CONFIG", "SET", "maxclients", 1)
        with pytest.raises(StoreUnavailableError, match=r"maxclients|cannot be reached"):
            await RedisLink(server.url, timeout_s=0.3).open()
        assert await first.execute("PING") == b"PONG"
        await first.close()
    finally:
        server.kill()


# --- scripts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transaction", [False, True])
async def test_scripts_run_on_a_server_that_forgets_them_all_the_time(own_redis: Any, transaction: bool) -> None:
    link = RedisLink(own_redis.url, timeout_s=5)
    await link.open()
    script = link.register("return redis.call('INCR', KEYS[1])")
    other = await WireConnection.open(own_redis.url, timeout_s=5)
    running = True

    async def forget() -> None:
        while running:
            await asyncio.gather(*(other.send("SCRIPT", "FLUSH", "SYNC") for _ in range(20)))

    forgetting = asyncio.ensure_future(forget())
    try:
        for number in range(1, 51):
            assert await link.pipeline([script.call(["key"], [])], transaction=transaction) == [number]
    finally:
        running = False
        await forgetting
        await other.close()
        await link.close()


async def test_a_script_that_has_to_be_loaded_leaves_the_deadline_as_it_is(own_redis: Any) -> None:
    async with LatencyProxy(own_redis.socket, 0.15) as proxy:
        link = RedisLink(proxy.url, timeout_s=5)
        await link.open()
        script = link.register("return 1")
        with pytest.raises(StoreUnavailableError, match=r"within 0\.5 s"):
            await link.pipeline([script.call(["key"], [])], timeout_s=0.5)  # It takes two round trips of 0.3 s.
        assert await link.pipeline([script.call(["key"], [])]) == [1]
        await link.close()
