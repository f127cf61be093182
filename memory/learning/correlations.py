"""How products move together: cross-correlations of log returns at lags -10 to 10, pair by pair.

Returns are taken on common minutes only, nothing filled forward, over bars of 1 and 15 minutes on the clock. What a
window keeps are cross-sums, which add up over windows, for all minutes and for each regime of a market reference, a
single product, so that one minute has one regime whatever the pair.

For the null, one series is shifted in a circle among the common bars of its regime, which keeps both distributions and
breaks what ties them. The sums of shifted products add up over windows as well, so that `correlation_memory` can set
the pooled correlation against the pooled null.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from memory.errors import InvalidRecordError
from memory.learning.blocks import BlockSums
from memory.learning.partitions import partition_seed
from memory.learning.settings import CorrelationSettings as CorrelationSettings
from memory.records import REGIMES, to_ms
from memory.tables import Floats, Ints, StateTable
from memory.window import Window

ALL_REGIMES = "ALL"
"""Regime of figures over all minutes."""
NOTIONAL_FEATURE = "log_notional"
"""Feature by which the default market reference is chosen: logarithm of the notional volume of late."""

N, A, B, AA, BB, AB = range(6)
"""Columns of `PairSums.lags`: pairs, and sums of the two returns, their squares and their product."""

_MS_PER_MINUTE = 60_000


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
    shifted
        float64 (shifts, L): sums of products with the second series shifted in a circle; as many pairs as at lag 0.
    products
        (L,): sums over clock blocks (those of the first product's bar) of the products of the two returns.
    """

    first: str
    second: str
    bar_minutes: int
    regime: str
    known_ms: int
    blocks: int
    lags: Floats
    shifted: Floats
    products: BlockSums


class CorrelationSummary(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """All sums of one window, or, as the fold's state, of all windows so far.

    Attributes
    ----------
    max_lag, shifts, block_minutes
        Settings that the sums depend on.
    references
        Products whose regimes keyed the sums.
    pairs
        Sorted by pair, bar and regime.
    """

    max_lag: int
    shifts: int
    block_minutes: int
    references: tuple[str, ...]
    pairs: tuple[PairSums, ...]


CorrelationState = CorrelationSummary


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
    Sums for each pair of products, bar and regime that has two common bars or more. Cost: 5 ms a pair and day.
    """
    reference = market_reference(states, settings)
    return CorrelationSummary(
        max_lag=settings.max_lag,
        shifts=settings.shifts,
        block_minutes=settings.block_minutes,
        references=() if reference is None else (reference,),
        pairs=tuple(window_pairs(states, window, settings)),
    )


def window_pairs(
    states: StateTable, window: Window, settings: CorrelationSettings = DEFAULT_SETTINGS
) -> Iterator[PairSums]:
    """The sums of `summarise_correlations`, one by one in their order: those of all are never held at once."""
    reference = market_reference(states, settings)
    products = sorted(states.products)
    start_minute = to_ms(window.start) // _MS_PER_MINUTE
    length = (to_ms(window.end) - to_ms(window.start)) // _MS_PER_MINUTE
    minutes = states.timestamp_ms // _MS_PER_MINUTE - start_minute
    if len(minutes) and not (minutes.min() >= 0 and minutes.max() < length):
        raise InvalidRecordError(
            f"states lie outside the window {window.name}.", remedy="Pass the states of one window.", field="states"
        )
    log_price = np.full((len(products), length), np.nan)
    regime = np.full(length, -1, dtype=np.int64)
    for row, name in enumerate(products):
        own = states.product == states.products.index(name)
        log_price[row, minutes[own]] = _log(states.price[own])
        if name == reference:
            regime[minutes[own]] = states.regime[own]
    series = {bar: _bars(log_price, bar, window.name, settings.shifts) for bar in sorted(settings.bar_minutes)}
    for first, second in combinations(range(len(products)), 2):
        for bar, (grid, returns, draws) in series.items():
            sums = _pair_sums(
                (products[first], products[second]),
                returns[[first, second]],
                regime[grid],
                (start_minute + grid) // settings.block_minutes,
                draws,
                bar,
                to_ms(window.end),
                settings.max_lag,
            )
            yield from sorted(sums, key=pair_key)


def _bars(log_price: Floats, bar: int, window: str, shifts: int) -> tuple[Ints, Floats, Floats]:
    """Where the bars of a window begin, the returns of each product over them, and the draws of the shifts."""
    # Bars end on the clock: a window begins at such an end.
    grid = np.arange(0, log_price.shape[1], bar)
    closes = log_price[:, grid]
    returns = np.full(closes.shape, np.nan)
    returns[:, 1:] = closes[:, 1:] - closes[:, :-1]
    generator = np.random.default_rng(partition_seed(window, f"shifts of {bar}-minute bars"))
    return grid, returns, generator.random(shifts)


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
    check_mergeable(state, summary)
    merged = {pair_key(pair): pair for pair in state.pairs}
    for pair in summary.pairs:
        known = merged.get(pair_key(pair))
        merged[pair_key(pair)] = pair if known is None else merge_pairs(known, pair)
    return CorrelationSummary(
        max_lag=state.max_lag,
        shifts=state.shifts,
        block_minutes=state.block_minutes,
        references=tuple(sorted({*state.references, *summary.references})),
        pairs=tuple(merged[key] for key in sorted(merged)),
    )


class _Settled(Protocol):
    """What sums depend on: those of `CorrelationSummary`."""

    @property
    def max_lag(self) -> int: ...
    @property
    def shifts(self) -> int: ...
    @property
    def block_minutes(self) -> int: ...


def check_mergeable(state: _Settled, summary: _Settled) -> None:
    """Raises InvalidRecordError where sums were made with different settings."""
    kinds = [(item.max_lag, item.shifts, item.block_minutes) for item in (state, summary)]
    if kinds[0] != kinds[1]:
        raise InvalidRecordError(
            f"lags, shifts and minutes a block are {kinds[1]}; those of the windows before were {kinds[0]}.",
            remedy="Summaries of different settings are never mixed: consolidate the windows again.",
            field="summary",
        )


def _pair_sums(
    products: tuple[str, str],
    returns: Floats,
    regime: Ints,
    blocks: Ints,
    draws: Floats,
    bar: int,
    known_ms: int,
    max_lag: int,
) -> list[PairSums]:
    common = ~np.isnan(returns).any(axis=0)
    a, b = np.where(common, returns, 0.0)
    named = [(ALL_REGIMES, common), *((name, common & (regime == code)) for code, name in enumerate(REGIMES))]
    held = [(name, rows) for name, rows in named if rows.sum() > 1]
    if not held:
        return []
    masks = np.stack([rows for _, rows in held]).astype(np.float64)
    left = masks * a
    # Zeros beyond both ends: a lag never reaches over the edge of the window.
    ends = np.zeros(max_lag)
    later = _stretches(np.concatenate([ends, b, ends]), len(b))
    there = _stretches(np.concatenate([ends, common.astype(np.float64), ends]), len(b))
    lags = np.stack(
        [
            masks @ there.T,
            left @ there.T,
            masks @ later.T,
            (left * a) @ there.T,
            masks @ (later**2).T,
            left @ later.T,
        ],
        axis=-1,
    )
    return [
        PairSums(
            first=products[0],
            second=products[1],
            bar_minutes=bar,
            regime=name,
            known_ms=known_ms,
            blocks=len(np.unique(blocks[rows])),
            lags=lags[position],
            shifted=_shifted_sums(a[rows], b[rows], draws, max_lag),
            products=_product_sums(rows * there, rows * a * later, blocks),
        )
        for position, (name, rows) in enumerate(held)
    ]


def _product_sums(counts: Floats, products: Floats, blocks: Ints) -> BlockSums:
    """Block sums (L,) of products (L, bars), of which `counts` (L, bars) says which exist; blocks (bars,) ascend."""
    begins = np.flatnonzero(np.diff(blocks, prepend=blocks[0] - 1))
    n = np.add.reduceat(counts, begins, axis=1)
    total = np.add.reduceat(products, begins, axis=1)
    # Counts are far below 2^53, so their float sums are exact.
    return BlockSums(
        n=n.sum(axis=1).astype(np.int64),
        blocks=(n > 0).sum(axis=1).astype(np.int64),
        n_squared=(n**2).sum(axis=1).astype(np.int64),
        total=total.sum(axis=1),
        total_squared=(total**2).sum(axis=1),
        cross=(n * total).sum(axis=1),
        squares=(products**2).sum(axis=1),
    )


def _log(price: Floats) -> Floats:
    known = np.isfinite(price) & (price > 0)
    return np.log(price, out=np.full(len(price), np.nan), where=known)


def _shifted_sums(a: Floats, b: Floats, draws: Floats, max_lag: int) -> Floats:
    """Sums of a[t] b[t + shift + lag], in a circle, for each draw of a shift and each lag: (shifts, L).

    A shift keeps two spans of lags away from no shift at all, either way round, where there are bars enough; where
    there are not, lags share offsets, but none is 0.
    """
    count = len(a)
    products = np.fft.irfft(np.conj(np.fft.rfft(a)) * np.fft.rfft(b), count)
    least = 2 * max_lag + 1
    room = count - 2 * least + 1
    shifts = least + np.floor(draws * room) if room > 0 else np.floor(draws * count)
    offsets = shifts.astype(np.int64)[:, None] + np.arange(-max_lag, max_lag + 1)
    chosen: Floats = products[(offsets - 1) % (count - 1) + 1]
    return chosen


def _stretches(series: Floats, length: int) -> npt.NDArray[np.float64]:
    """All stretches of a length, (len(series) - length + 1, length): row k begins at k."""
    return np.lib.stride_tricks.sliding_window_view(series, length)


def merge_pairs(left: PairSums, right: PairSums) -> PairSums:
    """Sums of one pair, bar and regime over the windows of both."""
    return PairSums(
        first=left.first,
        second=left.second,
        bar_minutes=left.bar_minutes,
        regime=left.regime,
        known_ms=min(left.known_ms, right.known_ms),
        blocks=left.blocks + right.blocks,
        lags=left.lags + right.lags,
        shifted=left.shifted + right.shifted,
        products=left.products.merged_with(right.products),
    )


def pair_key(pair: PairSums) -> tuple[str, str, int, str]:
    """What sums are sorted by."""
    return pair.first, pair.second, pair.bar_minutes, pair.regime
