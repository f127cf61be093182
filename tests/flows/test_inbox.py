"""The drain of the inboxes: what agents appended is stored once, and what is bad is kept with the reason."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
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


def test_entries_that_are_no_experience_are_counted_by_the_field_at_fault(configured: str, servers: Any) -> None:
    async def scribble() -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=configured) as mem:
            for number in range(3):
                await mem.link.execute("XADD", mem.keys.inbox("scout"), "*", "content", f"garbage {number}")

    asyncio.run(scribble())
    result = record_experiences(Parameters(namespace=configured))
    assert (result["dead_letters"], result["dead_letter_reasons"]) == (3, {"experience": 3})
    assert held(servers, configured) == (0, 0, 3)


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


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown regime": ({"regime": "SIDEWAYS"}, "regime"),
    "NaN reward": ({"reward": float("nan")}, "reward"),
    "NaN vector": ({"state_vector": np.full(256, np.nan, np.float32)}, "state_vector"),
    "wrong dimension": ({"state_vector": np.ones(3, np.float32) / np.sqrt(3, dtype=np.float32)}, "state_vector"),
    "missing features": ({"features": {"price": 1.0}}, "features"),
    "no timestamp": ({"timestamp": None}, "timestamp"),
    "features without names": ({"features": [1.0, 2.0]}, "features"),
    "a feature that is text": ({"features": {"momentum": "up"}}, "features[momentum]"),
    "a vector that is a number": ({"state_vector": 5}, "state_vector"),
    "an encoder id that is a list": ({"encoder_id": ["a"]}, "encoder_id"),
    "an encoder id that is a path": ({"encoder_id": "/etc/hostname"}, "encoder_id"),
    "an encoder that nobody fitted": ({"encoder_id": "nobody-fitted-this"}, "encoder_id"),
    "before the encoder was fitted": ({"timestamp": dt.datetime(2018, 4, 4, tzinfo=dt.UTC)}, "timestamp"),
    "after the last window": (
        {"timestamp": dt.datetime(9999, 12, 31, tzinfo=dt.UTC), "known_at": None},
        "timestamp",
    ),
}
"""What is changed of an entry, and the field that is found bad."""
AGENT_OF = {name: f"scout-{number}" for number, name in enumerate(BAD)}


@dataclass(frozen=True)
class Drained:
    """A namespace whose agents had each appended a good entry and a bad one, and what the drain returned."""

    namespace: str
    result: dict[str, Any]


@pytest.fixture(scope="module")
def drained(
    servers: Any, prefect_server: str, as_jobs: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Drained:
    assert prefect_server
    namespace = f"t-bad-{uuid.uuid4().hex[:8]}"
    good, bad = raw_experiences(2)
    entries = [
        {**entry, "agent_id": AGENT_OF[name]}
        for name, (change, _) in BAD.items()
        for entry in (good, {**bad, **change})
    ]
    append(servers, namespace, entries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COINSWARM_HOME", str(tmp_path_factory.mktemp("drained")))
        patch.setenv("COINSWARM_REDIS_URL", as_jobs(namespace))
        patch.setenv("COINSWARM_DATABASE_URL", servers.database_url)
        return Drained(namespace, record_experiences(Parameters(namespace=namespace)))


def test_every_bad_entry_is_counted_by_its_reason_and_nothing_waits(drained: Drained, servers: Any) -> None:
    assert (drained.result["stored"], drained.result["dead_letters"]) == (len(BAD), len(BAD))
    assert drained.result["dead_letter_reasons"] == Counter(reason for _, reason in BAD.values())
    assert held(servers, drained.namespace) == (len(BAD), 0, len(BAD))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_entry_goes_to_the_dead_letters_and_the_good_one_beside_it_is_stored(
    name: str, drained: Drained, servers: Any
) -> None:
    agent, (_, reason) = AGENT_OF[name], BAD[name]

    async def of_the_agent() -> tuple[int, list[str]]:
        async with memory.connect(redis_url=servers.redis_url, namespace=drained.namespace) as mem:
            letters = await mem.dead_letters.read(agent_id=agent)
            return await mem.episodic.count(agent_id=agent), [letter.field for letter in letters]

    assert asyncio.run(of_the_agent()) == (1, [reason])


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
