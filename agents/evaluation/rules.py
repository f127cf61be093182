"""A forecast as a trading rule: its threshold is chosen on the last days of the past, net of costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agents.candles import FloatArray, IntArray
from agents.evaluation.booking import Book, book, first_of_products, follow, last_of_products
from agents.evaluation.grid import Grid, horizon_index
from agents.evaluation.metrics import SHARPE, ratios
from agents.evaluation.settings import Cell
from agents.evaluation.tracks import HOURS_A_DAY, Track, hourly, track_of

THRESHOLD_QUANTILES = (0.0, 0.5, 0.75, 0.9, 0.95, 0.98, 0.995)
"""Thresholds that are tried, as quantiles of the absolute forecast; never to trade is the one beyond."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A chosen threshold, a return as a fraction, and the Sharpe ratio that it had where it was chosen."""

    value: float
    sharpe: float


def expected_return(grid: Grid, rows: IntArray, scaled: FloatArray) -> FloatArray:
    """Forecast return over the decision interval, a fraction, from forecasts (n, H, 2) in trailing volatilities."""
    from memory.learning.predictions import HORIZONS

    position = horizon_index(grid.interval_minutes)
    minutes = HORIZONS[position]
    # A forecast over a shorter horizon than the interval is taken for all of it.
    expected: FloatArray = scaled[:, position, 0] * grid.trailing_volatility[rows] * np.sqrt(float(minutes))
    return expected


def book_rows(grid: Grid, rows: IntArray, after: FloatArray, cost_bp: float, *, late: bool = False) -> Book:
    """Account for positions on consecutive rows of a grid: flat at first, sold at the last, the market's own spread.

    Parameters
    ----------
    late
        Whether orders are filled one bar after the decision.
    """
    product = grid.product[rows]
    rate = cost_bp / 1e4 + grid.half_spread()[rows]
    move = (grid.late_move if late else grid.move)[rows]
    return book(after, move, rate, first_of_products(product), close=last_of_products(product))


def track_positions(
    contestant: str,
    fold: str,
    cell: Cell,
    seed: int | None,
    grid: Grid,
    rows: IntArray,
    after: FloatArray,
    *,
    signal: FloatArray | None = None,
) -> Track:
    """The track record of positions on consecutive rows of a grid, at the cell's cost."""
    booked, late = (book_rows(grid, rows, after, cell.cost_bp, late=late) for late in (False, True))
    return track_of(contestant, fold, cell.name, seed, grid, rows, booked, late, signal=signal)


def choose_threshold(grid: Grid, rows: IntArray, expected: FloatArray, cost_bp: float) -> Threshold:
    """The threshold with the best Sharpe ratio after costs on some rows; the highest of equal ones.

    Never to trade, with a ratio of 0, is among the choices: a forecast that earns nothing there is not traded on.
    """
    size = np.abs(expected[np.isfinite(expected)])
    starts = first_of_products(grid.product[rows])
    best = Threshold(float("inf"), 0.0)
    for quantile in reversed(THRESHOLD_QUANTILES):
        if not len(size):
            break
        value = float(np.quantile(size, quantile))
        booked = book_rows(grid, rows, follow(expected, value, starts), cost_bp)
        net = np.array(hourly(grid.timestamp_ms[rows], booked.net / len(grid.products))).reshape(-1, HOURS_A_DAY)
        found = float(ratios(net)[SHARPE])
        if np.isfinite(found) and found > best.sharpe:
            best = Threshold(value, found)
    return best
