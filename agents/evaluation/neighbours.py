"""What memory answers as of each time: the nearest remembered states of many states at once, cached on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agents.candles import IntArray
from agents.encoder import VectorArray
from memory.errors import InvalidQueryError

NOTHING = -1
"""Row of a neighbour that there is not."""
_QUERIES_AT_ONCE = 512
"""Rows of the similarity matrix that are held at once: 60 MB over a memory of 30,000."""
_BLOCK = 32
"""Columns whose largest similarity bounds how many of them can be among the nearest."""


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """The nearest remembered states of n queries, nearest first; equal ones in the memory's order.

    Attributes
    ----------
    rows
        int32 (n, k): rows of the memory; `NOTHING` where fewer were known.
    distances
        float32 (n, k): 1 - cosine; infinite where there is nothing.
    """

    rows: npt.NDArray[np.int32]
    distances: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    def among(self, chosen: npt.NDArray[np.bool_], count: int) -> Neighbours:
        """The nearest `count` of each query among some rows of the memory, a mask over it."""
        found = self.rows >= 0
        wanted = found & chosen[np.maximum(self.rows, 0)]
        order = np.argsort(~wanted, axis=1, kind="stable")[:, :count]
        kept = np.take_along_axis(wanted, order, axis=1)
        rows = np.where(kept, np.take_along_axis(self.rows, order, axis=1), NOTHING)
        distances = np.where(kept, np.take_along_axis(self.distances, order, axis=1), np.inf)
        return Neighbours(rows.astype(np.int32), distances.astype(np.float32))


def nearest_as_of(
    memory: VectorArray,
    known_ms: IntArray,
    queries: VectorArray,
    cutoff_ms: IntArray,
    count: int,
    *,
    memory_group: IntArray | None = None,
    query_group: IntArray | None = None,
) -> Neighbours:
    """The `count` nearest remembered states of each query that were known by its cutoff; exact.

    Parameters
    ----------
    memory
        Unit vectors (m, d) in order of `known_ms`.
    known_ms
        When each was known, not decreasing, (m,).
    queries
        Unit vectors (n, d), in any order.
    cutoff_ms
        Only memories with known_ms <= cutoff_ms are looked at, (n,).
    count
        Neighbours of each.
    memory_group, query_group
        Where given, only memories of the query's own group are looked at, (m,) and (n,).

    Notes
    -----
    Cost: O(n m d), on one core some 70 billion multiply-adds in two seconds; nothing is approximated.
    """
    if len(known_ms) != len(memory) or len(cutoff_ms) != len(queries):
        raise InvalidQueryError(
            f"{len(memory)} memories have {len(known_ms)} times, and {len(queries)} queries {len(cutoff_ms)} cutoffs.",
            remedy="Give one time for each.",
            argument="known_ms",
        )
    if (np.diff(known_ms) < 0).any():
        raise InvalidQueryError(
            "the memory is not in order of time.", remedy="Sort it by known_ms.", argument="known_ms"
        )
    rows = np.full((len(queries), count), NOTHING, np.int32)
    distances = np.full((len(queries), count), np.inf, np.float32)
    known = np.searchsorted(known_ms, cutoff_ms, side="right")
    order = np.argsort(known, kind="stable")
    for start in range(0, len(order), _QUERIES_AT_ONCE):
        some = order[start : start + _QUERIES_AT_ONCE]
        width = int(known[some[-1]])
        if not width:
            continue
        similarity = queries[some] @ memory[:width].T
        if known[some[0]] < width:
            similarity[np.arange(width)[None, :] >= known[some][:, None]] = -np.inf
        if memory_group is not None and query_group is not None:
            similarity[memory_group[None, :width] != query_group[some][:, None]] = -np.inf
        taken = min(count, width)
        nearest, closeness = _largest(similarity, taken)
        missing = np.isneginf(closeness)
        rows[some, :taken] = np.where(missing, NOTHING, nearest)
        distances[some, :taken] = np.where(missing, np.inf, np.maximum(1.0 - closeness, 0.0))
    return Neighbours(rows, distances)


def _largest(similarity: VectorArray, count: int) -> tuple[npt.NDArray[np.int32], VectorArray]:
    """Columns of the `count` largest of each row and their values, largest first, equal ones by column.

    A row's `count`-th largest block maximum bounds the `count`-th largest value from below: only what reaches it is
    sorted.
    """
    n, width = similarity.shape
    blocks = width // _BLOCK
    columns = np.empty((n, count), np.int32)
    values = np.empty((n, count), np.float32)
    if blocks > 2 * count:
        maxima = similarity[:, : blocks * _BLOCK].reshape(n, blocks, _BLOCK).max(axis=2)
        bound = np.partition(maxima, blocks - count, axis=1)[:, blocks - count]
    else:
        bound = np.full(n, -np.inf, np.float32)
    for row in range(n):
        line = similarity[row]
        reached = np.flatnonzero(line >= bound[row])
        best = reached[np.argsort(-line[reached], kind="stable")[:count]]
        columns[row], values[row] = best, line[best]
    return columns, values


class NeighbourCache:
    """Neighbours on disk under the hash of all that they follow from: computed once, found again by a retry.

    Parameters
    ----------
    folder
        Where the files lie; made when needed. None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def nearest(
        self,
        memory: VectorArray,
        known_ms: IntArray,
        queries: VectorArray,
        cutoff_ms: IntArray,
        count: int,
        *,
        memory_group: IntArray | None = None,
        query_group: IntArray | None = None,
    ) -> Neighbours:
        """As `nearest_as_of`; read from the cache where it is there and whole, else computed and kept."""

        def computed() -> Neighbours:
            return nearest_as_of(
                memory, known_ms, queries, cutoff_ms, count, memory_group=memory_group, query_group=query_group
            )

        if self.folder is None:
            return computed()
        digest = hashlib.blake2b(f"neighbours-1 {count}".encode(), digest_size=16)
        for array in (memory, known_ms, queries, cutoff_ms, memory_group, query_group):
            digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        path = self.folder / f"neighbours-{digest.hexdigest()}.npz"
        if path.exists():
            with np.load(path, allow_pickle=False) as held:
                return Neighbours(held["rows"], held["distances"])
        found = computed()
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".part", dir=self.folder)
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, rows=found.rows, distances=found.distances)
            # A reader sees a whole file or none.
            Path(unfinished).replace(path)
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise
        return found
