"""What patterns predict, and how their predictions turned out: the contract between the fold and the scorecard.

The fold builds a `PatternPredictions` from its state before a window is folded; `scorecard.score_window` scores it on
the window's states and hands back one `PredictionGain` a pattern; the fold keeps a `PredictionRecord` a pattern and
demotes those that fail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import stats

from memory.errors import InvalidRecordError
from memory.tables import Floats, Ints

HORIZONS = (1, 5, 15, 60)
"""Minutes after the decision at which outcomes are taken."""

COVERAGE_QUANTILE = 0.1
"""A pattern covers a state that is at least as near to its mean as the farthest tenth of its members was."""

MIN_SCORED_WINDOWS = 5
"""Windows in which a pattern was scored before it may be demoted: fewer give no usable spread between windows."""

DEMOTION_LEVEL = 0.05
"""One-sided level of the test that a pattern predicts worse than its base rate."""


@dataclass(frozen=True, slots=True)
class PatternPredictions:
    """What the current patterns of one encoder and source predict; n patterns, H = len(HORIZONS) horizons.

    Attributes
    ----------
    pattern_ids
        Ids, length n.
    partitions
        Partition key of each, ``encoder/source/regime`` with MIXED for pooled ones; length n.
    vectors
        float32, shape (n, dimension): mean vectors, scaled to length 1.
    cosine_floor
        float64, shape (n,): least cosine with the vector at which a state counts as covered: the `COVERAGE_QUANTILE`
        of the members' cosines with their mean.
    states
        int64, shape (n,): members, over all windows.
    scaled_return
        float64, shape (n, H): mean of gross forward return / (trailing volatility * sqrt(horizon)), NaN where unknown.
    volatility
        float64, shape (n, H): mean of log(|forward return| / (trailing volatility * sqrt(horizon))), NaN where unknown.
    base_scaled_return, base_volatility
        float64, shape (n, H): the same means over all states of the pattern's partition so far: the base rate.
    windows
        int64, shape (n,): windows that hold the members, so that the null can draw sets of the size that a pattern has
        in one window; left out, each has one.
    """

    pattern_ids: tuple[str, ...]
    partitions: tuple[str, ...]
    vectors: npt.NDArray[np.float32]
    cosine_floor: Floats
    states: Ints
    scaled_return: Floats
    volatility: Floats
    base_scaled_return: Floats
    base_volatility: Floats
    windows: Ints | None = None

    def __post_init__(self) -> None:
        count = len(self.pattern_ids)
        for item in fields(self):
            column = getattr(self, item.name)
            length = count if column is None else len(column)
            if length != count:
                raise InvalidRecordError(
                    f"{item.name} has {length} rows for {count} patterns.",
                    remedy="Give every column one row a pattern.",
                    field=item.name,
                )
        for name in ("scaled_return", "volatility", "base_scaled_return", "base_volatility"):
            shape = getattr(self, name).shape
            if shape != (count, len(HORIZONS)):
                raise InvalidRecordError(
                    f"{name} has shape {shape}, not {(count, len(HORIZONS))}.",
                    remedy=f"Give one column for each of the horizons {HORIZONS}.",
                    field=name,
                )

    def __len__(self) -> int:
        return len(self.pattern_ids)

    @property
    def states_a_window(self) -> Ints:
        """Members of each pattern in one of its windows, on average; at least 1."""
        windows = 1 if self.windows is None else np.maximum(self.windows, 1)
        members: Ints = np.maximum(self.states // windows, 1)
        return members


class PredictionGain(msgspec.Struct, frozen=True, kw_only=True):
    """How one pattern's predictions did on one window's states, against the base rate of its partition.

    Attributes
    ----------
    pattern_id
        The pattern.
    states, occurrences
        States of the window that it covers, and distinct clock blocks that hold them.
    volatility_gain, return_gain
        Mean over the states and horizons of (squared error of the base rate - squared error of the pattern), for the
        volatility that followed and for the scaled return; above 0 where the pattern knew more than its base rate.
    """

    pattern_id: str
    states: int
    occurrences: int
    volatility_gain: float
    return_gain: float


class PredictionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A pattern's predictions over the windows in which it was scored; one window counts once.

    Windows, not minutes, are the sample: minutes of one day share their market. The volatility that followed decides
    about demotion, since returns hold too little signal to convict or acquit any pattern within a year.
    """

    windows: int = 0
    volatility_sum: float = 0.0
    volatility_sum_sq: float = 0.0
    return_sum: float = 0.0
    return_sum_sq: float = 0.0

    def with_gain(self, gain: PredictionGain) -> PredictionRecord:
        """The record after one more window."""
        return self.merged_with(
            PredictionRecord(
                windows=1,
                volatility_sum=gain.volatility_gain,
                volatility_sum_sq=gain.volatility_gain**2,
                return_sum=gain.return_gain,
                return_sum_sq=gain.return_gain**2,
            )
        )

    def merged_with(self, other: PredictionRecord) -> PredictionRecord:
        """The record of two patterns that have become one, or of two spans of windows."""
        return PredictionRecord(
            windows=self.windows + other.windows,
            volatility_sum=self.volatility_sum + other.volatility_sum,
            volatility_sum_sq=self.volatility_sum_sq + other.volatility_sum_sq,
            return_sum=self.return_sum + other.return_sum,
            return_sum_sq=self.return_sum_sq + other.return_sum_sq,
        )

    @property
    def mean_volatility_gain(self) -> float | None:
        """Mean gain a window; None where no window was scored."""
        return self.volatility_sum / self.windows if self.windows else None

    def fails(self, *, min_windows: int = MIN_SCORED_WINDOWS, level: float = DEMOTION_LEVEL) -> bool:
        """Whether the predictions are worse than the base rate: one-sided t test over windows at the given level."""
        if self.windows < max(min_windows, 2):
            return False
        mean = self.volatility_sum / self.windows
        if mean >= 0:
            return False
        variance = max(self.volatility_sum_sq - self.windows * mean**2, 0.0) / (self.windows - 1)
        # Equal losses in every window leave no variance: nothing speaks for the pattern then.
        bound = mean + float(stats.t.ppf(1 - level, self.windows - 1)) * math.sqrt(variance / self.windows)
        return bound < 0
