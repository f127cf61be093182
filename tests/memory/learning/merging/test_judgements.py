"""Judgements, predictions, rewards and strategies, merged over windows, equal those of one pass over everything."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from memory.learning.blocks import block_sums
from memory.learning.context import ProjectionContext
from memory.learning.knowledge import Judged
from memory.learning.outcomes import LONG_NET
from memory.learning.predictions import HORIZONS, PredictionGain, PredictionRecord
from memory.learning.quality import Rewards, score_quality, summarise_quality
from memory.learning.sketches import bin_numbers
from memory.learning.strategies import ALL_REGIMES, StrategyState, fold_strategies, summarise_strategies
from memory.learning.strategy_memory import project_strategies
from memory.learning.sums import RealisedSums, realised_sums
from memory.records import REGIMES
from memory.tables import ExperienceTable
from memory.window import Window
from tests.memory.learning.merging.drawn_days import (
    DAY_MINUTES,
    FIRST_DAY,
    MINUTE_MS,
    SETTINGS,
    Days,
    days_of_states,
    draw_experiences,
)
from tests.memory.learning.merging.plain_figures import same_blocks

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
