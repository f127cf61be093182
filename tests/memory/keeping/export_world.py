"""A memory of which experiences are exported: what agents lived through, and what is stored of it."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

import memory
from memory.records import Action, EpisodicMemory, Side, experience_id

START = datetime(2021, 6, 17, tzinfo=UTC)
ENCODER = "enc-1"
MINUTES = 40
NOW = datetime(2021, 7, 1, tzinfo=UTC)


def said(_text: str) -> None:
    """Nobody listens."""


def lived(agent: str = "momentum", product: str = "BTC-USD", **changes: Any) -> list[EpisodicMemory]:
    """One agent's minutes: each state is the next one of the minute before, but where a minute is missing."""
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((MINUTES + 1, 256))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found = []
    for minute in range(MINUTES):
        at = START + timedelta(minutes=minute)
        found.append(
            EpisodicMemory(
                agent_id=agent,
                timestamp=at,
                state_vector=vectors[minute],
                next_state_vector=None if minute % 10 == 9 else vectors[minute + 1],
                action=Action(Side.SELL if minute % 3 else Side.HOLD, 0.25 * (minute % 5)),
                reward=rng.standard_normal() * 1e-3,
                product_id=product,
                regime="QUIET",
                pattern_ids=("p-1", "p-2") if minute % 2 else (),
                confidence=0.5,
                other_agent_actions={"random": Action(Side.BUY, 1.0)} if minute % 4 else {},
                terminal=minute == MINUTES - 1,
                cumulative_return=0.25 if minute % 7 else None,
                return_known_at=at + timedelta(hours=1) if minute % 7 else None,
                encoder_id=ENCODER,
                source="replay",
                run_id="sample",
                step=minute,
                known_at=at + timedelta(minutes=1),
                price=100.0 + minute,
                quality=0.5 if minute % 2 else None,
                features={"a": 1 / 3, "b": float(minute)} if minute % 2 else {"c": -0.0},
                **changes,
            )
        )
    del found[20]
    return found


def id_of(item: EpisodicMemory) -> str:
    return experience_id(item.source, item.run_id, item.agent_id, item.product_id, item.timestamp, item.step)


async def filled(mem: memory.MemoryConnection, experiences: list[EpisodicMemory] | None = None) -> None:
    await mem.encoders.register(ENCODER, fitted_until=START, definition={"kind": "test"})
    report = await mem.episodic.add_many(lived() if experiences is None else experiences)
    assert not report.rejections


async def stored(mem: memory.MemoryConnection, **wanted: Any) -> dict[str, dict[str, Any]]:
    """All that is known of each experience, by id, but when it was recorded."""
    found = {}
    pages = mem.episodic.read_window(START, NOW, with_next_state=True, **wanted)
    async for page in pages:
        for item in page:
            values = {field.name: getattr(item, field.name) for field in fields(item)}
            for name in ("state_vector", "next_state_vector"):
                values[name] = None if values[name] is None else values[name].tobytes()
            values["features"] = {name: value.hex() for name, value in values["features"].items()}
            values.pop("recorded_at")
            found[item.memory_id] = values
    return found
