"""What a fold has to work with at one decision interval: its encoder, states, memory, and what memory answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from agents.candles import FloatArray, IntArray
from agents.encoder import StateEncoder, VectorArray
from agents.evaluation.folds import Fold
from agents.evaluation.grid import Grid, Minutes
from agents.evaluation.neighbours import NeighbourCache, Neighbours
from agents.evaluation.settings import EvaluationSettings
from agents.features import GAP_MINUTES, MINUTE_MS
from memory.errors import MarketDataError
from memory.records import to_ms

DAY_MS = 86_400_000
REACH = 16
"""Neighbours looked at for each that a policy sees: half of them are its own, half shared, in any order."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Which rows of a grid serve what; all int64.

    Attributes
    ----------
    memory
        Remembered states, in order of time.
    starts
        States that training transitions begin in; each is linked to its next decision.
    validation
        All states of the last days of the past, on which thresholds are chosen.
    test
        All states of the test span.
    """

    memory: IntArray
    starts: IntArray
    validation: IntArray
    test: IntArray


def choose_rows(grid: Grid, fold: Fold, settings: EvaluationSettings) -> Rows:
    """The rows of a fold: nothing but the test rows lies after what was known before it.

    Raises
    ------
    MarketDataError
        No state to remember, to train on or to test on.
    """
    last_ms = fold.last_training_ms(grid.interval_minutes)
    past = grid.between(to_ms(fold.start), last_ms + 1)
    by_time = past[np.argsort(grid.timestamp_ms[past], kind="stable")]
    least_ms = to_ms(fold.start) + int(settings.least_memory_days * DAY_MS)
    eligible = by_time[grid.linked[by_time] & (grid.timestamp_ms[by_time] >= least_ms)]
    validation_ms = last_ms - settings.validation_days * DAY_MS
    rows = Rows(
        memory=even_choice(by_time, settings.memory_states),
        starts=even_choice(eligible, settings.training_states),
        validation=grid.between(max(validation_ms, least_ms), last_ms + 1),
        test=grid.between(to_ms(fold.test_start), to_ms(fold.test_end)),
    )
    for name in ("memory", "starts", "validation", "test"):
        if not len(getattr(rows, name)):
            raise MarketDataError(
                f"fold {fold.name} has no {name} rows at decisions every {grid.interval_minutes} minutes.",
                remedy="Choose a longer past, a longer test span, or products that traded then.",
            )
    return rows


def even_choice(rows: IntArray, most: int) -> IntArray:
    """At most `most` of the rows, evenly spread, in their order."""
    if len(rows) <= most:
        return rows
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(np.int64))]


@dataclass(frozen=True, eq=False)
class Material:
    """A fold at one interval.

    Attributes
    ----------
    asked
        Rows that memory was asked for, sorted: training states, those that follow them, validation and test states.
    found
        What it answered, one row of `Neighbours` for each of `asked`; rows of `Neighbours` are positions in
        `rows.memory`.
    """

    fold: Fold
    settings: EvaluationSettings
    encoder: StateEncoder
    grid: Grid
    rows: Rows
    asked: IntArray
    found: Neighbours

    @property
    def interval_minutes(self) -> int:
        """Minutes from one decision to the next."""
        return self.grid.interval_minutes

    def places(self, rows: IntArray) -> IntArray:
        """Positions in `asked` of rows of the grid, each of which must be among them."""
        return np.searchsorted(self.asked, rows)

    def neighbours_of(self, rows: IntArray) -> Neighbours:
        """What memory answers for some rows of the grid."""
        place = self.places(rows)
        return Neighbours(self.found.rows[place], self.found.distances[place])

    @cached_property
    def memory_vectors(self) -> VectorArray:
        """Vectors of the remembered states, (m, 256)."""
        return self.grid.vectors(self.encoder, self.rows.memory)

    @cached_property
    def memory_targets(self) -> FloatArray:
        """What came of the remembered states, (m, H, 2)."""
        return self.grid.targets[self.rows.memory]

    @cached_property
    def permutation(self) -> IntArray:
        """A permutation of the remembered states within product and regime, (m,): the control of memory's content."""
        return permute_within(
            self.grid.product[self.rows.memory] * 1_000 + self.grid.regime[self.rows.memory],
            self.settings.permutation_seed,
        )


def prepare(
    minutes: Minutes,
    fold: Fold,
    encoder: StateEncoder,
    interval_minutes: int,
    settings: EvaluationSettings,
    cache: NeighbourCache,
    *,
    reference: bool = True,
) -> Material:
    """Choose a fold's rows and ask memory for all of them, each as of its own time.

    A state of the past sees what was known `embargo_minutes` before its UTC day; a test state what was known before the
    test span's embargo, however late in the span it lies.

    Parameters
    ----------
    reference
        Whether forecasts are judged at the interval: memory is then asked for the validation rows too, and for as many
        neighbours as forecasts average. Else for those that policies look at.
    """
    encoder.check_as_of(fold.known_until)
    grid = minutes.grid(interval_minutes, encoder)
    rows = choose_rows(grid, fold, settings)
    parts = [rows.starts, grid.following[rows.starts], rows.test, *([rows.validation] if reference else [])]
    asked = np.unique(np.concatenate(parts))
    memory = grid.vectors(encoder, rows.memory)
    known = grid.timestamp_ms[rows.memory] + max(settings.purge_minutes, interval_minutes + GAP_MINUTES) * MINUTE_MS
    found = cache.nearest(
        memory,
        known,
        grid.vectors(encoder, asked),
        cutoffs(grid.timestamp_ms[asked], fold),
        settings.neighbours if reference else REACH * settings.policy_memories,
        memory_group=grid.regime[rows.memory] if settings.same_regime else None,
        query_group=grid.regime[asked] if settings.same_regime else None,
    )
    return Material(fold, settings, encoder, grid, rows, asked, found)


def cutoffs(timestamp_ms: IntArray, fold: Fold) -> IntArray:
    """Until when memories of each decision time are known, (n,)."""
    day = timestamp_ms // DAY_MS * DAY_MS
    return np.minimum(day - fold.embargo_minutes * MINUTE_MS, fold.known_until_ms)


def permute_within(groups: IntArray, seed: int) -> IntArray:
    """A random permutation that keeps every row within its group, (n,)."""
    generator = np.random.Generator(np.random.PCG64(seed))
    out = np.arange(len(groups))
    for group in np.unique(groups).tolist():
        members = np.flatnonzero(groups == group)
        out[members] = members[generator.permutation(len(members))]
    return out
