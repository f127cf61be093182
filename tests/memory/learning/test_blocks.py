from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.errors import InvalidRecordError
from memory.learning.blocks import (
    BlockSums,
    block_ids,
    block_interval,
    block_mean,
    block_sums,
    block_variance,
    grouped_block_means,
    grouped_block_sums,
    standard_error,
    value_variance,
)

VALUES = st.lists(st.tuples(st.integers(0, 12), st.floats(-10, 10)), min_size=2, max_size=60)


def by_hand(values: np.ndarray, blocks: np.ndarray) -> float:
    """The cluster-robust variance of the mean, from its definition."""
    mean = values.mean()
    residual = [(values[blocks == block] - mean).sum() for block in np.unique(blocks)]
    count = len(residual)
    return count / (count - 1) * float(np.sum(np.square(residual))) / len(values) ** 2


@given(VALUES)
def test_variance_is_that_of_the_definition(rows: list[tuple[int, float]]) -> None:
    blocks, values = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    variance = float(block_variance(block_sums(values, blocks)))
    if len(np.unique(blocks)) < 2:
        assert np.isnan(variance)
    else:
        assert variance == pytest.approx(by_hand(values, blocks), rel=1e-9, abs=1e-9)


@given(VALUES, st.integers(0, 12))
def test_sums_of_two_windows_add_up_to_those_of_both(rows: list[tuple[int, float]], edge: int) -> None:
    blocks, values = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    early = blocks < edge
    merged = block_sums(values[early], blocks[early]).merged_with(block_sums(values[~early], blocks[~early]))
    whole = block_sums(values, blocks)
    for name in BlockSums.__struct_fields__:
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-9, atol=1e-9)


@given(VALUES)
def test_groups_at_once_equal_each_group_alone(rows: list[tuple[int, float]]) -> None:
    blocks, values = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    groups = np.arange(len(rows)) % 4 - 1
    together = grouped_block_sums(values, blocks, groups, 3)
    for group in range(3):
        alone = block_sums(values[groups == group], blocks[groups == group])
        for name in BlockSums.__struct_fields__:
            assert getattr(together[group], name) == pytest.approx(getattr(alone, name))


def test_unknown_values_are_left_out_column_by_column() -> None:
    values = np.array([[1.0, np.nan], [3.0, 5.0], [np.nan, np.nan]])
    sums = block_sums(values, np.array([0, 0, 1]))
    assert sums.n.tolist() == [2, 1]
    assert sums.blocks.tolist() == [1, 1]
    assert block_mean(sums).tolist() == [2.0, 5.0]


def test_block_means_come_in_time_order_with_unknown_ones_marked() -> None:
    means = grouped_block_means([[1.0], [2.0], [4.0], [np.nan]], [7, 3, 3, 9], [0, 0, 0, 0], 1)[0]
    np.testing.assert_array_equal(means, [[3.0], [1.0], [np.nan]])


def test_no_interval_below_the_least_number_of_blocks() -> None:
    rng = np.random.default_rng(0)
    for blocks, known in ((7, False), (8, True)):
        low, high = block_interval(block_sums(rng.standard_normal(blocks * 3), np.arange(blocks * 3) // 3))
        assert np.isfinite(low) == known
        assert np.isfinite(high) == known


def test_interval_covers_where_the_naive_one_fails() -> None:
    """Minutes share their block's shock: 95 % intervals must hold in about 95 % of samples."""
    rng = np.random.default_rng(11)
    covered = naive = 0
    trials = 1500
    for _ in range(trials):
        sizes = rng.integers(1, 8, 40)
        blocks = np.repeat(np.arange(40), sizes)
        values = rng.standard_normal(40)[blocks] + rng.standard_normal(len(blocks))
        sums = block_sums(values, blocks)
        low, high = block_interval(sums)
        covered += bool(low <= 0 <= high)
        naive_error = np.sqrt(value_variance(sums) / sums.n)
        naive += bool(abs(block_mean(sums)) <= 1.96 * naive_error)
    assert 0.925 <= covered / trials <= 0.97
    assert naive / trials < 0.85


def test_independent_values_in_blocks_of_one_have_the_usual_standard_error() -> None:
    values = np.random.default_rng(1).standard_normal(200)
    sums = block_sums(values, np.arange(200))
    assert standard_error(sums) == pytest.approx(values.std(ddof=1) / np.sqrt(200))
    assert value_variance(sums) == pytest.approx(values.var(ddof=1))


def test_empty_sums_say_nothing_and_change_nothing() -> None:
    empty = BlockSums.empty((2,))
    assert np.isnan(block_mean(empty)).all()
    assert np.isnan(block_variance(empty)).all()
    some = block_sums(np.ones((3, 2)), np.arange(3))
    assert some.merged_with(empty).total.tolist() == some.total.tolist()
    assert grouped_block_sums(np.zeros((0, 2)), [], [], 3).shape == (3, 2)


def test_blocks_are_clock_blocks() -> None:
    minutes = np.array([0, 29, 30, 59, 60]) * 60_000
    assert block_ids(minutes, 30).tolist() == [0, 0, 1, 1, 2]


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(InvalidRecordError, match="do not belong together"):
        block_sums([1.0, 2.0], [0])
