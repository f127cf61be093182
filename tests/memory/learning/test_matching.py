from __future__ import annotations

import msgspec
import numpy as np
import pytest

from memory.learning.matching import drifted_pairs, judge_null, match_partition, unmistakable
from memory.learning.null import null_confirmation_rate, null_threshold
from memory.learning.settings import LearningSettings

THRESHOLD_ONLY = LearningSettings(clear_known=10**6)
SETTINGS = LearningSettings()


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def spread_out(n: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((n, 32)))


def test_with_nothing_known_nothing_matches(market) -> None:
    matching = match_partition(market.summary(0), [], np.zeros((0, 0)), SETTINGS)
    assert (matching.matches, matching.confirmed, matching.threshold) == ((), 0, np.inf)


def test_each_cluster_meets_the_pattern_it_is(market) -> None:
    matching = match_partition(market.summary(1), [f"p{number}" for number in range(6)], market.centres, SETTINGS)
    assert [match.pattern_id for match in matching.matches] == [f"p{number}" for number in range(6)]
    assert all(match.cosine > 0.95 for match in matching.matches)


def test_a_match_must_exceed_the_threshold_of_the_null(market) -> None:
    summary = market.summary(1)
    matching = match_partition(summary, [f"p{number}" for number in range(6)], market.centres, THRESHOLD_ONLY)
    assert matching.threshold == null_threshold(summary.ball_means, market.centres)
    for match in matching.matches:
        assert match.confirmed == (match.cosine > matching.threshold)


def test_threshold_and_rate_are_those_of_the_null_where_only_the_threshold_counts(market) -> None:
    summary = market.summary(1)
    threshold, rate = judge_null(summary.ball_means, market.centres, THRESHOLD_ONLY)
    assert threshold == null_threshold(summary.ball_means, market.centres)
    assert rate == pytest.approx(null_confirmation_rate(summary.ball_means, market.centres))


def test_a_pattern_far_nearer_than_all_others_is_unmistakable() -> None:
    known = spread_out(25)
    assert unmistakable(known[:1] + 0.01, known, SETTINGS).tolist() == [True]
    between = unit((known[:1] + known[1:2]) / 2)
    assert unmistakable(between, known[2:], SETTINGS).tolist() == [False]


def test_a_pattern_known_twice_is_still_unmistakable() -> None:
    known = spread_out(25)
    twice = np.concatenate([known, unit(known[:1] + 0.002)])
    assert unmistakable(known[:1] + 0.001, twice, SETTINGS).tolist() == [True]


def test_among_few_patterns_nothing_is_unmistakable() -> None:
    known = spread_out(SETTINGS.clear_known - 1)
    assert unmistakable(known[:1] + 0.01, known, SETTINGS).tolist() == [False]


def test_on_a_continuum_hardly_anything_is_unmistakable() -> None:
    rng = np.random.default_rng(3)
    space = rng.standard_normal((12, 32))
    known, probes = unit(rng.standard_normal((60, 12)) @ space), unit(rng.standard_normal((2000, 12)) @ space)
    assert unmistakable(probes, known, SETTINGS).mean() < 0.01


def test_drifted_patterns_are_mutual_nearest_above_the_threshold() -> None:
    known = spread_out(6)
    known[3] = unit(known[[1]] + 0.02)[0]
    assert [pair[:2] for pair in drifted_pairs(known, 0.9, [3], THRESHOLD_ONLY)] == [(1, 3)]
    assert drifted_pairs(known, 0.9, [0, 2], THRESHOLD_ONLY) == []
    assert drifted_pairs(known, 0.9999, [1, 3], THRESHOLD_ONLY) == []
    assert drifted_pairs(known, np.inf, [1, 3], THRESHOLD_ONLY) == []


def test_a_match_survives_being_written(market) -> None:
    matching = match_partition(market.summary(1), [f"p{number}" for number in range(6)], market.centres, SETTINGS)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(matching), type=type(matching)) == matching
