"""Correlations of products, what chance would show, and the CORRELATION memories made of them.

A correlation is *claimed* only above its null: the same two series, one of them shifted in a circle; for each of
several shifts the largest correlation over all lags, and of these the 95th percentile. Its interval, which counts clock
blocks and not minutes, must leave out 0 as well: a shift breaks up the storms that both products went through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

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
    CorrelationState,
    N,
    PairSums,
)
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
    threshold
        What the null leaves: correlations of a larger magnitude are claimed. Infinite without a null.
    """

    lags: Ints
    correlation: Floats
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
    return LagCorrelations(
        lags=np.arange(-reach, reach + 1), correlation=np.clip(correlation, -1.0, 1.0), threshold=threshold
    )


def fisher_interval(correlation: float, n: int, confidence: float) -> Interval | None:
    """Interval of a correlation by Fisher's z (1921) with n independent pairs; None under 4 or at +-1."""
    if n < 4 or not abs(correlation) < 1:
        return None
    reach = float(stats.norm.ppf(0.5 + confidence / 2)) / math.sqrt(n - 3)
    centre = math.atanh(correlation)
    return Interval(low=math.tanh(centre - reach), high=math.tanh(centre + reach))


def project_correlations(
    state: CorrelationState, context: ProjectionContext, settings: CorrelationSettings = DEFAULT_SETTINGS
) -> list[CorrelationMemory]:
    """CORRELATION memories: for each pair, bar and regime the correlation at lag 0, and the strongest claimed lag.

    Returns
    -------
    Memories over at least `min_blocks` blocks. `n` is the number of blocks, which the interval counts as the
    independent pairs; `claimed` says whether the correlation exceeds the null and its interval leaves out 0. A memory
    of another lag than 0 exists only where it is claimed, and keeps its id when the strongest lag changes.
    """
    memories = []
    for pair in state.pairs:
        if pair.blocks < settings.min_blocks:
            continue
        found = lag_correlations(pair, settings)
        centre = len(found.lags) // 2
        if np.isnan(found.correlation[centre]):
            continue
        memories.append(_memory(pair, found, centre, context, settings))
        others = np.abs(found.correlation)
        others[centre] = np.nan
        if np.isnan(others).all():
            continue
        lead = _memory(pair, found, int(np.nanargmax(others)), context, settings)
        if lead.claimed:
            memories.append(lead)
    return memories


def _memory(
    pair: PairSums, found: LagCorrelations, place: int, context: ProjectionContext, settings: CorrelationSettings
) -> CorrelationMemory:
    lag, correlation = int(found.lags[place]), float(found.correlation[place])
    role = "together" if lag == 0 else "lead"
    interval = fisher_interval(correlation, pair.blocks, settings.confidence)
    # Without an interval (a perfect correlation) the null alone decides.
    beyond_luck = interval is None or interval.low > 0 or interval.high < 0
    claimed = abs(correlation) > found.threshold and beyond_luck
    return CorrelationMemory(
        memory_id=context.memory_id("c", pair.first, pair.second, str(pair.bar_minutes), pair.regime, role),
        description=_sentence(pair, lag, correlation, claimed),
        encoder_id=context.encoder_id,
        line=context.line,
        created_at=from_ms(pair.known_ms),
        valid_from=context.valid_from,
        source=context.source,
        products=(pair.first, pair.second),
        regime=pair.regime,
        bar_minutes=pair.bar_minutes,
        lag=lag,
        correlation=correlation,
        interval=interval,
        n=pair.blocks,
        claimed=claimed,
    )


def _sentence(pair: PairSums, lag: int, correlation: float, claimed: bool) -> str:
    leader, follower = (pair.first, pair.second) if lag > 0 else (pair.second, pair.first)
    minutes = abs(lag) * pair.bar_minutes
    how = (
        f"{pair.first} and {pair.second} move together"
        if lag == 0
        else f"{leader} leads {follower} by {minutes} minute{'' if minutes == 1 else 's'}"
    )
    when = "at all times" if pair.regime == ALL_REGIMES else f"when the market is {pair.regime}"
    luck = "" if claimed else ", no more than chance would show"
    return f"{how} {when}: correlation {correlation:+.2f} of {pair.bar_minutes}-minute returns{luck}."
