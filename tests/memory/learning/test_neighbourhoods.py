"""Sets of nearest states, by a scan and among lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.learning.neighbourhoods import Neighbourhoods
from memory.learning.planted import planted_states


@pytest.fixture(scope="module")
def states() -> np.ndarray:
    return planted_states(20_000, random_state=3).vectors


@pytest.fixture(scope="module")
def listed(states: np.ndarray) -> Neighbourhoods:
    return Neighbourhoods(states, scan_limit=1_000)


@settings(deadline=None, max_examples=15)
@given(size=st.integers(1, 20_000), centre=st.integers(0, 19_999))
def test_a_set_has_its_size_and_its_centre(states: np.ndarray, listed: Neighbourhoods, size: int, centre: int) -> None:
    for around in (listed, Neighbourhoods(states)):
        members = around.nearest(centre, size)
        assert len(np.unique(members)) == size
        assert np.all(np.diff(members) > 0)
        assert centre in members


def test_a_scan_finds_the_nearest(states: np.ndarray) -> None:
    members = Neighbourhoods(states).nearest(7, 40)
    similarity = states @ states[7]
    others = np.setdiff1d(np.arange(len(states)), members)
    assert similarity[members].min() >= similarity[others].max()


def test_sets_among_lists_are_nearly_the_nearest(states: np.ndarray, listed: Neighbourhoods) -> None:
    exact, shared = Neighbourhoods(states), []
    for centre in range(0, 20_000, 1_000):
        for size in (10, 120, 500):
            shared.append(len(np.intersect1d(exact.nearest(centre, size), listed.nearest(centre, size))) / size)
    assert np.mean(shared) > 0.95


def test_sets_among_lists_leave_most_states_unseen(listed: Neighbourhoods) -> None:
    seen = listed._looked_at(7, 40)
    assert seen is not None
    assert len(seen) < 20_000 / 3


def test_exact_copies_do_not_push_the_centre_out() -> None:
    rows = np.zeros((30_000, 4), dtype=np.float32)
    rows[:, 0] = 1.0
    assert Neighbourhoods(rows).nearest(29_999, 5)[-1] == 29_999
