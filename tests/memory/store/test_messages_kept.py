"""What is kept of messages, within bounds: who falls behind is told, and the past can be looked at."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import memory
from memory import MemoryConnection, ReplayClock, Settings, replaying
from memory.errors import InvalidQueryError
from memory.store.message_mailbox import Missed
from tests.memory.store.telling import MINUTE, NOON, heard, told


@pytest.fixture
async def small(servers: Any, namespace: str) -> AsyncIterator[MemoryConnection]:
    """A memory that keeps three messages of an agent."""
    async with memory.connect(
        redis_url=servers.redis_url, namespace=namespace, settings=Settings(message_limit=3)
    ) as connection:
        yield connection


# --- bounds ----------------------------------------------------------------------------------------------------


async def test_a_reader_that_begins_late_passes_over_what_came_before_and_misses_nothing(
    small: MemoryConnection,
) -> None:
    await small.messages.send_many([told(str(number)) for number in range(10)])
    later = datetime.now(UTC) + timedelta(seconds=2 * small.settings.message_clock_skew_s)
    reader = small.messages.read("hold", wait=False, start=later)
    assert [message.insight async for message in reader] == []
    ends = await small.link.execute("HGETALL", small.keys.mailbox("hold", "live", "agent"))
    assert ends[b"at:regime"].endswith(b" 10")
    await small.messages.send(told("named"))
    assert [message.insight async for message in reader] == []  # Dated before the reader's beginning.
    assert reader.report().missed == {}


async def test_a_slow_reader_is_told_how_much_it_missed(
    small: MemoryConnection, caplog: pytest.LogCaptureFixture
) -> None:
    await small.messages.send(told("first"))
    assert await heard(small, "hold") == ["first"]
    await small.messages.send_many([told(str(number)) for number in range(10)])
    missed: list[Missed] = []
    with caplog.at_level(logging.WARNING, "memory.store.message_reader"):
        assert await heard(small, "hold", on_missed=missed.append) == ["7", "8", "9"]
    assert missed == [Missed("regime", 7, "dropped")]
    assert "missed up to 7 messages of regime" in caplog.text
    (box,) = await small.messages.mailboxes()
    assert (box.missed, box.handled, box.waiting, box.in_hand) == (7, 4, 0, 0)


async def test_a_newcomers_dropped_messages_are_told_too(small: MemoryConnection) -> None:
    assert await heard(small, "hold") == []
    await small.messages.send_many([told(str(number)) for number in range(5)])
    reader = small.messages.read("hold", wait=False)
    assert [message.insight async for message in reader] == ["2", "3", "4"]
    assert reader.report().missed == {"regime": 2}


async def test_a_reader_that_begins_has_missed_nothing(small: MemoryConnection) -> None:
    await small.messages.send_many([told(str(number)) for number in range(10)])
    reader = small.messages.read("hold", wait=False)
    assert [message.insight async for message in reader] == ["7", "8", "9"]
    assert reader.report().missed == {}


async def test_a_message_that_is_dropped_while_in_hand_is_told(small: MemoryConnection) -> None:
    await small.messages.send(told("first"))
    async with small.messages.read("hold", wait=False) as reader:
        await anext(reader)
        await small.messages.send_many([told(str(number)) for number in range(3)])
    reader = small.messages.read("hold", wait=False)
    assert [message.insight async for message in reader] == ["0", "1", "2"]
    assert reader.report().missed == {"regime": 1}


async def test_a_stream_stays_within_its_bounds(small: MemoryConnection) -> None:
    messages = [told(str(number)) for number in range(10)]
    await small.messages.send_many(messages)
    (stream,) = await small.messages.streams()
    assert (stream.sender_agent_id, stream.run_id, stream.length) == ("regime", "live", 3)
    assert await small.link.execute("HLEN", small.keys.message_ids("regime", "live")) == 3


async def test_old_messages_expire_and_that_is_told(servers: Any, namespace: str) -> None:
    settings = Settings(message_retention_days=0.5 / 86_400)
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace, settings=settings) as mem:
        assert await heard(mem, "hold") == []
        await mem.messages.send(told("old"))
        await mem.messages.send(told("for another", recipient_agent_ids=["momentum"]))
        await asyncio.sleep(0.6)
        reader = mem.messages.read("hold", wait=False)
        assert [message.insight async for message in reader] == []
        assert reader.report().missed == {"regime": 1}
        await mem.messages.send(told("new"))
        assert await heard(mem, "hold") == ["new"]
        assert [stream.length for stream in await mem.messages.streams()] == [1]


# --- looking back ----------------------------------------------------------------------------------------------


async def test_the_past_shows_what_was_known_then(mem: MemoryConnection) -> None:
    await mem.messages.send(told("early", timestamp=NOON))
    between = datetime.now(UTC)
    await asyncio.sleep(0.005)
    await mem.messages.send(told("late", timestamp=NOON))
    now = await mem.messages.history()
    assert [message.insight for message in now.messages] == ["early", "late"]
    assert now.complete
    then = await mem.at(between).messages.history()
    assert [message.insight for message in then.messages] == ["early"]
    assert (await mem.at(NOON).messages.history()).messages == ()
    with pytest.raises(InvalidQueryError, match="locked"):
        await mem.at(NOON).messages.history(as_of=between)
    with replaying(ReplayClock(NOON)), pytest.raises(InvalidQueryError, match="see the future"):
        await mem.messages.history()


async def test_history_is_filtered_and_says_where_it_is_not_whole(small: MemoryConnection) -> None:
    messages = [told(str(number), timestamp=NOON + number * MINUTE) for number in range(5)]
    await small.messages.send_many(messages)
    await small.messages.send(told("named", sender="pattern", timestamp=NOON, recipient_agent_ids=["hold"]))
    whole = await small.messages.history("momentum")
    assert ([message.insight for message in whole.messages], whole.complete) == (["2", "3", "4"], False)
    since = await small.messages.history("momentum", since=NOON + 3 * MINUTE)
    assert ([message.insight for message in since.messages], since.complete) == (["3", "4"], True)
    newest = await small.messages.history("hold", since=NOON + 3 * MINUTE, limit=1)
    assert ([message.insight for message in newest.messages], newest.complete) == (["4"], False)


async def test_history_of_a_time_whose_messages_were_all_dropped_is_not_whole(small: MemoryConnection) -> None:
    await small.messages.send(told("dropped", timestamp=NOON))
    between = datetime.now(UTC)
    await asyncio.sleep(0.005)
    await small.messages.send_many([told(str(number), timestamp=NOON) for number in range(3)])
    then = await small.messages.history(as_of=between)
    assert (then.messages, then.complete) == ((), False)


async def test_doctor_says_who_is_behind(small: MemoryConnection) -> None:
    found = {check.name: check for check in await small.health()}
    assert found["messages"].seen == "none"
    await heard(small, "hold")
    await small.messages.send_many([told(str(number)) for number in range(3)])
    check = {check.name: check for check in await small.health()}["messages"]
    assert (check.status, "furthest behind: hold, 3" in check.seen) == ("warn", True)
    await heard(small, "hold")
    check = {check.name: check for check in await small.health()}["messages"]
    assert check.status == "ok"
