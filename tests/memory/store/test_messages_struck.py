"""Messages outlive the death of readers, senders and servers, and rights keep agents to their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

import memory
from memory import AgentMemoryMessage, MemoryConnection, Settings
from memory.errors import AccessDeniedError, StoreUnavailableError
from memory.store.acl import users
from tests.memory.store.telling import told

LEASE = timedelta(seconds=1)
DEADLINE_S = 30.0


@pytest.fixture
async def struck(own_redis: Any, namespace: str) -> AsyncIterator[MemoryConnection]:
    """A memory on a Redis that may be killed."""
    settings = Settings(redis_timeout_s=1.0)
    async with memory.connect(redis_url=own_redis.url, namespace=namespace, settings=settings) as connection:
        yield connection


async def test_reading_and_sending_go_on_after_the_server_was_killed(struck: MemoryConnection, own_redis: Any) -> None:
    found: list[str] = []

    async def read() -> None:
        async with struck.messages.read("hold", lease=LEASE) as reader:
            async for message in reader:
                found.append(message.insight)
                if message.insight == "end":
                    await reader.acknowledge()
                    return

    async def send(message: AgentMemoryMessage) -> None:
        while True:
            try:
                await struck.messages.send(message)
            except StoreUnavailableError:
                continue
            return

    reading = asyncio.create_task(read())
    async with asyncio.timeout(DEADLINE_S):
        for number in range(40):
            if number in (10, 25):
                own_redis.kill()
                await asyncio.sleep(0.05)
                await asyncio.to_thread(own_redis.start)
            await send(told(str(number)))
        await send(told("end"))
        await reading
    assert found == [*(str(number) for number in range(40)), "end"]


async def test_a_reader_raises_when_the_server_is_away_for_longer_than_its_patience(
    struck: MemoryConnection, own_redis: Any
) -> None:
    await struck.messages.send(told("before"))
    reader = struck.messages.read("hold", patience=timedelta(0))
    assert (await anext(reader)).insight == "before"
    own_redis.kill()
    with pytest.raises(StoreUnavailableError):
        await anext(reader)
    await asyncio.to_thread(own_redis.start)
    await struck.messages.send(told("after"))
    async with asyncio.timeout(DEADLINE_S):
        assert (await anext(reader)).insight == "after"
    await reader.close()


async def test_nothing_is_lost_whatever_is_killed_cancelled_or_raised(own_redis: Any, namespace: str) -> None:
    rng = random.Random(1)
    settings = Settings(redis_timeout_s=1.0)
    wanted = {"hold": {str(number) for number in range(150)}}
    wanted["momentum"] = {text for text in wanted["hold"] if int(text) % 3}
    found: dict[str, set[str]] = {"hold": set(), "momentum": set()}

    async def some(mem: MemoryConnection, agent_id: str) -> None:
        """Read for a while, in small steps that are cancelled, now and then with an error."""
        async with mem.messages.read(agent_id, lease=LEASE, batch=rng.choice([1, 5, 50])) as reader:
            for _ in range(rng.randint(1, 100)):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(rng.choice([0.001, 0.01, 0.1])):
                        found[agent_id].add((await anext(reader)).insight)
                if rng.random() < 0.02:
                    raise ZeroDivisionError

    async def read(mem: MemoryConnection, agent_id: str) -> None:
        while found != wanted:
            with contextlib.suppress(ZeroDivisionError, StoreUnavailableError):
                await some(mem, agent_id)

    async def strike() -> None:
        for _ in range(3):
            await asyncio.sleep(rng.uniform(0.05, 0.3))
            own_redis.kill()
            await asyncio.to_thread(own_redis.start)

    async with (
        memory.connect(redis_url=own_redis.url, namespace=namespace, settings=settings) as one,
        memory.connect(redis_url=own_redis.url, namespace=namespace, settings=settings) as other,
        asyncio.timeout(2 * DEADLINE_S),
        asyncio.TaskGroup() as tasks,
    ):
        for mem in (one, other):
            for agent_id in found:
                tasks.create_task(read(mem, agent_id))
        tasks.create_task(strike())
        for number in range(150):
            recipients = ["all"] if number % 3 else ["hold"]
            message = told(str(number), sender=f"sender-{number % 4}", recipient_agent_ids=recipients)
            while True:
                try:
                    await rng.choice([one, other]).messages.send(message)
                except StoreUnavailableError:
                    continue
                break
            await asyncio.sleep(rng.choice([0, 0.001, 0.01]))


async def test_an_error_of_the_block_is_not_hidden_by_a_server_that_is_away(
    struck: MemoryConnection, own_redis: Any
) -> None:
    await struck.messages.send(told("before"))
    reader = struck.messages.read("hold", wait=False)
    await anext(reader)
    own_redis.kill()
    await reader.__aexit__(ZeroDivisionError, ZeroDivisionError(), None)  # Raises nothing of its own.
    with pytest.raises(StopAsyncIteration):
        await anext(reader)
    await asyncio.to_thread(own_redis.start)


async def test_a_reader_that_does_not_wait_does_not_wait_for_the_server_either(
    struck: MemoryConnection, own_redis: Any
) -> None:
    reader = struck.messages.read("hold", wait=False)
    own_redis.kill()
    with pytest.raises(StoreUnavailableError):
        async with asyncio.timeout(10 * struck.link.timeout_s):
            await anext(reader)
    await asyncio.to_thread(own_redis.start)
    await struck.messages.send(told("after"))
    assert [message.insight async for message in reader] == ["after"]


CHILD = """
    import asyncio, sys, memory
    from datetime import timedelta

    async def main(url, namespace):
        async with memory.connect(redis_url=url, namespace=namespace) as mem:
            reader = mem.messages.read("hold", batch=5, lease=timedelta(seconds=1))
            for _ in range(3):
                print((await anext(reader)).insight, flush=True)
            await asyncio.sleep(60)

    asyncio.run(main(*sys.argv[1:]))
"""


async def test_what_a_killed_process_had_in_hand_arrives_again(mem: MemoryConnection, servers: Any) -> None:
    await mem.messages.send_many([told(str(number)) for number in range(8)])
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", textwrap.dedent(CHILD), servers.redis_url, mem.namespace),
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        assert [(await child.stdout.readline()).decode().strip() for _ in range(3)] == ["0", "1", "2"]
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()
    found: dict[str, int] = {}
    async with asyncio.timeout(DEADLINE_S), mem.messages.read("hold", lease=LEASE) as reader:
        while len(found) < 6:
            message = await anext(reader)
            assert reader.current is not None
            found[message.insight] = reader.current.deliveries
        await reader.acknowledge()
    # Two were acknowledged; of the five in hand the others come for the second time, and the rest as if nothing was.
    assert found == {"5": 1, "6": 1, "7": 1, "2": 2, "3": 2, "4": 2}


async def test_an_acknowledgement_that_was_lost_with_the_server_hands_nothing_out_twice(
    mem: MemoryConnection,
) -> None:
    await mem.messages.send_many([told("one"), told("two")])
    async with mem.messages.read("hold", wait=False, lease=LEASE) as reader:
        assert [message.insight async for message in reader] == ["one", "two"]
        # A server that lost its last second has the mailbox as it was before.
        await mem.messages.forget_reader("hold")
        assert [message.insight async for message in reader] == []
        assert reader.report().handled == 2


async def test_rights_keep_an_agent_to_its_own_stream_and_mailbox(own_redis: Any, namespace: str) -> None:
    *_, hold = users(namespace, ["hold"])
    async with memory.connect(redis_url=own_redis.url, namespace=namespace) as admin:
        await admin.messages.send(told("storm"))
        await admin.link.execute("XADD", admin.keys.messages("regime", "live"), "*", "c", "no message")
        await admin.link.execute("ACL", "SETUSER", "hold", "reset", "on", ">pw", *hold.rules())
        url = own_redis.url.replace("unix://", "unix://hold:pw@")
        async with memory.connect(redis_url=url, namespace=namespace) as mem:
            assert [message.insight async for message in mem.messages.read("hold", wait=False)] == ["storm"]
            assert await admin.dead_letters.count() == 1
            await mem.messages.send(told("mine", sender="hold"))
            with pytest.raises(AccessDeniedError):
                await mem.messages.send(told("not mine", sender="regime"))
            with pytest.raises(AccessDeniedError):
                await anext(mem.messages.read("momentum", wait=False))
            reader = mem.messages.read("hold")
            waiting = asyncio.create_task(anext(reader))  # type: ignore[arg-type]
            await asyncio.sleep(0.1)
            await admin.messages.send(told("again"))
            async with asyncio.timeout(DEADLINE_S):
                assert (await waiting).insight == "again"
            await reader.close()
        assert [message.insight async for message in admin.messages.read("momentum", wait=False)] == [
            "storm",
            "mine",
            "again",
        ]
