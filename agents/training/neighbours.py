"""As-of neighbours of many states at once: what a question of each state, at its own time, would have found."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_BLOCK = 512
"""States compared at once: with 50,000 memories 100 MB of cosines."""


def nearest_before(
    vectors: npt.NDArray[Any],
    asked_ms: Ints,
    memory_vectors: npt.NDArray[Any],
    decided_ms: Ints,
    known_ms: Ints,
    count: int,
    *,
    min_age_ms: int = 0,
    max_age_ms: int | None = None,
) -> tuple[Ints, Floats]:
    """The nearest memories of each state that were known when it asked. Exact.

    Parameters
    ----------
    vectors, asked_ms
        Unit vectors (n, d) and the times they ask at, milliseconds; in any order.
    memory_vectors, decided_ms, known_ms
        Unit vectors (m, d) of memories, sorted by decision time, their decision times, and when they were known.
    count
        Memories wanted a state.
    min_age_ms, max_age_ms
        Only memories decided before the asking time less the first, and not before it less the second.

    Returns
    -------
    Rows of the memories (n, count), nearest first, ties by row, -1 where there are no more; cosine distances, NaN
    there. Cost: some 25 microseconds a state and 1,000 memories of 256 dimensions on one thread.
    """
    rows = np.full((len(vectors), count), -1, dtype=np.int64)
    distances = np.full((len(vectors), count), np.nan)
    order = np.argsort(asked_ms, kind="stable")
    for begin in range(0, len(order), _BLOCK):
        block = order[begin : begin + _BLOCK]
        asked = asked_ms[block]
        until = int(np.searchsorted(decided_ms, asked[-1] - min_age_ms, side="left"))
        since = 0 if max_age_ms is None else int(np.searchsorted(decided_ms, asked[0] - max_age_ms, side="left"))
        if until <= since:
            continue
        decided, known = decided_ms[since:until], known_ms[since:until]
        cosines = vectors[block] @ memory_vectors[since:until].T
        unseen = (decided >= asked[:, None] - min_age_ms) | (known > asked[:, None])
        if max_age_ms is not None:
            unseen |= decided < asked[:, None] - max_age_ms
        cosines[unseen] = -np.inf
        best = _largest(cosines, count)
        found = np.take_along_axis(cosines, best, axis=1)
        there = np.isfinite(found)
        width = best.shape[1]
        rows[block, :width] = np.where(there, best + since, -1)
        distances[block, :width] = np.where(there, 1.0 - found.astype(np.float64), np.nan)
    return rows, distances


def _largest(values: npt.NDArray[Any], count: int) -> Ints:
    """Columns of the largest values a row, largest first, ties by column."""
    columns = values.shape[1]
    if columns > count:
        # Everything as large as the last one wanted is a candidate: the cut must not choose among equals.
        least = -np.partition(-values, count - 1, axis=1)[:, count - 1 : count]
        width = max(int((values >= least).sum(axis=1).max()), count)
        if width < columns:
            chosen = np.sort(np.argpartition(-values, width - 1, axis=1)[:, :width], axis=1)
        else:
            chosen = np.broadcast_to(np.arange(columns), values.shape)
    else:
        chosen = np.broadcast_to(np.arange(columns), values.shape)
    ranked = np.argsort(-np.take_along_axis(values, chosen, axis=1), axis=1, kind="stable")[:, :count]
    return np.asarray(np.take_along_axis(chosen, ranked, axis=1), dtype=np.int64)
