"""As-of neighbours: the nearest that were known, by brute force and the rule."""

from __future__ import annotations

import numpy as np

from agents.training.neighbours import nearest_before


def _world(count: int = 900) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.Generator(np.random.PCG64(1))
    vectors = generator.standard_normal((count, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    decided = np.sort(generator.integers(0, 5_000, count))
    return vectors, decided, decided + generator.integers(1, 400, count)


def test_they_are_those_of_brute_force() -> None:
    vectors, decided, known = _world()
    rows, distances = nearest_before(vectors, decided, vectors, decided, known, 4, min_age_ms=100, max_age_ms=2_000)
    for query in range(0, len(vectors), 37):
        allowed = np.flatnonzero(
            (decided < decided[query] - 100) & (known <= decided[query]) & (decided >= decided[query] - 2_000)
        )
        cosines = vectors[query] @ vectors[allowed].T
        best = allowed[np.argsort(-cosines, kind="stable")][:4]
        assert rows[query][rows[query] >= 0].tolist() == best.tolist()
        np.testing.assert_allclose(distances[query, : len(best)], 1 - vectors[query] @ vectors[best].T, atol=1e-6)


def test_what_comes_later_changes_nothing() -> None:
    vectors, decided, known = _world()
    cut = 400
    whole, _ = nearest_before(vectors[:cut], decided[:cut], vectors, decided, known, 4)
    past, _ = nearest_before(vectors[:cut], decided[:cut], vectors[:cut], decided[:cut], known[:cut], 4)
    np.testing.assert_array_equal(whole, past)


def test_equal_memories_come_in_their_order() -> None:
    vectors = np.tile(np.eye(1, 4, dtype=np.float32), (6, 1))
    decided = np.arange(6)
    rows, _ = nearest_before(vectors[:1], np.array([10]), vectors, decided, decided, 3)
    assert rows.tolist() == [[0, 1, 2]]


def test_nothing_known_is_no_row() -> None:
    vectors, decided, known = _world(10)
    rows, distances = nearest_before(vectors, decided - 10_000, vectors, decided, known, 3)
    assert (rows == -1).all()
    assert np.isnan(distances).all()
