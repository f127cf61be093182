"""The arrays that learning works on: the distinct states of a window, and the experiences lived through there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from memory.records import REGIMES

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ORIGIN_DTYPE = np.dtype("S32")
"""Of `StateTable.origin`: a memory id is 32 hex digits."""

TRAILING_VOLATILITY = "trailing_volatility"
"""Feature that holds the standard deviation of one-minute log returns over the trailing hour, as a fraction."""


@dataclass(frozen=True, slots=True)
class StateTable:
    """Distinct states of one encoder and source, in canonical order: sorted by product name, then time.

    Attributes
    ----------
    encoder_id, source
        What all the states have in common.
    feature_names
        Names of the columns of `features`.
    products
        Product ids, sorted; `product` holds indices into it.
    product, timestamp_ms, known_at_ms, recorded_at_ms
        int64, shape (n,): product, decision time, when the state's reward was known, server time of recording.
    vectors
        float32, shape (n, dimension), rows of length 1.
    features
        float64, shape (n, len(feature_names)); NaN where a state lacks the feature.
    price, spread
        float64, shape (n,), quote currency; NaN where unknown.
    regime
        int64, shape (n,), indices into `memory.records.REGIMES`.
    origin
        Bytes of 32 hex digits, shape (n,): the smallest memory id among a state's records. Vector, features, price,
        spread and regime are that record's, so that it does not matter in what order the records came. Empty texts,
        which stand before all ids, where that is not known; the default.
    """

    encoder_id: str
    source: str
    feature_names: tuple[str, ...]
    products: tuple[str, ...]
    product: Ints
    timestamp_ms: Ints
    known_at_ms: Ints
    recorded_at_ms: Ints
    vectors: npt.NDArray[np.float32]
    features: Floats
    price: Floats
    spread: Floats
    regime: Ints
    origin: npt.NDArray[np.bytes_] = field(default_factory=lambda: np.empty(0, dtype=ORIGIN_DTYPE))

    def __post_init__(self) -> None:
        if not len(self.origin):
            object.__setattr__(self, "origin", np.zeros(len(self.timestamp_ms), dtype=ORIGIN_DTYPE))

    def __len__(self) -> int:
        return len(self.timestamp_ms)

    def take(self, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> StateTable:
        """The table of some rows (indices or mask), in the given order."""
        return _take(self, rows)

    def feature(self, name: str) -> Floats:
        """Column of one feature, shape (n,); all NaN where the table has none of that name."""
        if name not in self.feature_names:
            return np.full(len(self), np.nan)
        return self.features[:, self.feature_names.index(name)]

    @property
    def regime_names(self) -> Sequence[str]:
        """Regime of each state, by name."""
        return [REGIMES[code] for code in self.regime]


@dataclass(frozen=True, slots=True)
class ExperienceTable:
    """Experiences of one encoder and source, sorted by agent, product, time, step and run.

    Attributes
    ----------
    agents, products, runs
        Ids, sorted; `agent`, `product` and `run` hold indices into them.
    agent, product, run, timestamp_ms, known_at_ms, recorded_at_ms, step, regime
        int64, shape (n,).
    side
        int64, shape (n,): 1 BUY, -1 SELL, 0 HOLD; `size` is the action's size.
    reward, gross_return, cost, position_before, position_after, size, confidence, quality
        float64, shape (n,); NaN where unknown. Returns and costs are fractions of notional.
    terminal
        bool, shape (n,).
    """

    encoder_id: str
    source: str
    agents: tuple[str, ...]
    products: tuple[str, ...]
    runs: tuple[str, ...]
    agent: Ints
    product: Ints
    run: Ints
    timestamp_ms: Ints
    known_at_ms: Ints
    recorded_at_ms: Ints
    step: Ints
    regime: Ints
    side: Ints
    size: Floats
    reward: Floats
    gross_return: Floats
    cost: Floats
    position_before: Floats
    position_after: Floats
    confidence: Floats
    quality: Floats
    terminal: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.timestamp_ms)

    def take(self, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> ExperienceTable:
        """The table of some rows (indices or mask), in the given order."""
        return _take(self, rows)


@dataclass(frozen=True, slots=True)
class WindowData:
    """What one window holds of one encoder and source: its distinct states and all its experiences."""

    states: StateTable
    experiences: ExperienceTable


_Table = TypeVar("_Table", StateTable, ExperienceTable)


def _take(table: _Table, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> _Table:
    columns: dict[str, Any] = {field.name: getattr(table, field.name) for field in fields(table)}
    taken: dict[str, Any] = {name: value[rows] for name, value in columns.items() if isinstance(value, np.ndarray)}
    return replace(table, **taken)
