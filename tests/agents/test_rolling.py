"""Trailing windows: right, and independent of where the data begins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agents.rolling import shifted, trailing_max, trailing_min, trailing_sum

VALUES = arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6))


@given(VALUES, st.integers(1, 70))
def test_a_trailing_sum_adds_up_the_last_cells(values: np.ndarray, window: int) -> None:
    expected = [values[max(0, end - window + 1) : end + 1].sum() for end in range(len(values))]
    np.testing.assert_allclose(trailing_sum(values, window), expected, rtol=1e-9, atol=1e-3)


@given(VALUES, st.integers(1, 70))
def test_trailing_extremes_are_those_of_the_last_cells(values: np.ndarray, window: int) -> None:
    spans = [values[max(0, end - window + 1) : end + 1] for end in range(len(values))]
    assert trailing_max(values, window).tolist() == [span.max() for span in spans]
    assert trailing_min(values, window).tolist() == [span.min() for span in spans]


@given(VALUES, st.integers(1, 30), st.integers(0, 40))
def test_a_window_has_the_same_bits_wherever_the_data_begins(values: np.ndarray, window: int, start: int) -> None:
    whole, part = trailing_sum(values, window), trailing_sum(values[start:], window)
    assert whole[start + window - 1 :].tolist() == part[window - 1 :].tolist()


def test_shifting_by_more_than_the_length_leaves_only_the_fill() -> None:
    assert shifted(np.ones(3), 5, -1.0).tolist() == [-1.0, -1.0, -1.0]


def test_a_window_without_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="window is 0"):
        trailing_sum(np.ones(3), 0)
