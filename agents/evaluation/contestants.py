"""What a fold brings apart from trainings: forecasts, sizing, agents and rules."""

from __future__ import annotations

import msgspec

from agents.candles import FloatArray, IntArray
from agents.evaluation.baseline_runs import HELD, all_positions
from agents.evaluation.booking import first_of_products, follow
from agents.evaluation.forecasts import forecast_all, forecast_tracks
from agents.evaluation.material import Material
from agents.evaluation.rules import choose_threshold, expected_return, track_positions
from agents.evaluation.settings import (
    BUY_AND_HOLD,
    MEMORY_FORECAST,
    NEIGHBOURS_RULE,
    RIDGE_AND_MEMORY,
    RIDGE_AND_MEMORY_RULE,
    RIDGE_FORECAST,
    RIDGE_RULE,
    Cell,
)
from agents.evaluation.sizing import RiskTrack, risk_tracks
from agents.evaluation.tracks import ForecastTrack, Track
from agents.features import MINUTE_MS
from memory.learning.predictors import Remembered, predict_by_ridge

RULES = {RIDGE_RULE: RIDGE_FORECAST, NEIGHBOURS_RULE: MEMORY_FORECAST, RIDGE_AND_MEMORY_RULE: RIDGE_AND_MEMORY}


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A fold at one interval, judged as far as no decision is needed.

    Attributes
    ----------
    fold, interval_minutes, encoder_id
        Which.
    memory_states, training_states, test_states
        Sizes.
    first_day_ms
        Start of the test span.
    forecasts, risk
        Knowledge of returns and volatility, and sizing by forecast risk; on the reference interval alone.
    """

    fold: str
    interval_minutes: int
    encoder_id: str
    memory_states: int
    training_states: int
    test_states: int
    first_day_ms: int
    forecasts: list[ForecastTrack]
    risk: list[RiskTrack]


def prepared_of(material: Material, reference: Cell | None) -> Prepared:
    """Judge the forecasts of a fold, and sizing by them, where a reference cell is given."""
    rows = material.rows
    tracks: list[ForecastTrack] = []
    risk: list[RiskTrack] = []
    if reference is not None:
        forecasts = forecast_all(material, rows.starts, rows.test)
        tracks = forecast_tracks(material, rows.test, forecasts)
        risk = risk_tracks(material, validation_forecasts(material), forecasts, reference)
    return Prepared(
        fold=material.fold.name,
        interval_minutes=material.interval_minutes,
        encoder_id=material.encoder.id_,
        memory_states=len(rows.memory),
        training_states=len(rows.starts),
        test_states=len(rows.test),
        first_day_ms=int(material.grid.timestamp_ms[rows.test].min()),
        forecasts=tracks,
        risk=risk,
    )


def validation_forecasts(material: Material) -> dict[str, FloatArray]:
    """Forecasts for the validation rows, by regressions fitted on what was known before them."""
    return forecast_all(material, before_validation(material), material.rows.validation)


def before_validation(material: Material) -> IntArray:
    """Training states whose outcomes were known before the validation rows, embargo included."""
    time, rows, settings = material.grid.timestamp_ms, material.rows, material.settings
    edge = int(time[rows.validation].min()) - (settings.embargo_minutes + settings.purge_minutes) * MINUTE_MS
    earlier = rows.starts[time[rows.starts] <= edge]
    # A past too short to be parted: the regression then knows what it is judged on, and thresholds are too hopeful.
    return earlier if len(earlier) > len(rows.starts) // 4 else rows.starts


def fixed_contestants(material: Material, cell: Cell, *, forecasts: bool) -> list[Track]:
    """Buy and hold, the baseline agents, and the rules: ridge alone, or all where memory was asked for validation."""
    grid, rows, name = material.grid, material.rows, material.fold.name
    positions = {
        BUY_AND_HOLD if agent == HELD else agent: after for agent, after in all_positions(grid, rows.test).items()
    }
    tracks = [
        track_positions(contestant, name, cell, None, grid, rows.test, after) for contestant, after in positions.items()
    ]
    if forecasts:
        past = validation_forecasts(material)
        test = forecast_all(material, rows.starts, rows.test)
        pairs = {rule: (past[source], test[source]) for rule, source in RULES.items()}
    else:
        pairs = {RIDGE_RULE: _ridge_alone(material)}
    starts = first_of_products(grid.product[rows.test])
    for rule, (before, after) in pairs.items():
        threshold = choose_threshold(
            grid, rows.validation, expected_return(grid, rows.validation, before), cell.cost_bp
        )
        expected = expected_return(grid, rows.test, after)
        tracks.append(
            track_positions(
                rule, name, cell, None, grid, rows.test, follow(expected, threshold.value, starts), signal=expected
            )
        )
    return tracks


def _ridge_alone(material: Material) -> tuple[FloatArray, FloatArray]:
    """Ridge forecasts for validation and test rows, for intervals at which memory is not asked for validation rows."""
    grid, rows = material.grid, material.rows

    def forecast(fit: IntArray, wanted: IntArray) -> FloatArray:
        remembered = Remembered(grid.as_table(fit, material.encoder.id_), grid.targets[fit])
        return predict_by_ridge(
            remembered, grid.as_table(wanted, material.encoder.id_), penalty=material.settings.ridge_penalty
        )

    return forecast(before_validation(material), rows.validation), forecast(rows.starts, rows.test)
