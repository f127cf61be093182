"""Messages to try things on, and what an agent hears of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from memory import AgentMemoryMessage, MemoryConnection

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
