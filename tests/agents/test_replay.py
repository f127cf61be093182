"""Market replay: states at bar ends, the same whatever else is replayed, blind to the future."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.catalogue import FEATURE_NAMES
from agents.encoder import StateEncoder
from agents.fitting import default_encoder
from agents.market import Market
from agents.replay import MarketReplay, ProductStates
from memory.errors import EncoderError, InvalidRecordError, MarketDataError, WindowError
from memory.records import REGIMES, to_ms
from memory.tables import TRAILING_VOLATILITY

NIGHT = datetime(2021, 6, 17, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE_MS = 60_000


def same_bits(left: ProductStates, right: ProductStates, rows: np.ndarray) -> None:
    """Assert that `right` equals the rows of `left`, bit for bit, in all that a state is."""
    for name in ("decision_ms", "warm", "features", "vectors", "price", "spread", "trailing_volatility"):
        assert np.array_equal(getattr(left, name)[rows], getattr(right, name), equal_nan=name == "spread"), name
    assert np.array_equal(left.regimes.codes[rows], right.regimes.codes)
    assert np.array_equal(left.regimes.confidence[rows], right.regimes.confidence)


def cut(market: Market, time_ms: int) -> Market:
    """The market as it was known at a time: candles that have ended by then."""
    parts = [candles.between(0, time_ms + 1) for candles in market.products.values()]
    return Market(market.name, [part for part in parts if len(part)])


def test_a_night_has_a_state_a_minute_from_its_first_minute_on(binance: Market, encoder: StateEncoder) -> None:
    states = MarketReplay(binance, NIGHT, NIGHT + DAY, encoder).product("BTC-USDT")
    inside = states.decision_ms[states.inside]
    assert inside.tolist() == (to_ms(NIGHT) + np.arange(1440) * MINUTE_MS).tolist()
    assert states.warm.all()


def test_one_bar_after_the_span_is_read_as_the_next_state(binance: Market, encoder: StateEncoder) -> None:
    states = MarketReplay(binance, NIGHT, NIGHT + DAY, encoder).product("BTC-USDT")
    assert states.decision_ms[-1] == to_ms(NIGHT + DAY)
    assert not states.inside[-1]


def test_a_state_holds_the_close_of_the_bar_that_ends_with_it(binance: Market, encoder: StateEncoder) -> None:
    state = MarketReplay(binance, NIGHT, NIGHT + DAY, encoder).product("BTC-USDT").state(0)
    candles = binance.products["BTC-USDT"]
    row = int(np.searchsorted(candles.decision_ms, to_ms(NIGHT)))
    assert state.timestamp == NIGHT
    assert state.price == candles.close[row]
    assert state.spread is None


def test_a_state_has_all_features_and_the_trailing_volatility_by_name(binance: Market, encoder: StateEncoder) -> None:
    state = MarketReplay(binance, NIGHT, NIGHT + DAY, encoder).product("BTC-USDT").state(0)
    assert set(state.features) == {*FEATURE_NAMES, TRAILING_VOLATILITY}
    assert state.features[TRAILING_VOLATILITY] > 0
    assert np.array_equal(encoder.encode(state.features), state.vector)
    assert state.regime in REGIMES


def test_a_spread_is_in_the_quote_currency(coinbase: Market, coinbase_encoder: StateEncoder) -> None:
    start = datetime(2018, 4, 5, tzinfo=UTC)
    states = MarketReplay(coinbase, start, start + DAY, coinbase_encoder).product("BTC-USD")
    candles = coinbase.products["BTC-USD"].between(to_ms(start), to_ms(start + DAY))
    assert np.array_equal(states.spread[states.inside], candles.ask - candles.bid, equal_nan=True)


@pytest.mark.parametrize("day", [0, 9])
def test_a_day_alone_equals_that_day_within_the_month(binance: Market, encoder: StateEncoder, day: int) -> None:
    start = NIGHT + day * DAY
    month = MarketReplay(binance, NIGHT, NIGHT + 20 * DAY, encoder)
    alone = MarketReplay(binance, start, start + DAY, encoder)
    for product in binance.product_ids:
        part = alone.product(product)
        whole = month.product(product)
        same_bits(whole, part, np.flatnonzero(np.isin(whole.decision_ms, part.decision_ms)))


@settings(max_examples=20, deadline=None)
@given(minute=st.integers(1, 2 * 1440))
def test_cutting_the_candles_at_a_time_changes_no_state_up_to_it(minute: int) -> None:
    market, encoder = Market.sample("binance", ["DOT-USDT"]), default_encoder()
    time_ms = to_ms(NIGHT) + minute * MINUTE_MS
    whole = MarketReplay(market, NIGHT, NIGHT + 2 * DAY, encoder).product("DOT-USDT")
    known = MarketReplay(cut(market, time_ms), NIGHT, NIGHT + 2 * DAY, encoder).product("DOT-USDT")
    same_bits(whole, known, np.flatnonzero(whole.decision_ms <= time_ms))


@settings(max_examples=20, deadline=None)
@given(minute=st.integers(1, 3 * 1440), product=st.sampled_from(["BTC-USD", "ETH-USD", "LTC-USD"]))
def test_the_same_with_quotes_and_gaps(minute: int, product: str) -> None:
    market, encoder = Market.sample("coinbase", [product]), default_encoder("coinbase")
    start = datetime(2018, 4, 4, tzinfo=UTC)
    time_ms = to_ms(start) + minute * MINUTE_MS
    whole = MarketReplay(market, start, start + 3 * DAY, encoder).product(product)
    known = MarketReplay(cut(market, time_ms), start, start + 3 * DAY, encoder).product(product)
    same_bits(whole, known, np.flatnonzero(whole.decision_ms <= time_ms))


def test_the_next_state_of_a_gap_is_none(coinbase: Market, coinbase_encoder: StateEncoder) -> None:
    start = datetime(2018, 4, 4, tzinfo=UTC)
    states = MarketReplay(coinbase, start, start + 2 * DAY, coinbase_encoder).product("BTC-USD")
    gap = int(np.argmax(np.diff(states.decision_ms)))
    assert np.diff(states.decision_ms)[gap] > 400 * MINUTE_MS
    assert not states.has_next[gap]


def test_replaying_over_time_gives_the_products_of_each_decision(binance: Market, encoder: StateEncoder) -> None:
    steps = list(MarketReplay(binance, NIGHT, NIGHT + timedelta(minutes=10), encoder))
    assert [len(states) for states in steps] == [3] * 10
    assert [states[0].timestamp for states in steps] == [NIGHT + timedelta(minutes=m) for m in range(10)]
    assert [state.product_id for state in steps[0]] == list(binance.product_ids)


def test_cold_states_are_left_out_over_time(coinbase: Market, coinbase_encoder: StateEncoder) -> None:
    start = datetime(2018, 4, 4, tzinfo=UTC)
    first = next(iter(MarketReplay(coinbase, start, start + DAY, coinbase_encoder)))
    assert {state.timestamp for state in first} == {start + timedelta(hours=4, minutes=1)}


def test_an_encoder_from_the_future_is_refused(binance: Market, encoder: StateEncoder) -> None:
    with pytest.raises(EncoderError, match="was not known"):
        MarketReplay(binance, NIGHT - DAY, NIGHT, encoder)


def test_a_date_without_data_is_refused(binance: Market, encoder: StateEncoder) -> None:
    with pytest.raises(MarketDataError, match="no candle from 2022-01-01"):
        MarketReplay(binance, datetime(2022, 1, 1, tzinfo=UTC), datetime(2022, 1, 2, tzinfo=UTC), encoder)


def test_an_empty_span_is_refused(binance: Market, encoder: StateEncoder) -> None:
    with pytest.raises(WindowError, match="is empty"):
        MarketReplay(binance, NIGHT, NIGHT, encoder)


def test_a_naive_span_is_refused(binance: Market, encoder: StateEncoder) -> None:
    with pytest.raises(InvalidRecordError, match="start"):
        MarketReplay(binance, datetime(2021, 6, 17), NIGHT + DAY, encoder)
