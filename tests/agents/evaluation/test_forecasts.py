"""Forecasts, rules made of them, and sizing by forecast risk: on markets where the truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.evaluation.booking import first_of_products, follow
from agents.evaluation.contestants import RULES, fixed_contestants, prepared_of, validation_forecasts
from agents.evaluation.forecasts import forecast_all, neighbour_means
from agents.evaluation.material import Material
from agents.evaluation.neighbours import NOTHING, Neighbours
from agents.evaluation.rules import book_rows, choose_threshold, expected_return, track_positions
from agents.evaluation.settings import BUY_AND_HOLD, FORECASTERS, MEMORY_FORECAST, TRAILING, Cell
from agents.evaluation.sizing import SIZED_BY, forecast_variances, risk_tracks, scales
from memory.learning.predictions import HORIZONS
from memory.learning.predictors import Remembered, predict_by_neighbours

CELL = Cell(15, 2.0)


def test_neighbours_are_averaged_without_what_is_unknown() -> None:
    targets = np.array([[[1.0, 2.0]], [[3.0, np.nan]], [[5.0, 6.0]]])
    found = Neighbours(
        np.array([[0, 1, 2], [1, NOTHING, NOTHING], [NOTHING] * 3], np.int32), np.zeros((3, 3), np.float32)
    )
    means = neighbour_means(targets, found)[:, 0]
    assert means[0].tolist() == [3.0, 4.0]
    assert (means[1, 0], np.isnan(means[1, 1])) == (3.0, True)
    assert np.isnan(means[2]).all()


def test_memory_forecasts_as_learning_does(material: Material) -> None:
    grid, rows = material.grid, material.rows
    table = replace(grid.as_table(rows.memory, material.encoder.id_), vectors=material.memory_vectors)
    asked = replace(grid.as_table(rows.test, material.encoder.id_), vectors=grid.vectors(material.encoder, rows.test))
    theirs = predict_by_neighbours(
        Remembered(table, material.memory_targets), asked, neighbours=material.settings.neighbours, most=len(table)
    )
    ours = forecast_all(material, rows.starts, rows.test)[MEMORY_FORECAST]
    # Cosines that differ in their last bits may let another state be the last of many.
    assert np.mean(np.abs(ours - theirs)) < 1e-3


def test_every_forecaster_says_something_of_every_test_state(material: Material) -> None:
    found = forecast_all(material, material.rows.starts, material.rows.test)
    assert set(found) == set(FORECASTERS)
    for values in found.values():
        assert values.shape == (len(material.rows.test), len(HORIZONS), 2)
        assert np.isfinite(values).all()


def test_a_forecast_that_knows_is_traded_on(material: Material) -> None:
    grid, rows = material.grid, material.rows.validation
    known = grid.move[rows]
    threshold = choose_threshold(grid, rows, known, CELL.cost_bp)
    assert np.isfinite(threshold.value)
    after = follow(known, threshold.value, first_of_products(grid.product[rows]))
    assert book_rows(grid, rows, after, CELL.cost_bp).net.sum() > 0


def test_a_forecast_of_the_opposite_is_not_traded_on(material: Material) -> None:
    grid, rows = material.grid, material.rows.validation
    assert choose_threshold(grid, rows, -grid.move[rows], CELL.cost_bp).value == np.inf


def test_expected_returns_are_in_fractions(material: Material) -> None:
    rows = material.rows.test
    position = HORIZONS.index(15)
    scaled = material.grid.targets[rows]
    known = np.isfinite(scaled[:, position, 0])
    assert expected_return(material.grid, rows, scaled)[known] == pytest.approx(
        material.grid.returns[rows, position][known]
    )


def test_orders_filled_a_bar_late_move_with_the_later_price(material: Material) -> None:
    grid, rows = material.grid, material.rows.test
    track = track_positions(BUY_AND_HOLD, "f", CELL, None, grid, rows, np.ones(len(rows)))
    assert sum(track.net) != sum(track.late_net)
    assert sum(track.net) == pytest.approx(sum(track.late_net), abs=0.02)


def test_all_who_learn_nothing_by_gradient_are_there(material: Material) -> None:
    names = {track.contestant for track in fixed_contestants(material, CELL, forecasts=True)}
    assert names == {BUY_AND_HOLD, "breakout", "mean_reversion", "momentum", "random", *RULES}


def test_scaled_forecasts_of_risk_are_right_on_average(material: Material) -> None:
    rows = material.rows.validation
    raw = forecast_variances(material, rows, validation_forecasts(material))
    factor = scales(material, rows, raw)
    scaled = forecast_variances(material, rows, validation_forecasts(material), factor)
    squared = material.grid.returns[rows, HORIZONS.index(60)] ** 2
    known = np.isfinite(squared)
    for values in scaled.values():
        assert np.mean(squared[known] / values[known]) == pytest.approx(1.0)


def test_sizing_by_risk_never_borrows_and_holds_less_when_risk_is_high(material: Material) -> None:
    past = validation_forecasts(material)
    wild = {name: values + 1.0 for name, values in past.items()}
    test = forecast_all(material, material.rows.starts, material.rows.test)
    calm_tracks = {track.forecaster: track for track in risk_tracks(material, past, test, CELL)}
    assert set(calm_tracks) == set(SIZED_BY)
    # A scale learned on forecasts that were too high is taken back: the tracks are those of the calm ones.
    wild_test = {name: values + 1.0 for name, values in test.items()}
    wild_tracks = {track.forecaster: track for track in risk_tracks(material, wild, wild_test, CELL)}
    for name in SIZED_BY:
        assert wild_tracks[name].risk == pytest.approx(calm_tracks[name].risk, rel=1e-6)
    riskier = {name: values + 1.0 for name, values in test.items()}
    held = {track.forecaster: track for track in risk_tracks(material, past, riskier, CELL)}
    assert sum(held[MEMORY_FORECAST].risk) < sum(calm_tracks[MEMORY_FORECAST].risk)
    assert held[TRAILING].risk == calm_tracks[TRAILING].risk


def test_the_trailing_volatility_is_the_yardstick_of_risk(material: Material) -> None:
    tracks = prepared_of(material, CELL).risk
    trailing = next(track for track in tracks if track.forecaster == TRAILING)
    others = [track.loss for track in tracks if track.forecaster != TRAILING]
    assert all(loss != trailing.loss for loss in others)


def test_only_the_reference_is_asked_for_forecasts(material: Material) -> None:
    found = prepared_of(material, None)
    assert (found.forecasts, found.risk) == ([], [])
    assert found.test_states == len(material.rows.test)
