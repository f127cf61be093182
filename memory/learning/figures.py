"""What is read off a pattern's sums against its partition's base rate: shrunk means, tests, Sharpe ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import stats as distributions

from memory.learning.blocks import BlockSums, block_interval, block_mean, block_variance, value_variance
from memory.learning.conditions import ConditionRange
from memory.learning.outcomes import FLAT, GROSS, LONG, LONG_NET, N_MEASURES, SCALED, SHORT, SHORT_NET
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

OVERLAP_FREE_MINUTES = 1
"""Longest horizon over which the outcomes of successive minutes share no price move."""
NAMED = (LONG, SHORT)
"""Actions in order of the columns of net returns."""


class Figures(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What was read off a pattern when it last changed; H horizons, 5 measures (`outcomes`).

    Attributes
    ----------
    window
        Name of the window that changed it.
    mean, variance, base, base_variance
        (H, 5): mean over its states, variance of that mean (moderated), the partition's mean (the base rate), and the
        variance of the partition's values.
    anchor, shrunk
        (H, 5): base rate without what may be the drift of a few days (`anchors`), and mean shrunk towards that.
    p_value, q_value
        (H,): test of "the gross mean differs from the base rate", and its Benjamini-Hochberg q-value; NaN without an
        interval. The family is that of `window`: the patterns that it changed, and all that stood beside them.
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
    anchor: npt.NDArray[np.float64]
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
    base_variance: Floats
    anchor: Floats

    @classmethod
    def of(cls, sums: BlockSums, base: BlockSums, anchor: Floats, settings: LearningSettings) -> Estimates:
        """Estimates from block sums; the base's sums and anchor are broadcast against them."""
        spread = np.broadcast_to(value_variance(base), sums.shape)
        variance = moderated_variance(sums, spread, settings.moderation_blocks, _dependence(base))
        return cls(block_mean(sums), variance, spread, np.broadcast_to(anchor, sums.shape))

    @classmethod
    def stack(cls, figures: Sequence[Figures]) -> Estimates:
        """Estimates that are part of figures: (k, H, 5)."""
        nothing = np.zeros((0, len(HORIZONS), N_MEASURES))
        return cls(*(np.array([getattr(item, name) for item in figures]) if figures else nothing for name in _PARTS))

    def and_also(self, other: Estimates) -> Estimates:
        """Estimates of both groups of sets."""
        return Estimates(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in _PARTS))


_PARTS = tuple(field.name for field in fields(Estimates))


def anchors(bases: Mapping[str, OutcomeSums], settings: LearningSettings) -> dict[str, Floats]:
    """Base rates to shrink to: (H, 5) a partition.

    The base rate of returns over a few days is mostly the way the market happened to go on them. It is therefore itself
    shrunk, to no drift before costs, by how much the partitions' drifts exceed their errors. Volatility has no such
    natural centre, and its base rate is well known; it stays as it is.
    """
    if not bases:
        return {}
    keys = sorted(bases)
    sums = BlockSums.stack([bases[key].blocks for key in keys])
    mean, spread = block_mean(sums), value_variance(sums)
    variance = moderated_variance(sums, spread, settings.moderation_blocks)
    anchor = mean.copy()
    scale = np.where(spread > 0, spread, np.nan)
    for row in range(len(HORIZONS)):
        for column in (GROSS, SCALED):
            unit = scale[:, row, column]
            between = between_variance(mean[:, row, column] / np.sqrt(unit), variance[:, row, column] / unit)
            weight = shrinkage_weight(variance[:, row, column], np.nan_to_num(between * unit))
            anchor[:, row, column] = weight * mean[:, row, column]
    cost = mean[..., GROSS] - mean[..., LONG_NET]
    anchor[..., LONG_NET] = anchor[..., GROSS] - cost
    anchor[..., SHORT_NET] = -anchor[..., GROSS] - cost
    return dict(zip(keys, anchor, strict=True))


def within_block_correlation(sums: BlockSums) -> Floats:
    """Correlation of two values of one block, from how far the variance of block sums exceeds that of independence.

    With it the variance of a mean of n values is spread * (n + rho (sum(n_b^2) - n)) / n^2 (L. Kish, "Survey Sampling",
    1965: the design effect). Shape of the sums, 0 to 1; 1 where blocks or values are too few to tell.
    """
    n, spread = sums.n.astype(np.float64), value_variance(sums)
    pairs = sums.n_squared - n
    excess = block_variance(sums) * n**2 - spread * n
    known = (spread > 0) & (pairs > 0) & np.isfinite(excess)
    rho = np.divide(excess, spread * pairs, out=np.ones(sums.shape), where=known)
    return np.clip(rho, 0.0, 1.0)


def _dependence(base: BlockSums) -> Floats:
    """Correlation within blocks that the prior of `moderated_variance` assumes; shape of the base (..., measures).

    Measured on the base for predictions one minute ahead: states of one pattern are more alike than those of a whole
    partition, so that what remains of their outcomes depends no more on one another. Over longer horizons the outcomes
    of a pattern's neighbouring minutes overlap far more than those of the base, and returns in money become advice:
    there all values of a block count as one, on the safe side.
    """
    rho = np.ones(base.shape)
    for column in range(SCALED, base.shape[-1]):
        for row, horizon in enumerate(HORIZONS):
            if horizon <= OVERLAP_FREE_MINUTES:
                rho[..., row, column] = within_block_correlation(base[..., row, column])
    return rho


def moderated_variance(
    sums: BlockSums, value_spread: Floats, prior_blocks: float, dependence: Floats | float = 1.0
) -> Floats:
    """Variance of means, steadied where blocks are few.

    The cluster-robust variance of B blocks has B - 1 degrees of freedom, and none at all for one block. It is averaged,
    by degrees of freedom, with a prior of `prior_blocks`: the partition's variance of values, with a correlation of
    `dependence` between the values of a block (1 takes all of them for one, which errs on the safe side). The idea is
    that of G. K. Smyth, "Linear Models and Empirical Bayes Methods" (2004), with the prior's weight a setting.

    Returns
    -------
    Shape of the sums; NaN without values.
    """
    n = np.maximum(sums.n, 1).astype(np.float64)
    prior = value_spread * (n + dependence * (sums.n_squared - n)) / n**2
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
        deviation = (estimates.mean - estimates.anchor) / np.sqrt(scale)
        variance = estimates.variance / scale
        for index in np.ndindex(*between.shape):
            between[index] = between_variance(deviation[:, *index], variance[:, *index])
        return cls(between)

    def shrink(self, estimates: Estimates) -> Floats:
        """Shrunk means, shape of the estimates' means, whose last axes are those of the prior; the anchor where
        nothing is known.

        Long, short and gross returns are one quantity, up to costs, and keep the weight of the gross one.
        """
        weight = shrinkage_weight(estimates.variance, np.nan_to_num(self.between * estimates.base_variance))
        weight[..., LONG_NET] = weight[..., SHORT_NET] = weight[..., GROSS]
        known = weight > 0
        return np.where(known, estimates.anchor + weight * (estimates.mean - estimates.anchor), estimates.anchor)


def sharpe_with(mean: Floats, returns: Moments, base: Moments, periods: float, settings: LearningSettings) -> Floats:
    """Annualised Sharpe ratio of given means with the spread of block returns, moderated as `moderated_variance` is.

    NaN where nothing varies. Shape of the means.
    """
    variance = moderated_return_variance(returns, base, settings)
    varies = variance > 0
    ratio = np.divide(mean, np.sqrt(variance), out=np.full(np.shape(mean), np.nan), where=varies)
    annual: Floats = ratio * np.sqrt(periods)
    return annual


def moderated_return_variance(returns: Moments, base: Moments, settings: LearningSettings) -> Floats:
    """Variance of block returns, steadied by the base's as `moderated_variance` is; shape of the returns."""
    freedom = np.maximum(returns.count - 1, 0)
    prior = np.nan_to_num(np.broadcast_to(base.variance, returns.m2.shape))
    variance: Floats = (settings.moderation_blocks * prior + returns.m2) / (settings.moderation_blocks + freedom)
    return variance


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


@dataclass(frozen=True, slots=True)
class Changed:
    """A pattern that a window changed: its partition, its sums, and what sets it apart."""

    partition: str
    outcomes: OutcomeSums
    conditions: tuple[ConditionRange, ...]


def read_figures(
    window: str,
    changed: Sequence[Changed],
    bases: Mapping[str, OutcomeSums],
    others: Sequence[Figures],
    settings: LearningSettings,
) -> list[Figures]:
    """Figures of the patterns that a window changed, among all patterns.

    Parameters
    ----------
    window
        Name of the window.
    changed
        The k patterns that it changed.
    bases
        Sums of all partitions, by key.
    others
        Figures of all other patterns: part of the prior, of the family of tests, and of the trials.
    settings
        Settings.

    Returns
    -------
    k `Figures`. Cost: O(k + others), 0.1 s for thousands.
    """
    if not changed:
        return []
    sums = BlockSums.stack([item.outcomes.blocks for item in changed])
    returns = Moments.stack([item.outcomes.block_returns for item in changed])
    base_sums = BlockSums.stack([bases[item.partition].blocks for item in changed])
    base_returns = Moments.stack([bases[item.partition].block_returns for item in changed])
    anchor_of = anchors(bases, settings)
    own = Estimates.of(sums, base_sums, np.stack([anchor_of[item.partition] for item in changed]), settings)
    base = block_mean(base_sums)
    prior = Prior.of(own.and_also(Estimates.stack(others)))
    shrunk = prior.shrink(own)
    p = p_values(sums[:, :, GROSS], base[:, :, GROSS], settings)
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
            base=base[row],
            base_variance=own.base_variance[row],
            anchor=own.anchor[row],
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
            conditions=changed[row].conditions,
        )
        for row in range(len(changed))
    ]


def prior_of(figures: Sequence[Figures]) -> Prior:
    """Prior of patterns whose figures are known; nothing differs from the base where there is none."""
    return Prior.of(Estimates.stack(figures))
