"""What the tasks of a window read of its archive: the columns and rows that they need, and no more.

A state's vector takes ten times the room of all else that is known of it, so that the vectors of a whole window are
nowhere held at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from typing import Any

import msgspec
import numpy as np

from memory.learning.outcomes import Outcomes, compute_outcomes
from memory.learning.partitions import partition_by_regime
from memory.learning.regime_memory import RegimeSummary, summarise_regimes
from memory.learning.settings import LearningSettings
from memory.learning.transition_matrices import ALL_PRODUCTS
from memory.ledger import Archive, ArchivedTable, ArchiveReference
from memory.records import REGIMES
from memory.tables import TRAILING_VOLATILITY, ExperienceTable, Floats, StateTable
from memory.window import Window

VECTORS = "vectors"
"""Name of the column of vectors, as `Archive.states` takes it."""
ROWS_AT_ONCE = 16_384
"""Vectors summed at a time: those of a row group of the archive, 16 MiB of 256 dimensions, and as float64 32 MiB."""


def partitions_of(states: StateTable) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    """Partition (regime or MIXED) of each state of a window's table; see `assign_partitions`."""
    counts = np.bincount(states.regime, minlength=len(REGIMES))
    partition_of = partition_by_regime(dict(zip(REGIMES, counts.tolist(), strict=True)))
    return np.array([partition_of[regime] for regime in REGIMES], dtype=np.str_)[states.regime]


def read_partition(
    archive: Archive, reference: ArchiveReference, regime: str, settings: LearningSettings
) -> tuple[StateTable, Outcomes]:
    """The states of one partition (a regime or MIXED), whole, and what followed them.

    What followed a state is taken from all states of the window: a forward return may end in another regime.
    Memory: that of the partition, about 100 bytes a state of the window, and for a moment 300 more.
    """
    with archive.opened_states(reference) as table:
        window = table.states(columns=(TRAILING_VOLATILITY,))
        rows = np.flatnonzero(partitions_of(window) == regime)
        outcomes = compute_outcomes(window, settings).take(rows)
        del window
        return table.states(rows=rows), outcomes


class PartReader:
    """Tables of one encoder and source of a window without the vectors; what was read last is kept."""

    def __init__(self, archive: Archive, reference: ArchiveReference) -> None:
        self.archive = archive
        self.reference = reference
        self._states: StateTable | None = None
        self._experiences: ExperienceTable | None = None

    def states(self) -> StateTable:
        """All states, without vectors and features."""
        self._experiences = None
        if self._states is None:
            self._states = self.archive.states(self.reference, columns=())
        return self._states

    def experiences(self) -> ExperienceTable:
        """All experiences."""
        self._states = None
        if self._experiences is None:
            self._experiences = self.archive.experiences(self.reference)
        return self._experiences


def summarise_regimes_of(reader: PartReader, window: Window, settings: LearningSettings) -> RegimeSummary:
    """`summarise_regimes` of all states, bit for bit, without holding more than `ROWS_AT_ONCE` vectors."""
    with reader.archive.opened_states(reader.reference) as table:
        states = table.states(columns=table.feature_names)
        summary = summarise_regimes(states, window, settings)
        sums: dict[tuple[str, int], Floats] = {}
        for begin in range(0, len(states), ROWS_AT_ONCE):
            rows = np.arange(begin, min(begin + ROWS_AT_ONCE, len(states)))
            vectors = table.states(columns=(VECTORS,), rows=rows).vectors
            product, regime = states.product[rows], states.regime[rows]
            for code in np.unique(regime).tolist():
                own = regime == code
                _add(sums, (ALL_PRODUCTS, code), vectors[own])
                for number in np.unique(product[own]).tolist():
                    _add(sums, (states.products[number], code), vectors[own & (product == number)])
    cells = tuple(msgspec.structs.replace(cell, vector_sum=sums[cell.product, cell.regime]) for cell in summary.cells)
    return msgspec.structs.replace(summary, cells=cells)


def joined_states(
    references: Sequence[ArchiveReference],
    opened: Callable[[ArchiveReference], AbstractContextManager[ArchivedTable]],
) -> StateTable | None:
    """States of several windows as one table, as `scorecard.remembered_states` joins them; None without states.

    Parameters
    ----------
    references
        Archives of one encoder and source, in time order of their windows.
    opened
        Opens one, such as `Archive.opened_states`.

    Memory: that of the result, and of one window; joining whole tables takes three times as much.
    """
    keys = []
    for reference in references:
        with opened(reference) as table:
            if table.rows:
                keys.append((reference, table.feature_names, table.states(columns=())))
    if not keys:
        return None
    products = tuple(sorted({product for _, _, states in keys for product in states.products}))
    names = tuple(name for name in keys[0][1] if all(name in own for _, own, _ in keys))
    code_of = {name: code for code, name in enumerate(products)}
    product = np.concatenate(
        [np.array([code_of[name] for name in own.products], dtype=np.int64)[own.product] for _, _, own in keys]
    )
    order = np.lexsort((np.concatenate([states.timestamp_ms for _, _, states in keys]), product))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    joined: StateTable | None = None
    begin = 0
    for reference, _, _ in keys:
        with opened(reference) as table:
            states = table.states(columns=(*names, VECTORS))
        if joined is None:
            joined = _empty_like(states, len(order), products, names)
        rows = place[begin : begin + len(states)]
        for column in fields(states):
            values = getattr(states, column.name)
            if isinstance(values, np.ndarray) and column.name not in ("product", "features"):
                getattr(joined, column.name)[rows] = values
        joined.features[rows] = states.features[:, [states.feature_names.index(name) for name in names]]
        begin += len(states)
    assert joined is not None  # there are keys
    joined.product[:] = product[order]
    return joined


def _empty_like(table: StateTable, n_states: int, products: tuple[str, ...], names: tuple[str, ...]) -> StateTable:
    """A table with room for so many states, of the kind of another one."""
    columns: dict[str, Any] = {
        column.name: np.zeros((n_states, *getattr(table, column.name).shape[1:]), getattr(table, column.name).dtype)
        for column in fields(table)
        if isinstance(getattr(table, column.name), np.ndarray)
    }
    columns["features"] = np.zeros((n_states, len(names)))
    return replace(table, products=products, feature_names=names, **columns)


def _add(
    sums: dict[tuple[str, int], Floats],
    key: tuple[str, int],
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> None:
    """Add rows to a sum, one after the other: where they are cut into pieces must not show in the last bits."""
    rows = vectors.astype(np.float64)
    if key in sums:
        rows = np.concatenate([sums[key][None], rows])
    sums[key] = rows.sum(axis=0)
