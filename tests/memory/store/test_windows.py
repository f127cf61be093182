"""A window's tables: distinct states in canonical order, and every experience."""

from __future__ import annotations

import dataclasses
import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import memory
from memory import MemoryConnection, Window
from memory.records import REGIMES, to_ms
from memory.store.windows import read_window_data, window_parts
from memory.tables import WindowData

DAY = datetime(2021, 6, 17, tzinfo=UTC)
WINDOW = Window.of_date(date(2021, 6, 17))


def a_night(make: Any) -> list[Any]:
    return [
        make(
            minute,
            agent_id=agent,
            product_id=product,
            price=float(minute),
            features={"trend": float(minute), f"only_{product}": 1.0},
            known_at=DAY + timedelta(minutes=minute + 1, seconds=5 if agent == "hold" else 0),
        )
        for agent in ("momentum", "hold", "random")
        for product in ("ETH-USDT", "BTC-USDT")
        for minute in range(12)
    ]


def equal(one: WindowData, other: WindowData) -> bool:
    for left, right in ((one.states, other.states), (one.experiences, other.experiences)):
        for field in dataclasses.fields(left):
            if field.name == "recorded_at_ms":
                continue
            a, b = getattr(left, field.name), getattr(right, field.name)
            if not (np.array_equal(a, b, equal_nan=a.dtype.kind == "f") if isinstance(a, np.ndarray) else a == b):
                return False
    return True


async def test_agents_of_one_minute_share_one_state(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many(a_night(make))
    tables = await read_window_data(mem, WINDOW, page_size=7)
    assert list(tables) == [("rff-1", "replay")]
    data = tables["rff-1", "replay"]
    assert (len(data.states), len(data.experiences)) == (24, 72)
    assert data.states.products == ("BTC-USDT", "ETH-USDT")
    assert data.states.product.tolist() == [0] * 12 + [1] * 12
    assert data.states.timestamp_ms.tolist() == [to_ms(DAY + timedelta(minutes=minute)) for minute in range(12)] * 2
    for row, minute in enumerate(list(range(12)) * 2):
        assert np.array_equal(data.states.vectors[row], make(minute).state_vector)
    assert data.states.price.tolist() == [float(minute) for minute in range(12)] * 2
    assert [REGIMES[code] for code in data.states.regime] == ["QUIET"] * 24


async def test_a_state_is_known_with_its_first_experience(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many(a_night(make))
    data = (await read_window_data(mem, WINDOW))["rff-1", "replay"]
    assert (data.states.known_at_ms - data.states.timestamp_ms).tolist() == [60_000] * 24
    late = data.experiences.known_at_ms - data.experiences.timestamp_ms
    hold = data.experiences.agents.index("hold")
    assert (late == 65_000).tolist() == (data.experiences.agent == hold).tolist()


async def test_features_of_other_schemas_are_nan(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many(a_night(make))
    states = (await read_window_data(mem, WINDOW))["rff-1", "replay"].states
    assert states.feature_names == ("only_BTC-USDT", "only_ETH-USDT", "trend")
    assert states.feature("trend").tolist() == [float(minute) for minute in range(12)] * 2
    assert np.isnan(states.feature("only_BTC-USDT")).tolist() == [False] * 12 + [True] * 12


async def test_experiences_come_sorted_with_all_their_figures(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many(a_night(make))
    table = (await read_window_data(mem, WINDOW))["rff-1", "replay"].experiences
    assert table.agents == ("hold", "momentum", "random")
    keys = list(zip(table.agent, table.product, table.timestamp_ms, strict=True))
    assert keys == sorted(keys)
    assert set(table.side.tolist()) == {1}
    assert set(table.size.tolist()) == {0.5}
    assert np.isnan(table.quality).all()
    assert table.reward.tolist() == [minute / 1000 for minute in range(12)] * 6
    assert (table.recorded_at_ms > to_ms(DAY)).all()


async def test_the_order_of_arrival_makes_no_difference(servers: Any, namespace: str, make: Any) -> None:
    found = []
    for number in range(2):
        records = a_night(make)
        random.Random(number).shuffle(records)
        async with memory.connect(redis_url=servers.redis_url, namespace=f"{namespace}-{number}") as mem:
            for start in range(0, len(records), 10):
                await mem.episodic.add_many(records[start : start + 10])
            found.append((await read_window_data(mem, WINDOW))["rff-1", "replay"])
    assert equal(*found)


async def test_sources_and_encoders_are_tables_of_their_own(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many([make(0), make(1, source="live"), make(2, encoder_id="rff-2")])
    tables = await read_window_data(mem, WINDOW)
    assert sorted(tables) == [("rff-1", "live"), ("rff-1", "replay"), ("rff-2", "replay")]
    assert all(len(data.states) == 1 for data in tables.values())


async def test_only_the_window_is_read(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many([make(-1, step=0), make(0), make(1439), make(1440)])
    data = (await read_window_data(mem, WINDOW))["rff-1", "replay"]
    assert data.experiences.step.tolist() == [0, 1439]


async def test_an_empty_window_holds_nothing(mem: MemoryConnection, make: Any) -> None:
    assert await read_window_data(mem, WINDOW) == {}
    await mem.episodic.add(make(0))
    assert await read_window_data(mem, Window.of_date(date(2021, 6, 18))) == {}


async def test_of_records_that_differ_the_first_by_id_speaks_for_the_state(mem: MemoryConnection, make: Any) -> None:
    records = [
        make(0, agent_id=agent, price=price, features={agent: price}, known_at=DAY + timedelta(seconds=60 + price))
        for agent, price in (("momentum", 1.0), ("hold", 2.0), ("random", 3.0))
    ]
    await mem.episodic.add_many(records)
    first = min(records, key=lambda record: record.memory_id)
    states = (await read_window_data(mem, WINDOW))["rff-1", "replay"].states
    assert states.origin.tolist() == [first.memory_id.encode()]
    assert states.price.tolist() == [first.price]
    assert states.feature_names == (first.agent_id,)
    assert states.known_at_ms.tolist() == [to_ms(DAY + timedelta(seconds=61))]


# --- part by part --------------------------------------------------------------------------------------------


def rows_of(data: WindowData) -> tuple[list[Any], list[Any]]:
    """States and experiences as rows that do not depend on what else is in their table."""
    states, lived = data.states, data.experiences
    state_rows = [
        (
            states.products[states.product[row]],
            *(int(getattr(states, name)[row]) for name in ("timestamp_ms", "known_at_ms", "recorded_at_ms", "regime")),
            states.vectors[row].tobytes(),
            states.origin[row],
            float(states.price[row]),
            tuple(
                sorted((name, value) for name in states.feature_names if (value := states.feature(name)[row]) == value)
            ),
        )
        for row in range(len(states))
    ]
    lived_rows = [
        (
            lived.agents[lived.agent[row]],
            lived.products[lived.product[row]],
            lived.runs[lived.run[row]],
            *(getattr(lived, field.name)[row].item() for field in dataclasses.fields(lived)
              if field.name not in ("agent", "product", "run", "quality")
              and isinstance(getattr(lived, field.name), np.ndarray)),
        )
        for row in range(len(lived))
    ]  # fmt: skip
    return state_rows, lived_rows


@pytest.mark.parametrize("part_rows", [1, 10, 40, 10_000])
async def test_parts_put_together_are_the_whole_window(mem: MemoryConnection, make: Any, part_rows: int) -> None:
    night = [
        make(
            minute,
            agent_id=agent,
            product_id=product,
            source=source,
            features={"trend": float(minute), f"only_{product}": 1.0},
        )
        for source in ("live", "replay")
        for agent in ("momentum", "hold")
        for product in ("ETH-USDT", "BTC-USDT")
        for minute in (0, 1, 59, 60, 61, 500, 1439)
    ]
    await mem.episodic.add_many([*night, make(3, encoder_id="rff-2"), make(1440)])
    whole = await read_window_data(mem, WINDOW)
    parts = [part async for part in window_parts(mem, WINDOW, part_rows=part_rows, page_size=5)]
    places = [(part.states.encoder_id, part.states.source) for part in parts]
    assert [place for number, place in enumerate(places) if place not in places[:number]] == list(whole)
    assert len(parts) == {1: 17, 10: 9, 40: 5, 10_000: 5}[part_rows]
    for place, data in whole.items():
        own = [part for part, own_place in zip(parts, places, strict=True) if own_place == place]
        states, lived = rows_of(data)
        assert [row for part in own for row in rows_of(part)[0]] == states
        assert sorted(row for part in own for row in rows_of(part)[1]) == sorted(lived)
        assert all(len(set(part.states.product.tolist())) == 1 for part in own)


async def test_an_empty_window_has_no_parts(mem: MemoryConnection, make: Any) -> None:
    assert [part async for part in window_parts(mem, WINDOW)] == []
    await mem.episodic.add(make(1440))
    assert [part async for part in window_parts(mem, WINDOW)] == []
