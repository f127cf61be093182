"""Fixtures of the agents' side: the sample markets, the encoders that ship, and candles made for a test."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from agents.baselines import baseline_agents
from agents.encoder import StateEncoder
from agents.fitting import default_encoder
from agents.market import Market
from agents.simulation import SimulatedWindow, simulate

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
