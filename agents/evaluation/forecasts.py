"""What is forecast of returns and volatility: by remembered neighbours, by regression, by both, by the regime alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse

from agents.candles import FloatArray, IntArray
from agents.evaluation.material import Material
from agents.evaluation.neighbours import Neighbours
from agents.evaluation.settings import (
    BASE_FORECAST,
    MEMORY_FORECAST,
    PERMUTED_FORECAST,
    RIDGE_AND_MEMORY,
    RIDGE_FORECAST,
)
from agents.evaluation.tracks import DAY_MS, DIGITS, ForecastTrack, daily_ic, days_of
from memory.learning.predictions import HORIZONS
from memory.learning.predictors import Remembered, predict_by_base_rate, predict_by_ridge
from memory.tables import StateTable

OUTCOMES = ("return", "volatility")
BINS = 5


def forecast_all(material: Material, fit: IntArray, rows: IntArray) -> dict[str, FloatArray]:
    """Forecasts of all forecasters for some rows, each (len(rows), H, 2) in trailing volatilities.

    Parameters
    ----------
    material
        The fold; memory must have been asked for `fit` and `rows`.
    fit
        Rows that regressions are fitted to: outcomes of all of them must be known before `rows`.
    """
    grid, penalty = material.grid, material.settings.ridge_penalty
    table, wanted = (grid.as_table(some, material.encoder.id_) for some in (fit, rows))
    targets = grid.targets[fit]
    remembered = Remembered(table, targets)
    own, asked = (neighbour_means(material.memory_targets, material.neighbours_of(some)) for some in (fit, rows))
    # Regressions take missing features as their mean: a state without neighbours is an average one.
    joined = Remembered(_with_forecasts(table, own), targets)
    return {
        MEMORY_FORECAST: asked,
        PERMUTED_FORECAST: neighbour_means(material.memory_targets[material.permutation], material.neighbours_of(rows)),
        RIDGE_FORECAST: predict_by_ridge(remembered, wanted, penalty=penalty),
        RIDGE_AND_MEMORY: predict_by_ridge(joined, _with_forecasts(wanted, asked), penalty=penalty),
        BASE_FORECAST: predict_by_base_rate(remembered, wanted),
    }


def neighbour_means(targets: FloatArray, found: Neighbours) -> FloatArray:
    """Mean outcome of each state's neighbours, (n, H, 2); NaN where none has one.

    Cost: O(n k H), some 0.3 s for 50,000 states of 250 neighbours.
    """
    flat = targets.reshape(len(targets), -1)
    known = np.isfinite(flat)
    count, width = found.rows.shape
    there = (found.rows >= 0).astype(np.float64).ravel()
    ends = np.arange(count + 1) * width
    # A row of the matrix picks a state's neighbours: sums are one product with it.
    picks = sparse.csr_matrix((there, np.maximum(found.rows, 0).ravel(), ends), shape=(count, len(targets)))
    held, total = picks @ known.astype(np.float64), picks @ np.where(known, flat, 0.0)
    means = np.divide(total, held, out=np.full(total.shape, np.nan), where=held > 0)
    return np.asarray(means.reshape(count, *targets.shape[1:]))


def _with_forecasts(table: StateTable, forecasts: FloatArray) -> StateTable:
    """A table with what neighbours forecast as further features."""
    names = tuple(f"remembered_{outcome}_{horizon}m" for horizon in HORIZONS for outcome in OUTCOMES)
    features = np.concatenate([table.features, forecasts.reshape(len(table), -1)], axis=1)
    return replace(table, feature_names=(*table.feature_names, *names), features=features)


def forecast_tracks(material: Material, rows: IntArray, forecasts: dict[str, FloatArray]) -> list[ForecastTrack]:
    """How well forecasts for test rows agreed with what came, a day, and their reliability over the span."""
    grid = material.grid
    time = grid.timestamp_ms[rows]
    first, count = days_of(time)
    out = []
    for name, predicted in forecasts.items():
        for column, outcome in enumerate(OUTCOMES):
            realised = grid.targets[rows, :, column]
            out.append(
                ForecastTrack(
                    forecaster=name,
                    fold=material.fold.name,
                    interval_minutes=material.interval_minutes,
                    outcome=outcome,
                    days=[first + DAY_MS * n for n in range(count)],
                    ic=daily_ic(predicted[:, :, column], realised, time),
                    bins={
                        str(horizon): _bins(predicted[:, position, column], realised[:, position])
                        for position, horizon in enumerate(HORIZONS)
                    },
                )
            )
    return out


def _bins(predicted: FloatArray, realised: FloatArray) -> list[tuple[float, float]]:
    """Mean forecast and mean outcome of `BINS` bins of equal size."""
    known = np.flatnonzero(np.isfinite(predicted) & np.isfinite(realised))
    if len(known) < BINS:
        return []
    parts = np.array_split(known[np.argsort(predicted[known], kind="stable")], BINS)
    return [
        (round(float(predicted[part].mean()), DIGITS), round(float(realised[part].mean()), DIGITS)) for part in parts
    ]
