"""Figures that merge over windows, and what is read off them: moments, Sharpe, drawdown, shrinkage, multiplicity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import stats

from memory.errors import InvalidRecordError
from memory.records import Interval
from memory.tables import Floats

# --- moments -------------------------------------------------------------------------------------------------


class Moments(msgspec.Struct, frozen=True, eq=False):
    """Count, mean and central sums of powers two to four; all arrays have one shape.

    Merged by the pairwise formulas of T. F. Chan, G. H. Golub and R. J. LeVeque (1979), for the higher ones of
    P. Pebay, "Formulas for Robust, One-Pass Parallel Computation of Covariances and Arbitrary-Order Statistical
    Moments" (2008).
    """

    count: npt.NDArray[np.int64]
    mean: npt.NDArray[np.float64]
    m2: npt.NDArray[np.float64]
    m3: npt.NDArray[np.float64]
    m4: npt.NDArray[np.float64]

    def __getitem__(self, index: object) -> Moments:
        """The moments of some elements; any numpy index."""
        return Moments(*(np.asarray(getattr(self, name)[index]) for name in self.__struct_fields__))

    def merged_with(self, other: Moments) -> Moments:
        """Moments of both samples together."""
        n1, n2 = self.count.astype(np.float64), other.count.astype(np.float64)
        n = np.maximum(n1 + n2, 1.0)
        delta = other.mean - self.mean
        share = n2 / n
        # An empty side has a mean of 0 that means nothing: it must not pull, nor leave rounding behind.
        mean = np.where(n1 == 0, other.mean, np.where(n2 == 0, self.mean, self.mean + delta * share))
        delta = np.where((n1 == 0) | (n2 == 0), 0.0, delta)
        m2 = self.m2 + other.m2 + delta**2 * n1 * share
        m3 = self.m3 + other.m3 + delta**3 * n1 * share * (n1 - n2) / n + 3 * delta * (n1 * other.m2 - n2 * self.m2) / n
        m4 = (
            self.m4
            + other.m4
            + delta**4 * n1 * share * (n1**2 - n1 * n2 + n2**2) / n**2
            + 6 * delta**2 * (n1**2 * other.m2 + n2**2 * self.m2) / n**2
            + 4 * delta * (n1 * other.m3 - n2 * self.m3) / n
        )
        # asarray, because sums of arrays of shape () are scalars.
        return Moments(*(np.asarray(part) for part in (self.count + other.count, mean, m2, m3, m4)))

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Moments:
        """Moments of nothing."""
        zeros = np.zeros(shape)
        return cls(np.zeros(shape, dtype=np.int64), zeros, zeros, zeros, zeros)

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Moments:
        """Moments along the first axis; NaN is left out. (n, ...) -> shape (...)."""
        sample = np.asarray(values, dtype=np.float64)
        known = ~np.isnan(sample)
        count = known.sum(axis=0)
        filled = np.where(known, sample, 0.0)
        mean = filled.sum(axis=0) / np.maximum(count, 1)
        deviation = np.where(known, sample - mean, 0.0)
        squared = deviation**2
        return cls(
            np.asarray(count, dtype=np.int64),
            np.asarray(mean),
            np.asarray(squared.sum(axis=0)),
            np.asarray((squared * deviation).sum(axis=0)),
            np.asarray((squared**2).sum(axis=0)),
        )

    @classmethod
    def stack(cls, parts: Sequence[Moments]) -> Moments:
        """Moments of equal shape along a new first axis."""
        return cls(*(np.stack([getattr(part, name) for part in parts]) for name in cls.__struct_fields__))

    @property
    def variance(self) -> Floats:
        """Sample variance (n - 1); NaN under two values."""
        unknown = np.full(self.m2.shape, np.nan)
        variance: Floats = np.divide(self.m2, self.count - 1.0, out=unknown, where=self.count > 1)
        return variance

    @property
    def skewness(self) -> Floats:
        """Third standardised moment; 0 where nothing varies."""
        varies = self.m2 > 0
        scale = np.where(varies, self.m2, 1.0) ** 1.5
        return np.where(varies, np.sqrt(self.count) * self.m3 / scale, 0.0)

    @property
    def kurtosis(self) -> Floats:
        """Fourth standardised moment, 3 for a normal sample; 3 where nothing varies."""
        varies = self.m2 > 0
        scale = np.where(varies, self.m2, 1.0) ** 2
        return np.where(varies, self.count * self.m4 / scale, 3.0)


# --- Sharpe --------------------------------------------------------------------------------------------------

_NO_SPREAD = 1e-12
"""Standard deviation, relative to the largest typical return, that is rounding and no risk."""


def sharpe(moments: Moments, periods_per_year: float | Floats, *, mean: Floats | None = None) -> Floats:
    """Annualised Sharpe ratio: mean / standard deviation * sqrt(periods a year), risk-free rate 0.

    Parameters
    ----------
    moments
        Of one return a period (a block).
    periods_per_year
        How many such periods a year has; broadcast against the moments.
    mean
        A mean to use instead of the sample's own (a shrunk one).

    Returns
    -------
    Shape of the moments; NaN under two periods or where the returns do not vary.
    """
    deviation = np.sqrt(moments.variance)
    chosen = moments.mean if mean is None else mean
    varies = deviation > _NO_SPREAD * np.maximum(np.abs(moments.mean), _NO_SPREAD)
    ratio = np.divide(chosen, deviation, out=np.full(np.shape(deviation), np.nan), where=varies)
    annual: Floats = ratio * np.sqrt(periods_per_year)
    return annual


def probabilistic_sharpe(moments: Moments, benchmark: float | Floats = 0.0) -> Floats:
    """Probability that the true Sharpe ratio exceeds a benchmark, both a period, not annualised.

    D. H. Bailey and M. Lopez de Prado, "The Sharpe Ratio Efficient Frontier", Journal of Risk 15 (2012): skewness and
    fat tails widen the error of a Sharpe ratio. NaN where there is no Sharpe ratio.
    """
    ratio = sharpe(moments, 1.0)
    spread = 1 - moments.skewness * ratio + (moments.kurtosis - 1) / 4 * ratio**2
    statistic = (ratio - benchmark) * np.sqrt(np.maximum(moments.count - 1, 0)) / np.sqrt(np.maximum(spread, 1e-12))
    probability: Floats = stats.norm.cdf(statistic)
    return probability


def expected_maximum_sharpe(variance: float, trials: int) -> float:
    """Sharpe ratio that the best of `trials` items without any skill is expected to show.

    Parameters
    ----------
    variance
        Variance of the trials' Sharpe ratios, a period.
    trials
        Items that were tried; one has nothing to be the best of: 0.

    Notes
    -----
    D. H. Bailey and M. Lopez de Prado, "The Deflated Sharpe Ratio", Journal of Portfolio Management 40 (2014), eq. 6.
    """
    if trials < 2:
        return 0.0
    first = float(stats.norm.ppf(1 - 1 / trials))
    second = float(stats.norm.ppf(1 - 1 / (trials * math.e)))
    return math.sqrt(max(variance, 0.0)) * ((1 - np.euler_gamma) * first + np.euler_gamma * second)


def deflated_sharpe(moments: Moments, variance: float, trials: int) -> Floats:
    """Probability that the true Sharpe ratio exceeds what the best of so many trials shows by luck (ibid.)."""
    return probabilistic_sharpe(moments, expected_maximum_sharpe(variance, trials))


# --- drawdown ------------------------------------------------------------------------------------------------


class Drawdown(msgspec.Struct, frozen=True, eq=False):
    """Running sum of a span of returns, as four numbers that join to those of a longer span. All of one shape.

    Attributes
    ----------
    total
        Sum of the returns.
    highest, lowest
        Highest and lowest prefix sum, the empty one (0) included.
    worst
        Largest drop from a prefix sum to a later one; 0 or more.
    """

    total: npt.NDArray[np.float64]
    highest: npt.NDArray[np.float64]
    lowest: npt.NDArray[np.float64]
    worst: npt.NDArray[np.float64]

    def __getitem__(self, index: object) -> Drawdown:
        """The figures of some elements; any numpy index."""
        return Drawdown(*(np.asarray(getattr(self, name)[index]) for name in self.__struct_fields__))

    def followed_by(self, later: Drawdown) -> Drawdown:
        """Figures of this span and then the later one."""
        drop = self.highest - (self.total + later.lowest)
        return Drawdown(
            np.asarray(self.total + later.total),
            np.asarray(np.maximum(self.highest, self.total + later.highest)),
            np.asarray(np.minimum(self.lowest, self.total + later.lowest)),
            np.asarray(np.maximum(np.maximum(self.worst, later.worst), drop)),
        )

    @classmethod
    def stack(cls, parts: Sequence[Drawdown]) -> Drawdown:
        """Figures of equal shape along a new first axis."""
        return cls(*(np.stack([getattr(part, name) for part in parts]) for name in cls.__struct_fields__))

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Drawdown:
        """Figures of no return at all."""
        zeros = np.zeros(shape)
        return cls(zeros, zeros, zeros, zeros)

    @classmethod
    def of(cls, returns: npt.ArrayLike) -> Drawdown:
        """Figures along the first axis, in time order; NaN counts as no return. (n, ...) -> shape (...)."""
        sample = np.nan_to_num(np.asarray(returns, dtype=np.float64), nan=0.0)
        prefix = np.concatenate([np.zeros((1, *sample.shape[1:])), np.cumsum(sample, axis=0)])
        peak = np.maximum.accumulate(prefix, axis=0)
        return cls(
            np.asarray(prefix[-1]),
            np.asarray(prefix.max(axis=0)),
            np.asarray(prefix.min(axis=0)),
            np.asarray((peak - prefix).max(axis=0)),
        )


# --- shares --------------------------------------------------------------------------------------------------


def wilson_interval(successes: float, n: float, *, confidence: float = 0.95) -> Interval | None:
    """Interval of a share by E. B. Wilson (1927): honest for few trials and shares near 0 or 1; None without trials.

    Parameters
    ----------
    successes, n
        Successes and independent trials; pass numbers of blocks, not of minutes, where minutes are not independent.
    """
    if n <= 0:
        return None
    if not 0 <= successes <= n:
        raise InvalidRecordError(
            f"{successes} successes in {n} trials.", remedy="Successes lie between 0 and n.", field="successes"
        )
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(low=max(centre - reach, 0.0), high=min(centre + reach, 1.0))


# --- many items at once --------------------------------------------------------------------------------------


def benjamini_hochberg(p_values: npt.ArrayLike) -> Floats:
    """q-values: the least false discovery rate at which each item would be called; any shape, NaN stays NaN.

    Y. Benjamini and Y. Hochberg, "Controlling the False Discovery Rate", JRSS B 57 (1995).
    """
    p = np.asarray(p_values, dtype=np.float64)
    q = np.full(p.shape, np.nan)
    known = ~np.isnan(p)
    tested = p[known]
    if not len(tested):
        return q
    order = np.argsort(tested, kind="stable")
    ranked = tested[order] * len(tested) / np.arange(1, len(tested) + 1)
    adjusted = np.empty_like(ranked)
    adjusted[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    q[known] = adjusted
    return q


def between_variance(deviations: npt.ArrayLike, variances: npt.ArrayLike) -> float:
    """Variance of true deviations from a known centre, given noisy ones: the prior of empirical Bayes.

    The moment estimator of R. DerSimonian and N. Laird (1986) with the centre known: deviations d_i with error
    variances v_i and weights 1 / v_i have sum(d_i^2 / v_i) = k + tau^2 sum(1 / v_i) in expectation.

    Parameters
    ----------
    deviations, variances
        (k,) each; items with an unknown or non-positive variance are left out.

    Returns
    -------
    tau^2, at least 0; 0 without items: everything is then shrunk to the centre.
    """
    d, v = np.asarray(deviations, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    usable = np.isfinite(d) & np.isfinite(v) & (v > 0)
    weights = 1.0 / v[usable]
    if not len(weights):
        return 0.0
    return max(float((weights * d[usable] ** 2).sum() - len(weights)) / float(weights.sum()), 0.0)


def shrinkage_weight(variance: npt.ArrayLike, between: float | Floats) -> Floats:
    """Share of its own deviation that an item keeps: between / (between + variance); 0 for an unknown variance."""
    v = np.asarray(variance, dtype=np.float64)
    spread = between + v
    weight = np.divide(between, spread, out=np.zeros(np.broadcast(v, between).shape), where=spread > 0)
    return np.where(np.isnan(v), 0.0, weight)
