"""Features of a state: named, scale-free, clipped, and functions of the last 240 minutes only.

Every feature is relative to the product's own trailing values: returns and ranges are counted in trailing
volatilities, volumes and spreads in their trailing means. No absolute price, volume or volatility enters, because
thresholds on such numbers stop fitting within months.

Windows are spans of time, not counts of rows. A hole of at most five minutes is a span without trades: the price stays,
the volume is 0. A longer one is a gap: no return is taken across it, and its minutes count for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agents.candles import Candles, FloatArray, IntArray
from agents.catalogue import FEATURE_MINUTES, FEATURE_NAMES, FEATURES, LONG_MINUTES
from agents.rolling import shifted, trailing_max, trailing_min, trailing_sum

MINUTE_MS = 60_000
LOOKBACK_MINUTES = 240
"""Longest span of the past that a state may depend on, smoothing of its regime included."""
TRAILING_MINUTES = 60
"""Span of the trailing volatility that outcomes are measured in."""
GAP_MINUTES = 5
"""A longer span without a candle is a gap: it ends the episode, and no return is taken across it."""
HISTORY_BREAK_MINUTES = 60
"""After a longer span without a candle the history begins anew, and states are cold for a whole look-back."""
DEFAULT_BAR_SHARE = 0.5
"""Share of the look-back's bars that must exist for a state to be warm. Illiquid products lack a fifth of their
minutes and must stay usable; with less than half of them the trailing volatilities are mostly made of standstill."""

VOLATILITY_FLOOR = 1e-5
"""Smallest trailing volatility a minute (0.1 basis points), so that a price that stands still divides by something."""
RATIO_FLOOR = 1e-3
"""Smallest ratio whose logarithm is taken."""
_CHUNK_MS = 7 * 86_400_000
"""Features are computed a week at a time: the intermediate arrays then stay in the processor's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureTable:
    """Features of one product at its decision times.

    Attributes
    ----------
    decision_ms
        Decision times, milliseconds since 1970, shape (n,).
    values
        Raw (clipped, not standardised) features, shape (n, len(FEATURES)), columns as `FEATURES`.
    warm
        Whether the history reaches back a whole look-back and holds enough bars, shape (n,).
    trailing_volatility
        Standard deviation (around 0) of one-minute log returns over the last `TRAILING_MINUTES`, a fraction above 0,
        shape (n,). Outcomes are measured in it; the encoder does not read it.
    """

    product_id: str
    decision_ms: IntArray
    values: FloatArray
    warm: npt.NDArray[np.bool_]
    trailing_volatility: FloatArray

    def column(self, name: str) -> FloatArray:
        """One feature by name, shape (n,)."""
        return self.values[:, FEATURE_NAMES.index(name)]


def compute_features(
    candles: Candles, start_ms: int, end_ms: int, *, bar_share: float = DEFAULT_BAR_SHARE
) -> FeatureTable:
    """Features of all decision times in [start_ms, end_ms).

    Row t is a function of the candles with a decision time in [t - 240 minutes, t]; whether a state is warm also looks
    at how far the history reaches beyond. The result for a decision time is bit for bit the same whatever span is asked
    for.

    Cost: about 1 s for a year of minutes.

    Parameters
    ----------
    candles
        One product's candles.
    start_ms, end_ms
        Half-open span of decision times, milliseconds since 1970.
    bar_share
        Share of the look-back's bars that must exist for a state to be warm, 0 to 1.
    """
    reach_ms = (LOOKBACK_MINUTES + HISTORY_BREAK_MINUTES) * MINUTE_MS
    times, values, warm, volatility = [], [], [], []
    chunk_start = start_ms
    first, last = int(candles.decision_ms[0]), int(candles.decision_ms[-1])
    while chunk_start < end_ms:
        chunk_end = min(end_ms, chunk_start + _CHUNK_MS)
        if chunk_end > first and chunk_start <= last:
            part = candles.between(chunk_start - reach_ms, chunk_end)
            wanted = part.decision_ms >= chunk_start
            if wanted.any():
                grid = _Grid.of(part)
                rows = grid.cells_of_bars[wanted]
                times.append(part.decision_ms[wanted])
                values.append(_feature_columns(grid, rows))
                warm.append(_warm(part, bar_share)[wanted])
                volatility.append(grid.volatility_over(TRAILING_MINUTES)[rows])
        chunk_start = chunk_end
    if not times:
        empty = np.empty(0)
        return FeatureTable(
            candles.product_id, np.empty(0, np.int64), np.empty((0, len(FEATURES))), np.empty(0, np.bool_), empty
        )
    return FeatureTable(
        candles.product_id,
        np.concatenate(times),
        np.concatenate(values),
        np.concatenate(warm),
        np.concatenate(volatility),
    )


def _warm(candles: Candles, bar_share: float) -> npt.NDArray[np.bool_]:
    """Whether each bar has a whole look-back behind it: no break in it, and enough bars."""
    times = candles.decision_ms
    breaks = np.diff(times, prepend=times[:1]) > HISTORY_BREAK_MINUTES * MINUTE_MS
    run_start = np.maximum.accumulate(np.where(breaks, np.arange(len(times)), 0))
    lookback_ms = LOOKBACK_MINUTES * MINUTE_MS
    reaches = times - times[run_start] >= lookback_ms
    bars = np.arange(len(times)) - np.searchsorted(times, times - lookback_ms, side="right") + 1
    warm: npt.NDArray[np.bool_] = reaches & (bars >= bar_share * lookback_ms / candles.bar_ms)
    return warm


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """One product's candles on a grid of bars: one cell a bar, holes up to `GAP_MINUTES` filled with standstill."""

    bar_minutes: float
    decision_ms: IntArray
    cells_of_bars: IntArray
    covered: FloatArray
    log_close: FloatArray
    log_high: FloatArray
    log_low: FloatArray
    returns: FloatArray
    volume: FloatArray
    quoted: FloatArray
    imbalance: FloatArray
    spread: FloatArray

    @classmethod
    def of(cls, candles: Candles) -> _Grid:
        times = candles.decision_ms
        cells = (times - times[0]) // candles.bar_ms
        n = int(cells[-1]) + 1
        source = np.zeros(n, np.int64)
        source[cells] = np.arange(len(cells))
        source = np.maximum.accumulate(source)
        grid_ms = times[0] + np.arange(n, dtype=np.int64) * candles.bar_ms
        present = np.zeros(n, np.bool_)
        present[cells] = True
        hole_ms = np.append(np.diff(times), 0)
        covered = present | (hole_ms[source] <= GAP_MINUTES * MINUTE_MS)
        log_close = np.log(candles.close)[source]
        log_high = np.where(present, np.log(candles.high)[source], np.where(covered, log_close, -np.inf))
        log_low = np.where(present, np.log(candles.low)[source], np.where(covered, log_close, np.inf))
        linked = covered & shifted(covered.astype(np.float64), 1).astype(np.bool_)
        returns = np.where(linked, log_close - shifted(log_close, 1), 0.0)
        quoted, imbalance, spread = (np.where(present, column[source], 0.0) for column in _quote_columns(candles))
        return cls(
            bar_minutes=candles.bar_ms / MINUTE_MS,
            decision_ms=grid_ms,
            cells_of_bars=cells,
            covered=covered.astype(np.float64),
            log_close=log_close,
            log_high=log_high,
            log_low=log_low,
            returns=returns,
            volume=np.where(present, candles.volume[source], 0.0),
            quoted=quoted,
            imbalance=imbalance,
            spread=spread,
        )

    def volatility_over(self, minutes: int) -> FloatArray:
        """Volatility a minute over a trailing window, at least `VOLATILITY_FLOOR`, shape (n cells,)."""
        window = _cells(minutes, self.bar_minutes)
        squares = trailing_sum(self.returns * self.returns, window)
        variance = squares / np.maximum(trailing_sum(self.covered, window), 1.0)
        return np.maximum(np.sqrt(variance / self.bar_minutes), VOLATILITY_FLOOR)


def _quote_columns(candles: Candles) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Per bar: 1.0 where it has a quote, imbalance of its sizes, relative spread; 0 where it has none."""
    quoted = candles.quoted
    mid = candles.mid
    size = candles.bid_size + candles.ask_size
    sized = quoted & np.isfinite(size) & (size > 0)
    imbalance = np.where(sized, (candles.bid_size - candles.ask_size) / np.where(sized, size, 1.0), 0.0)
    spread = np.where(quoted, (candles.ask - candles.bid) / mid, 0.0)
    return quoted.astype(np.float64), imbalance, spread


def _cells(minutes: int, bar_minutes: float) -> int:
    """Number of bars in a span, at least one."""
    return max(1, round(minutes / bar_minutes))


def _log_ratio(value: FloatArray, base: FloatArray) -> FloatArray:
    """log(value / base), 0 where the base is 0, bounded below by log(RATIO_FLOOR)."""
    known = base > 0
    ratio = np.where(known, value / np.where(known, base, 1.0), 1.0)
    out: FloatArray = np.log(np.maximum(ratio, RATIO_FLOOR))
    return out


def _feature_columns(grid: _Grid, rows: IntArray) -> FloatArray:
    """Clipped feature matrix of the grid cells `rows`, shape (len(rows), len(FEATURES))."""

    def cells(minutes: int) -> int:
        return _cells(minutes, grid.bar_minutes)

    def mean(values: FloatArray, minutes: int) -> FloatArray:
        """Mean over the covered cells of a window."""
        return trailing_sum(values, cells(minutes)) / np.maximum(trailing_sum(grid.covered, cells(minutes)), 1.0)

    def quote_mean(values: FloatArray, minutes: int) -> FloatArray:
        """Mean over the cells of a window that have a quote; 0 where none has."""
        return trailing_sum(values, cells(minutes)) / np.maximum(trailing_sum(grid.quoted, cells(minutes)), 1.0)

    returns, squares = grid.returns, grid.returns * grid.returns
    bar_volatility = grid.volatility_over(FEATURE_MINUTES) * np.sqrt(grid.bar_minutes)
    variance = mean(squares, FEATURE_MINUTES)
    volume = mean(grid.volume, FEATURE_MINUTES)
    # Cells of a gap have no range; what they hold would not be finite.
    bar_high, bar_low = (np.where(grid.covered > 0, side, grid.log_close) for side in (grid.log_high, grid.log_low))
    bar_range = bar_high - bar_low
    last_hour = grid.volatility_over(60) * np.sqrt(grid.bar_minutes)
    traded = trailing_sum(grid.volume * (returns != 0), cells(15))
    pressure = trailing_sum(grid.volume * np.sign(returns), cells(15))
    move_120 = trailing_sum(returns, cells(120))
    lagged = returns * shifted(returns, cells(10))
    day_angle = 2.0 * np.pi * ((grid.decision_ms % 86_400_000) / 86_400_000)

    columns: dict[str, FloatArray] = {
        f"return_{minutes}m": trailing_sum(returns, cells(minutes)) / (bar_volatility * np.sqrt(float(cells(minutes))))
        for minutes in (1, 5, 15, 60, 180)
    }
    columns["volatility_5m"] = 0.5 * _log_ratio(mean(squares, 5), variance)
    columns["volatility"] = 0.5 * _log_ratio(mean(squares, 30), variance)
    columns["volatility_60m"] = 0.5 * _log_ratio(mean(squares, 60), mean(squares, LONG_MINUTES))
    columns |= {
        name: _log_ratio(mean(grid.volume, minutes), volume)
        for name, minutes in (("volume_1m", 1), ("volume_5m", 5), ("volume_trend", 30))
    }
    columns["bar_range"] = np.log1p(bar_range / bar_volatility)
    columns["bar_position"] = _position(grid.log_close, bar_high, bar_low)
    columns["bar_deviation"] = (grid.log_close - 0.5 * (bar_high + bar_low)) / bar_volatility
    columns["wick_60m"] = _log_ratio(mean(bar_range, 60), last_hour)
    columns["evenness_60m"] = _log_ratio(mean(np.abs(returns), 60), last_hour)
    columns["bounce_60m"] = _share(
        trailing_sum(returns * shifted(returns, 1), cells(60)), trailing_sum(squares, cells(60))
    )
    range_15 = trailing_max(grid.log_high, cells(15)) - trailing_min(grid.log_low, cells(15))
    columns["range_15m"] = _log_ratio(range_15, bar_volatility * np.sqrt(float(cells(15))))
    for minutes in (5, 60):
        high, low = trailing_max(grid.log_high, cells(minutes)), trailing_min(grid.log_low, cells(minutes))
        columns[f"range_position_{minutes}m"] = _position(grid.log_close, high, low)
    peak = trailing_max(grid.log_high, cells(FEATURE_MINUTES))
    columns["drawdown"] = (grid.log_close - peak) / (bar_volatility * np.sqrt(float(cells(FEATURE_MINUTES))))
    columns["trend_strength"] = np.sqrt(_share(move_120 * move_120, trailing_sum(squares, cells(120))))
    columns["mean_reversion"] = -_log_variance_ratio(grid, squares, cells(5))
    columns["autocorrelation"] = _share(
        trailing_sum(lagged, cells(FEATURE_MINUTES)), trailing_sum(squares, cells(FEATURE_MINUTES))
    )
    columns["hurst_exponent"] = _hurst_exponent(grid, squares)
    columns["volume_pressure_15m"] = _share(pressure, traded)
    columns["orderbook_imbalance"] = quote_mean(grid.imbalance, 5)
    near, far = quote_mean(grid.spread, 5), quote_mean(grid.spread, FEATURE_MINUTES)
    columns["relative_spread"] = np.where(near > 0, _log_ratio(near, far), 0.0)
    columns["day_sine"], columns["day_cosine"] = np.sin(day_angle), np.cos(day_angle)
    return np.stack([np.clip(columns[spec.name][rows], spec.low, spec.high) for spec in FEATURES], axis=1)


def _position(price: FloatArray, high: FloatArray, low: FloatArray) -> FloatArray:
    """Where a price stands between two bounds: -1 at the low, 1 at the high, 0 where they are equal or unknown."""
    known = np.isfinite(high) & np.isfinite(low) & (high > low)
    low = np.where(known, low, 0.0)
    width = np.where(known, high - low, 1.0)
    return np.where(known, 2.0 * (price - low) / width - 1.0, 0.0)


def _share(part: FloatArray, whole: FloatArray) -> FloatArray:
    """part / whole, 0 where the whole is 0."""
    known = whole > 0
    return np.where(known, part / np.where(known, whole, 1.0), 0.0)


def _log_variance_ratio(grid: _Grid, squares: FloatArray, span: int) -> FloatArray:
    """log of Lo and MacKinlay's variance ratio (1988) of returns over `span` cells, from overlapping returns.

    The overlapping returns all lie within the look-back: they reach `span` cells beyond `FEATURE_MINUTES` at most.
    """
    window = _cells(FEATURE_MINUTES, grid.bar_minutes)
    long = trailing_sum(grid.returns, span)
    ratio = trailing_sum(long * long, window)
    return _log_ratio(ratio, span * trailing_sum(squares, window))


def _hurst_exponent(grid: _Grid, squares: FloatArray) -> FloatArray:
    """Generalised Hurst exponent of order 2 (Di Matteo 2007): slope of log root-mean-square move over log span.

    Spans of 1, 2, 4, ... 32 minutes (in bars), overlapping, least squares. 0.5 where nothing moved. The window is
    shorter by the longest span, so that the returns all lie within about `FEATURE_MINUTES`.
    """
    window = _cells(FEATURE_MINUTES - 32, grid.bar_minutes)
    spans = [span for span in (1, 2, 4, 8, 16, 32) if span * grid.bar_minutes <= 32]
    logs = np.log(np.array(spans, dtype=np.float64))
    weights = (logs - logs.mean()) / ((logs - logs.mean()) ** 2).sum()
    base = trailing_sum(squares, window)
    slope = np.zeros_like(base)
    for span, weight in zip(spans[1:], weights[1:], strict=True):
        move = trailing_sum(grid.returns, span)
        slope += weight * 0.5 * _log_ratio(trailing_sum(move * move, window), base)
    return np.where(base > 0, slope, 0.5)
