"""Track records: what a contestant did and earned on a test span, hour by hour, small enough to be staged as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from agents.candles import FloatArray, IntArray
from agents.evaluation.booking import Book
from agents.evaluation.grid import Grid
from memory.learning.agreement import rank_correlation
from memory.learning.predictions import HORIZONS

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
HOURS_A_DAY = 24
DIGITS = 9
"""Decimals of returns that are kept: a thousandth of a basis point of a basis point."""


class Track(msgspec.Struct, frozen=True, kw_only=True):
    """One contestant on one test span. Products share the notional equally.

    Attributes
    ----------
    contestant, fold, cell, seed
        Who, where, and with which seed; None for who draws nothing.
    days
        Milliseconds of the days' starts, whole UTC days.
    net, gross
        Returns an hour, fractions of the notional, 24 a day; an interval's return counts in the hour of its decision.
    late_net
        The same as `net` with every order filled one bar later.
    turnover
        Notional traded a day, in notionals.
    exposed
        Share of the decisions of the day with a position, 0 to 1.
    return_ic
        By horizon in minutes: rank correlation of the contestant's signal with what came, a day; empty without signal.
    """

    contestant: str
    fold: str
    cell: str
    seed: int | None
    days: list[int]
    net: list[float]
    gross: list[float]
    late_net: list[float]
    turnover: list[float]
    exposed: list[float]
    return_ic: dict[str, list[float | None]] = {}


class ForecastTrack(msgspec.Struct, frozen=True, kw_only=True):
    """How well one forecaster knew what came, a day, on one test span.

    Attributes
    ----------
    outcome
        "return" or "volatility".
    ic
        By horizon in minutes: rank correlation a day; None where there is none.
    bins
        By horizon: mean forecast and mean outcome of five bins of forecasts over the span, for reliability.
    """

    forecaster: str
    fold: str
    interval_minutes: int
    outcome: str
    days: list[int]
    ic: dict[str, list[float | None]]
    bins: dict[str, list[tuple[float, float]]]


def track_of(
    contestant: str,
    fold: str,
    cell: str,
    seed: int | None,
    grid: Grid,
    rows: IntArray,
    booked: Book,
    late: Book,
    *,
    signal: FloatArray | None = None,
) -> Track:
    """The track of booked positions on some rows of a grid.

    Parameters
    ----------
    booked, late
        The positions, filled at once and one bar later.
    signal
        What was expected of the price, (len(rows),).
    """
    time = grid.timestamp_ms[rows]
    first, count = days_of(time)
    share = 1.0 / len(grid.products)
    day = (time - first) // DAY_MS
    decisions = np.maximum(np.bincount(day, minlength=count), 1)
    traded = np.abs(booked.after - booked.before)
    return Track(
        contestant=contestant,
        fold=fold,
        cell=cell,
        seed=seed,
        days=[first + DAY_MS * n for n in range(count)],
        net=hourly(time, booked.net * share),
        gross=hourly(time, booked.gross * share),
        late_net=hourly(time, late.net * share),
        turnover=_rounded(np.bincount(day, traded * share, count)),
        exposed=_rounded(np.bincount(day, booked.after != 0.0, count) / decisions),
        return_ic={} if signal is None else daily_ic(signal, grid.targets[rows, :, 0], time),
    )


def days_of(time: IntArray) -> tuple[int, int]:
    """Start of the first UTC day of some times, and the number of days to the last."""
    first = int(time.min()) // DAY_MS * DAY_MS
    return first, int(time.max() - first) // DAY_MS + 1


def hourly(time: IntArray, returns: FloatArray) -> list[float]:
    """Sums of returns by hour of the days that the times span, 24 a day."""
    first, count = days_of(time)
    return _rounded(np.bincount((time - first) // HOUR_MS, returns, HOURS_A_DAY * count))


def daily_ic(forecast: FloatArray, outcomes: FloatArray, time: IntArray) -> dict[str, list[float | None]]:
    """Rank correlation a day of forecasts with outcomes, all products pooled.

    Parameters
    ----------
    forecast
        (n,), or (n, H) where each horizon has its own.
    outcomes
        (n, H).

    Returns
    -------
    By horizon in minutes, one figure a day; None for a day with fewer than 30 pairs, or where one side does not vary.
    """
    first, count = days_of(time)
    day = (time - first) // DAY_MS
    found: dict[str, list[float | None]] = {}
    for column, horizon in enumerate(HORIZONS):
        predicted = forecast if forecast.ndim == 1 else forecast[:, column]
        known = np.isfinite(predicted) & np.isfinite(outcomes[:, column])
        values: list[float | None] = []
        for number in range(count):
            rows = np.flatnonzero(known & (day == number))
            if len(rows) < LEAST_PAIRS:
                values.append(None)
                continue
            slope = rank_correlation(
                predicted[rows], outcomes[rows, column], rows, confidence=0.95, min_blocks=len(rows) + 1
            ).slope
            values.append(None if slope is None or not math.isfinite(slope) else round(slope, DIGITS))
        found[str(horizon)] = values
    return found


LEAST_PAIRS = 30
"""Pairs of a day below which its rank correlation says nothing."""


def as_floats(series: Mapping[str, list[float | None]]) -> dict[int, list[float]]:
    """Daily figures by horizon, NaN for none."""
    return {
        int(horizon): [math.nan if value is None else value for value in values] for horizon, values in series.items()
    }


def _rounded(values: npt.NDArray[Any]) -> list[float]:
    rounded: list[float] = np.round(values, DIGITS).tolist()
    return rounded
