from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.learning.outcomes import (
    GROSS,
    LONG_NET,
    SCALED,
    SHORT_NET,
    VOLATILITY,
    compute_outcomes,
    forward_returns,
    round_trip_cost,
)
from memory.learning.predictions import HORIZONS
from memory.learning.settings import LearningSettings
from memory.records import REGIMES
from memory.tables import TRAILING_VOLATILITY, StateTable

MINUTE = 60_000


def table(minutes: list[list[int]], prices: list[list[float]], spread: float = np.nan) -> StateTable:
    """States of some products at the given minutes."""
    product = np.repeat(np.arange(len(minutes)), [len(times) for times in minutes])
    n = len(product)
    times = np.array([minute * MINUTE for series in minutes for minute in series], dtype=np.int64)
    return StateTable(
        encoder_id="enc",
        source="replay",
        feature_names=(TRAILING_VOLATILITY,),
        products=tuple(f"P{number}" for number in range(len(minutes))),
        product=product,
        timestamp_ms=times,
        known_at_ms=times,
        recorded_at_ms=times,
        vectors=np.tile(np.float32([1.0, 0.0]), (n, 1)),
        features=np.full((n, 1), 0.001),
        price=np.array([price for series in prices for price in series], dtype=np.float64),
        spread=np.full(n, spread),
        regime=np.full(n, REGIMES.index("QUIET")),
    )


def plain_return(minutes: list[int], prices: list[float], row: int, horizon: int, gap: int) -> float:
    """The definition, one state at a time."""
    until = minutes[row] + horizon
    last = row
    while last + 1 < len(minutes) and minutes[last + 1] <= until:
        if minutes[last + 1] - minutes[last] > gap:
            return math.nan
        last += 1
    if minutes[last] == until:
        return prices[last] / prices[row] - 1
    if last + 1 == len(minutes) or minutes[last + 1] - minutes[last] > gap:
        return math.nan
    return prices[last] / prices[row] - 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from([1, 1, 1, 2, 5, 6, 30]), st.floats(1, 100)), min_size=1, max_size=40),
        min_size=1,
        max_size=3,
    )
)
def test_returns_are_those_of_a_plain_loop(series: list[list[tuple[int, float]]]) -> None:
    minutes = [np.cumsum([step for step, _ in rows]).tolist() for rows in series]
    prices = [[price for _, price in rows] for rows in series]
    returns = forward_returns(table(minutes, prices), max_gap_minutes=5)
    expected = [
        [plain_return(times, values, row, horizon, 5) for horizon in HORIZONS]
        for times, values in zip(minutes, prices, strict=True)
        for row in range(len(times))
    ]
    np.testing.assert_allclose(returns, np.array(expected).reshape(-1, len(HORIZONS)), rtol=1e-12)


def test_nothing_is_carried_across_a_gap() -> None:
    returns = forward_returns(table([[0, 1, 2, 10, 11]], [[1.0, 2.0, 3.0, 9.0, 9.0]]), max_gap_minutes=5)
    assert returns[0, 0] == 1.0
    assert np.isnan(returns[0, 1])
    assert np.isnan(returns[2, 0])
    assert returns[3, 0] == 0.0


def test_the_end_of_the_window_is_censored() -> None:
    returns = forward_returns(table([list(range(61))], [[1.0] * 61]), max_gap_minutes=5)
    assert np.isfinite(returns[0]).all()
    assert np.isnan(returns[1, 3])
    assert np.isnan(returns[60]).all()


def test_a_minute_without_a_trade_keeps_the_price() -> None:
    returns = forward_returns(table([[0, 2, 3]], [[1.0, 2.0, 2.0]]), max_gap_minutes=5)
    assert returns[0, 0] == 0.0


def test_costs_are_two_sides_with_half_the_spread_each() -> None:
    assert round_trip_cost(table([[0]], [[100.0]], spread=0.1), cost_bp=2.0)[0] == pytest.approx(4e-4 + 1e-3)
    assert round_trip_cost(table([[0]], [[100.0]]), cost_bp=2.0)[0] == pytest.approx(4e-4)


def test_measures_follow_from_the_return() -> None:
    outcomes = compute_outcomes(table([[0, 1]], [[100.0, 101.0]]), LearningSettings())
    one_minute = outcomes.measures[0, 0]
    assert one_minute[GROSS] == pytest.approx(0.01)
    assert one_minute[LONG_NET] == pytest.approx(0.01 - 4e-4)
    assert one_minute[SHORT_NET] == pytest.approx(-0.01 - 4e-4)
    assert one_minute[SCALED] == pytest.approx(10.0)
    assert one_minute[VOLATILITY] == pytest.approx(math.log(10.0))


def test_longer_horizons_are_scaled_by_the_root_of_time() -> None:
    outcomes = compute_outcomes(table([list(range(16))], [[100.0] * 15 + [101.0]]), LearningSettings())
    assert outcomes.measures[0, 2, SCALED] == pytest.approx(10.0 / math.sqrt(15))


def test_a_price_that_stands_still_has_the_floor_as_its_volatility() -> None:
    outcomes = compute_outcomes(table([[0, 1]], [[100.0, 100.0]]), LearningSettings(volatility_floor=0.01))
    assert outcomes.measures[0, 0, VOLATILITY] == pytest.approx(math.log(0.01))


def test_without_trailing_volatility_returns_are_known_and_the_rest_is_not() -> None:
    states = table([[0, 1]], [[100.0, 101.0]])
    states.features[:] = 0.0
    measures = compute_outcomes(states, LearningSettings()).measures[0, 0]
    assert np.isfinite(measures[: SHORT_NET + 1]).all()
    assert np.isnan(measures[[SCALED, VOLATILITY]]).all()


@pytest.mark.parametrize("price", [0.0, -1.0, float("inf"), float("nan")])
def test_a_price_that_is_none_gives_no_return(price: float) -> None:
    returns = forward_returns(table([[0, 1, 2]], [[100.0, price, 101.0]]), max_gap_minutes=5)
    assert np.isnan(returns).all()
