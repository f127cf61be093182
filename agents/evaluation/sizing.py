"""Sizing by remembered risk: exposure that keeps risk even, by what is forecast of the volatility that follows."""

from __future__ import annotations

import msgspec
import numpy as np

from agents.candles import FloatArray, IntArray
from agents.evaluation.booking import banded, first_of_products
from agents.evaluation.grid import VOLATILITY_TARGET
from agents.evaluation.material import Material
from agents.evaluation.rules import track_positions
from agents.evaluation.settings import (
    BASE_FORECAST,
    MEMORY_FORECAST,
    PERMUTED_FORECAST,
    RIDGE_AND_MEMORY,
    RIDGE_FORECAST,
    TRAILING,
    Cell,
)
from agents.evaluation.tracks import DAY_MS, DIGITS, Track
from memory.learning.predictions import HORIZONS

SIZED_BY = (TRAILING, BASE_FORECAST, PERMUTED_FORECAST, RIDGE_FORECAST, MEMORY_FORECAST, RIDGE_AND_MEMORY)
TARGET_QUANTILE = 0.25
"""Of the volatilities in the past: the target, so that exposure is below 1 three times in four, and never borrowed."""
_LEAST_VARIANCE = 1e-12


class RiskTrack(msgspec.Struct, frozen=True, kw_only=True):
    """How one forecast of risk did on one test span.

    Attributes
    ----------
    forecaster, fold
        Which.
    days
        Milliseconds of the days' starts.
    loss
        QLIKE a day: mean of r^2 / v - 1 + log(v / u) over the sizing horizon, with the squared return r^2, the forecast
        variance v, and that of the trailing volatility u: below 0 where the forecast is better than that on average. An
        error of scale costs the same in calm and in wild markets (A. J. Patton, "Volatility forecast comparison using
        imperfect volatility proxies", Journal of Econometrics 160, 2011).
    risk
        Squared return of the sized position by the target's variance, a day: 1 is what was aimed at.
    held
        The sized position, long alone, as a track.
    """

    forecaster: str
    fold: str
    days: list[int]
    loss: list[float | None]
    risk: list[float | None]
    held: Track


def forecast_variances(
    material: Material, rows: IntArray, forecasts: dict[str, FloatArray], scale: dict[str, float] | None = None
) -> dict[str, FloatArray]:
    """Variance over the sizing horizon, a fraction squared, by forecaster, (len(rows),).

    Unscaled where `scale` is None.
    """
    position = HORIZONS.index(material.settings.sizing_horizon_minutes)
    minutes = float(HORIZONS[position])
    trailing = material.grid.trailing_volatility[rows] ** 2 * minutes
    logs = {TRAILING: np.zeros(len(rows))}
    logs |= {name: 2.0 * values[:, position, VOLATILITY_TARGET] for name, values in forecasts.items()}
    # Where nothing is forecast, the trailing volatility stands.
    raw = {name: trailing * np.exp(np.where(np.isfinite(log), log, _mean(log))) for name, log in logs.items()}
    return {
        name: np.maximum(values * (1.0 if scale is None else scale[name]), _LEAST_VARIANCE)
        for name, values in raw.items()
    }


def scales(material: Material, rows: IntArray, variances: dict[str, FloatArray]) -> dict[str, float]:
    """Factor by which each forecaster's variances are multiplied, so that they are right on average on some past rows.

    The factor that minimises QLIKE: the mean of squared return by forecast variance.
    """
    position = HORIZONS.index(material.settings.sizing_horizon_minutes)
    squared = material.grid.returns[rows, position] ** 2
    known = np.isfinite(squared)
    return {name: float(np.mean(squared[known] / values[known])) for name, values in variances.items()}


def risk_tracks(
    material: Material, past: dict[str, FloatArray], forecasts: dict[str, FloatArray], cell: Cell
) -> list[RiskTrack]:
    """Size a long position by each forecast of risk over the test span.

    Parameters
    ----------
    past, forecasts
        Forecasts for the validation rows, by regressions that do not know them, and for the test rows.
    """
    rows = material.rows
    before = forecast_variances(material, rows.validation, past)
    scale = scales(material, rows.validation, before)
    variances = forecast_variances(material, rows.test, forecasts, scale)
    trailing = before[TRAILING] * scale[TRAILING]
    target = float(np.quantile(trailing, TARGET_QUANTILE))
    return [_risk_track(material, name, variances[name], variances[TRAILING], target, cell) for name in SIZED_BY]


def _risk_track(
    material: Material,
    name: str,
    variance: FloatArray,
    usual: FloatArray,
    target: float,
    cell: Cell,
) -> RiskTrack:
    grid, rows, band = material.grid, material.rows.test, material.settings.sizing_band
    exposure = np.minimum(np.sqrt(target / variance), 1.0)
    after = banded(exposure, band, first_of_products(grid.product[rows]))
    held = track_positions(name, material.fold.name, cell, None, grid, rows, after)
    squared = grid.returns[rows, HORIZONS.index(material.settings.sizing_horizon_minutes)] ** 2
    day = (grid.timestamp_ms[rows] - held.days[0]) // DAY_MS
    return RiskTrack(
        forecaster=name,
        fold=material.fold.name,
        days=held.days,
        loss=_daily(squared / variance - 1.0 + np.log(variance / usual), day, len(held.days)),
        risk=_daily(squared * after**2 / target, day, len(held.days)),
        held=held,
    )


def _daily(values: FloatArray, day: IntArray, count: int) -> list[float | None]:
    known = np.isfinite(values)
    number = np.bincount(day[known], minlength=count)
    total = np.bincount(day[known], values[known], count)
    return [round(float(t / n), DIGITS) if n else None for t, n in zip(total, number, strict=True)]


def _mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0
