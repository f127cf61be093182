"""Dead letters: found by id, agent and field, in either order, and tried again without being stored twice."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from memory import MemoryConnection
from memory.errors import InvalidQueryError, InvalidRecordError
from memory.store.dead_letters import Refusal


async def drained(mem: MemoryConnection) -> tuple[int, int]:
    """What the recording flow does, without an encoder: stored, and known before."""
    stored = duplicates = 0
    while entries := await mem.inbox.read("drain-1", idle=timedelta(0)):
        good, refused = [], []
        for entry in entries:
            try:
                good.append(entry.to_experience())
            except InvalidRecordError as error:
                refused.append((entry, error))
        await mem.inbox.reject(refused)
        report = await mem.episodic.add_many(good)
        stored, duplicates = stored + len(report.stored), duplicates + len(report.duplicates)
        await mem.inbox.acknowledge(entries)
    return stored, duplicates


async def refuse(mem: MemoryConnection, *refusals: Refusal) -> list[str]:
    return await mem.dead_letters.add(refusals, origin="inbox")


async def test_a_letter_is_found_by_its_id(mem: MemoryConnection, make: Any) -> None:
    (entry_id,) = await refuse(mem, Refusal(make(1), "no such encoder", "encoder_id"))
    letter = await mem.dead_letters.get(entry_id)
    assert letter is not None
    assert (letter.entry_id, letter.agent_id, letter.reason) == (entry_id, "momentum", "no such encoder")
    assert await mem.dead_letters.get("1-1") is None


@pytest.mark.parametrize("entry_id", ["", "all", "1", "-", "+", "1-2-3", "12345678901234567890123-0"])
async def test_what_is_no_id_is_refused(mem: MemoryConnection, entry_id: str) -> None:
    with pytest.raises(InvalidQueryError, match="not the id of a dead letter"):
        await mem.dead_letters.get(entry_id)
    with pytest.raises(InvalidQueryError, match="not the id of a dead letter"):
        await mem.dead_letters.read(entry_ids=["1-1", entry_id])


async def test_letters_come_in_either_order_and_by_agent_and_field(mem: MemoryConnection, make: Any) -> None:
    refusals = [
        Refusal(make(number, agent_id=f"agent-{number % 2}"), f"reason {number}", "reward" if number < 3 else "regime")
        for number in range(6)
    ]
    ids = await refuse(mem, *refusals)
    newest = await mem.dead_letters.read(newest_first=True, limit=2)
    assert [letter.entry_id for letter in newest] == [ids[5], ids[4]]
    named = await mem.dead_letters.read(entry_ids=[ids[4], "1-1", ids[0], ids[4]])
    assert [letter.entry_id for letter in named] == [ids[0], ids[4]]
    chosen = await mem.dead_letters.read(agent_id="agent-1", field="regime")
    assert [letter.entry_id for letter in chosen] == [ids[3], ids[5]]


async def test_going_through_them_backwards_goes_on_over_pages(
    mem: MemoryConnection, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory.store.dead_letters.PAGE_SIZE", 2)
    ids = await refuse(mem, *(Refusal(make(number), "bad", "reward") for number in range(5)))
    assert [letter.entry_id async for letter in mem.dead_letters.stream(newest_first=True)] == ids[::-1]


async def test_a_letter_that_is_tried_again_is_stored_once(mem: MemoryConnection, make: Any) -> None:
    record = make(1)
    (entry_id,) = await refuse(mem, Refusal(record, "its encoder was not known yet", "encoder_id"))
    assert await mem.dead_letters.replay([entry_id]) == 1
    assert await mem.dead_letters.replay([entry_id]) == 0
    assert await drained(mem) == (1, 0)

    await mem.inbox.append(record)  # The agent sends it again, and it is refused and tried again once more.
    await refuse(mem, Refusal(record, "another reason", "encoder_id"))
    assert await mem.dead_letters.replay() == 1
    assert await drained(mem) == (0, 2)
    assert (await mem.episodic.count(), await mem.dead_letters.count()) == (1, 0)


async def test_what_is_still_wrong_comes_back(mem: MemoryConnection, make: Any) -> None:
    await mem.inbox.append({"agent_id": "momentum", "reward": 1.0})
    assert await drained(mem) == (0, 0)
    (before,) = await mem.dead_letters.read()
    assert await mem.dead_letters.replay() == 1
    assert await drained(mem) == (0, 0)
    (after,) = await mem.dead_letters.read()
    assert (after.reason, after.packed) == (before.reason, before.packed)


async def test_only_letters_of_the_field_are_tried_again(mem: MemoryConnection, make: Any) -> None:
    ids = await refuse(mem, Refusal(make(1), "bad", "reward"), Refusal(make(2), "bad", "regime"))
    assert await mem.dead_letters.replay(field="regime") == 1
    assert [letter.entry_id for letter in await mem.dead_letters.read()] == ids[:1]


async def test_messages_are_told_from_experiences_by_where_they_come_from(mem: MemoryConnection) -> None:
    for origin, reader in (("inbox", None), ("messages", None), ("messages:main", "main"), ("unsent", None)):
        (entry_id,) = await mem.dead_letters.add([Refusal(b"any bytes", origin, "message", "scout")], origin=origin)
        letter = await mem.dead_letters.get(entry_id)
        assert letter is not None
        assert (letter.is_message, letter.reader) == (origin != "inbox", reader)
        assert letter.is_unsent == (origin == "unsent")
    assert await mem.dead_letters.replay() == 1


async def test_what_comes_in_a_letters_stead_comes_once_and_only_with_the_letter_gone(
    mem: MemoryConnection, make: Any
) -> None:
    (entry_id,) = await refuse(mem, Refusal(make(1), "no such encoder", "encoder_id"))
    counter = f"{mem.namespace}:handed-out"
    assert await mem.dead_letters.exchange(entry_id, [("INCR", counter)])
    assert await mem.dead_letters.count() == 0
    # Whoever tries the same letter again has read of it before it went.
    assert not await mem.dead_letters.exchange(entry_id, [("INCR", counter)])
    assert int(await mem.link.execute("GET", counter)) == 1
    (again,) = await refuse(mem, Refusal(make(1), "no such encoder", "encoder_id"))
    assert again != entry_id


async def test_letters_that_went_still_count_as_received(mem: MemoryConnection, make: Any) -> None:
    assert await mem.dead_letters.received() == 0
    entries = await refuse(mem, *(Refusal(make(number), "no such encoder", "encoder_id") for number in range(3)))
    await mem.dead_letters.drop(entries)
    assert (await mem.dead_letters.count(), await mem.dead_letters.received()) == (0, 3)
