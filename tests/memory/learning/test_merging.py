"""Figures merged over windows equal those of all states at once.

Days of states are drawn and cut at midnight; summaries are merged or folded in time order and held against one pass
over everything, by definitions written out here and not by the functions under test. "At once" has the one convention
that windows have: a forward return is known only where its horizon ends within the day, and pairs of returns lie within
one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from memory.learning import serial
from memory.learning.blocks import BlockSums, block_interval, block_mean, block_sums, value_variance
from memory.learning.context import ProjectionContext
from memory.learning.correlation_memory import fisher_interval, lag_correlations
from memory.learning.correlations import CorrelationState, fold_correlations, summarise_correlations
from memory.learning.fold import fold_window
from memory.learning.knowledge import FoldState, Judged, PartitionBase
from memory.learning.outcomes import GROSS, LONG_NET, SHORT_NET, VOLATILITY, Outcomes, compute_outcomes
from memory.learning.predictions import HORIZONS, PredictionGain, PredictionRecord
from memory.learning.projection import project_patterns
from memory.learning.quality import Rewards, score_quality, summarise_quality
from memory.learning.regime_memory import RegimeState, fold_regimes, summarise_regimes
from memory.learning.settings import LearningSettings
from memory.learning.sketches import LEAST, MOST, RELATIVE_ERROR, FeatureSketch, bin_numbers, grouped_sketches
from memory.learning.statistics import Drawdown, sharpe
from memory.learning.strategies import ALL_REGIMES, StrategyState, fold_strategies, summarise_strategies
from memory.learning.strategy_memory import project_strategies
from memory.learning.summaries import PartitionSummary
from memory.learning.sums import OutcomeSums, RealisedSums, outcome_sums, rank_correlations, realised_sums
from memory.learning.transitions import TransitionState, fold_transitions, summarise_transitions
from memory.records import REGIMES, to_ms
from memory.tables import TRAILING_VOLATILITY, ExperienceTable, StateTable
from memory.window import Window

SETTINGS = LearningSettings()
FIRST_DAY = date(2021, 6, 17)
MINUTE_MS = 60_000
DAY_MINUTES = 1_440
COLUMNS = {GROSS: "gross", LONG_NET: "long", SHORT_NET: "short"}


# --- days of states ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Days:
    """States of some days, those of each and those of all."""

    windows: tuple[Window, ...]
    tables: tuple[StateTable, ...]
    members: tuple[np.ndarray, ...]

    @property
    def span(self) -> Window:
        """All days as if they were one window."""
        return Window(self.windows[0].start, self.windows[-1].end)

    @property
    def together(self) -> StateTable:
        """All states, in canonical order."""
        names = StateTable.__slots__
        columns = {
            name: np.concatenate([getattr(table, name) for table in self.tables])
            for name in names
            if isinstance(getattr(self.tables[0], name), np.ndarray)
        }
        whole = replace(self.tables[0], **columns)
        return whole.take(self.canonical)

    @property
    def canonical(self) -> np.ndarray:
        """Order that brings the days' rows, one after the other, into canonical order."""
        product = np.concatenate([table.product for table in self.tables])
        times = np.concatenate([table.timestamp_ms for table in self.tables])
        return np.lexsort((times, product))

    def outcomes(self) -> list[Outcomes]:
        """Outcomes of each day: censored at its end."""
        return [compute_outcomes(table, SETTINGS) for table in self.tables]

    def all_outcomes(self) -> Outcomes:
        """The same outcomes, of all states in canonical order."""
        days = self.outcomes()
        measures = np.concatenate([outcomes.measures for outcomes in days])
        cost = np.concatenate([outcomes.cost for outcomes in days])
        return Outcomes(measures[self.canonical], cost[self.canonical])


def draw_days(seed: int, count: int, products: int, density: float) -> Days:
    """Days whose states are sparse or dense, with gaps, unknown prices, spreads, features and volatilities."""
    rng = np.random.default_rng(seed)
    windows = tuple(Window.of_date(FIRST_DAY + timedelta(days=day)) for day in range(count))
    tables, members = [], []
    for window in windows:
        keep = rng.random((products, DAY_MINUTES)) < density
        if rng.random() < 0.15:
            keep[:] = False
        product, minute = np.nonzero(keep)
        n = len(minute)
        # Seconds within the minute, so that nothing relies on decisions at its full.
        times = to_ms(window.start) + minute * MINUTE_MS + rng.integers(0, 2, n) * 500
        price = 100 * np.exp(np.cumsum(rng.standard_normal((products, DAY_MINUTES)) * 1e-3, axis=1))[keep]
        price[rng.random(n) < 0.02] = np.nan
        trailing = rng.uniform(5e-4, 2e-3, n)
        trailing[rng.random(n) < 0.02] = np.nan
        trailing[rng.random(n) < 0.02] = 0.0
        plain = rng.standard_normal(n)
        plain[rng.random(n) < 0.1] = np.nan
        vectors = rng.standard_normal((n, 8)).astype(np.float32)
        tables.append(
            StateTable(
                encoder_id="enc",
                source="replay",
                feature_names=("plain", TRAILING_VOLATILITY),
                products=tuple(f"P{number}" for number in range(products)),
                product=product.astype(np.int64),
                timestamp_ms=times.astype(np.int64),
                known_at_ms=times.astype(np.int64) + MINUTE_MS,
                recorded_at_ms=times.astype(np.int64),
                vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
                features=np.column_stack([plain, trailing]),
                price=price,
                spread=np.where(rng.random(n) < 0.5, 0.01, np.nan),
                regime=np.repeat(rng.integers(0, 3, DAY_MINUTES // 20), 20)[minute].astype(np.int64),
            )
        )
        members.append(rng.random(n) < 0.3)
    return Days(windows, tuple(tables), tuple(members))


days_of_states = st.builds(
    draw_days,
    seed=st.integers(0, 10_000),
    count=st.integers(1, 4),
    products=st.integers(1, 3),
    density=st.sampled_from([0.003, 0.05, 0.5, 0.9]),
)


def same_blocks(ours: BlockSums, theirs: BlockSums) -> None:
    """Counts equal, sums equal up to rounding."""
    for name in ("n", "blocks", "n_squared"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    for name in ("total", "total_squared", "cross", "squares"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-12)


# --- the figures by their definitions ------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """Figures of one set of returns, by their definitions; NaN where unknown."""

    n: int
    blocks: int
    mean: float
    low: float
    high: float
    p_value: float
    win_rate: float
    sharpe: float
    drawdown: float


def plain_figures(values: np.ndarray, times: np.ndarray, horizon: int, base_mean: float = 0.0) -> Plain:
    """Figures of values at decision times: mean, cluster-robust interval, Sharpe and drawdown of block returns."""
    known = ~np.isnan(values)
    held, minutes = values[known], 30 if horizon <= 30 else 60
    block = times[known] // (minutes * MINUTE_MS)
    numbers = np.unique(block)
    n, blocks = len(held), len(numbers)
    nan = float("nan")
    if not n:
        return Plain(0, 0, nan, nan, nan, nan, nan, nan, 0.0)
    mean = held.mean()
    residuals = np.array([(held[block == number] - mean).sum() for number in numbers])
    error = np.sqrt(blocks / (blocks - 1) * (residuals**2).sum()) / n if blocks >= 8 else nan
    reach = stats.t.ppf(0.975, max(blocks - 1, 1)) * error
    returns = np.array([held[block == number].mean() for number in numbers])
    deviation = returns.std(ddof=1) if blocks > 1 else nan
    equity = np.concatenate([[0.0], np.cumsum(returns)])
    return Plain(
        n=n,
        blocks=blocks,
        mean=float(mean),
        low=float(mean - reach),
        high=float(mean + reach),
        p_value=float(2 * stats.t.sf(abs(mean - base_mean) / error, blocks - 1)) if error > 0 else nan,
        win_rate=float((held > 0).mean()),
        sharpe=float(returns.mean() / deviation * np.sqrt(365 * DAY_MINUTES / minutes)) if deviation > 1e-15 else nan,
        drawdown=float((np.maximum.accumulate(equity) - equity).max()),
    )


# --- sums of windows -----------------------------------------------------------------------------------------


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


# --- sketches, records, tallies ------------------------------------------------------------------------------

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


gains = st.lists(st.floats(-1, 1), min_size=0, max_size=12)


@settings(max_examples=40, deadline=None)
@given(gains, gains)
def test_the_record_of_predictions_is_the_test_over_all_windows_at_once(
    first: list[float], second: list[float]
) -> None:
    def record(values: list[float]) -> PredictionRecord:
        found = PredictionRecord()
        for value in values:
            gain = PredictionGain(pattern_id="p", states=1, occurrences=1, volatility_gain=value, return_gain=-value)
            found = found.with_gain(gain)
        return found

    merged, everything = record(first).merged_with(record(second)), [*first, *second]
    assert merged.windows == len(everything)
    assert merged.volatility_sum_sq == pytest.approx(float(np.square(everything).sum()))
    assert merged.return_sum == pytest.approx(-float(np.sum(everything)), abs=1e-12)
    spread = np.std(everything) if everything else 0.0
    if len(everything) >= 5 and spread > 1e-6:
        test = stats.ttest_1samp(everything, 0.0, alternative="less")
        # Where the test stands at its very level, rounding decides.
        assert merged.fails() == (test.pvalue < 0.05) or abs(test.pvalue - 0.05) < 1e-9


@settings(max_examples=12, deadline=None)
@given(days_of_states, st.data())
def test_what_agents_realised_equals_one_pass(days: Days, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 1000))
    merged: dict[str, RealisedSums] = {}
    plain: dict[str, list[float]] = {}
    for window, table, members in zip(days.windows, days.tables, days.members, strict=True):
        experiences = draw_experiences(seed, window, agents=("x", "y"), products=table.products, share=0.2)
        for name, sums in realised_sums(table, np.where(members, 0, -1), 1, experiences)[0].items():
            merged[name] = merged[name].merged_with(sums) if name in merged else sums
        cells = set(zip(table.product[members].tolist(), table.timestamp_ms[members].tolist(), strict=True))
        for row in range(len(experiences)):
            place = int(experiences.product[row]), int(experiences.timestamp_ms[row])
            reward = float(experiences.reward[row])
            if place in cells and not np.isnan(reward):
                side = {1: "BUY", -1: "SELL", 0: "HOLD"}[int(experiences.side[row])]
                plain.setdefault(f"{experiences.agents[experiences.agent[row]]}/{side}", []).append(reward)
    assert set(merged) == set(plain)
    for name, rewards in plain.items():
        sums = merged[name]
        assert (sums.n, sums.wins) == (len(rewards), sum(reward > 0 for reward in rewards))
        assert sums.total == pytest.approx(sum(rewards), abs=1e-12)
        assert sums.total_squared == pytest.approx(float(np.square(rewards).sum()), abs=1e-15)


def draw_experiences(
    seed: int, window: Window, *, agents: tuple[str, ...], products: tuple[str, ...], share: float
) -> ExperienceTable:
    """Experiences of some minutes of a day; some rewards, gross returns and positions are unknown."""
    rng = np.random.default_rng((seed, to_ms(window.start)))
    agent, product, minute = np.nonzero(rng.random((len(agents), len(products), DAY_MINUTES)) < share)
    n = len(minute)
    reward = rng.standard_normal(n) * 1e-3
    gross = reward + 1e-4
    gross[rng.random(n) < 0.02] = np.nan
    zero = np.zeros(n, dtype=np.int64)
    times = to_ms(window.start) + minute * MINUTE_MS
    position = rng.integers(-1, 2, n).astype(np.float64)
    return ExperienceTable(
        encoder_id="enc",
        source="replay",
        agents=agents,
        products=products,
        runs=("r",),
        agent=agent.astype(np.int64),
        product=product.astype(np.int64),
        run=zero,
        timestamp_ms=times.astype(np.int64),
        known_at_ms=times.astype(np.int64) + MINUTE_MS,
        recorded_at_ms=times.astype(np.int64),
        step=minute.astype(np.int64),
        regime=rng.integers(0, 3, n),
        side=rng.integers(-1, 2, n),
        size=np.ones(n),
        reward=reward,
        gross_return=gross,
        cost=np.full(n, 1e-4),
        position_before=position,
        position_after=np.where(rng.random(n) < 0.05, np.nan, rng.integers(-1, 2, n)),
        confidence=np.ones(n),
        quality=np.full(n, np.nan),
        terminal=np.zeros(n, dtype=np.bool_),
    )


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4), st.sampled_from([0.01, 0.3]))
def test_strategies_equal_one_pass_over_all_experiences(seed: int, count: int, share: float) -> None:
    windows = [Window.of_date(FIRST_DAY + timedelta(days=day)) for day in range(count)]
    tables = [draw_experiences(seed, window, agents=("x",), products=("A", "B"), share=share) for window in windows]
    state: StrategyState | None = None
    for window, table in zip(windows, tables, strict=True):
        state = fold_strategies(state, summarise_strategies(table, window))
    assert state is not None
    context = ProjectionContext("enc", "replay", "line", datetime(2021, 7, 1, tzinfo=UTC))
    for memory in project_strategies(state, context):
        for regime, performance in memory.performance.items():
            chosen = [table.take(_in_regime(table, regime)) for table in tables]
            times = np.concatenate([table.timestamp_ms for table in chosen])
            reward, gross, before, after = (
                np.concatenate([getattr(table, name) for table in chosen])
                for name in ("reward", "gross_return", "position_before", "position_after")
            )
            decisions = np.unique(times)
            mean_of = {
                name: _means_at(times, decisions, values)
                for name, values in (("net", reward), ("gross", gross), ("traded", np.abs(after - before)))
            }
            block = decisions // (30 * MINUTE_MS)
            numbers = np.unique(block)
            net = np.array([mean_of["net"][block == number].sum() for number in numbers])
            before_costs = np.array([mean_of["gross"][block == number].sum() for number in numbers])
            exposed = np.isin(
                numbers,
                times[(np.nan_to_num(after) != 0) | (np.nan_to_num(before) != 0) | (reward != 0)] // (30 * MINUTE_MS),
            )
            equity = np.concatenate([[0.0], np.cumsum(mean_of["net"])])
            traded = mean_of["traded"][~np.isnan(mean_of["traded"])]
            assert (performance.n, performance.blocks) == (len(times), len(numbers))
            assert performance.mean_return == pytest.approx(net.mean(), abs=1e-12)
            assert performance.total_return == pytest.approx(net.sum(), abs=1e-12)
            assert performance.max_drawdown == pytest.approx((np.maximum.accumulate(equity) - equity).max(), abs=1e-12)
            wins, active = int((exposed & (net > 0)).sum()), int(exposed.sum())
            assert performance.win_rate == pytest.approx(wins / active)
            interval = stats.binomtest(wins, active).proportion_ci(0.95, method="wilson")
            assert performance.win_rate_interval is not None
            assert performance.win_rate_interval.low == pytest.approx(interval.low, abs=1e-9)
            for ours, values in ((performance.sharpe_ratio, net), (performance.gross_sharpe_ratio, before_costs)):
                known = values[~np.isnan(values)]
                if len(known) > 1:
                    expected = known.mean() / known.std(ddof=1) * np.sqrt(365 * 48)
                    assert ours == pytest.approx(expected, rel=1e-6)
                else:
                    assert ours is None
            assert performance.turnover == (pytest.approx(traded.mean() * DAY_MINUTES) if len(traded) else None)


def _in_regime(table: ExperienceTable, regime: str) -> np.ndarray:
    return np.ones(len(table), dtype=np.bool_) if regime == ALL_REGIMES else table.regime == REGIMES.index(regime)


def _means_at(times: np.ndarray, decisions: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.array([values[times == time].mean() for time in decisions])


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e-2, 1e-2), min_size=1, max_size=40), min_size=2, max_size=4), st.floats(-1e-2, 1e-2)
)
def test_qualities_rank_among_the_surprises_of_all_windows(windows: list[list[float]], reward: float) -> None:
    spans = [Window.of_date(FIRST_DAY + timedelta(days=day)) for day in range(len(windows) + 1)]
    history = []
    surprises: list[float] = []
    for window, rewards in zip(spans, windows, strict=False):
        table = _rewards(window, rewards)
        history.append(summarise_quality(table, window))
        # A window's surprises are taken against what was known before within that window alone.
        surprises += [abs(value - (np.mean(rewards[:row]) if row else 0.0)) for row, value in enumerate(rewards)]
    batch = Rewards.of_table(_rewards(spans[-1], [reward]))
    expected_reward = float(np.mean([value for rewards in windows for value in rewards]))
    own = bin_numbers(abs(reward - expected_reward))
    past = bin_numbers(np.array(surprises))
    quality = ((past < own).sum() + (past == own).sum() / 2 + 0.5) / (len(past) + 1)
    near_an_edge = np.unique(bin_numbers(abs(reward - expected_reward) * np.array([1 - 1e-9, 1 + 1e-9]))).size > 1
    edges = np.array(surprises)
    near_an_edge = near_an_edge or bool((bin_numbers(edges * (1 - 1e-9)) != bin_numbers(edges * (1 + 1e-9))).any())
    if not near_an_edge:
        assert score_quality(batch, history)[0] == pytest.approx(quality)


def _rewards(window: Window, rewards: list[float]) -> ExperienceTable:
    table = draw_experiences(0, window, agents=("x",), products=("A",), share=1.0).take(np.arange(len(rewards)))
    return replace(table, reward=np.array(rewards), regime=np.zeros(len(rewards), dtype=np.int64))


# --- the fold ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Folded:
    """Nights of a market with planted patterns, folded with their true clusters."""

    state: FoldState
    windows: list[Window]
    summaries: list[PartitionSummary]
    tables: list[StateTable]
    truth: list[np.ndarray]
    experiences: list[ExperienceTable]
    settings: LearningSettings

    def member(self, pattern_id: str) -> np.ndarray:
        """Which of all states, night after night, are a pattern's: those of the planted one that it was seen as."""
        sightings = self.state.patterns[pattern_id].sightings
        assert [sighting.window for sighting in sightings] == [window.name for window in self.windows]
        return np.concatenate([truth == sighting.label for truth, sighting in zip(self.truth, sightings, strict=True)])


@pytest.fixture(scope="module")
def folded(market, window_of) -> Folded:
    """Three nights, two products, two agents; six patterns that recur each night."""
    chosen = LearningSettings(clear_known=3, clear_group=1, clear_ratio=0.9)
    state, parts = FoldState(), []
    for number in range(3):
        table, truth = market.states(number)
        experiences = draw_experiences(5, window_of(number), agents=("x", "y"), products=market.products, share=0.3)
        summary = market.summary(number, settings=chosen, experiences=experiences)
        state = fold_window(state, window_of(number), [summary], settings=chosen).state
        parts.append((window_of(number), summary, table, truth, experiences))
    windows, summaries, tables, truths, lived = (list(part) for part in zip(*parts, strict=True))
    return Folded(state, windows, summaries, tables, truths, lived, chosen)


def test_published_patterns_equal_one_pass_over_the_states_of_all_nights(folded: Folded) -> None:
    measures = np.concatenate([compute_outcomes(table, folded.settings).measures for table in folded.tables])
    times = np.concatenate([table.timestamp_ms for table in folded.tables])
    features = np.concatenate([table.features for table in folded.tables])
    memories = project_patterns(
        folded.state, valid_from=folded.windows[-1].end, line="ns/enc/1", settings=folded.settings
    )
    assert len(memories) == 6
    p_values: list[float] = []
    q_values: list[float] = []
    for memory in memories:
        member = folded.member(memory.pattern_id)
        plain = {
            (row, column): plain_figures(
                measures[member, row, column], times[member], horizon, float(np.nanmean(measures[:, row, column]))
            )
            for row, horizon in enumerate(HORIZONS)
            for column in (GROSS, LONG_NET, SHORT_NET, VOLATILITY)
        }
        assert memory.states == member.sum()
        assert memory.windows_seen == 3
        assert (memory.support, memory.effective_support) == _occurrences(times[member] // MINUTE_MS)
        assert (to_ms(memory.first_seen), to_ms(memory.last_seen)) == (times[member].min(), times[member].max())
        for outcome in memory.outcomes:
            if outcome.action == "FLAT":
                continue
            row = HORIZONS.index(outcome.horizon_minutes)
            sign, column = (1, LONG_NET) if outcome.action == "LONG" else (-1, SHORT_NET)
            gross, net = plain[row, GROSS], plain[row, column]
            assert (outcome.n, outcome.blocks) == (gross.n, gross.blocks)
            assert outcome.gross_mean == pytest.approx(sign * gross.mean)
            assert outcome.net_mean == pytest.approx(net.mean)
            assert outcome.interval is not None
            ends = sorted((sign * gross.low, sign * gross.high))
            assert (outcome.interval.low, outcome.interval.high) == pytest.approx(ends)
            assert outcome.win_rate == pytest.approx(net.win_rate)
            assert outcome.gross_sharpe == pytest.approx(sign * gross.sharpe)
            assert outcome.net_sharpe == pytest.approx(net.sharpe)
            assert outcome.max_drawdown == pytest.approx(net.drawdown)
            if outcome.action == "LONG":
                assert outcome.q_value is not None
                p_values.append(gross.p_value)
                q_values.append(outcome.q_value)
        for moved in memory.volatility:
            row = HORIZONS.index(moved.horizon_minutes)
            expected = plain[row, VOLATILITY]
            assert (moved.n, moved.blocks, moved.mean) == (expected.n, expected.blocks, pytest.approx(expected.mean))
            assert moved.interval is not None
            assert (moved.interval.low, moved.interval.high) == pytest.approx((expected.low, expected.high))
            assert moved.base_mean == pytest.approx(np.nanmean(measures[:, row, VOLATILITY]))
        names = folded.tables[0].feature_names
        for condition in memory.conditions:
            values = np.sort(features[member, names.index(condition.feature)])
            for found, share in ((condition.low, 0.1), (condition.high, 0.9)):
                exact = values[int(np.floor(share * (len(values) - 1) + 1e-9))]
                assert found == pytest.approx(exact, rel=RELATIVE_ERROR * (1 + 1e-9))
    # All patterns changed in the last night, so all tests of all horizons are the family of each.
    assert q_values == pytest.approx(stats.false_discovery_control(p_values).tolist())


def test_what_agents_realised_in_patterns_equals_one_pass_over_all_nights(folded: Folded) -> None:
    memories = project_patterns(
        folded.state, valid_from=folded.windows[-1].end, line="ns/enc/1", settings=folded.settings
    )
    product = np.concatenate([table.product for table in folded.tables])
    times = np.concatenate([table.timestamp_ms for table in folded.tables])
    lived = folded.experiences
    columns = {
        name: np.concatenate([getattr(table, name) for table in lived])
        for name in ("agent", "product", "timestamp_ms", "side", "reward")
    }
    place = columns["timestamp_ms"] * 2 + columns["product"]
    for memory in memories:
        member = folded.member(memory.pattern_id)
        there = np.isin(place, times[member] * 2 + product[member])
        for code, agent in enumerate(lived[0].agents):
            for side, prefix in ((1, "buy"), (-1, "sell"), (0, "hold")):
                rewards = columns["reward"][there & (columns["agent"] == code) & (columns["side"] == side)]
                assert memory.realised[agent][f"{prefix}_n"] == len(rewards)
                assert memory.realised[agent][f"{prefix}_mean"] == pytest.approx(rewards.mean())
                assert memory.realised[agent][f"{prefix}_win_rate"] == pytest.approx((rewards > 0).mean())


def _occurrences(minutes: np.ndarray) -> tuple[int, int]:
    """Runs an hour apart, and most minutes four hours apart, of all minutes at once."""
    count, effective, last, taken = 0, 0, -(10**9), -(10**9)
    for minute in np.unique(minutes).tolist():
        count += minute - last >= 60
        if minute - taken >= 240:
            effective, taken = effective + 1, minute
        last = minute
    return count, effective


def test_base_rates_equal_one_pass_and_rank_correlations_are_averages_of_the_nights(folded: Folded) -> None:
    (base,) = folded.state.bases.values()
    outcomes = [compute_outcomes(table, folded.settings) for table in folded.tables]
    whole = Outcomes(
        np.concatenate([item.measures for item in outcomes]), np.concatenate([item.cost for item in outcomes])
    )
    times = np.concatenate([table.timestamp_ms for table in folded.tables])
    (at_once,), _ = outcome_sums(whole, times, np.zeros(len(times), dtype=np.int64), 1, folded.settings)
    same_blocks(base.outcomes.blocks, at_once.blocks)
    np.testing.assert_array_equal(base.outcomes.wins, at_once.wins)
    np.testing.assert_allclose(value_variance(base.outcomes.blocks), value_variance(at_once.blocks), rtol=1e-9)
    features = np.concatenate([table.features for table in folded.tables])
    names = folded.tables[0].feature_names
    (sketch,) = grouped_sketches(features, names, np.zeros(len(features), dtype=np.int64), 1)
    assert serial.encode(base.features) == serial.encode(sketch)
    # Ranks do not merge: what is kept is the mean of the nights' own correlations, weighted by states.
    nights = [rank_correlations(table.features, names) for table in folded.tables]
    assert base.correlation is not None
    np.testing.assert_allclose(
        base.correlation, np.average(nights, axis=0, weights=[len(table) for table in folded.tables])
    )


def test_windows_of_other_features_have_a_base_rate_without_rank_correlations() -> None:
    def base(*names: str) -> PartitionBase:
        return PartitionBase(
            partition="k",
            windows=1,
            states=2,
            outcomes=OutcomeSums.empty(),
            features=FeatureSketch.empty(names),
            correlation=np.eye(len(names)),
        )

    assert base("a", "b").merged_with(base("a", "b")).correlation is not None
    assert base("a", "b").merged_with(base("a", "c")).correlation is None


@settings(max_examples=12, deadline=None)
@given(days_of_states)
def test_judgements_of_the_named_action_add_up(days: Days) -> None:
    column = HORIZONS.index(SETTINGS.reference_horizon_minutes)

    def judged(values: np.ndarray, times: np.ndarray) -> Judged:
        return Judged(windows=1, sums=block_sums(values, times // (30 * MINUTE_MS)))

    nights = [
        judged(outcomes.measures[:, column, LONG_NET], table.timestamp_ms)
        for outcomes, table in zip(days.outcomes(), days.tables, strict=True)
    ]
    merged = reduce(Judged.merged_with, nights)
    whole = days.together
    assert merged.windows == len(days.windows)
    same_blocks(merged.sums, judged(days.all_outcomes().measures[:, column, LONG_NET], whole.timestamp_ms).sums)
