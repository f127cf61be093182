"""Knowledge as inputs: in the state's own units, and masked where it is not known."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from agents.policy.knowledge import knowledge_of, no_knowledge
from agents.policy.layout import KNOWLEDGE_NAMES, OUTCOME_CLIP
from memory.records import (
    BaseRate,
    BlockFigure,
    Outcome,
    PatternMemory,
    RegimeMemory,
    VolatilityOutcome,
)

NOW = datetime(2021, 6, 18, tzinfo=UTC)
COMMON: dict[str, Any] = {
    "description": "",
    "encoder_id": "encoder",
    "line": "line",
    "created_at": NOW,
    "valid_from": NOW,
    "source": "replay",
}
PLACE = np.eye(1, 256, dtype=np.float32)[0]


def _figure(mean: float) -> BlockFigure:
    return BlockFigure(n=10, blocks=9, mean=mean, spread=1.0, variance=0.1, concentration=0.1)


def _regime(**changes: Any) -> RegimeMemory:
    fields: dict[str, Any] = {
        "memory_id": "r-1",
        "regime_name": "QUIET",
        "concept_vector": PLACE,
        "product_id": "ALL",
        "regime_features": {},
        "states": 100,
        "share": 0.5,
        "typical_duration": 600.0,
        "transition_probability": {"TRENDING": 0.75, "VOLATILE": 0.25},
        "step_probability": {},
        "step_s": 60.0,
        "spells": 5,
        "base_rates": (
            BaseRate(horizon_minutes=5, gross=_figure(1e-4), scaled=_figure(0.3), volatility=_figure(-0.6)),
        ),
    }
    return RegimeMemory(**COMMON, **{**fields, **changes})


def _pattern(mean: float = 4e-4) -> PatternMemory:
    outcome = Outcome(
        action="LONG",
        horizon_minutes=5,
        n=30,
        blocks=9,
        gross_mean=mean,
        net_mean=mean,
        interval=None,
        win_rate=0.5,
        gross_sharpe=None,
        net_sharpe=None,
        max_drawdown=0.0,
        shrunk_net_mean=mean,
    )
    risk = VolatilityOutcome(horizon_minutes=5, n=30, blocks=9, mean=0.5, interval=None, base_mean=-0.25)
    return PatternMemory(
        **COMMON,
        memory_id="p-1",
        pattern_id="p-1",
        concept_vector=PLACE,
        regime="QUIET",
        product_ids=("BTC-USDT",),
        conditions=(),
        support=7,
        effective_support=6,
        states=30,
        windows_seen=2,
        first_seen=NOW,
        last_seen=NOW,
        broad=False,
        status="confirmed",
        outcomes=(outcome,),
        volatility=(risk,),
        expected_return=mean,
        best_action=None,
    )


def _known(*given: Any, **named: Any) -> dict[str, float]:
    values, mask = knowledge_of(*given, **named)
    return {name: float(value) for name, value, known in zip(KNOWLEDGE_NAMES, values, mask, strict=True) if known}


def test_a_regime_tells_its_base_rates_and_what_follows_it() -> None:
    known = _known(_regime())
    assert known["base_return_5m"] == pytest.approx(0.3)
    assert known["base_volatility_5m"] == pytest.approx(-0.6)
    assert (known["next_TRENDING"], known["next_VOLATILE"], known["next_QUIET"]) == (0.75, 0.25, 0.0)
    assert known["log_duration"] == pytest.approx(math.log(11))
    assert "base_return_15m" not in known
    assert not [name for name in known if name.startswith("pattern")]


def test_the_path_so_far_may_say_more_of_what_follows() -> None:
    known = _known(_regime(typical_duration=None), next_regimes={"CRISIS": 1.0})
    assert (known["next_CRISIS"], known["next_TRENDING"]) == (1.0, 0.0)
    assert "log_duration" not in known


def test_a_pattern_tells_its_means_in_the_volatility_of_the_state() -> None:
    known = _known(None, _pattern(), 0.05, trailing_volatility=1e-3)
    assert known == {
        "pattern_long_5m": pytest.approx(0.4 / math.sqrt(5)),
        "pattern_volatility_5m": pytest.approx(0.75),
        "pattern_distance": pytest.approx(0.05),
        "pattern_log_support": pytest.approx(math.log(8)),
    }


def test_a_mean_that_is_out_of_all_proportion_is_clipped() -> None:
    assert _known(None, _pattern(1.0), 0.05, trailing_volatility=1e-3)["pattern_long_5m"] == OUTCOME_CLIP


def test_no_knowledge_is_masked() -> None:
    values, mask = no_knowledge(3)
    assert values.shape == mask.shape == (3, len(KNOWLEDGE_NAMES))
    assert not mask.any()
