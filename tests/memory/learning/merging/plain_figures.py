"""Figures of a set of returns by their definitions, written out here and not by the functions under test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from memory.learning.blocks import BlockSums
from tests.memory.learning.merging.drawn_days import DAY_MINUTES, MINUTE_MS


def same_blocks(ours: BlockSums, theirs: BlockSums) -> None:
    """Counts equal, sums equal up to rounding."""
    for name in ("n", "blocks", "n_squared"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    for name in ("total", "total_squared", "cross", "squares"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-12)


@dataclass(frozen=True)
class Plain:
    """Figures of one set of returns, by their definitions; NaN where unknown."""

    n: int
    blocks: int
    mean: float
    low: float
    high: float
    p_value: float
    win_rate: float
    sharpe: float
    drawdown: float


def plain_figures(values: np.ndarray, times: np.ndarray, horizon: int, base_mean: float = 0.0) -> Plain:
    """Figures of values at decision times: mean, cluster-robust interval, Sharpe and drawdown of block returns."""
    known = ~np.isnan(values)
    held, minutes = values[known], 30 if horizon <= 30 else 60
    block = times[known] // (minutes * MINUTE_MS)
    numbers = np.unique(block)
    n, blocks = len(held), len(numbers)
    nan = float("nan")
    if not n:
        return Plain(0, 0, nan, nan, nan, nan, nan, nan, 0.0)
    mean = held.mean()
    residuals = np.array([(held[block == number] - mean).sum() for number in numbers])
    error = np.sqrt(blocks / (blocks - 1) * (residuals**2).sum()) / n if blocks >= 8 else nan
    reach = stats.t.ppf(0.975, max(blocks - 1, 1)) * error
    returns = np.array([held[block == number].mean() for number in numbers])
    deviation = returns.std(ddof=1) if blocks > 1 else nan
    equity = np.concatenate([[0.0], np.cumsum(returns)])
    return Plain(
        n=n,
        blocks=blocks,
        mean=float(mean),
        low=float(mean - reach),
        high=float(mean + reach),
        p_value=float(2 * stats.t.sf(abs(mean - base_mean) / error, blocks - 1)) if error > 0 else nan,
        win_rate=float((held > 0).mean()),
        sharpe=float(returns.mean() / deviation * np.sqrt(365 * DAY_MINUTES / minutes)) if deviation > 1e-15 else nan,
        drawdown=float((np.maximum.accumulate(equity) - equity).max()),
    )
