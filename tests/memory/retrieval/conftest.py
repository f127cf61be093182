"""Builders of records for questions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from memory.records import Action, EpisodicMemory, Side

DAY = datetime(2021, 6, 17, tzinfo=UTC)


def unit_vector(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The same vector for the same seed."""
    vector = np.random.default_rng(seed).standard_normal(256).astype(np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def experience(minute: int = 0, **changes: Any) -> EpisodicMemory:
    """An experience of a minute of the day, known a minute later."""
    timestamp = DAY + timedelta(minutes=minute)
    values: dict[str, Any] = {
        "agent_id": "momentum",
        "timestamp": timestamp,
        "state_vector": unit_vector(minute),
        "action": Action(Side.BUY, 0.5),
        "reward": minute / 1000,
        "product_id": "BTC-USDT",
        "regime": "QUIET",
        "encoder_id": "rff-1",
        "source": "replay",
        "run_id": "run-1",
        "step": minute,
        "known_at": timestamp + timedelta(minutes=1),
        "features": {"trend": float(minute)},
        "cumulative_return": 0.25,
        "return_known_at": DAY + timedelta(days=1),
    }
    return EpisodicMemory(**{**values, **changes})


@pytest.fixture
def make() -> Callable[..., EpisodicMemory]:
    """Builder of experiences."""
    return experience


@pytest.fixture
def vector() -> Callable[[int], np.ndarray[Any, np.dtype[np.float32]]]:
    """Builder of vectors: `vector(minute)` is the state of `make(minute)`."""
    return unit_vector
