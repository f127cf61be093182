"""As-of neighbours: those of brute force, none from the future, found again on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agents.evaluation.neighbours import NOTHING, NeighbourCache, nearest_as_of
from memory.errors import InvalidQueryError

COUNT = 7


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Memories in order of time and queries at various ones, unit vectors; every tenth memory twice."""
    generator = np.random.default_rng(5)
    memory, queries = generator.standard_normal((3_000, 8)), generator.standard_normal((200, 8))
    memory[10::10] = memory[9::10][: len(memory[10::10])]
    memory, queries = (x / np.linalg.norm(x, axis=1)[:, None] for x in (memory, queries))
    known = np.sort(generator.integers(0, 1_000, 3_000))
    return memory.astype(np.float32), known, queries.astype(np.float32), generator.integers(-10, 1_100, 200)


def test_finds_what_brute_force_finds(world: tuple[np.ndarray, ...]) -> None:
    memory, known, queries, cutoff = world
    found = nearest_as_of(memory, known, queries, cutoff, COUNT)
    for row, query in enumerate(queries):
        there = np.flatnonzero(known <= cutoff[row])
        distance = 1.0 - memory[there].astype(np.float64) @ query
        wanted = np.sort(distance)[:COUNT]
        assert found.distances[row, : len(wanted)] == pytest.approx(wanted, abs=2e-6)
        assert (found.rows[row, len(wanted) :] == NOTHING).all()
        assert (known[found.rows[row, : len(wanted)]] <= cutoff[row]).all()


def test_equal_memories_come_in_order_of_time(world: tuple[np.ndarray, ...]) -> None:
    memory, known, queries, _ = world
    found = nearest_as_of(memory, known, queries, np.full(len(queries), 1_000), 40)
    equal = found.distances[:, 1:] == found.distances[:, :-1]
    assert equal.any()
    assert (np.diff(found.rows, axis=1)[equal] > 0).all()


def test_groups_keep_to_themselves(world: tuple[np.ndarray, ...]) -> None:
    memory, known, queries, cutoff = world
    groups, own = np.arange(len(memory)) % 3, np.arange(len(queries)) % 3
    found = nearest_as_of(memory, known, queries, cutoff, COUNT, memory_group=groups, query_group=own)
    there = found.rows >= 0
    assert there.any()
    assert (groups[found.rows] == own[:, None])[there].all()


def test_among_takes_the_nearest_of_some(world: tuple[np.ndarray, ...]) -> None:
    memory, known, queries, cutoff = world
    even = np.arange(len(memory)) % 2 == 0
    some = nearest_as_of(memory, known, queries, cutoff, 60).among(even, 3)
    alone = nearest_as_of(memory[even], known[even], queries, cutoff, 3)
    there = alone.rows >= 0
    assert np.array_equal(some.rows[there], 2 * alone.rows[there])
    assert np.array_equal(some.rows >= 0, there)


def test_the_cache_answers_the_same_and_only_the_same_question(world: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    memory, known, queries, cutoff = world
    cache = NeighbourCache(tmp_path)
    first = cache.nearest(memory, known, queries, cutoff, COUNT)
    assert len(list(tmp_path.iterdir())) == 1
    again = cache.nearest(memory, known, queries, cutoff, COUNT)
    assert np.array_equal(first.rows, again.rows)
    assert len(list(tmp_path.iterdir())) == 1
    cache.nearest(memory, known, queries, cutoff - 1, COUNT)
    assert len(list(tmp_path.iterdir())) == 2


def test_memory_out_of_order_is_refused(world: tuple[np.ndarray, ...]) -> None:
    memory, known, queries, cutoff = world
    with pytest.raises(InvalidQueryError, match="order of time"):
        nearest_as_of(memory, known[::-1], queries, cutoff, COUNT)
