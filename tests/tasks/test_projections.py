"""Records survive the way into the ledger's rows and back, and rows hold nothing of the namespace."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest

from memory.records import (
    Condition,
    CorrelationMemory,
    Interval,
    Outcome,
    PatternMemory,
    PerformanceMetrics,
    RegimeMemory,
    SemanticMemory,
    StrategyMemory,
    VolatilityOutcome,
)
from tasks.projections import from_payload, to_payload

NOW = datetime(2021, 6, 18, tzinfo=UTC)
LINE = "somewhere/enc/1"
COMMON: dict[str, Any] = {
    "description": "what it is",
    "encoder_id": "enc",
    "line": LINE,
    "created_at": NOW,
    "valid_from": NOW,
}


def vector() -> np.ndarray[Any, np.dtype[np.float32]]:
    value = np.random.default_rng(1).standard_normal(256).astype(np.float32)
    return value / np.linalg.norm(value)


def outcome() -> Outcome:
    return Outcome(
        action="LONG",
        horizon_minutes=15,
        n=40,
        blocks=9,
        gross_mean=0.001,
        net_mean=0.0006,
        interval=Interval(low=-0.001, high=0.003),
        win_rate=0.5,
        gross_sharpe=1.5,
        net_sharpe=None,
        max_drawdown=0.01,
        shrunk_net_mean=0.0001,
        q_value=0.2,
    )


def pattern() -> PatternMemory:
    return PatternMemory(
        **COMMON,
        memory_id="p-1",
        pattern_id="p-1",
        concept_vector=vector(),
        source="replay",
        regime="QUIET",
        product_ids=("BTC-USDT", "ETH-USDT"),
        conditions=(Condition(feature="volatility", low=0.1, high=0.4, lift=2.0, phrase="it was calm"),),
        support=4,
        effective_support=3,
        states=40,
        windows_seen=2,
        first_seen=NOW,
        last_seen=NOW,
        broad=False,
        status="new",
        outcomes=(outcome(),),
        volatility=(VolatilityOutcome(horizon_minutes=15, n=40, blocks=9, mean=-0.1, interval=None, base_mean=0.0),),
        expected_return=0.0001,
        best_action="LONG",
        realised={"momentum": {"buy_n": 3.0}},
    )


def regime() -> RegimeMemory:
    return RegimeMemory(
        **COMMON,
        memory_id="r-1",
        regime_name="QUIET",
        concept_vector=vector(),
        product_id="ALL",
        regime_features={"volatility": 0.5},
        states=100,
        share=0.25,
        typical_duration=None,
        transition_probability={"VOLATILE": 1.0},
        step_probability={"QUIET": 0.9},
        step_s=60.0,
        spells=3,
    )


def strategy() -> StrategyMemory:
    metrics = PerformanceMetrics(
        n=10,
        blocks=8,
        block_minutes=30,
        periods_per_year=17520.0,
        mean_return=0.0,
        total_return=0.0,
        win_rate=0.5,
        win_rate_interval=Interval(low=0.2, high=0.8),
        sharpe_ratio=None,
        gross_sharpe_ratio=0.1,
        max_drawdown=0.0,
    )
    return StrategyMemory(
        **COMMON,
        memory_id="s-1",
        strategy_name="momentum",
        agent_id="momentum",
        source="replay",
        applicable_regimes=("TRENDING",),
        success_rate_by_regime={"TRENDING": 0.6},
        performance={"TRENDING": metrics},
    )


def correlation() -> CorrelationMemory:
    return CorrelationMemory(
        **COMMON,
        memory_id="c-1",
        products=("BTC-USDT", "ETH-USDT"),
        regime="QUIET",
        bar_minutes=1,
        lag=0,
        correlation=0.8,
        interval=Interval(low=0.7, high=0.9),
        n=40,
        claimed=True,
    )


@pytest.mark.parametrize("make", [pattern, regime, strategy, correlation])
def test_a_record_comes_back_as_it_was(make: Any) -> None:
    memory: SemanticMemory = make()
    back = from_payload(to_payload(memory), LINE)
    assert type(back) is type(memory)
    for name in memory.__dataclass_fields__:
        np.testing.assert_equal(getattr(back, name), getattr(memory, name), err_msg=name)


@pytest.mark.parametrize("make", [pattern, regime, strategy, correlation])
def test_equal_knowledge_of_two_namespaces_has_equal_bytes(make: Any) -> None:
    one, other = make(), make()
    other.line = "elsewhere/enc/1"
    assert to_payload(one) == to_payload(other)
    assert b"somewhere" not in msgspec.msgpack.encode(to_payload(one))
