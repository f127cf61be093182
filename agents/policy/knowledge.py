"""The knowledge part of a policy's inputs: what the nights learned of the regime and of the state's pattern."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from agents.policy.inputs import Bools, Inputs32, volatility_of
from agents.policy.layout import KNOWLEDGE_NAMES, OUTCOME_CLIP, PATTERN_COLUMNS, REGIME_COLUMNS
from memory.learning.evidence import ESTIMATE_HORIZONS
from memory.records import REGIMES, PatternMemory, RegimeMemory


def knowledge_of(
    regime: RegimeMemory | None,
    pattern: PatternMemory | None = None,
    pattern_distance: float | None = None,
    *,
    trailing_volatility: float = math.nan,
    next_regimes: Mapping[str, float] | None = None,
) -> tuple[Inputs32, Bools]:
    """The knowledge part of one state's inputs: (R,) and its mask (R,); what is not known is masked.

    Parameters
    ----------
    regime
        What is known of the state's regime.
    pattern, pattern_distance
        The pattern that the state is an occurrence of, and how far the state is from it.
    trailing_volatility
        Of the state; patterns' means are given in it.
    next_regimes
        What follows the regime given the path; the memory's own row where None.
    """
    values = np.full(len(KNOWLEDGE_NAMES), np.nan)
    if regime is not None:
        values[REGIME_COLUMNS] = _regime_figures(regime, next_regimes)
    if pattern is not None:
        values[PATTERN_COLUMNS] = _pattern_figures(pattern, pattern_distance, trailing_volatility)
    known = np.isfinite(values)
    return np.where(known, np.clip(values, -OUTCOME_CLIP, OUTCOME_CLIP), 0.0).astype(np.float32), known


def _regime_figures(memory: RegimeMemory, next_regimes: Mapping[str, float] | None) -> list[float]:
    rates = {rate.horizon_minutes: rate for rate in memory.base_rates}
    following = memory.transition_probability if next_regimes is None else next_regimes
    scaled = [rates[horizon].scaled if horizon in rates else None for horizon in ESTIMATE_HORIZONS]
    volatility = [rates[horizon].volatility if horizon in rates else None for horizon in ESTIMATE_HORIZONS]
    return [
        *(math.nan if figure is None else figure.mean for figure in (*scaled, *volatility)),
        *(following.get(name, 0.0) for name in REGIMES),
        math.nan if memory.typical_duration is None else math.log1p(memory.typical_duration / 60.0),
    ]


def _pattern_figures(memory: PatternMemory, distance: float | None, trailing_volatility: float) -> list[float]:
    volatility = float(volatility_of(np.array([trailing_volatility]))[0])
    means = {(item.action, item.horizon_minutes): item.shrunk_net_mean for item in memory.outcomes}
    excess = {item.horizon_minutes: item.mean - item.base_mean for item in memory.volatility}

    def scaled(action: str, horizon: int) -> float:
        return means.get((action, horizon), math.nan) / (volatility * math.sqrt(horizon))

    return [
        *(scaled("LONG", horizon) for horizon in ESTIMATE_HORIZONS),
        *(scaled("SHORT", horizon) for horizon in ESTIMATE_HORIZONS),
        *(excess.get(horizon, math.nan) for horizon in ESTIMATE_HORIZONS),
        math.nan if distance is None else distance,
        math.log1p(memory.support),
    ]


def no_knowledge(count: int) -> tuple[Inputs32, Bools]:
    """Knowledge of nothing, (count, R) and its mask."""
    shape = (count, len(KNOWLEDGE_NAMES))
    return np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
