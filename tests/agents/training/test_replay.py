"""Prioritised replay: rows are drawn in proportion, corrected for it, and the draws go on where they stopped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.training.replay import PrioritisedReplay, SumTree
from memory.errors import InvalidRecordError


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40).filter(lambda values: sum(values) > 1e-6))
def test_a_mass_falls_where_the_running_sum_says(values: list[float]) -> None:
    priorities = np.array(values)
    tree = SumTree(priorities)
    sums = np.cumsum(priorities)
    masses = np.linspace(0, tree.total, 50, endpoint=False)
    rows = tree.find(masses)
    assert (priorities[rows] > 0).all()
    rounding = 1e-9 * max(tree.total, 1)
    assert (masses <= sums[rows] + rounding).all()
    assert (masses >= sums[rows] - priorities[rows] - rounding).all()


def test_changes_reach_the_root() -> None:
    tree = SumTree(np.ones(5))
    tree.set(np.array([1, 4]), np.array([3.0, 0.0]))
    assert tree.total == 6
    assert tree.priorities.tolist() == [1, 3, 1, 1, 0]
    assert 4 not in tree.find(np.linspace(0, 6, 100, endpoint=False))


def test_rows_are_drawn_by_priority_and_weighed_against_it() -> None:
    replay = PrioritisedReplay(4, alpha=1.0, beta=1.0, steps=1, seed=0)
    replay.update(np.arange(4), np.array([0.1, 0.2, 0.3, 0.4]) * 10)
    counts = np.zeros(4)
    for _ in range(200):
        rows, weights = replay.sample(20)
        counts += np.bincount(rows, minlength=4)
        for row, weight in zip(rows, weights, strict=True):
            assert weight == pytest.approx((1 + 1e-3) / ((row + 1) + 1e-3))
    np.testing.assert_allclose(counts / counts.sum(), [0.1, 0.2, 0.3, 0.4], atol=0.01)


def test_alpha_zero_draws_evenly() -> None:
    replay = PrioritisedReplay(3, alpha=0.0, seed=0)
    replay.update(np.arange(3), np.array([1.0, 50.0, 900.0]))
    rows, weights = replay.sample(3_000)
    assert np.bincount(rows).tolist() == [1_000, 1_000, 1_000]
    assert set(weights.tolist()) == {1.0}


def test_of_a_row_drawn_twice_the_last_error_counts() -> None:
    replay = PrioritisedReplay(2, alpha=1.0, seed=0)
    replay.update(np.array([0, 0]), np.array([5.0, 2.0]))
    assert replay.state()["priorities"][0] == pytest.approx(2.001)


def test_draws_go_on_where_they_stopped() -> None:
    one, two = (PrioritisedReplay(50, seed=3) for _ in range(2))
    rows, _ = one.sample(16)
    one.update(rows, np.linspace(0, 3, 16))
    two.load_state(one.state())
    for _ in range(3):
        first, second = one.sample(16), two.sample(16)
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])


def test_a_state_of_other_data_is_refused() -> None:
    with pytest.raises(InvalidRecordError, match=r"50 transitions.*are 40"):
        PrioritisedReplay(40).load_state(PrioritisedReplay(50).state())


def test_nothing_to_draw_from_is_an_error() -> None:
    with pytest.raises(InvalidRecordError, match="nothing to learn from"):
        PrioritisedReplay(0)
