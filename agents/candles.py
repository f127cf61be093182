"""Candles of one product: read from a parquet file, validated, and held as arrays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from memory.errors import MarketDataError
from memory.records import from_ms

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

FILE_NAME = re.compile(
    r"(?P<exchange>[A-Za-z0-9]+)_(?P<product>[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)_(?P<bar>[1-9][0-9]*)(?P<unit>[smhd])(?:_(?P<part>[^_]+))?\.parquet"
)
"""Names of candle files: exchange_PRODUCT_bar[_part].parquet, such as binance_BTC-USDT_1m.parquet."""

PRICE_COLUMNS = ("open", "high", "low", "close")
REQUIRED_COLUMNS = ("timestamp", *PRICE_COLUMNS, "volume")
QUOTE_COLUMNS = ("bid", "ask", "bid_size", "ask_size")
"""Best quote as of the bar's end; optional, and null where there was none."""

STEPS_TO_JUDGE = 10
"""Fewer candles than this say nothing about the length of a bar."""

_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class CandleFile:
    """What a candle file's name says about it; `bar_ms` is the length of a bar in milliseconds."""

    path: Path
    exchange: str
    product_id: str
    bar_ms: int

    @classmethod
    def of(cls, path: Path) -> CandleFile:
        """Read a file's name, or MarketDataError where it does not follow `FILE_NAME`."""
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MarketDataError(
                f"{path} is not named like a candle file.",
                remedy="Name it exchange_PRODUCT_bar.parquet, such as binance_BTC-USDT_1m.parquet, "
                "or give a glob that leaves it out.",
            )
        return cls(path, match["exchange"], match["product"], int(match["bar"]) * _UNIT_MS[match["unit"]])


@dataclass(frozen=True, slots=True, eq=False)
class Candles:
    """One product's candles, oldest first. A bar without trades has no row; nothing is filled in.

    Attributes
    ----------
    decision_ms
        End of each bar (its open + `bar_ms`), milliseconds since 1970, shape (n,): when a decision can be taken on it.
    open, high, low, close, volume
        Prices in the quote currency, volume in the base currency, shape (n,).
    bid, ask, bid_size, ask_size
        Best quote as of the bar's end, shape (n,); NaN where there was none.
    """

    product_id: str
    exchange: str
    bar_ms: int
    decision_ms: IntArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    bid: FloatArray
    ask: FloatArray
    bid_size: FloatArray
    ask_size: FloatArray

    def __len__(self) -> int:
        return len(self.decision_ms)

    @property
    def first_decision(self) -> datetime:
        """End of the first bar."""
        return from_ms(int(self.decision_ms[0]))

    @property
    def last_decision(self) -> datetime:
        """End of the last bar."""
        return from_ms(int(self.decision_ms[-1]))

    @property
    def mid(self) -> FloatArray:
        """Price of each bar's end: the middle of the quote, or the close where there is no quote; shape (n,)."""
        return np.where(self.quoted, (self.bid + self.ask) / 2.0, self.close)

    @property
    def quoted(self) -> npt.NDArray[np.bool_]:
        """Whether a bar has both sides of a quote, shape (n,)."""
        return np.isfinite(self.bid) & np.isfinite(self.ask)

    def between(self, start_ms: int, end_ms: int) -> Candles:
        """Candles with a decision time in [start_ms, end_ms)."""
        first, last = np.searchsorted(self.decision_ms, [start_ms, end_ms])
        rows = slice(int(first), int(last))
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return Candles(self.product_id, self.exchange, self.bar_ms, **arrays)


_ARRAYS = ("decision_ms", *PRICE_COLUMNS, "volume", *QUOTE_COLUMNS)


def read_candles(file: CandleFile) -> Candles:
    """Read and validate a candle file.

    Cost: about 0.1 s for half a million bars.

    Raises
    ------
    MarketDataError
        The file cannot be read, lacks a column, holds text, a naive, unsorted or repeated timestamp, a price that is
        not finite and positive, a high below the low, ...: with the row (counted from 1), the value and the remedy.
    """
    try:
        frame = pl.read_parquet(file.path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise MarketDataError(
            f"{file.path} cannot be read as parquet ({error}).", remedy="Give the path of a readable parquet file."
        ) from error
    return candles_from_frame(frame, file)


def candles_from_frame(frame: pl.DataFrame, file: CandleFile) -> Candles:
    """Validate a frame of candles (columns as `REQUIRED_COLUMNS`, `QUOTE_COLUMNS` optional); see `read_candles`."""
    missing = [name for name in REQUIRED_COLUMNS if name not in frame.columns]
    if missing:
        raise MarketDataError(
            f"{file.path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)} "
            f"(it has {', '.join(frame.columns)}).",
            remedy=f"Candles need {', '.join(REQUIRED_COLUMNS)}.",
        )
    if frame.is_empty():
        raise MarketDataError(f"{file.path} holds no candle.", remedy="Leave the file out, or fill it.")
    open_ms = _timestamps(frame["timestamp"], file)
    columns = {name: _numbers(frame[name], file) for name in (*PRICE_COLUMNS, "volume")}
    for name in QUOTE_COLUMNS:
        present = name in frame.columns
        columns[name] = _numbers(frame[name], file) if present else np.full(len(frame), np.nan)
    _check_timestamps(open_ms, file)
    _check_values(columns, file)
    return Candles(
        product_id=file.product_id,
        exchange=file.exchange,
        bar_ms=file.bar_ms,
        decision_ms=open_ms + file.bar_ms,
        **columns,
    )


def _refuse(file: CandleFile, row: int, problem: str, remedy: str) -> MarketDataError:
    return MarketDataError(f"{file.path}, row {row + 1}: {problem}.", remedy=remedy)


def _timestamps(column: pl.Series, file: CandleFile) -> IntArray:
    dtype = column.dtype
    if not isinstance(dtype, pl.Datetime):
        raise _refuse(
            file,
            0,
            f"timestamp {column[0]!r} is of type {dtype}, not a datetime",
            "Store timestamps as datetimes in UTC, the open of each bar.",
        )
    if dtype.time_zone is None:
        raise _refuse(
            file,
            0,
            f"timestamp {column[0]} has no time zone",
            "Store timestamps in UTC, for example with dt.replace_time_zone('UTC').",
        )
    if column.null_count():
        row = int(column.is_null().arg_true()[0])
        raise _refuse(file, row, "timestamp is null", "Every candle needs the open of its bar as its timestamp.")
    return column.dt.epoch("ms").cast(pl.Int64).to_numpy()


def _numbers(column: pl.Series, file: CandleFile) -> FloatArray:
    if not column.dtype.is_numeric():
        numbers = column.cast(pl.Float64, strict=False) if column.dtype == pl.String else None
        bad = numbers.is_null().arg_true() if numbers is not None else pl.Series([0])
        row = int(bad[0]) if len(bad) else 0
        raise _refuse(
            file,
            row,
            f"{column.name} is {column[row]!r}, a value of type {column.dtype}, not a number",
            f"Store {column.name} as a column of floats.",
        )
    if column.name not in QUOTE_COLUMNS and column.null_count():
        row = int(column.is_null().arg_true()[0])
        raise _refuse(
            file, row, f"{column.name} is null", "Leave bars without trades out; do not fill them with nulls."
        )
    return np.ascontiguousarray(column.cast(pl.Float64).fill_null(np.nan).to_numpy(), dtype=np.float64)


def _check_timestamps(open_ms: IntArray, file: CandleFile) -> None:
    steps = np.diff(open_ms)
    if (steps <= 0).any():
        row = int(np.argmax(steps <= 0)) + 1
        now, before = from_ms(int(open_ms[row])), from_ms(int(open_ms[row - 1]))
        problem = "repeats the one before" if now == before else f"comes after {before.isoformat()}"
        raise _refuse(
            file, row, f"timestamp {now.isoformat()} {problem}", "Sort the candles by timestamp, one row a bar."
        )
    off_grid = open_ms % file.bar_ms != 0
    if off_grid.any():
        row = int(np.argmax(off_grid))
        raise _refuse(
            file,
            row,
            f"timestamp {from_ms(int(open_ms[row])).isoformat()} is not the open of a bar of {file.bar_ms // 1000} s",
            "Align the candles to their bar length, or correct the bar length in the file's name.",
        )
    if len(steps) >= STEPS_TO_JUDGE and not (steps == file.bar_ms).any():
        raise MarketDataError(
            f"{file.path} is named as bars of {file.bar_ms // 1000} s, but no two of its candles are that close: "
            f"the closest are {int(steps.min()) // 1000} s apart.",
            remedy="Correct the bar length in the file's name.",
        )


def _check_values(columns: dict[str, FloatArray], file: CandleFile) -> None:
    positive = "Prices must be finite and above 0; leave broken bars out."
    for name in PRICE_COLUMNS:
        _refuse_where(~(np.isfinite(columns[name]) & (columns[name] > 0)), columns, (name,), file, positive)
    volume = columns["volume"]
    _refuse_where(
        ~(np.isfinite(volume) & (volume >= 0)), columns, ("volume",), file, "Volume must be finite and at least 0."
    )
    span = "A bar's low may not exceed its open and close, nor these its high; leave broken bars out."
    low, high = columns["low"], columns["high"]
    _refuse_where(high < low, columns, ("high", "low"), file, span)
    for name in ("open", "close"):
        _refuse_where((columns[name] > high) | (columns[name] < low), columns, (name, "low", "high"), file, span)
    for name in ("bid", "ask"):
        quote = columns[name]
        _refuse_where(~np.isnan(quote) & ~(np.isfinite(quote) & (quote > 0)), columns, (name,), file, positive)
    for name in ("bid_size", "ask_size"):
        size = columns[name]
        _refuse_where(
            ~np.isnan(size) & ~(np.isfinite(size) & (size >= 0)), columns, (name,), file, "Sizes must be at least 0."
        )
    crossed = columns["bid"] > columns["ask"]
    _refuse_where(crossed, columns, ("bid", "ask"), file, "The bid may not exceed the ask; set broken quotes to null.")


def _refuse_where(
    bad: npt.NDArray[np.bool_], columns: dict[str, FloatArray], names: tuple[str, ...], file: CandleFile, remedy: str
) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise _refuse(file, row, " and ".join(f"{name} is {columns[name][row]:g}" for name in names), remedy)
