"""Merging what was archived with what came late."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory.errors import ArchiveError
from memory.ledger import content_digest, merge
from memory.tables import WindowData

MakeWindowData = Callable[..., WindowData]


def part(data: WindowData, rows: set[int]) -> WindowData:
    """The states with these numbers and the experiences lived through there, names reduced to those that occur."""
    chosen = np.array(sorted(rows), dtype=np.intp)
    states = data.states.take(chosen)
    lived = np.isin(np.arange(len(data.experiences)) % len(data.states), chosen)
    experiences = data.experiences.take(lived)
    used = np.unique(states.product)
    products = tuple(data.states.products[code] for code in used)
    states = dataclasses.replace(states, products=products, product=np.searchsorted(used, states.product))
    experiences = dataclasses.replace(
        experiences, products=products, product=np.searchsorted(used, experiences.product)
    )
    return WindowData(states, experiences)


rows = st.sets(st.integers(0, 19))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=rows, second=rows, third=rows)
def test_merging_in_any_order_gives_what_was_there_at_once(
    make_window_data: MakeWindowData, first: set[int], second: set[int], third: set[int]
) -> None:
    data = make_window_data(0, 20)
    one, two, three = part(data, first), part(data, second), part(data, third)
    at_once = content_digest(part(data, first | second | third))
    assert content_digest(merge(merge(one, two), three)) == at_once
    assert content_digest(merge(three, merge(two, one))) == at_once


def test_the_archived_side_stays_where_both_hold_a_state(make_window_data: MakeWindowData) -> None:
    archived, late = make_window_data(1, 20), make_window_data(2, 20)
    merged = merge(archived, late)
    assert content_digest(merged) == content_digest(archived)
    np.testing.assert_array_equal(merged.states.vectors, archived.states.vectors)


def test_a_feature_that_only_one_side_has_is_unknown_on_the_other(make_window_data: MakeWindowData) -> None:
    data = make_window_data(0, 20, features=("a", "b"))
    late = make_window_data(0, 20, features=("b", "c"))
    even, odd = set(range(0, 20, 2)), set(range(1, 20, 2))
    merged = merge(part(data, even), part(late, odd)).states
    assert merged.feature_names == ("a", "b", "c")
    assert np.isnan(merged.feature("a")).sum() == np.isnan(merged.feature("c")).sum() == 10
    assert not np.isnan(merged.feature("b")).any()


def test_windows_of_different_sources_are_not_merged(make_window_data: MakeWindowData) -> None:
    with pytest.raises(ArchiveError, match="encoder-1/replay and encoder-1/live cannot be merged"):
        merge(make_window_data(), make_window_data(source="live"))
