"""Sums of windows, merged, equal those of one pass over all states."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from memory.learning import serial
from memory.learning.blocks import block_interval, block_mean
from memory.learning.correlation_memory import fisher_interval, lag_correlations
from memory.learning.correlations import CorrelationState, fold_correlations, summarise_correlations
from memory.learning.outcomes import GROSS, LONG_NET, SHORT_NET
from memory.learning.predictions import HORIZONS
from memory.learning.regime_memory import RegimeState, fold_regimes, summarise_regimes
from memory.learning.sketches import LEAST, MOST, RELATIVE_ERROR, FeatureSketch, grouped_sketches
from memory.learning.statistics import Drawdown, sharpe
from memory.learning.sums import OutcomeSums, outcome_sums
from memory.learning.transitions import TransitionState, fold_transitions, summarise_transitions
from memory.records import to_ms
from memory.tables import StateTable
from memory.window import Window
from tests.memory.learning.merging.drawn_days import DAY_MINUTES, MINUTE_MS, SETTINGS, Days, days_of_states
from tests.memory.learning.merging.plain_figures import plain_figures, same_blocks

COLUMNS = {GROSS: "gross", LONG_NET: "long", SHORT_NET: "short"}


@settings(max_examples=12, deadline=None)
@given(days_of_states)
def test_sums_of_outcomes_equal_one_pass_and_give_the_figures_of_the_definitions(days: Days) -> None:
    parts = [
        outcome_sums(outcomes, table.timestamp_ms, np.where(members, 0, -1), 1, SETTINGS)
        for outcomes, table, members in zip(days.outcomes(), days.tables, days.members, strict=True)
    ]
    merged = reduce(OutcomeSums.merged_with, (sums[0] for sums, _ in parts), OutcomeSums.empty())
    drawdown = reduce(Drawdown.followed_by, (drops[0] for _, drops in parts), Drawdown.empty((len(HORIZONS), 2)))
    chosen = np.concatenate(days.members)[days.canonical]
    whole, outcomes = days.together, days.all_outcomes()
    (at_once,), (drop,) = outcome_sums(outcomes, whole.timestamp_ms, np.where(chosen, 0, -1), 1, SETTINGS)

    same_blocks(merged.blocks, at_once.blocks)
    np.testing.assert_array_equal(merged.wins, at_once.wins)
    np.testing.assert_array_equal(merged.block_returns.count, at_once.block_returns.count)
    for name, scale in (("mean", 1e-3), ("m2", 1e-6), ("m3", 1e-9), ("m4", 1e-12)):
        ours, theirs = getattr(merged.block_returns, name), getattr(at_once.block_returns, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * scale)
    for name in ("total", "highest", "lowest", "worst"):
        np.testing.assert_allclose(getattr(drawdown, name), getattr(drop, name), rtol=0, atol=1e-12)

    low, high = block_interval(merged.blocks)
    ratios = sharpe(
        merged.block_returns, np.array([SETTINGS.periods_per_year(horizon) for horizon in HORIZONS])[:, None]
    )
    for row, horizon in enumerate(HORIZONS):
        for column, name in COLUMNS.items():
            plain = plain_figures(outcomes.measures[chosen, row, column], whole.timestamp_ms[chosen], horizon)
            sums = merged.blocks[row, column]
            assert (int(sums.n), int(sums.blocks)) == (plain.n, plain.blocks), name
            for ours, theirs in (
                (block_mean(sums), plain.mean),
                (low[row, column], plain.low),
                (high[row, column], plain.high),
            ):
                assert float(ours) == pytest.approx(theirs, rel=1e-7, abs=1e-13, nan_ok=True)
            assert float(ratios[row, column]) == pytest.approx(plain.sharpe, rel=1e-6, nan_ok=True)
        for position, column in enumerate((LONG_NET, SHORT_NET)):
            plain = plain_figures(outcomes.measures[chosen, row, column], whole.timestamp_ms[chosen], horizon)
            assert float(drawdown.worst[row, position]) == pytest.approx(plain.drawdown, abs=1e-12)
            if plain.n:
                assert merged.wins[row, position] / plain.n == pytest.approx(plain.win_rate)


@settings(max_examples=12, deadline=None)
@given(days_of_states)
def test_base_rates_and_looks_of_regimes_equal_one_pass(days: Days) -> None:
    state: RegimeState | None = None
    for window, table in zip(days.windows, days.tables, strict=True):
        state = fold_regimes(state, summarise_regimes(table, window))
    at_once = summarise_regimes(days.together, days.span, outcomes=days.all_outcomes())
    assert state is not None
    assert [(cell.product, cell.regime, cell.states) for cell in state.cells] == [
        (cell.product, cell.regime, cell.states) for cell in at_once.cells
    ]
    for ours, theirs in zip(state.cells, at_once.cells, strict=True):
        same_blocks(ours.outcomes, theirs.outcomes)
        assert serial.encode(ours.sketch) == serial.encode(theirs.sketch)
        assert serial.encode(ours.magnitudes) == serial.encode(theirs.magnitudes)
        np.testing.assert_array_equal(ours.feature_count, theirs.feature_count)
        np.testing.assert_allclose(ours.feature_sum, theirs.feature_sum, rtol=0, atol=1e-9)
        np.testing.assert_allclose(ours.vector_sum, theirs.vector_sum, rtol=0, atol=1e-9)


@settings(max_examples=12, deadline=None)
@given(days_of_states)
def test_transitions_equal_one_pass_over_midnight_too(days: Days) -> None:
    state: TransitionState | None = None
    for table in days.tables:
        state = fold_transitions(state, summarise_transitions(table))
    assert state is not None
    assert serial.encode(state) == serial.encode(summarise_transitions(days.together))


@settings(max_examples=8, deadline=None)
@given(days_of_states)
def test_correlations_equal_those_of_all_pairs_within_days(days: Days) -> None:
    state: CorrelationState | None = None
    for window, table in zip(days.windows, days.tables, strict=True):
        state = fold_correlations(state, summarise_correlations(table, window))
    assert state is not None
    for pair in state.pairs:
        if (pair.bar_minutes, pair.regime) != (1, "ALL"):
            continue
        series = [
            _minute_returns(table, window, (pair.first, pair.second))
            for window, table in zip(days.windows, days.tables, strict=True)
        ]
        found = lag_correlations(pair)
        blocks = sum(len(np.unique(np.flatnonzero(_common(a, b)) // 30)) for a, b in series)
        assert pair.blocks == blocks
        for lag in (-7, 0, 3):
            left, right = _pairs_at(series, lag)
            position = 10 + lag
            assert pair.lags[position, 0] == len(left)
            if len(left) > 2:
                expected = np.corrcoef(left, right)[0, 1]
                assert found.correlation[position] == pytest.approx(expected, abs=1e-7)
                interval = fisher_interval(float(found.correlation[position]), pair.blocks, 0.95)
                if interval is not None:
                    reach = stats.norm.ppf(0.975) / np.sqrt(pair.blocks - 3)
                    assert interval.high == pytest.approx(np.tanh(np.arctanh(expected) + reach), abs=1e-6)


def _minute_returns(table: StateTable, window: Window, pair: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for product in pair:
        price = np.full(DAY_MINUTES, np.nan)
        own = table.product == table.products.index(product)
        price[(table.timestamp_ms[own] - to_ms(window.start)) // MINUTE_MS] = table.price[own]
        found.append(np.concatenate([[np.nan], np.diff(np.log(price))]))
    return found[0], found[1]


def _common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ~np.isnan(a) & ~np.isnan(b)


def _pairs_at(series: list[tuple[np.ndarray, np.ndarray]], lag: int) -> tuple[np.ndarray, np.ndarray]:
    left, right = [], []
    for a, b in series:
        common = _common(a, b)
        for minute in np.flatnonzero(common):
            if 0 <= minute + lag < DAY_MINUTES and common[minute + lag]:
                left.append(a[minute])
                right.append(b[minute + lag])
    return np.array(left), np.array(right)


magnitudes = st.floats(LEAST, MOST).flatmap(lambda size: st.sampled_from([size, -size]))
samples = st.lists(
    st.lists(st.one_of(magnitudes, st.just(0.0), st.just(float("nan"))), max_size=25), min_size=1, max_size=4
)


@settings(max_examples=40, deadline=None)
@given(samples, st.floats(0, 1))
def test_quantiles_of_merged_sketches_are_within_the_stated_error_of_all_values(
    windows: list[list[float]], share: float
) -> None:
    sketches = [
        grouped_sketches(np.array(values).reshape(-1, 1), ("feature",), np.zeros(len(values), dtype=np.int64), 1)[0]
        for values in windows
    ]
    merged = reduce(FeatureSketch.merged_with, sketches)
    everything = np.array([value for values in windows for value in values])
    known = everything[~np.isnan(everything)]
    found = float(merged.quantiles([share])[0, 0])
    if not len(known):
        assert np.isnan(found)
        return
    # The rank below, with the same allowance for rounding as a whole rank has in the sketch.
    exact = np.sort(known)[int(np.floor(share * (len(known) - 1) + 1e-9))]
    assert found == pytest.approx(exact, rel=RELATIVE_ERROR * (1 + 1e-9), abs=LEAST)
    at_once = grouped_sketches(everything.reshape(-1, 1), ("feature",), np.zeros(len(everything), dtype=np.int64), 1)[0]
    assert serial.encode(merged) == serial.encode(at_once)
