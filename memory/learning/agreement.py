"""How well predictions agree with what came: rank correlation and calibration, with intervals that count blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np
from scipy import stats

from memory.errors import InvalidRecordError
from memory.records import Interval
from memory.tables import Floats, Ints

CALIBRATION_BINS = 5
"""Bins of equal size, from the lowest to the highest prediction: enough to see a bend, few enough to be steady."""


@dataclass(frozen=True, slots=True)
class Slope:
    """Slope of y on x with its interval; None where it cannot be computed, or under too few blocks."""

    slope: float | None
    interval: Interval | None
    blocks: int


class CalibrationBin(msgspec.Struct, frozen=True):
    """States of one bin: how many, what was predicted for them on average, and what came."""

    n: int
    predicted: float
    realised: float


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Agreement of predictions with outcomes over some states.

    Attributes
    ----------
    n, blocks
        States with both, and clock blocks that hold them.
    rank_correlation, rank_interval
        Spearman's correlation (the information coefficient, IC) and its 95 % interval.
    slope, slope_interval
        Of the outcome on the prediction: 1 is calibrated, 0 knows nothing, above 1 is too timid.
    bias
        Mean outcome - mean prediction.
    bins
        `CALIBRATION_BINS` bins by prediction.
    """

    n: int
    blocks: int
    rank_correlation: float | None
    rank_interval: Interval | None
    slope: float | None
    slope_interval: Interval | None
    bias: float | None
    bins: tuple[CalibrationBin, ...]


def block_slope(x: Floats, y: Floats, blocks: Ints, *, confidence: float, min_blocks: int) -> Slope:
    """Least-squares slope of y on x with a cluster-robust interval.

    Parameters
    ----------
    x, y
        (n,) finite values.
    blocks
        (n,) clock block of each; values of one block may depend on one another in any way.
    confidence, min_blocks
        Coverage of the interval, and the blocks below which there is none.

    Notes
    -----
    With residuals e and centred x, the variance of the slope is B / (B - 1) sum_b (sum_i in b x_i e_i)^2 / (sum x^2)^2;
    Student's t with B - 1 degrees of freedom (Cameron & Miller 2015, eq. 11 with their small-sample factor).
    """
    _, block = np.unique(blocks, return_inverse=True)
    count = int(block.max()) + 1 if len(block) else 0
    if len(x) < 2:
        return Slope(None, None, count)
    centred = x - x.mean()
    power = float(centred @ centred)
    # Rounding alone leaves about n eps^2 times the square of the level.
    if power <= len(x) * (1e-12 * max(float(np.abs(x).max()), 1e-300)) ** 2:
        return Slope(None, None, count)
    response = y - y.mean()
    slope = float(centred @ response) / power
    if count < max(min_blocks, 2):
        return Slope(slope, None, count)
    scores = np.bincount(block, weights=centred * (response - slope * centred), minlength=count)
    error = math.sqrt(count / (count - 1) * float(scores @ scores)) / power
    reach = float(stats.t.ppf(0.5 + confidence / 2, count - 1)) * error
    return Slope(slope, Interval(low=slope - reach, high=slope + reach), count)


def rank_correlation(x: Floats, y: Floats, blocks: Ints, *, confidence: float, min_blocks: int) -> Slope:
    """Spearman's rank correlation with a block interval: the slope between ranks of unit variance.

    Parameters as for `block_slope`. Ties share their mean rank. None where either side does not vary.
    """
    if len(x) < 2:
        return block_slope(x, y, blocks, confidence=confidence, min_blocks=min_blocks)
    ranks = [stats.rankdata(side) for side in (x, y)]
    spreads = [float(rank.std()) for rank in ranks]
    if min(spreads) == 0:
        return Slope(None, None, len(np.unique(blocks)))
    unit = [(rank - rank.mean()) / spread for rank, spread in zip(ranks, spreads, strict=True)]
    return block_slope(unit[0], unit[1], blocks, confidence=confidence, min_blocks=min_blocks)


def agreement(predicted: Floats, realised: Floats, blocks: Ints, *, confidence: float, min_blocks: int) -> Agreement:
    """Compare predictions with outcomes; pairs with a NaN on either side are left out.

    Parameters
    ----------
    predicted, realised
        (n,).
    blocks
        (n,) clock block of each.
    confidence, min_blocks
        Coverage of the intervals, and the blocks below which there is none.
    """
    if not len(predicted) == len(realised) == len(blocks):
        raise InvalidRecordError(
            f"{len(predicted)} predictions, {len(realised)} outcomes and {len(blocks)} blocks do not belong together.",
            remedy="Give one outcome and one block for each prediction.",
            field="realised",
        )
    known = np.isfinite(predicted) & np.isfinite(realised)
    x, y, block = predicted[known], realised[known], blocks[known]
    ranks = rank_correlation(x, y, block, confidence=confidence, min_blocks=min_blocks)
    line = block_slope(x, y, block, confidence=confidence, min_blocks=min_blocks)
    # Ties are kept in the given order: equal predictions may fall on both sides of an edge.
    parts = np.array_split(np.argsort(x, kind="stable"), CALIBRATION_BINS) if len(x) >= CALIBRATION_BINS else []
    return Agreement(
        n=len(x),
        blocks=ranks.blocks,
        rank_correlation=ranks.slope,
        rank_interval=ranks.interval,
        slope=line.slope,
        slope_interval=line.interval,
        bias=float(y.mean() - x.mean()) if len(x) else None,
        bins=tuple(CalibrationBin(len(rows), float(x[rows].mean()), float(y[rows].mean())) for rows in parts),
    )
