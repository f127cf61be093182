"""Occurrences in clock time, against plain definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.learning import serial
from memory.learning.support import (
    NO_OCCURRENCES,
    Occurrences,
    merged_occurrences,
    occurrences,
    occurrences_by_label,
)

MINUTE_MS = 60_000
minutes_of_a_day = st.lists(st.integers(0, 1_439), max_size=40)


def to_ms(minutes: list[int]) -> list[int]:
    return [minute * MINUTE_MS for minute in minutes]


@given(minutes=minutes_of_a_day)
def test_count_is_the_number_of_runs_an_hour_apart(minutes: list[int]) -> None:
    runs = 0
    last = None
    for minute in sorted(minutes):
        if last is None or minute - last >= 60:
            runs += 1
        last = minute
    assert occurrences(to_ms(minutes)).count == runs


@given(minutes=st.lists(st.integers(0, 1_439), max_size=9))
def test_effective_number_is_the_most_that_can_be_chosen_a_look_back_apart(minutes: list[int]) -> None:
    distinct = sorted(set(minutes))
    most = max(
        size
        for size in range(len(distinct) + 1)
        if any(
            all(later - earlier >= 240 for earlier, later in itertools.pairwise(chosen))
            for chosen in itertools.combinations(distinct, size)
        )
    )
    assert occurrences(to_ms(minutes)).effective == most


@given(minutes=minutes_of_a_day, seed=st.integers(0, 100))
def test_order_and_repeats_do_not_matter(minutes: list[int], seed: int) -> None:
    repeated = np.random.default_rng(seed).permutation(to_ms(minutes + minutes)).astype(np.int64)
    assert occurrences(repeated) == occurrences(to_ms(minutes))


@given(minutes=minutes_of_a_day)
def test_the_occurrences_have_room_for_the_effective_number(minutes: list[int]) -> None:
    counted, held = occurrences(to_ms(minutes)), sorted(set(minutes))
    starts = [0, *(place for place in range(1, len(held)) if held[place] - held[place - 1] >= 60), len(held)]
    runs = [held[first:end] for first, end in itertools.pairwise(starts) if first < end]
    assert len(runs) == counted.count
    assert counted.effective <= sum(1 + (run[-1] - run[0]) // 240 for run in runs)


def test_an_occurrence_as_long_as_the_look_back_is_two_effectively() -> None:
    counted = occurrences(to_ms([0, 59, 118, 177, 236, 240]))
    assert (counted.count, counted.effective) == (1, 2)


@given(
    days=st.lists(st.lists(st.integers(0, 86_399_999), max_size=30), min_size=2, max_size=5),
    separation=st.sampled_from([1.0, 60.0, 90.5, 400.0]),
    look_back=st.sampled_from([1.0, 240.0, 333.3, 3_000.0]),
)
def test_merging_days_counts_exactly_like_all_days_at_once(
    days: list[list[int]], separation: float, look_back: float
) -> None:
    shifted = [[time + 86_400_000 * day for time in times] for day, times in enumerate(days)]
    apart = {"separation_min": separation, "look_back_min": look_back}
    merged = merged_occurrences([occurrences(times, **apart) for times in shifted], **apart)
    together = occurrences(list(itertools.chain(*shifted)), **apart)
    figures = ("count", "effective", "first_ms", "last_ms", "last_effective_ms")
    assert [getattr(merged, name) for name in figures] == [getattr(together, name) for name in figures]


def test_a_day_of_occurrences_takes_a_bit_a_minute_and_survives_being_stored() -> None:
    whole_day = occurrences(to_ms(list(range(1_440))))
    assert len(whole_day.minutes) == 180
    assert serial.decode(serial.encode(whole_day), Occurrences) == whole_day


def test_what_was_merged_cannot_come_later_since_its_minutes_are_gone() -> None:
    merged = merged_occurrences([occurrences(to_ms([1_440])), occurrences(to_ms([2_880]))])
    with pytest.raises(ValueError, match="one after the other"):
        occurrences(to_ms([0])).merged_with(merged)


def test_an_hour_between_two_sights_makes_two_occurrences_and_a_minute_less_one() -> None:
    assert occurrences(to_ms([0, 60])).count == 2
    assert occurrences(to_ms([0, 59])).count == 1


def test_a_run_over_midnight_is_one_occurrence() -> None:
    evening, morning = occurrences(to_ms([1_430, 1_439])), occurrences(to_ms([1_445]))
    assert evening.merged_with(morning).count == 1


def test_products_in_the_same_minutes_are_one_occurrence() -> None:
    minutes = list(range(100, 130))
    assert occurrences(to_ms(minutes * 3)).count == 1


def test_nothing_is_no_occurrence_and_merges_as_such() -> None:
    some = occurrences(to_ms([5]))
    assert occurrences([]) == NO_OCCURRENCES
    assert NO_OCCURRENCES.merged_with(some) == some == some.merged_with(NO_OCCURRENCES)


def test_windows_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="time order"):
        occurrences(to_ms([100])).merged_with(occurrences(to_ms([50])))


@given(rows=st.lists(st.tuples(st.integers(0, 1_439), st.integers(-1, 3)), max_size=60))
def test_by_label_equals_one_by_one(rows: list[tuple[int, int]]) -> None:
    times = np.array([row[0] * MINUTE_MS for row in rows], dtype=np.int64)
    labels = np.array([row[1] for row in rows], dtype=np.int64)
    assert occurrences_by_label(times, labels, n_labels=4) == [
        occurrences(times[labels == label]) for label in range(4)
    ]


def test_a_label_beyond_the_clusters_is_refused() -> None:
    with pytest.raises(ValueError, match="label 2 is not below n_labels 2"):
        occurrences_by_label([0], [2], n_labels=2)


def test_labels_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one label for each timestamp"):
        occurrences_by_label([0, 1], [0], n_labels=1)
