"""The rule that bounds cluster sizes, on condensed trees made by hand, and against hdbscan's own selection."""

from __future__ import annotations

import hdbscan
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.learning.caps import CondensedTree, TakenCluster, take_clusters

ROW = np.dtype([("parent", np.intp), ("child", np.intp), ("lambda_val", float), ("child_size", np.intp)])


def tree(shape: dict[int, tuple[int | None, float, list[float]]], n_states: int) -> CondensedTree:
    """A condensed tree from cluster -> (parent, birth level, levels at which its own states drop out)."""
    below = {cluster: len(levels) for cluster, (_, _, levels) in shape.items()}
    for cluster in sorted(shape, reverse=True):
        parent = shape[cluster][0]
        if parent is not None:
            below[parent] += below[cluster]
    rows, state = [], 0
    for cluster, (parent, birth, levels) in sorted(shape.items()):
        if parent is not None:
            rows.append((n_states + parent, n_states + cluster, birth, below[cluster]))
        for level in levels:
            rows.append((n_states + cluster, state, level, 1))
            state += 1
    assert state == n_states
    return CondensedTree(np.array(rows, dtype=ROW), n_states)


def take(condensed: CondensedTree, *, keep_core: bool = True) -> list[TakenCluster]:
    return take_clusters(condensed, broad_size=50, largest_size=200, held_share=0.5, keep_core=keep_core)


def sizes(clusters: list[TakenCluster]) -> list[tuple[int, bool]]:
    return [(len(cluster.members), cluster.broad) for cluster in clusters]


def parent_of_two(own: int, first: int, second: int, *, rest: int) -> CondensedTree:
    """Noise in the root, one stable cluster with `own` states of its own, and two sub-clusters that live briefly."""
    return tree(
        {
            0: (None, 0.0, [0.5] * rest),
            1: (0, 1.0, list(np.linspace(4.0, 9.0, own))),
            2: (1, 10.0, [10.5] * first),
            3: (1, 10.0, [10.5] * second),
        },
        rest + own + first + second,
    )


def test_a_cluster_within_bounds_is_taken_as_it_is() -> None:
    assert sizes(take(parent_of_two(20, 12, 12, rest=956))) == [(44, False)]


def test_a_large_cluster_gives_way_to_sub_clusters_that_hold_half_of_it() -> None:
    assert sizes(take(parent_of_two(40, 30, 30, rest=900))) == [(30, False), (30, False)]


def test_a_large_cluster_whose_sub_clusters_hold_less_is_kept_and_broad() -> None:
    assert sizes(take(parent_of_two(76, 12, 12, rest=900))) == [(100, True)]


def test_a_huge_cluster_without_inner_structure_is_cut_to_its_core() -> None:
    clusters = take(parent_of_two(676, 12, 12, rest=300))
    assert sizes(clusters) == [(200, True)]
    # The 24 states of the sub-clusters are the densest, and of the cluster's own the last to drop out.
    assert clusters[0].members.tolist() == list(range(976 - 176, 976 + 24))


def test_a_huge_cluster_may_be_dropped_instead() -> None:
    assert sizes(take(parent_of_two(676, 12, 12, rest=300), keep_core=False)) == [(12, False), (12, False)]


def test_a_huge_cluster_gives_way_to_sub_clusters_that_hold_half_the_bound() -> None:
    assert sizes(take(parent_of_two(600, 50, 50, rest=300))) == [(50, False), (50, False)]


def test_a_core_that_divides_before_it_fits_is_its_larger_part() -> None:
    # Both parts are dense, together above the bound, and without sub-clusters of their own.
    clusters = take(
        tree(
            {
                0: (None, 0.0, [0.5] * 100),
                1: (0, 1.0, list(np.linspace(6.0, 9.0, 500))),
                2: (1, 10.0, list(np.linspace(10.1, 10.4, 180))),
                3: (1, 10.0, list(np.linspace(10.1, 10.3, 120))),
            },
            900,
        )
    )
    assert sizes(clusters) == [(180, True), (120, True)]


def test_the_root_is_never_taken() -> None:
    assert take(tree({0: (None, 0.0, [0.5] * 40)}, 40)) == []


def test_clusters_are_disjoint_and_in_order_of_their_first_member() -> None:
    clusters = take(parent_of_two(40, 30, 30, rest=900))
    members = np.concatenate([cluster.members for cluster in clusters])
    assert len(np.unique(members)) == len(members)
    assert [int(cluster.members[0]) for cluster in clusters] == sorted(int(c.members[0]) for c in clusters)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@settings(max_examples=30, deadline=None)
@given(
    blobs=st.lists(st.integers(5, 60), min_size=1, max_size=6), noise=st.integers(0, 80), seed=st.integers(0, 10_000)
)
def test_without_bounds_the_selection_is_that_of_hdbscan(blobs: list[int], noise: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    parts = [generator.standard_normal(3) * 3 + generator.standard_normal((size, 3)) * 0.4 for size in blobs]
    points = np.concatenate([*parts, generator.uniform(-6, 6, (noise, 3))])
    if len(points) < 12:
        return
    reference = hdbscan.HDBSCAN(min_cluster_size=10, min_samples=5, approx_min_span_tree=False).fit(points)
    condensed = CondensedTree(reference.condensed_tree_.to_numpy(), len(points))
    clusters = take_clusters(
        condensed, broad_size=len(points), largest_size=len(points), held_share=0.5, keep_core=True
    )
    expected = [np.flatnonzero(reference.labels_ == label) for label in range(reference.labels_.max() + 1)]
    assert sorted(cluster.members.tolist() for cluster in clusters) == sorted(group.tolist() for group in expected)
