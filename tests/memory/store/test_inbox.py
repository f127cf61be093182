"""The inbox loses nothing and duplicates nothing; what cannot be stored ends in the dead letters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import memory
from memory import Action, MemoryConnection, Side
from memory.errors import InvalidQueryError, InvalidRecordError, ServerUnsuitableError
from memory.store.dead_letters import Refusal
from memory.store.inbox import MAX_DELIVERIES

AT_ONCE = timedelta(0)


async def drain(mem: MemoryConnection, consumer: str = "drain-1", **arguments: Any) -> int:
    """What the recording flow does, without an encoder."""
    stored = 0
    while entries := await mem.inbox.read(consumer, **arguments):
        good, refused = [], []
        for entry in entries:
            try:
                good.append(entry.to_experience())
            except InvalidRecordError as error:
                refused.append((entry, error))
        await mem.inbox.reject(refused)
        stored += len((await mem.episodic.add_many(good)).stored)
        await mem.inbox.acknowledge(entries)
    return stored


async def test_an_experience_goes_through_the_inbox_unchanged(mem: MemoryConnection, make: Any, same: Any) -> None:
    record = make(1)
    await mem.inbox.append(record)
    assert await drain(mem) == 1
    assert await mem.inbox.length() == {"momentum": 0}
    memory_id = (await mem.episodic.add_many([record])).duplicates[0]
    found = await mem.episodic.get(memory_id)
    assert found is not None
    assert same(found, record)


async def test_plain_fields_are_enough(mem: MemoryConnection, build: Any) -> None:
    await mem.inbox.append(
        {
            "agent_id": "momentum",
            "timestamp": "2021-06-17T00:00:00+00:00",
            "state_vector": build["vector"](0).tolist(),
            "action": {"side": "BUY", "size": 0.5},
            "reward": np.float32(0.5),
            "product_id": "BTC-USDT",
            "regime": "QUIET",
            "other_agent_actions": {"hold": ["HOLD", 0.0]},
            "features": {"trend": 1},
        }
    )
    (entry,) = await mem.inbox.read("drain-1")
    record = entry.to_experience()
    assert record.timestamp == datetime(2021, 6, 17, tzinfo=UTC)
    assert record.action == Action(Side.BUY, 0.5)
    assert record.other_agent_actions == {"hold": Action(Side.HOLD, 0.0)}
    assert (await mem.episodic.add_many([record])).rejections == ()


async def test_features_suffice_and_are_encoded_when_drained(mem: MemoryConnection, make: Any, build: Any) -> None:
    record = make(1)
    fields = {
        name: getattr(record, name) for name in ("timestamp", "action", "reward", "product_id", "regime", "features")
    }
    await mem.inbox.append({**fields, "next_features": {"trend": 2.0}}, agent_id="momentum")
    (entry,) = await mem.inbox.read("drain-1")
    assert entry.needs_encoding
    assert entry.features == record.features
    assert entry.next_features == {"trend": 2.0}
    with pytest.raises(InvalidRecordError, match="state_vector is missing"):
        entry.to_experience()
    made = entry.to_experience(
        state_vector=build["vector"](1), next_state_vector=build["vector"](2), encoder_id="rff-1"
    )
    assert (made.agent_id, made.encoder_id) == ("momentum", "rff-1")
    await mem.episodic.add(made)


async def test_the_agent_is_the_one_of_the_stream(mem: MemoryConnection, make: Any) -> None:
    await mem.inbox.append(make(1, agent_id="victim"), agent_id="mallory")
    await drain(mem)
    assert await mem.episodic.count() == 0
    (letter,) = await mem.dead_letters.read()
    assert (letter.agent_id, letter.origin, letter.field) == ("mallory", "inbox", "agent_id")


@pytest.mark.parametrize("agent_id", ["", "a:b", "*", None, "x" * 200])
async def test_a_malformed_agent_is_refused_at_once(mem: MemoryConnection, make: Any, agent_id: Any) -> None:
    with pytest.raises(InvalidRecordError, match="agent_id"):
        await mem.inbox.append(make(1, agent_id=agent_id))


async def test_what_is_no_experience_is_refused_at_once(mem: MemoryConnection) -> None:
    with pytest.raises(InvalidRecordError, match="list is no experience"):
        await mem.inbox.append([1, 2])  # type: ignore[arg-type]


async def test_what_cannot_be_written_down_is_refused_at_once(mem: MemoryConnection, make: Any) -> None:
    with pytest.raises(InvalidRecordError, match="written down"):
        await mem.inbox.append(make(1, features={"trend": object()}))
    assert await mem.inbox.length() == {}


async def test_a_durable_append_is_on_disk(own_redis: Any, make: Any) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace="ns") as mem:
        await mem.link.execute("CONFIG", "SET", "appendonly", "yes")
        assert await mem.inbox.append(make(1), durable=True)
        assert await mem.inbox.length() == {"momentum": 1}


async def test_a_durable_append_is_refused_where_nothing_is_durable(own_redis: Any, make: Any) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace="ns") as mem:
        await mem.link.execute("CONFIG", "SET", "appendonly", "no")
        with pytest.raises(ServerUnsuitableError, match="no log on disk"):
            await mem.inbox.append(make(1), durable=True)


async def test_every_agent_is_drained(mem: MemoryConnection, make: Any) -> None:
    agents = [f"agent-{number}" for number in range(5)]
    await mem.inbox.append_many([make(minute, agent_id=agent) for minute in range(7) for agent in agents])
    assert await mem.inbox.agent_ids() == agents
    assert await drain(mem, count=10) == 35
    assert set((await mem.inbox.length()).values()) == {0}


async def test_a_drain_that_died_leaves_its_entries_to_the_next(mem: MemoryConnection, make: Any) -> None:
    await mem.inbox.append_many([make(minute) for minute in range(4)])
    dead = await mem.inbox.read("drain-1")
    await mem.episodic.add_many([entry.to_experience() for entry in dead[:2]])
    assert await mem.inbox.read("drain-2") == []
    assert await drain(mem, "drain-2", idle=AT_ONCE) == 2
    assert await mem.episodic.count() == 4
    assert await mem.inbox.length() == {"momentum": 0}


async def test_an_entry_that_fails_five_times_goes_to_the_dead_letters(mem: MemoryConnection, make: Any) -> None:
    await mem.inbox.append(make(1))
    deliveries = []
    while entries := await mem.inbox.read("drain-1", idle=AT_ONCE):
        deliveries += [entry.deliveries for entry in entries]
    assert deliveries == list(range(1, MAX_DELIVERIES + 1))
    (letter,) = await mem.dead_letters.read()
    assert "never stored" in letter.reason
    assert await mem.inbox.length() == {"momentum": 0}


async def test_bytes_that_are_no_experience_go_to_the_dead_letters(mem: MemoryConnection, make: Any) -> None:
    stream = mem.keys.inbox("momentum")
    await mem.link.execute("XADD", stream, "*", "content", b"\xc1garbage")
    await mem.link.execute("XADD", stream, "*", "something", "else")
    await mem.link.execute("XADD", stream, "*", "content", b"\x93\x01\x02\x03")
    await mem.inbox.append(make(1))
    assert await drain(mem) == 1
    assert await mem.dead_letters.count() == 3
    assert await mem.inbox.length() == {"momentum": 0}


async def test_what_is_no_experience_is_told_and_does_not_hold_up_what_stands_behind_it(
    mem: MemoryConnection, make: Any
) -> None:
    stream = mem.keys.inbox("momentum")
    for number in range(5):
        await mem.link.execute("XADD", stream, "*", "content", f"garbage {number}")
    await mem.inbox.append(make(1))
    refused: list[Refusal] = []
    (entry,) = await mem.inbox.read("drain-1", count=2, on_refused=refused.append)
    assert (entry.fields["step"], [item.field for item in refused]) == (1, ["experience"] * 5)
    assert await mem.dead_letters.count() == 5


async def test_dead_letters_are_listed_once_with_the_reason(mem: MemoryConnection, make: Any) -> None:
    for _ in range(3):
        await mem.episodic.add_many([make(1, regime="BULLISH")])
    (letter,) = await mem.dead_letters.read(agent_id="momentum")
    assert letter.field == "regime"
    assert "Use one of TRENDING" in letter.reason
    assert letter.content()["regime"] == "BULLISH"
    assert await mem.dead_letters.read(agent_id="hold") == []


async def test_dead_letters_are_replayed_through_the_inbox(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many([make(1, regime="BULLISH"), make(2, agent_id="a:b")])
    assert await mem.dead_letters.count() == 2
    assert await mem.dead_letters.replay() == 1
    (letter,) = await mem.dead_letters.read()
    assert letter.agent_id == ""
    assert await mem.inbox.length() == {"momentum": 1}
    await drain(mem)
    letters = await mem.dead_letters.read(agent_id="momentum")
    assert [item.field for item in letters] == ["regime"]


async def test_a_replayed_letter_is_stored_once_its_cause_is_gone(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add(make(1))
    await mem.episodic.add_many([make(1, reward=0.9)])
    await mem.episodic.forget(run_id="run-1")
    assert await mem.dead_letters.replay() == 1
    assert await drain(mem) == 1
    assert await mem.dead_letters.count() == 0


async def test_dead_letters_can_be_dropped(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many([make(minute, regime="BULLISH") for minute in range(3)])
    letters = await mem.dead_letters.read()
    assert await mem.dead_letters.drop([letters[0].entry_id, "0-1"]) == 1
    assert [item.entry_id for item in await mem.dead_letters.read()] == [item.entry_id for item in letters[1:]]


async def test_dead_letters_are_bounded_and_the_oldest_go_first(servers: Any, namespace: str, make: Any) -> None:
    settings = memory.Settings(dead_letter_limit=5)
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace, settings=settings) as mem:
        for minute in range(8):
            await mem.episodic.add_many([make(minute, regime="BULLISH")])
        letters = await mem.dead_letters.read()
        assert [letter.content()["step"] for letter in letters] == [3, 4, 5, 6, 7]
        assert await mem.link.execute("HLEN", mem.keys.dead_letter_digests) == 5


async def test_a_limit_of_nothing_is_refused(mem: MemoryConnection) -> None:
    with pytest.raises(InvalidQueryError, match="limit"):
        await mem.dead_letters.read(limit=0)


async def test_reading_dead_letters_goes_on_over_pages(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many([make(minute, regime="BULLISH") for minute in range(520)])
    assert len(await mem.dead_letters.read()) == 520
    assert len(await mem.dead_letters.read(limit=7)) == 7
