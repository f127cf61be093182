"""What lies in the streams of a namespace is counted, and nothing of another one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import memory
from memory import AgentMemoryMessage, MemoryConnection
from memory.store.tally import Tally, tally


async def test_an_empty_namespace_counts_nothing(mem: MemoryConnection) -> None:
    assert await tally(mem.link, mem.keys) == Tally()


async def test_everything_in_streams_is_counted(mem: MemoryConnection, make: Callable[..., Any], servers: Any) -> None:
    now = datetime.now(UTC)
    await mem.inbox.append_many([make(minute) for minute in range(3)])
    await mem.inbox.append(make(9, agent_id="trend"))
    for sender in ("momentum", "trend"):
        await mem.messages.send(AgentMemoryMessage(sender_agent_id=sender, message_type="WARNING", insight="quiet"))
    async with memory.connect(redis_url=servers.redis_url, namespace=f"{mem.namespace}x") as other:
        await other.inbox.append(make(1))
        found = await tally(mem.link, mem.keys)
        assert (await tally(other.link, other.keys)).inboxes == {"momentum": 1}
    assert found.inboxes == {"momentum": 3, "trend": 1}
    assert found.oldest_entry is not None
    assert abs(found.oldest_entry - now) < timedelta(minutes=1)
    assert (found.messages, found.message_streams, found.mailboxes, found.decisions) == (2, 2, 0, 0)


async def test_a_drained_inbox_does_not_wait(mem: MemoryConnection, make: Callable[..., Any]) -> None:
    await mem.inbox.append(make(1))
    await mem.inbox.acknowledge(await mem.inbox.read("drain-1"))
    found = await tally(mem.link, mem.keys)
    assert (found.inboxes, found.oldest_entry) == ({}, None)
