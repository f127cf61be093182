"""Which clusters of HDBSCAN's hierarchy are taken: excess of mass, bounded in size.

Market states have no clean islands. Plain excess of mass then flips from night to night between one cluster of nearly
everything and many small ones. A bound on size steadies it, but a blunt bound turns a true large pattern into noise.
The rule here, for a cluster that excess of mass (Campello, Moulavi & Sander 2013) selects:

1. Up to `broad_size` states (5 % of the partition) it is taken as it is.
2. Above, it is replaced by its sub-clusters, themselves bounded, where they hold at least `held_share` (half) of it.
3. Otherwise, up to `largest_size` states (20 %), it is one true large pattern: taken, and marked broad.
4. Above that, its sub-clusters replace it where they hold at least `held_share` of `largest_size`. Where they do not,
   it is one large swell of density without inner structure; its dense core of at most `largest_size` states is taken
   and marked broad, so that what the market does most is not lost as noise.

No cluster ever exceeds `largest_size`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TakenCluster:
    """One cluster of the answer.

    Attributes
    ----------
    members
        (size,) int64 positions of its states, ascending.
    levels
        (size,) float64 density level (1 / distance) at which each member leaves the cluster or what lies within it.
    broad
        True where it was kept, or cut to its core, although it exceeds the size above which clusters are divided.
    """

    members: IntArray
    levels: FloatArray
    broad: bool


class CondensedTree:
    """HDBSCAN's condensed tree as arrays over its clusters; cluster 0 is the root.

    Parameters
    ----------
    rows
        `condensed_tree_.to_numpy()` of a fitted `hdbscan.HDBSCAN`: parent, child, lambda_val, child_size.
    n_states
        States that it was fitted on.

    Attributes
    ----------
    size, stability, parent
        (clusters,) states below each, its excess of mass, its parent (-1 for the root). Parents precede children.
    children
        For each cluster the clusters directly below it.
    """

    def __init__(self, rows: npt.NDArray[np.void], n_states: int) -> None:
        parent = rows["parent"].astype(np.int64) - n_states
        child = rows["child"].astype(np.int64)
        level = rows["lambda_val"].astype(np.float64)
        child_size = rows["child_size"].astype(np.int64)
        n_clusters = int(parent.max()) + 1
        is_state = child < n_states
        self.n_states = n_states
        self._cluster_of_state = np.zeros(n_states, dtype=np.int64)
        self._cluster_of_state[child[is_state]] = parent[is_state]
        self._level_of_state = np.zeros(n_states)
        self._level_of_state[child[is_state]] = level[is_state]

        below = child[~is_state] - n_states
        birth = np.zeros(n_clusters)
        birth[below] = level[~is_state]
        self.size = np.zeros(n_clusters, dtype=np.int64)
        self.size[0] = n_states
        self.size[below] = child_size[~is_state]
        self.parent = np.full(n_clusters, -1, dtype=np.int64)
        self.parent[below] = parent[~is_state]
        self.stability = np.bincount(parent, weights=(level - birth[parent]) * child_size, minlength=n_clusters)
        self.children: list[list[int]] = [[] for _ in range(n_clusters)]
        for cluster in np.sort(below).tolist():
            self.children[int(self.parent[cluster])].append(cluster)

        order = np.argsort(self._cluster_of_state, kind="stable")
        bounds = np.searchsorted(self._cluster_of_state[order], np.arange(n_clusters + 1))
        self._own_states = [order[start:end] for start, end in itertools.pairwise(bounds)]

    def excess_of_mass(self) -> npt.NDArray[np.bool_]:
        """Whether each cluster is at least as stable as the best choice of clusters below it; never the root.

        The topmost such clusters are HDBSCAN's own selection; those below come into play where a cluster is replaced.
        """
        chosen = np.ones(len(self.size), dtype=bool)
        best = self.stability.copy()
        for cluster in range(len(self.size) - 1, -1, -1):
            children = self.children[cluster]
            if children:
                within = float(best[children].sum())
                if within > self.stability[cluster]:
                    chosen[cluster] = False
                    best[cluster] = within
        chosen[0] = False
        return chosen

    def members(self, cluster: int) -> tuple[IntArray, FloatArray]:
        """States below a cluster, ascending, and the density level at which each drops out."""
        stack, parts = [cluster], []
        while stack:
            current = stack.pop()
            parts.append(self._own_states[current])
            stack.extend(self.children[current])
        states = np.sort(np.concatenate(parts))
        return states, self._level_of_state[states]


def take_clusters(
    tree: CondensedTree, *, broad_size: float, largest_size: float, held_share: float, keep_core: bool
) -> list[TakenCluster]:
    """Choose clusters by the rule of this module.

    Parameters
    ----------
    tree
        The condensed tree.
    broad_size
        Size in states above which a cluster is divided if it can be.
    largest_size
        Size in states that no cluster may exceed; at least `broad_size`.
    held_share
        Share that sub-clusters must hold to replace a cluster.
    keep_core
        Rule 4 as it stands. False: above `largest_size` a cluster gives way to its sub-clusters however little they
        hold; the rest becomes noise.

    Returns
    -------
    Disjoint clusters in order of their first member. Cost: O(clusters in the tree * depth).
    """
    chosen = tree.excess_of_mass()
    # From the leaves up: the clusters that the subtree below each cluster yields.
    yields: list[list[_Candidate]] = [[] for _ in tree.size]
    for cluster in range(len(tree.size) - 1, -1, -1):
        children = tree.children[cluster]
        within = [candidate for child in children for candidate in yields[child]]
        for child in children:
            yields[child] = []
        yields[cluster] = (
            _bounded(tree, cluster, within, broad_size, largest_size, held_share, keep_core)
            if chosen[cluster]
            else within
        )
    taken = []
    for candidate in yields[0]:
        members, levels = tree.members(candidate.cluster)
        if candidate.size < len(members):
            densest = np.sort(np.lexsort((members, -levels))[: candidate.size])
            members, levels = members[densest], levels[densest]
        taken.append(TakenCluster(members=members, levels=levels, broad=candidate.broad))
    return sorted(taken, key=lambda cluster: int(cluster.members[0]))


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A cluster of the tree, or the densest `size` states of it."""

    cluster: int
    size: int
    broad: bool


def _bounded(
    tree: CondensedTree,
    cluster: int,
    within: list[_Candidate],
    broad_size: float,
    largest_size: float,
    held_share: float,
    keep_core: bool,
) -> list[_Candidate]:
    size = int(tree.size[cluster])
    if size <= broad_size:
        return [_Candidate(cluster, size, broad=False)]
    held = sum(candidate.size for candidate in within)
    if held >= held_share * min(size, largest_size):
        return within
    if size <= largest_size:
        return [_Candidate(cluster, size, broad=True)]
    return [_core(tree, cluster, int(largest_size))] if keep_core else within


def _core(tree: CondensedTree, cluster: int, largest_size: int) -> _Candidate:
    """The densest part of a cluster that is still connected, as large as the bound allows."""
    while True:
        heaviest = max(tree.children[cluster], key=lambda child: (int(tree.size[child]), -child), default=None)
        if heaviest is None or int(tree.size[tree.children[cluster]].sum()) <= largest_size:
            # Raising the density level sheds states one by one before the cluster divides: what is left is its core.
            return _Candidate(cluster, largest_size, broad=True)
        if int(tree.size[heaviest]) <= largest_size:
            return _Candidate(heaviest, int(tree.size[heaviest]), broad=True)
        cluster = heaviest
