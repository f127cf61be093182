"""Positions and costs over arrays: what the simulation books, bit for bit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from agents.baselines import baseline_agents
from agents.encoder import StateEncoder
from agents.evaluation.booking import HOLD, LONG, POSITIONS, SHORT, banded, book, follow, roll
from agents.evaluation.grid import Minutes
from agents.experiences import Costs, SimulatedWindow
from agents.market import Market
from agents.simulation import simulate
from memory.errors import InvalidRecordError
from memory.records import Action


def starts_of(count: int, *rows: int) -> np.ndarray:
    mask = np.zeros(count, np.bool_)
    mask[[0, *rows]] = True
    return mask


def booked_as_simulated(window: SimulatedWindow, costs: Costs) -> None:
    for table in window.products.values():
        states, rows = table.states, table.rows
        move = states.price[rows + 1] / states.price[rows] - 1.0
        rate = costs.rates(states.price[rows], states.spread[rows])
        starts = np.append(True, table.terminal[:-1])[: len(rows)]
        for agent in range(len(window.agent_ids)):
            found = book(table.position_after[:, agent], move, rate, starts)
            for ours, theirs in (
                (found.before, table.position_before),
                (found.gross, table.gross_return),
                (found.cost, table.cost),
                (found.net, table.reward),
            ):
                assert ours.tobytes() == np.ascontiguousarray(theirs[:, agent]).tobytes()


def test_books_what_the_simulation_books(night: SimulatedWindow) -> None:
    booked_as_simulated(night, Costs())


def test_books_spreads_and_gaps_as_the_simulation_does(coinbase: Market, coinbase_encoder: StateEncoder) -> None:
    costs = Costs(basis_points=5.0)
    start = datetime(2018, 4, 4, tzinfo=UTC)
    window = simulate(coinbase, start, start + timedelta(days=1), baseline_agents(), coinbase_encoder, costs=costs)
    assert any(np.isfinite(table.states.spread).any() for table in window.products.values())
    booked_as_simulated(window, costs)


def test_every_minute_of_the_grid_is_a_state_of_the_replay(
    night: SimulatedWindow, binance: Market, encoder: StateEncoder
) -> None:
    grid = Minutes(binance, night.start - timedelta(days=1), night.end).grid(1, encoder)
    for index, product in enumerate(grid.products):
        states = night.products[product].states
        rows = grid.between(int(states.decision_ms[0]), int(states.decision_ms[-1]))
        rows = rows[grid.product[rows] == index]
        held = states.inside & states.warm
        assert np.array_equal(grid.timestamp_ms[rows], states.decision_ms[held])
        assert grid.vectors(encoder, rows).tobytes() == states.vectors[held].tobytes()
        assert np.array_equal(grid.regime[rows], states.regimes.codes[held])
        price = states.price[held]
        assert np.array_equal(grid.move[rows][:-1], price[1:] / price[:-1] - 1.0)


def test_selling_at_the_end_costs_and_earns_nothing_more() -> None:
    found = book(
        np.array([1.0, 1.0]), np.array([0.01, 0.5]), np.full(2, 0.001), starts_of(2), close=np.array([False, True])
    )
    assert found.after.tolist() == [1.0, 0.0]
    assert found.net == pytest.approx([0.01 - 0.001, -0.001])


def test_the_first_decision_must_start_flat() -> None:
    with pytest.raises(InvalidRecordError, match="start"):
        book(np.zeros(2), np.zeros(2), np.zeros(2), np.array([False, True]))


@pytest.mark.parametrize("seed", range(3))
def test_actions_lead_where_the_record_says(seed: int) -> None:
    generator = np.random.default_rng(seed)
    actions, starts = generator.integers(0, 4, (200, 3)), generator.random(200) < 0.05
    starts[0] = True
    after, position = roll(actions, starts), 0.0
    for row in range(200):
        position = 0.0 if starts[row] else position
        position = Action.from_index(int(actions[row, POSITIONS.index(position)])).target(position)
        assert after[row] == position


def test_holding_keeps_what_is_held() -> None:
    actions = np.full((4, 3), HOLD)
    actions[0], actions[2] = LONG, SHORT
    assert roll(actions, starts_of(4)).tolist() == [1.0, 1.0, -1.0, -1.0]


def test_a_rule_holds_until_the_signal_turns() -> None:
    signal = np.array([0.1, 3.0, 0.5, np.nan, -0.5, -3.0, -0.1, 3.0])
    assert follow(signal, 1.0, starts_of(8, 7)).tolist() == [0.0, 1.0, 1.0, 1.0, 0.0, -1.0, -1.0, 1.0]


def test_a_band_saves_small_trades() -> None:
    assert banded(np.array([0.5, 0.55, 0.8, 0.7]), 0.25, starts_of(4)).tolist() == [0.5, 0.5, 0.8, 0.8]
