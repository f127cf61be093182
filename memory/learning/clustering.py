"""Clustering of one partition's states: recurring kinds of state, and noise that stays noise.

HDBSCAN (Campello, Moulavi & Sander 2013; McInnes, Healy & Astels 2017) over mutual reachability distances, with four
things added that market states need:

* density that counts returns to a state at other times only (`memory.learning.spanning`);
* a bound on cluster size that keeps true large patterns (`memory.learning.caps`);
* clusters without their thin tails: a state that hangs on to a cluster at much less than its typical density is noise;
* exact copies that count only up to a bound, so that a frozen price feed makes no pattern of its own weight.

Clustering sees the states alone, never what is known from other nights: partitions and windows can be computed in any
order and again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Self

import hdbscan
import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClusterMixin
from threadpoolctl import threadpool_limits

from memory.errors import InvalidRecordError
from memory.learning.caps import CondensedTree, TakenCluster, take_clusters
from memory.learning.distinct import bounded_copies, canonical_order
from memory.learning.spanning import Recurrence, SpanningTree, exact_spanning_tree, graph_spanning_tree
from memory.learning.support import SEPARATION_MINUTES
from memory.records import UNIT_TOLERANCE

CLUSTERING_VERSION = "3"
"""Changes whenever the same states and settings may give other clusters."""
NOISE = -1
"""Label of states that belong to no cluster."""

LARGE_PARTITION = 25_000
"""Distinct states above which the least size of a cluster grows with the partition, as a share of it: ten of a million
states are a ripple of density. (64 planted patterns in 250,000 states came out as 377 clusters of at least ten states,
and as 64 of at least a hundred.)"""

ROUTE_EXACT = "exact"
ROUTE_GRAPH = "graph"
ROUTE_NONE = "none"
"""Too few distinct states for one cluster: all noise."""

IntArray = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


class MarketStateClusterer(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Find the recurring kinds of state in one partition.

    Parameters
    ----------
    min_cluster_size
        Fewest distinct states of a cluster; in a partition above `LARGE_PARTITION`, so many of each `LARGE_PARTITION`.
    min_samples
        Neighbours that define a state's density, itself not counted.
    min_recurrences
        Neighbours of other times that a state's density must reach to besides; used where `fit` is given timestamps.
        0 asks nothing of other times.
    recurrence_min
        Minutes from which on a neighbour is of another time.
    broad_share
        Share of the partition above which a cluster is divided into its sub-clusters, if they hold `held_share` of it.
    largest_share
        Share of the partition that no cluster exceeds.
    held_share
        Share that sub-clusters must hold to replace a cluster.
    keep_core
        Whether a cluster above `largest_share` without such sub-clusters is cut to its dense core; False drops it.
    tail_ratio
        A member whose density level is below the cluster's median level by more than this factor is noise.
    max_copies
        Exact copies of one vector that count; further ones follow them. None means `min_cluster_size`.
    exact_limit
        Up to this many distinct states all distances are computed (`exact` route); above, a neighbour graph (`graph`).
    n_neighbors
        Neighbours in the graph.
    n_threads
        Threads of BLAS and OpenMP during `fit`; fixed, because the last bits of sums depend on it.

    Attributes
    ----------
    labels_
        (n,) int64: 0 is the largest cluster, equal sizes in canonical order; -1 is noise.
    probabilities_
        (n,) float64 from 0 (noise) to 1: density level over that of the densest member, as in hdbscan.
    broad_
        (clusters,) bool: kept large, see `memory.learning.caps`. Its states are less alike than those of others.
    sizes_
        (clusters,) int64 states, copies included.
    n_clusters_, noise_share_
        Number of clusters; share of states that are noise (0 for an empty partition).
    route_
        `exact`, `graph` or `none`.
    n_distinct_
        Distinct vectors counted, copies bounded.
    min_cluster_size_
        Fewest distinct states that a cluster of this partition had to have.
    n_components_
        Parts that the neighbour graph fell into before they were joined; 1 on the exact route, 0 where nothing ran.

    Notes
    -----
    Deterministic: the labels depend on the states, their order and the settings. Give the canonical order (product,
    timestamp), or `keys` to have the rows sorted into it; then the order of the rows does not matter either.

    Defined answers: an empty partition has no labels; fewer distinct states than `min_cluster_size`, states that are
    all copies of one, and states without any inner difference in density are all noise: nothing sets a part of them
    apart from the partition itself. Near-duplicates are states like any other: rows that differ by who saw them only
    must be collapsed before (`memory.learning.distinct`).

    Cost: the exact route O(n^2 d) time and 8 n^2 bytes (4,320 states: about a second and 150 MB); the graph route about
    O(n sqrt(n) d).

    Examples
    --------
    >>> clusterer = MarketStateClusterer().fit(vectors, keys=(products, timestamps_ms), timestamps_ms=timestamps_ms)
    >>> clusterer.labels_, clusterer.broad_, clusterer.record()
    """

    def __init__(
        self,
        *,
        min_cluster_size: int = 10,
        min_samples: int = 5,
        min_recurrences: int = 1,
        recurrence_min: float = SEPARATION_MINUTES,
        broad_share: float = 0.05,
        largest_share: float = 0.20,
        held_share: float = 0.5,
        keep_core: bool = True,
        tail_ratio: float = 1.75,
        max_copies: int | None = None,
        exact_limit: int = 5_000,
        n_neighbors: int = 30,
        n_threads: int = 1,
    ) -> None:
        self.min_cluster_size = min_cluster_size
        self.min_samples = min_samples
        self.min_recurrences = min_recurrences
        self.recurrence_min = recurrence_min
        self.broad_share = broad_share
        self.largest_share = largest_share
        self.held_share = held_share
        self.keep_core = keep_core
        self.tail_ratio = tail_ratio
        self.max_copies = max_copies
        self.exact_limit = exact_limit
        self.n_neighbors = n_neighbors
        self.n_threads = n_threads

    def settings(self) -> dict[str, int | float | str]:
        """Everything that the labels depend on besides the states: for the ledger and the settings hash."""
        parameters = dict(sorted(self.get_params().items()))
        parameters["max_copies"] = self._copies()
        return {"clustering_version": CLUSTERING_VERSION, **parameters}

    def record(self) -> dict[str, int | float | str]:
        """What a fit did, for the ledger: route, counts, shares. Needs `fit`."""
        return {
            "route": self.route_,
            "states": len(self.labels_),
            "distinct_states": self.n_distinct_,
            "components": self.n_components_,
            "clusters": self.n_clusters_,
            "broad_clusters": int(self.broad_.sum()),
            "noise_share": self.noise_share_,
            "largest_share": float(self.sizes_.max() / len(self.labels_)) if self.n_clusters_ else 0.0,
        }

    def fit(
        self,
        X: npt.ArrayLike,
        y: None = None,
        *,
        keys: Sequence[npt.ArrayLike] | None = None,
        timestamps_ms: npt.ArrayLike | None = None,
    ) -> Self:
        """Cluster the states of one partition.

        Parameters
        ----------
        X
            (n, d) unit rows, float32; distinct states (see `memory.learning.distinct`).
        y
            Ignored; scikit-learn's convention.
        keys
            One-dimensional arrays of length n that name each state, most important first: (product_ids, timestamps_ms).
            Rows are sorted by them first and labels returned in the order given. Left out, X is in canonical order.
        timestamps_ms
            (n,) decision times in milliseconds since 1970. Left out, all neighbours count for density.

        Returns
        -------
        The fitted clusterer.

        Raises
        ------
        InvalidRecordError
            A ValueError that names the row: not finite, not of unit length; keys or timestamps of another length; the
            same key twice; a setting out of range.
        """
        del y
        self._check_settings()
        vectors = _checked_vectors(X)
        times = _checked_times(timestamps_ms, len(vectors))
        order = np.arange(len(vectors)) if keys is None else _checked_order(keys, len(vectors))
        # A million states are a gigabyte: they are copied only where their order or number changes.
        ordered = np.ascontiguousarray(vectors if keys is None else vectors[order])
        ordered_times = None if times is None else times[order]

        kept, follows = bounded_copies(ordered, self._copies())
        self.n_distinct_ = len(kept)
        self.min_cluster_size_ = max(self.min_cluster_size, round(self.min_cluster_size * len(kept) / LARGE_PARTITION))
        with threadpool_limits(limits=self.n_threads):
            counted = ordered if len(kept) == len(ordered) else ordered[kept]
            taken = self._clusters(counted, None if ordered_times is None else ordered_times[kept])
        labels, probabilities = _labels_of(taken, len(kept), self.tail_ratio, self.min_cluster_size_)
        labels, probabilities = labels[follows], probabilities[follows]

        sizes = np.bincount(labels[labels >= 0], minlength=len(taken)).astype(np.int64)
        first_member = [int(np.argmax(labels == cluster)) for cluster in range(len(taken))]
        ranking = np.lexsort((np.array(first_member, dtype=np.int64), -sizes))
        new_label = np.empty(len(taken) + 1, dtype=np.int64)
        new_label[ranking] = np.arange(len(taken))
        new_label[-1] = NOISE
        self.labels_ = np.empty(len(vectors), dtype=np.int64)
        self.labels_[order] = new_label[labels]
        self.probabilities_ = np.empty(len(vectors))
        self.probabilities_[order] = probabilities
        self.sizes_ = sizes[ranking]
        self.broad_ = np.array([cluster.broad for cluster in taken], dtype=bool)[ranking]
        self.n_clusters_ = len(taken)
        self.noise_share_ = float(np.mean(self.labels_ == NOISE)) if len(vectors) else 0.0
        self.n_features_in_ = vectors.shape[1]
        return self

    def _copies(self) -> int:
        return self.min_cluster_size if self.max_copies is None else self.max_copies

    def _clusters(self, vectors: Vectors, times: IntArray | None) -> list[TakenCluster]:
        n_states = len(vectors)
        if n_states < max(self.min_cluster_size_, self.min_samples + 1, self.min_recurrences + 1):
            self.route_, self.n_components_ = ROUTE_NONE, 0
            return []
        recurrence = None
        if times is not None and self.min_recurrences:
            recurrence = Recurrence(times, self.recurrence_min, self.min_recurrences)
        tree: SpanningTree
        if n_states <= self.exact_limit:
            self.route_ = ROUTE_EXACT
            tree = exact_spanning_tree(vectors, min_samples=self.min_samples, recurrence=recurrence)
        else:
            self.route_ = ROUTE_GRAPH
            tree = graph_spanning_tree(
                vectors,
                min_samples=self.min_samples,
                n_neighbors=self.n_neighbors,
                recurrence=recurrence,
            )
        self.n_components_ = tree.components
        # min_samples=1 on a spanning tree leaves its weights as they are.
        least = self.min_cluster_size_
        estimator = hdbscan.HDBSCAN(min_cluster_size=least, min_samples=1, metric="precomputed")
        with warnings.catch_warnings():
            # hdbscan calls scikit-learn by names that newer versions deprecate; nothing of ours is concerned.
            warnings.simplefilter("ignore", FutureWarning)
            estimator.fit(tree.matrix(n_states))
        rows = estimator.condensed_tree_.to_numpy()
        # In a small partition these shares would fall below the least size of a cluster, and nothing could be taken.
        broad_size = max(self.broad_share * n_states, _BROAD_FLOOR * least)
        largest_size = max(self.largest_share * n_states, _LARGEST_FLOOR * least)
        return take_clusters(
            CondensedTree(rows, n_states),
            broad_size=broad_size,
            largest_size=largest_size,
            held_share=self.held_share,
            keep_core=self.keep_core,
        )

    def _check_settings(self) -> None:
        checks: list[tuple[str, Any, bool, str]] = [
            ("min_cluster_size", self.min_cluster_size, self.min_cluster_size >= 2, "at least 2"),
            ("min_samples", self.min_samples, self.min_samples >= 1, "at least 1"),
            ("min_recurrences", self.min_recurrences, self.min_recurrences >= 0, "at least 0; 0 asks for none"),
            ("recurrence_min", self.recurrence_min, self.recurrence_min >= 0, "at least 0 minutes"),
            ("broad_share", self.broad_share, 0 < self.broad_share <= 1, "above 0 and at most 1"),
            (
                "largest_share",
                self.largest_share,
                self.broad_share <= self.largest_share <= 1,
                "at least broad_share and at most 1",
            ),
            ("held_share", self.held_share, 0 < self.held_share <= 1, "above 0 and at most 1"),
            ("tail_ratio", self.tail_ratio, self.tail_ratio >= 1, "at least 1; math.inf keeps all tails"),
            ("max_copies", self.max_copies, self._copies() >= 1, "at least 1"),
            ("n_neighbors", self.n_neighbors, self.n_neighbors >= self.min_samples, "at least min_samples"),
            ("n_threads", self.n_threads, self.n_threads >= 1, "at least 1"),
        ]
        for name, value, valid, remedy in checks:
            if not valid:
                raise InvalidRecordError(f"{name} is {value}.", remedy=f"Choose {remedy}.", field=name)


_BROAD_FLOOR = 3
_LARGEST_FLOOR = 6
"""Least bounds on cluster size, in units of the least cluster: a partition of 300 states could hold none otherwise."""


def _checked_vectors(X: npt.ArrayLike) -> Vectors:
    vectors = np.asarray(X, dtype=np.float32)
    if vectors.ndim == 1 and not vectors.size:
        return vectors.reshape(0, 0)
    if vectors.ndim != 2:
        raise InvalidRecordError(
            f"X has the shape {vectors.shape}.", remedy="Give one row a state: (n, dimension).", field="X"
        )
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= UNIT_TOLERANCE))
    if len(wrong):
        row = int(wrong[0])
        what = f"has the length {lengths[row]:g}" if math.isfinite(lengths[row]) else "is not finite"
        raise InvalidRecordError(
            f"row {row} of X {what} ({len(wrong)} such rows of {len(vectors)}).",
            remedy="Leave out states that are not finite or zero, and scale the others to unit length.",
            field="X",
        )
    return vectors


def _checked_times(timestamps_ms: npt.ArrayLike | None, n_states: int) -> IntArray | None:
    if timestamps_ms is None:
        return None
    times = np.asarray(timestamps_ms, dtype=np.int64)
    if times.shape != (n_states,):
        raise InvalidRecordError(
            f"timestamps_ms has the shape {times.shape}, X has {n_states} rows.",
            remedy="Give one decision time a state, in milliseconds since 1970.",
            field="timestamps_ms",
        )
    return times


def _checked_order(keys: Sequence[npt.ArrayLike], n_states: int) -> IntArray:
    columns = [np.asarray(column) for column in keys]
    order = canonical_order(columns)
    if len(order) != n_states:
        raise InvalidRecordError(
            f"keys name {len(order)} states, X has {n_states} rows.", remedy="Give one key a row.", field="keys"
        )
    same = np.ones(max(n_states - 1, 0), dtype=bool)
    for column in columns:
        same &= column[order][1:] == column[order][:-1]
    if same.any():
        first, second = (int(row) for row in order[int(np.argmax(same)) :][:2])
        raise InvalidRecordError(
            f"rows {first} and {second} have the same key.",
            remedy="Collapse experiences to distinct states first (memory.learning.distinct).",
            field="keys",
        )
    return order


def _labels_of(
    taken: list[TakenCluster], n_states: int, tail_ratio: float, min_cluster_size: int
) -> tuple[IntArray, npt.NDArray[np.float64]]:
    """Labels in order of the clusters given, and membership strengths; the tails of clusters are noise.

    A cluster keeps its densest `min_cluster_size` states whatever their levels.
    """
    labels = np.full(n_states, NOISE, dtype=np.int64)
    probabilities = np.zeros(n_states)
    for label, cluster in enumerate(taken):
        densest_first = np.lexsort((cluster.members, -cluster.levels))
        keep = cluster.levels >= np.median(cluster.levels) / tail_ratio
        keep[densest_first[:min_cluster_size]] = True
        labels[cluster.members[keep]] = label
        probabilities[cluster.members[keep]] = cluster.levels[keep] / cluster.levels.max()
    return labels, probabilities
