"""Messages reach those they are for, once, in order, as of the time that is asked for; what is missed is told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import memory
from memory import AgentMemoryMessage, MemoryConnection, ReplayClock, Settings, replaying
from memory.errors import InvalidQueryError, InvalidRecordError
from memory.records import to_ms
from memory.store.message_mailbox import Mailbox, Missed, Taken
from memory.store.message_reader import MAX_DELIVERIES, REPLAY_PAUSE_S

NOON = datetime(2021, 6, 17, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def told(insight: str, sender: str = "regime", **changes: Any) -> AgentMemoryMessage:
    """A warning."""
    return AgentMemoryMessage(sender_agent_id=sender, message_type="WARNING", insight=insight, **changes)


def replayed(insight: str, minute: int, sender: str = "regime", run_id: str = "night-1") -> AgentMemoryMessage:
    """A warning of a replay."""
    return told(insight, sender, timestamp=NOON + minute * MINUTE, source="replay", run_id=run_id)


async def heard(mem: MemoryConnection, agent_id: str, **arguments: Any) -> list[str]:
    """What an agent is told now."""
    return [message.insight async for message in mem.messages.read(agent_id, wait=False, **arguments)]


@pytest.fixture
async def small(servers: Any, namespace: str) -> AsyncIterator[MemoryConnection]:
    """A memory that keeps three messages of an agent."""
    async with memory.connect(
        redis_url=servers.redis_url, namespace=namespace, settings=Settings(message_limit=3)
    ) as connection:
        yield connection


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


# --- what fails ------------------------------------------------------------------------------------------------


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


# --- bounds ----------------------------------------------------------------------------------------------------


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


# --- time ------------------------------------------------------------------------------------------------------


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
