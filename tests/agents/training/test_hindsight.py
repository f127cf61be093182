"""Action values of hindsight: what the best path brings, costs and gaps minded."""

from __future__ import annotations

import numpy as np
import pytest

from agents.training.hindsight import hindsight_values

SHORT, FLAT, LONG, HOLD = range(4)


def test_the_best_path_is_found_over_costs() -> None:
    move, cost = np.array([0.5, -2.0, 0.5]), np.full(3, 0.6)
    values = hindsight_values(move, cost, np.ones(3), np.array([1, 2, -1]))
    # From flat: short from the second bar on, and kept over the third, since to leave would cost more.
    assert values[0, 1].max() == pytest.approx(-0.6 + 2.0 - 0.5)
    assert values[0, 1].argmax() == FLAT
    assert values[1, 1].argmax() == SHORT
    assert values[1, 1, SHORT] == pytest.approx(2.0 - 0.6 + max(-0.5, -0.6))


def test_holding_is_worth_what_its_position_is() -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    values = hindsight_values(generator.standard_normal(20), np.full(20, 0.1), np.full(20, 0.9), np.arange(1, 21) % 20)
    for position in range(3):
        np.testing.assert_allclose(values[:, position, HOLD], values[:, position, position])


def test_nothing_is_carried_over_an_end() -> None:
    move = np.array([1.0, 5.0])
    values = hindsight_values(move, np.zeros(2), np.ones(2), np.array([-1, -1]))
    assert values[0, 1].tolist() == [-1.0, 0.0, 1.0, 0.0]


def test_later_values_are_carried_in_the_units_of_their_state() -> None:
    values = hindsight_values(np.array([0.0, 1.0]), np.zeros(2), np.array([2.0, 1.0]), np.array([1, -1]))
    assert values[0, 1].tolist() == [2.0, 2.0, 2.0, 2.0]
