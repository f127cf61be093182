"""Partitions of a window, and their seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.errors import InvalidRecordError
from memory.learning.partitions import assign_partitions, home_of, partition_seed
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


@given(counts=st.dictionaries(st.sampled_from(REGIMES), st.integers(0, 200), min_size=1))
def test_home_is_the_regime_of_nine_states_in_ten_or_none(counts: dict[str, int]) -> None:
    states = sum(counts.values())
    if not states:
        with pytest.raises(InvalidRecordError, match="holds no state"):
            home_of(counts)
        return
    home = home_of(counts)
    dominant = [regime for regime, held in counts.items() if 10 * held >= 9 * states]
    assert home == (dominant[0] if dominant else MIXED)
    assert home_of(dict(sorted(counts.items(), reverse=True))) == home


@pytest.mark.parametrize(("others", "home"), [(0, "CRISIS"), (1, "CRISIS"), (2, MIXED)])
def test_one_stranger_in_ten_does_not_take_a_set_out_of_its_regime(others: int, home: str) -> None:
    assert home_of({"CRISIS": 10 - others, "QUIET": others}) == home


def test_seeds_are_stable_over_processes_and_releases() -> None:
    assert partition_seed("2021-06-17", "binance-1", "replay", "QUIET") == 938874559928674332


def test_seeds_differ_where_parts_join_to_the_same_text() -> None:
    assert partition_seed("ab", "c") != partition_seed("a", "bc")


def test_seeds_fit_signed_64_bits() -> None:
    assert all(0 <= partition_seed(str(number)) < 2**63 for number in range(200))
