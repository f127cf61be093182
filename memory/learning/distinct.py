"""Distinct states in canonical order: what clustering works on.

Ten agents that act in the same minute share one state. Clustered as ten experiences, that minute would look like a
recurring pattern of its own, so experiences are collapsed to (product, decision time) first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memory.errors import InvalidRecordError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DistinctStates:
    """Which rows are which state.

    Attributes
    ----------
    first_row
        (states,) int64: for each distinct state, in canonical order, the first input row that shows it.
    state_of_row
        (rows,) int64: for each input row, the position of its state in canonical order.
    counts
        (states,) int64: how many input rows show each state.
    """

    first_row: IntArray
    state_of_row: IntArray
    counts: IntArray


def canonical_order(keys: Sequence[npt.ArrayLike]) -> IntArray:
    """Order of rows by their keys, the first key counting most; equal keys keep the input's order.

    The canonical order of states is that of (product id, timestamp): `canonical_order((products, timestamps_ms))`.
    Text is compared by code point, so the order does not depend on any locale.

    Parameters
    ----------
    keys
        One or more one-dimensional arrays of equal length.

    Returns
    -------
    (rows,) int64 positions; `rows[order]` is in canonical order. Cost: O(n log n).
    """
    columns = [np.asarray(column) for column in keys]
    if not columns or any(column.ndim != 1 or len(column) != len(columns[0]) for column in columns):
        shapes = [column.shape for column in columns]
        raise InvalidRecordError(
            f"keys have the shapes {shapes}.",
            remedy="Give one or more one-dimensional arrays of equal length, such as (product_ids, timestamps_ms).",
            field="keys",
        )
    return np.lexsort(tuple(reversed(columns))).astype(np.int64)


def distinct_states(product_ids: npt.ArrayLike, timestamps_ms: npt.ArrayLike) -> DistinctStates:
    """Collapse rows (experiences) to distinct states, sorted by (product id, timestamp).

    Parameters
    ----------
    product_ids
        (rows,) text.
    timestamps_ms
        (rows,) decision times in milliseconds since 1970.

    Returns
    -------
    `DistinctStates`. The states, their order and `counts` do not depend on the order of the rows; `first_row` names
    the earliest row of the given order. Cost: O(n log n).
    """
    products = np.asarray(product_ids)
    timestamps = np.asarray(timestamps_ms)
    order = canonical_order((products, timestamps))
    if not len(order):
        empty = np.zeros(0, dtype=np.int64)
        return DistinctStates(first_row=empty, state_of_row=empty.copy(), counts=empty.copy())
    sorted_products, sorted_timestamps = products[order], timestamps[order]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (sorted_products[1:] != sorted_products[:-1]) | (sorted_timestamps[1:] != sorted_timestamps[:-1])
    state_of_row = np.empty(len(order), dtype=np.int64)
    state_of_row[order] = np.cumsum(begins) - 1
    return DistinctStates(
        first_row=order[begins],
        state_of_row=state_of_row,
        counts=np.bincount(state_of_row).astype(np.int64),
    )


def bounded_copies(vectors: npt.NDArray[np.float32], max_copies: int) -> tuple[IntArray, IntArray]:
    """Which rows count where exact copies count only up to a bound, and which row each follows.

    Parameters
    ----------
    vectors
        (n, d) rows.
    max_copies
        Of more exact copies of one row, this many count, evenly spread over the order, which is that of time within a
        product.

    Returns
    -------
    (counted,) positions of the rows that count, ascending, and for each of the n rows the place among them of the one
    whose label it takes: itself where it counts, else the copy before it. Cost: O(n log n).
    """
    if not len(vectors):
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing.copy()
    group = _same_content(vectors)
    counts = np.bincount(group)
    if len(counts) == len(vectors):
        everyone = np.arange(len(vectors), dtype=np.int64)
        return everyone, everyone.copy()
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.empty(len(vectors), dtype=np.int64)
    rank[order] = np.arange(len(vectors)) - np.repeat(starts, counts)
    # Copy number r of c is counted where it begins a new one of max_copies equal stretches.
    count = counts[group]
    stretch = rank * max_copies // count
    counted = (count <= max_copies) | (rank == 0) | (stretch != (rank - 1) * max_copies // count)
    kept = np.flatnonzero(counted)
    position = np.empty(len(vectors), dtype=np.int64)
    position[kept] = np.arange(len(kept))
    in_order = order[counted[order]]
    follows = np.empty(len(vectors), dtype=np.int64)
    follows[order] = position[in_order[np.cumsum(counted[order]) - 1]]
    return kept.astype(np.int64), follows


_ROWS_AT_ONCE = 16_384


def _same_content(vectors: npt.NDArray[np.float32]) -> IntArray:
    """Number of each row's content; equal rows, and they alone, share one. O(n log n), 16 bytes a row beside them."""
    fingerprint = np.empty(len(vectors), dtype=np.uint64)
    # Any fixed odd multipliers do: rows of one fingerprint are compared in full.
    multiplier = np.random.default_rng(0).integers(0, 2**63, vectors.shape[1], dtype=np.uint64) * np.uint64(2)
    multiplier += np.uint64(1)
    for begin in range(0, len(vectors), _ROWS_AT_ONCE):
        part = slice(begin, begin + _ROWS_AT_ONCE)
        # Adding zero turns -0.0 into 0.0: equal vectors have equal bytes then.
        content = np.ascontiguousarray(vectors[part] + np.float32(0.0)).view(np.uint32).astype(np.uint64)
        fingerprint[part] = (content * multiplier).sum(axis=1)
    _, group, counts = np.unique(fingerprint, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(counts[group] > 1)
    if len(shared):
        rows = np.ascontiguousarray(vectors[shared] + np.float32(0.0)).view(np.dtype((np.void, vectors.shape[1] * 4)))
        _, within = np.unique(rows.ravel(), return_inverse=True)
        group = group.astype(np.int64)
        group[shared] = len(counts) + within
        _, group = np.unique(group, return_inverse=True)
    return group.astype(np.int64)
