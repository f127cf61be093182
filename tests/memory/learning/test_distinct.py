"""Collapsing experiences to distinct states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.learning.clustering import MarketStateClusterer
from memory.learning.distinct import bounded_copies, canonical_order, distinct_states
from memory.learning.planted import planted_states

rows_of_states = st.lists(st.tuples(st.sampled_from(["BTC-USD", "ETH-USD", "a"]), st.integers(0, 20)), max_size=60)


@given(rows=rows_of_states)
def test_states_are_the_distinct_keys_in_order(rows: list[tuple[str, int]]) -> None:
    products, times = np.array([row[0] for row in rows], dtype=str), np.array([row[1] for row in rows], dtype=np.int64)
    states = distinct_states(products, times)
    keys = [rows[row] for row in states.first_row]
    assert keys == sorted(set(rows))
    assert [keys[state] for state in states.state_of_row] == rows
    assert states.counts.tolist() == [rows.count(key) for key in keys]


@given(rows=rows_of_states)
def test_first_row_is_the_earliest_of_its_state(rows: list[tuple[str, int]]) -> None:
    states = distinct_states(
        np.array([row[0] for row in rows], dtype=str), np.array([row[1] for row in rows], dtype=int)
    )
    assert states.first_row.tolist() == [rows.index(key) for key in sorted(set(rows))]


@given(rows=rows_of_states, seed=st.integers(0, 100))
def test_states_do_not_depend_on_the_order_of_rows(rows: list[tuple[str, int]], seed: int) -> None:
    shuffled = [rows[position] for position in np.random.default_rng(seed).permutation(len(rows))]
    keys, counts = [], []
    for given_rows in (rows, shuffled):
        products = np.array([row[0] for row in given_rows], dtype=str)
        states = distinct_states(products, np.array([row[1] for row in given_rows], dtype=np.int64))
        keys.append([given_rows[row] for row in states.first_row])
        counts.append(states.counts.tolist())
    assert keys[0] == keys[1]
    assert counts[0] == counts[1]


def test_ten_agents_in_a_minute_give_the_clusters_of_the_states_alone() -> None:
    states = planted_states(1_000, random_state=1, n_patterns=12)
    times = np.arange(1_000) * 60_000
    experiences = np.random.default_rng(2).permutation(np.repeat(np.arange(1_000), 10))
    collapsed = distinct_states(np.full(10_000, "BTC-USD"), times[experiences])
    alone = MarketStateClusterer().fit(states.vectors, timestamps_ms=times)
    together = MarketStateClusterer().fit(
        states.vectors[experiences[collapsed.first_row]], timestamps_ms=times[experiences[collapsed.first_row]]
    )
    np.testing.assert_array_equal(together.labels_, alone.labels_)


def test_canonical_order_counts_the_first_key_most() -> None:
    assert canonical_order((["b", "a", "a"], [1, 2, 1])).tolist() == [2, 1, 0]


@pytest.mark.parametrize("keys", [(), ([1, 2], [1]), ([[1, 2]],)])
def test_keys_that_do_not_name_rows_are_refused(keys: tuple[list[int], ...]) -> None:
    with pytest.raises(ValueError, match="one-dimensional arrays of equal length"):
        canonical_order(keys)


@given(groups=st.lists(st.integers(0, 4), max_size=40), max_copies=st.integers(1, 6))
def test_copies_count_up_to_the_bound_and_follow_one_of_their_own(groups: list[int], max_copies: int) -> None:
    vectors = np.eye(5, dtype=np.float32)[np.array(groups, dtype=np.int64)]
    counted, follows = bounded_copies(vectors, max_copies)
    for group in set(groups):
        assert [groups[row] for row in counted].count(group) == min(groups.count(group), max_copies)
    np.testing.assert_array_equal(vectors[counted[follows]], vectors)
    np.testing.assert_array_equal(follows[counted], np.arange(len(counted)))


def test_counted_copies_are_spread_over_the_order() -> None:
    counted, _ = bounded_copies(np.ones((100, 4), dtype=np.float32), 4)
    assert counted.tolist() == [0, 25, 50, 75]


def test_zeros_of_either_sign_are_copies() -> None:
    counted, _ = bounded_copies(np.array([[0.0, 1.0], [-0.0, 1.0]], dtype=np.float32), 1)
    assert counted.tolist() == [0]
