"""REGIME memories: what each regime looks like, merged over windows."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import InvalidRecordError
from memory.learning import serial
from memory.learning.context import ProjectionContext
from memory.learning.regime_memory import (
    RegimeSummary,
    fold_regimes,
    project_regimes,
    summarise_regimes,
)
from memory.learning.transitions import fold_transitions, summarise_transitions
from memory.records import REGIMES, RegimeMemory, to_ms
from memory.tables import StateTable
from memory.validation import validate_semantic
from memory.window import Window

FIRST = Window.of_date(date(2021, 6, 17))
SECOND = Window.of_date(date(2021, 6, 18))
CONTEXT = ProjectionContext("enc", "replay", "default/enc/1", datetime(2021, 6, 18, tzinfo=UTC))
DIMENSION = 256


def states_of(seed: int, count: int, window: Window = FIRST, products: tuple[str, ...] = ("A", "B")) -> StateTable:
    """Random states, `count` consecutive minutes a product; one feature is missing for a third of them."""
    rng = np.random.default_rng(seed)
    total = count * len(products)
    vectors = rng.standard_normal((total, DIMENSION)).astype(np.float32)
    features = rng.standard_normal((total, 2))
    features[::3, 1] = np.nan
    times = np.tile(to_ms(window.start) + np.arange(count, dtype=np.int64) * 60_000, len(products))
    return StateTable(
        encoder_id="enc",
        source="replay",
        feature_names=("slope", "burst"),
        products=products,
        product=np.repeat(np.arange(len(products)), count),
        timestamp_ms=times,
        known_at_ms=times + 60_000,
        recorded_at_ms=times,
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        features=features,
        price=np.ones(total),
        spread=np.full(total, np.nan),
        regime=rng.integers(0, 3, total),
    )


def project(*tables: StateTable) -> list[RegimeMemory]:
    state, transitions = None, None
    for window, table in zip((FIRST, SECOND), tables, strict=False):
        state = fold_regimes(state, summarise_regimes(table, window))
        transitions = fold_transitions(transitions, summarise_transitions(table))
    assert state is not None
    assert transitions is not None
    return project_regimes(state, transitions, CONTEXT)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 30), st.integers(0, 30))
def test_windows_merged_equal_all_states_at_once(seed: int, cut: int, rest: int):
    table = states_of(seed, cut + rest)
    early = table.timestamp_ms < to_ms(FIRST.start) + cut * 60_000
    parts = [summarise_regimes(table.take(mask), FIRST) for mask in (early, ~early)]
    merged, whole = fold_regimes(fold_regimes(None, parts[0]), parts[1]), summarise_regimes(table, FIRST)
    assert len(merged.cells) == len(whole.cells)
    for ours, theirs in zip(merged.cells, whole.cells, strict=True):
        assert (ours.product, ours.regime, ours.states) == (theirs.product, theirs.regime, theirs.states)
        assert np.allclose(ours.vector_sum, theirs.vector_sum, rtol=0, atol=1e-9)
        assert np.allclose(ours.feature_sum, theirs.feature_sum, rtol=0, atol=1e-9)
        assert np.array_equal(ours.feature_count, theirs.feature_count)
        assert serial.encode(ours.sketch) == serial.encode(theirs.sketch)


def test_pooled_memories_stand_for_all_products():
    table = states_of(1, 200)
    memories = project(table)
    pooled = [memory for memory in memories if memory.product_id == "ALL"]
    assert [memory.regime_name for memory in pooled] == list(REGIMES[:3])
    assert sum(memory.states for memory in pooled) == 400
    assert sum(memory.share for memory in pooled) == pytest.approx(1.0)
    for memory in pooled:
        rows = table.regime == REGIMES.index(memory.regime_name)
        mean = table.vectors[rows].mean(axis=0, dtype=np.float64)
        assert np.allclose(memory.concept_vector, mean / np.linalg.norm(mean), atol=1e-6)
        assert memory.regime_features["slope"] == pytest.approx(table.features[rows, 0].mean())


def test_a_missing_feature_does_not_count():
    table = states_of(2, 100, products=("A",))
    memory = project(table)[-1]
    rows = table.regime == REGIMES.index(memory.regime_name)
    assert memory.regime_features["burst"] == pytest.approx(np.nanmean(table.features[rows, 1]))
    assert memory.regime_features["burst.p10"] < memory.regime_features["burst.p90"]


def test_probabilities_sum_to_one_and_leave_the_regime_itself_out():
    for memory in project(states_of(3, 100)):
        assert memory.regime_name not in memory.transition_probability
        assert sum(memory.transition_probability.values()) == pytest.approx(1.0)
        assert sum(memory.step_probability.values()) == pytest.approx(1.0)
        for following in memory.path_probability.values():
            assert sum(following.values()) == pytest.approx(1.0)


def test_the_next_night_is_a_version_of_the_same_memory():
    first = {memory.memory_id: memory for memory in project(states_of(4, 100))}
    both = {memory.memory_id: memory for memory in project(states_of(4, 100), states_of(5, 100, SECOND))}
    assert set(first) == set(both)
    for memory_id, memory in both.items():
        assert memory.states > first[memory_id].states
        assert memory.created_at == first[memory_id].created_at == FIRST.end


def test_memories_are_fit_for_the_store():
    for memory in project(states_of(6, 50)):
        validate_semantic(memory)
        assert memory.source == "replay"
        assert memory.regime_name in memory.description


def test_a_product_that_is_new_in_a_window_joins():
    memories = project(states_of(7, 50, products=("A",)), states_of(8, 50, SECOND, products=("A", "B")))
    assert {memory.product_id for memory in memories} == {"ALL", "A", "B"}
    assert {memory.created_at for memory in memories if memory.product_id == "B"} == {SECOND.end}


def test_no_memory_without_a_spell_at_its_side():
    summary = summarise_regimes(states_of(9, 10), FIRST)
    transitions = summarise_transitions(states_of(9, 10, products=("A",)))
    with pytest.raises(InvalidRecordError, match="B has regimes but no transitions"):
        project_regimes(summary, transitions, CONTEXT)


def test_nothing_gives_nothing():
    assert project(states_of(1, 0)) == []


def test_durations_are_in_seconds():
    table = states_of(1, 60, products=("A",))
    regular = np.tile(np.repeat([2, 3], 10), 3)
    memories = project(StateTable(**{**{name: getattr(table, name) for name in table.__slots__}, "regime": regular}))
    assert {memory.typical_duration for memory in memories} == {timedelta(minutes=10).total_seconds()}


def test_summaries_survive_the_ledger():
    summary = summarise_regimes(states_of(1, 40), FIRST)
    read = serial.decode(serial.encode(summary), RegimeSummary)
    assert serial.encode(fold_regimes(read, read)) == serial.encode(fold_regimes(summary, summary))
