"""Fixtures of the ledger's tests: a held namespace, a line in it, and small tables."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import pytest

from memory.ledger import FencingToken, Ledger
from memory.records import REGIMES
from memory.tables import ExperienceTable, StateTable, WindowData
from memory.window import Window

MakeWindowData = Callable[..., WindowData]


@pytest.fixture
def token(ledger: Ledger, namespace: str) -> FencingToken:
    """The right to write to the test's namespace."""
    run_id = ledger.runs.start("consolidate_memories", namespace, {}, lease_s=60)
    return ledger.fence.acquire(namespace, run_id, flow="consolidate_memories", lease_s=60)


@pytest.fixture
def line(ledger: Ledger, token: FencingToken) -> str:
    """A knowledge line of the test's namespace."""
    return ledger.lines.ensure(token, "encoder-1", "1")


@pytest.fixture
def window() -> Window:
    return Window.of_date(date(2021, 6, 17))


@pytest.fixture
def make_window_data() -> MakeWindowData:
    """Makes tables of random states and experiences in canonical order, by seed."""
    return _window_data


def _window_data(
    seed: int = 0, states: int = 60, *, source: str = "replay", features: tuple[str, ...] = ("a", "b")
) -> WindowData:
    random = np.random.default_rng(seed)
    products = ("BTC-USD", "ETH-USD")
    vectors = random.normal(size=(states, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    timestamp = 1_623_888_000_000 + 60_000 * (np.arange(states, dtype=np.int64) // 2)
    product = np.arange(states, dtype=np.int64) % 2
    order = np.lexsort((timestamp, product))
    product, timestamp = product[order], timestamp[order]
    spread = np.where(random.random(states) < 0.3, np.nan, random.random(states))
    table = StateTable(
        encoder_id="encoder-1",
        source=source,
        feature_names=features,
        products=products,
        product=product,
        timestamp_ms=timestamp,
        known_at_ms=timestamp + 60_000,
        recorded_at_ms=timestamp + 61_234,
        vectors=vectors,
        features=random.normal(size=(states, len(features))),
        price=random.uniform(1, 9, states),
        spread=spread,
        regime=random.integers(0, len(REGIMES), states),
    )
    agents = ("hold", "momentum")
    rows = np.tile(np.arange(states), len(agents))
    agent = np.repeat(np.arange(len(agents), dtype=np.int64), states)
    count = len(rows)
    experiences = ExperienceTable(
        encoder_id="encoder-1",
        source=source,
        agents=agents,
        products=products,
        runs=("sample",),
        agent=agent,
        product=product[rows],
        run=np.zeros(count, dtype=np.int64),
        timestamp_ms=timestamp[rows],
        known_at_ms=timestamp[rows] + 60_000,
        recorded_at_ms=timestamp[rows] + 61_234,
        step=np.arange(count, dtype=np.int64) % states,
        regime=table.regime[rows],
        side=random.integers(-1, 2, count),
        size=random.random(count),
        reward=random.normal(size=count),
        gross_return=random.normal(size=count),
        cost=random.random(count),
        position_before=np.full(count, np.nan),
        position_after=random.random(count),
        confidence=random.random(count),
        quality=np.full(count, np.nan),
        terminal=random.random(count) < 0.1,
    )
    return WindowData(table, experiences)
