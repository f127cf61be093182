"""Fixtures of the agents' side: the sample markets, the encoders that ship, and candles made for a test."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

import memory
from agents.baselines import baseline_agents
from agents.encoder import StateEncoder
from agents.fitting import default_encoder
from agents.market import Market
from agents.recorder import ExperienceRecorder
from agents.replay import MarketReplay, State
from agents.simulation import SimulatedWindow, simulate
from memory import MemoryConnection
from memory.records import EpisodicMemory

NIGHT = datetime(2021, 6, 17, tzinfo=UTC), datetime(2021, 6, 18, tzinfo=UTC)


@pytest.fixture(scope="session")
def binance() -> Market:
    """The default sample: three products, no gap, no quotes."""
    return Market.sample("binance")


@pytest.fixture(scope="session")
def coinbase() -> Market:
    """The sample with quotes and gaps."""
    return Market.sample("coinbase")


@pytest.fixture(scope="session")
def encoder() -> StateEncoder:
    """The encoder of the default sample."""
    return default_encoder("binance")


@pytest.fixture(scope="session")
def coinbase_encoder() -> StateEncoder:
    """The encoder of the sample with quotes."""
    return default_encoder("coinbase")


@pytest.fixture(scope="session")
def night(binance: Market, encoder: StateEncoder) -> SimulatedWindow:
    """The first sample night."""
    return simulate(binance, *NIGHT, baseline_agents(), encoder)


@pytest.fixture
def candle_frame() -> Callable[..., pl.DataFrame]:
    """Makes a valid frame of one-minute candles; keyword arguments replace columns."""

    def make(rows: int = 20, **columns: Any) -> pl.DataFrame:
        close = 100.0 + np.sin(np.arange(rows))
        frame = pl.DataFrame(
            {
                "timestamp": pl.datetime_range(
                    datetime(2021, 6, 17),
                    datetime(2021, 6, 17) + (rows - 1) * pl.duration(minutes=1),
                    "1m",
                    time_zone="UTC",
                    eager=True,
                ),
                "open": close,
                "high": close + 1.0,
                "low": close - 1.0,
                "close": close,
                "volume": np.ones(rows),
            }
        )
        return frame.with_columns(**{name: pl.Series(name, values) for name, values in columns.items()})

    return make


@pytest.fixture
def candle_path(tmp_path: Path) -> Callable[..., Path]:
    """Writes a frame as a candle file and returns its path."""

    def write(frame: pl.DataFrame, name: str = "kraken_BTC-USD_1m.parquet") -> Path:
        path = tmp_path / name
        frame.write_parquet(path)
        return path

    return write


# --- some hours that agents lived through, in a memory of their own --------------------------------------------

HOURS_BEGIN = datetime(2021, 6, 17, tzinfo=UTC)
HOURS = 10
HOURS_AGENTS = ("momentum", "random")
HOURS_PRODUCT = "BTC-USDT"


@dataclass(frozen=True)
class Remembered:
    """A namespace that holds what was lived through, and what it was."""

    namespace: str
    redis_url: str
    lived: tuple[EpisodicMemory, ...]


@pytest.fixture(scope="session")
def lived_hours(binance: Market, encoder: StateEncoder) -> tuple[EpisodicMemory, ...]:
    """What two agents lived_hours through in some hours, a third of it good enough to be shared."""
    market = Market("hours", [binance.products[HOURS_PRODUCT]])
    agents = [agent for agent in baseline_agents(0) if agent.agent_id in HOURS_AGENTS]
    simulated = simulate(market, HOURS_BEGIN, HOURS_BEGIN + timedelta(days=1), agents, encoder)
    until = HOURS_BEGIN + timedelta(hours=HOURS)
    found = [item for item in simulated.experiences() if item.timestamp < until]
    for number, item in enumerate(found):
        item.quality = (number * 7 % 100) / 100
    return tuple(found)


@pytest.fixture(scope="session")
def remembered_hours(lived_hours: tuple[EpisodicMemory, ...], encoder: StateEncoder, servers: Any) -> Remembered:
    """The namespace, filled; the good ones lie in the shared pool."""
    redis_url = servers.redis_url
    namespace = f"t-policy-{uuid.uuid4().hex[:8]}"

    async def fill() -> None:
        async with memory.connect(redis_url=redis_url, namespace=namespace) as mem:
            definition = msgspec.json.decode(encoder.to_json())
            await mem.encoders.register(encoder.id_, fitted_until=encoder.fitted_until_, definition=definition)
            report = await mem.episodic.add_many([replace(item) for item in lived_hours])
            assert not report.rejections
            shared = await mem.shared.add_shared_experiences([replace(item) for item in lived_hours])
            assert shared.stored

    asyncio.run(fill())
    return Remembered(namespace, redis_url, lived_hours)


@pytest.fixture
async def filled(remembered_hours: Remembered) -> AsyncIterator[memory.MemoryConnection]:
    """An open memory on the filled namespace."""
    async with memory.connect(redis_url=remembered_hours.redis_url, namespace=remembered_hours.namespace) as mem:
        yield mem


@pytest.fixture
async def recorder(mem: MemoryConnection) -> AsyncIterator[ExperienceRecorder]:
    """A recorder into episodic memory."""
    # A busy machine may take long over what is written; nothing here is about how long.
    async with ExperienceRecorder(mem, destination="episodic", close_wait_s=120.0, on_termination=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def bitcoin(coinbase: Market) -> Market:
    """The sample with quotes and gaps, one product of it."""
    return Market("sample-coinbase", [coinbase.products["BTC-USD"]])


@pytest.fixture(scope="module")
def states(binance: Market, encoder: StateEncoder) -> list[State]:
    """Some hours of one product without quotes."""
    replay = MarketReplay(binance, NIGHT[0], NIGHT[0] + timedelta(hours=6), encoder)
    table = replay.product("BTC-USDT")
    return [table.state(row) for row in range(360)]
