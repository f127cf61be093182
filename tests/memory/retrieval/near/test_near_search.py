"""The search is exact however little the bounds help, and bounds leave most rows unscored where they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.retrieval.near import search
from memory.retrieval.near.basis import fit_basis, margin, query_weights, split
from memory.retrieval.near.rows import AgentRows
from memory.retrieval.near.search import TRIED_AGAIN_AFTER, Pruning, Question
from tests.memory.retrieval.near.brute_force import DIMENSION, HOUR_MS, PRODUCTS, check, row, settled, unit


@pytest.mark.parametrize("count", [1, 9, 500, 9_000])
@pytest.mark.parametrize("spread", [0.02, 5.0], ids=["on a curve", "everywhere"])
@pytest.mark.parametrize("anchored", [False, True], ids=["basis", "anchors"])
@pytest.mark.parametrize("left", [0.0, 1.0], ids=["by bounds", "all scored"])
def test_many_rows_are_found_exactly_whether_or_not_bounds_help(
    count: int, spread: float, anchored: bool, left: float
) -> None:
    generator = np.random.default_rng(count)
    steps = generator.standard_normal((count, 3)).cumsum(axis=0) / 10
    vectors = unit(
        np.tanh(steps @ generator.standard_normal((3, DIMENSION)))
        + spread * generator.standard_normal((count, DIMENSION))
    )
    held = [row(number, vector, scope=(PRODUCTS[number % 3], number % 5)) for number, vector in enumerate(vectors)]
    rows = settled(held, anchored=anchored)
    for pruning in rows._pruning:
        pruning.left = left
    for number in range(3):
        asked = unit(vectors[generator.integers(count)] + 0.02 * generator.standard_normal(DIMENSION))
        check(rows, held, Question(asked, 10))
        check(rows, held, Question(asked, 10, product_id="BTC", as_of_ms=count // 2 * HOUR_MS))
        check(rows, held, Question(asked, 3, regime=number % 5))
    check(rows, held, Question(unit(vectors[0]), count + 5))


@pytest.mark.parametrize("anchored", [False, True])
def test_equal_distances_are_ordered_by_memory_id_wherever_the_rows_lie(anchored: bool) -> None:
    generator = np.random.default_rng(1)
    same, others = unit(generator.standard_normal(DIMENSION)), unit(generator.standard_normal((3000, DIMENSION)))
    order = generator.permutation(3040)
    vectors = [same if number < 40 else others[number - 40] for number in range(3040)]
    held = [row(int(number), vectors[number], scope=(PRODUCTS[number % 3], 0)) for number in order]
    rows = settled(held, anchored=anchored)
    found = rows.nearest(Question(unit(same + 0.01 * others[0]), 25), 0)
    assert len(set(found.distances)) == 1
    assert [int(rows.key(slot).split(b":")[-1], 16) for slot in found.slots] == list(range(25))


@given(seed=st.integers(0, 1000), rank=st.integers(1, 24), scale=st.sampled_from([1e-4, 0.1, 10.0]))
@settings(max_examples=60, deadline=None)
def test_no_cosine_exceeds_its_bound_by_more_than_the_margin(seed: int, rank: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    vectors = unit(generator.standard_normal(DIMENSION) + scale * generator.standard_normal((50, DIMENSION)))
    basis = fit_basis(vectors[:30], rank)
    heads, rests = split(vectors, basis)
    for query in vectors[45:]:
        bounds = np.c_[heads, rests] @ query_weights(query, basis)
        cosines = vectors.astype(np.float64) @ query.astype(np.float64)
        assert (cosines <= bounds + margin(DIMENSION)).all()


def test_bounds_leave_most_rows_unscored(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(4)
    steps = generator.standard_normal((5000, 3)).cumsum(axis=0) / 10
    vectors = unit(np.tanh(steps @ generator.standard_normal((3, DIMENSION))))
    rows = AgentRows("FLOAT32", DIMENSION)
    rows.fill([row(number, vector) for number, vector in enumerate(vectors)])
    rows.settle()
    scored: list[int] = []
    whole = search._scored

    def counted(slots: Any, *rest: Any) -> Any:
        scored.append(len(slots))
        return whole(slots, *rest)

    monkeypatch.setattr(search, "_scored", counted)
    rows.nearest(Question(vectors[100], 10), 0)
    assert 10 <= sum(scored) < 500


def test_bounds_are_left_out_where_they_rule_out_little_and_tried_again_now_and_then() -> None:
    pruning = Pruning()
    assert not pruning.is_futile()
    for _ in range(20):
        pruning.note(90, 100)
    assert sum(pruning.is_futile() for _ in range(TRIED_AGAIN_AFTER)) == TRIED_AGAIN_AFTER - 1
    for _ in range(20):
        pruning.note(1, 100)
    assert not pruning.is_futile()


@pytest.mark.parametrize("anchored", [False, True])
def test_room_that_was_never_written_to_is_not_computed_with(anchored: bool) -> None:
    vectors = unit(np.random.default_rng(5).standard_normal((600, DIMENSION)))
    held = [row(number, vector, scope=("BTC", int(number % 50 == 0))) for number, vector in enumerate(vectors)]
    rows = settled(held, anchored=anchored)
    rows._vectors[600:] = np.inf  # Whatever was in memory there.
    rows._scales[600:] = np.inf
    for pruning in rows._pruning:
        pruning.left = 1.0
    for item in held[:200]:
        rows.remove(item.key)
    for asked in vectors[:3]:
        check(rows, held[200:], Question(asked, 5, regime=1))
        check(rows, held[200:], Question(asked, 5))
