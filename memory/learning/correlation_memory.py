"""Correlations of products, what chance would show, and the CORRELATION memories made of them.

A correlation is *claimed* only above its null: the same two series, one of them shifted in a circle; for each of
several shifts the largest correlation over all lags, and of these the 95th percentile. Its interval, which counts clock
blocks and not minutes, must leave out 0 as well: a shift breaks up the storms that both products went through.

Ten products make hundreds of pairs, bars and regimes, of which one in twenty would pass such a test by luck. A claim
therefore has to hold among all of them: each is tested twice, by Fisher's z with its clock blocks as the sample, and by
the cluster-robust error of the mean product, since a few stormy blocks can outweigh all others; the larger p-value
counts, the strongest of several lags at the price of all of them (Bonferroni), and only q-values of Benjamini and
Hochberg up to `false_discovery_rate` are claimed. The shifts cannot carry that correction: 20 of them know no p-value
below 1 in 21.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import stats

from memory.learning.blocks import BlockSums, block_variance
from memory.learning.context import ProjectionContext
from memory.learning.correlations import (
    AA,
    AB,
    ALL_REGIMES,
    BB,
    DEFAULT_SETTINGS,
    A,
    B,
    CorrelationSettings,
    N,
    PairSums,
)
from memory.learning.statistics import benjamini_hochberg
from memory.records import CorrelationMemory, Interval, from_ms
from memory.tables import Floats, Ints


@dataclass(frozen=True, slots=True)
class LagCorrelations:
    """Correlations of one pair.

    Attributes
    ----------
    lags
        int64 (L,).
    correlation
        float64 (L,): NaN where a series does not vary.
    p_value
        float64 (L,): two-sided, of "the correlation is 0", for each lag alone; NaN where it cannot be tested.
    threshold
        What the null leaves: correlations of a larger magnitude are claimed. Infinite without a null.
    """

    lags: Ints
    correlation: Floats
    p_value: Floats
    threshold: float


def lag_correlations(pair: PairSums, settings: CorrelationSettings = DEFAULT_SETTINGS) -> LagCorrelations:
    """Correlations at all lags, and the null's threshold."""
    reach = len(pair.lags) // 2
    count = np.maximum(pair.lags[:, N], 1.0)
    mean_a, mean_b = pair.lags[:, A] / count, pair.lags[:, B] / count
    spread = np.sqrt(
        np.maximum(pair.lags[:, AA] / count - mean_a**2, 0.0) * np.maximum(pair.lags[:, BB] / count - mean_b**2, 0.0)
    )
    varies = (pair.lags[:, N] > 1) & (spread > 0)
    shared = pair.lags[:, AB] / count - mean_a * mean_b
    correlation = np.divide(shared, spread, out=np.full(len(shared), np.nan), where=varies)

    # Shifted in a circle, each series keeps its count, mean and spread: those at lag 0.
    threshold = math.inf
    if varies[reach]:
        null = (pair.shifted / count[reach] - mean_a[reach] * mean_b[reach]) / spread[reach]
        highest = np.sort(np.abs(null).max(axis=1))
        rank = min(math.ceil(settings.null_quantile * (len(highest) + 1)), len(highest))
        threshold = float(highest[rank - 1])
    correlation = np.clip(correlation, -1.0, 1.0)
    # By a block, since minutes of one block depend on one another; and no more blocks than there are pairs.
    sample = np.minimum(pair.blocks, pair.lags[:, N])
    return LagCorrelations(
        lags=np.arange(-reach, reach + 1),
        correlation=correlation,
        p_value=np.fmax(fisher_p_values(correlation, sample), _block_p_values(shared, pair.products)),
        threshold=threshold,
    )


def fisher_p_values(correlation: Floats, n: Floats) -> Floats:
    """Two-sided p-values of "the correlation is 0" by Fisher's z (1921) with n independent pairs; NaN under 4.

    Shape of the correlations; 0 at +-1.
    """
    known = (n >= 4) & ~np.isnan(correlation)
    with np.errstate(divide="ignore"):
        z = np.sqrt(np.maximum(n - 3, 0)) * np.abs(np.arctanh(np.where(known, correlation, 0.0)))
    p: Floats = np.where(known, 2 * stats.norm.sf(z), np.nan)
    return p


def _block_p_values(shared: Floats, products: BlockSums) -> Floats:
    """p-values of "the covariance is 0" by the cluster-robust error of the mean product: Student's t, blocks - 1."""
    error = np.sqrt(block_variance(products))
    judged = (products.blocks > 1) & (error > 0)
    statistic = np.divide(np.abs(shared), error, out=np.zeros(len(shared)), where=judged)
    p: Floats = np.where(judged, 2 * stats.t.sf(statistic, np.maximum(products.blocks - 1, 1)), np.nan)
    return p


def fisher_interval(correlation: float, n: int, confidence: float) -> Interval | None:
    """Interval of a correlation by Fisher's z (1921) with n independent pairs; None under 4 or at +-1."""
    if n < 4 or not abs(correlation) < 1:
        return None
    reach = float(stats.norm.ppf(0.5 + confidence / 2)) / math.sqrt(n - 3)
    centre = math.atanh(correlation)
    return Interval(low=math.tanh(centre - reach), high=math.tanh(centre + reach))


@dataclass(frozen=True, slots=True)
class _Tested:
    """One correlation before the family that it is judged in is known: a pair at a lag, and its p-value.

    Small values only: there may be a hundred thousand of them, and the sums that they were made of are not kept.
    """

    first: str
    second: str
    bar_minutes: int
    regime: str
    known_ms: int
    lag: int
    correlation: float
    threshold: float
    p_value: float
    n: int
    """Pairs that count as independent: one a clock block, and no more than there are."""

    @classmethod
    def at(cls, pair: PairSums, found: LagCorrelations, place: int, p_value: float) -> _Tested:
        """The correlation of a pair at one of its lags."""
        return cls(
            first=pair.first,
            second=pair.second,
            bar_minutes=pair.bar_minutes,
            regime=pair.regime,
            known_ms=pair.known_ms,
            lag=int(found.lags[place]),
            correlation=float(found.correlation[place]),
            threshold=found.threshold,
            p_value=p_value,
            n=min(pair.blocks, int(pair.lags[place, N])),
        )


class PooledCorrelations(Protocol):
    """Sums of all windows: `CorrelationState`, or `PackedCorrelations` for many products."""

    @property
    def references(self) -> tuple[str, ...]: ...
    @property
    def pairs(self) -> Iterable[PairSums]: ...


def project_correlations(
    state: PooledCorrelations, context: ProjectionContext, settings: CorrelationSettings = DEFAULT_SETTINGS
) -> list[CorrelationMemory]:
    """CORRELATION memories: for each pair, bar and regime the correlation at lag 0, and the strongest claimed lag.

    Returns
    -------
    Memories over at least `min_blocks` blocks. `n` is the number of blocks, which the interval counts as the
    independent pairs; `q_value` is that among all pairs, bars, regimes and both lags of the state; `claimed` says
    whether the correlation exceeds the null, its interval leaves out 0 and its q-value is at most
    `false_discovery_rate`. A memory of another lag than 0 exists only where it is claimed, and keeps its id when the
    strongest lag changes.
    """
    tested: list[_Tested] = []
    for pair in state.pairs:
        if pair.blocks >= settings.min_blocks:
            tested.extend(_tests(pair, settings))
    q_values = benjamini_hochberg([item.p_value for item in tested])
    memories = (
        _memory(item, float(q_value), state.references, context, settings)
        for item, q_value in zip(tested, q_values, strict=True)
    )
    return [memory for memory in memories if memory.lag == 0 or memory.claimed]


def _tests(pair: PairSums, settings: CorrelationSettings) -> list[_Tested]:
    """The correlation at lag 0, and the strongest at another lag, whose p-value pays for all that it was chosen of."""
    found = lag_correlations(pair, settings)
    centre = len(found.lags) // 2
    if np.isnan(found.correlation[centre]):
        return []
    tests = [_Tested.at(pair, found, centre, float(found.p_value[centre]))]
    others = np.abs(found.correlation)
    others[centre] = np.nan
    choices = int(np.count_nonzero(~np.isnan(others)))
    if choices:
        lead = int(np.nanargmax(others))
        tests.append(_Tested.at(pair, found, lead, float(np.minimum(choices * found.p_value[lead], 1.0))))
    return tests


def _memory(
    tested: _Tested,
    q_value: float,
    references: tuple[str, ...],
    context: ProjectionContext,
    settings: CorrelationSettings,
) -> CorrelationMemory:
    lag, correlation = tested.lag, tested.correlation
    role = "together" if lag == 0 else "lead"
    interval = fisher_interval(correlation, tested.n, settings.confidence)
    # A perfect correlation has no interval, and needs none.
    beyond_luck = abs(correlation) == 1 or (interval is not None and not interval.low <= 0 <= interval.high)
    claimed = abs(correlation) > tested.threshold and beyond_luck and q_value <= settings.false_discovery_rate
    keyed_by = () if tested.regime == ALL_REGIMES else references
    return CorrelationMemory(
        memory_id=context.memory_id("c", tested.first, tested.second, str(tested.bar_minutes), tested.regime, role),
        description=_sentence(tested, keyed_by, claimed),
        encoder_id=context.encoder_id,
        line=context.line,
        created_at=from_ms(tested.known_ms),
        valid_from=context.valid_from,
        source=context.source,
        products=(tested.first, tested.second),
        regime=tested.regime,
        bar_minutes=tested.bar_minutes,
        lag=lag,
        correlation=correlation,
        interval=interval,
        n=tested.n,
        claimed=claimed,
        q_value=None if math.isnan(q_value) else q_value,
        references=keyed_by,
    )


def _sentence(tested: _Tested, references: tuple[str, ...], claimed: bool) -> str:
    lag = tested.lag
    leader, follower = (tested.first, tested.second) if lag > 0 else (tested.second, tested.first)
    minutes = abs(lag) * tested.bar_minutes
    how = (
        f"{tested.first} and {tested.second} move together"
        if lag == 0
        else f"{leader} leads {follower} by {minutes} minute{'' if minutes == 1 else 's'}"
    )
    when = (
        "at all times"
        if tested.regime == ALL_REGIMES
        else f"when the market ({' or '.join(references)}) is {tested.regime}"
    )
    luck = "" if claimed else ", no more than chance would show"
    return f"{how} {when}: correlation {tested.correlation:+.2f} of {tested.bar_minutes}-minute returns{luck}."
