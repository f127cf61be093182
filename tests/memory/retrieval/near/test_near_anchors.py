"""Anchors bound every cosine from above, are kept where rows lie in groups, and change no answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.retrieval.near import search
from memory.retrieval.near.anchors import (
    COVERED,
    DRAWN_A_ROUND,
    FIT_ROWS,
    ROWS_AN_ANCHOR,
    anchored_bounds,
    choose_anchors,
    fit_anchors,
    sample_step,
    split_by_anchors,
)
from memory.retrieval.near.basis import NO_ROW, fit_basis, margin, split
from memory.retrieval.near.rows import AgentRows, StoredRow
from memory.retrieval.near.search import FUTILE_FROM_BY_ANCHORS, Question
from memory.retrieval.ranking import Relevance, RelevanceWeights
from tests.memory.retrieval.near.brute_force import HOUR_MS, PRODUCTS, check, clustered, row, settled, unit
from tests.memory.retrieval.near.test_near_relevance import NOW, held, hits_of
from tests.thoroughness import examples

WIDE = 64


def generated(kind: str, count: int, generator: np.random.Generator) -> Any:
    """Unit vectors that lie as the name says."""
    drawn = generator.standard_normal((count, WIDE))
    if kind == "equal":
        drawn[:] = drawn[0]
    elif kind == "nearly equal":
        drawn = drawn[0] + 1e-4 * drawn
    elif kind == "antipodal":
        drawn = drawn[0] * generator.choice([-1.0, 1.0], (count, 1))
    elif kind == "clustered":
        return clustered(count, max(1, count // 20), 0.5, generator, WIDE)
    return unit(drawn)


KINDS = st.sampled_from(["everywhere", "equal", "nearly equal", "antipodal", "clustered"])


def in_scopes(vectors: Any, dtype: str = "<f4") -> list[StoredRow]:
    return [
        row(number, vector, scope=(PRODUCTS[number % 3], number % 5), dtype=dtype)
        for number, vector in enumerate(vectors)
    ]


@given(seed=st.integers(0, 10_000), kind=KINDS, count=st.sampled_from([1, 2, 7, 200]), fitted=st.integers(1, 200))
@settings(max_examples=examples(100, 600), deadline=None)
def test_no_cosine_exceeds_the_bound_by_its_anchor_by_more_than_the_margin(
    seed: int, kind: str, count: int, fitted: int
) -> None:
    generator = np.random.default_rng(seed)
    vectors = generated(kind, count, generator)
    anchors = fit_anchors(vectors[:fitted], generator)
    placed = split_by_anchors(vectors, anchors)
    beside = unit(vectors[:3] + 0.05 * generator.standard_normal((min(3, count), WIDE)))
    for query in (*vectors[-3:], *-vectors[-1:], *anchors[:2], *beside, *unit(generator.standard_normal((2, WIDE)))):
        bounds = anchored_bounds(query, anchors, *placed)
        cosines = vectors.astype(np.float64) @ query.astype(np.float64)
        assert (cosines <= bounds + margin(WIDE)).all()


@given(seed=st.integers(0, 10_000), kind=KINDS, count=st.sampled_from([1, 2, 7, 40, 300]))
@settings(max_examples=examples(50, 300), deadline=None)
def test_anchors_are_few_unit_vectors_and_the_same_every_time(seed: int, kind: str, count: int) -> None:
    vectors = generated(kind, count, np.random.default_rng(seed))
    anchors = fit_anchors(vectors, np.random.default_rng(1))
    assert 1 <= len(anchors) <= max(1, count // ROWS_AN_ANCHOR)
    np.testing.assert_allclose(np.linalg.norm(anchors, axis=1), 1.0, atol=1e-6)
    assert np.array_equal(anchors, fit_anchors(vectors, np.random.default_rng(1)))


def test_rows_that_are_all_equal_share_one_anchor_and_opposite_ones_have_two() -> None:
    generator = np.random.default_rng(0)
    assert len(fit_anchors(generated("equal", 500, generator), generator)) == 1
    assert len(fit_anchors(generated("antipodal", 500, generator), generator)) == 2


def test_small_groups_get_anchors_too() -> None:
    generator = np.random.default_rng(5)
    sizes = [1500, *[15] * 100]
    middles = unit(generator.standard_normal((len(sizes), 256)))
    middle_of = np.repeat(np.arange(len(sizes)), sizes)
    vectors = unit(middles[middle_of] + 0.5 * unit(generator.standard_normal((sum(sizes), 256))))
    anchors = fit_anchors(vectors, generator)
    assert (middles @ anchors.T).max(axis=1).min() > COVERED


def test_no_further_anchors_are_drawn_where_rows_lie_in_no_groups() -> None:
    generator = np.random.default_rng(6)
    vectors = unit(generator.standard_normal((3000, 256)))
    assert len(fit_anchors(vectors, generator)) == DRAWN_A_ROUND


@pytest.mark.parametrize(
    ("centres", "spread", "kept"),
    [(300, 0.5, True), (300, 50.0, False), (3, 0.5, False)],
    ids=["groups in all directions", "no groups", "a few directions"],
)
def test_anchors_are_kept_where_they_rule_out_much_that_the_basis_does_not(
    centres: int, spread: float, kept: bool
) -> None:
    vectors = clustered(6000, centres, spread, np.random.default_rng(7), 256)
    basis = fit_basis(vectors)
    assert (choose_anchors(vectors, *split(vectors, basis), basis) is not None) is kept


def test_the_same_groups_are_found_in_a_sample_of_many_rows() -> None:
    step = sample_step(8 * FIT_ROWS)
    assert step == 8
    sample = clustered(6000, 900, 0.5, np.random.default_rng(8), 256)  # Groups of seven, of sixty before.
    basis = fit_basis(sample)
    assert choose_anchors(sample, *split(sample, basis), basis, step) is not None


def test_every_row_is_fitted_to_where_there_are_not_too_many() -> None:
    assert [sample_step(count) for count in (0, 1, FIT_ROWS, FIT_ROWS + 1)] == [1, 1, 1, 2]


@pytest.mark.parametrize("vector_type", ["FLOAT32", "FLOAT16"])
def test_rows_in_groups_are_found_exactly_and_few_of_them_scored(vector_type: str) -> None:
    generator = np.random.default_rng(9)
    dtype = {"FLOAT32": "<f4", "FLOAT16": "<f2"}[vector_type]
    vectors = clustered(4000, 200, 0.5, generator, 256)
    items = in_scopes(vectors, dtype)
    rows = settled(items, anchored=False, vector_type=vector_type, dimension=256)
    assert rows._anchors is not None
    for number in (5, 700, 3999):
        asked = rows.as_stored(unit(vectors[number] + 0.05 * unit(generator.standard_normal(256))))
        check(rows, items, Question(asked, 10), dtype=dtype)
    assert rows._pruning_of(Question(vectors[0], 10)).left < 0.01
    for asked in unit(generator.standard_normal((3, 256))):  # Far from all groups: nothing is ruled out.
        check(rows, items, Question(rows.as_stored(asked), 10, as_of_ms=2000 * HOUR_MS), dtype=dtype)
        check(rows, items, Question(rows.as_stored(asked), 10, product_id="ETH", regime=2), dtype=dtype)


def test_rows_with_anchors_take_hardly_more_memory_than_with_a_basis() -> None:
    generator = np.random.default_rng(10)
    grouped = settled(in_scopes(clustered(4000, 250, 0.5, generator, 256)), anchored=False, dimension=256)
    spread_out = settled(in_scopes(clustered(4000, 1, 50.0, generator, 256)), anchored=False, dimension=256)
    assert grouped._anchors is not None
    assert spread_out._anchors is None
    assert grouped.nbytes < 1.02 * spread_out.nbytes


def test_rows_that_a_few_directions_explain_have_no_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(*_: Any) -> None:
        raise AssertionError("Anchors were tried.")

    monkeypatch.setattr("memory.retrieval.near.rows.choose_anchors", tried)
    rows = settled(in_scopes(clustered(3000, 3, 0.2, np.random.default_rng(11), 256)), anchored=False, dimension=256)
    assert rows._anchors is None


def test_rows_keep_their_anchors_when_all_are_moved() -> None:
    vectors = clustered(4000, 250, 0.5, np.random.default_rng(16), 256)
    items = in_scopes(vectors)
    rows = settled(items, anchored=False, dimension=256)
    assert rows._anchors is not None
    for number, vector in enumerate(vectors[:300], start=len(items)):
        items.append(row(number, vector, scope=("NEW", 0)))  # A scope that comes first, and outgrows its room twice.
        rows.put(items[-1])
    for number in (0, 1000, 3999):
        check(rows, items, Question(vectors[number], 10))
    assert rows._pruning_of(Question(vectors[0], 10)).left < 0.01


def test_rows_far_from_all_anchors_are_found_when_they_are_added() -> None:
    generator = np.random.default_rng(12)
    items = in_scopes(clustered(2500, 125, 0.4, generator, 256))
    rows = settled(items, anchored=True, dimension=256)
    assert rows._anchors is not None
    for number, vector in enumerate(clustered(700, 10, 0.4, generator, 256), start=len(items)):
        items.append(row(number, vector, scope=("NEW", number % 2)))
        rows.put(items[-1])
    for item in items[::3]:
        rows.remove(item.key)
    left = [item for number, item in enumerate(items) if number % 3]
    for item in (left[0], left[-1]):
        asked = unit(np.frombuffer(item.vector, "<f4") + 0.02 * generator.standard_normal(256))
        check(rows, left, Question(asked, 10))
        check(rows, left, Question(asked, 10, product_id="NEW"))
        check(rows, left, Question(asked, 10, regime=1, until_ms=2600 * HOUR_MS))


@given(
    seed=st.integers(0, 10_000),
    weights=st.builds(RelevanceWeights, recency=st.sampled_from([0.0, 0.5]), reward=st.sampled_from([0.0, 2.0])),
    top_k=st.integers(1, 30),
)
@settings(max_examples=60, deadline=None)
def test_the_most_relevant_are_found_by_anchors(seed: int, weights: RelevanceWeights, top_k: int) -> None:
    generator = np.random.default_rng(seed)
    palette = clustered(40, 8, 0.3, generator, WIDE)
    items = [held(number, palette, generator) for number in range(300)]
    by_key = {item.key: item for item in items}
    rows = settled(items[:200], anchored=True, dimension=WIDE)
    for item in items[200:]:
        rows.put(item)
    relevance = Relevance(weights, NOW + timedelta(minutes=5))
    asked = rows.as_stored(unit(np.frombuffer(items[0].vector, "<f4") + 0.02 * generator.standard_normal(WIDE)))
    everything = relevance.order(hits_of(rows, rows.nearest(Question(asked, 300), 0), by_key))
    best = relevance.order(hits_of(rows, rows.most_relevant(Question(asked, top_k), relevance, 0), by_key))[:top_k]
    assert [hit.memory.memory_id for hit in best] == [hit.memory.memory_id for hit in everything[:top_k]]


def test_questions_of_one_kind_that_bounds_do_not_help_leave_the_others_their_bounds() -> None:
    vectors = clustered(4000, 250, 0.5, np.random.default_rng(13), 256)
    rows: AgentRows = settled(in_scopes(vectors), anchored=False, dimension=256)
    for vector in unit(np.random.default_rng(14).standard_normal((30, 256))):
        rows.nearest(Question(vector, 10, product_id="BTC"), 0)
    assert rows._pruning_of(Question(vectors[0], 10, product_id="ETH")).is_futile(FUTILE_FROM_BY_ANCHORS)
    assert not rows._pruning_of(Question(vectors[0], 10)).is_futile()


def test_where_there_is_no_row_the_bound_lies_below_every_cosine() -> None:
    vectors = unit(np.random.default_rng(15).standard_normal((4, WIDE)))
    nothing = (np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.float32), np.full(2, NO_ROW, dtype=np.float32))
    for query in (vectors[0], -vectors[0], vectors[1]):
        assert (anchored_bounds(query, vectors, *nothing) < search.NOTHING).all()
