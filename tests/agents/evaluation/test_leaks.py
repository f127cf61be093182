"""Nothing after a fold's past changes what is learned from it, and controls change only what they say."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from agents.candles import Candles
from agents.encoder import StateEncoder
from agents.evaluation.contestants import before_validation, validation_forecasts
from agents.evaluation.experience import layout_of, live_through, memory_columns, policy_inputs
from agents.evaluation.folds import Fold
from agents.evaluation.forecasts import forecast_all
from agents.evaluation.grid import Minutes
from agents.evaluation.material import DAY_MS, Material, cutoffs, permute_within, prepare
from agents.evaluation.neighbours import NeighbourCache
from agents.evaluation.settings import PERMUTED_FORECAST, EvaluationSettings
from agents.features import MINUTE_MS
from agents.fitting import fit_encoder
from agents.market import Market
from memory.records import to_ms


def other_future(candles: Candles, from_ms: int, seed: int = 0) -> Candles:
    """The same candles until a time, and others from it on: prices and volumes as if drawn anew."""
    after = candles.decision_ms >= from_ms
    factor = np.where(after, np.exp(np.random.default_rng(seed).normal(0.0, 0.02, len(after))), 1.0)
    columns = {name: getattr(candles, name) * factor for name in ("open", "high", "low", "close")}
    high = np.maximum.reduce([columns[name] for name in columns])
    low = np.minimum.reduce([columns[name] for name in columns])
    return replace(candles, **{**columns, "high": high, "low": low}, volume=candles.volume * factor)


@pytest.fixture(scope="module")
def elsewhere(market: Market, fold: Fold, settings: EvaluationSettings) -> tuple[StateEncoder, Material]:
    """The fold in a market that goes another way once the fold's past is over."""
    changed = Market(market.name, [other_future(candles, fold.known_until_ms) for candles in market.products.values()])
    encoder = fit_encoder(changed, fold.known_until, name="evaluation-test")
    minutes = Minutes(changed, fold.start, fold.test_end)
    return encoder, prepare(minutes, fold, encoder, 15, settings, NeighbourCache(None))


def test_another_future_fits_the_same_encoder(
    fold_encoder: StateEncoder, elsewhere: tuple[StateEncoder, Material]
) -> None:
    assert elsewhere[0].to_json() == fold_encoder.to_json()


def test_another_future_leaves_all_training_inputs_as_they_are(
    material: Material, elsewhere: tuple[StateEncoder, Material]
) -> None:
    changed = elsewhere[1]
    for name in ("memory", "starts", "validation"):
        assert np.array_equal(getattr(material.rows, name), getattr(changed.rows, name))
    assert np.array_equal(material.memory_vectors, changed.memory_vectors)
    assert np.array_equal(material.memory_targets, changed.memory_targets, equal_nan=True)
    rows = np.concatenate([material.rows.starts, material.grid.following[material.rows.starts]])
    for name in ("move", "targets", "features", "regime", "trailing_volatility"):
        whole = rows if name not in ("move", "targets") else material.rows.starts
        assert np.array_equal(getattr(material.grid, name)[whole], getattr(changed.grid, name)[whole], equal_nan=True)
    lived, layout = live_through(material), layout_of(material, 2.0)
    others = live_through(changed)
    ours = policy_inputs(material, rows, layout, lived, memory_columns(material, lived, layout))
    theirs = policy_inputs(changed, rows, layout, others, memory_columns(changed, others, layout))
    for item in fields(ours):
        assert np.array_equal(getattr(ours, item.name), getattr(theirs, item.name))


def test_another_future_changes_no_threshold_and_no_forecast_of_the_past(
    material: Material, elsewhere: tuple[StateEncoder, Material]
) -> None:
    ours, theirs = validation_forecasts(material), validation_forecasts(elsewhere[1])
    for name in ours:
        assert np.array_equal(ours[name], theirs[name], equal_nan=True)


def test_the_other_future_is_another_one(material: Material, elsewhere: tuple[StateEncoder, Material]) -> None:
    test = material.rows.test
    assert not np.array_equal(material.grid.move[test], elsewhere[1].grid.move[test])
    assert not np.array_equal(material.grid.features[test], elsewhere[1].grid.features[test])


def test_a_market_that_ends_with_the_past_gives_the_same_training(
    market: Market, minutes: Minutes, material: Material, fold: Fold, fold_encoder: StateEncoder
) -> None:
    cut = Market(market.name, [item.between(0, fold.known_until_ms) for item in market.products.values()])
    grid = Minutes(cut, fold.start, fold.known_until).grid(15, fold_encoder)
    rows = material.rows.starts
    place = [
        np.flatnonzero(
            (grid.product == material.grid.product[row]) & (grid.timestamp_ms == material.grid.timestamp_ms[row])
        )
        for row in rows.tolist()
    ]
    found = np.concatenate(place)
    assert len(found) == len(rows)
    assert np.array_equal(grid.features[found], material.grid.features[rows])
    assert np.array_equal(grid.targets[found], material.grid.targets[rows], equal_nan=True)
    assert np.array_equal(grid.move[found], material.grid.move[rows])


def test_memories_of_a_state_were_known_before_its_day(material: Material, fold: Fold) -> None:
    grid, settings = material.grid, material.settings
    time = grid.timestamp_ms
    known = time[material.rows.memory] + settings.purge_minutes * MINUTE_MS
    there = material.found.rows >= 0
    latest = np.where(there, known[np.maximum(material.found.rows, 0)], 0).max(axis=1)
    day = time[material.asked] // DAY_MS * DAY_MS
    assert (latest <= day - fold.embargo_minutes * MINUTE_MS).all()
    assert latest.max() <= fold.known_until_ms
    assert there[:, 0].mean() > 0.5


def test_test_states_see_the_memory_of_the_spans_start(fold: Fold) -> None:
    times = np.array([to_ms(fold.test_start), to_ms(fold.test_end) + 5 * DAY_MS])
    assert cutoffs(times, fold).tolist() == [fold.known_until_ms] * 2


def test_regressions_for_validation_know_nothing_of_it(material: Material) -> None:
    time, settings = material.grid.timestamp_ms, material.settings
    fit = before_validation(material)
    gap = time[material.rows.validation].min() - time[fit].max()
    assert gap >= (settings.embargo_minutes + settings.purge_minutes) * MINUTE_MS


def test_permutation_stays_within_product_and_regime(material: Material) -> None:
    order = material.permutation
    grid, memory = material.grid, material.rows.memory
    assert np.array_equal(np.sort(order), np.arange(len(memory)))
    assert (order != np.arange(len(memory))).mean() > 0.9
    assert np.array_equal(grid.product[memory][order], grid.product[memory])
    assert np.array_equal(grid.regime[memory][order], grid.regime[memory])
    assert np.array_equal(
        order, permute_within(grid.product[memory] * 1_000 + grid.regime[memory], settings_seed(material))
    )


def settings_seed(material: Material) -> int:
    return material.settings.permutation_seed


def test_permuted_memories_differ_in_outcomes_alone(material: Material) -> None:
    lived, layout = live_through(material), layout_of(material, 2.0)
    real = memory_columns(material, lived, layout)
    control = memory_columns(material, lived, layout, permuted=True)
    outcomes = {"reward", "gross_return", "compressed_next", "has_next"}
    for item in fields(real):
        same = np.array_equal(getattr(real, item.name), getattr(control, item.name), equal_nan=True)
        assert same == (item.name not in outcomes) or item.name == "has_next"
    # What is permuted is there as often as before: the moves are those of other states.
    held = real.position_after != 0
    scaled = [
        columns.gross_return[held & lived.own]
        / columns.position_after[held & lived.own]
        / columns.trailing_volatility[held & lived.own]
        for columns in (real, control)
    ]
    assert not np.allclose(scaled[0], scaled[1])


def test_permuted_forecasts_are_the_only_ones_that_the_permutation_changes(material: Material) -> None:
    rows = material.rows
    before = forecast_all(material, rows.starts, rows.test)
    other = replace_seed(material, 99)
    after = forecast_all(other, rows.starts, rows.test)
    for name in before:
        assert np.array_equal(before[name], after[name], equal_nan=True) == (name != PERMUTED_FORECAST)


def replace_seed(material: Material, seed: int) -> Material:
    return Material(
        material.fold,
        replace(material.settings, permutation_seed=seed),
        material.encoder,
        material.grid,
        material.rows,
        material.asked,
        material.found,
    )
