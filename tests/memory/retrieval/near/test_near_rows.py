"""Rows in memory are searched exactly, whatever was put, replaced and removed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.retrieval.near.rows import AgentRows
from memory.retrieval.near.search import Question
from tests.memory.retrieval.near.brute_force import DIMENSION, HOUR_MS, PRODUCTS, check, row, settled, stored, unit
from tests.thoroughness import examples

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
    anchored=st.booleans(),
)
@settings(max_examples=examples(75, 450), deadline=None)
def test_changing_rows_are_found_as_brute_force_finds_them(
    seed: int,
    colours: int,
    first: int,
    changes: list[tuple[str, int]],
    questions: list[dict[str, Any]],
    now_ms: int,
    futile: bool,
    anchored: bool,
) -> None:
    generator = np.random.default_rng(seed)
    palette = unit(generator.standard_normal((colours, DIMENSION)))  # Few: many rows share a vector.
    held = {item.key: item for item in (stored(number, palette, generator) for number in range(first))}
    rows = settled(list(held.values()), anchored=anchored)
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
        for pruning in rows._pruning:
            pruning.left = 1.0  # As if bounds had ruled out nothing for long: all rows are scored.
    for asked in questions:
        question = Question(unit(palette[0] + 0.3 * generator.standard_normal(DIMENSION)), **asked)
        check(rows, list(held.values()), question, now_ms)


@pytest.mark.parametrize("anchored", [False, True])
def test_rows_that_came_after_bounds_were_fitted_are_found_exactly(anchored: bool) -> None:
    generator = np.random.default_rng(3)
    flat = np.zeros((300, DIMENSION))
    flat[:, :2] = generator.standard_normal((300, 2))  # The basis learns two directions, and the rest lies in others.
    held = [row(number, vector) for number, vector in enumerate(unit(flat))]
    rows = settled(held, anchored=anchored)
    for number, vector in enumerate(unit(generator.standard_normal((2500, DIMENSION))), start=300):
        held.append(row(number, vector, scope=("ETH", number % 4)))
        rows.put(held[-1])
    assert rows.outgrown
    for _ in range(10):
        check(rows, held, Question(unit(generator.standard_normal(DIMENSION)), 10))


@pytest.mark.parametrize("anchored", [False, True])
def test_half_precision_is_compared_as_it_is_stored(anchored: bool) -> None:
    generator = np.random.default_rng(2)
    vectors = unit(generator.standard_normal((400, DIMENSION)))
    held = [row(number, vector, dtype="<f2") for number, vector in enumerate(vectors)]
    rows = settled(held, anchored=anchored, vector_type="FLOAT16")
    question = Question(rows.as_stored(unit(generator.standard_normal(DIMENSION))), 10)
    check(rows, held, question, dtype="<f2")
    found = rows.nearest(question, 0)
    returned = found.vectors
    assert np.array_equal(returned, rows.vectors(found.slots))
    assert returned.dtype == np.float32
    assert not returned.flags.writeable


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
