"""What a price did after each time: one definition for summaries, scorecards and the fit of encoders. Numpy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_MS_PER_MINUTE = 60_000


def forward_moves(
    times_ms: npt.NDArray[np.int64],
    prices: npt.NDArray[np.float64],
    minutes: Sequence[int],
    *,
    max_gap_minutes: float,
) -> npt.NDArray[np.float64]:
    """Simple return of one product's price over spans that begin at each of its times: shape (n, len(minutes)).

    The price at the end of a span is the last one at or before it. NaN where a time of more than `max_gap_minutes`
    without a price begins before the span's end (nothing is carried across a gap), where the span ends after the last
    time, and where a price is unknown or not positive.

    Parameters
    ----------
    times_ms
        (n,) milliseconds since 1970, ascending.
    prices
        (n,) prices at these times.
    minutes
        Spans.
    max_gap_minutes
        Longest time between two prices that is no gap.

    Notes
    -----
    Cost: O(n log n) a span.
    """
    prices = np.where((prices > 0) & np.isfinite(prices), prices, np.nan)
    returns = np.full((len(times_ms), len(minutes)), np.nan)
    if not len(times_ms):
        return returns
    gaps = np.flatnonzero(np.diff(times_ms) > max_gap_minutes * _MS_PER_MINUTE)
    ends = np.append(gaps, len(times_ms) - 1)
    # Last time before the next gap: a span that ends later has no price.
    known_until = times_ms[ends[np.searchsorted(ends, np.arange(len(times_ms)))]]
    for column, span in enumerate(minutes):
        until = times_ms + span * _MS_PER_MINUTE
        last = np.searchsorted(times_ms, until, side="right") - 1
        returns[:, column] = np.where(until <= known_until, prices[last] / prices - 1.0, np.nan)
    return returns
