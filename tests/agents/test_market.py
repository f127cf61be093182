"""Markets: what is read, what is refused and how, and what a market says about itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from agents.market import Market
from memory.errors import MarketDataError

MakeFrame = Callable[..., pl.DataFrame]
WriteFrame = Callable[..., Path]


def test_the_default_sample_has_three_products_of_one_minute_bars(binance: Market) -> None:
    assert binance.product_ids == ("BTC-USDT", "DOT-USDT", "ETH-USDT")
    assert binance.bar_ms == 60_000
    assert [len(candles) for candles in binance.products.values()] == [43_461, 43_199, 43_461]


def test_a_decision_is_taken_at_the_end_of_its_bar(binance: Market) -> None:
    assert binance.products["BTC-USDT"].first_decision == datetime(2021, 6, 10, 13, 37, tzinfo=UTC)


def test_the_coinbase_sample_has_quotes_of_which_a_few_are_missing(coinbase: Market) -> None:
    quoted = coinbase.products["BTC-USD"].quoted
    assert int((~quoted).sum()) == 11


def test_price_is_the_middle_of_the_quote_and_the_close_without_one(coinbase: Market) -> None:
    candles = coinbase.products["BTC-USD"]
    row, bare = int(np.argmax(candles.quoted)), int(np.argmin(candles.quoted))
    assert candles.mid[row] == (candles.bid[row] + candles.ask[row]) / 2
    assert candles.mid[bare] == candles.close[bare]


def test_products_can_be_chosen() -> None:
    assert Market.sample("binance", ["ETH-USDT"]).product_ids == ("ETH-USDT",)


def test_an_unknown_product_is_refused_with_those_there_are() -> None:
    with pytest.raises(MarketDataError, match=r"no product DOGE.*It has BTC-USDT, DOT-USDT, ETH-USDT"):
        Market.sample("binance", ["DOGE"])


def test_an_unknown_sample_is_refused_with_those_there_are() -> None:
    with pytest.raises(MarketDataError, match=r"'kraken'.*binance or coinbase"):
        Market.sample("kraken")


def test_a_span_without_data_is_refused_with_what_the_market_spans(binance: Market) -> None:
    with pytest.raises(MarketDataError, match=r"no candle from 2019-01-01 00:00.*2021-06-10 13:37 to 2021-07-10 17:57"):
        binance.check_span(datetime(2019, 1, 1, tzinfo=UTC), datetime(2019, 1, 2, tzinfo=UTC))


def test_a_date_that_only_ends_the_bar_of_the_day_before_has_no_data(coinbase: Market) -> None:
    day = datetime(2018, 4, 7, tzinfo=UTC)
    assert not coinbase.has_decisions(day, day + timedelta(days=1))


def test_history_without_a_folder_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COINSWARM_HISTORY", raising=False)
    with pytest.raises(MarketDataError, match="Set COINSWARM_HISTORY"):
        Market.history("bitfinex")


def test_history_reads_the_folder_of_the_setting(
    monkeypatch: pytest.MonkeyPatch, candle_frame: MakeFrame, candle_path: WriteFrame
) -> None:
    monkeypatch.setenv("COINSWARM_HISTORY", str(candle_path(candle_frame()).parent))
    assert Market.history("kraken").product_ids == ("BTC-USD",)


def test_history_of_an_unknown_exchange_names_those_there_are(candle_frame: MakeFrame, candle_path: WriteFrame) -> None:
    folder = candle_path(candle_frame()).parent
    with pytest.raises(MarketDataError, match=r"'nowhere'.*It holds kraken 1m"):
        Market.history("nowhere", folder=folder)


def test_a_market_is_read_from_a_file_a_folder_or_a_glob(candle_frame: MakeFrame, candle_path: WriteFrame) -> None:
    path = candle_path(candle_frame())
    for where in (path, path.parent, f"{path.parent}/kraken_*.parquet"):
        market = Market.from_path(where)
        assert (market.name, market.product_ids) == ("kraken", ("BTC-USD",))


def test_a_path_without_parquet_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MarketDataError, match="holds no parquet file"):
        Market.from_path(tmp_path)


def test_a_file_name_without_product_and_bar_length_is_refused(
    candle_frame: MakeFrame, candle_path: WriteFrame
) -> None:
    with pytest.raises(MarketDataError, match=r"candles\.parquet is not named like a candle file"):
        Market.from_path(candle_path(candle_frame(), "candles.parquet"))


@pytest.mark.parametrize("name", ["", "a b", "x" * 65])
def test_a_market_name_that_cannot_be_part_of_ids_is_refused(binance: Market, name: str) -> None:
    with pytest.raises(MarketDataError, match="is not a valid id"):
        Market(name, binance.products.values())


def test_two_files_of_one_product_are_refused(candle_frame: MakeFrame, candle_path: WriteFrame) -> None:
    path = candle_path(candle_frame())
    candle_path(candle_frame(), "kraken_BTC-USD_1m_2020.parquet")
    with pytest.raises(MarketDataError, match="both hold BTC-USD"):
        Market.from_path(path.parent)


def test_two_exchanges_are_refused(candle_frame: MakeFrame, candle_path: WriteFrame) -> None:
    path = candle_path(candle_frame())
    candle_path(candle_frame(), "okx_ETH-USD_1m.parquet")
    with pytest.raises(MarketDataError, match="mixes the exchanges kraken, okx"):
        Market.from_path(path.parent)


def test_two_bar_lengths_are_refused(candle_frame: MakeFrame, candle_path: WriteFrame) -> None:
    path = candle_path(candle_frame())
    start = datetime(2021, 6, 17, tzinfo=UTC)
    times = [start + timedelta(minutes=5 * row) for row in range(20)]
    candle_path(candle_frame(timestamp=times), "kraken_ETH-USD_5m.parquet")
    with pytest.raises(MarketDataError, match="mixes bars of 60 s, 300 s"):
        Market.from_path(path.parent)


def test_a_wrong_bar_length_in_the_name_is_refused(candle_frame: MakeFrame, candle_path: WriteFrame) -> None:
    start = datetime(2021, 6, 17, tzinfo=UTC)
    frame = candle_frame(timestamp=[start + timedelta(minutes=5 * row) for row in range(20)])
    with pytest.raises(MarketDataError, match="no two of its candles are that close: the closest are 300 s apart"):
        Market.from_path(candle_path(frame))


def test_bars_of_an_hour_are_refused(candle_frame: MakeFrame, candle_path: WriteFrame) -> None:
    start = datetime(2021, 6, 17, tzinfo=UTC)
    frame = candle_frame(timestamp=[start + timedelta(hours=row) for row in range(20)])
    with pytest.raises(MarketDataError, match=r"bars of 3600 s.*at most 300 s"):
        Market.from_path(candle_path(frame, "kraken_BTC-USD_1h.parquet"))


def test_holes_are_legal(candle_frame: MakeFrame, candle_path: WriteFrame) -> None:
    frame = candle_frame().filter(pl.int_range(pl.len()) % 7 != 3)
    assert len(Market.from_path(candle_path(frame)).products["BTC-USD"]) == len(frame)


def test_integer_columns_are_numbers(candle_frame: MakeFrame, candle_path: WriteFrame) -> None:
    assert len(Market.from_path(candle_path(candle_frame(volume=list(range(20))))).products["BTC-USD"]) == 20


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kraken_BTC-USD_1m.parquet"
    path.write_text("timestamp,open\n")
    with pytest.raises(MarketDataError, match="cannot be read as parquet"):
        Market.from_path(path)


def replaced(values: list[Any], row: int, value: Any) -> list[Any]:
    """A copy with one value replaced."""
    return [*values[:row], value, *values[row + 1 :]]


def minutes(rows: int = 20) -> list[datetime]:
    """The timestamps of `candle_frame`."""
    return [datetime(2021, 6, 17, tzinfo=UTC) + timedelta(minutes=row) for row in range(rows)]


ONES = [1.0] * 20
PRICES = [100.0] * 20
MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "text in a price": ({"close": replaced(["100.0"] * 20, 4, "n/a")}, r"row 5: close is 'n/a'.*not a number"),
    "text that looks like numbers": ({"close": ["100.0"] * 20}, r"row 1: close is '100.0'.*not a number"),
    "a null price": ({"open": replaced(PRICES, 2, None)}, r"row 3: open is null"),
    "a null volume": ({"volume": replaced(ONES, 2, None)}, r"row 3: volume is null"),
    "a price that is not a number": ({"close": replaced(PRICES, 6, float("nan"))}, r"row 7: close is nan"),
    "an infinite price": ({"high": replaced([200.0] * 20, 6, float("inf"))}, r"row 7: high is inf"),
    "a price of zero": ({"low": replaced([1.0] * 20, 1, 0.0)}, r"row 2: low is 0"),
    "a negative volume": ({"volume": replaced(ONES, 19, -1.0)}, r"row 20: volume is -1"),
    "a high below the low": ({"high": replaced([200.0] * 20, 3, 90.0)}, r"row 4: high is 90 and low is 99"),
    "a close above the high": ({"close": replaced(PRICES, 3, 150.0)}, r"row 4: close is 150 and low is"),
    "an open below the low": ({"open": replaced(PRICES, 3, 50.0)}, r"row 4: open is 50 and low is"),
    "a repeated timestamp": (
        {"timestamp": replaced(minutes(), 5, minutes()[4])},
        r"row 6: timestamp 2021-06-17T00:04:00\+00:00 repeats the one before",
    ),
    "unsorted timestamps": (
        {"timestamp": replaced(minutes(), 5, minutes()[2])},
        r"row 6: timestamp 2021-06-17T00:02:00\+00:00 comes after 2021-06-17T00:04",
    ),
    "naive timestamps": (
        {"timestamp": [time.replace(tzinfo=None) for time in minutes()]},
        r"row 1: .*has no time zone",
    ),
    "numbers for timestamps": ({"timestamp": list(range(20))}, r"row 1: timestamp 0 is of type Int64, not a datetime"),
    "a null timestamp": ({"timestamp": replaced(minutes(), 8, None)}, r"row 9: timestamp is null"),
    "a timestamp off the grid of bars": (
        {"timestamp": replaced(minutes(), 8, minutes()[8] + timedelta(seconds=7))},
        r"row 9: timestamp 2021-06-17T00:08:07\+00:00 is not the open of a bar of 60 s",
    ),
    "a crossed quote": ({"bid": replaced(PRICES, 2, 102.0), "ask": [101.0] * 20}, r"row 3: bid is 102 and ask is 101"),
    "a quote of zero": ({"bid": replaced(PRICES, 2, 0.0), "ask": [101.0] * 20}, r"row 3: bid is 0"),
    "a negative size": ({"bid_size": replaced(ONES, 2, -2.0)}, r"row 3: bid_size is -2"),
}


@pytest.mark.parametrize(("columns", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_candle_file_is_refused_with_file_row_value_and_remedy(
    candle_frame: MakeFrame, candle_path: WriteFrame, columns: dict[str, Any], message: str
) -> None:
    path = candle_path(candle_frame(**columns))
    with pytest.raises(MarketDataError, match=message) as caught:
        Market.from_path(path)
    assert str(path) in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("column", ["timestamp", "open", "high", "low", "close", "volume"])
def test_a_missing_column_is_refused_by_name(candle_frame: MakeFrame, candle_path: WriteFrame, column: str) -> None:
    with pytest.raises(MarketDataError, match=f"lacks the column {column}"):
        Market.from_path(candle_path(candle_frame().drop(column)))


def test_an_empty_file_is_refused(candle_frame: MakeFrame, candle_path: WriteFrame) -> None:
    with pytest.raises(MarketDataError, match="holds no candle"):
        Market.from_path(candle_path(candle_frame().head(0)))
