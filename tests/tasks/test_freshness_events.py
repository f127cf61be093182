"""Word of fresh knowledge to Prefect: given while knowledge is young enough, and by its silence an alarm."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.client.orchestration import get_client

import memory
from memory import SemanticType
from memory.window import Window
from tasks.freshness_events import FRESH_EVENT, tell_freshness

ENCODER = "rff-1"
WAIT_S = 30.0


def publish(namespace: str, redis_url: str, window: Window) -> None:
    """A window in which nothing was found is published as every other is."""

    async def call() -> None:
        async with memory.connect(redis_url=redis_url, namespace=namespace) as mem:
            line = f"{namespace}/{ENCODER}/1"
            await mem.link.pipeline([("SET", mem.keys.fence, 1), ("SET", mem.keys.current_encoder, ENCODER)])
            await mem.semantic.publish_versions(
                [],
                line=line,
                kinds=(SemanticType.PATTERN,),
                token=1,
                since=None,
                horizon=None,
                windows={SemanticType.PATTERN: {window: window.end}},
            )
            await mem.semantic.set_current_line(line, ENCODER, token=1)

    asyncio.run(call())


def events_of(namespace: str) -> list[dict[str, Any]]:
    """The events of a namespace that the server has."""
    asked = {"filter": {"event": {"name": [FRESH_EVENT]}, "resource": {"id": [f"coinswarm.{namespace}"]}}}
    with get_client(sync_client=True) as client:
        answer = client.request("POST", "/events/filter", json=asked)
    events: list[dict[str, Any]] = answer.json()["events"]
    return events


def yesterday() -> Window:
    """The last full UTC day."""
    return Window.last_full_before(datetime.now(UTC))


@pytest.mark.usefixtures("prefect_server")
def test_young_knowledge_is_told_with_window_and_age(
    configured: str, servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(configured, servers.redis_url, yesterday())
    monkeypatch.setenv("COINSWARM_KNOWLEDGE_MAX_AGE_H", "26")
    seen = tell_freshness.fn(configured)
    assert (seen["window"], seen["fresh"]) == (yesterday().name, True)
    assert 0 <= seen["age_h"] < 25
    deadline = time.monotonic() + WAIT_S
    while not (found := events_of(configured)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [event["payload"] for event in found] == [seen]


@pytest.mark.usefixtures("prefect_server")
def test_old_knowledge_is_not_called_fresh(configured: str, servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(configured, servers.redis_url, Window.of_date((datetime.now(UTC) - timedelta(days=3)).date()))
    monkeypatch.setenv("COINSWARM_KNOWLEDGE_MAX_AGE_H", "26")
    assert tell_freshness.fn(configured)["fresh"] is False
    monkeypatch.setenv("COINSWARM_KNOWLEDGE_MAX_AGE_H", "100")
    assert tell_freshness.fn(configured)["fresh"] is True


@pytest.mark.usefixtures("prefect_server")
def test_a_memory_that_knows_nothing_yet_has_nothing_to_miss(configured: str) -> None:
    assert tell_freshness.fn(configured) == {"window": None, "age_h": None, "fresh": False}
