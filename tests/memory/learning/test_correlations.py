"""Correlations: cross-sums on common minutes, merged over windows, claimed above a shifted null."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from scipy import stats

from memory.errors import InvalidRecordError
from memory.learning import serial
from memory.learning.context import ProjectionContext
from memory.learning.correlation_memory import fisher_interval, lag_correlations, project_correlations
from memory.learning.correlations import (
    AB,
    ALL_REGIMES,
    NOTIONAL_FEATURE,
    CorrelationSettings,
    CorrelationSummary,
    N,
    PairSums,
    fold_correlations,
    market_reference,
    summarise_correlations,
)
from memory.records import REGIMES, to_ms
from memory.tables import StateTable
from memory.validation import validate_semantic
from memory.window import Window

DAY = Window.of_date(date(2021, 6, 17))
CONTEXT = ProjectionContext("enc", "replay", "default/enc/1", datetime(2021, 6, 18, tzinfo=UTC))
QUIET, VOLATILE = 3, 2


def days(count: int) -> list[Window]:
    return [Window.of_date(DAY.start.date() + timedelta(days=day)) for day in range(count)]


def states_of(
    returns: dict[str, np.ndarray],
    window: Window = DAY,
    *,
    regime: np.ndarray | int = QUIET,
    missing: dict[str, list[int]] | None = None,
    notional: dict[str, float] | None = None,
) -> StateTable:
    """States minute by minute, whose one-minute log returns are given; the first one only sets the first price."""
    products = tuple(sorted(returns))
    parts = []
    for code, name in enumerate(products):
        minutes = np.setdiff1d(np.arange(len(returns[name])), (missing or {}).get(name, []))
        price = 100 * np.exp(np.cumsum(returns[name]))[minutes]
        labels = np.broadcast_to(np.asarray(regime), len(returns[name]))[minutes]
        size = np.full(len(minutes), (notional or {}).get(name, math.nan))
        parts.append((np.full(len(minutes), code), to_ms(window.start) + minutes * 60_000, price, labels, size))
    product, times, price, labels, size = (np.concatenate(column) for column in zip(*parts, strict=True))
    count = len(times)
    return StateTable(
        encoder_id="enc",
        source="replay",
        feature_names=(NOTIONAL_FEATURE,) if notional else (),
        products=products,
        product=product.astype(np.int64),
        timestamp_ms=times.astype(np.int64),
        known_at_ms=times.astype(np.int64),
        recorded_at_ms=times.astype(np.int64),
        vectors=np.zeros((count, 4), dtype=np.float32),
        features=size[:, None] if notional else np.zeros((count, 0)),
        price=price,
        spread=np.full(count, np.nan),
        regime=labels.astype(np.int64),
    )


def noise(seed: int, count: int = 1440) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count) * 1e-3


def find(summary: CorrelationSummary, bar: int = 1, regime: str = ALL_REGIMES) -> PairSums:
    (pair,) = [item for item in summary.pairs if item.bar_minutes == bar and item.regime == regime]
    return pair


def test_correlations_at_all_lags_are_those_of_the_common_pairs():
    a, b = noise(1), 0.5 * noise(1) + noise(2)
    pair = find(summarise_correlations(states_of({"A": a, "B": b}), DAY))
    found = lag_correlations(pair)
    for lag, correlation in zip(found.lags.tolist(), found.correlation.tolist(), strict=True):
        left, right = (a[1:], b[1:]) if lag == 0 else (a[1:-lag], b[1 + lag :]) if lag > 0 else (a[1 - lag :], b[1:lag])
        assert correlation == pytest.approx(np.corrcoef(left, right)[0, 1], abs=1e-9)


def test_bars_of_fifteen_minutes_lie_on_the_clock():
    a, b = noise(1), noise(1) + noise(2)
    pair = find(summarise_correlations(states_of({"A": a, "B": b}), DAY), bar=15)
    assert pair.lags[10, N] == 95
    closes = np.cumsum(a)[::15], np.cumsum(b)[::15]
    expected = np.corrcoef(np.diff(closes[0]), np.diff(closes[1]))[0, 1]
    assert lag_correlations(pair).correlation[10] == pytest.approx(expected, abs=1e-9)


def test_nothing_is_filled_forward_over_missing_minutes():
    whole = find(summarise_correlations(states_of({"A": noise(1), "B": noise(2)}), DAY))
    holes = find(summarise_correlations(states_of({"A": noise(1), "B": noise(2)}, missing={"B": [100, 101]}), DAY))
    # A missing minute has no return, and neither has the minute after it.
    assert whole.lags[10, N] - holes.lags[10, N] == 3


def test_a_leader_is_found_and_its_lag_is_positive():
    a = noise(1)
    b = np.concatenate([np.zeros(3), a[:-3]]) + noise(2)
    memories = project_correlations(summarise_correlations(states_of({"A": a, "B": b}), DAY), CONTEXT)
    (lead,) = [item for item in memories if item.bar_minutes == 1 and item.regime == ALL_REGIMES and item.lag]
    assert lead.lag == 3
    assert lead.claimed
    assert lead.correlation > 0.6
    assert "A leads B by 3 minutes" in lead.description


def test_independent_products_are_rarely_claimed():
    # By construction one pair in 21 is claimed by luck: of 60 about 3, and 9 or more in a case of 1,000.
    claimed = 0
    for seed in range(60):
        state = None
        for window, offset in zip(days(2), (0, 1000), strict=True):
            table = states_of({"A": noise(2 * seed + offset), "B": noise(2 * seed + 1 + offset)}, window)
            state = fold_correlations(state, summarise_correlations(table, window))
        assert state is not None
        found = lag_correlations(find(state))
        claimed += bool(np.abs(found.correlation).max() > found.threshold)
    assert claimed <= 8


def test_of_45_independent_pairs_no_more_than_one_in_twenty_is_claimed():
    # Ten products that share their storms and nothing else, in six regimes and two bars: 540 cells.
    rng = np.random.default_rng(0)
    state = None
    for window in days(2):
        storm = np.exp(np.cumsum(rng.standard_normal(1440) * 0.1))
        regime = np.repeat(rng.integers(0, 5, 48), 30)
        returns = {f"P{number}": rng.standard_t(4, 1440) * 1e-3 * storm / storm.mean() for number in range(10)}
        state = fold_correlations(state, summarise_correlations(states_of(returns, window, regime=regime), window))
    assert state is not None
    memories = project_correlations(state, CONTEXT)
    cells = sum(memory.lag == 0 for memory in memories)
    claimed = sum(memory.claimed for memory in memories)
    naive = 0
    for pair in state.pairs:
        found = lag_correlations(pair)
        interval = fisher_interval(float(found.correlation[10]), pair.blocks, 0.95)
        above = bool(abs(found.correlation[10]) > found.threshold)
        naive += above and interval is not None and not interval.low <= 0 <= interval.high
    assert cells == 540
    assert naive > 0.05 * cells, "the shifted null and the interval alone do not hold the rate"
    assert claimed <= 0.05 * cells


def test_true_pairs_are_claimed_among_many_independent_ones():
    rng = np.random.default_rng(4)
    returns = {f"P{number}": rng.standard_t(4, 1440) * 1e-3 for number in range(8)}
    returns["Q"] = returns["P0"] + 0.7e-3 * rng.standard_t(4, 1440)
    claimed = {
        memory.products
        for memory in project_correlations(summarise_correlations(states_of(returns), DAY), CONTEXT)
        if memory.claimed
    }
    assert claimed == {("P0", "Q")}


def test_q_values_are_those_of_all_pairs_bars_regimes_and_leads():
    rng = np.random.default_rng(5)
    returns = {f"P{number}": noise(10 + number) for number in range(4)}
    returns["Q"] = returns["P0"] + 2 * noise(20)
    state = summarise_correlations(states_of(returns, regime=np.repeat(rng.integers(0, 2, 48), 30)), DAY)
    p_values = []
    for pair in state.pairs:
        found = lag_correlations(pair)
        others = np.delete(np.arange(21), 10)
        lead = others[np.argmax(np.abs(found.correlation[others]))]
        p_values += [found.p_value[10], min(20 * found.p_value[lead], 1.0)]
    expected = stats.false_discovery_control(p_values)
    found_together = [memory.q_value for memory in project_correlations(state, CONTEXT) if memory.lag == 0]
    assert found_together == pytest.approx(expected[::2].tolist())


def test_a_claim_that_stands_alone_may_fall_among_many_others():
    def q_value(others: int) -> float:
        returns = {"A": noise(1), "B": 0.5 * noise(1) + noise(2), **{f"P{n}": noise(10 + n) for n in range(others)}}
        memories = project_correlations(summarise_correlations(states_of(returns), DAY), CONTEXT)
        (found,) = [
            memory
            for memory in memories
            if memory.products == ("A", "B") and (memory.bar_minutes, memory.regime, memory.lag) == (15, "QUIET", 0)
        ]
        assert found.q_value is not None
        return found.q_value

    assert q_value(6) > 2 * q_value(0)


def test_memories_of_a_regime_name_the_products_that_it_was_taken_from():
    first = summarise_correlations(states_of({"A": noise(1), "B": noise(2)}, notional={"A": 2.0, "B": 1.0}), DAY)
    later = days(2)[1]
    second = summarise_correlations(
        states_of({"A": noise(3), "B": noise(4)}, later, notional={"A": 1.0, "B": 2.0}), later
    )
    for memory in project_correlations(fold_correlations(first, second), CONTEXT):
        if memory.regime == ALL_REGIMES:
            assert memory.references == ()
        else:
            assert memory.references == ("A", "B")
            assert "the market (A or B) is QUIET" in memory.description


@pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf])
def test_a_price_that_is_none_breaks_the_series_like_a_missing_minute(price: float):
    table = states_of({"A": noise(1), "B": noise(2)})
    prices = table.price.copy()
    prices[100] = price
    broken = find(summarise_correlations(replace(table, price=prices), DAY))
    assert broken.lags[10, N] == find(summarise_correlations(table, DAY)).lags[10, N] - 2
    assert np.isfinite(lag_correlations(broken).correlation).all()


def test_storms_that_both_went_through_are_no_lead():
    # Independent moves, three times as large in the same hour: a shift breaks the storm up, so the null is too low.
    above_null = leads = 0
    for seed in range(60):
        storm = np.where(np.arange(1440) // 60 == 9, 3.0, 1.0)
        table = states_of({"A": noise(2 * seed) * storm, "B": noise(2 * seed + 1) * storm})
        summary = summarise_correlations(table, DAY)
        found = lag_correlations(find(summary))
        above_null += bool(np.abs(found.correlation).max() > found.threshold)
        memories = project_correlations(summary, CONTEXT)
        leads += any(memory.lag for memory in memories if memory.regime == ALL_REGIMES and memory.bar_minutes == 1)
    assert above_null > 15
    assert leads <= 2


def test_sums_are_keyed_by_the_regime_of_the_reference():
    regime = np.where(np.arange(1440) < 720, QUIET, VOLATILE)
    common = noise(1)
    b = np.where(np.arange(1440) < 720, common, noise(2))
    summary = summarise_correlations(states_of({"A": common, "B": b}, regime=regime), DAY)
    quiet, volatile = (find(summary, regime=REGIMES[code]) for code in (QUIET, VOLATILE))
    assert lag_correlations(quiet).correlation[10] == pytest.approx(1.0)
    assert abs(lag_correlations(volatile).correlation[10]) < 0.2
    assert quiet.lags[10, N] + volatile.lags[10, N] == find(summary).lags[10, N]
    assert quiet.blocks == volatile.blocks == 24


def test_the_reference_is_the_product_with_the_largest_notional_volume():
    returns = {"A": noise(1), "B": noise(2)}
    assert market_reference(states_of(returns)) == "A"
    assert market_reference(states_of(returns, notional={"A": 1.0, "B": 2.0})) == "B"
    assert market_reference(states_of(returns), CorrelationSettings(market_reference="B")) == "B"
    assert market_reference(states_of(returns), CorrelationSettings(market_reference="C")) is None


def test_without_its_reference_a_window_has_no_regimes():
    summary = summarise_correlations(
        states_of({"A": noise(1), "B": noise(2)}), DAY, CorrelationSettings(market_reference="C")
    )
    assert {pair.regime for pair in summary.pairs} == {ALL_REGIMES}
    assert summary.references == ()


def test_shifts_never_meet_their_own_minute():
    spike = np.zeros(1440)
    spike[700] = 1.0
    pair = find(summarise_correlations(states_of({"A": spike, "B": spike}), DAY))
    assert pair.lags[10, AB] == pytest.approx(1.0)
    assert np.abs(pair.shifted).max() < 1e-9
    regime = np.full(1440, QUIET)
    regime[695:710] = VOLATILE
    short = find(summarise_correlations(states_of({"A": spike, "B": spike}, regime=regime), DAY), regime="VOLATILE")
    assert short.lags[10, N] == 15
    assert np.abs(short.shifted).max() < 1e-9


def test_the_interval_counts_blocks():
    summary = summarise_correlations(states_of({"A": noise(1), "B": noise(1) + noise(2)}), DAY)
    memory = project_correlations(summary, CONTEXT)[0]
    assert memory.n == 48
    reach = 1.959963984540054 / math.sqrt(48 - 3)
    assert memory.interval is not None
    assert memory.interval.low == pytest.approx(math.tanh(math.atanh(memory.correlation) - reach))


def test_the_interval_covers_the_truth():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(1000):
        a, b = rng.standard_normal((2, 48))
        interval = fisher_interval(float(np.corrcoef(a, 0.5 * a + b)[0, 1]), 48, 0.95)
        assert interval is not None
        covered += interval.low <= 0.5 / math.sqrt(1.25) <= interval.high
    assert 930 <= covered <= 970


def test_few_blocks_make_no_memory():
    returns = {"A": noise(1, 120), "B": noise(2, 120)}
    assert project_correlations(summarise_correlations(states_of(returns), DAY), CONTEXT) == []


def test_memories_are_versions_night_after_night():
    first = summarise_correlations(states_of({"A": noise(1), "B": noise(1)}), DAY)
    later = days(2)[1]
    both = fold_correlations(first, summarise_correlations(states_of({"A": noise(3), "B": noise(3)}, later), later))
    before = {memory.memory_id for memory in project_correlations(first, CONTEXT)}
    after = project_correlations(both, CONTEXT)
    assert before <= {memory.memory_id for memory in after}
    for memory in after:
        validate_semantic(memory)
        assert memory.created_at == DAY.end


def test_a_series_that_does_not_move_has_no_correlation():
    summary = summarise_correlations(states_of({"A": np.zeros(1440), "B": noise(1)}), DAY)
    assert project_correlations(summary, CONTEXT) == []


def test_a_single_product_has_no_pair():
    nothing = states_of({"A": noise(1)}).take(np.zeros(0, dtype=np.int64))
    for table in (nothing, replace(nothing, products=())):
        assert project_correlations(summarise_correlations(table, DAY), CONTEXT) == []
    assert summarise_correlations(states_of({"A": noise(1)}), DAY).pairs == ()


def test_states_outside_the_window_are_refused():
    with pytest.raises(InvalidRecordError, match="outside the window"):
        summarise_correlations(states_of({"A": noise(1)}), days(2)[1])


@pytest.mark.parametrize("other", [{"max_lag": 5}, {"shifts": 19}, {"block_minutes": 60}])
def test_summaries_of_other_settings_are_not_mixed(other: dict[str, int]):
    table = states_of({"A": noise(1), "B": noise(2)})
    with pytest.raises(InvalidRecordError, match="never mixed"):
        fold_correlations(
            summarise_correlations(table, DAY), summarise_correlations(table, DAY, CorrelationSettings(**other))
        )


def test_bars_that_do_not_fit_the_blocks_are_refused():
    with pytest.raises(ValueError, match="divisors"):
        CorrelationSettings(bar_minutes=(7,))


def test_summaries_survive_the_ledger():
    summary = summarise_correlations(states_of({"A": noise(1), "B": noise(2)}), DAY)
    read = serial.decode(serial.encode(summary), CorrelationSummary)
    assert serial.encode(fold_correlations(read, read)) == serial.encode(fold_correlations(summary, summary))
