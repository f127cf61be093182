"""Patterns keep their home while the partitions that they are clustered in change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from memory.learning.fold import fold_window
from memory.learning.homes import home_nulls, regime_bases
from memory.learning.knowledge import FoldState
from memory.learning.null import null_ball_means
from memory.learning.outcomes import GROSS, compute_outcomes
from memory.learning.partitions import MIN_PARTITION_STATES, partition_seed
from memory.learning.serial import digest, encode
from memory.learning.settings import LearningSettings
from memory.learning.support import occurrences
from memory.records import MIXED

SETTINGS = LearningSettings()
FEW, MANY = 250, 350


def counts(volatile: int) -> dict[str, int]:
    """Minutes of each regime in a window; crises are always too few for a partition of their own."""
    return {"QUIET": 1440 - 120 - volatile, "VOLATILE": volatile, "CRISIS": 120}


def swing(number: int) -> dict[str, int]:
    """Volatile minutes fall below and rise above the least partition, night by night."""
    return counts(FEW if number % 2 else MANY)


@pytest.fixture(scope="module")
def week(regime_market):
    """Summaries of seven nights between which one regime swings."""
    assert FEW < MIN_PARTITION_STATES <= MANY
    return [regime_market.summaries(number, swing(number), SETTINGS) for number in range(7)]


def fold(nights, window) -> FoldState:
    """State after some nights."""
    state = FoldState()
    for number, summaries in enumerate(nights):
        state = fold_window(state, window(number), summaries, settings=SETTINGS).state
    return state


def state_digest(state: FoldState) -> str:
    """Digest of all items of a state."""
    return digest(encode(state.items()))


def pattern_at(state: FoldState, centre: np.ndarray):
    """The pattern nearest to a centre."""
    return max(state.patterns.values(), key=lambda pattern: float(pattern.place @ centre))


def test_a_regime_that_swings_around_the_least_partition_gives_one_memory_a_pattern(regime_market, week, window):
    state = fold(week, window)
    drawn = [regime_market.states(number, swing(number)) for number in range(7)]
    assert len(state.patterns) == len(regime_market.names())
    for label, (regime, number) in enumerate(regime_market.names()):
        pattern = pattern_at(state, regime_market.centres[regime][number])
        times = np.concatenate([table.timestamp_ms[truth == label] for table, truth in drawn])
        assert (pattern.regime, pattern.partition) == (regime, f"enc/replay/{regime}")
        assert (pattern.states, len(pattern.sightings)) == (len(times), 7)
        assert pattern.support.count == occurrences(times).count


def test_so_it_does_with_the_clusters_that_are_found(regime_market, window):
    """With the clustering that ships, on both sides of the least partition: the same states, under one id."""
    nights = [regime_market.summaries(number, swing(number), SETTINGS, clustered=True) for number in range(7)]
    state = fold(nights, window)
    drawn = [regime_market.states(number, swing(number)) for number in range(7)]
    for place, centre in enumerate(regime_market.centres["VOLATILE"]):
        label = regime_market.names().index(("VOLATILE", place))
        times = np.concatenate([table.timestamp_ms[truth == label] for table, truth in drawn])
        near = [pattern for pattern in state.patterns.values() if pattern.place @ centre > 0.9]
        (pattern,) = near
        assert (pattern.regime, len(pattern.sightings), pattern.states) == ("VOLATILE", 7, len(times))
        assert pattern.support.count == occurrences(times).count


def test_its_sightings_say_in_which_partition_it_was_clustered(regime_market, week, window):
    pattern = pattern_at(fold(week, window), regime_market.centres["VOLATILE"][0])
    assert [sighting.partition.rpartition("/")[2] for sighting in pattern.sightings] == [
        "VOLATILE" if number % 2 == 0 else MIXED for number in range(7)
    ]


def test_the_base_rate_of_a_regime_is_over_all_its_states_pooled_or_not(regime_market, week, window):
    bases = fold(week, window).bases
    tables = [regime_market.states(number, swing(number))[0] for number in range(7)]
    for regime in ("QUIET", "VOLATILE", "CRISIS"):
        values = [
            compute_outcomes(table, SETTINGS).measures[np.array(table.regime_names) == regime, 1, GROSS]
            for table in tables
        ]
        base = bases[f"enc/replay/{regime}"]
        assert (base.windows, base.states) == (7, sum(map(len, values)))
        assert base.outcomes.blocks.total[1, GROSS] == pytest.approx(np.nansum(np.concatenate(values)), abs=1e-12)
    assert bases[f"enc/replay/{MIXED}"].states == 4 * 120 + 3 * (120 + FEW)


def test_a_regime_with_a_partition_of_its_own_has_no_second_base(week):
    own = next(summary for summary in week[0] if summary.regime == "VOLATILE")
    pooled = next(summary for summary in week[1] if summary.regime == MIXED)
    assert own.regime_bases == ()
    assert [base.regime for base in pooled.regime_bases] == ["CRISIS", "VOLATILE"]


def test_balls_of_a_home_are_drawn_among_its_states_with_its_own_competition(regime_market):
    table, truth = regime_market.states(1, counts(FEW))
    volatile = np.array(table.regime_names) == "VOLATILE"
    # One small cluster, so that most of the regime's states are in none.
    labels = np.where(volatile, -1, 0)
    labels[np.flatnonzero(volatile & (truth == truth[volatile].max()))[:20]] = 1
    (mixed, own), members = home_nulls(table, labels, [MIXED, "VOLATILE"], window="w", n_balls=8)
    rows = np.flatnonzero(volatile)
    seed = partition_seed("w", "enc", "replay", "VOLATILE")
    expected = null_ball_means(table.vectors[rows], [20], seed, labels=labels[rows], n_balls=8)
    np.testing.assert_array_equal(own.ball_means, expected)
    assert (own.labels.tolist(), mixed.labels.tolist()) == ([1], [0])
    assert all(volatile[ball].all() for ball in members[-len(expected) :])
    assert len(members) == len(mixed.ball_means) + len(expected)


def test_where_a_home_is_all_clusters_its_balls_are_those_of_the_partition(regime_market):
    table, _ = regime_market.states(1, counts(FEW))
    labels = np.where(np.array(table.regime_names) == "CRISIS", 0, -1)
    (null,), _ = home_nulls(table, labels, ["CRISIS"], window="w", n_balls=8)
    seed = partition_seed("w", "enc", "replay", "CRISIS")
    np.testing.assert_array_equal(
        null.ball_means, null_ball_means(table.vectors, [120], seed, labels=labels, n_balls=8)
    )


def test_clusters_across_regimes_are_at_home_in_none_and_meet_those_alone(regime_market, window):
    """Two nights of a pooled cluster: with a tenth of another regime it is of its regime, with more of none."""
    table, truth = regime_market.states(1, counts(FEW))
    label = regime_market.names().index(("VOLATILE", 0))
    members = np.flatnonzero(truth == label)

    def home_with(strangers: int) -> str:
        codes = table.regime.copy()
        codes[members[:strangers]] = regime_market.states(1, counts(FEW))[0].regime[truth == 0][0]
        summaries = regime_market.summaries(1, counts(FEW), SETTINGS, table=replace(table, regime=codes))
        pooled = next(summary for summary in summaries if summary.regime == MIXED)
        return max(pooled.clusters, key=lambda cluster: float(cluster.mean @ table.vectors[members[0]])).home

    assert home_with(len(members) // 10) == "VOLATILE"
    assert home_with(len(members) // 10 + 1) == MIXED


@examples(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.permutations(range(3)), min_size=3, max_size=3))
def test_the_order_of_partitions_does_not_matter(week, window, order):
    shuffled = [
        [night[place] for place in places if place < len(night)] for night, places in zip(week, order, strict=False)
    ]
    assert state_digest(fold(shuffled, window)) == state_digest(fold(week[:3], window))


@examples(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_arrival_within_a_window_does_not_matter(regime_market, week, window, seed):
    rng = np.random.default_rng(seed)
    table, _ = regime_market.states(1, swing(1))
    shuffled = table.take(rng.permutation(len(table)))
    arrival = rng.permutation(len(table))
    canonical = shuffled.take(np.lexsort((shuffled.timestamp_ms, shuffled.product)))
    arrived = replace(
        canonical,
        known_at_ms=canonical.known_at_ms + arrival,
        recorded_at_ms=canonical.recorded_at_ms + arrival,
    )
    again = regime_market.summaries(1, swing(1), SETTINGS, table=arrived)
    assert state_digest(fold([week[0], again], window)) == state_digest(fold(week[:2], window))


def test_regime_bases_are_those_of_each_regime_alone(regime_market):
    table, _ = regime_market.states(1, counts(FEW))
    outcomes = compute_outcomes(table, SETTINGS)
    whole = {base.regime: base for base in regime_bases(table, outcomes, SETTINGS)}
    for regime, base in whole.items():
        rows = np.flatnonzero(np.array(table.regime_names) == regime)
        (alone,) = regime_bases(table.take(rows), outcomes.take(rows), SETTINGS)
        assert encode(alone) == encode(base)
