from __future__ import annotations

import msgspec
import numpy as np
import pytest

from memory.learning.matching import (
    BY_CLARITY,
    BY_NULL,
    NO_RULE,
    HomeClusters,
    clusters_by_home,
    drifted_pairs,
    judge_null,
    match_home,
    tight_group,
    unmistakable,
)
from memory.learning.null import null_confirmation_rate, null_threshold
from memory.learning.settings import LearningSettings

THRESHOLD_ONLY = LearningSettings(clear_known=10**6)
SETTINGS = LearningSettings()


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def spread_out(n: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((n, 32)))


def seen(*summaries) -> HomeClusters:
    """The clusters of the one home that the summaries have."""
    (clusters,) = clusters_by_home(summaries)
    return clusters


def names(count: int) -> list[str]:
    return [f"p{number}" for number in range(count)]


def test_with_nothing_known_nothing_matches(market) -> None:
    matching = match_home(seen(market.summary(0)), [], np.zeros((0, 0)), SETTINGS)
    assert (matching.matches, matching.confirmed, matching.threshold) == ((), 0, np.inf)


def test_each_cluster_meets_the_pattern_it_is(market) -> None:
    matching = match_home(seen(market.summary(1)), names(6), market.centres, SETTINGS)
    assert [match.pattern_id for match in matching.matches] == names(6)
    assert all(match.cosine > 0.95 for match in matching.matches)


def test_a_match_must_exceed_the_threshold_of_the_null(market) -> None:
    summary = market.summary(1)
    matching = match_home(seen(summary), names(6), market.centres, THRESHOLD_ONLY)
    assert matching.threshold == null_threshold(summary.nulls[0].ball_means, market.centres)
    for match in matching.matches:
        assert match.confirmed == (match.cosine > matching.threshold)


def test_the_rule_that_held_is_named(markets) -> None:
    market = markets(40)
    matching = match_home(seen(market.summary(1)), names(40), market.centres, SETTINGS)
    rules = {match.rule for match in matching.matches}
    assert BY_CLARITY in rules
    for match in matching.matches:
        assert (match.rule == BY_NULL) == (match.cosine > matching.threshold)


def test_a_cluster_that_another_one_beats_is_lost_to_the_pattern_it_is_near(market) -> None:
    """One pattern comes in two pieces: the nearer piece is it, and the other is known to be near it."""
    summary = market.summary(1)
    known = market.centres.copy()
    whole = summary.clusters[0]
    piece = msgspec.structs.replace(
        whole, label=6, founding_id="p-piece", vector_sum=whole.vector_sum + 0.2 * whole.states * known[1]
    )
    both = msgspec.structs.replace(summary, clusters=(*summary.clusters, piece))
    lenient = msgspec.structs.replace(SETTINGS, clear_known=3, clear_group=1, clear_ratio=0.9)
    matching = match_home(seen(both), names(6), known, lenient)
    (lost,) = matching.lost_clusters
    assert (lost.label, lost.pattern_id) == (6, "p0")
    assert lost.confirmed
    assert lost.cosine < matching.matches[0].cosine


def test_a_pattern_whose_cluster_is_another_one_is_named(market) -> None:
    twice = np.concatenate([market.centres, market.centres[:1] + 0.05 * market.centres[1:2]])
    pair = msgspec.structs.replace(SETTINGS, clear_known=3, clear_group=2, clear_ratio=0.9)
    matching = match_home(seen(market.summary(1)), names(7), twice, pair)
    (lost,) = matching.lost_patterns
    assert lost.pattern_id == "p6"
    assert lost.label == next(match.label for match in matching.matches if match.pattern_id == "p0")


def test_what_is_far_from_all_is_lost_by_no_rule(market) -> None:
    matching = match_home(seen(market.summary(1)), ["p0"], market.centres[:1], THRESHOLD_ONLY)
    assert [match.pattern_id for match in matching.matches] == ["p0"]
    assert len(matching.lost_clusters) == 5
    assert {match.rule for match in matching.lost_clusters} == {NO_RULE}


def test_clusters_of_one_home_meet_whatever_partition_they_are_of(market) -> None:
    own = market.summary(1)
    pooled = msgspec.structs.replace(own, partition="enc/replay/MIXED", regime="MIXED")
    joined = seen(own, pooled)
    assert joined.home == "enc/replay/QUIET"
    assert [summary.partition for summary, _ in joined.clusters] == ["enc/replay/MIXED"] * 6 + ["enc/replay/QUIET"] * 6
    assert {len(replicate) for replicate in joined.replicates} == {12}
    turned = seen(pooled, own)
    assert turned.clusters == joined.clusters
    np.testing.assert_array_equal(turned.replicates, joined.replicates)


def test_threshold_and_rate_are_those_of_the_null_where_only_the_threshold_counts(market) -> None:
    (null,) = market.summary(1).nulls
    threshold, rate = judge_null(null.ball_means, market.centres, THRESHOLD_ONLY)
    assert threshold == null_threshold(null.ball_means, market.centres)
    assert rate == pytest.approx(null_confirmation_rate(null.ball_means, market.centres))


def test_a_pattern_far_nearer_than_all_others_is_unmistakable() -> None:
    known = spread_out(25)
    assert unmistakable(known[:1] + 0.01, known, SETTINGS).tolist() == [True]
    between = unit((known[:1] + known[1:2]) / 2)
    assert unmistakable(between, known[2:], SETTINGS).tolist() == [False]


def test_a_pattern_known_twice_is_still_unmistakable() -> None:
    known = spread_out(25)
    twice = np.concatenate([known, unit(known[:1] + 0.002)])
    assert unmistakable(known[:1] + 0.001, twice, SETTINGS).tolist() == [True]


def test_the_tight_group_reaches_to_the_last_pattern_before_the_jump() -> None:
    known = spread_out(25)
    twice = np.concatenate([known, unit(known[:1] + 0.002)])
    probe = known[:1] + 0.001
    distances = np.sort(1 - (unit(probe) @ twice.T)[0])
    assert tight_group(probe, twice, SETTINGS) == pytest.approx(distances[1:2])
    assert tight_group(unit((known[:1] + known[1:2]) / 2), known[2:], SETTINGS).tolist() == [-np.inf]


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
    ((low, high, _, rule),) = drifted_pairs(known, 0.9, [3], THRESHOLD_ONLY)
    assert (low, high, rule) == (1, 3, BY_NULL)
    assert drifted_pairs(known, 0.9, [0, 2], THRESHOLD_ONLY) == []
    assert drifted_pairs(known, 0.9999, [1, 3], THRESHOLD_ONLY) == []
    assert drifted_pairs(known, np.inf, [1, 3], THRESHOLD_ONLY) == []


@pytest.mark.parametrize("noise_first", [False, True])
def test_a_lonely_pattern_is_not_joined_with_what_lies_among_others(noise_first: bool) -> None:
    lonely, *others = spread_out(30)
    noise = unit((lonely + 0.3 * others[0])[None])[0]
    beyond = unit(2 * noise - lonely + 0.5 * spread_out(4, seed=1))
    pair = [noise, lonely] if noise_first else [lonely, noise]
    known = np.array([*pair, *others[1:], *beyond])
    sure = [unmistakable(known[[row]], np.delete(known, row, axis=0), SETTINGS)[0] for row in (0, 1)]
    assert sure == [not noise_first, noise_first]
    assert drifted_pairs(known, 0.99, [0, 1], SETTINGS) == []
    ((low, high, _, rule),) = drifted_pairs(known[: -len(beyond)], 0.99, [0, 1], SETTINGS)
    assert (low, high, rule) == (0, 1, BY_CLARITY)


def test_a_match_survives_being_written(market) -> None:
    matching = match_home(seen(market.summary(1)), names(6), market.centres, SETTINGS)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(matching), type=type(matching)) == matching
