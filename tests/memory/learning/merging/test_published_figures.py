"""Figures of published patterns, folded night by night, equal one pass over the states of all nights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from memory.learning import serial
from memory.learning.blocks import value_variance
from memory.learning.fold import fold_window
from memory.learning.knowledge import FoldState, PartitionBase
from memory.learning.outcomes import GROSS, LONG_NET, SHORT_NET, VOLATILITY, Outcomes, compute_outcomes
from memory.learning.predictions import HORIZONS
from memory.learning.projection import project_patterns
from memory.learning.settings import LearningSettings
from memory.learning.sketches import RELATIVE_ERROR, FeatureSketch, grouped_sketches
from memory.learning.summaries import PartitionSummary
from memory.learning.sums import OutcomeSums, outcome_sums, rank_correlations
from memory.records import to_ms
from memory.tables import ExperienceTable, StateTable
from memory.window import Window
from tests.memory.learning.merging.drawn_days import MINUTE_MS, draw_experiences
from tests.memory.learning.merging.plain_figures import plain_figures, same_blocks


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
