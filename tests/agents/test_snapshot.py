"""Market snapshots: the state of a replay, bit for bit, from the last candles alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest

from agents.candles import CandleFile
from agents.encoder import StateEncoder
from agents.feed import live_ticks, replay_ticks
from agents.market import Market
from agents.replay import MarketReplay, State
from agents.snapshot import LiveCandles, MarketSnapshot
from memory.errors import EncoderError, InvalidQueryError, InvalidRecordError, MarketDataError
from memory.records import from_ms

START = datetime(2021, 6, 17, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
COINBASE_DAY = datetime(2018, 4, 4, tzinfo=UTC)


def same(one: State, other: State) -> bool:
    """Whether two states agree in every bit."""
    return (
        one.features == other.features
        and one.vector.tobytes() == other.vector.tobytes()
        and (one.product_id, one.timestamp, one.price, one.spread, one.regime, one.regime_confidence)
        == (other.product_id, other.timestamp, other.price, other.spread, other.regime, other.regime_confidence)
    )


def rows_of(market: Market, product_id: str, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """A product's candles as a feed gives them."""
    candles = market.products[product_id].between(int(start.timestamp() * 1000), int(end.timestamp() * 1000))
    names = ("open", "high", "low", "close", "volume", "bid", "ask", "bid_size", "ask_size")
    return [
        {"timestamp": from_ms(int(time) - candles.bar_ms)}
        | {name: None if np.isnan(value := float(getattr(candles, name)[row])) else value for name in names}
        for row, time in enumerate(candles.decision_ms)
    ]


@pytest.mark.parametrize("minute", [0, 1, 241, 777, 1439])
def test_a_snapshot_of_a_replays_candles_is_the_replays_state(
    binance: Market, encoder: StateEncoder, minute: int
) -> None:
    replayed = MarketReplay(binance, START, START + timedelta(days=1), encoder).product("ETH-USDT").state(minute)
    snapshot = MarketSnapshot.of_market(binance, "ETH-USDT", replayed.timestamp)
    assert same(snapshot.state(encoder), replayed)


def test_so_is_one_of_a_market_with_quotes_and_gaps(coinbase: Market, coinbase_encoder: StateEncoder) -> None:
    table = MarketReplay(coinbase, COINBASE_DAY, COINBASE_DAY + timedelta(days=1), coinbase_encoder).product("LTC-USD")
    warm = np.flatnonzero(table.warm & table.inside)
    for row in warm[:: len(warm) // 7].tolist():
        replayed = table.state(row)
        snapshot = MarketSnapshot.of_market(coinbase, "LTC-USD", replayed.timestamp)
        assert same(snapshot.state(coinbase_encoder), replayed)
        assert snapshot.spread == replayed.spread


def test_what_comes_later_changes_nothing(binance: Market, encoder: StateEncoder) -> None:
    at = START + timedelta(hours=5)
    snapshot = MarketSnapshot.of_market(binance, "BTC-USDT", at)
    assert snapshot.timestamp == at
    assert snapshot.candles.decision_ms.max() == int(at.timestamp() * 1000)


def test_rows_of_a_feed_make_the_same_state(coinbase: Market, coinbase_encoder: StateEncoder) -> None:
    at = COINBASE_DAY + timedelta(hours=9)
    rows = rows_of(coinbase, "BTC-USD", at - timedelta(minutes=530), at + MINUTE)
    from_rows = MarketSnapshot.of_rows("BTC-USD", rows)
    from_market = MarketSnapshot.of_market(coinbase, "BTC-USD", at)
    assert same(from_rows.state(coinbase_encoder), from_market.state(coinbase_encoder))


async def test_a_live_feed_gives_the_ticks_of_a_replay(coinbase: Market, coinbase_encoder: StateEncoder) -> None:
    begin, end = COINBASE_DAY + timedelta(hours=8), COINBASE_DAY + timedelta(hours=8, minutes=9)
    rows = {name: rows_of(coinbase, name, begin - timedelta(minutes=340), end) for name in ("BTC-USD", "LTC-USD")}

    async def bars() -> Any:
        by_time: dict[datetime, dict[str, Any]] = {}
        for name, listed in rows.items():
            for row in listed:
                by_time.setdefault(row["timestamp"], {})[name] = row
        for moment in sorted(by_time):
            yield by_time[moment]

    market = Market("part", [coinbase.products[name] for name in rows])
    wanted = list(replay_ticks(MarketReplay(market, begin, end, coinbase_encoder)))
    got = [ticks async for ticks in live_ticks(bars(), coinbase_encoder)]
    got = [ticks for ticks in got if begin <= ticks[0].timestamp < end]
    assert len(got) == len(wanted) - 1  # The replay adds the bar after its end.
    for one, other in zip(got, wanted, strict=False):
        assert [tick.product_id for tick in one] == [tick.product_id for tick in other]
        assert all(
            mine.state is not None and its.state is not None and same(mine.state, its.state)
            for mine, its in zip(one, other, strict=True)
        )


def test_histories_hold_the_last_bars_oldest_first(binance: Market) -> None:
    snapshot = MarketSnapshot.of_market(binance, "BTC-USDT", START)
    candles = binance.products["BTC-USDT"]
    last = int(np.searchsorted(candles.decision_ms, int(START.timestamp() * 1000)))
    assert snapshot.get_price_history(3).tolist() == candles.close[last - 2 : last + 1].tolist()
    assert snapshot.get_volume_history(3).tolist() == candles.volume[last - 2 : last + 1].tolist()
    assert len(snapshot.get_price_history(10_000)) == len(snapshot.candles)


def test_a_market_without_quotes_has_neither_spread_nor_imbalance(binance: Market) -> None:
    snapshot = MarketSnapshot.of_market(binance, "BTC-USDT", START)
    assert (snapshot.spread, snapshot.orderbook_imbalance) == (None, None)
    assert snapshot.price == snapshot.candles.close[-1]


def test_the_imbalance_is_that_of_the_last_quotes_sizes() -> None:
    rows = [_row(0, bid=99.5, ask=100.5, bid_size=3.0, ask_size=1.0)]
    snapshot = MarketSnapshot.of_rows("BTC-USD", rows)
    assert (snapshot.orderbook_imbalance, snapshot.spread, snapshot.price) == (0.5, 1.0, 100.0)


def test_dwell_is_how_long_the_rules_label_has_lasted(binance: Market, encoder: StateEncoder) -> None:
    table = MarketReplay(binance, START, START + timedelta(days=1), encoder).product("DOT-USDT")
    for row in (300, 801, 1200):
        codes = table.regimes.codes[: row + 1]
        run = len(codes) - int(np.flatnonzero(codes != codes[-1])[-1]) - 1
        snapshot = MarketSnapshot.of_market(binance, "DOT-USDT", table.state(row).timestamp)
        assert snapshot.dwell_minutes(encoder) == min(run, 100) - 1
        assert snapshot.dwell_minutes(encoder, 3) == min(run, 3) - 1


def test_previous_regimes_are_those_of_the_labels_before(binance: Market, encoder: StateEncoder) -> None:
    table = MarketReplay(binance, START, START + timedelta(days=1), encoder).product("DOT-USDT")
    row = 900
    window = table.regimes.names()[row - 99 : row + 1]
    expected = tuple(before for before, after in pairwise(window) if before != after)
    snapshot = MarketSnapshot.of_market(binance, "DOT-USDT", table.state(row).timestamp)
    assert snapshot.previous_regimes(encoder) == expected


def test_labels_do_not_reach_over_a_gap(coinbase: Market, coinbase_encoder: StateEncoder) -> None:
    table = MarketReplay(coinbase, COINBASE_DAY, COINBASE_DAY + timedelta(days=2), coinbase_encoder).product("BTC-USD")
    warm = np.flatnonzero(table.warm & table.inside)
    after_gap = next(row for row in warm.tolist() if not table.warm[row - 1])
    snapshot = MarketSnapshot.of_market(coinbase, "BTC-USD", table.state(after_gap).timestamp)
    assert snapshot.dwell_minutes(coinbase_encoder) == 0.0


def test_a_cold_snapshot_says_how_much_it_lacks(binance: Market, encoder: StateEncoder) -> None:
    snapshot = MarketSnapshot.of_market(binance, "BTC-USDT", START, minutes=200)
    assert not snapshot.warm
    for ask in (lambda: snapshot.state(encoder), lambda: snapshot.dwell_minutes(encoder)):
        with pytest.raises(MarketDataError, match="is cold: it lacks 240 unbroken minutes"):
            ask()


def test_an_encoder_of_the_future_is_refused(binance: Market, encoder: StateEncoder) -> None:
    before = encoder.fitted_until_ - timedelta(days=1)
    with pytest.raises(EncoderError, match="was not known at"):
        MarketSnapshot.of_market(binance, "BTC-USDT", before).state(encoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"close": float("nan")}, "row 3: close is nan"),
        ({"high": 1.0}, "row 3: high is 1 and low is 101"),
        ({"volume": -1.0}, "row 3: volume is -1"),
        ({"timestamp": START + MINUTE}, "row 3: timestamp .* repeats the one before"),
        ({"timestamp": START}, "row 3: timestamp .* comes after"),
        ({"bid": 101.0, "ask": 100.0}, "bid is 101 and ask is 100"),
        ({"close": None}, "row 3: close missing"),
        ({"timestamp": START + timedelta(seconds=130)}, "row 3: timestamp .* is not the open of a bar of 60 s"),
    ],
)
def test_a_broken_row_is_named_with_its_value(change: dict[str, Any], message: str) -> None:
    rows = [_row(minute) for minute in range(5)]
    rows[2] |= change
    with pytest.raises(MarketDataError, match=message):
        MarketSnapshot.of_rows("BTC-USD", rows)


def test_a_naive_timestamp_is_refused() -> None:
    with pytest.raises(InvalidRecordError, match=r"timestamp .* is not an aware datetime"):
        MarketSnapshot.of_rows("BTC-USD", [_row(0) | {"timestamp": datetime(2021, 6, 17)}])


def test_no_rows_are_no_snapshot() -> None:
    with pytest.raises(MarketDataError, match="holds no candle"):
        MarketSnapshot.of_rows("BTC-USD", [])


def test_an_unknown_product_and_an_empty_span_are_named(binance: Market) -> None:
    with pytest.raises(MarketDataError, match=r"has no product 'BTC-EUR'.*BTC-USDT"):
        MarketSnapshot.of_market(binance, "BTC-EUR", START)
    with pytest.raises(MarketDataError, match="no candle in the 530 minutes before 2030"):
        MarketSnapshot.of_market(binance, "BTC-USDT", datetime(2030, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_a_history_needs_a_whole_number_of_bars(binance: Market, count: Any) -> None:
    snapshot = MarketSnapshot.of_market(binance, "BTC-USDT", START)
    with pytest.raises(InvalidQueryError, match="at least 1"):
        snapshot.get_price_history(count)


def test_a_live_bar_out_of_order_is_refused_and_left_out() -> None:
    live = LiveCandles("BTC-USD")
    live.add(_row(0))
    live.add(_row(1))
    with pytest.raises(MarketDataError, match="comes after that of"):
        live.add(_row(1))
    assert live.add(_row(2)).get_price_history(9).tolist() == [100.0, 101.0, 102.0]


def test_live_candles_forget_what_no_state_needs() -> None:
    live = LiveCandles("BTC-USD", minutes=10)
    for minute in range(30):
        snapshot = live.add(_row(minute))
    assert len(snapshot.candles) == 11


async def test_bars_of_different_times_do_not_come_together(encoder: StateEncoder) -> None:
    async def bars() -> Any:
        yield {"BTC-USD": _row(0), "ETH-USD": _row(1)}

    with pytest.raises(MarketDataError, match="came together"):
        async for _ in live_ticks(bars(), encoder):
            pass


def test_a_candle_file_and_its_rows_are_checked_by_the_same_rules(
    candle_frame: Callable[..., pl.DataFrame], candle_path: Callable[..., Any]
) -> None:
    frame = candle_frame(20)
    market = Market.from_path(candle_path(frame))
    snapshot = MarketSnapshot.of_rows("BTC-USD", frame.to_dicts())
    file = CandleFile.of(candle_path(frame))
    assert snapshot.candles.bar_ms == file.bar_ms
    assert snapshot.candles.close.tobytes() == market.products["BTC-USD"].close.tobytes()
    assert replace(snapshot, bar_share=0.25).bar_share == 0.25


def _row(minute: int, **changes: Any) -> dict[str, Any]:
    price = 100.0 + minute
    return {
        "timestamp": START + minute * MINUTE,
        "open": price,
        "high": price + 1,
        "low": price - 1,
        "close": price,
        "volume": 1.0,
    } | changes
