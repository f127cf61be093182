"""Minimum spanning tree of the mutual reachability distances: where HDBSCAN's hierarchy comes from.

Two routes, by size. *exact*: all distances, in float64, and Prim's algorithm. *graph*: a k-nearest-neighbour graph
(`neighbour_search`), its components joined. Both give the tree's edges, from which `hdbscan` builds the condensed tree.

The core distance of a state is that of its `min_samples`-th nearest state, and where times are known at least that of
its `min_recurrences`-th nearest state that is `recurrence_min` minutes or more away (a Theiler window: J. Theiler,
Phys. Rev. A 34, 2427, 1986). Features with a look-back of hours move slowly, so that a state's nearest states are the
minutes beside it; without the window, density measures how slowly the market moved, and clusters are single stretches
of time. With it, density measures how near the market came back.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from memory.learning.neighbour_search import NeighbourSearch

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

SMALLEST_DISTANCE = 1e-12
"""What exact copies are lifted to: a sparse matrix reads an explicit zero as "no edge"."""
_MS_PER_MINUTE = 60_000
_CHUNK_ROWS = 512
_EDGES_AT_ONCE = 6_000_000
"""Edges of one graph; a batch of them takes about 400 MB while its forest is found."""
_RECURRENCE_NEIGHBOURS = 512
"""How far the graph looks for states of other times: past the minutes around a state, of several products."""
_LISTED_NEIGHBOURS = 128
"""How far it looks at first where the search is not exact; states of other times are asked for by themselves there."""
_BIN_MS = 15 * _MS_PER_MINUTE
"""States that are asked for together: those of other times than the whole bin count for all of its states."""


@dataclass(frozen=True, slots=True)
class Recurrence:
    """What density asks of other times.

    Attributes
    ----------
    timestamps_ms
        (n,) decision times.
    apart_min
        Minutes from which on another state is of another time.
    count
        States of other times that the core distance reaches to.
    """

    timestamps_ms: IntArray
    apart_min: float
    count: int

    def apart(self, first: IntArray, second: IntArray) -> npt.NDArray[np.bool_]:
        """Whether states are of different times; positions broadcast."""
        distance_ms = np.abs(self.timestamps_ms[first] - self.timestamps_ms[second])
        apart: npt.NDArray[np.bool_] = distance_ms >= self.apart_min * _MS_PER_MINUTE
        return apart

    def apart_from_all(self, positions: IntArray) -> npt.NDArray[np.bool_]:
        """(n,) whether each state is before or after the time of all the states named."""
        times, gap_ms = self.timestamps_ms, self.apart_min * _MS_PER_MINUTE
        first, last = int(times[positions].min()), int(times[positions].max())
        apart: npt.NDArray[np.bool_] = (times <= first - gap_ms) | (times >= last + gap_ms)
        return apart


@dataclass(frozen=True, slots=True)
class SpanningTree:
    """Edges of a minimum spanning tree over n states.

    Attributes
    ----------
    first, second
        (n - 1,) int64 end points.
    weight
        (n - 1,) float64 mutual reachability distances, at least `SMALLEST_DISTANCE`.
    components
        Parts that the graph fell into before they were joined; 1 on the exact route.
    """

    first: IntArray
    second: IntArray
    weight: FloatArray
    components: int

    def matrix(self, n_states: int) -> csr_matrix:
        """The tree as a symmetric sparse matrix, as `hdbscan.HDBSCAN(metric="precomputed")` takes it."""
        rows = np.concatenate([self.first, self.second])
        columns = np.concatenate([self.second, self.first])
        weights = np.concatenate([self.weight, self.weight])
        return csr_matrix((weights, (rows, columns)), shape=(n_states, n_states))


def exact_spanning_tree(vectors: Vectors, *, min_samples: int, recurrence: Recurrence | None) -> SpanningTree:
    """Minimum spanning tree from all distances.

    Parameters
    ----------
    vectors
        (n, d) unit rows, n > min_samples.
    min_samples
        Neighbours, the state itself not counted, that define the core distance.
    recurrence
        What density asks of other times; None where times are unknown or of no concern.

    Returns
    -------
    `SpanningTree`. Cost: O(n^2 d) time, 8 n^2 bytes.
    """
    reachability, core = _distances(vectors, min_samples, recurrence)
    np.maximum(reachability, core[:, None], out=reachability)
    np.maximum(reachability, core[None, :], out=reachability)
    return _prim(reachability)


def graph_spanning_tree(
    vectors: Vectors, *, min_samples: int, n_neighbors: int, recurrence: Recurrence | None
) -> SpanningTree:
    """Minimum spanning tree of a k-nearest-neighbour graph.

    Parameters
    ----------
    vectors, min_samples, recurrence
        See `exact_spanning_tree`.
    n_neighbors
        Neighbours a state is linked to; where times are known, also to as many of other times as the search shows.

    Returns
    -------
    `SpanningTree`. Where too few states of other times are among the `_RECURRENCE_NEIGHBOURS` nearest, the core
    distance is that of the furthest one seen, which is a lower bound; above 25,000 states they are looked for among all
    that are near, however many minutes around a state are nearer. Cost: O(n^2 d) up to 25,000 states, O(n sqrt(n) d)
    above. Memory: the search's copy of the vectors (half precision above 25,000 states: 2 n d bytes) and at most 32 k n
    bytes of neighbours, 16 a pair; a million states of 256 dimensions and 30 neighbours take 0.5 and 1 GB beside their
    own 1 GB.
    """
    n_states = len(vectors)
    wanted = min(n_states - 1, max(n_neighbors, min_samples))
    search = NeighbourSearch(vectors)
    searched = wanted
    if recurrence:
        searched = min(n_states - 1, _RECURRENCE_NEIGHBOURS if search.is_exact else max(_LISTED_NEIGHBOURS, wanted))
    core = np.empty(n_states)
    lists: list[_Links] = []
    lacking, alone = np.zeros(n_states, dtype=np.bool_), np.zeros(n_states, dtype=np.bool_)
    for begin in range(0, n_states, _CHUNK_ROWS):
        rows = np.arange(begin, min(begin + _CHUNK_ROWS, n_states))
        found = search.nearest(rows, searched + 1)
        source, target = np.repeat(rows, found.shape[1]), found.ravel()
        # An inverted file pads short answers with -1; a state is no neighbour of itself.
        usable = ((target >= 0) & (target != source)).reshape(found.shape)
        far = usable
        if recurrence:
            far = usable & recurrence.apart(source, target).reshape(found.shape)
        kept = (usable & (np.cumsum(usable, axis=1) <= wanted)) | (far & (np.cumsum(far, axis=1) <= wanted))
        # The furthest one seen stands in for a core distance that the lists do not reach.
        furthest = usable & (np.cumsum(usable, axis=1) == usable.sum(axis=1, keepdims=True))
        distance = np.full(found.shape, np.nan)
        needed = kept | furthest
        flat = needed.ravel()
        distance[needed] = _exact_distances(vectors, source[flat], target[flat])
        core[rows] = _core_from_lists(distance, usable & kept, furthest, min_samples)
        if recurrence:
            returned = _core_from_lists(distance, far & kept, furthest, recurrence.count)
            core[rows] = np.maximum(core[rows], returned)
            others = far.sum(axis=1)
            lacking[rows], alone[rows] = others < wanted, others < recurrence.count
        flat = kept.ravel()
        lists.append(_Links(source[flat].astype(np.int32), target[flat].astype(np.int32), distance[kept]))
    if recurrence and not search.is_exact:
        lists += _links_to_other_times(vectors, search, np.flatnonzero(lacking), recurrence, wanted, core, alone)
    # The search is over: its copy of the vectors is not needed beside the trees.
    del search
    return _tree_of_graph(vectors, core, lists)


def _links_to_other_times(
    vectors: Vectors,
    search: NeighbourSearch,
    rows: IntArray,
    recurrence: Recurrence,
    wanted: int,
    core: FloatArray,
    alone: npt.NDArray[np.bool_],
) -> list[_Links]:
    """Nearest states of other times of the rows that have too few of them among their nearest, found by themselves.

    The core distances of those that have less than density asks for (`alone`) are raised to theirs. States are asked
    for by bins of time: those that are of another time than all of a bin.
    """
    lists: list[_Links] = []
    bins = recurrence.timestamps_ms[rows] // _BIN_MS
    for number in np.unique(bins).tolist():
        own = rows[bins == number]
        allowed = recurrence.apart_from_all(own)
        for begin in range(0, len(own), _CHUNK_ROWS):
            some = own[begin : begin + _CHUNK_ROWS]
            found = search.nearest_among(some, allowed, wanted)
            usable = (found >= 0).ravel()
            source, target = np.repeat(some, wanted)[usable], found.ravel()[usable]
            length = np.full(found.shape, np.inf)
            length.ravel()[usable] = _exact_distances(vectors, source, target)
            column = min(recurrence.count, wanted) - 1
            returned = np.partition(length, column, axis=1)[:, column]
            # What is nearest of other times lies beyond all that was seen of these, their cores so far.
            raised = alone[some] & np.isfinite(returned)
            core[some[raised]] = np.maximum(core[some[raised]], returned[raised])
            lists.append(_Links(source.astype(np.int32), target.astype(np.int32), length.ravel()[usable]))
    return lists


@dataclass(frozen=True, slots=True)
class _Links:
    """Pairs of neighbours and their distances: 16 bytes a pair, since millions of them are held at once."""

    first: npt.NDArray[np.int32]
    second: npt.NDArray[np.int32]
    length: FloatArray

    def __len__(self) -> int:
        return len(self.first)


def _distances(vectors: Vectors, min_samples: int, recurrence: Recurrence | None) -> tuple[FloatArray, FloatArray]:
    """All distances and the core distances. A state that never recurs takes the largest distance as its core."""
    rows = vectors.astype(np.float64)
    # By way of the dot product, as float32 near-duplicates would lose all digits; float64 keeps 1e-8.
    squares = np.einsum("ij,ij->i", rows, rows)
    distances = rows @ rows.T
    distances *= -2.0
    distances += squares[:, None]
    distances += squares[None, :]
    np.maximum(distances, 0.0, out=distances)
    np.sqrt(distances, out=distances)
    np.fill_diagonal(distances, 0.0)
    core = np.empty(len(rows))
    everyone = np.arange(len(rows))
    for begin in range(0, len(rows), _CHUNK_ROWS):
        chunk_rows = everyone[begin : begin + _CHUNK_ROWS]
        chunk = distances[chunk_rows]
        chunk[chunk_rows - begin, chunk_rows] = np.inf
        core[chunk_rows] = np.partition(chunk, min_samples - 1, axis=1)[:, min_samples - 1]
        if recurrence:
            chunk[~recurrence.apart(chunk_rows[:, None], everyone[None, :])] = np.inf
            returned = np.partition(chunk, recurrence.count - 1, axis=1)[:, recurrence.count - 1]
            core[chunk_rows] = np.maximum(core[chunk_rows], returned)
    core[~np.isfinite(core)] = distances.max()
    return distances, core


def _prim(reachability: FloatArray) -> SpanningTree:
    """Prim's algorithm on a dense matrix: O(n^2), ties to the lower position."""
    n_states = len(reachability)
    nearest = np.full(n_states, np.inf)
    parent = np.zeros(n_states, dtype=np.int64)
    outside = np.ones(n_states, dtype=bool)
    second = np.empty(n_states - 1, dtype=np.int64)
    weight = np.empty(n_states - 1)
    current = 0
    for edge in range(n_states - 1):
        outside[current] = False
        nearest[current] = np.inf
        row = reachability[current]
        closer = outside & (row < nearest)
        nearest[closer] = row[closer]
        parent[closer] = current
        current = int(np.argmin(nearest))
        second[edge] = current
        weight[edge] = nearest[current]
    return SpanningTree(first=parent[second], second=second, weight=np.maximum(weight, SMALLEST_DISTANCE), components=1)


def _exact_distances(vectors: Vectors, first: IntArray, second: IntArray) -> FloatArray:
    """Distances of pairs from their differences in float64, in slices that fit the cache."""
    distances = np.empty(len(first))
    slice_rows = 1 << 16
    for begin in range(0, len(first), slice_rows):
        part = slice(begin, begin + slice_rows)
        difference = vectors[first[part]].astype(np.float64)
        difference -= vectors[second[part]]
        distances[part] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    return distances


def _core_from_lists(
    distance: FloatArray, counting: npt.NDArray[np.bool_], furthest: npt.NDArray[np.bool_], count: int
) -> FloatArray:
    counted = np.where(counting, distance, np.inf)
    column = min(count, counted.shape[1]) - 1
    core = np.partition(counted, column, axis=1)[:, column]
    fallback = np.where(furthest, distance, 0.0).max(axis=1)
    return np.where(np.isfinite(core), core, fallback)


def _tree_of_graph(vectors: Vectors, core: FloatArray, lists: list[_Links]) -> SpanningTree:
    """Spanning tree of the neighbour lists, which are emptied batch by batch.

    A minimum spanning forest of all edges lies within the union of those of its parts, so that each batch is reduced
    to a forest together with what the batches before it left: the lists of a million states never stand in one graph.
    """
    n_states = len(vectors)
    nothing = np.zeros(0, dtype=np.int64)
    forest = (nothing, nothing.copy(), np.zeros(0))
    batch: list[_Links] = []
    held = 0
    # From the end, so that a list can be given up as soon as it is used.
    lists.reverse()
    while lists:
        batch.append(lists.pop())
        held += len(batch[-1])
        if held >= _EDGES_AT_ONCE or not lists:
            forest = _forest(n_states, core, batch, forest)
            batch, held = [], 0
    first, second, weight = forest
    n_components, component = connected_components(
        coo_matrix((weight, (first, second)), shape=(n_states, n_states)), directed=False
    )
    if n_components > 1:
        bridges = _join_components(vectors, component, n_components)
        length = _exact_distances(vectors, bridges[0], bridges[1])
        length = np.maximum(length, np.maximum(core[bridges[0]], core[bridges[1]]))
        first, second = np.concatenate([first, bridges[0]]), np.concatenate([second, bridges[1]])
        weight = np.concatenate([weight, np.maximum(length, SMALLEST_DISTANCE)])
    return SpanningTree(first=first, second=second, weight=weight, components=int(n_components))


def _forest(
    n_states: int, core: FloatArray, batch: list[_Links], before: tuple[IntArray, IntArray, FloatArray]
) -> tuple[IntArray, IntArray, FloatArray]:
    """Minimum spanning forest of some neighbour lists and of the forest before them."""
    first = np.concatenate([links.first for links in batch])
    second = np.concatenate([links.second for links in batch])
    weight = np.concatenate([links.length for links in batch])
    np.maximum(weight, core[first], out=weight)
    np.maximum(weight, core[second], out=weight)
    np.maximum(weight, SMALLEST_DISTANCE, out=weight)
    # A pair that is in both lists, or in the forest already, has one weight: any of its edges will do.
    pair = np.concatenate([before[0], np.minimum(first, second)]) * np.int64(n_states)
    pair += np.concatenate([before[1], np.maximum(first, second)])
    weight = np.concatenate([before[2], weight])
    del first, second
    pair, once = np.unique(pair, return_index=True)
    low, high = np.divmod(pair, np.int64(n_states))
    graph = coo_matrix(
        (weight[once], (low.astype(np.int32), high.astype(np.int32))), shape=(n_states, n_states)
    ).tocsr()
    tree = minimum_spanning_tree(graph).tocoo()
    ends = tree.row.astype(np.int64), tree.col.astype(np.int64)
    return np.minimum(*ends), np.maximum(*ends), tree.data.astype(np.float64)


def _join_components(
    vectors: Vectors, component: npt.NDArray[np.int32], n_components: int
) -> tuple[IntArray, IntArray]:
    """Edges that join the components along the minimum spanning tree of their centres.

    Each joins the member nearest to the other's centre on either side: components of a neighbour graph are far apart
    beside what holds them together, so that the exact pair of members does not matter to the hierarchy.
    """
    order = np.argsort(component, kind="stable")
    bounds = np.searchsorted(component[order], np.arange(n_components + 1))
    members = [order[start:end] for start, end in itertools.pairwise(bounds)]
    centres = np.array([vectors[rows].mean(axis=0, dtype=np.float64) for rows in members])
    squares = np.einsum("ij,ij->i", centres, centres)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2.0 * centres @ centres.T, 0.0))
    tree = _prim(distances)
    ends: tuple[list[int], list[int]] = ([], [])
    for pair in zip(tree.first, tree.second, strict=True):
        for side in (0, 1):
            rows, target = members[pair[side]], centres[pair[1 - side]]
            # On the sphere the nearest to a centre has the largest dot product with it.
            ends[side].append(int(rows[np.argmax(vectors[rows] @ target)]))
    return np.array(ends[0], dtype=np.int64), np.array(ends[1], dtype=np.int64)
