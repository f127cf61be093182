"""What came of each state: forward returns, the volatility that followed, and the costs of acting on it.

Outcomes are counterfactual: the agents are price takers, so what long, short and flat would have brought is known
whatever anyone did, and is computed once for each distinct state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memory.learning.moves import forward_moves
from memory.learning.predictions import HORIZONS
from memory.learning.settings import LearningSettings
from memory.tables import TRAILING_VOLATILITY, Floats, Ints, StateTable

LONG, SHORT, FLAT = "LONG", "SHORT", "FLAT"
ACTIONS = (LONG, SHORT, FLAT)

GROSS, LONG_NET, SHORT_NET, SCALED, VOLATILITY = range(5)
"""Columns of `Outcomes.measures`. A short position's gross return is that of the long one with its sign turned."""
N_MEASURES = 5

_BASIS_POINT = 1e-4


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Outcomes of n states over the H horizons of `HORIZONS`; NaN where an outcome is unknown.

    Attributes
    ----------
    measures
        float64, shape (n, H, 5): forward return (that of a long position before costs), net return of a long and of a
        short position, forward return / (trailing volatility * sqrt(horizon)), and the logarithm of its magnitude.
        Returns are fractions of notional.
    cost
        float64, shape (n,): costs of a round trip, fraction of notional.
    """

    measures: Floats
    cost: Floats

    def take(self, rows: Ints) -> Outcomes:
        """Outcomes of some states."""
        return Outcomes(self.measures[rows], self.cost[rows])


def forward_returns(states: StateTable, *, max_gap_minutes: int) -> Floats:
    """Simple return of the price over each horizon: shape (n, H).

    Of each product as `forward_moves` has it. Only the given states are looked at: a window's outcomes depend on that
    window alone, and its end is censored.

    Parameters
    ----------
    states
        All states of one window, in canonical order (product, then time).
    max_gap_minutes
        Longest time between two states of a product that is no gap.

    Notes
    -----
    Cost: O(n log n).
    """
    returns = np.full((len(states), len(HORIZONS)), np.nan)
    for product in range(len(states.products)):
        rows = np.flatnonzero(states.product == product)
        returns[rows] = forward_moves(
            states.timestamp_ms[rows], states.price[rows], HORIZONS, max_gap_minutes=max_gap_minutes
        )
    return returns


def round_trip_cost(states: StateTable, *, cost_bp: float) -> Floats:
    """Costs of opening and closing a position: both sides, each with half the spread; shape (n,), fractions.

    A spread that is unknown counts as none.
    """
    priced = (states.price > 0) & np.isfinite(states.price)
    half_spread = np.divide(states.spread, 2.0 * states.price, out=np.zeros(len(states)), where=priced)
    half_spread = np.nan_to_num(half_spread, nan=0.0)
    cost: Floats = 2.0 * (cost_bp * _BASIS_POINT + half_spread)
    return cost


def compute_outcomes(states: StateTable, settings: LearningSettings) -> Outcomes:
    """Outcomes of all states of one window; see `Outcomes` and `forward_returns`."""
    returns = forward_returns(states, max_gap_minutes=settings.max_gap_minutes)
    cost = round_trip_cost(states, cost_bp=settings.cost_bp)
    trailing = states.feature(TRAILING_VOLATILITY)
    expected = np.where(trailing > 0, trailing, np.nan)[:, None] * np.sqrt(np.array(HORIZONS, dtype=np.float64))
    scaled = returns / expected
    measures = np.empty((len(states), len(HORIZONS), N_MEASURES))
    measures[:, :, GROSS] = returns
    measures[:, :, LONG_NET] = returns - cost[:, None]
    measures[:, :, SHORT_NET] = -returns - cost[:, None]
    measures[:, :, SCALED] = scaled
    measures[:, :, VOLATILITY] = np.log(np.maximum(np.abs(scaled), settings.volatility_floor))
    return Outcomes(measures, cost)
