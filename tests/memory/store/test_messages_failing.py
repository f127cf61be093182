"""Messages whose handling fails, and entries that are none: tried again, and kept with the reason in the end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from memory import AgentMemoryMessage, MemoryConnection, ReplayClock, replaying
from memory.store.message_reader import MAX_DELIVERIES
from tests.memory.store.telling import MINUTE, NOON, heard, replayed, told


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory.store.message_reader.RETRY_DELAY", timedelta(0))


async def test_a_handler_that_fails_gets_the_message_again_and_at_last_it_is_a_dead_letter(
    mem: MemoryConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    await mem.messages.send_many([told("bad"), told("good")])
    calls: list[str] = []

    async def handler(message: AgentMemoryMessage) -> None:
        calls.append(message.insight)
        if message.insight == "bad":
            raise ValueError("no such pattern")

    report = await mem.messages.read("hold", wait=False).handle(handler)
    assert sorted(calls) == ["bad"] * MAX_DELIVERIES + ["good"]
    assert (report.handled, report.failed, report.dead) == (1, MAX_DELIVERIES - 1, 1)
    (letter,) = await mem.dead_letters.read(agent_id="hold")
    assert "ValueError: no such pattern" in letter.reason
    assert await heard(mem, "momentum") == ["bad", "good"]


async def test_a_dead_message_is_handed_out_again_once_its_cause_is_gone(
    mem: MemoryConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    await mem.messages.send(told("bad"))

    async def handler(_: AgentMemoryMessage) -> None:
        raise ValueError("no such pattern")

    await mem.messages.read("hold", wait=False).handle(handler)
    assert await mem.dead_letters.replay() == 0  # It is no experience.
    assert await mem.messages.redeliver() == 1
    assert await mem.dead_letters.count() == 0
    assert await heard(mem, "hold") == ["bad"]
    assert await heard(mem, "hold") == []


async def test_a_dead_message_of_a_replay_is_not_heard_before_its_time(
    mem: MemoryConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    await mem.messages.send(replayed("bad", 2))

    async def handler(_: AgentMemoryMessage) -> None:
        raise ValueError("no such pattern")

    await mem.messages.read("hold", run_id="night-1", wait=False).handle(handler)
    assert await mem.messages.redeliver() == 1
    with replaying(ReplayClock(NOON)) as clock:
        reader = mem.messages.read("hold", run_id="night-1")
        assert [message.insight async for message in reader] == []
        clock.now = NOON + 2 * MINUTE
        assert [message.insight async for message in reader] == ["bad"]


async def test_an_error_of_the_block_counts_against_its_message(mem: MemoryConnection) -> None:
    await mem.messages.send(told("bad"))
    for _ in range(MAX_DELIVERIES):
        await mem.link.execute("ZADD", mem.keys.mailbox_leases("hold", "live", "agent"), "XX", 0, await member(mem))
        reader = mem.messages.read("hold", wait=False)
        await anext(reader)
        await reader.__aexit__(ZeroDivisionError, ZeroDivisionError("nothing to divide by"), None)
    assert [letter.field for letter in await mem.dead_letters.read(agent_id="hold")] == ["handler"]


async def member(mem: MemoryConnection) -> str:
    """The name of the first message of the stream in mailboxes."""
    ((entry, _),) = await mem.link.execute("XRANGE", mem.keys.messages("regime", "live"), "-", "+")
    return f"regime:{entry.decode()}"


@pytest.mark.parametrize(
    "fields",
    [
        ("c", b"\x00rubbish"),
        ("n", "x", "t", "y", "i", "z"),
        ("n", 2, "t", 0, "i", 1, "k", "WARNING", "to", "*", "c", b""),
    ],
)
async def test_an_entry_that_is_no_message_is_a_dead_letter_once(mem: MemoryConnection, fields: Any) -> None:
    await mem.messages.send(told("one"))
    await mem.link.execute("XADD", mem.keys.messages("regime", "live"), "*", *fields)
    await mem.messages.send(told("two"))
    assert await heard(mem, "hold") == ["one", "two"]
    assert await heard(mem, "momentum") == ["one", "two"]
    (letter,) = await mem.dead_letters.read()
    assert (letter.agent_id, letter.origin) == ("regime", "messages")
    assert await mem.messages.redeliver() == 0


async def test_nobody_speaks_in_anothers_name(mem: MemoryConnection) -> None:
    await mem.messages.send(told("true", sender="regime"))
    ((_, pairs),) = await mem.link.execute("XRANGE", mem.keys.messages("regime", "live"), "-", "+")
    await mem.messages.send(told("begins", sender="mallory"))
    await mem.link.execute("XADD", mem.keys.messages("mallory", "live"), "*", *pairs)
    assert sorted(await heard(mem, "hold")) == ["begins", "true"]
    (letter,) = await mem.dead_letters.read()
    assert (letter.agent_id, letter.field) == ("mallory", "sender_agent_id")
