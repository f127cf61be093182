"""Changes of regime as Prefect events: each once, and only where they go somewhere."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

import memory
from memory import MemoryConnection
from memory.messages import AgentMemoryMessage, MessageType
from tasks.regime_events import forward_all, forward_regime_changes

WAIT_S = 30.0


def change(minutes_ago: int, regime: str) -> AgentMemoryMessage:
    return AgentMemoryMessage(
        sender_agent_id="analyst",
        message_type=MessageType.REGIME_CHANGE,
        insight=f"BTC-USDT has gone to {regime}.",
        data={"product_id": "BTC-USDT", "before": "QUIET", "new_regime": regime, "confidence": 0.75},
        timestamp=datetime.now(UTC) - timedelta(minutes=minutes_ago),
    )


def events_of(namespace: str, count: int) -> list[dict[str, Any]]:
    """The events of a namespace, as soon as the server has so many."""
    asked = {"filter": {"event": {"name": ["coinswarm.regime-change"]}, "order": "ASC"}}
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + WAIT_S
        while True:
            answer: httpx.Response = client._client.post("/events/filter", json=asked)
            answer.raise_for_status()
            found = [
                event for event in answer.json()["events"] if event["resource"]["coinswarm.namespace"] == namespace
            ]
            if len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.2)


@pytest.mark.usefixtures("prefect_server")
def test_each_change_becomes_one_event_of_its_product(configured: str, servers: Any) -> None:
    async def send() -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=configured) as mem:
            await mem.messages.send_many([change(2, "VOLATILE"), change(1, "CRISIS")])

    asyncio.run(send())
    assert forward_regime_changes.fn(configured) == 2
    assert forward_regime_changes.fn(configured) == 0
    found = events_of(configured, 2)
    assert [event["resource"]["prefect.resource.id"] for event in found] == [f"coinswarm.{configured}.BTC-USDT"] * 2
    assert [event["payload"]["new_regime"] for event in found] == ["VOLATILE", "CRISIS"]


async def test_without_a_server_nothing_is_read_and_the_changes_wait(mem: MemoryConnection) -> None:
    await mem.messages.send(change(1, "CRISIS"))
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert await forward_all(mem) == 0
    async with mem.messages.read("prefect-events", wait=False) as reader:
        assert [message.data["new_regime"] async for message in reader] == ["CRISIS"]
