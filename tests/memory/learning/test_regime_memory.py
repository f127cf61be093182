"""REGIME memories: what each regime looks like, merged over windows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from scipy import stats

from memory.errors import InvalidRecordError
from memory.learning import serial
from memory.learning.context import ProjectionContext
from memory.learning.evidence import OutcomeSample, base_rates
from memory.learning.outcomes import forward_returns
from memory.learning.predictions import HORIZONS
from memory.learning.regime_memory import (
    RegimeSummary,
    fold_regimes,
    project_regimes,
    summarise_regimes,
)
from memory.learning.settings import LearningSettings
from memory.learning.sketches import RELATIVE_ERROR
from memory.learning.transitions import fold_transitions, summarise_transitions
from memory.records import REGIMES, RegimeMemory, to_ms
from memory.store.semantic_codec import pack_semantic, unpack_semantic
from memory.tables import TRAILING_VOLATILITY, StateTable
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
    price = 100 * np.exp(np.cumsum(rng.standard_normal((len(products), count)) * 1e-3, axis=1)).reshape(-1)
    times = np.tile(to_ms(window.start) + np.arange(count, dtype=np.int64) * 60_000, len(products))
    return StateTable(
        encoder_id="enc",
        source="replay",
        feature_names=("slope", "burst", TRAILING_VOLATILITY),
        products=products,
        product=np.repeat(np.arange(len(products)), count),
        timestamp_ms=times,
        known_at_ms=times + 60_000,
        recorded_at_ms=times,
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        features=np.column_stack([features, rng.uniform(5e-4, 2e-3, total)]),
        price=price,
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


@pytest.mark.parametrize("horizon", HORIZONS)
def test_base_rates_are_those_of_all_states_and_their_outcomes_by_the_estimates_own_arithmetic(horizon: int):
    tables = [states_of(11, 1440), states_of(12, 1440, SECOND)]
    pooled = [memory for memory in project(*tables) if memory.product_id == "ALL"]
    learning = LearningSettings()
    sample = OutcomeSample.joined(
        [
            OutcomeSample(
                table.timestamp_ms,
                table.regime,
                forward_returns(table, max_gap_minutes=learning.max_gap_minutes),
                table.feature(TRAILING_VOLATILITY),
            )
            for table in tables
        ]
    )
    assert [memory.regime_name for memory in pooled] == list(REGIMES[:3])
    for memory in pooled:
        expected = base_rates(sample, memory.regime_name, horizon)
        (rate,) = [item for item in memory.base_rates if item.horizon_minutes == horizon]
        assert expected is not None
        for ours, theirs in ((rate.gross, expected.gross), (rate.scaled, expected.scaled)):
            assert ours is not None
            assert theirs is not None
            assert (ours.n, ours.blocks) == (theirs.n, theirs.blocks)
            for name in ("mean", "spread", "variance", "concentration"):
                assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-9, abs=1e-15)
        assert rate.volatility is not None
        assert expected.volatility is not None
        assert rate.volatility.mean == pytest.approx(expected.volatility.mean)
        assert rate.magnitude_p90 == pytest.approx(expected.reach[0.90], rel=RELATIVE_ERROR + 0.01)
        assert rate.magnitude_p95 == pytest.approx(expected.reach[0.95], rel=RELATIVE_ERROR + 0.01)


def test_the_interval_of_a_base_rate_counts_blocks_and_needs_eight():
    long, short = project(states_of(13, 1440)), project(states_of(13, 200))
    for memory in long:
        gross = memory.base_rates[0].gross
        assert gross.interval is not None
        assert gross.variance is not None
        reach = stats.t.ppf(0.975, gross.blocks - 1) * gross.variance**0.5
        assert gross.interval.low == pytest.approx(gross.mean - reach)
    assert all(memory.base_rates[0].gross.interval is None for memory in short)


def test_a_regime_without_known_outcomes_has_no_base_rates():
    table = states_of(14, 1)
    assert all(memory.base_rates == () for memory in project(table))
    unknown = replace(states_of(15, 60), price=np.full(120, np.nan))
    assert all(memory.base_rates == () for memory in project(unknown))


def test_without_a_trailing_volatility_there_are_returns_only():
    table = states_of(16, 300)
    features = table.features.copy()
    features[:, 2] = np.nan
    for memory in project(replace(table, features=features)):
        for rate in memory.base_rates:
            assert rate.gross.n > 0
            assert (rate.scaled, rate.volatility, rate.magnitude_p90, rate.magnitude_p95) == (None, None, None, None)


def test_base_rates_survive_the_store_and_are_refused_where_they_cannot_be():
    memory = project(states_of(17, 300))[0]
    packed = pack_semantic(memory)
    read = unpack_semantic(packed.kind, packed.body, packed.vector, 0, None)
    assert isinstance(read, RegimeMemory)
    assert read.base_rates == memory.base_rates != ()
    for wrong in (
        memory.base_rates * 2,
        (replace(memory.base_rates[0], gross=replace(memory.base_rates[0].gross, mean=float("nan"))),),
        (replace(memory.base_rates[0], gross=replace(memory.base_rates[0].gross, blocks=0)),),
        (replace(memory.base_rates[0], magnitude_p95=-1.0),),
    ):
        with pytest.raises(InvalidRecordError, match=r"base rate|base_rates|magnitude_p95") as caught:
            validate_semantic(replace(memory, base_rates=wrong))
        assert caught.value.field == "base_rates"


def test_summaries_of_other_blocks_are_not_mixed():
    table = states_of(1, 40)
    with pytest.raises(InvalidRecordError, match="never mixed"):
        fold_regimes(
            summarise_regimes(table, FIRST), summarise_regimes(table, SECOND, LearningSettings(block_minutes=60))
        )


def test_no_memory_without_a_spell_at_its_side():
    summary = summarise_regimes(states_of(9, 10), FIRST)
    transitions = summarise_transitions(states_of(9, 10, products=("A",)))
    with pytest.raises(InvalidRecordError, match="B has regimes but no transitions"):
        project_regimes(summary, transitions, CONTEXT)


def test_nothing_gives_nothing():
    nothing = states_of(1, 0)
    assert project(nothing) == []
    assert project(replace(nothing, products=())) == []


def test_durations_are_in_seconds():
    table = states_of(1, 60, products=("A",))
    regular = np.tile(np.repeat([2, 3], 10), 3)
    memories = project(StateTable(**{**{name: getattr(table, name) for name in table.__slots__}, "regime": regular}))
    assert {memory.typical_duration for memory in memories} == {timedelta(minutes=10).total_seconds()}


def test_summaries_survive_the_ledger():
    summary = summarise_regimes(states_of(1, 40), FIRST)
    read = serial.decode(serial.encode(summary), RegimeSummary)
    assert serial.encode(fold_regimes(read, read)) == serial.encode(fold_regimes(summary, summary))
