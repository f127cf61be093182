"""Rows in memory are searched exactly, whatever was put, replaced and removed, and however little the bounds help."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.records import PHASES, from_ms, market_phase
from memory.retrieval.near import search
from memory.retrieval.near.arena import NEVER_MS
from memory.retrieval.near.basis import fit_basis, margin, query_weights, split
from memory.retrieval.near.rows import AgentRows, StoredRow
from memory.retrieval.near.search import TRIED_AGAIN_AFTER, Pruning, Question

DIMENSION = 24
HOUR_MS = 3_600_000
PRODUCTS = ("BTC", "ETH", "XRP")


def unit(vectors: Any) -> Any:
    scaled = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled.astype(np.float32)


def row(
    number: int, vector: Any, *, scope: tuple[str, int] = ("BTC", 0), dtype: str = "<f4", **changes: Any
) -> StoredRow:
    made = StoredRow(
        key=f"ns:episodic:a:{scope[0]}:{number}:{number:032x}".encode(),
        body=b"body",
        vector=vector.astype(dtype).tobytes(),
        product_id=scope[0],
        timestamp_ms=number * HOUR_MS,
        regime=scope[1],
        feature_schema="",
        known_ms=number * HOUR_MS,
        recorded_ms=number,
        expires_ms=NEVER_MS,
        reward=0.0,
    )
    return made._replace(**changes)


def brute_force(
    held: list[StoredRow], question: Question, now_ms: int, dtype: str = "<f4"
) -> list[tuple[float, bytes]]:
    found = []
    for item in held:
        phase = PHASES.index(market_phase(from_ms(item.timestamp_ms)))
        fits = (
            question.product_id in (None, item.product_id)
            and question.regime in (None, item.regime)
            and question.phase in (None, phase)
            and (question.since_ms is None or item.timestamp_ms >= question.since_ms)
            and (question.until_ms is None or item.timestamp_ms < question.until_ms)
            and (question.as_of_ms is None or item.known_ms <= question.as_of_ms)
            and (question.min_reward is None or item.reward >= question.min_reward)
            and item.expires_ms > now_ms
        )
        if fits:
            vector = np.frombuffer(item.vector, dtype).astype(np.float64)
            query = question.vector.astype(np.float64)
            found.append((1.0 - float(vector @ query) / float(np.linalg.norm(vector)), item.key.split(b":")[-1]))
    return sorted(found)[: question.top_k]


def check(rows: AgentRows, held: list[StoredRow], question: Question, now_ms: int = 0, dtype: str = "<f4") -> None:
    """What is found is what brute force finds; rounding may only swap neighbours of different vectors."""
    found = rows.nearest(question, now_ms)
    everything = brute_force(held, replace(question, top_k=len(held)), now_ms, dtype)
    expected = [distance for distance, _ in everything[: question.top_k]]
    true_distance = {name: distance for distance, name in everything}
    names = [rows.key(slot).split(b":")[-1] for slot in found.slots]
    assert len(names) == len(set(names)) == len(expected)
    np.testing.assert_allclose(found.distances, expected, atol=1e-6)
    np.testing.assert_allclose([true_distance[name] for name in names], expected, atol=1e-6)
    ordered = list(zip(found.distances, names, strict=True))
    assert ordered == sorted(ordered)
    assert not found.vectors.flags.writeable
    stored_as = {item.key.split(b":")[-1]: np.frombuffer(item.vector, dtype).astype(np.float32) for item in held}
    assert all(np.array_equal(vector, stored_as[name]) for vector, name in zip(found.vectors, names, strict=True))


def stored(number: int, palette: Any, generator: np.random.Generator) -> StoredRow:
    """A record of a number: its key is always the same, the rest is drawn."""
    return row(
        number,
        palette[generator.integers(len(palette))],
        scope=(PRODUCTS[number % 3], int(generator.integers(5))),
        known_ms=int(generator.integers(30)) * HOUR_MS,
        expires_ms=(NEVER_MS, NEVER_MS, 5, 10)[generator.integers(4)],
        reward=float(generator.choice([-1.0, 0.0, 0.5])),
    )


QUESTIONS = st.fixed_dictionaries(
    {"top_k": st.integers(1, 40)},
    optional={
        "product_id": st.sampled_from([*PRODUCTS, "none"]),
        "regime": st.integers(0, 4),
        "phase": st.integers(0, 2),
        "since_ms": st.integers(0, 40).map(lambda hour: hour * HOUR_MS),
        "until_ms": st.integers(0, 40).map(lambda hour: hour * HOUR_MS),
        "as_of_ms": st.integers(0, 30).map(lambda hour: hour * HOUR_MS),
        "min_reward": st.sampled_from([-1.0, 0.0, 0.5]),
    },
)


CHANGES = st.lists(st.tuples(st.sampled_from(["put", "replace", "remove"]), st.integers(0, 80)), max_size=60)


@given(
    seed=st.integers(0, 10_000),
    colours=st.integers(1, 30),
    first=st.integers(0, 60),
    changes=CHANGES,
    questions=st.lists(QUESTIONS, min_size=1, max_size=5),
    now_ms=st.sampled_from([0, 5, 7, 10]),
    futile=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_changing_rows_are_found_as_brute_force_finds_them(
    seed: int,
    colours: int,
    first: int,
    changes: list[tuple[str, int]],
    questions: list[dict[str, Any]],
    now_ms: int,
    futile: bool,
) -> None:
    generator = np.random.default_rng(seed)
    palette = unit(generator.standard_normal((colours, DIMENSION)))  # Few: many rows share a vector.
    held = {item.key: item for item in (stored(number, palette, generator) for number in range(first))}
    rows = AgentRows("FLOAT32", DIMENSION, first)
    rows.fill(list(held.values()))
    rows.settle()
    for change, number in changes:
        if change == "put" or not held:
            item = stored(number, palette, generator)
        else:
            item = held[sorted(held)[number % len(held)]]
        if change == "remove":
            rows.remove(item.key)
            held.pop(item.key, None)
            continue
        if change == "replace":
            item = item._replace(reward=0.5, regime=4, vector=palette[0].tobytes())
        rows.put(item)
        held[item.key] = item
    assert len(rows) == len(held)
    if futile:
        rows._pruning.left = 1.0  # As if bounds had ruled out nothing for long: all rows are scored.
    for asked in questions:
        question = Question(unit(palette[0] + 0.3 * generator.standard_normal(DIMENSION)), **asked)
        check(rows, list(held.values()), question, now_ms)


@pytest.mark.parametrize("count", [1, 9, 500, 9_000])
@pytest.mark.parametrize("spread", [0.02, 5.0], ids=["on a curve", "everywhere"])
@pytest.mark.parametrize("left", [0.0, 1.0], ids=["by bounds", "all scored"])
def test_many_rows_are_found_exactly_whether_or_not_bounds_help(count: int, spread: float, left: float) -> None:
    generator = np.random.default_rng(count)
    steps = generator.standard_normal((count, 3)).cumsum(axis=0) / 10
    vectors = unit(
        np.tanh(steps @ generator.standard_normal((3, DIMENSION)))
        + spread * generator.standard_normal((count, DIMENSION))
    )
    held = [row(number, vector, scope=(PRODUCTS[number % 3], number % 5)) for number, vector in enumerate(vectors)]
    rows = AgentRows("FLOAT32", DIMENSION, count)
    rows.fill(held)
    rows.settle()
    rows._pruning.left = left
    for number in range(3):
        asked = unit(vectors[generator.integers(count)] + 0.02 * generator.standard_normal(DIMENSION))
        check(rows, held, Question(asked, 10))
        check(rows, held, Question(asked, 10, product_id="BTC", as_of_ms=count // 2 * HOUR_MS))
        check(rows, held, Question(asked, 3, regime=number % 5))
    check(rows, held, Question(unit(vectors[0]), count + 5))


def test_rows_that_came_after_the_basis_was_fitted_are_found_exactly() -> None:
    generator = np.random.default_rng(3)
    flat = np.zeros((300, DIMENSION))
    flat[:, :2] = generator.standard_normal((300, 2))  # The basis learns two directions, and the rest lies in others.
    held = [row(number, vector) for number, vector in enumerate(unit(flat))]
    rows = AgentRows("FLOAT32", DIMENSION)
    rows.fill(held)
    rows.settle()
    for number, vector in enumerate(unit(generator.standard_normal((2500, DIMENSION))), start=300):
        held.append(row(number, vector, scope=("ETH", number % 4)))
        rows.put(held[-1])
    assert rows.outgrown
    for _ in range(10):
        check(rows, held, Question(unit(generator.standard_normal(DIMENSION)), 10))


def test_equal_distances_are_ordered_by_memory_id_wherever_the_rows_lie() -> None:
    generator = np.random.default_rng(1)
    same, others = unit(generator.standard_normal(DIMENSION)), unit(generator.standard_normal((3000, DIMENSION)))
    order = generator.permutation(3040)
    vectors = [same if number < 40 else others[number - 40] for number in range(3040)]
    rows = AgentRows("FLOAT32", DIMENSION)
    rows.fill([row(int(number), vectors[number], scope=(PRODUCTS[number % 3], 0)) for number in order])
    rows.settle()
    found = rows.nearest(Question(unit(same + 0.01 * others[0]), 25), 0)
    assert len(set(found.distances)) == 1
    assert [int(rows.key(slot).split(b":")[-1], 16) for slot in found.slots] == list(range(25))


def test_half_precision_is_compared_as_it_is_stored() -> None:
    generator = np.random.default_rng(2)
    vectors = unit(generator.standard_normal((400, DIMENSION)))
    held = [row(number, vector, dtype="<f2") for number, vector in enumerate(vectors)]
    rows = AgentRows("FLOAT16", DIMENSION)
    rows.fill(held)
    rows.settle()
    question = Question(rows.as_stored(unit(generator.standard_normal(DIMENSION))), 10)
    check(rows, held, question, dtype="<f2")
    found = rows.nearest(question, 0)
    returned = found.vectors
    assert np.array_equal(returned, rows.vectors(found.slots))
    assert returned.dtype == np.float32
    assert not returned.flags.writeable


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


def test_bytes_grow_and_shrink_with_the_rows() -> None:
    vectors = unit(np.random.default_rng(0).standard_normal((200, DIMENSION)))
    rows = AgentRows("FLOAT32", DIMENSION)
    empty = rows.nbytes
    for number, vector in enumerate(vectors):
        rows.put(row(number, vector, body=bytes(1000)))
    full = rows.nbytes
    assert full - empty > 200 * (1000 + 4 * DIMENSION)
    for number in range(200):
        rows.remove(row(number, vectors[number]).key)
    assert len(rows) == 0
    assert rows.nbytes < full - 200 * 1000
    assert rows.nearest(Question(vectors[0], 5), 0).slots == []


def test_an_expired_row_is_not_referred_to() -> None:
    rows = AgentRows("FLOAT32", DIMENSION)
    item = row(1, unit(np.ones(DIMENSION)), expires_ms=100)
    rows.put(item)
    assert rows.slot(item.key, 99) == 0
    assert rows.slot(item.key, 100) is None
    assert rows.slot(b"other", 0) is None


def test_a_question_can_be_asked_again_with_other_limits() -> None:
    vectors = unit(np.random.default_rng(0).standard_normal((50, DIMENSION)))
    rows = AgentRows("FLOAT32", DIMENSION)
    rows.fill([row(number, vector) for number, vector in enumerate(vectors)])
    rows.settle()
    question = Question(vectors[7], 50)
    assert len(rows.nearest(question, 0).slots) == 50
    assert len(rows.nearest(replace(question, as_of_ms=9 * HOUR_MS), 0).slots) == 10
    assert len(rows.nearest(question, 0).slots) == 50


def test_bounds_are_left_out_where_they_rule_out_little_and_tried_again_now_and_then() -> None:
    pruning = Pruning()
    assert not pruning.is_futile()
    for _ in range(20):
        pruning.note(90, 100)
    assert sum(pruning.is_futile() for _ in range(TRIED_AGAIN_AFTER)) == TRIED_AGAIN_AFTER - 1
    for _ in range(20):
        pruning.note(1, 100)
    assert not pruning.is_futile()
