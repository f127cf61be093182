"""Agreement of predictions with outcomes: rank correlation and calibration with honest intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from memory.errors import InvalidRecordError
from memory.learning.agreement import agreement, block_slope, rank_correlation

JUDGE = {"confidence": 0.95, "min_blocks": 8}


def blocks_of(count: int, size: int = 30) -> np.ndarray:
    return np.arange(count) // size


def test_the_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 500)).round(1)
    found = rank_correlation(x, y, blocks_of(500), **JUDGE)
    assert found.slope == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.blocks == 17


def test_the_slope_is_that_of_least_squares():
    rng = np.random.default_rng(1)
    x = rng.standard_normal(300)
    y = 0.7 * x + 5 + rng.standard_normal(300)
    assert block_slope(x, y, blocks_of(300), **JUDGE).slope == pytest.approx(np.polyfit(x, y, 1)[0])


def test_intervals_cover_the_truth_where_minutes_depend_on_one_another():
    rng = np.random.default_rng(2)
    covered = naive = 0
    for _ in range(400):
        shared = np.repeat(rng.standard_normal((2, 40)), 30, axis=1)
        x, y = shared + 0.3 * rng.standard_normal((2, 1200))
        interval = block_slope(x, y, blocks_of(1200), **JUDGE).interval
        assert interval is not None
        covered += interval.low <= 0 <= interval.high
        naive += abs(stats.linregress(x, y).pvalue) > 0.05
    assert 0.90 <= covered / 400 <= 0.98
    assert naive / 400 < 0.6


def test_rank_intervals_cover_no_correlation():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        x, y = np.repeat(rng.standard_normal((2, 48)), 30, axis=1) + 0.5 * rng.standard_normal((2, 1440))
        interval = rank_correlation(x, y, blocks_of(1440), **JUDGE).interval
        assert interval is not None
        covered += interval.low <= 0 <= interval.high
    assert 0.90 <= covered / 400 <= 0.98


def test_few_blocks_give_no_interval():
    x = np.arange(100.0)
    found = rank_correlation(x, x, blocks_of(100), **JUDGE)
    assert found.slope == pytest.approx(1.0)
    assert found.interval is None


def test_constant_predictions_have_no_correlation_and_no_slope():
    found = agreement(np.full(100, 0.1), np.arange(100.0), blocks_of(100), **JUDGE)
    assert found.rank_correlation is None
    assert found.slope is None
    assert found.bias == pytest.approx(49.4)


def test_calibrated_predictions_have_slope_one_and_no_bias():
    rng = np.random.default_rng(4)
    truth = rng.standard_normal(20_000)
    found = agreement(truth, truth + rng.standard_normal(20_000), blocks_of(20_000), **JUDGE)
    assert found.slope == pytest.approx(1.0, abs=0.03)
    assert found.bias == pytest.approx(0.0, abs=0.03)
    for part in found.bins:
        assert part.realised == pytest.approx(part.predicted, abs=0.06)
    assert [part.n for part in found.bins] == [4000] * 5


def test_pairs_with_a_missing_side_are_left_out():
    x, y = np.arange(40.0), np.arange(40.0)
    x[3] = y[7] = np.nan
    assert agreement(x, y, blocks_of(40), **JUDGE).n == 38


def test_nothing_to_compare_is_no_error():
    found = agreement(np.full(5, np.nan), np.arange(5.0), blocks_of(5), **JUDGE)
    assert (found.n, found.blocks, found.rank_correlation, found.bias, found.bins) == (0, 0, None, None, ())


def test_lengths_must_agree():
    with pytest.raises(InvalidRecordError, match="belong together"):
        agreement(np.zeros(3), np.zeros(2), blocks_of(3), **JUDGE)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(2, 60))
def test_the_rank_correlation_ignores_the_scale(seed: int, count: int):
    x, y = np.random.default_rng(seed).standard_normal((2, count))
    plain = rank_correlation(x, y, blocks_of(count), **JUDGE).slope
    bent = rank_correlation(np.exp(x), y**3, blocks_of(count), **JUDGE).slope
    assert plain == pytest.approx(bent)
    assert plain is not None
    assert -1 - 1e-9 <= plain <= 1 + 1e-9
