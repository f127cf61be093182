"""Messages reach those they are for, once, in order, and wake those who wait."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from memory import AgentMemoryMessage, MemoryConnection
from memory.errors import InvalidQueryError, InvalidRecordError
from tests.memory.store.telling import MINUTE, NOON, heard, told

# --- to whom ---------------------------------------------------------------------------------------------------


async def test_a_broadcast_reaches_everybody_but_its_sender(mem: MemoryConnection) -> None:
    await mem.messages.send(told("storm"))
    assert await heard(mem, "momentum") == ["storm"]
    assert await heard(mem, "hold") == ["storm"]
    assert await heard(mem, "regime") == []


async def test_an_addressed_message_reaches_those_it_names(mem: MemoryConnection) -> None:
    await mem.messages.send(told("for two", recipient_agent_ids=["hold", "mom"]))
    assert await heard(mem, "hold") == ["for two"]
    assert await heard(mem, "mom") == ["for two"]
    assert await heard(mem, "momentum") == []


async def test_messages_come_in_the_order_of_time_over_all_senders(mem: MemoryConnection) -> None:
    for number in range(6):
        await mem.messages.send(told(f"m{number}", sender=f"sender-{number % 3}"))
        await asyncio.sleep(0.002)
    assert await heard(mem, "hold") == [f"m{number}" for number in range(6)]


async def test_many_messages_of_many_senders_are_all_read(mem: MemoryConnection) -> None:
    messages = [told(f"{number}", sender=f"sender-{number % 7}") for number in range(700)]
    await mem.messages.send_many(messages)
    assert sorted(await heard(mem, "hold", batch=16), key=int) == [str(number) for number in range(700)]


async def test_a_reader_hears_what_is_important_to_it(mem: MemoryConnection) -> None:
    await mem.messages.send_many([told("low", importance=0.2), told("high", importance=0.8)])
    pattern = AgentMemoryMessage(sender_agent_id="pattern", message_type="PATTERN", insight="again", importance=0.9)
    await mem.messages.send(pattern)
    assert await heard(mem, "hold", min_importance=0.5, message_types=["WARNING"]) == ["high"]
    assert await heard(mem, "hold") == []
    assert sorted(await heard(mem, "hold", reader="everything")) == ["again", "high", "low"]


# --- once ------------------------------------------------------------------------------------------------------


async def test_the_same_message_sent_again_is_heard_once(mem: MemoryConnection) -> None:
    message = told("storm")
    first = await mem.messages.send(message)
    assert await mem.messages.send(message) == first
    assert await heard(mem, "hold") == ["storm"]
    await mem.messages.send(message)
    assert await heard(mem, "hold") == []


async def test_an_agent_that_was_away_reads_what_it_missed(mem: MemoryConnection) -> None:
    await mem.messages.send(told("before"))
    assert await heard(mem, "hold") == ["before"]
    await mem.messages.send(told("while away"))
    await mem.messages.send(told("of a newcomer", sender="newcomer"))
    assert sorted(await heard(mem, "hold")) == ["of a newcomer", "while away"]


async def test_a_new_reader_begins_where_it_is_told(mem: MemoryConnection) -> None:
    await mem.messages.send(told("old", timestamp=NOON))
    await mem.messages.send(told("new", timestamp=NOON + 2 * MINUTE))
    assert await heard(mem, "hold", start=NOON + MINUTE) == ["new"]


async def test_a_rewound_reader_hears_again(mem: MemoryConnection) -> None:
    await mem.messages.send(told("old", timestamp=NOON))
    await mem.messages.send(told("new", timestamp=NOON + 2 * MINUTE))
    assert await heard(mem, "hold") == ["old", "new"]
    await mem.messages.rewind("hold", NOON + MINUTE)
    assert await heard(mem, "hold") == ["new"]
    assert await mem.messages.forget_reader("hold")
    assert not await mem.messages.forget_reader("hold")
    assert await heard(mem, "hold") == ["old", "new"]


async def test_two_readers_of_an_agent_share_its_messages(mem: MemoryConnection) -> None:
    await mem.messages.send_many([told(str(number)) for number in range(20)])
    async with mem.messages.read("hold", wait=False, batch=3) as one, mem.messages.read("hold", wait=False) as other:
        first = (await anext(one)).insight
        rest = [message.insight async for message in other]
        mine = [first] + [message.insight async for message in one]
    assert sorted(mine + rest, key=int) == [str(number) for number in range(20)]
    assert len(mine) == 3


async def test_what_is_not_acknowledged_is_handed_back_at_the_end(mem: MemoryConnection) -> None:
    await mem.messages.send_many([told("one"), told("two")])
    async with mem.messages.read("hold", wait=False) as reader:
        assert (await anext(reader)).insight == "one"
    assert await heard(mem, "hold") == ["one", "two"]


async def test_a_message_that_was_acknowledged_by_name_is_not_handed_back(mem: MemoryConnection) -> None:
    await mem.messages.send_many([told("one"), told("two")])
    async with mem.messages.read("hold", wait=False) as reader:
        await anext(reader)
        await reader.acknowledge()
    assert await heard(mem, "hold") == ["two"]


async def test_a_reader_that_is_dropped_leaves_its_messages_to_the_next(mem: MemoryConnection) -> None:
    await mem.messages.send(told("one"))
    lease = timedelta(seconds=1)
    async for message in mem.messages.read("hold", lease=lease):
        assert message.insight == "one"
        break
    async with mem.messages.read("hold", lease=lease) as reader:
        async with asyncio.timeout(5):
            assert (await anext(reader)).insight == "one"
        assert reader.current is not None
        assert reader.current.deliveries == 2
        assert reader.report().again == 1


async def test_a_lease_is_renewed_while_a_message_is_worked_on(mem: MemoryConnection) -> None:
    await mem.messages.send(told("long"))
    async with mem.messages.read("hold", lease=timedelta(seconds=1)) as reader:
        await anext(reader)
        await asyncio.sleep(1.6)
        assert await heard(mem, "hold") == []
        await reader.acknowledge()


# --- waiting ---------------------------------------------------------------------------------------------------


async def test_readers_that_wait_are_woken(mem: MemoryConnection) -> None:
    async def first(agent_id: str) -> str:
        async with mem.messages.read(agent_id) as reader:
            return (await anext(reader)).insight

    waiting = [asyncio.create_task(first(agent)) for agent in ("hold", "momentum", "random")]
    await asyncio.sleep(0.1)
    await mem.messages.send(told("storm"))
    async with asyncio.timeout(2):
        assert await asyncio.gather(*waiting) == ["storm"] * 3


async def test_a_wait_that_is_cancelled_loses_nothing(mem: MemoryConnection) -> None:
    async with mem.messages.read("hold") as reader:
        for _ in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.002):
                    await anext(reader)
        sending = asyncio.create_task(mem.messages.send_many([told(str(number)) for number in range(30)]))
        found: list[str] = []
        while len(found) < 30:
            try:
                async with asyncio.timeout(0.001):
                    found.append((await anext(reader)).insight)
            except TimeoutError:
                continue
        await sending
    assert found == [str(number) for number in range(30)]
    assert await heard(mem, "hold") == ["29"]  # The last one was not asked beyond, so it was not finished.


async def test_a_reader_is_iterated_by_one_task(mem: MemoryConnection) -> None:
    async with mem.messages.read("hold") as reader:
        waiting = asyncio.create_task(anext(reader))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        with pytest.raises(InvalidQueryError, match="two tasks"):
            await anext(reader)
        waiting.cancel()


# --- what cannot be asked or sent ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("agent_id", "a b"),
        ("agent_id", "all"),
        ("reader", ""),
        ("run_id", None),
        ("message_types", []),
        ("message_types", "WARNING"),
        ("message_types", ["GOSSIP"]),
        ("min_importance", 2),
        ("batch", 0),
        ("start", datetime(2021, 6, 17)),
        ("lease", timedelta(0)),
        ("patience", -MINUTE),
    ],
)
async def test_an_argument_that_cannot_be_used_is_named(mem: MemoryConnection, argument: str, value: Any) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        mem.messages.read(**{"agent_id": "hold", argument: value})
    assert caught.value.argument == argument


async def test_nothing_is_sent_where_one_of_several_is_malformed(mem: MemoryConnection) -> None:
    with pytest.raises(InvalidRecordError):
        await mem.messages.send_many([told("good"), told("bad", importance=7)])
    assert await heard(mem, "hold") == []
