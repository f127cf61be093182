"""The fence: once a write was acknowledged to anybody, a PING on the following connection comes after its name."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis

import memory
from memory.errors import StoreUnavailableError
from memory.retrieval.near import follower as follower_module
from memory.retrieval.near.follower import Follower, NotFollowingError
from memory.store.link import RedisLink
from memory.store.wire import WireConnection

WAIT_S = 15.0
OTHER_PROCESS = """
import sys, redis
client = redis.Redis.from_url(sys.argv[1])
for number in range(int(sys.argv[3])):
    key = f"{sys.argv[2]}{number}"
    client.set(key, number)
    print(key, flush=True)
"""


class Seen:
    """What a follower was told."""

    def __init__(self, link: RedisLink, url: str, prefix: str) -> None:
        self.keys: set[bytes] = set()
        self.losses = 0
        self.follower = Follower(
            link, url, [prefix], on_keys=self.keys.update, on_lost=self._lost, on_ready=lambda: None
        )

    def _lost(self) -> None:
        self.losses += 1

    async def ready(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while not self.follower.following:
            assert time.monotonic() < deadline, self.follower.reason
            await asyncio.sleep(0.005)


@pytest.fixture
async def follow() -> AsyncIterator[Callable[..., Seen]]:
    """Starts followers, and ends them."""
    started: list[Seen] = []

    def start(link: RedisLink, url: str, prefix: str) -> Seen:
        seen = Seen(link, url, prefix)
        started.append(seen)
        seen.follower.start()
        return seen

    yield start
    for seen in started:
        await seen.follower.close()


async def writers(seen: Seen, url: str, prefix: str, *, connections: int, writes: int) -> int:
    """Many write on connections of their own; each must find its own write named as soon as it was acknowledged."""
    unseen = 0

    async def write(number: int) -> None:
        nonlocal unseen
        connection = await WireConnection.open(url, timeout_s=5)
        for step in range(writes):
            key = f"{prefix}{number}:{step}"
            if step % 3:
                await connection.execute("SET", key, step)
            else:
                await asyncio.gather(*(connection.execute(*command) for command in _transaction(key)))
            await seen.follower.fence()
            unseen += key.encode() not in seen.keys
        await connection.close()

    await asyncio.gather(*(write(number) for number in range(connections)))
    return unseen


def _transaction(key: str) -> list[tuple[str, ...]]:
    return [("MULTI",), ("SET", key, "1"), ("DEL", key), ("EXEC",)]


async def test_what_was_acknowledged_is_named_before_the_fence_opens(
    servers: Any, mem: memory.MemoryConnection, follow: Any
) -> None:
    prefix = f"{mem.namespace}:episodic:"
    seen = follow(mem.link, servers.redis_url, prefix)
    await seen.ready()
    assert await writers(seen, servers.redis_url, prefix, connections=12, writes=60) == 0
    assert len(seen.keys) == 12 * 60


async def test_nothing_is_taken_for_named_that_this_process_has_not_read_yet(
    servers: Any, mem: memory.MemoryConnection, follow: Any
) -> None:
    prefix = f"{mem.namespace}:episodic:"
    seen = follow(mem.link, servers.redis_url, prefix)
    await seen.ready()
    with redis.Redis.from_url(servers.redis_url) as client:
        for number in range(200):
            client.set(f"{prefix}{number}", 1)  # Blocks the event loop: nothing is read between this and the fence.
            assert f"{prefix}{number}".encode() not in seen.keys
            await seen.follower.fence()
            assert f"{prefix}{number}".encode() in seen.keys


async def test_the_fence_holds_on_a_server_whose_answers_leave_from_other_threads(own_redis: Any, follow: Any) -> None:
    own_redis.stop()
    own_redis.start("--io-threads", "4")
    async with memory.connect(redis_url=own_redis.url, namespace="threads") as mem:
        seen = follow(mem.link, own_redis.url, "threads:episodic:")
        await seen.ready()
        assert await writers(seen, own_redis.url, "threads:episodic:", connections=24, writes=40) == 0


async def test_what_another_process_was_told_is_seen(servers: Any, mem: memory.MemoryConnection, follow: Any) -> None:
    prefix = f"{mem.namespace}:episodic:"
    seen = follow(mem.link, servers.redis_url, prefix)
    await seen.ready()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OTHER_PROCESS, servers.redis_url, prefix, "300"), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    told = 0
    async for line in process.stdout:
        await seen.follower.fence()
        assert line.strip() in seen.keys
        told += 1
    assert told == 300
    assert await process.wait() == 0


async def test_other_namespaces_are_not_named(servers: Any, mem: memory.MemoryConnection, follow: Any) -> None:
    seen = follow(mem.link, servers.redis_url, f"{mem.namespace}:episodic:")
    await seen.ready()
    await mem.link.execute("SET", f"{mem.namespace}x:episodic:1", 1)
    await mem.link.execute("SET", f"{mem.namespace}:semantic:1", 1)
    await mem.link.execute("SET", f"{mem.namespace}:episodic:1", 1)
    await seen.follower.fence()
    assert seen.keys == {f"{mem.namespace}:episodic:1".encode()}


async def pings(mem: memory.MemoryConnection) -> int:
    stats = (await mem.link.execute("INFO", "commandstats")).decode()
    line = next((line for line in stats.splitlines() if line.startswith("cmdstat_ping:")), "cmdstat_ping:calls=0,")
    return int(line.split("calls=")[1].split(",")[0])


async def test_callers_of_one_moment_share_a_ping_and_later_ones_get_the_next(own_redis: Any, follow: Any) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace="shared") as mem:
        seen = follow(mem.link, own_redis.url, "shared:episodic:")
        await seen.ready()
        before = await pings(mem)
        first = [asyncio.ensure_future(seen.follower.fence()) for _ in range(20)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        late = [asyncio.ensure_future(seen.follower.fence()) for _ in range(20)]
        await asyncio.gather(*first, *late)
        assert await pings(mem) - before in (2, 3)


async def test_a_caller_that_leaves_takes_nobody_along(servers: Any, mem: memory.MemoryConnection, follow: Any) -> None:
    prefix = f"{mem.namespace}:episodic:"
    seen = follow(mem.link, servers.redis_url, prefix)
    await seen.ready()
    for number in range(50):
        callers = [asyncio.ensure_future(seen.follower.fence()) for _ in range(4)]
        for _ in range(number % 4):
            await asyncio.sleep(0)
        callers[number % 3].cancel()
        key = f"{prefix}{number}"
        await mem.link.execute("SET", key, 1)
        callers.append(asyncio.ensure_future(seen.follower.fence()))
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [outcome for position, outcome in enumerate(outcomes) if position != number % 3] == [None] * 4
        assert key.encode() in seen.keys


async def test_a_killed_connection_is_told_and_comes_back(
    servers: Any, mem: memory.MemoryConnection, follow: Any
) -> None:
    seen = follow(mem.link, servers.redis_url, f"{mem.namespace}:episodic:")
    await seen.ready()
    assert seen.follower._connection is not None
    own = await seen.follower._connection.execute("CLIENT", "ID")
    waiting = asyncio.ensure_future(seen.follower.fence())
    await mem.link.execute("CLIENT", "KILL", "ID", own)
    outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
    assert outcome is None or isinstance(outcome, NotFollowingError)
    deadline = time.monotonic() + WAIT_S
    while not seen.losses:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
    await seen.ready()
    await mem.link.execute("SET", f"{mem.namespace}:episodic:1", 1)
    await seen.follower.fence()
    assert f"{mem.namespace}:episodic:1".encode() in seen.keys


async def test_a_halted_server_is_waited_for_until_the_deadline(own_redis: Any, follow: Any) -> None:
    link = RedisLink(own_redis.url, timeout_s=0.5)
    await link.open()
    try:
        seen = follow(link, own_redis.url, "halted:episodic:")
        await seen.ready()
        own_redis.signal(signal.SIGSTOP)
        begun = time.monotonic()
        callers = await asyncio.gather(*(seen.follower.fence() for _ in range(3)), return_exceptions=True)
        assert time.monotonic() - begun < 5
        assert all(isinstance(error, StoreUnavailableError) for error in callers), callers
        own_redis.signal(signal.SIGCONT)
        await seen.ready()
        await seen.follower.fence()
    finally:
        own_redis.signal(signal.SIGCONT)
        await link.close()


async def test_those_in_line_are_told_when_the_connection_ends_as_an_answer_comes(own_redis: Any, follow: Any) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace="line") as mem:
        seen = follow(mem.link, own_redis.url, "line:episodic:")
        await seen.ready()
        connection = seen.follower._connection
        assert connection is not None
        await seen.follower.fence()
        own_redis.signal(signal.SIGSTOP)
        first = asyncio.ensure_future(seen.follower.fence())
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(seen.follower.fence())
        await asyncio.sleep(0)
        own_redis.signal(signal.SIGCONT)
        # Both in one turn of the event loop, which first reads what has come: the answer, then the end.
        asyncio.get_running_loop().call_later(0.01, connection.abort)
        time.sleep(0.1)
        done, _ = await asyncio.wait([first, second], timeout=WAIT_S)
        assert done == {first, second}
        assert first.exception() is None
        assert isinstance(second.exception(), NotFollowingError)
        await seen.ready()
        await seen.follower.fence()


async def test_a_server_that_refuses_the_fence_is_asked_itself(own_redis: Any, follow: Any) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace="refused") as mem:
        await mem.link.execute("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all")
        url = own_redis.url.replace("unix://", "unix://reader:pw@")
        seen = follow(mem.link, url, "refused:episodic:")
        await seen.ready()
        await mem.link.execute("ACL", "SETUSER", "reader", "-ping")
        callers = [asyncio.ensure_future(seen.follower.fence()) for _ in range(3)]
        await asyncio.wait(callers, timeout=WAIT_S)
        assert [type(caller.exception()) for caller in callers] == [NotFollowingError] * 3
        await mem.link.execute("ACL", "SETUSER", "reader", "+ping")
        await seen.follower.fence()


# --- the server's clock --------------------------------------------------------------------------------------


async def test_a_busy_process_does_not_take_the_servers_clock_to_be_behind(
    servers: Any, mem: memory.MemoryConnection, follow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = mem.link.execute

    async def answered_late(*arguments: Any, **options: Any) -> Any:
        answer = await execute(*arguments, **options)
        if arguments[0] == "TIME":
            time.sleep(0.5)
        return answer

    monkeypatch.setattr(mem.link, "execute", answered_late)
    seen = follow(mem.link, servers.redis_url, f"{mem.namespace}:episodic:")
    await seen.ready()
    assert abs(seen.follower.clock_offset_ms) < 50


async def test_a_clock_that_is_set_is_noticed(
    servers: Any, mem: memory.MemoryConnection, follow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "CHECK_S", 0.05)
    seen = follow(mem.link, servers.redis_url, f"{mem.namespace}:episodic:")
    await seen.ready()
    for ahead_ms in (60_000, -60_000, 0):
        monkeypatch.setattr(follower_module, "_clock_ms", lambda ahead_ms=ahead_ms: time.time_ns() // 10**6 + ahead_ms)
        deadline = time.monotonic() + WAIT_S
        while abs(seen.follower.clock_offset_ms + ahead_ms) > 500:
            assert time.monotonic() < deadline, seen.follower.clock_offset_ms
            await asyncio.sleep(0.01)
    assert seen.follower.following


async def test_a_user_without_the_right_is_told_why(own_redis: Any, follow: Any, caplog: Any) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace="rights") as mem:
        await mem.link.execute("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-client|tracking")
    url = own_redis.url.replace("unix://", "unix://reader:pw@")
    async with memory.connect(redis_url=url, namespace="rights") as mem:
        seen = follow(mem.link, url, "rights:episodic:")
        deadline = time.monotonic() + WAIT_S
        while seen.follower.reason == "connecting":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        assert "tracking" in seen.follower.reason
        with pytest.raises(NotFollowingError, match="tracking"):
            await seen.follower.fence()
    assert sum("near cache is off" in record.message for record in caplog.records) == 1


async def test_a_follower_of_another_server_than_the_links_is_not_used(
    servers: Any, mem: memory.MemoryConnection, own_redis: Any, follow: Any
) -> None:
    seen = follow(mem.link, own_redis.url, f"{mem.namespace}:episodic:")
    deadline = time.monotonic() + WAIT_S
    while seen.follower.reason == "connecting":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    assert "different servers" in seen.follower.reason
    assert not seen.follower.following
