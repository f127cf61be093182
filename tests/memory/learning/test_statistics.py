from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from memory.errors import InvalidRecordError
from memory.learning.statistics import (
    Drawdown,
    Moments,
    benjamini_hochberg,
    between_variance,
    deflated_sharpe,
    expected_maximum_sharpe,
    probabilistic_sharpe,
    sharpe,
    shrinkage_weight,
    wilson_interval,
)

RETURNS = st.lists(st.floats(-0.1, 0.1), max_size=30).map(np.array)


@given(RETURNS, RETURNS, RETURNS)
def test_merged_moments_equal_those_of_all_at_once(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> None:
    merged = Moments.of(first).merged_with(Moments.of(second)).merged_with(Moments.of(third))
    whole = Moments.of(np.concatenate([first, second, third]))
    for name in Moments.__struct_fields__:
        assert getattr(merged, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-12)


def test_moments_are_those_of_scipy_without_the_unknown() -> None:
    sample = np.random.default_rng(0).exponential(size=50)
    moments = Moments.of(np.append(sample, np.nan))
    assert moments.variance == pytest.approx(sample.var(ddof=1))
    assert moments.skewness == pytest.approx(stats.skew(sample))
    assert moments.kurtosis == pytest.approx(stats.kurtosis(sample, fisher=False))


def test_sharpe_is_mean_over_deviation_annualised() -> None:
    returns = np.array([0.01, -0.005, 0.002, 0.004])
    assert sharpe(Moments.of(returns), 365.0) == pytest.approx(returns.mean() / returns.std(ddof=1) * np.sqrt(365))


@pytest.mark.parametrize("returns", [[], [0.01], [0.01, 0.01, 0.01]])
def test_no_sharpe_without_spread(returns: list[float]) -> None:
    assert np.isnan(sharpe(Moments.of(np.array(returns)), 365.0))


@given(RETURNS, RETURNS)
def test_drawdowns_of_two_spans_join_to_that_of_both(first: np.ndarray, second: np.ndarray) -> None:
    joined = Drawdown.of(first).followed_by(Drawdown.of(second))
    whole = Drawdown.of(np.concatenate([first, second]))
    for name in Drawdown.__struct_fields__:
        assert getattr(joined, name) == pytest.approx(getattr(whole, name), abs=1e-12)


@given(st.lists(st.floats(-0.1, 0.1), max_size=12))
def test_worst_drop_is_the_largest_fall_between_any_two_points(returns: list[float]) -> None:
    path = [0.0, *np.cumsum(returns)]
    falls = [path[i] - path[j] for j in range(len(path)) for i in range(j + 1)]
    assert Drawdown.of(np.array(returns)).worst == pytest.approx(max(falls), abs=1e-12)


def test_wilson_interval_is_the_published_one() -> None:
    interval = wilson_interval(8, 10)
    assert interval is not None
    expected = stats.binomtest(8, 10).proportion_ci(method="wilson")
    assert (interval.low, interval.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert wilson_interval(0, 0) is None
    with pytest.raises(InvalidRecordError):
        wilson_interval(5, 4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_q_values_are_those_of_scipy(p_values: list[float]) -> None:
    with_unknown = np.array([*p_values, np.nan])
    q = benjamini_hochberg(with_unknown)
    np.testing.assert_allclose(q[:-1], stats.false_discovery_control(p_values), atol=1e-12)
    assert np.isnan(q[-1])


def test_expected_maximum_is_what_luck_brings() -> None:
    rng = np.random.default_rng(5)
    best = (0.1 * rng.standard_normal((4000, 50))).max(axis=1).mean()
    assert expected_maximum_sharpe(0.01, 50) == pytest.approx(best, rel=0.03)
    assert expected_maximum_sharpe(0.01, 1) == 0.0


def test_deflation_makes_the_best_of_many_lucky_ones_unremarkable() -> None:
    rng = np.random.default_rng(6)
    trials = [Moments.of(rng.standard_normal(200) * 0.01) for _ in range(100)]
    ratios = np.array([sharpe(trial, 1.0) for trial in trials])
    best = trials[int(np.argmax(ratios))]
    assert probabilistic_sharpe(best) > 0.95
    assert deflated_sharpe(best, float(ratios.var(ddof=1)), 100) < 0.9


def test_between_variance_finds_true_differences_and_no_others() -> None:
    rng = np.random.default_rng(7)
    errors = rng.uniform(0.5, 2.0, 5000)
    noise = rng.standard_normal(5000) * np.sqrt(errors)
    assert between_variance(noise, errors) < 0.1
    assert between_variance(noise + rng.standard_normal(5000) * 2, errors) == pytest.approx(4.0, rel=0.1)
    assert between_variance([], []) == 0.0


def test_shrinkage_brings_estimates_nearer_to_the_truth() -> None:
    rng = np.random.default_rng(8)
    truth, errors = rng.standard_normal(2000), rng.uniform(0.5, 8.0, 2000)
    seen = truth + rng.standard_normal(2000) * np.sqrt(errors)
    shrunk = shrinkage_weight(errors, between_variance(seen, errors)) * seen
    assert np.mean((shrunk - truth) ** 2) < 0.4 * np.mean((seen - truth) ** 2)


def test_an_item_of_unknown_variance_is_shrunk_all_the_way() -> None:
    assert shrinkage_weight([np.nan, 1.0], 1.0).tolist() == [0.0, 0.5]
    assert shrinkage_weight([0.0], 0.0).tolist() == [0.0]
