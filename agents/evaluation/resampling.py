"""Intervals by resampling blocks of days, the same blocks for all that is compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agents.candles import FloatArray
from memory.errors import InvalidQueryError
from memory.records import Interval

LEAST_BLOCKS = 8
"""Fewer blocks give no interval, as everywhere."""


@dataclass(frozen=True, slots=True, eq=False)
class Resampling:
    """Resamples of D days and S seeds: moving blocks of consecutive days, and seeds, each with replacement.

    H. R. Kuensch, "The Jackknife and the Bootstrap for General Stationary Observations", Annals of Statistics 17
    (1989). Days of one block stay together, so that what lasts for some days is kept; all contestants and seeds take
    the same blocks, so that differences between them are paired.

    Attributes
    ----------
    days
        int64 (R, D): the days of each resample.
    seeds
        int64 (R, S): its seeds.
    blocks
        Blocks that the days hold.
    confidence
        Coverage of intervals.
    """

    days: npt.NDArray[np.int64]
    seeds: npt.NDArray[np.int64]
    blocks: int
    confidence: float

    @classmethod
    def draw(
        cls, days: int, seeds: int, *, resamples: int, block_days: int, confidence: float, random_state: int
    ) -> Resampling:
        """Draw resamples; the same arguments give the same."""
        if days < 1 or seeds < 1:
            raise InvalidQueryError(
                f"{days} days of {seeds} seeds cannot be resampled.", remedy="Give at least one.", argument="days"
            )
        generator = np.random.Generator(np.random.PCG64(random_state))
        length = min(block_days, days)
        pieces = -(-days // length)
        starts = generator.integers(0, days - length + 1, (resamples, pieces))
        chosen = (starts[:, :, None] + np.arange(length)).reshape(resamples, -1)[:, :days]
        # One seed has nothing to be drawn from; with more, the draw says how much hangs on them.
        return cls(chosen, generator.integers(0, seeds, (resamples, seeds)), pieces, confidence)

    def of(self, values: FloatArray, row: int) -> FloatArray:
        """One resample of values (S, D, ...): (S, D, ...)."""
        own = values[self.seeds[row]] if len(values) > 1 else values
        return own[:, self.days[row]]

    def interval(self, figure: Callable[[int], float]) -> Interval | None:
        """Percentile interval of a figure of each resample; None under `LEAST_BLOCKS` blocks, or where it is unknown.

        A figure that no more than a twentieth of the resamples have is none.
        """
        return self.interval_of(np.array([figure(row) for row in range(len(self.days))]))

    def interval_of(self, figures: FloatArray) -> Interval | None:
        """Percentile interval of figures (R,), one a resample."""
        known = figures[np.isfinite(figures)]
        if self.blocks < LEAST_BLOCKS or len(known) < 0.95 * len(figures):
            return None
        low, high = np.quantile(known, [0.5 - self.confidence / 2, 0.5 + self.confidence / 2])
        return Interval(low=float(low), high=float(high))
