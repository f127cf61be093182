"""Messages that are dated ahead of the server's clock: they wait, and go to the dead letters in the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import memory
from agents.feed import Tick
from agents.fitting import default_encoder
from agents.market_analysis import MarketAnalysisAgent
from agents.replay import State
from agents.telling import MAX_TRIES, Teller
from memory import MemoryConnection, ReplayClock, replaying
from memory.errors import FutureMessageError, InvalidRecordError
from memory.messages import AgentMemoryMessage, MessageType
from memory.settings import Settings

MINUTE = timedelta(minutes=1)
SKEW_S = 0.2


@pytest.fixture
async def strict(servers: Any, namespace: str) -> AsyncIterator[MemoryConnection]:
    """A memory whose server lets clocks differ by a fifth of a second."""
    settings = Settings(message_clock_skew_s=SKEW_S)
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace, settings=settings) as connection:
        yield connection


def message(timestamp: datetime, insight: str = "A crisis begins.", **changes: Any) -> AgentMemoryMessage:
    return AgentMemoryMessage(
        sender_agent_id="analyst", message_type=MessageType.WARNING, insight=insight, timestamp=timestamp, **changes
    )


async def heard(mem: MemoryConnection) -> list[str]:
    return [item.insight for item in (await mem.messages.history("momentum")).messages]


async def test_a_message_that_is_ahead_of_the_servers_clock_waits_and_the_others_go_out(
    strict: MemoryConnection, caplog: pytest.LogCaptureFixture
) -> None:
    now = datetime.now(UTC)
    teller = Teller(strict)
    ahead = message(now + timedelta(seconds=SKEW_S + 0.8), "ahead")
    with caplog.at_level(logging.WARNING):
        assert await teller.tell([ahead, message(now, "in time")], now) == 1
        assert await teller.tell([], now) == 0
    assert (teller.waiting, await heard(strict)) == (1, ["in time"])
    told = [record.message for record in caplog.records if record.name == "agents.telling"]
    assert len(told) == 1
    assert "analyst wait for the server's clock" in told[0]
    await asyncio.sleep(0.9)
    assert await teller.tell([message(now, "later")], now) == 2
    assert (teller.waiting, teller.dead, set(await heard(strict))) == (0, 0, {"in time", "ahead", "later"})


async def test_one_that_is_refused_at_five_decision_times_is_a_dead_letter(mem: MemoryConnection) -> None:
    now = datetime.now(UTC)
    teller = Teller(mem)
    far = message(now + timedelta(hours=1))
    await teller.tell([far], now)
    for minute in range(1, MAX_TRIES - 1):
        await teller.tell([], now + minute * MINUTE)
        await teller.tell([], now + minute * MINUTE)  # The same decision time, of another product.
    assert (teller.waiting, await mem.dead_letters.count()) == (1, 0)
    await teller.tell([], now + MAX_TRIES * MINUTE)
    assert (teller.waiting, teller.dead) == (0, 1)
    (letter,) = await mem.dead_letters.read()
    assert (letter.agent_id, letter.field, letter.is_unsent) == ("analyst", "timestamp", True)
    assert "ahead of the server's clock" in letter.reason
    assert await heard(mem) == []


async def test_one_that_was_never_sent_can_be_sent_once_the_clock_allows(strict: MemoryConnection) -> None:
    now = datetime.now(UTC)
    teller = Teller(strict)
    await teller.tell([message(now + timedelta(seconds=SKEW_S + 0.8), "ahead")], now)
    await teller.close()
    assert await strict.messages.send_unsent() == ()
    assert await strict.dead_letters.count() == 1
    await asyncio.sleep(0.9)
    assert len(await strict.messages.send_unsent()) == 1
    assert (await strict.dead_letters.count(), await heard(strict)) == (0, ["ahead"])


async def test_what_waits_at_the_end_is_a_dead_letter(mem: MemoryConnection) -> None:
    now = datetime.now(UTC)
    teller = Teller(mem)
    await teller.tell([message(now + timedelta(hours=1))], now)
    await teller.close()
    await teller.close()
    assert (teller.waiting, await mem.dead_letters.count()) == (0, 1)


async def test_a_malformed_message_and_one_beyond_a_replays_present_are_errors(mem: MemoryConnection) -> None:
    now = datetime.now(UTC)
    teller = Teller(mem)
    with pytest.raises(InvalidRecordError, match="insight"):
        await teller.tell([message(now, "")], now)
    with replaying(ReplayClock(now)), pytest.raises(FutureMessageError):
        await teller.tell([message(now + MINUTE, source="replay", run_id="night-1")], now)
    assert teller.waiting == 0


async def test_a_live_analyst_goes_on_where_its_bars_are_dated_ahead_of_the_servers_clock(
    mem: MemoryConnection,
) -> None:
    begun = datetime.now(UTC) + timedelta(hours=1)
    vector = np.zeros(256, np.float32)
    vector[0] = 1.0

    def tick(product_id: str, minute: int) -> Tick:
        at = begun + minute * MINUTE
        state = State(product_id, at, {}, vector, 100.0, None, "QUIET", 1.0)
        return Tick(product_id, at, 100.0, None, state)

    # ETH falls silent, of which the analyst warns at minute 6.
    feed = [[tick("BTC-USDT", minute)] for minute in range(1, 14)]
    feed[0].append(tick("ETH-USDT", 1))
    analyst = MarketAnalysisAgent(mem, default_encoder(), calibration=None)
    report = await analyst.run(feed)
    assert (report.states, report.warnings) == (14, 0)
    (letter,) = await mem.dead_letters.read()
    assert "ahead of the server's clock" in letter.reason
