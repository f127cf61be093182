"""What an agent hears waits for its next decision, and no longer than is remembered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from agents.hearing import Hearing
from memory import AgentMemoryMessage, MemoryConnection, WorkingMemory
from memory.working import WINDOW

NOON = datetime(2021, 6, 17, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
PRODUCT = "BTC-USDT"


async def test_while_nothing_is_decided_the_last_messages_are_kept_and_older_ones_give_way(
    mem: MemoryConnection,
) -> None:
    count = WINDOW + 20
    messages = [
        AgentMemoryMessage(
            sender_agent_id="regime", message_type="WARNING", insight=f"m{number}", timestamp=NOON + number * SECOND
        )
        for number in range(count)
    ]
    await mem.messages.send_many(messages)
    hearing = Hearing(mem, "hold", "live", tolerates=False)
    minds = {PRODUCT: WorkingMemory("hold", PRODUCT)}
    for part in (60, count):
        await hearing.listen(NOON + part * SECOND, minds)
    assert hearing.heard == count
    assert [message.insight for message in hearing.fresh(PRODUCT)] == [f"m{number}" for number in range(20, count)]
    assert hearing.fresh(PRODUCT) == ()
    await hearing.close()
