"""What an estimate is made of: neighbours, a sample for base rates, a pattern; and means that count blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from memory.records import REGIMES, BaseRate, BlockFigure, Interval, PatternMemory
from memory.tables import Floats, Ints

LONG = "LONG"
ESTIMATE_HORIZONS = (1, 5, 15, 60)
"""Minutes after the decision; those of `learning.predictions`, which a base install cannot import."""
MIN_BLOCKS = 8
"""Clock blocks below which a source is no evidence."""
BLOCK_MINUTES = 30
VOLATILITY_FLOOR = 0.01
"""Least |return| / (trailing volatility * sqrt(horizon)) before its logarithm is taken, as in `LearningSettings`."""
CONFIDENCE = 0.95
"""Coverage of all intervals, those that patterns carry included."""
_MS_PER_MINUTE = 60_000


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Remembered states near the one asked about, one row a distinct (product, time); arrays of shape (k,).

    Attributes
    ----------
    distance
        Cosine distance.
    timestamp_ms
        Decision times.
    forward_return
        Simple return of the price over the horizon; NaN where unknown.
    trailing_volatility
        Standard deviation of one-minute log returns over the hour before, a fraction; NaN where unknown.
    """

    distance: Floats
    timestamp_ms: Ints
    forward_return: Floats
    trailing_volatility: Floats

    def __len__(self) -> int:
        return len(self.distance)

    def within(self, distance: float) -> Neighbours:
        """Those within a distance."""
        near = self.distance <= distance
        return Neighbours(
            self.distance[near], self.timestamp_ms[near], self.forward_return[near], self.trailing_volatility[near]
        )


@dataclass(frozen=True, slots=True)
class OutcomeSample:
    """Remembered states of all kinds, of which base rates are taken; n states, H horizons.

    Attributes
    ----------
    timestamp_ms, regime
        int64 (n,): decision times; indices into `memory.records.REGIMES`.
    forward_returns
        float64 (n, H): as in `Neighbours`, one column a horizon.
    trailing_volatility
        float64 (n,): as in `Neighbours`.
    """

    timestamp_ms: Ints
    regime: Ints
    forward_returns: Floats
    trailing_volatility: Floats

    def __len__(self) -> int:
        return len(self.timestamp_ms)

    @classmethod
    def joined(cls, parts: Sequence[OutcomeSample]) -> OutcomeSample:
        """All states of some samples."""
        return cls(
            np.concatenate([np.empty(0, dtype=np.int64), *(part.timestamp_ms for part in parts)]),
            np.concatenate([np.empty(0, dtype=np.int64), *(part.regime for part in parts)]),
            np.concatenate([np.empty((0, len(ESTIMATE_HORIZONS))), *(part.forward_returns for part in parts)]),
            np.concatenate([np.empty(0), *(part.trailing_volatility for part in parts)]),
        )


@dataclass(frozen=True, slots=True)
class BlockMean:
    """Mean of values that depend on one another within clock blocks.

    Attributes
    ----------
    mean, spread
        Mean and variance of the values.
    variance
        Cluster-robust variance of the mean; NaN under two blocks.
    concentration
        sum(n_b^2) / n^2 over the blocks' counts n_b; its inverse is the effective number of blocks (L. Kish, "Survey
        Sampling", 1965).
    n, blocks
        Values and blocks.
    """

    mean: float
    spread: float
    variance: float
    concentration: float
    n: int
    blocks: int


@dataclass(frozen=True, slots=True)
class BaseRates:
    """Base rates of a regime at one horizon: returns as fractions, returns in trailing volatilities, volatility.

    `scaled` and `volatility` are None where no state has a trailing volatility. `reach` is the size that
    the given share of the scaled returns stays below.
    """

    gross: BlockMean
    scaled: BlockMean | None = None
    volatility: BlockMean | None = None
    reach: Mapping[float, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PatternEvidence:
    """What a pattern says about one horizon; returns are those of a long position, before costs.

    Attributes
    ----------
    pattern_id, valid_from
        The pattern, and the version of it.
    distance
        Cosine distance of the state to it.
    mean_return, return_variance, volatility, volatility_variance
        Means, and variances of the means; None where the pattern has no interval.
    base_volatility
        Base rate that its volatility belongs to.
    blocks
        Clock blocks that hold its states.
    """

    pattern_id: str
    valid_from: datetime
    distance: float
    blocks: int
    mean_return: float | None
    return_variance: float | None
    volatility: float | None
    volatility_variance: float | None
    base_volatility: float | None


# --- measures ------------------------------------------------------------------------------------------------


def scaled_returns(returns: Floats, trailing_volatility: Floats, horizon: int) -> Floats:
    """Returns / (trailing volatility * sqrt(horizon)); NaN where a trailing volatility is unknown or 0."""
    typical = np.where(trailing_volatility > 0, trailing_volatility, np.nan) * math.sqrt(horizon)
    scaled: Floats = returns / typical
    return scaled


def following_volatility(scaled: Floats) -> Floats:
    """log |scaled return|, floored at `VOLATILITY_FLOOR`: how much more than of late the price moved."""
    magnitude: Floats = np.log(np.maximum(np.abs(scaled), VOLATILITY_FLOOR))
    return magnitude


def block_minutes_of(horizon: int) -> int:
    """Length in minutes of the blocks of a horizon: at least the horizon."""
    return BLOCK_MINUTES * max(1, math.ceil(horizon / BLOCK_MINUTES))


def block_mean(values: Floats, timestamp_ms: Ints, horizon: int) -> BlockMean | None:
    """Mean of values whose clock blocks are independent, all products together; None without values.

    Parameters
    ----------
    values
        (n,); NaN is left out.
    timestamp_ms
        (n,) decision times.
    horizon
        Minutes that the values reach ahead: blocks are at least as long.

    Notes
    -----
    With residual sums e_b of B blocks the variance of the mean is B / (B - 1) sum(e_b^2) / n^2: A. C. Cameron and
    D. L. Miller, "A Practitioner's Guide to Cluster-Robust Inference", Journal of Human Resources 50 (2015).
    """
    known = np.isfinite(values)
    n = int(known.sum())
    if not n:
        return None
    held = values[known]
    number = timestamp_ms[known] // (block_minutes_of(horizon) * _MS_PER_MINUTE)
    _, block = np.unique(number, return_inverse=True)
    counts = np.bincount(block).astype(np.float64)
    mean = float(held.mean())
    residual = np.bincount(block, weights=held - mean)
    blocks = len(counts)
    return BlockMean(
        mean=mean,
        spread=float(np.square(held - mean).sum()) / (n - 1) if n > 1 else math.nan,
        variance=blocks / (blocks - 1) * float(np.square(residual).sum()) / n**2 if blocks > 1 else math.nan,
        concentration=float(np.square(counts).sum()) / n**2,
        n=n,
        blocks=blocks,
    )


def base_rates(sample: OutcomeSample, regime: str | None, horizon: int) -> BaseRates | None:
    """Base rates of a regime, or of all states where it is None or was seen in fewer than `MIN_BLOCKS` blocks.

    None where even they lie in fewer blocks: there is nothing to begin from.
    """
    column = ESTIMATE_HORIZONS.index(horizon)
    if regime is not None:
        own = _rates(sample, sample.regime == REGIMES.index(regime), column)
        if own is not None:
            return own
    return _rates(sample, np.ones(len(sample), dtype=np.bool_), column)


def published_base_rates(rates: Sequence[BaseRate], horizon: int) -> BaseRates | None:
    """Base rates that were published with a regime; None where the horizon lies in fewer than `MIN_BLOCKS` blocks.

    They count all windows that the regime was seen in, where `base_rates` counts a sample of the last weeks.
    """
    own = next((rate for rate in rates if rate.horizon_minutes == horizon), None)
    if own is None or own.gross.blocks < MIN_BLOCKS:
        return None
    gross = _block_mean_of(own.gross)
    if own.scaled is None or own.volatility is None or own.scaled.blocks < MIN_BLOCKS:
        return BaseRates(gross)
    if own.magnitude_p90 is None or own.magnitude_p95 is None:
        return BaseRates(gross)
    reach = {0.90: own.magnitude_p90, CONFIDENCE: own.magnitude_p95}
    return BaseRates(gross, _block_mean_of(own.scaled), _block_mean_of(own.volatility), reach)


def _block_mean_of(figure: BlockFigure) -> BlockMean:
    return BlockMean(
        mean=figure.mean,
        spread=math.nan if figure.spread is None else figure.spread,
        variance=math.nan if figure.variance is None else figure.variance,
        concentration=figure.concentration,
        n=figure.n,
        blocks=figure.blocks,
    )


def _rates(sample: OutcomeSample, rows: npt.NDArray[np.bool_], column: int) -> BaseRates | None:
    horizon = ESTIMATE_HORIZONS[column]
    times, returns = sample.timestamp_ms[rows], sample.forward_returns[rows, column]
    gross = block_mean(returns, times, horizon)
    if gross is None or gross.blocks < MIN_BLOCKS:
        return None
    scaled = scaled_returns(returns, sample.trailing_volatility[rows], horizon)
    measured = block_mean(scaled, times, horizon)
    if measured is None or measured.blocks < MIN_BLOCKS:
        return BaseRates(gross)
    sizes = np.abs(scaled[np.isfinite(scaled)])
    return BaseRates(
        gross,
        measured,
        block_mean(following_volatility(scaled), times, horizon),
        {share: float(np.quantile(sizes, share)) for share in (0.90, CONFIDENCE)},
    )


def pattern_evidence(pattern: PatternMemory, distance: float, horizon: int) -> PatternEvidence | None:
    """What a pattern says about a horizon, by the intervals that were published with it; None where it has none."""
    gross = next((item for item in pattern.outcomes if item.action == LONG and item.horizon_minutes == horizon), None)
    moved = next((item for item in pattern.volatility if item.horizon_minutes == horizon), None)
    return_variance = None if gross is None else _variance(gross.interval, gross.blocks)
    volatility_variance = None if moved is None else _variance(moved.interval, moved.blocks)
    if return_variance is None and volatility_variance is None:
        return None
    return PatternEvidence(
        pattern_id=pattern.pattern_id,
        valid_from=pattern.valid_from,
        distance=distance,
        blocks=max(0 if gross is None else gross.blocks, 0 if moved is None else moved.blocks),
        mean_return=None if gross is None or return_variance is None else gross.gross_mean,
        return_variance=return_variance,
        volatility=None if moved is None or volatility_variance is None else moved.mean,
        volatility_variance=volatility_variance,
        base_volatility=None if moved is None or volatility_variance is None else moved.base_mean,
    )


def _variance(interval: Interval | None, blocks: int) -> float | None:
    """Variance of a mean, from its interval."""
    if interval is None or blocks < MIN_BLOCKS:
        return None
    return ((interval.high - interval.low) / 2 / student_t(blocks - 1)) ** 2


def student_t(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Quantile of Student's t that bounds a two-sided interval.

    The expansion of M. Abramowitz and I. A. Stegun, "Handbook of Mathematical Functions" (1964), 26.7.5, to the fourth
    order: with 7 degrees of freedom or more its error is below 0.0002 at 90 and 95 %.

    Parameters
    ----------
    freedom
        Degrees of freedom, at least `MIN_BLOCKS` - 1.
    confidence
        Coverage, at most 0.95.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))
