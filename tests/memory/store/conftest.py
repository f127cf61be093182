"""Builders of records."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from memory.records import (
    Action,
    Condition,
    EpisodicMemory,
    Interval,
    Outcome,
    PatternMemory,
    PerformanceMetrics,
    RegimeMemory,
    Side,
    StrategyMemory,
    VolatilityOutcome,
)

DAY = datetime(2021, 6, 17, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

MakeExperience = Callable[..., EpisodicMemory]


def unit_vector(seed: int, dimension: int = 256) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The same vector for the same seed."""
    vector = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def experience(minute: int = 0, **changes: Any) -> EpisodicMemory:
    """The experience of a minute: its state is that of the minute, its next state that of the next minute."""
    timestamp = DAY + minute * MINUTE
    values: dict[str, Any] = {
        "agent_id": "momentum",
        "timestamp": timestamp,
        "state_vector": unit_vector(max(minute, 0)),
        "next_state_vector": unit_vector(minute + 1),
        "action": Action(Side.BUY, 0.5),
        "reward": minute / 1000,
        "product_id": "BTC-USDT",
        "regime": "QUIET",
        "encoder_id": "rff-1",
        "source": "replay",
        "run_id": "run-1",
        "step": minute,
        "known_at": timestamp + MINUTE,
        "price": 30_000.0 + minute,
        "spread": 0.5,
        "gross_return": 0.001,
        "cost": 0.0002,
        "position_before": 0.0,
        "position_after": 0.5,
        "confidence": 0.75,
        "features": {"trailing_volatility": 0.001 * (minute + 1), "trend": -1.5},
        "other_agent_actions": {"hold": Action(Side.HOLD, 0.0)},
        "cumulative_return": 0.25,
        "return_known_at": DAY + timedelta(days=1),
    }
    return EpisodicMemory(**{**values, **changes})


@pytest.fixture
def make() -> MakeExperience:
    """Builder of experiences."""
    return experience


def same_experience(one: EpisodicMemory, other: EpisodicMemory, *, ignore: tuple[str, ...] = ("recorded_at",)) -> bool:
    """Whether two experiences agree in every field."""
    for name in EpisodicMemory.__slots__:
        if name in ignore:
            continue
        left, right = getattr(one, name), getattr(other, name)
        if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
            if not np.array_equal(left, right):
                return False
        elif left != right:
            return False
    return True


@pytest.fixture
def same() -> Callable[..., bool]:
    """Comparison of experiences, field by field."""
    return same_experience


def pattern(name: str = "p-1", seed: int = 0, line: str = "ns/rff-1/1", **changes: Any) -> PatternMemory:
    """A pattern."""
    values: dict[str, Any] = {
        "memory_id": name,
        "description": "price has risen on heavy volume",
        "encoder_id": "rff-1",
        "line": line,
        "created_at": DAY,
        "valid_from": DAY,
        "pattern_id": name,
        "concept_vector": unit_vector(seed),
        "source": "replay",
        "regime": "QUIET",
        "product_ids": ("BTC-USDT", "ETH-USDT"),
        "conditions": (Condition(feature="trend", low=-1.0, high=2.0, lift=1.5, phrase="rising"),),
        "support": 5,
        "effective_support": 3,
        "states": 40,
        "windows_seen": 1,
        "first_seen": DAY,
        "last_seen": DAY,
        "broad": False,
        "status": "new",
        "outcomes": (
            Outcome(
                action="LONG",
                horizon_minutes=5,
                n=40,
                blocks=9,
                gross_mean=0.001,
                net_mean=0.0005,
                interval=Interval(low=-0.001, high=0.003),
                win_rate=0.55,
                gross_sharpe=2.0,
                net_sharpe=None,
                max_drawdown=0.01,
                shrunk_net_mean=0.0003,
                q_value=0.2,
            ),
        ),
        "volatility": (VolatilityOutcome(horizon_minutes=5, n=40, blocks=9, mean=0.1, interval=None, base_mean=0.0),),
        "expected_return": 0.0003,
        "best_action": "LONG",
        "realised": {"momentum": {"BUY": 0.001}},
    }
    return PatternMemory(**{**values, **changes})


def regime(name: str = "regime-QUIET", **changes: Any) -> RegimeMemory:
    """A regime."""
    values: dict[str, Any] = {
        "memory_id": name,
        "description": "quiet",
        "encoder_id": "rff-1",
        "line": "ns/rff-1/1",
        "created_at": DAY,
        "valid_from": DAY,
        "regime_name": "QUIET",
        "concept_vector": unit_vector(99),
        "product_id": "BTC-USDT",
        "regime_features": {"volatility": 0.1},
        "states": 100,
        "share": 0.4,
        "typical_duration": 900.0,
        "transition_probability": {"VOLATILE": 1.0},
        "step_probability": {"QUIET": 0.9, "VOLATILE": 0.1},
        "step_s": 60.0,
        "spells": 12,
    }
    return RegimeMemory(**{**values, **changes})


def strategy(name: str = "s-momentum", **changes: Any) -> StrategyMemory:
    """A strategy."""
    values: dict[str, Any] = {
        "memory_id": name,
        "description": "momentum",
        "encoder_id": "rff-1",
        "line": "ns/rff-1/1",
        "created_at": DAY,
        "valid_from": DAY,
        "strategy_name": "momentum",
        "agent_id": "momentum",
        "source": "replay",
        "applicable_regimes": ("QUIET",),
        "success_rate_by_regime": {"QUIET": 0.5},
        "performance": {
            "QUIET": PerformanceMetrics(
                n=10,
                blocks=8,
                block_minutes=30,
                periods_per_year=17_520.0,
                mean_return=0.001,
                total_return=0.01,
                win_rate=0.5,
                win_rate_interval=Interval(low=0.3, high=0.7),
                sharpe_ratio=1.2,
                gross_sharpe_ratio=1.5,
                max_drawdown=0.02,
            )
        },
    }
    return StrategyMemory(**{**values, **changes})


@pytest.fixture
def build() -> dict[str, Callable[..., Any]]:
    """Builders of semantic memories, by kind, and of vectors."""
    return {"pattern": pattern, "regime": regime, "strategy": strategy, "vector": unit_vector}
