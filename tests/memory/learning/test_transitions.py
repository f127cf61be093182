"""Transitions: counts, spells joined over windows, matrices, durations."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memory.errors import InvalidRecordError
from memory.learning import serial
from memory.learning.transition_matrices import (
    ALL_PRODUCTS,
    kaplan_meier_median,
    next_given_path,
    project_transitions,
)
from memory.learning.transitions import (
    TransitionSettings,
    TransitionSummary,
    fold_transitions,
    summarise_transitions,
)
from memory.records import REGIMES
from memory.tables import StateTable

MINUTE = 60_000
T, M, V, Q, C = range(5)


def states_of(series: dict[str, list[tuple[int, int]]]) -> StateTable:
    """A table from (minute, regime code) pairs by product."""
    names = tuple(sorted(series))
    rows = [(code, minute, regime) for code, name in enumerate(names) for minute, regime in series[name]]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
    nothing = np.full(len(columns), np.nan)
    times = columns[:, 1] * MINUTE
    return StateTable(
        encoder_id="e",
        source="replay",
        feature_names=(),
        products=names,
        product=columns[:, 0],
        timestamp_ms=times,
        known_at_ms=times,
        recorded_at_ms=times,
        vectors=np.zeros((len(columns), 4), dtype=np.float32),
        features=np.zeros((len(columns), 0)),
        price=nothing,
        spread=nothing,
        regime=columns[:, 2],
    )


def minutes(regimes: list[int], start: int = 0) -> list[tuple[int, int]]:
    return [(start + offset, regime) for offset, regime in enumerate(regimes)]


def summary_of(regimes: list[int], start: int = 0) -> TransitionSummary:
    return summarise_transitions(states_of({"A": minutes(regimes, start)}))


def test_steps_count_pairs_one_step_apart_with_self_transitions():
    (product,) = summary_of([Q, Q, Q, V, V, Q]).products
    assert product.steps[Q, Q] == 2
    assert product.steps[Q, V] == 1
    assert product.steps[V, V] == 1
    assert product.steps[V, Q] == 1
    assert product.steps.sum() == 5


def test_jumps_and_paths_count_changes_only():
    (product,) = summary_of([Q, Q, V, V, C, Q]).products
    assert product.jumps.tolist() == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
    ]
    assert product.paths[Q, V, C] == 1
    assert product.paths[V, C, Q] == 1
    assert product.paths.sum() == 2


def test_only_spells_with_both_ends_seen_have_a_duration():
    (product,) = summary_of([Q, Q, V, V, V, C, Q, Q]).products
    assert product.ended[V] == ((3 * MINUTE, 1),)
    assert product.ended[C] == ((1 * MINUTE, 1),)
    assert product.ended[Q] == ()


def test_a_gap_ends_a_spell_as_censored_and_is_no_transition():
    states = states_of({"A": [*minutes([Q, V, V, V]), *minutes([C, C, Q], start=20)]})
    (product,) = summarise_transitions(states).products
    assert product.censored[V] == ((2 * MINUTE, 1),)
    assert product.jumps.sum() == 2
    assert product.jumps[V, C] == 0
    assert product.ended[C] == ()


def test_missing_minutes_within_the_gap_limit_end_no_spell_and_are_no_step():
    states = states_of({"A": [(0, Q), (1, V), (5, V), (6, C)]})
    (product,) = summarise_transitions(states).products
    assert product.ended[V] == ((5 * MINUTE, 1),)
    assert product.steps[V, V] == 0
    assert product.steps.sum() == 2


def test_a_spell_over_midnight_is_one_spell():
    state = fold_transitions(summary_of([Q, V, V]), summary_of([V, V, C], start=3))
    assert state.products[0].ended[V] == ((4 * MINUTE, 1),)
    assert state.products[0].paths[Q, V, C] == 1


def test_a_missing_window_censors_the_open_spell():
    state = fold_transitions(summary_of([Q, V, V]), summary_of([V, V, C], start=1440))
    assert state.products[0].censored[V] == ((1 * MINUTE, 1),)
    assert state.products[0].ended[V] == ()


def test_a_window_without_a_product_leaves_it_as_it_was():
    first = summarise_transitions(states_of({"A": minutes([Q, V]), "B": minutes([V, Q])}))
    state = fold_transitions(first, summary_of([V, C], start=2))
    assert [item.product for item in state.products] == ["A", "B"]
    assert serial.encode(state.products[1]) == serial.encode(first.products[1])


def test_folding_a_window_twice_is_refused():
    summary = summary_of([Q, V])
    with pytest.raises(InvalidRecordError, match="each once"):
        fold_transitions(summary, summary)


def test_summaries_of_other_steps_are_not_mixed():
    other = summarise_transitions(states_of({"A": minutes([Q, V], start=9)}), TransitionSettings(step_s=30.0))
    with pytest.raises(InvalidRecordError, match="never mixed"):
        fold_transitions(summary_of([Q, V]), other)


def test_times_that_do_not_rise_are_refused():
    with pytest.raises(InvalidRecordError, match="do not rise"):
        summarise_transitions(states_of({"A": [(1, Q), (1, V)]}))


series = st.lists(
    st.tuples(st.sampled_from([1, 1, 1, 1, 3, 5, 6, 30]), st.sampled_from([T, Q, V])), min_size=1, max_size=60
)


def _timed(steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    minute, timed = 0, []
    for apart, regime in steps:
        minute += apart
        timed.append((minute, regime))
    return timed


@settings(deadline=None)
@given(series, st.sets(st.integers(1, 59), max_size=6))
def test_windows_merged_equal_all_states_at_once(steps: list[tuple[int, int]], cuts: set[int]):
    timed = _timed(steps)
    edges = [0, *sorted(cut for cut in cuts if cut < len(timed)), len(timed)]
    state = None
    for begin, end in pairwise(edges):
        state = fold_transitions(state, summarise_transitions(states_of({"A": timed[begin:end]})))
    assert state is not None
    assert serial.encode(state) == serial.encode(summarise_transitions(states_of({"A": timed})))


@settings(deadline=None)
@given(series)
def test_spells_agree_with_a_walk_through_the_states(steps: list[tuple[int, int]]):
    timed = _timed(steps)
    ended: dict[int, list[int]] = {code: [] for code in range(5)}
    censored: dict[int, list[int]] = {code: [] for code in range(5)}
    started, before, previous = None, None, None
    paths = np.zeros((5, 5, 5), dtype=np.int64)
    for minute, regime in timed:
        if previous is None or minute - previous[0] > 5:
            if previous is not None and started is not None:
                censored[previous[1]].append((previous[0] - started) * MINUTE)
            started, before = None, None
        elif regime != previous[1]:
            if started is not None:
                ended[previous[1]].append((minute - started) * MINUTE)
            if before is not None:
                paths[before, previous[1], regime] += 1
            started, before = minute, previous[1]
        previous = (minute, regime)
    (product,) = summarise_transitions(states_of({"A": timed})).products
    for code in range(5):
        assert [d for d, n in product.ended[code] for _ in range(n)] == sorted(ended[code])
        assert [d for d, n in product.censored[code] for _ in range(n)] == sorted(censored[code])
    assert np.array_equal(product.paths, paths)


@settings(deadline=None)
@given(series, st.floats(0, 2), st.floats(0, 20))
@example([(1, 0)], 0.0, 5e-324)
def test_all_rows_are_probabilities(steps: list[tuple[int, int]], alpha: float, strength: float):
    settings = TransitionSettings(alpha=alpha, backoff_strength=strength)
    state = summarise_transitions(states_of({"A": _timed(steps), "B": minutes([V, Q, V, Q])}), settings)
    for matrices in project_transitions(state, settings):
        for rows in (matrices.step_probability, matrices.transition_probability, matrices.path_probability):
            assert np.allclose(rows.sum(axis=-1), 1.0, atol=1e-12)
            assert (rows >= 0).all()
        assert np.all(np.diag(matrices.transition_probability) == 0)


def test_pooled_counts_are_the_sum_of_the_products():
    state = summarise_transitions(states_of({"A": minutes([Q, V, Q]), "B": minutes([Q, V, C])}))
    pooled, first, second = project_transitions(state)
    assert pooled.product == ALL_PRODUCTS
    assert np.array_equal(pooled.jump_count, first.jump_count + second.jump_count)
    assert pooled.jump_count[Q, V] == 2
    assert pooled.step_s == 60.0


def test_smoothing_is_dirichlet():
    settings = TransitionSettings(alpha=0.5)
    pooled = project_transitions(summary_of([Q, V, Q, V]), settings)[0]
    assert pooled.transition_probability[Q, V] == pytest.approx((2 + 0.5) / (2 + 4 * 0.5))
    assert pooled.transition_probability[Q, C] == pytest.approx(0.5 / 4)
    assert pooled.step_probability[Q, V] == pytest.approx((2 + 0.5) / (2 + 5 * 0.5))


def test_the_path_so_far_changes_the_prediction_and_backs_off_where_it_is_new():
    pattern = [T, Q, V, C, Q, M] * 30
    pooled = project_transitions(summary_of(pattern))[0]
    after_trend = next_given_path(pooled, [REGIMES[T], REGIMES[Q]])
    after_crisis = next_given_path(pooled, [REGIMES[C], REGIMES[Q], REGIMES[Q]])
    assert after_trend[REGIMES[V]] > 0.8
    assert after_crisis[REGIMES[M]] > 0.8
    never_seen = next_given_path(pooled, [REGIMES[M], REGIMES[Q]])
    assert never_seen == pytest.approx(next_given_path(pooled, [REGIMES[Q]]))
    assert sum(after_trend.values()) == pytest.approx(1.0)


def test_an_unknown_regime_in_a_path_is_refused():
    pooled = project_transitions(summary_of([Q, V]))[0]
    with pytest.raises(InvalidRecordError, match="NORMAL"):
        next_given_path(pooled, ["NORMAL"])
    with pytest.raises(InvalidRecordError, match="empty"):
        next_given_path(pooled, [])


def test_the_median_of_complete_spells_is_their_median():
    assert kaplan_meier_median(((1, 2), (5, 2), (9, 1)), ()) == 5


def test_censored_spells_raise_the_median():
    ended = ((10, 5), (20, 1))
    assert kaplan_meier_median(ended, ()) == 10
    assert kaplan_meier_median(ended, ((15, 5),)) == 20
    assert kaplan_meier_median(((10, 2),), ((15, 5),)) is None
    assert kaplan_meier_median((), ((15, 5),)) is None


def test_kaplan_meier_agrees_with_a_textbook_example():
    # Freireich's leukaemia trial, 6-MP arm (Kaplan-Meier in any text): S(22) = 0.538, S(23) = 0.448.
    ended = ((6, 3), (7, 1), (10, 1), (13, 1), (16, 1), (22, 1), (23, 1))
    censored = ((6, 1), (9, 1), (10, 1), (11, 1), (17, 1), (19, 1), (20, 1), (25, 1), (32, 2), (34, 1), (35, 1))
    assert kaplan_meier_median(ended, censored) == 23


def test_the_running_spell_counts_as_censored():
    state = summary_of([Q, V, Q, V, V, V, V])
    pooled = project_transitions(state)[0]
    assert pooled.spells[V] == 2
    assert pooled.median_duration_s[V] == 60.0
    longer = project_transitions(fold_transitions(state, summary_of([V] * 9 + [Q], start=7)))[0]
    assert longer.spells[V] == 2
    assert longer.median_duration_s[V] == 60.0


def test_nothing_at_all_gives_uniform_rows():
    (pooled,) = project_transitions(summarise_transitions(states_of({})))
    assert np.allclose(pooled.step_probability, 0.2)
    assert pooled.median_duration_s == (None,) * 5


def test_summaries_survive_the_ledger():
    summary = summarise_transitions(states_of({"A": minutes([Q, V, Q]), "B": minutes([Q, V, C])}))
    read = serial.decode(serial.encode(summary), TransitionSummary)
    following = summarise_transitions(states_of({"A": minutes([Q, V], start=3)}))
    assert serial.encode(fold_transitions(read, following)) == serial.encode(fold_transitions(summary, following))
