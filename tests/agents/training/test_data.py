"""Training data of a few states: what followed them, what it brought, and how far hindsight sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.encoder import StateEncoder
from agents.policy.layout import InputLayout
from agents.training.data import TrainingData, training_data
from memory.tables import TRAILING_VOLATILITY, ExperienceTable, StateTable, WindowData

MINUTE = 60_000
BEGIN = 1_623_888_000_000
PRICES = np.array([100.0, 101.0, 102.0, 104.0, 103.0, 105.0])
VOLATILITY = 0.01


@pytest.fixture
def layout(encoder: StateEncoder) -> InputLayout:
    return InputLayout.of_encoder(encoder, own=1, shared=1)


def _window(layout: InputLayout, *, missing: int | None = None, ends: int | None = None) -> WindowData:
    """A long position held through a minute a price; a state may be incomplete, an episode end early."""
    count = len(PRICES)
    times = BEGIN + MINUTE * np.arange(count)
    names = tuple(dict.fromkeys((*layout.feature_names, TRAILING_VOLATILITY)))
    features = np.zeros((count, len(names)))
    features[:, names.index(TRAILING_VOLATILITY)] = VOLATILITY
    if missing is not None:
        features[missing, 0] = np.nan
    vectors = np.zeros((count, 256), np.float32)
    vectors[:, 0] = 1.0
    zeros = np.zeros(count, np.int64)
    nothing = np.full(count, np.nan)
    states = StateTable(
        encoder_id=layout.encoder_id,
        source="replay",
        feature_names=names,
        products=("BTC-USDT",),
        product=zeros,
        timestamp_ms=times,
        known_at_ms=times + MINUTE,
        recorded_at_ms=times + MINUTE,
        vectors=vectors,
        features=features,
        price=PRICES,
        spread=nothing,
        regime=zeros,
    )
    gross = np.append(PRICES[1:] / PRICES[:-1] - 1.0, 0.03)
    experiences = ExperienceTable(
        encoder_id=layout.encoder_id,
        source="replay",
        agents=("hold",),
        products=("BTC-USDT",),
        runs=("run",),
        agent=zeros,
        product=zeros,
        run=zeros,
        timestamp_ms=times,
        known_at_ms=times + MINUTE,
        recorded_at_ms=times + MINUTE,
        step=np.arange(count),
        regime=zeros,
        side=zeros + 1,
        size=np.ones(count),
        reward=gross,
        gross_return=gross,
        cost=np.zeros(count),
        position_before=np.ones(count),
        position_after=np.ones(count),
        confidence=np.ones(count),
        quality=nothing,
        terminal=np.arange(count) == (count - 1 if ends is None else ends),
    )
    return WindowData(states, experiences)


def _data(layout: InputLayout, window: WindowData, until_ms: int | None = None) -> TrainingData:
    return training_data(layout, [window], gamma=0.9, min_quality=0.7, shared_days=30, until_ms=until_ms)


def test_moves_are_those_of_the_prices_and_the_last_one_that_which_was_lived(layout: InputLayout) -> None:
    data = _data(layout, _window(layout))
    assert data.following.tolist() == [1, 2, 3, 4, 5, -1]
    expected = [*(PRICES[1:] / PRICES[:-1] - 1.0), 0.03]
    assert data.move * VOLATILITY == pytest.approx(expected)


def test_over_a_state_that_is_missing_the_move_goes_to_the_state_that_follows(layout: InputLayout) -> None:
    data = _data(layout, _window(layout, missing=2))
    assert data.counts["incomplete_states"] == 1
    assert data.following.tolist() == [1, 2, 3, 4, -1]
    assert data.move[1] * VOLATILITY == pytest.approx(PRICES[3] / PRICES[1] - 1.0)


def test_where_an_episode_ends_nothing_follows_and_the_move_is_that_which_was_lived(layout: InputLayout) -> None:
    data = _data(layout, _window(layout, missing=2, ends=1))
    assert data.following.tolist() == [1, -1, 3, 4, -1]
    assert data.move[1] * VOLATILITY == pytest.approx(PRICES[2] / PRICES[1] - 1.0)


def test_where_nobody_held_a_position_at_the_end_the_prices_say_what_it_brought(layout: InputLayout) -> None:
    window = _window(layout, ends=1)
    flat = np.arange(len(PRICES)) == 1
    idle = replace(
        window.experiences,
        position_after=np.where(flat, 0.0, 1.0),
        gross_return=np.where(flat, 0.0, window.experiences.gross_return),
    )
    data = _data(layout, replace(window, experiences=idle))
    assert data.following[1] == -1
    assert data.move[1] * VOLATILITY == pytest.approx(PRICES[2] / PRICES[1] - 1.0)


def test_hindsight_sees_nothing_from_the_time_on_that_is_held_out(layout: InputLayout) -> None:
    window = _window(layout)
    cut = 3
    wild = np.array([0.0, 0.0, 0.0, 0.0, 50.0, -40.0])
    other = replace(window, states=replace(window.states, price=PRICES + wild))
    until_ms = BEGIN + cut * MINUTE
    held_out = _data(layout, window, until_ms).optimal[:cut]
    np.testing.assert_array_equal(held_out, _data(layout, other, until_ms).optimal[:cut])
    assert (held_out != _data(layout, other).optimal[:cut]).any()
