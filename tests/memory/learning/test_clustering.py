"""The clusterer: planted patterns, defined answers, determinism, refusals."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from memory.learning import clustering, neighbour_search, spanning
from memory.learning.clustering import NOISE, MarketStateClusterer
from memory.learning.planted import PlantedStates, planted_states
from memory.learning.spanning import graph_spanning_tree
from memory.learning.support import occurrences_by_label

MINUTE_MS = 60_000


def unit(points: np.ndarray) -> np.ndarray:
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def blobs(sizes: list[int], *, noise: int, seed: int, spread: float = 0.01, dimension: int = 32) -> np.ndarray:
    """Tight blobs around random directions, then scattered rows."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((len(sizes), dimension))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    parts = [
        centre + spread * generator.standard_normal((size, dimension))
        for centre, size in zip(centres, sizes, strict=True)
    ]
    return unit(np.concatenate([*parts, generator.standard_normal((noise, dimension))]))


def agreement(states: PlantedStates, labels: np.ndarray) -> tuple[float, float]:
    """Adjusted Rand index over the planted points, and the share of noise that is called noise."""
    planted = states.labels != NOISE
    index = adjusted_rand_score(states.labels[planted], labels[planted])
    return index, float(np.mean(labels[~planted] == NOISE))


@pytest.fixture(scope="module")
def night() -> PlantedStates:
    return planted_states(4_320, random_state=11)


@pytest.fixture(scope="module")
def night_clusterer(night: PlantedStates) -> MarketStateClusterer:
    return MarketStateClusterer().fit(night.vectors)


class TestPlantedPatterns:
    def test_a_night_is_recovered(self, night: PlantedStates, night_clusterer: MarketStateClusterer) -> None:
        index, noise_recall = agreement(night, night_clusterer.labels_)
        assert night_clusterer.route_ == "exact"
        assert index >= 0.9
        assert noise_recall >= 0.9

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_a_night_is_recovered_while_the_recurrence_window_is_at_work(self, seed: int) -> None:
        night = planted_states(4_320, random_state=seed)
        times = np.random.default_rng(seed).integers(0, 1_440, len(night.labels)) * MINUTE_MS
        index, noise_recall = agreement(night, MarketStateClusterer().fit(night.vectors, timestamps_ms=times).labels_)
        assert index >= 0.9
        assert noise_recall >= 0.9

    def test_twenty_thousand_states_are_recovered_by_the_graph_route(self) -> None:
        states = planted_states(20_000, random_state=12)
        times = np.random.default_rng(12).integers(0, 1_440, len(states.labels)) * MINUTE_MS
        clusterer = MarketStateClusterer().fit(states.vectors, timestamps_ms=times)
        index, noise_recall = agreement(states, clusterer.labels_)
        assert clusterer.route_ == "graph"
        assert index >= 0.9
        assert noise_recall >= 0.9

    def test_the_graph_in_batches_has_the_tree_of_the_graph_at_once(
        self, night: PlantedStates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = night.vectors[:1_500]
        at_once = graph_spanning_tree(rows, min_samples=5, n_neighbors=10, recurrence=None)
        monkeypatch.setattr(spanning, "_EDGES_AT_ONCE", 3_000)
        in_batches = graph_spanning_tree(rows, min_samples=5, n_neighbors=10, recurrence=None)
        np.testing.assert_array_equal(np.sort(in_batches.weight), np.sort(at_once.weight))
        assert in_batches.components == at_once.components

    def test_lists_of_states_give_nearly_the_clusters_of_a_full_search(
        self, night: PlantedStates, night_clusterer: MarketStateClusterer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(neighbour_search, "FLAT_LIMIT", 1_000)
        graph = MarketStateClusterer(exact_limit=100).fit(night.vectors)
        assert adjusted_rand_score(graph.labels_, night_clusterer.labels_) > 0.95

    def test_the_least_cluster_grows_with_a_large_partition(
        self, night: PlantedStates, night_clusterer: MarketStateClusterer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(clustering, "LARGE_PARTITION", len(night.vectors) // 3)
        grown = MarketStateClusterer().fit(night.vectors)
        assert (grown.min_cluster_size_, night_clusterer.min_cluster_size_) == (30, 10)
        assert grown.sizes_.min() >= 30 > night_clusterer.sizes_.min()
        asked = MarketStateClusterer(min_cluster_size=30, max_copies=10)
        monkeypatch.undo()
        np.testing.assert_array_equal(asked.fit(night.vectors).labels_, grown.labels_)

    def test_the_largest_pattern_is_kept_whole_and_marked_broad(
        self, night: PlantedStates, night_clusterer: MarketStateClusterer
    ) -> None:
        members = night_clusterer.labels_ == 0
        assert np.mean(night.labels[members] == 0) > 0.95
        assert members.sum() > 0.9 * np.sum(night.labels == 0)
        assert night_clusterer.broad_[0]

    def test_both_routes_agree(self, night: PlantedStates, night_clusterer: MarketStateClusterer) -> None:
        graph = MarketStateClusterer(exact_limit=100).fit(night.vectors)
        assert graph.route_ == "graph"
        assert adjusted_rand_score(graph.labels_, night_clusterer.labels_) > 0.97

    def test_the_tail_cut_is_what_keeps_bridges_out(self, night: PlantedStates) -> None:
        with_tails = MarketStateClusterer(tail_ratio=math.inf).fit(night.vectors)
        assert agreement(night, with_tails.labels_)[1] < 0.9


class TestRecurrence:
    @pytest.fixture
    def walk(self) -> tuple[np.ndarray, np.ndarray]:
        """A day of a process that moves as slowly as features with a look-back of hours: neighbours are alike."""
        generator = np.random.default_rng(0)
        points = np.zeros((1_440, 4))
        for minute in range(1, len(points)):
            points[minute] = 0.99 * points[minute - 1] + math.sqrt(1 - 0.99**2) * generator.standard_normal(4)
        frequencies, phases = generator.standard_normal((4, 256)) / 2, generator.uniform(0, 2 * np.pi, 256)
        return unit(np.cos(points @ frequencies + phases)), np.arange(len(points)) * MINUTE_MS

    @staticmethod
    def share_that_recurred(walk: tuple[np.ndarray, np.ndarray], clusterer: MarketStateClusterer) -> float:
        vectors, times = walk
        labels = clusterer.fit(vectors, timestamps_ms=times).labels_
        support = occurrences_by_label(times, labels, n_labels=clusterer.n_clusters_)
        return float(np.mean([occurrence.count >= 2 for occurrence in support]))

    def test_most_clusters_of_a_slow_process_came_back(self, walk: tuple[np.ndarray, np.ndarray]) -> None:
        assert self.share_that_recurred(walk, MarketStateClusterer()) > 0.7

    def test_without_the_window_most_are_single_stretches_of_time(self, walk: tuple[np.ndarray, np.ndarray]) -> None:
        assert self.share_that_recurred(walk, MarketStateClusterer(min_recurrences=0)) < 0.5

    def test_without_timestamps_the_window_is_off(self, walk: tuple[np.ndarray, np.ndarray]) -> None:
        vectors, times = walk
        np.testing.assert_array_equal(
            MarketStateClusterer().fit(vectors).labels_,
            MarketStateClusterer(min_recurrences=0).fit(vectors, timestamps_ms=times).labels_,
        )

    def test_the_graph_route_looks_past_the_minutes_beside_a_state(self, walk: tuple[np.ndarray, np.ndarray]) -> None:
        vectors, times = walk
        exact = MarketStateClusterer().fit(vectors, timestamps_ms=times)
        graph = MarketStateClusterer(exact_limit=100).fit(vectors, timestamps_ms=times)
        assert graph.route_ == "graph"
        assert adjusted_rand_score(graph.labels_, exact.labels_) > 0.9

    def test_lists_look_past_any_number_of_minutes_beside_a_state(
        self, walk: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vectors, times = walk
        # Bars of fifteen seconds: some 480 states are within an hour of each.
        recurrence = spanning.Recurrence(times // 4, 60.0, 1)
        asked: dict[str, Any] = {"min_samples": 5, "n_neighbors": 10, "recurrence": recurrence}
        exact = cheapest_edges(spanning.exact_spanning_tree(vectors, min_samples=5, recurrence=recurrence))
        monkeypatch.setattr(neighbour_search, "FLAT_LIMIT", 500)
        monkeypatch.setattr(neighbour_search, "_PROBES", 60)
        monkeypatch.setattr(spanning, "_LISTED_NEIGHBOURS", 16)
        lists = cheapest_edges(graph_spanning_tree(vectors, **asked))
        assert np.mean(np.abs(lists / exact - 1.0) < 0.05) > 0.85
        # Without it, the sixteenth nearest minute stands for the nearest of another time.
        monkeypatch.setattr(spanning, "_links_to_other_times", lambda *_: [])
        short_sighted = cheapest_edges(graph_spanning_tree(vectors, **asked))
        assert np.mean(short_sighted / exact < 0.95) > 0.4


def cheapest_edges(tree: spanning.SpanningTree) -> np.ndarray:
    """Weight of the cheapest edge of each state: at least its core distance, and hardly more."""
    cheapest = np.full(len(tree.weight) + 1, np.inf)
    for ends in (tree.first, tree.second):
        np.minimum.at(cheapest, ends, tree.weight)
    return cheapest


class TestDefinedAnswers:
    def test_an_empty_partition_has_no_labels(self) -> None:
        clusterer = MarketStateClusterer().fit(np.zeros((0, 256), dtype=np.float32))
        assert clusterer.labels_.shape == (0,)
        assert clusterer.record()["route"] == "none"
        assert clusterer.noise_share_ == 0.0

    def test_fewer_states_than_a_cluster_are_noise(self) -> None:
        clusterer = MarketStateClusterer().fit(blobs([9], noise=0, seed=1))
        assert clusterer.route_ == "none"
        assert np.all(clusterer.labels_ == NOISE)

    def test_copies_of_one_state_are_noise(self) -> None:
        clusterer = MarketStateClusterer().fit(np.tile(blobs([1], noise=0, seed=1), (500, 1)))
        assert clusterer.n_distinct_ == 10
        assert np.all(clusterer.labels_ == NOISE)

    @pytest.mark.parametrize("seed", range(5))
    def test_one_blob_never_gives_a_cluster_of_more_than_a_fifth(self, seed: int) -> None:
        clusterer = MarketStateClusterer().fit(blobs([1_000], noise=0, seed=seed, spread=0.1))
        assert clusterer.sizes_.max(initial=0) <= 200

    def test_pure_noise_is_mostly_noise(self) -> None:
        clusterer = MarketStateClusterer().fit(blobs([], noise=1_000, seed=3, dimension=256))
        assert clusterer.noise_share_ > 0.9

    def test_exact_copies_count_only_up_to_the_bound_and_share_a_label(self) -> None:
        vectors = blobs([40, 40, 40], noise=200, seed=4)
        copies = np.tile(blobs([1], noise=0, seed=99), (400, 1))
        clusterer = MarketStateClusterer().fit(np.concatenate([vectors, copies]))
        assert clusterer.n_distinct_ == len(vectors) + 10
        assert clusterer.n_clusters_ == 4
        assert np.all(clusterer.labels_[len(vectors) :] == 0)

    def test_planted_patterns_are_found_among_many_near_duplicates(self) -> None:
        states = planted_states(4_320, random_state=13, near_duplicate_share=0.3)
        index, noise_recall = agreement(states, MarketStateClusterer().fit(states.vectors).labels_)
        assert index >= 0.9
        assert noise_recall >= 0.9

    def test_a_partition_of_the_least_size_can_hold_clusters(self) -> None:
        clusterer = MarketStateClusterer().fit(blobs([15, 15], noise=40, seed=8))
        assert clusterer.n_clusters_ == 2

    def test_components_that_the_graph_falls_into_are_joined(self) -> None:
        vectors = blobs([80, 80, 80, 80], noise=0, seed=9)
        clusterer = MarketStateClusterer(exact_limit=50, n_neighbors=10, broad_share=0.3, largest_share=0.3).fit(
            vectors
        )
        assert clusterer.n_components_ == 4
        truth = np.repeat(np.arange(4), 80)
        clustered = clusterer.labels_ != NOISE
        assert clustered.mean() > 0.9
        assert adjusted_rand_score(truth[clustered], clusterer.labels_[clustered]) == 1.0


class TestDeterminism:
    def test_labels_do_not_depend_on_row_order_when_keys_are_given(self, night: PlantedStates) -> None:
        n_states = 1_500
        vectors = night.vectors[:n_states]
        products = np.array(["BTC-USD", "ETH-USD", "LTC-USD"])[np.arange(n_states) % 3]
        times = np.arange(n_states) // 3 * MINUTE_MS
        straight = MarketStateClusterer().fit(vectors, keys=(products, times), timestamps_ms=times)
        order = np.random.default_rng(0).permutation(n_states)
        shuffled = MarketStateClusterer().fit(
            vectors[order], keys=(products[order], times[order]), timestamps_ms=times[order]
        )
        np.testing.assert_array_equal(shuffled.labels_, straight.labels_[order])
        np.testing.assert_array_equal(shuffled.probabilities_, straight.probabilities_[order])

    @pytest.mark.parametrize("exact_limit", [5_000, 100])
    def test_threads_outside_do_not_matter(self, night: PlantedStates, exact_limit: int) -> None:
        clusterer = MarketStateClusterer(exact_limit=exact_limit)
        with threadpool_limits(limits=2):
            first = clusterer.fit(night.vectors[:1_000])
            labels, probabilities = first.labels_, first.probabilities_
        with threadpool_limits(limits=1):
            clusterer.fit(night.vectors[:1_000])
        np.testing.assert_array_equal(clusterer.labels_, labels)
        np.testing.assert_array_equal(clusterer.probabilities_, probabilities)

    def test_ties_are_broken_by_canonical_order(self) -> None:
        # Rows on a regular polygon: all distances come in ties.
        angle = np.arange(60) * 2 * np.pi / 60
        vectors = unit(np.stack([np.cos(angle), np.sin(angle)], axis=1))
        keys = np.arange(60)
        straight = MarketStateClusterer().fit(vectors, keys=(keys,)).labels_
        order = np.random.default_rng(1).permutation(60)
        np.testing.assert_array_equal(
            MarketStateClusterer().fit(vectors[order], keys=(keys[order],)).labels_, straight[order]
        )

    @settings(max_examples=25, deadline=None)
    @given(
        sizes=st.lists(st.integers(1, 60), min_size=0, max_size=5),
        noise=st.integers(0, 60),
        seed=st.integers(0, 1_000),
        exact_limit=st.sampled_from([20, 5_000]),
    )
    def test_any_states_give_a_consistent_answer(
        self, sizes: list[int], noise: int, seed: int, exact_limit: int
    ) -> None:
        vectors = blobs(sizes, noise=noise, seed=seed)
        clusterer = MarketStateClusterer(exact_limit=exact_limit).fit(vectors)
        labels = clusterer.labels_
        assert labels.shape == (len(vectors),)
        assert set(labels.tolist()) - {NOISE} == set(range(clusterer.n_clusters_))
        np.testing.assert_array_equal(
            clusterer.sizes_, np.bincount(labels[labels >= 0], minlength=clusterer.n_clusters_)
        )
        assert np.all(np.diff(clusterer.sizes_) <= 0)
        assert clusterer.broad_.shape == (clusterer.n_clusters_,)
        assert np.all((clusterer.probabilities_ > 0) == (labels >= 0))
        assert np.all(clusterer.probabilities_ <= 1)
        assert clusterer.sizes_.max(initial=0) <= max(0.2 * len(vectors), 60)
        assert clusterer.sizes_.min(initial=10) >= 10


class TestRefusals:
    @pytest.mark.parametrize(("value", "says"), [(np.nan, "not finite"), (np.inf, "not finite"), (0.0, "length 0")])
    def test_a_damaged_row_is_named_with_the_remedy(self, value: float, says: str) -> None:
        vectors = blobs([30], noise=0, seed=1)
        vectors[17] = value
        with pytest.raises(ValueError, match=rf"row 17 of X .*{says}.*Leave out"):
            MarketStateClusterer().fit(vectors)

    def test_a_row_of_another_length_is_named(self) -> None:
        vectors = blobs([30], noise=0, seed=1)
        vectors[4] *= 2
        with pytest.raises(ValueError, match=r"row 4 of X has the length 2 .*scale the others to unit length"):
            MarketStateClusterer().fit(vectors)

    def test_the_same_key_twice_is_refused_with_both_rows(self) -> None:
        vectors = blobs([30], noise=0, seed=1)
        keys = np.arange(30)
        keys[29] = 3
        with pytest.raises(ValueError, match=r"rows 3 and 29 have the same key.*[Cc]ollapse"):
            MarketStateClusterer().fit(vectors, keys=(keys,))

    def test_keys_of_another_length_are_refused(self) -> None:
        with pytest.raises(ValueError, match="keys name 29 states"):
            MarketStateClusterer().fit(blobs([30], noise=0, seed=1), keys=(np.arange(29),))

    def test_timestamps_of_another_length_are_refused(self) -> None:
        with pytest.raises(ValueError, match="timestamps_ms"):
            MarketStateClusterer().fit(blobs([30], noise=0, seed=1), timestamps_ms=np.arange(29))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("min_cluster_size", 1),
            ("min_samples", 0),
            ("min_recurrences", -1),
            ("recurrence_min", -1.0),
            ("broad_share", 0.0),
            ("largest_share", 0.01),
            ("held_share", 1.5),
            ("tail_ratio", 0.5),
            ("max_copies", 0),
            ("n_neighbors", 2),
            ("n_threads", 0),
        ],
    )
    def test_a_setting_out_of_range_is_named(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=name):
            MarketStateClusterer(**{name: value}).fit(blobs([30], noise=0, seed=1))


class TestEstimator:
    def test_settings_are_plain_and_name_every_parameter(self) -> None:
        clusterer = MarketStateClusterer()
        described = clusterer.settings()
        assert set(clusterer.get_params()) <= set(described)
        assert json.loads(json.dumps(described)) == described

    def test_record_is_plain(self, night_clusterer: MarketStateClusterer) -> None:
        record = night_clusterer.record()
        assert json.loads(json.dumps(record)) == record
        assert record["states"] == 4_320

    def test_it_clones_like_an_estimator(self) -> None:
        assert clone(MarketStateClusterer(min_samples=7)).min_samples == 7

    def test_fit_predict_returns_the_labels(self) -> None:
        vectors = blobs([30, 30], noise=30, seed=1)
        np.testing.assert_array_equal(
            MarketStateClusterer().fit_predict(vectors), MarketStateClusterer().fit(vectors).labels_
        )
