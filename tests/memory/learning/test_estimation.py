"""Estimates weigh neighbours, patterns and base rates by what each can know, and say when that is nothing."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from memory.learning import evidence
from memory.learning.blocks import block_ids, block_mean, block_sums, block_variance, value_variance
from memory.learning.estimation import (
    ESTIMATE_ACTIONS,
    FROM_NEIGHBOURS,
    FROM_PATTERN,
    INFLATION,
    LIMIT,
    MODERATION_BLOCKS,
    REACH,
    RETURN,
    estimate_state,
    outcome_reach,
)
from memory.learning.evidence import (
    ESTIMATE_HORIZONS,
    BaseRates,
    BlockMean,
    Neighbours,
    OutcomeSample,
    PatternEvidence,
    base_rates,
    following_volatility,
    pattern_evidence,
    published_base_rates,
    scaled_returns,
    student_t,
)
from memory.learning.outcomes import ACTIONS, SCALED, VOLATILITY, compute_outcomes
from memory.learning.predictions import HORIZONS
from memory.learning.settings import DEFAULT_SETTINGS
from memory.records import BaseRate, BlockFigure, Interval
from memory.retrieval import forward

MINUTE_MS = 60_000
TRAILING = 0.001


def sample(n: int = 2000, seed: int = 0, drift: float = 0.0) -> OutcomeSample:
    """States one a half-hour, whose returns are normal with a trailing volatility of TRAILING."""
    rng = np.random.default_rng(seed)
    scale = TRAILING * np.sqrt(np.array(ESTIMATE_HORIZONS))
    return OutcomeSample(
        np.arange(n) * 30 * MINUTE_MS,
        rng.integers(0, 2, n),
        (rng.standard_normal((n, 4)) + drift) * scale,
        np.full(n, TRAILING),
    )


def base(horizon: int = 15) -> BaseRates:
    found = base_rates(sample(), None, horizon)
    assert found is not None
    return found


def near(
    n: int = 200, mean: float = 0.0, spread: float = 1.0, *, seed: int = 1, step_min: int = 30, horizon: int = 15
) -> Neighbours:
    """Neighbours whose returns have this mean and spread, in units of TRAILING * sqrt(horizon)."""
    values = np.random.default_rng(seed).standard_normal(n)
    values = mean + spread * (values - values.mean()) / values.std(ddof=1)
    return Neighbours(
        np.linspace(0.01, 0.2, n),
        np.arange(n, dtype=np.int64) * step_min * MINUTE_MS,
        values * TRAILING * math.sqrt(horizon),
        np.full(n, TRAILING),
    )


def none() -> Neighbours:
    return near().within(-1.0)


def pattern(**changes: Any) -> PatternEvidence:
    values: dict[str, Any] = {
        "pattern_id": "p-1",
        "valid_from": datetime(2021, 6, 18, tzinfo=UTC),
        "distance": 0.1,
        "blocks": 40,
        "mean_return": 0.002,
        "return_variance": 1e-8,
        "volatility": 0.5,
        "volatility_variance": 0.01,
        "base_volatility": -0.5,
    }
    return PatternEvidence(**{**values, **changes})


# --- what it is made of --------------------------------------------------------------------------------------


def test_constants_are_those_of_learning_which_a_base_install_cannot_import() -> None:
    assert ESTIMATE_HORIZONS == HORIZONS
    assert ESTIMATE_ACTIONS == ACTIONS
    assert (
        DEFAULT_SETTINGS.min_blocks,
        DEFAULT_SETTINGS.block_minutes,
        DEFAULT_SETTINGS.confidence,
        DEFAULT_SETTINGS.volatility_floor,
    ) == (evidence.MIN_BLOCKS, evidence.BLOCK_MINUTES, evidence.CONFIDENCE, evidence.VOLATILITY_FLOOR)
    assert DEFAULT_SETTINGS.moderation_blocks == MODERATION_BLOCKS
    assert DEFAULT_SETTINGS.max_gap_minutes == forward.MAX_GAP_MINUTES
    assert [evidence.block_minutes_of(horizon) for horizon in HORIZONS] == [
        DEFAULT_SETTINGS.block_minutes_of(horizon) for horizon in HORIZONS
    ]


@pytest.mark.parametrize("confidence", [0.90, 0.95])
def test_quantiles_of_students_t_are_exact_to_the_fourth_digit(confidence: float) -> None:
    for freedom in range(evidence.MIN_BLOCKS - 1, 400):
        assert student_t(freedom, confidence) == pytest.approx(stats.t.ppf(0.5 + confidence / 2, freedom), abs=2e-4)


def test_block_means_agree_with_those_of_summaries() -> None:
    rng = np.random.default_rng(3)
    times = np.sort(rng.integers(0, 40 * 60, 300)) * MINUTE_MS
    values = rng.standard_normal(300)
    values[::17] = np.nan
    for horizon in ESTIMATE_HORIZONS:
        own = evidence.block_mean(values, times, horizon)
        sums = block_sums(values, block_ids(times, DEFAULT_SETTINGS.block_minutes_of(horizon)))
        assert own is not None
        assert (own.n, own.blocks) == (int(sums.n), int(sums.blocks))
        assert own.mean == pytest.approx(float(block_mean(sums)))
        assert own.variance == pytest.approx(float(block_variance(sums)))
        assert own.spread == pytest.approx(float(value_variance(sums)))
        assert own.concentration == pytest.approx(float(sums.n_squared) / own.n**2)


def test_outcomes_are_measured_as_summaries_measure_them(market: Any) -> None:
    states, _ = market.states(0)
    measures = compute_outcomes(states, DEFAULT_SETTINGS).measures
    trailing = states.feature("trailing_volatility")
    for column, horizon in enumerate(HORIZONS):
        scaled = scaled_returns(measures[:, column, 0], trailing, horizon)
        np.testing.assert_allclose(scaled, measures[:, column, SCALED])
        np.testing.assert_allclose(following_volatility(scaled), measures[:, column, VOLATILITY])


def test_base_rate_of_a_regime_hardly_seen_is_that_of_all_states() -> None:
    states = sample(400)
    rare = replace(states, regime=np.where(np.arange(400) < 7, 4, states.regime))
    assert base_rates(rare, "CRISIS", 15) == base_rates(rare, None, 15)
    assert base_rates(rare, "TRENDING", 15) != base_rates(rare, None, 15)


def test_there_is_no_base_rate_of_a_few_half_hours() -> None:
    assert base_rates(sample(evidence.MIN_BLOCKS - 1), None, 15) is None
    assert base_rates(sample(evidence.MIN_BLOCKS), None, 15) is not None


def figure(mean: BlockMean, **changes: Any) -> BlockFigure:
    values = {name: getattr(mean, name) for name in ("n", "blocks", "mean", "spread", "variance", "concentration")}
    return BlockFigure(**{**values, **changes})


def published(rates: BaseRates, **changes: Any) -> BaseRate:
    """Base rates as the nightly job publishes them."""
    assert rates.scaled is not None
    assert rates.volatility is not None
    values: dict[str, Any] = {
        "horizon_minutes": 15,
        "gross": figure(rates.gross),
        "scaled": figure(rates.scaled),
        "volatility": figure(rates.volatility),
        "magnitude_p90": rates.reach[0.90],
        "magnitude_p95": rates.reach[0.95],
    }
    return BaseRate(**{**values, **changes})


def test_published_base_rates_stand_for_those_of_a_sample() -> None:
    rates = base()
    assert published_base_rates((published(rates), published(rates, horizon_minutes=5)), 15) == rates
    assert published_base_rates((published(rates),), 60) is None
    assert published_base_rates((), 15) is None


def test_published_base_rates_of_few_blocks_count_for_nothing() -> None:
    rates = base()
    few = {"blocks": evidence.MIN_BLOCKS - 1}
    assert rates.scaled is not None
    assert published_base_rates((published(rates, gross=figure(rates.gross, **few)),), 15) is None
    for lacking in ({"scaled": figure(rates.scaled, **few)}, {"scaled": None}, {"magnitude_p90": None}):
        assert published_base_rates((published(rates, **lacking),), 15) == BaseRates(rates.gross)


def test_a_pattern_without_intervals_is_no_evidence(projected: Any) -> None:
    assert pattern_evidence(projected(blocks=7, interval=None), 0.1, 15) is None


def test_a_patterns_variance_is_read_off_its_interval(projected: Any) -> None:
    reach = stats.t.ppf(0.975, 39) * 0.0003
    found = pattern_evidence(projected(blocks=40, interval=Interval(low=0.001 - reach, high=0.001 + reach)), 0.1, 15)
    assert found is not None
    assert found.mean_return == 0.001
    assert math.sqrt(found.return_variance or 0) == pytest.approx(0.0003, rel=1e-4)
    assert found.volatility is None


@pytest.fixture
def projected() -> Any:
    from memory.records import Outcome, PatternMemory

    def make(blocks: int, interval: Interval | None) -> PatternMemory:
        day = datetime(2021, 6, 18, tzinfo=UTC)
        outcome = Outcome(
            action="LONG",
            horizon_minutes=15,
            n=100,
            blocks=blocks,
            gross_mean=0.001,
            net_mean=0.0006,
            interval=interval,
            win_rate=0.5,
            gross_sharpe=None,
            net_sharpe=None,
            max_drawdown=0.0,
            shrunk_net_mean=0.0,
        )
        return PatternMemory(
            memory_id="p-1",
            description="",
            encoder_id="enc",
            line="line",
            created_at=day,
            valid_from=day,
            pattern_id="p-1",
            concept_vector=np.zeros(256, dtype=np.float32),
            source="replay",
            regime="QUIET",
            product_ids=("BTC",),
            conditions=(),
            support=5,
            effective_support=5,
            states=100,
            windows_seen=1,
            first_seen=day,
            last_seen=day,
            broad=False,
            status="new",
            outcomes=(outcome,),
            volatility=(),
            expected_return=0.0,
            best_action=None,
        )

    return make


def test_estimates_need_numpy_only() -> None:
    code = "import sys, memory.retrieval.estimates; print(sorted({'scipy', 'sklearn', 'hdbscan'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


# --- what is known -------------------------------------------------------------------------------------------


def test_without_a_base_rate_nothing_is_known() -> None:
    answer = estimate_state("LONG", 15, near(), None, pattern())
    assert not answer.known
    assert answer.mean_return is None
    assert "base rate" in answer.reason


def test_states_in_too_few_half_hours_are_unknown_and_the_answer_says_so() -> None:
    crowded = near(step_min=1).within(REACH)
    answer = estimate_state("LONG", 15, crowded, base(), None, trailing_volatility=TRAILING)
    assert not answer.known
    assert answer.blocks == 7
    assert "7 clock blocks" in answer.reason
    assert (answer.mean_return, answer.interval, answer.edge, answer.volatility) == (None, None, None, None)
    assert answer.base_return is not None
    assert answer.base_volatility is not None


def test_states_beyond_reach_are_no_neighbours() -> None:
    far = replace(near(), distance=np.full(200, REACH + 0.01))
    answer = estimate_state("LONG", 15, far, base(), pattern(distance=REACH + 0.01), trailing_volatility=TRAILING)
    assert not answer.known
    assert str(REACH) in answer.reason


def test_a_near_pattern_is_enough_to_know_something() -> None:
    answer = estimate_state("LONG", 15, none(), base(), pattern(), trailing_volatility=TRAILING)
    assert answer.known
    assert (answer.pattern_id, answer.blocks, answer.neighbours) == ("p-1", 40, 0)
    assert answer.base_volatility is not None
    assert answer.volatility is not None
    assert answer.base_volatility < answer.volatility < answer.base_volatility + 1.0


def test_neighbours_that_say_the_base_rate_leave_it_standing() -> None:
    rates = base()
    assert rates.scaled is not None
    answer = estimate_state("LONG", 15, near(mean=rates.scaled.mean), rates, None, trailing_volatility=TRAILING)
    assert answer.known
    assert answer.edge == pytest.approx(0.0, abs=0.001 * TRAILING * math.sqrt(15))
    assert answer.interval is not None
    assert answer.interval.low < 0 < answer.interval.high


def test_what_may_be_luck_is_shrunk_and_what_cannot_be_is_kept() -> None:
    luck = estimate_state("LONG", 15, near(mean=0.1), base(), None, trailing_volatility=TRAILING)
    plain = estimate_state("LONG", 15, near(mean=5.0), base(), None, trailing_volatility=TRAILING)
    unit = TRAILING * math.sqrt(15)
    assert 0 < (luck.mean_return or 0) < 0.05 * unit
    assert plain.mean_return is not None
    assert 5.0 * unit > plain.mean_return > (5.0 - 1.5 * LIMIT / math.sqrt(200)) * unit
    assert plain.interval is not None
    assert plain.interval.low > 0


def test_other_products_in_the_same_minutes_add_no_certainty() -> None:
    once = near(mean=0.5)
    often = Neighbours(
        *(
            np.repeat(getattr(once, name), 5)
            for name in ("distance", "timestamp_ms", "forward_return", "trailing_volatility")
        )
    )
    first = estimate_state("LONG", 15, once, base(), None, trailing_volatility=TRAILING)
    second = estimate_state("LONG", 15, often, base(), None, trailing_volatility=TRAILING)
    assert (second.blocks, second.neighbours) == (first.blocks, 5 * first.neighbours)
    assert second.effective_n == pytest.approx(first.effective_n)
    assert second.mean_return == pytest.approx(first.mean_return)
    assert first.interval is not None
    assert second.interval is not None
    assert second.interval.low == pytest.approx(first.interval.low)


def test_few_half_hours_make_the_interval_wider() -> None:
    def width(step_min: int) -> float:
        found = estimate_state("LONG", 15, near(step_min=step_min), base(), None, trailing_volatility=TRAILING)
        assert found.volatility_interval is not None
        return found.volatility_interval.high - found.volatility_interval.low

    assert width(3) > 1.2 * width(30)


# --- what it means -------------------------------------------------------------------------------------------


def test_short_is_the_mirror_of_long_and_flat_is_nothing() -> None:
    long, short, flat = (
        estimate_state(
            action, 15, near(mean=0.5), base(), pattern(), trailing_volatility=TRAILING, round_trip_cost=0.0004
        )
        for action in ("LONG", "SHORT", "FLAT")
    )
    assert long.mean_return is not None
    assert long.interval is not None
    assert short.interval is not None
    assert short.mean_return == -long.mean_return
    assert (short.interval.low, short.interval.high) == pytest.approx((-long.interval.high, -long.interval.low))
    assert long.net_return == long.mean_return - 0.0004
    assert short.net_return == -long.mean_return - 0.0004
    assert (flat.mean_return, flat.net_return, flat.interval) == (0.0, 0.0, Interval(low=0.0, high=0.0))
    assert long.volatility == short.volatility == flat.volatility


def test_returns_grow_with_the_trailing_volatility_of_the_state() -> None:
    calm = estimate_state("LONG", 15, near(mean=0.5), base(), None, trailing_volatility=TRAILING)
    wild = estimate_state("LONG", 15, near(mean=0.5), base(), None, trailing_volatility=3 * TRAILING)
    assert calm.mean_return is not None
    assert calm.expected_move is not None
    assert wild.mean_return == pytest.approx(3 * calm.mean_return)
    assert wild.expected_move == pytest.approx(3 * calm.expected_move)
    assert wild.volatility == calm.volatility


def test_without_a_trailing_volatility_returns_are_averaged_as_they_are() -> None:
    answer = estimate_state("LONG", 15, near(mean=0.5), base(), None)
    scaled = estimate_state("LONG", 15, near(mean=0.5), base(), None, trailing_volatility=TRAILING)
    assert answer.mean_return == pytest.approx(scaled.mean_return)
    assert (answer.expected_move, answer.outcome_interval) == (None, None)
    assert answer.volatility == scaled.volatility


def test_outcomes_fall_into_their_interval_as_often_as_it_says() -> None:
    rates = base()
    answer = estimate_state("LONG", 15, near(), rates, None, trailing_volatility=TRAILING)
    assert answer.outcome_interval is not None
    outcomes = np.random.default_rng(9).standard_normal(20_000) * TRAILING * math.sqrt(15)
    inside = (outcomes >= answer.outcome_interval.low) & (outcomes <= answer.outcome_interval.high)
    assert inside.mean() == pytest.approx(0.95, abs=0.02)


def test_a_wilder_future_widens_the_interval_of_outcomes() -> None:
    rates = base()
    assert rates.volatility is not None
    usual = outcome_reach(rates, 15, rates.volatility.mean)
    assert usual == rates.reach[0.95]
    assert outcome_reach(rates, 15, rates.volatility.mean + math.log(2)) == pytest.approx(2 * usual)
    assert usual < outcome_reach(rates, 1, rates.volatility.mean + math.log(2)) < 2 * usual


@given(
    mean=st.floats(-3, 3),
    spread=st.floats(0.01, 3),
    n=st.integers(8, 250),
    said=st.floats(-0.01, 0.01),
    action=st.sampled_from(ESTIMATE_ACTIONS),
    horizon=st.sampled_from(ESTIMATE_HORIZONS),
)
def test_the_answer_is_the_weighted_mean_of_what_its_sources_said(
    mean: float, spread: float, n: int, said: float, action: str, horizon: int
) -> None:
    answer = estimate_state(
        action,
        horizon,
        near(n, mean, spread, step_min=60, horizon=horizon),
        base(horizon),
        pattern(mean_return=said),
        trailing_volatility=TRAILING,
    )
    assert {part.source for part in answer.parts} == {"base", FROM_NEIGHBOURS, FROM_PATTERN}
    assert all(-1e-12 <= part.return_weight <= 1 + 1e-12 for part in answer.parts)
    assert sum(part.return_weight for part in answer.parts) == pytest.approx(1.0)
    assert sum(part.volatility_weight for part in answer.parts) == pytest.approx(1.0)
    assert answer.mean_return == pytest.approx(
        sum(part.return_weight * (part.mean_return or 0) for part in answer.parts), abs=1e-12
    )
    assert answer.interval is not None
    assert answer.interval.low <= (answer.mean_return or 0) <= answer.interval.high


def test_prices_that_never_move_break_nothing() -> None:
    still = OutcomeSample(
        np.arange(20) * 30 * MINUTE_MS, np.zeros(20, dtype=np.int64), np.zeros((20, 4)), np.full(20, TRAILING)
    )
    answer = estimate_state(
        "LONG", 15, near(spread=0.0), base_rates(still, None, 15), None, trailing_volatility=TRAILING
    )
    assert answer.known
    assert answer.mean_return == pytest.approx(0.0, abs=1e-9)


def test_interval_is_students_t_with_the_factor_that_was_learned() -> None:
    rates = BaseRates(gross=BlockMean(0.0, 1e-4, 1e-12, 0.001, 1000, 1000))
    answer = estimate_state("LONG", 1, none(), rates, pattern(mean_return=0.0, return_variance=1e-6, blocks=9))
    variance = 1e-6 + 0.1 * 1e-4
    kept = 0.004 * 1e-4 / (0.004 * 1e-4 + variance)
    assert answer.interval is not None
    reach = stats.t.ppf(0.975, 8) * math.sqrt(kept * variance) * INFLATION[RETURN][0]
    assert answer.interval.high - (answer.mean_return or 0) == pytest.approx(reach, rel=1e-3)
