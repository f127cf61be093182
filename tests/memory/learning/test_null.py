"""The null of recurrence: balls, matching, threshold and rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.learning.clustering import MarketStateClusterer
from memory.learning.null import (
    matching_null,
    mutual_nearest,
    null_ball_means,
    null_balls,
    null_confirmation_rate,
    null_replicates,
    null_threshold,
)
from memory.learning.planted import planted_states


def states(count: int, seed: int = 0, dimension: int = 16) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class TestMutualNearest:
    @settings(deadline=None)
    @given(left=st.integers(0, 12), right=st.integers(0, 12), seed=st.integers(0, 500))
    def test_pairs_are_exactly_those_nearest_to_each_other(self, left: int, right: int, seed: int) -> None:
        first, second = states(left, seed), states(right, seed + 1_000)
        matches = mutual_nearest(first, second)
        cosines = first.astype(float) @ second.T.astype(float)
        expected = [
            (i, j)
            for i in range(left)
            for j in range(right)
            if cosines[i, j] == cosines[i].max() and cosines[i, j] == cosines[:, j].max()
        ]
        assert list(zip(matches.left.tolist(), matches.right.tolist(), strict=True)) == expected
        np.testing.assert_allclose(matches.cosine, [cosines[pair] for pair in expected], atol=1e-6)

    def test_length_does_not_matter(self) -> None:
        first, second = states(8), states(9, seed=1)
        scaled = mutual_nearest(first * 3.0, second * 0.2)
        np.testing.assert_array_equal(scaled.left, mutual_nearest(first, second).left)

    def test_ties_still_give_a_pair(self) -> None:
        matches = mutual_nearest(np.ones((3, 4)), np.ones((5, 4)))
        assert (matches.left.tolist(), matches.right.tolist()) == ([0], [0])

    @pytest.mark.parametrize("value", [0.0, np.nan])
    def test_a_damaged_mean_is_named(self, value: float) -> None:
        patterns = states(3)
        patterns[2] = value
        with pytest.raises(ValueError, match="row 2 of right"):
            mutual_nearest(states(2), patterns)


class TestBalls:
    @settings(deadline=None, max_examples=40)
    @given(count=st.integers(1, 60), sizes=st.lists(st.integers(1, 60), max_size=8), seed=st.integers(0, 99))
    def test_a_ball_holds_the_states_nearest_to_one_of_its_members(
        self, count: int, sizes: list[int], seed: int
    ) -> None:
        rows = states(count)
        sizes = [min(size, count) for size in sizes]
        balls = null_balls(rows, sizes, seed)
        assert [len(np.unique(ball)) for ball in balls] == sizes
        cosines = rows @ rows.T
        for ball, size in zip(balls, sizes, strict=True):
            reach = np.sort(cosines, axis=1)[:, ::-1][:, size - 1]
            assert any(np.all(cosines[centre, ball] >= reach[centre] - 1e-6) for centre in ball)

    def test_the_same_seed_gives_the_same_balls_and_another_others(self) -> None:
        rows = states(200)
        first, again, other = (null_ball_means(rows, [10, 20], seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_means_are_those_of_the_replicates(self) -> None:
        rows = states(200)
        replicates = null_replicates(rows, [10, 20, 30], 5, n_balls=20)
        means = null_ball_means(rows, [10, 20, 30], 5, n_balls=20)
        assert means.shape == (7, 3, 16)
        assert means.dtype == np.float32
        np.testing.assert_allclose(means[4, 2], rows[replicates[4][2]].mean(axis=0), atol=1e-6)

    def test_there_are_at_least_two_replicates(self) -> None:
        assert len(null_replicates(states(100), [5] * 50, 0, n_balls=10)) == 2

    def test_no_clusters_have_no_balls(self) -> None:
        assert null_ball_means(states(10), [], 0).shape == (0, 0, 16)

    def test_centres_of_a_replicate_differ(self) -> None:
        balls = null_balls(states(50), [1] * 50, 3)
        assert sorted(int(ball[0]) for ball in balls) == list(range(50))

    def test_balls_that_are_a_cluster_again_are_passed_over(self) -> None:
        rows = states(300)
        labels = np.full(300, -1)
        cluster = np.argsort(-(rows @ rows[0]))[:60]
        labels[cluster] = 0
        for ball in null_balls(rows, [20] * 30, 1, labels=labels):
            assert np.sum(labels[ball] == 0) < 10
        assert any(np.sum(labels[ball] == 0) >= 10 for ball in null_balls(rows, [20] * 30, 1))

    def test_where_all_is_one_cluster_balls_are_drawn_all_the_same(self) -> None:
        balls = null_balls(states(40), [10, 10], 1, labels=np.zeros(40, dtype=int))
        assert [len(ball) for ball in balls] == [10, 10]

    def test_labels_of_another_length_are_refused(self) -> None:
        with pytest.raises(ValueError, match="labels has the shape"):
            null_balls(states(40), [10], 1, labels=[0, 1])

    @pytest.mark.parametrize("size", [0, 11])
    def test_a_size_that_no_ball_can_have_is_named(self, size: int) -> None:
        with pytest.raises(ValueError, match=f"size {size} at position 1"):
            null_balls(states(10), [3, size], 0)


class TestThreshold:
    def test_nothing_known_confirms_nothing(self) -> None:
        balls = null_ball_means(states(100), [10], 0)
        assert null_threshold(balls, np.zeros((0, 16))) == math.inf
        assert null_confirmation_rate(balls, np.zeros((0, 16))) == 0.0

    def test_no_balls_confirm_nothing(self) -> None:
        balls = null_ball_means(states(100), [], 0)
        assert null_threshold(balls, states(3)) == math.inf
        assert null_confirmation_rate(balls, states(3)) == 0.0

    def test_it_is_the_order_statistic_of_the_matched_cosines(self) -> None:
        balls, patterns = null_ball_means(states(500), [10, 20, 30], 0, n_balls=300), states(5, seed=9)
        pooled = np.sort(np.concatenate(matching_null(balls, patterns)))
        rank = math.ceil(0.95 * (len(pooled) + 1))
        assert null_threshold(balls, patterns) == pooled[rank - 1]

    def test_too_few_balls_give_the_largest_cosine(self) -> None:
        balls, patterns = null_ball_means(states(100), [10], 0, n_balls=2), states(1, seed=9)
        assert null_threshold(balls, patterns) == max(cosine[0] for cosine in matching_null(balls, patterns))

    def test_each_replicate_is_matched_on_its_own(self) -> None:
        # One pattern can be matched once a replicate, however many balls there are in all.
        balls = null_ball_means(states(500), [10, 20, 30], 0, n_balls=60)
        assert [len(cosines) for cosines in matching_null(balls, states(1, seed=9))] == [1] * 20

    def test_random_clusters_are_confirmed_at_the_nominal_rate(self) -> None:
        """Sets drawn as the balls are: about 5 % of the matched ones pass, and the rate beside them says so."""
        passed = matched = 0
        rates = []
        for trial in range(60):
            rows, patterns = states(400, seed=trial), states(10, seed=1_000 + trial)
            sizes = [10, 15, 20, 25, 30, 40]
            thresholds = null_ball_means(rows, sizes, trial, n_balls=180)
            random_clusters = null_ball_means(rows, sizes, 10_000 + trial, n_balls=60)
            for replicate in random_clusters:
                cosines = mutual_nearest(replicate, patterns).cosine
                passed += int(np.sum(cosines > null_threshold(thresholds, patterns)))
                matched += len(cosines)
            rates.append(null_confirmation_rate(thresholds, patterns) * len(sizes) * len(random_clusters))
        assert 0.03 < passed / matched < 0.07
        assert 0.7 < passed / sum(rates) < 1.4

    def test_planted_patterns_that_recur_are_confirmed(self) -> None:
        planted = planted_states(2_000, random_state=5, n_patterns=20, largest_share=0.1)
        nights = [slice(0, 1_000), slice(1_000, 2_000)]
        clusterers = [MarketStateClusterer().fit(planted.vectors[night]) for night in nights]
        known, today = (
            np.array([planted.vectors[night][clusterer.labels_ == label].mean(axis=0) for label in range(count)])
            for night, clusterer in zip(nights, clusterers, strict=True)
            if (count := clusterer.n_clusters_)
        )
        balls = null_ball_means(
            planted.vectors[nights[1]], clusterers[1].sizes_.tolist(), 0, labels=clusterers[1].labels_
        )
        confirmed = mutual_nearest(today, known).cosine > null_threshold(balls, known)
        assert confirmed.sum() >= 0.9 * len(today)
        assert null_confirmation_rate(balls, known) < 0.06

    def test_a_threshold_from_elsewhere_is_used_as_it_is(self) -> None:
        balls, patterns = null_ball_means(states(200), [10, 20], 0), states(3, seed=2)
        assert null_confirmation_rate(balls, patterns, threshold=-1.0) > 0.3
        assert null_confirmation_rate(balls, patterns, threshold=1.0) == 0.0

    @pytest.mark.parametrize("quantile", [0.0, 1.0])
    def test_a_quantile_out_of_range_is_refused(self, quantile: float) -> None:
        with pytest.raises(ValueError, match="quantile"):
            null_threshold(null_ball_means(states(50), [5], 0), states(2), quantile=quantile)

    def test_flat_ball_means_are_refused(self) -> None:
        with pytest.raises(ValueError, match="ball_means has the shape"):
            null_threshold(states(10), states(2))
