"""Builders of records for questions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from memory import MemoryConnection
from memory.records import (
    Action,
    CorrelationMemory,
    EpisodicMemory,
    PatternMemory,
    PerformanceMetrics,
    RegimeMemory,
    SemanticType,
    Side,
    StrategyMemory,
)

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


# --- semantic memory -----------------------------------------------------------------------------------------

LINE = "ns/rff-1/1"
ORIGIN = {"encoder_id": "rff-1", "line": LINE, "created_at": DAY, "valid_from": DAY, "source": "replay"}
CHAIN = {
    "TRENDING": 0.4,
    "MEAN_REVERTING": 0.1,
    "VOLATILE": 0.2,
    "QUIET": 0.25,
    "CRISIS": 0.05,
}
"""How often each regime follows another one, before the one that is left is taken out."""


def others(name: str, tilt: str = "") -> dict[str, float]:
    """A row of the jump chain: every other regime, one of them twice as likely where `tilt` names it."""
    weights = {other: CHAIN[other] * (2 if other == tilt else 1) for other in CHAIN if other != name}
    return {other: weight / sum(weights.values()) for other, weight in weights.items()}


def regime_memory(name: str = "QUIET", product: str = "ALL", seed: int = 0, **changes: Any) -> RegimeMemory:
    """What is known of a regime in a product; paths from CRISIS were never seen."""
    values: dict[str, Any] = {
        **ORIGIN,
        "memory_id": f"r-{product}-{name}",
        "description": f"{name} in {product}",
        "regime_name": name,
        "concept_vector": unit_vector(seed),
        "product_id": product,
        "regime_features": {"trend": 0.1},
        "states": 100,
        "share": 0.4,
        "typical_duration": 900.0,
        "transition_probability": others(name),
        "step_probability": {"QUIET": 0.9, "VOLATILE": 0.1},
        "step_s": 60.0,
        "spells": 12,
        "path_probability": {
            before: others(name) if before == "CRISIS" else others(name, tilt="VOLATILE")
            for before in CHAIN
            if before != name
        },
    }
    return RegimeMemory(**{**values, **changes})


def performance(sharpe: float | None, blocks: int = 40, shrunk: float | None = None) -> PerformanceMetrics:
    """Figures of a strategy in one regime."""
    return PerformanceMetrics(
        n=10 * blocks,
        blocks=blocks,
        block_minutes=30,
        periods_per_year=17_520.0,
        mean_return=0.001,
        total_return=0.01,
        win_rate=0.5,
        win_rate_interval=None,
        sharpe_ratio=sharpe,
        gross_sharpe_ratio=None,
        max_drawdown=0.02,
        shrunk_sharpe_ratio=shrunk,
    )


def strategy_memory(agent: str, figures: dict[str, PerformanceMetrics], **changes: Any) -> StrategyMemory:
    """What is known of an agent's strategy."""
    values: dict[str, Any] = {
        **ORIGIN,
        "memory_id": f"s-{agent}",
        "description": agent,
        "strategy_name": agent,
        "agent_id": agent,
        "applicable_regimes": ("QUIET",),
        "success_rate_by_regime": dict.fromkeys(figures, 0.5),
        "performance": figures,
    }
    return StrategyMemory(**{**values, **changes})


def correlation_memory(
    first: str, second: str, correlation: float, *, lag: int = 0, regime: str = "ALL", bar: int = 1, **changes: Any
) -> CorrelationMemory:
    """How two products move together."""
    values: dict[str, Any] = {
        **ORIGIN,
        "memory_id": f"c-{first}-{second}-{bar}-{regime}-{lag}",
        "description": f"{first} and {second}",
        "products": (first, second),
        "regime": regime,
        "bar_minutes": bar,
        "lag": lag,
        "correlation": correlation,
        "interval": None,
        "n": 40,
        "claimed": True,
    }
    return CorrelationMemory(**{**values, **changes})


def pattern_memory(name: str = "p-1", seed: int = 0, **changes: Any) -> PatternMemory:
    """A pattern at the state of `unit_vector(seed)`."""
    values: dict[str, Any] = {
        **ORIGIN,
        "memory_id": name,
        "description": name,
        "pattern_id": name,
        "concept_vector": unit_vector(seed),
        "regime": "QUIET",
        "product_ids": ("BTC-USDT", "ETH-USDT"),
        "conditions": (),
        "support": 5,
        "effective_support": 3,
        "states": 40,
        "windows_seen": 1,
        "first_seen": DAY,
        "last_seen": DAY,
        "broad": False,
        "status": "new",
        "outcomes": (),
        "volatility": (),
        "expected_return": 0.0003,
        "best_action": "LONG",
    }
    return PatternMemory(**{**values, **changes})


@pytest.fixture
def build() -> dict[str, Callable[..., Any]]:
    """Builders of semantic memories, by kind, and of a strategy's figures."""
    return {
        "pattern": pattern_memory,
        "regime": regime_memory,
        "strategy": strategy_memory,
        "correlation": correlation_memory,
        "performance": performance,
    }


@pytest.fixture
def publish(mem: MemoryConnection) -> Callable[..., Awaitable[Any]]:
    """Publishes all that is known from a night on: ``await publish(memories, night=0)``."""

    async def publish(memories: Any, night: int = 0) -> Any:
        valid_from = DAY + timedelta(days=night)
        await mem.link.execute("SET", mem.keys.fence, 1)
        return await mem.semantic.publish(
            memories, line=LINE, kinds=tuple(SemanticType), token=1, valid_from=valid_from
        )

    return publish
