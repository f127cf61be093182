"""What is read off a pattern's sums against its partition's base rate: shrunk means, tests, Sharpe ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import stats as distributions

from memory.learning.blocks import BlockSums, block_interval, block_mean, block_variance, value_variance
from memory.learning.conditions import ConditionRange
from memory.learning.outcomes import FLAT, GROSS, LONG, LONG_NET, N_MEASURES, SHORT, SHORT_NET
from memory.learning.predictions import HORIZONS
from memory.learning.settings import LearningSettings
from memory.learning.statistics import (
    Moments,
    benjamini_hochberg,
    between_variance,
    deflated_sharpe,
    sharpe,
    shrinkage_weight,
)
from memory.learning.sums import NET, OutcomeSums
from memory.tables import Floats

NAMED = (LONG, SHORT)
"""Actions in order of the columns of net returns."""


class Figures(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What was read off a pattern when it last changed; H horizons, 5 measures (`outcomes`).

    Attributes
    ----------
    window
        Name of the window that changed it.
    mean, variance, base, base_variance
        (H, 5): mean over its states, variance of that mean (moderated), the partition's mean, and the variance of
        the partition's values.
    shrunk
        (H, 5): mean shrunk towards the base.
    p_value, q_value
        (H,): test of "the gross mean differs from the base rate", and its Benjamini-Hochberg q-value among all
        patterns; NaN without an interval.
    best_action
        LONG, SHORT or FLAT: the largest shrunk net mean at the reference horizon.
    best_mean
        That mean; 0 for FLAT.
    sharpe, raw_sharpe, sharpe_low
        Annualised net Sharpe ratio at the reference horizon: of the best action from its shrunk mean; of long or
        short, whichever did better, as it was; of the best action from the lower end of its interval. NaN where
        unknown.
    deflated_sharpe
        Probability that the true Sharpe ratio exceeds what the best of as many patterns shows by luck; NaN where
        unknown.
    block_sharpe
        (2,): raw Sharpe ratio a block, long and short, not annualised.
    conditions
        What sets the pattern apart.
    """

    window: str
    mean: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64]
    base: npt.NDArray[np.float64]
    base_variance: npt.NDArray[np.float64]
    shrunk: npt.NDArray[np.float64]
    p_value: npt.NDArray[np.float64]
    q_value: npt.NDArray[np.float64]
    best_action: str
    best_mean: float
    sharpe: float
    raw_sharpe: float
    sharpe_low: float
    deflated_sharpe: float
    block_sharpe: npt.NDArray[np.float64]
    conditions: tuple[ConditionRange, ...]


@dataclass(frozen=True, slots=True)
class Estimates:
    """Means of k sets of states beside their base rates: what shrinkage works on. Arrays (k, ...)."""

    mean: Floats
    variance: Floats
    base: Floats
    base_variance: Floats

    @classmethod
    def of(cls, sums: BlockSums, base: BlockSums, settings: LearningSettings) -> Estimates:
        """Estimates from block sums and the base's sums, which are broadcast against them."""
        spread = np.broadcast_to(value_variance(base), sums.shape)
        return cls(
            block_mean(sums),
            moderated_variance(sums, spread, settings.moderation_blocks),
            np.broadcast_to(block_mean(base), sums.shape),
            spread,
        )

    @classmethod
    def stack(cls, figures: Sequence[Figures]) -> Estimates:
        """Estimates that are part of figures: (k, H, 5)."""
        if not figures:
            nothing = np.zeros((0, len(HORIZONS), N_MEASURES))
            return cls(nothing, nothing, nothing, nothing)
        return cls(
            np.stack([item.mean for item in figures]),
            np.stack([item.variance for item in figures]),
            np.stack([item.base for item in figures]),
            np.stack([item.base_variance for item in figures]),
        )


def moderated_variance(sums: BlockSums, value_spread: Floats, prior_blocks: float) -> Floats:
    """Variance of means, steadied where blocks are few.

    The cluster-robust variance of B blocks has B - 1 degrees of freedom, and none at all for one block. It is averaged,
    by degrees of freedom, with a prior of `prior_blocks`: the partition's variance of values, with all values of a
    block taken for one (which errs on the safe side). The idea is that of G. K. Smyth, "Linear Models and Empirical
    Bayes Methods" (2004), with the prior's weight a setting.

    Returns
    -------
    Shape of the sums; NaN without values.
    """
    n = np.maximum(sums.n, 1).astype(np.float64)
    prior = value_spread * sums.n_squared / n**2
    freedom = np.maximum(sums.blocks - 1, 0)
    own = np.where(freedom > 0, np.nan_to_num(block_variance(sums)), 0.0)
    variance = (prior_blocks * prior + freedom * own) / (prior_blocks + freedom)
    return np.where(sums.n > 0, variance, np.nan)


@dataclass(frozen=True, slots=True)
class Prior:
    """How much sets of states truly differ from their base rates, in units of the base's variance of values.

    Attributes
    ----------
    between
        (H, 5): variance between sets.
    """

    between: Floats

    @classmethod
    def of(cls, estimates: Estimates) -> Prior:
        """Prior from all patterns, over partitions: markets of different volatility are made comparable first."""
        between = np.zeros(estimates.mean.shape[1:])
        scale = np.where(estimates.base_variance > 0, estimates.base_variance, np.nan)
        deviation = (estimates.mean - estimates.base) / np.sqrt(scale)
        variance = estimates.variance / scale
        for index in np.ndindex(*between.shape):
            between[index] = between_variance(deviation[:, *index], variance[:, *index])
        return cls(between)

    def shrink(self, estimates: Estimates) -> Floats:
        """Shrunk means, shape of the estimates' means, whose last axes are those of the prior; the base where nothing
        is known.

        Long, short and gross returns are one quantity, up to costs, and keep the weight of the gross one.
        """
        between = self.between.copy()
        between[..., LONG_NET] = between[..., SHORT_NET] = between[..., GROSS]
        weight = shrinkage_weight(estimates.variance, np.nan_to_num(between * estimates.base_variance))
        weight[..., LONG_NET] = weight[..., SHORT_NET] = weight[..., GROSS]
        known = weight > 0
        return np.where(known, estimates.base + weight * (estimates.mean - estimates.base), estimates.base)


def sharpe_with(mean: Floats, returns: Moments, base: Moments, periods: float, settings: LearningSettings) -> Floats:
    """Annualised Sharpe ratio of given means with the spread of block returns, moderated as `moderated_variance` is.

    NaN where nothing varies. Shape of the means.
    """
    freedom = np.maximum(returns.count - 1, 0)
    prior = np.nan_to_num(np.broadcast_to(base.variance, returns.m2.shape))
    variance = (settings.moderation_blocks * prior + returns.m2) / (settings.moderation_blocks + freedom)
    varies = variance > 0
    ratio: Floats = np.divide(mean, np.sqrt(variance), out=np.full(np.shape(mean), np.nan), where=varies)
    return ratio * np.sqrt(periods)


def best_actions(net: Floats) -> npt.NDArray[np.int64]:
    """Column of the best action of (..., 2) net means, long and short: 0, 1, or 2 (flat) where neither gains."""
    best = np.argmax(net, axis=-1)
    gain = np.take_along_axis(net, best[..., None], axis=-1)[..., 0]
    return np.where(gain > 0, best, len(NAMED)).astype(np.int64)


def p_values(sums: BlockSums, base_mean: Floats, settings: LearningSettings) -> Floats:
    """Two-sided p-values of "the mean is the base's": Student's t, blocks - 1; NaN below `min_blocks`."""
    judged = sums.blocks >= max(settings.min_blocks, 2)
    error = np.sqrt(block_variance(sums))
    varies = judged & (error > 0)
    statistic = np.divide(np.abs(block_mean(sums) - base_mean), error, out=np.zeros(sums.shape), where=varies)
    p = 2 * distributions.t.sf(statistic, np.where(judged, sums.blocks - 1, 1))
    known: Floats = np.where(varies, p, np.nan)
    return known


def read_figures(
    window: str,
    outcomes: Sequence[OutcomeSums],
    bases: Sequence[OutcomeSums],
    conditions: Sequence[tuple[ConditionRange, ...]],
    others: Sequence[Figures],
    settings: LearningSettings,
) -> list[Figures]:
    """Figures of the patterns that a window changed, among all patterns.

    Parameters
    ----------
    window
        Name of the window.
    outcomes, bases, conditions
        Of the k changed patterns: their sums, the sums of their partitions, their conditions.
    others
        Figures of all other patterns: part of the prior, of the family of tests, and of the trials.
    settings
        Settings.

    Returns
    -------
    k `Figures`. Cost: O(k + others), 0.1 s for thousands.
    """
    if not outcomes:
        return []
    sums = BlockSums.stack([item.blocks for item in outcomes])
    base_sums = BlockSums.stack([item.blocks for item in bases])
    returns = Moments.stack([item.block_returns for item in outcomes])
    base_returns = Moments.stack([item.block_returns for item in bases])
    own = Estimates.of(sums, base_sums, settings)
    rest = Estimates.stack(others)
    prior = Prior.of(
        Estimates(
            *(np.concatenate([getattr(own, name), getattr(rest, name)]) for name in Estimates.__dataclass_fields__)
        )
    )
    shrunk = prior.shrink(own)
    p = p_values(sums[:, :, GROSS], own.base[:, :, GROSS], settings)
    q = benjamini_hochberg(np.concatenate([p, *(item.p_value[None] for item in others)]))[: len(p)]

    reference = HORIZONS.index(settings.reference_horizon_minutes)
    periods = settings.periods_per_year(settings.reference_horizon_minutes)
    net = shrunk[:, reference, NET]
    best = best_actions(net)
    at, at_base = returns[:, reference, NET], base_returns[:, reference, NET]
    own_sharpe, raw = sharpe_with(net, at, at_base, periods, settings), sharpe(at, periods)
    low, _ = block_interval(sums[:, reference, NET], confidence=settings.confidence, min_blocks=settings.min_blocks)
    low_sharpe = sharpe_with(low, at, at_base, periods, settings)
    block_sharpe = sharpe(at, 1.0)
    trials = np.concatenate([block_sharpe, *(item.block_sharpe[None] for item in others)])
    known = trials[np.isfinite(trials)]
    spread = float(known.var(ddof=1)) if len(known) > 1 else 0.0
    deflated = deflated_sharpe(at, spread, len(known))

    raw_best = np.fmax(raw[:, 0], raw[:, 1])

    def of_best(table: Floats, row: int) -> float:
        return float(table[row, best[row]]) if best[row] < len(NAMED) else float("nan")

    return [
        Figures(
            window=window,
            mean=own.mean[row],
            variance=own.variance[row],
            base=own.base[row],
            base_variance=own.base_variance[row],
            shrunk=shrunk[row],
            p_value=p[row],
            q_value=q[row],
            best_action=(*NAMED, FLAT)[best[row]],
            best_mean=float(net[row, best[row]]) if best[row] < len(NAMED) else 0.0,
            sharpe=of_best(own_sharpe, row),
            raw_sharpe=float(raw_best[row]),
            sharpe_low=of_best(low_sharpe, row),
            deflated_sharpe=of_best(deflated, row),
            block_sharpe=block_sharpe[row],
            conditions=conditions[row],
        )
        for row in range(len(outcomes))
    ]


def prior_of(figures: Sequence[Figures]) -> Prior:
    """Prior of patterns whose figures are known; nothing differs from the base where there is none."""
    return Prior.of(Estimates.stack(figures))
