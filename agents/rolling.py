"""Trailing windows whose values do not depend on where the data begins.

Running sums add and subtract, so that rounding carries the whole past along. Here every window is added up by a fixed
tree of its own cells (doubling: blocks of 1, 2, 4, ... cells): a value is bit for bit the same whether a day is
computed alone or within a year. Cost: O(n log window), without a Python loop over cells.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def shifted(values: FloatArray, cells: int, fill: float = 0.0) -> FloatArray:
    """Values of `cells` cells earlier, `fill` where there is no such cell; shape as `values` (n,)."""
    if cells == 0:
        return values
    out = np.full_like(values, fill)
    if cells < len(values):
        out[cells:] = values[:-cells]
    return out


def _trailing(
    values: FloatArray, window: int, combine: Callable[[FloatArray, FloatArray], FloatArray], neutral: float
) -> FloatArray:
    if window < 1:
        raise ValueError(f"window is {window}; it must be at least one cell")
    total: FloatArray | None = None
    covered = 0
    block, size = values, 1
    while True:
        if window & size:
            part = shifted(block, covered, neutral)
            total = part if total is None else combine(total, part)
            covered += size
        if covered == window:
            assert total is not None
            return total
        block = combine(block, shifted(block, size, neutral))
        size *= 2


def trailing_sum(values: FloatArray, window: int) -> FloatArray:
    """Sum over the last `window` cells, the own one included; cells before the first count as 0. Shape (n,)."""
    return _trailing(values, window, np.add, 0.0)


def trailing_max(values: FloatArray, window: int) -> FloatArray:
    """Maximum over the last `window` cells, the own one included; shape (n,)."""
    return _trailing(values, window, np.maximum, -np.inf)


def trailing_min(values: FloatArray, window: int) -> FloatArray:
    """Minimum over the last `window` cells, the own one included; shape (n,)."""
    return _trailing(values, window, np.minimum, np.inf)
