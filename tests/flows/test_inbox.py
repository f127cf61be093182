"""The drain of the inboxes: what agents appended is stored once, and what is bad is kept with the reason."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import numpy as np
import pytest

import memory
from agents.fitting import default_encoder
from agents.market import Market
from agents.replay import MarketReplay
from flows.record_experiences import Parameters, record_experiences
from memory.errors import EncoderError
from memory.records import Action, Side

pytestmark = pytest.mark.usefixtures("prefect_server")

DAY = dt.datetime(2021, 6, 17, tzinfo=dt.UTC)


def raw_experiences(count: int) -> list[dict[str, Any]]:
    """What an agent would append: real states by their features, without vectors."""
    replay = MarketReplay(Market.sample("binance", ["BTC-USDT"]), DAY, DAY + dt.timedelta(days=1), default_encoder())
    states = [states[0] for _, states in zip(range(count), replay, strict=False)]
    return [
        {
            "agent_id": "scout",
            "product_id": state.product_id,
            "timestamp": state.timestamp,
            "known_at": state.timestamp + dt.timedelta(minutes=1),
            "regime": state.regime,
            "action": Action(Side.BUY, 0.5),
            "reward": 1e-4 * (step % 7 - 3),
            "features": dict(state.features),
            "step": step,
        }
        for step, state in enumerate(states)
    ]


def append(servers: Any, namespace: str, entries: list[dict[str, Any]]) -> None:
    async def call() -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            await mem.inbox.append_many(entries)

    asyncio.run(call())


def held(servers: Any, namespace: str) -> tuple[int, int, int]:
    """Experiences, entries that wait, dead letters."""

    async def call() -> tuple[int, int, int]:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            waiting = sum((await mem.inbox.length()).values())
            return await mem.episodic.count(), waiting, await mem.dead_letters.count()

    return asyncio.run(call())


def test_what_agents_appended_is_encoded_scored_and_stored_once(configured: str, servers: Any) -> None:
    entries = raw_experiences(50)
    append(servers, configured, entries)
    first = record_experiences(Parameters(namespace=configured))
    assert (first["stored"], first["duplicates"], first["dead_letters"]) == (50, 0, 0)
    assert held(servers, configured) == (50, 0, 0)

    append(servers, configured, entries)
    again = record_experiences(Parameters(namespace=configured))
    assert (again["stored"], again["duplicates"]) == (0, 50)
    assert held(servers, configured) == (50, 0, 0)


def test_the_vector_of_an_entry_is_that_of_the_replayed_state(configured: str, servers: Any) -> None:
    append(servers, configured, raw_experiences(3))
    record_experiences(Parameters(namespace=configured))
    replay = MarketReplay(Market.sample("binance", ["BTC-USDT"]), DAY, DAY + dt.timedelta(days=1), default_encoder())
    wanted = [states[0].vector for _, states in zip(range(3), replay, strict=False)]

    async def read() -> list[Any]:
        async with memory.connect(redis_url=servers.redis_url, namespace=configured) as mem:
            found = [item async for page in mem.episodic.read_window(DAY, DAY + dt.timedelta(days=1)) for item in page]
            return sorted(found, key=lambda item: item.timestamp)

    stored = asyncio.run(read())
    for item, vector in zip(stored, wanted, strict=True):
        np.testing.assert_array_equal(item.state_vector, vector)
        assert item.quality is not None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"regime": "SIDEWAYS"}, "regime"),
        ({"reward": float("nan")}, "reward"),
        ({"state_vector": np.full(256, np.nan, np.float32)}, "state_vector"),
        ({"state_vector": np.ones(3, np.float32) / np.sqrt(3, dtype=np.float32)}, "state_vector"),
        ({"features": {"price": 1.0}}, "features"),
        ({"agent_id": "scout", "timestamp": None}, "timestamp"),
        ({"features": [1.0, 2.0]}, "features"),
        ({"features": {"momentum": "up"}}, "features[momentum]"),
        ({"state_vector": 5}, "state_vector"),
        ({"encoder_id": ["a"]}, "encoder_id"),
        ({"encoder_id": "/etc/hostname"}, "encoder_id"),
        ({"encoder_id": "nobody-fitted-this"}, "encoder_id"),
        ({"timestamp": dt.datetime(2018, 4, 4, tzinfo=dt.UTC)}, "timestamp"),
        ({"timestamp": dt.datetime(9999, 12, 31, tzinfo=dt.UTC), "known_at": None}, "timestamp"),
    ],
    ids=[
        "unknown regime",
        "NaN reward",
        "NaN vector",
        "wrong dimension",
        "missing features",
        "no timestamp",
        "features without names",
        "a feature that is text",
        "a vector that is a number",
        "an encoder id that is a list",
        "an encoder id that is a path",
        "an encoder that nobody fitted",
        "before the encoder was fitted",
        "after the last window",
    ],
)
def test_a_bad_entry_goes_to_the_dead_letters_and_the_good_one_beside_it_is_stored(
    change: dict[str, Any], reason: str, configured: str, servers: Any
) -> None:
    good, bad = raw_experiences(2)
    append(servers, configured, [good, {**bad, **change}])
    result = record_experiences(Parameters(namespace=configured))
    assert (result["stored"], result["dead_letters"]) == (1, 1)
    assert list(result["dead_letter_reasons"]) == [reason]
    assert held(servers, configured) == (1, 0, 1)


def test_other_content_under_the_same_id_is_kept_as_a_dead_letter(configured: str, servers: Any) -> None:
    (entry,) = raw_experiences(1)
    append(servers, configured, [entry])
    record_experiences(Parameters(namespace=configured))
    append(servers, configured, [{**entry, "reward": 0.5}])
    result = record_experiences(Parameters(namespace=configured))
    assert (result["stored"], result["dead_letters"]) == (0, 1)
    assert held(servers, configured) == (1, 0, 1)


def test_a_drain_that_fails_through_no_fault_of_the_entries_does_not_wear_them_out(
    configured: str, servers: Any
) -> None:
    append(servers, configured, raw_experiences(3))
    for _ in range(6):
        with pytest.raises(EncoderError):
            record_experiences(Parameters(namespace=configured, encoder="nobody-fitted-this"))
    assert held(servers, configured) == (0, 3, 0)
    assert record_experiences(Parameters(namespace=configured))["stored"] == 3
    assert held(servers, configured) == (3, 0, 0)
