"""Live messages and those of replays: none is heard before its time, and runs do not hear one another."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import memory
from memory import MemoryConnection, ReplayClock, replaying
from memory.errors import InvalidQueryError, InvalidRecordError
from memory.records import to_ms
from memory.store.message_mailbox import Mailbox, Taken
from memory.store.message_reader import REPLAY_PAUSE_S
from tests.memory.store.telling import MINUTE, NOON, heard, replayed, told


async def test_a_live_message_from_the_future_is_refused(mem: MemoryConnection) -> None:
    with pytest.raises(InvalidRecordError, match="server's clock") as caught:
        await mem.messages.send(told("prophecy", timestamp=datetime.now(UTC) + MINUTE))
    assert caught.value.field == "timestamp"
    await mem.messages.send(told("a clock that is fast", timestamp=datetime.now(UTC) + timedelta(seconds=2)))
    assert await heard(mem, "hold") == ["a clock that is fast"]


async def test_a_live_message_from_the_future_that_got_in_all_the_same_is_a_dead_letter(mem: MemoryConnection) -> None:
    await mem.messages.send(told("now"))
    message = memory.messages.validate_message(told("prophecy", timestamp=datetime.now(UTC) + MINUTE))
    assert message.timestamp is not None
    content = memory.messages.pack_message(message)
    fields = ("n", 2, "t", to_ms(message.timestamp), "i", 1, "k", "WARNING", "to", "*", "c", content)
    await mem.link.execute("XADD", mem.keys.messages("regime", "live"), "*", *fields)
    assert await heard(mem, "hold") == ["now"]
    assert [letter.field for letter in await mem.dead_letters.read()] == ["timestamp"]


async def test_a_replay_hears_what_was_known_at_its_present_and_waits_for_nothing(mem: MemoryConnection) -> None:
    await mem.messages.send_many([replayed(f"m{minute}", minute) for minute in range(4)])
    with replaying(ReplayClock(NOON)) as clock:
        reader = mem.messages.read("hold", run_id="night-1")
        assert [message.insight async for message in reader] == ["m0"]
        clock.now = NOON + 2 * MINUTE
        assert [message.insight async for message in reader] == ["m1", "m2"]
        assert [message.insight async for message in reader] == []
        clock.now = NOON + 9 * MINUTE
        assert [message.insight async for message in reader] == ["m3"]


async def test_a_reader_that_waits_in_a_replay_looks_now_and_then_until_the_clock_has_moved(
    mem: MemoryConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[datetime | None] = []
    take = Mailbox.take

    async def counted(self: Mailbox, *arguments: Any, bound: datetime | None = None, **options: Any) -> Taken:
        looks.append(bound)
        return await take(self, *arguments, bound=bound, **options)

    monkeypatch.setattr(Mailbox, "take", counted)
    await mem.messages.send(replayed("later", 2))
    clock = ReplayClock(NOON + MINUTE)
    with replaying(clock):
        reader = mem.messages.read("hold", run_id="night-1", wait=True)
        begun = time.monotonic()
        waiting = asyncio.create_task(anext(reader))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        assert len(looks) <= (time.monotonic() - begun) / REPLAY_PAUSE_S + 2
        clock.now = NOON + 2 * MINUTE
        async with asyncio.timeout(10):
            assert (await waiting).insight == "later"
        await reader.close()


async def test_a_replay_hears_in_the_order_of_its_own_time(mem: MemoryConnection) -> None:
    await mem.messages.send(replayed("later", 2, sender="a"))
    await mem.messages.send(replayed("earlier", 1, sender="b"))
    with replaying(ReplayClock(NOON + 5 * MINUTE)):
        reader = mem.messages.read("hold", run_id="night-1")
        assert [message.insight async for message in reader] == ["earlier", "later"]


async def test_a_replay_that_is_taken_back_does_not_see_what_it_had_in_hand(mem: MemoryConnection) -> None:
    await mem.messages.send(replayed("m2", 2))
    with replaying(ReplayClock(NOON + 2 * MINUTE)) as clock:
        async with mem.messages.read("hold", run_id="night-1") as reader:
            await anext(reader)
        clock.now = NOON
        assert [message async for message in mem.messages.read("hold", run_id="night-1")] == []


async def test_runs_do_not_hear_one_another(mem: MemoryConnection) -> None:
    await mem.messages.send(told("live"))
    await mem.messages.send(replayed("night-1", 0))
    await mem.messages.send(replayed("night-2", 0, run_id="night-2"))
    assert await heard(mem, "hold") == ["live"]
    assert await heard(mem, "hold", run_id="night-1") == ["night-1"]


async def test_a_replay_neither_sends_nor_reads_live_messages(mem: MemoryConnection) -> None:
    with replaying(ReplayClock(NOON)):
        with pytest.raises(InvalidRecordError, match="inside a replay is live"):
            await mem.messages.send(told("past", timestamp=NOON))
        with pytest.raises(InvalidQueryError, match="does not read live"):
            await anext(mem.messages.read("hold"))


async def test_a_replay_dates_messages_by_its_clock_and_sends_none_from_its_future(mem: MemoryConnection) -> None:
    with replaying(ReplayClock(NOON)):
        message = told("now", source="replay", run_id="night-1")
        await mem.messages.send(message)
        assert message.timestamp == NOON
        with pytest.raises(InvalidRecordError, match="present of the replay"):
            await mem.messages.send(replayed("later", 1))


async def test_what_a_replay_leaves_expires(mem: MemoryConnection) -> None:
    await mem.messages.send(replayed("m", 0))
    await heard(mem, "hold", run_id="night-1")
    keys = mem.keys
    names = [keys.messages("regime", "night-1"), keys.message_ids("regime", "night-1")]
    names += [keys.message_senders("night-1"), keys.mailbox("hold", "night-1", "agent")]
    week_ms = 7 * 86_400_000
    for name in names:
        assert week_ms - 60_000 < await mem.link.execute("PTTL", name) <= week_ms
