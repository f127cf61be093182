"""Partitions of a window, and their seeds."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memory.learning.partitions import assign_partitions, partition_seed
from memory.records import MIXED, REGIMES


@given(counts=st.lists(st.integers(0, 40), min_size=5, max_size=5), min_states=st.integers(1, 50))
def test_a_state_keeps_its_regime_exactly_where_that_is_large_enough(counts: list[int], min_states: int) -> None:
    regimes = np.random.default_rng(0).permutation(np.repeat(REGIMES, counts))
    partitions = assign_partitions(regimes, min_states=min_states)
    held = dict(zip(REGIMES, counts, strict=True))
    assert partitions.tolist() == [regime if held[regime] >= min_states else MIXED for regime in regimes.tolist()]


def test_a_mixed_partition_that_is_small_itself_stands() -> None:
    partitions = assign_partitions(["QUIET"] * 300 + ["CRISIS"] * 3)
    assert partitions.tolist() == ["QUIET"] * 300 + [MIXED] * 3


def test_no_states_have_no_partitions() -> None:
    assert assign_partitions([]).tolist() == []


def test_short_labels_are_not_truncated_to_their_width() -> None:
    assert assign_partitions(np.array(["A", "B"])).tolist() == [MIXED, MIXED]


def test_seeds_are_stable_over_processes_and_releases() -> None:
    assert partition_seed("2021-06-17", "binance-1", "replay", "QUIET") == 938874559928674332


def test_seeds_differ_where_parts_join_to_the_same_text() -> None:
    assert partition_seed("ab", "c") != partition_seed("a", "bc")


def test_seeds_fit_signed_64_bits() -> None:
    assert all(0 <= partition_seed(str(number)) < 2**63 for number in range(200))
