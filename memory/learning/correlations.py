"""How products move together: cross-correlations of log returns at lags -10 to 10, pair by pair.

Returns are taken on common minutes only, nothing filled forward, over bars of 1 and 15 minutes on the clock. What a
window keeps are cross-sums, which add up over windows. A correlation is *claimed* only above what the same two series
show when one is shifted in a circle by a random stretch: for each of several shifts the maximum over all lags, and of
these the 95th percentile. The shifted sums add up over windows as well, so the null is that of the pooled correlation.

Sums are kept for all minutes and for each regime of a market reference, a single product, so that one minute has one
regime whatever the pair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import stats

from memory.errors import InvalidRecordError
from memory.learning.context import ProjectionContext
from memory.learning.partitions import partition_seed
from memory.records import REGIMES, CorrelationMemory, Interval, from_ms, to_ms
from memory.tables import Floats, Ints, StateTable
from memory.window import Window

ALL_REGIMES = "ALL"
"""Regime of figures over all minutes."""
NOTIONAL_FEATURE = "log_notional"
"""Feature by which the default market reference is chosen: logarithm of the notional volume of late."""

N, A, B, AA, BB, AB = range(6)
"""Columns of `PairSums.lags`: pairs, and sums of the two returns, their squares and their product."""

_MS_PER_MINUTE = 60_000


@dataclass(frozen=True, slots=True)
class CorrelationSettings:
    """Settings of the correlations.

    Attributes
    ----------
    bar_minutes
        Lengths of the bars.
    max_lag
        Largest lag, in bars, either way.
    shifts
        Circular shifts of the null. With 20, the 95th percentile is their maximum: one claim in 21 is luck.
    null_quantile
        Share of the shifts that a correlation must exceed.
    market_reference
        Product whose regime keys the sums. None: the one with the largest mean `log_notional`, where states carry that
        feature, else the first by name.
    block_minutes, min_blocks, confidence
        Clock blocks that count as independent, the least number of them for an interval, and its coverage.
    """

    bar_minutes: tuple[int, ...] = (1, 15)
    max_lag: int = 10
    shifts: int = 20
    null_quantile: float = 0.95
    market_reference: str | None = None
    block_minutes: int = 30
    min_blocks: int = 8
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for minutes in self.bar_minutes:
            if minutes < 1 or self.block_minutes % minutes:
                raise ValueError(f"bar_minutes holds {minutes}: choose divisors of block_minutes {self.block_minutes}")
        if self.max_lag < 0 or self.shifts < 1:
            raise ValueError(f"max_lag is {self.max_lag}, shifts {self.shifts}: choose at least 0 and 1")

    @property
    def least_bars(self) -> int:
        """Bars that a window must span: a shift keeps two spans of lags away from no shift at all, either way round."""
        return 4 * self.max_lag + 2


DEFAULT_SETTINGS = CorrelationSettings()


class PairSums(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Cross-sums of two products in one regime; L = 2 max_lag + 1 lags.

    Attributes
    ----------
    first, second
        Product ids, in order of name.
    bar_minutes, regime
        Length of the bars; regime of the market reference when the first product's bar ends, or `ALL_REGIMES`.
    known_ms
        End of the first window that had such minutes.
    blocks
        Clock blocks that hold any common bar.
    lags
        float64 (L, 6): sums of `N, A, B, AA, BB, AB` at lags -max_lag to max_lag. At lag k the first product's return
        meets the second's k bars later.
    shifted_n, shifted_ab
        float64 (shifts, L): pairs and sums of products, with the second series shifted in a circle.
    """

    first: str
    second: str
    bar_minutes: int
    regime: str
    known_ms: int
    blocks: int
    lags: Floats
    shifted_n: Floats
    shifted_ab: Floats


class CorrelationSummary(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """All sums of one window, or, as the fold's state, of all windows so far; sorted by pair, bar and regime."""

    max_lag: int
    shifts: int
    references: tuple[str, ...]
    pairs: tuple[PairSums, ...]


CorrelationState = CorrelationSummary


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


def summarise_correlations(
    states: StateTable, window: Window, settings: CorrelationSettings = DEFAULT_SETTINGS
) -> CorrelationSummary:
    """Condense one window's prices; depends on that window alone, so pairs across its edges are left out.

    Parameters
    ----------
    states
        Distinct states of one encoder and source. A minute's price is that of its last state.
    window
        The window that they lie in.
    settings
        Bars, lags and shifts.

    Returns
    -------
    Sums for each pair of products, bar and regime that has common bars. Bars of which the window spans fewer than
    `settings.least_bars` are left out. Cost: 5 ms a pair and day.
    """
    reference = market_reference(states, settings)
    products = sorted(states.products)
    pairs: list[PairSums] = []
    start_minute = to_ms(window.start) // _MS_PER_MINUTE
    length = (to_ms(window.end) - to_ms(window.start)) // _MS_PER_MINUTE
    minutes = states.timestamp_ms // _MS_PER_MINUTE - start_minute
    if len(minutes) and not (0 <= minutes.min() and minutes.max() < length):
        raise InvalidRecordError(
            f"states lie outside the window {window.name}.", remedy="Pass the states of one window.", field="states"
        )
    log_price = np.full((len(products), length), np.nan)
    regime = np.full(length, -1, dtype=np.int64)
    for row, name in enumerate(products):
        own = states.product == states.products.index(name)
        log_price[row, minutes[own]] = np.log(states.price[own])
        if name == reference:
            regime[minutes[own]] = states.regime[own]
    seen = np.flatnonzero(~np.isnan(log_price).all(axis=0))
    for bar in settings.bar_minutes:
        if not len(seen):
            continue
        # Bars lie on the clock: a window begins on one, and the first bar that is used is the first that has a price.
        first_bar, last_bar = seen[0] // bar, seen[-1] // bar
        grid = np.arange(first_bar, last_bar + 1) * bar
        if len(grid) < settings.least_bars:
            continue
        closes = log_price[:, grid]
        returns = np.full(closes.shape, np.nan)
        returns[:, 1:] = closes[:, 1:] - closes[:, :-1]
        shifts = _shifts(window, bar, len(grid), settings)
        for first, second in combinations(range(len(products)), 2):
            pairs.extend(
                _pair_sums(
                    (products[first], products[second]),
                    returns[[first, second]],
                    regime[grid],
                    (start_minute + grid) // settings.block_minutes,
                    shifts,
                    bar,
                    to_ms(window.end),
                    settings.max_lag,
                )
            )
    return CorrelationSummary(
        max_lag=settings.max_lag,
        shifts=settings.shifts,
        references=() if reference is None else (reference,),
        pairs=tuple(sorted(pairs, key=_key)),
    )


def market_reference(states: StateTable, settings: CorrelationSettings = DEFAULT_SETTINGS) -> str | None:
    """Product whose regime stands for the market's; None where the setting names one that has no states.

    Parameters
    ----------
    states
        States of one window.
    settings
        `market_reference`.
    """
    held = sorted(states.products[code] for code in np.unique(states.product).tolist())
    if settings.market_reference is not None:
        return settings.market_reference if settings.market_reference in held else None
    notional = states.feature(NOTIONAL_FEATURE)
    sizes: dict[str, float] = {}
    for product in held:
        known = notional[(states.product == states.products.index(product)) & ~np.isnan(notional)]
        sizes[product] = float(known.mean()) if len(known) else -math.inf
    return max(held, key=lambda product: sizes[product], default=None)


def fold_correlations(state: CorrelationState | None, summary: CorrelationSummary) -> CorrelationState:
    """Add a window to the windows before it; pure."""
    if state is None:
        return summary
    if (state.max_lag, state.shifts) != (summary.max_lag, summary.shifts):
        raise InvalidRecordError(
            f"lags to {summary.max_lag} and {summary.shifts} shifts follow {state.max_lag} and {state.shifts}.",
            remedy="Summaries of different settings are never mixed: consolidate the windows again.",
            field="summary",
        )
    merged = {_key(pair): pair for pair in state.pairs}
    for pair in summary.pairs:
        known = merged.get(_key(pair))
        merged[_key(pair)] = pair if known is None else _merge(known, pair)
    return CorrelationSummary(
        max_lag=state.max_lag,
        shifts=state.shifts,
        references=tuple(sorted({*state.references, *summary.references})),
        pairs=tuple(merged[key] for key in sorted(merged)),
    )


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

    # Shifted in a circle, each series keeps its own mean and spread: those at lag 0 serve for all shifts.
    threshold = math.inf
    if varies[reach] and (pair.shifted_n > 1).all():
        null = (pair.shifted_ab / pair.shifted_n - mean_a[reach] * mean_b[reach]) / spread[reach]
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
    independent pairs; `claimed` says whether the correlation exceeds the null. A memory of another lag than 0 exists
    only where it is claimed, and keeps its id when the strongest lag changes.
    """
    memories = []
    for pair in state.pairs:
        if pair.blocks < settings.min_blocks:
            continue
        found = lag_correlations(pair, settings)
        centre = len(found.lags) // 2
        if np.isnan(found.correlation[centre]):
            continue
        memories.append(_memory(pair, 0, float(found.correlation[centre]), found.threshold, context, settings))
        others = np.abs(found.correlation)
        others[centre] = np.nan
        if np.isnan(others).all():
            continue
        best = int(np.nanargmax(others))
        if others[best] > found.threshold:
            lag = int(found.lags[best])
            memories.append(_memory(pair, lag, float(found.correlation[best]), found.threshold, context, settings))
    return memories


def _memory(
    pair: PairSums,
    lag: int,
    correlation: float,
    threshold: float,
    context: ProjectionContext,
    settings: CorrelationSettings,
) -> CorrelationMemory:
    role = "together" if lag == 0 else "lead"
    claimed = abs(correlation) > threshold
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
        interval=fisher_interval(correlation, pair.blocks, settings.confidence),
        n=pair.blocks,
        claimed=claimed,
    )


def _sentence(pair: PairSums, lag: int, correlation: float, claimed: bool) -> str:
    leader, follower = (pair.first, pair.second) if lag > 0 else (pair.second, pair.first)
    how = (
        f"{pair.first} and {pair.second} move together"
        if lag == 0
        else f"{leader} leads {follower} by {abs(lag) * pair.bar_minutes} minutes"
    )
    when = "at all times" if pair.regime == ALL_REGIMES else f"when the market is {pair.regime}"
    luck = "" if claimed else ", no more than chance would show"
    return f"{how} {when}: correlation {correlation:+.2f} of {pair.bar_minutes}-minute returns{luck}."


def _shifts(window: Window, bar: int, bars: int, settings: CorrelationSettings) -> Ints:
    generator = np.random.default_rng(partition_seed(window.name, f"{bar}-minute shifts"))
    least = 2 * settings.max_lag + 1
    choices = bars - 2 * least + 1
    shifts: Ints = least + (generator.random(settings.shifts) * choices).astype(np.int64)
    return shifts


def _pair_sums(
    products: tuple[str, str],
    returns: Floats,
    regime: Ints,
    blocks: Ints,
    shifts: Ints,
    bar: int,
    known_ms: int,
    max_lag: int,
) -> list[PairSums]:
    common = ~np.isnan(returns).any(axis=0)
    if not common.any():
        return []
    a, b = np.where(common, returns, 0.0)
    held = [code for code in range(len(REGIMES)) if (common & (regime == code)).any()]
    masks = np.stack([common, *(common & (regime == code) for code in held)]).astype(np.float64)
    left = masks * a
    # Zeros beyond both ends: a lag never reaches over the edge of the window.
    ends = np.zeros(max_lag)
    straight = _windows(np.concatenate([ends, b, ends]), len(b))
    present = _windows(np.concatenate([ends, common.astype(np.float64), ends]), len(b))
    lags = np.stack(
        [
            masks @ present.T,
            left @ present.T,
            masks @ straight.T,
            (left * a) @ present.T,
            masks @ (straight**2).T,
            left @ straight.T,
        ],
        axis=-1,
    )
    shifted_n = np.empty((len(masks), len(shifts), 2 * max_lag + 1))
    shifted_ab = np.empty_like(shifted_n)
    for place, shift in enumerate(shifts.tolist()):
        turns = [np.roll(series, -(shift - max_lag)) for series in (b, common.astype(np.float64))]
        rolled, there = (_windows(np.concatenate([turn, turn[: 2 * max_lag]]), len(b)) for turn in turns)
        shifted_n[:, place] = masks @ there.T
        shifted_ab[:, place] = left @ rolled.T
    return [
        PairSums(
            first=products[0],
            second=products[1],
            bar_minutes=bar,
            regime=name,
            known_ms=known_ms,
            blocks=len(np.unique(blocks[masks[row] > 0])),
            lags=lags[row],
            shifted_n=shifted_n[row],
            shifted_ab=shifted_ab[row],
        )
        for row, name in enumerate([ALL_REGIMES, *(REGIMES[code] for code in held)])
    ]


def _windows(series: Floats, length: int) -> npt.NDArray[np.float64]:
    """All stretches of a length, (len(series) - length + 1, length): row k begins at k."""
    return np.lib.stride_tricks.sliding_window_view(series, length)


def _merge(left: PairSums, right: PairSums) -> PairSums:
    return PairSums(
        first=left.first,
        second=left.second,
        bar_minutes=left.bar_minutes,
        regime=left.regime,
        known_ms=min(left.known_ms, right.known_ms),
        blocks=left.blocks + right.blocks,
        lags=left.lags + right.lags,
        shifted_n=left.shifted_n + right.shifted_n,
        shifted_ab=left.shifted_ab + right.shifted_ab,
    )


def _key(pair: PairSums) -> tuple[str, str, int, str]:
    return pair.first, pair.second, pair.bar_minutes, pair.regime
