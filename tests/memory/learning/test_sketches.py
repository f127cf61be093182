from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.learning.serial import encode
from memory.learning.sketches import (
    BIN_VALUES,
    BINS,
    LEAST,
    MOST,
    RELATIVE_ERROR,
    FeatureSketch,
    bin_numbers,
    grouped_sketches,
)

VALUES = st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=50)


def sketch(values: list[float], name: str = "a") -> FeatureSketch:
    return grouped_sketches(np.array(values)[:, None], (name,), np.zeros(len(values), dtype=int), 1)[0]


@given(VALUES, st.floats(0, 1))
def test_quantiles_are_within_the_stated_error(values: list[float], share: float) -> None:
    found = sketch(values).quantiles(share)[0, 0]
    exact = np.quantile(values, np.floor(share * (len(values) - 1) + 1e-9) / max(len(values) - 1, 1), method="nearest")
    assert abs(found - exact) <= RELATIVE_ERROR * abs(exact) * (1 + 1e-9) + LEAST


@given(VALUES, VALUES, VALUES)
def test_order_of_merging_cannot_matter(first: list[float], second: list[float], third: list[float]) -> None:
    a, b, c = sketch(first), sketch(second), sketch(third)
    left, right = a.merged_with(b).merged_with(c), c.merged_with(a.merged_with(b))
    assert encode(left) == encode(right) == encode(sketch([*first, *second, *third]))


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=30))
def test_bins_ascend_with_values(values: list[float]) -> None:
    ordered = np.sort(values)
    bins = bin_numbers(ordered)
    assert (np.diff(bins) >= 0).all()
    assert bins.min() >= 0
    assert bins.max() < BINS


def test_every_bin_value_lies_in_its_bin() -> None:
    inside = np.abs(BIN_VALUES) < MOST
    np.testing.assert_array_equal(bin_numbers(BIN_VALUES)[inside], np.flatnonzero(inside))


def test_sketches_of_different_features_merge_to_those_of_either() -> None:
    both = sketch([1.0], "b").merged_with(sketch([2.0, 2.0], "a"))
    assert both.features == ("a", "b")
    assert both.dense().sum(axis=1).tolist() == [2, 1]


def test_groups_and_columns_are_kept_apart() -> None:
    values = np.array([[1.0, 10.0], [2.0, np.nan], [3.0, 30.0], [9.0, 9.0]])
    first, second = grouped_sketches(values, ("z", "y"), np.array([0, 1, 1, -1]), 2)
    assert first.features == ("y", "z")
    assert first.quantiles(0.5)[:, 0].tolist() == pytest.approx([10.0, 1.0], rel=RELATIVE_ERROR)
    assert second.dense(("z",)).sum() == 2
    assert second.dense(("y",)).sum() == 1
    assert second.dense(("unknown",)).sum() == 0


def test_a_feature_without_values_has_no_quantile() -> None:
    assert np.isnan(sketch([np.nan]).quantiles((0.1, 0.9))).all()
    assert FeatureSketch.empty(("b", "a")).features == ("a", "b")
    assert grouped_sketches(np.zeros((2, 0)), (), np.zeros(2, dtype=int), 1)[0].features == ()
