"""Features: what they mean, that they are scale-free, and that they see a bounded past only."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.candles import Candles
from agents.catalogue import FEATURE_NAMES, FEATURES, QUOTE_FEATURES, REGIME_FEATURES
from agents.features import LOOKBACK_MINUTES, MINUTE_MS, VOLATILITY_FLOOR, compute_features
from agents.market import Market
from memory.records import IDENTIFIER_PATTERN, to_ms

DAY_MS = 86_400_000
NIGHT_MS = to_ms(datetime(2021, 6, 17, tzinfo=UTC))


def made_candles(close: np.ndarray, volume: np.ndarray | None = None, keep: np.ndarray | None = None) -> Candles:
    """One-minute candles from closes, without wicks; `keep` selects the minutes that exist."""
    n = len(close)
    before = np.append(close[0], close[:-1])
    rows = np.arange(n) if keep is None else np.flatnonzero(keep)
    nothing = np.full(len(rows), np.nan)
    return Candles(
        product_id="BTC-USD",
        exchange="made",
        bar_ms=MINUTE_MS,
        decision_ms=NIGHT_MS + (rows + 1) * MINUTE_MS,
        open=before[rows],
        high=np.maximum(before, close)[rows],
        low=np.minimum(before, close)[rows],
        close=close[rows],
        volume=(np.ones(n) if volume is None else volume)[rows],
        bid=nothing,
        ask=nothing,
        bid_size=nothing,
        ask_size=nothing,
    )


def walk(n: int = 600, seed: int = 0, scale: float = 1e-3) -> np.ndarray:
    """Closes of a random walk."""
    return 100.0 * np.exp(np.cumsum(np.random.default_rng(seed).standard_normal(n) * scale))


def last_row(candles: Candles) -> dict[str, float]:
    """Features at the last decision, by name."""
    last = int(candles.decision_ms[-1])
    return dict(zip(FEATURE_NAMES, compute_features(candles, last, last + 1).values[0], strict=True))


def test_there_are_about_twenty_features_with_distinct_names_that_records_accept() -> None:
    assert 20 <= len(FEATURES) <= 30
    assert len(set(FEATURE_NAMES)) == len(FEATURES)
    assert all(IDENTIFIER_PATTERN.fullmatch(name) for name in FEATURE_NAMES)


def test_the_eight_regime_features_are_among_them() -> None:
    assert len(REGIME_FEATURES) == 8
    assert set(REGIME_FEATURES) <= set(FEATURE_NAMES)


def test_every_feature_has_words_for_low_and_high_values() -> None:
    for spec in FEATURES:
        assert spec.description
        assert spec.phrase(spec.low) != spec.phrase(spec.high)
        assert "{" not in spec.phrase(spec.low) + spec.phrase(spec.high)


def test_a_phrase_says_how_far_a_return_went() -> None:
    spec = FEATURES[FEATURE_NAMES.index("return_15m")]
    assert spec.phrase(2.13) == "price has risen 2.1 trailing volatilities in the last 15 minutes"
    assert spec.phrase(-1.0) == "price has fallen 1.0 trailing volatilities in the last 15 minutes"


def test_values_stay_within_their_clipping_range(binance: Market) -> None:
    for candles in binance.products.values():
        values = compute_features(candles, NIGHT_MS, NIGHT_MS + 7 * DAY_MS).values
        assert np.isfinite(values).all()
        for column, spec in enumerate(FEATURES):
            assert spec.low <= values[:, column].min()
            assert values[:, column].max() <= spec.high


@pytest.mark.parametrize("factor", [1e-4, 0.5, 3e5])
def test_features_do_not_change_with_the_scale_of_prices_and_volumes(factor: float) -> None:
    volume = np.random.default_rng(1).exponential(size=600)
    small, large = made_candles(walk(), volume), made_candles(walk() * factor, volume * factor)
    for name, value in last_row(small).items():
        assert last_row(large)[name] == pytest.approx(value, abs=1e-6), name


def test_features_do_not_change_with_the_level_of_volatility() -> None:
    calm, wild = last_row(made_candles(walk(scale=1e-4))), last_row(made_candles(walk(scale=1e-3)))
    for name in FEATURE_NAMES:
        # Candles without wicks; log returns scale exactly, so do ranges.
        assert wild[name] == pytest.approx(calm[name], abs=0.02), name


def test_a_return_is_counted_in_trailing_volatilities() -> None:
    close = walk()
    returns = np.diff(np.log(close))
    volatility = np.sqrt(np.mean(returns[-180:] ** 2))
    features = last_row(made_candles(close))
    assert features["return_1m"] == pytest.approx(returns[-1] / volatility)
    assert features["return_15m"] == pytest.approx(returns[-15:].sum() / (volatility * np.sqrt(15)))


def test_trailing_volatility_is_that_of_the_last_hour_a_minute() -> None:
    close = walk()
    candles = made_candles(close)
    table = compute_features(candles, int(candles.decision_ms[-1]), int(candles.decision_ms[-1]) + 1)
    assert table.trailing_volatility[0] == pytest.approx(np.sqrt(np.mean(np.diff(np.log(close))[-60:] ** 2)))


def test_volatility_rises_when_the_last_half_hour_is_wilder() -> None:
    calm = walk(scale=1e-4)
    wild = calm.copy()
    wild[-30:] = calm[-31] * np.exp(np.cumsum(np.random.default_rng(5).standard_normal(30) * 1e-3))
    assert last_row(made_candles(wild))["volatility"] > 0.5
    assert last_row(made_candles(wild))["volatility_60m"] > 0.25


def test_volume_features_compare_with_the_last_three_hours() -> None:
    volume = np.ones(600)
    volume[-5:] = 10.0
    features = last_row(made_candles(walk(), volume))
    assert features["volume_5m"] == pytest.approx(np.log(10.0 / ((175 + 50) / 180)))


def test_a_steady_rise_is_a_strong_persistent_trend_at_its_high() -> None:
    close = 100.0 * np.exp(1e-4 * np.arange(600) + 2e-5 * np.random.default_rng(0).standard_normal(600))
    features = last_row(made_candles(close))
    assert features["trend_strength"] == 4.0
    assert features["hurst_exponent"] > 0.9
    assert features["drawdown"] > -0.05
    assert features["range_position_60m"] > 0.9


def test_moves_that_are_taken_back_show_as_mean_reversion() -> None:
    close = 100.0 + np.tile([0.0, 0.1], 300) + 0.01 * np.random.default_rng(0).standard_normal(600)
    features = last_row(made_candles(close))
    assert features["mean_reversion"] > 1.0
    assert features["hurst_exponent"] < 0.1


def test_moves_that_the_next_bar_takes_back_show_as_bounce() -> None:
    close = 100.0 + np.tile([0.0, 0.1], 300) + 0.01 * np.random.default_rng(0).standard_normal(600)
    assert last_row(made_candles(close))["bounce_60m"] < -0.8
    assert last_row(made_candles(100.0 * np.exp(1e-4 * np.arange(600))))["bounce_60m"] > 0.9


def test_a_close_at_the_low_of_its_bar_and_of_five_minutes_shows() -> None:
    candles = made_candles(walk())
    close = candles.close.copy()
    close[-1] *= 0.99
    low = np.minimum(candles.low, close)
    features = last_row(replace(candles, close=close, low=low))
    assert features["bar_position"] == -1.0
    assert features["range_position_5m"] == -1.0
    middle = np.log(np.sqrt(candles.high[-1] * low[-1]))
    volatility = np.sqrt(np.mean(np.diff(np.log(close))[-180:] ** 2))
    assert features["bar_deviation"] == pytest.approx(max((np.log(close[-1]) - middle) / volatility, -4.0))


def test_bars_that_reach_beyond_their_closes_show_as_wicks() -> None:
    plain = made_candles(walk())
    spiky = replace(plain, high=plain.high * 1.01, low=plain.low * 0.99)
    assert last_row(spiky)["wick_60m"] > last_row(plain)["wick_60m"] + 1.0


def test_volatility_of_a_few_bars_is_uneven() -> None:
    returns = np.full(600, 1e-4) * np.where(np.arange(600) % 2, 1, -1)
    assert last_row(made_candles(100.0 * np.exp(np.cumsum(returns))))["evenness_60m"] == pytest.approx(0.0, abs=1e-9)
    returns[-30] = 0.05
    assert last_row(made_candles(100.0 * np.exp(np.cumsum(returns))))["evenness_60m"] < -1.5


def test_autocorrelation_sees_a_cycle_of_twenty_minutes() -> None:
    returns = np.where(np.arange(600) // 10 % 2 == 0, 1e-4, -1e-4)
    assert last_row(made_candles(100.0 * np.exp(np.cumsum(returns))))["autocorrelation"] < -0.9


def test_a_price_that_stands_still_has_neutral_finite_features() -> None:
    candles = made_candles(np.full(600, 100.0), np.zeros(600))
    features = last_row(candles)
    assert all(np.isfinite(list(features.values())))
    assert features["return_60m"] == 0.0
    assert features["hurst_exponent"] == 0.5
    last = int(candles.decision_ms[-1])
    assert compute_features(candles, last, last + 1).trailing_volatility[0] == VOLATILITY_FLOOR


def test_quote_features_are_neutral_without_quotes(binance: Market) -> None:
    table = compute_features(binance.products["BTC-USDT"], NIGHT_MS, NIGHT_MS + DAY_MS)
    for name in QUOTE_FEATURES:
        assert not table.column(name).any()


def test_a_heavier_bid_shows_as_positive_imbalance(coinbase: Market) -> None:
    candles = coinbase.products["BTC-USD"]
    heavy = replace(candles, bid_size=np.full(len(candles), 3.0), ask_size=np.ones(len(candles)))
    start = to_ms(datetime(2018, 4, 5, 12, tzinfo=UTC))
    assert compute_features(heavy, start, start + MINUTE_MS).column("orderbook_imbalance")[0] == pytest.approx(0.5)


def test_a_hole_of_up_to_five_minutes_is_a_standstill() -> None:
    close = walk()
    still = close.copy()
    still[-20:-16] = close[-21]
    volume = np.ones(600)
    volume[-20:-16] = 0.0
    keep = np.ones(600, np.bool_)
    keep[-20:-16] = False
    holed, filled = last_row(made_candles(close, keep=keep)), last_row(made_candles(still, volume))
    # The bar after the hole opens elsewhere in the two; all else is the same.
    for name in set(FEATURE_NAMES) - {"range_position_60m", "drawdown", "bar_range", "wick_60m"}:
        assert holed[name] == pytest.approx(filled[name], abs=1e-9), name


def test_no_return_is_taken_across_a_gap() -> None:
    close = walk(scale=1e-4)
    close[-10:] *= 1.2
    keep = np.ones(600, np.bool_)
    keep[-20:-10] = False
    features = last_row(made_candles(close, keep=keep))
    assert abs(features["return_15m"]) < 4.0
    assert abs(features["bar_deviation"]) < 4.0
    assert features["volatility_5m"] < 1.0


@pytest.mark.parametrize("product", ["BTC-USDT", "DOT-USDT"])
def test_a_day_alone_has_the_bits_it_has_within_the_month(binance: Market, product: str) -> None:
    candles = binance.products[product]
    month = compute_features(candles, 0, NIGHT_MS + 30 * DAY_MS)
    for day in (0, 5, 20):
        start = NIGHT_MS + day * DAY_MS
        alone = compute_features(candles, start, start + DAY_MS)
        rows = (month.decision_ms >= start) & (month.decision_ms < start + DAY_MS)
        assert np.array_equal(alone.values, month.values[rows])
        assert np.array_equal(alone.trailing_volatility, month.trailing_volatility[rows])
        assert np.array_equal(alone.warm, month.warm[rows])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(minute=st.integers(0, 2 * 1440), product=st.sampled_from(["BTC-USD", "ETH-USD", "LTC-USD"]))
def test_nothing_older_than_the_look_back_matters(coinbase: Market, minute: int, product: str) -> None:
    candles = coinbase.products[product]
    time = to_ms(datetime(2018, 4, 4, tzinfo=UTC)) + minute * MINUTE_MS
    old = candles.decision_ms < time - LOOKBACK_MINUTES * MINUTE_MS
    factor = np.where(old, 1.7, 1.0)
    changed = replace(
        candles,
        **{name: getattr(candles, name) * factor for name in ("open", "high", "low", "close", "volume", "bid", "ask")},
    )
    before = compute_features(candles, time, time + 10 * MINUTE_MS)
    after = compute_features(changed, time, time + 10 * MINUTE_MS)
    assert np.array_equal(before.values, after.values)


def test_states_are_cold_until_the_history_reaches_back_a_whole_look_back() -> None:
    candles = made_candles(walk())
    table = compute_features(candles, 0, NIGHT_MS + DAY_MS)
    first_warm = int(table.decision_ms[table.warm][0])
    assert first_warm - int(candles.decision_ms[0]) == LOOKBACK_MINUTES * MINUTE_MS


def test_too_few_bars_in_the_look_back_leave_a_state_cold() -> None:
    candles = made_candles(walk(), keep=np.arange(600) % 4 == 0)
    assert not compute_features(candles, 0, NIGHT_MS + DAY_MS).warm.any()
    assert compute_features(candles, 0, NIGHT_MS + DAY_MS, bar_share=0.2).warm.any()


def test_a_break_of_more_than_an_hour_makes_states_cold_again() -> None:
    keep = np.ones(1200, np.bool_)
    keep[500:565] = False
    table = compute_features(made_candles(walk(1200), keep=keep), 0, NIGHT_MS + DAY_MS)
    after = table.decision_ms > NIGHT_MS + 565 * MINUTE_MS
    assert table.decision_ms[table.warm & after][0] == NIGHT_MS + (566 + 240) * MINUTE_MS


def test_a_gap_of_half_an_hour_leaves_states_warm() -> None:
    keep = np.ones(600, np.bool_)
    keep[500:530] = False
    table = compute_features(made_candles(walk(), keep=keep), 0, NIGHT_MS + DAY_MS)
    assert table.warm[-70:].all()


def test_a_span_without_candles_has_no_rows(binance: Market) -> None:
    assert len(compute_features(binance.products["BTC-USDT"], 0, DAY_MS).values) == 0
