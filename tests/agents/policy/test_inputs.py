"""Inputs of a policy: what acting and learning build is the same, and what is not known is a mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.policy.inputs import (
    MemoryColumns,
    StateColumns,
    cost_rates,
    feature_row,
    state_inputs,
    tokens_of,
    tokens_of_rows,
    volatility_of,
)
from agents.policy.knowledge import knowledge_of
from agents.policy.layout import FALLBACK_VOLATILITY, KNOWLEDGE_NAMES, VOLATILITY_FLOOR, InputLayout
from agents.policy.retrieval import states_of
from agents.replay import State
from memory.errors import EncoderError, InvalidRecordError
from memory.records import REGIMES, EpisodicMemory, to_ms
from memory.retrieval.hits import Hit
from memory.tables import TRAILING_VOLATILITY


def _hits(memories: tuple[EpisodicMemory, ...], encoder_id: str) -> list[Hit]:
    return [
        Hit(replace(memory, encoder_id=encoder_id), 0.01 * number, 1 - 0.01 * number)
        for number, memory in enumerate(memories)
    ]


def _columns(layout: InputLayout, memories: list[EpisodicMemory]) -> MemoryColumns:
    return MemoryColumns(
        timestamp_ms=np.array([to_ms(memory.timestamp) for memory in memories]),
        product=np.zeros(len(memories), int),
        regime=np.array([REGIMES.index(memory.regime) for memory in memories]),
        position_before=np.array([memory.position_before for memory in memories]),
        position_after=np.array([memory.position_after for memory in memories]),
        reward=np.array([memory.reward for memory in memories]),
        gross_return=np.array([memory.gross_return for memory in memories]),
        cost=np.array([memory.cost for memory in memories]),
        trailing_volatility=np.array([memory.features[TRAILING_VOLATILITY] for memory in memories]),
        compressed=layout.compress(np.stack([memory.state_vector for memory in memories])),
        compressed_next=layout.compress(np.stack([memory.next_state_vector for memory in memories])),
        has_next=np.ones(len(memories), bool),
    )


def test_tokens_of_hits_are_those_of_rows(
    layout: InputLayout, lived_hours: tuple[EpisodicMemory, ...], states: tuple[State, ...]
) -> None:
    state = states[0]
    hits = _hits(lived_hours[100:105], layout.encoder_id)
    tokens, mask = tokens_of(
        layout, hits[:2], hits[2:4], product_id=state.product_id, timestamp_ms=to_ms(state.timestamp), regime="QUIET"
    )
    table = _columns(layout, [hit.memory for hit in hits])
    rows = np.array([[0, 1, -1, 2, 3]])
    distances = np.array([[0.0, 0.01, np.nan, 0.02, 0.03]])
    queries = states_of(layout, [state], ["QUIET"])
    own = np.array([True, True, True, False, False])
    from_rows, rows_mask = tokens_of_rows(layout, table, rows, distances, own, queries)
    np.testing.assert_array_equal(mask, rows_mask)
    np.testing.assert_allclose(tokens, from_rows, rtol=0, atol=1e-6)


def test_columns_say_what_a_memory_was(
    layout: InputLayout, lived_hours: tuple[EpisodicMemory, ...], states: tuple[State, ...]
) -> None:
    held = next(memory for memory in lived_hours if memory.position_after == 1.0 and memory.cost)
    hit = Hit(replace(held, encoder_id=layout.encoder_id), 0.2, 0.8)
    tokens, _ = tokens_of(
        layout, [], [hit], product_id="ETH-USDT", timestamp_ms=to_ms(held.timestamp) + 86_400_000, regime=held.regime
    )
    token = dict(zip(layout.token_names, tokens[0, layout.own].tolist(), strict=True))
    volatility = held.features[TRAILING_VOLATILITY]
    assert token["reward"] == pytest.approx(held.reward / volatility, rel=1e-5)
    assert token["move"] == pytest.approx(held.gross_return / volatility, rel=1e-5)
    assert token["cost"] == pytest.approx(held.cost / volatility, rel=1e-5)
    assert token["log_age"] == pytest.approx(np.log(2.0))
    named = ("move_known", "own", "same_product", "same_regime", "has_next")
    assert [token[name] for name in named] == [1, 0, 0, 1, 1]


def test_the_move_is_unknown_where_nothing_was_held(
    layout: InputLayout, lived_hours: tuple[EpisodicMemory, ...]
) -> None:
    flat = next(memory for memory in lived_hours if memory.position_after == 0.0)
    hit = Hit(replace(flat, encoder_id=layout.encoder_id), 0.2, 0.8)
    tokens, _ = tokens_of(layout, [hit], [], product_id="BTC-USDT", timestamp_ms=to_ms(flat.timestamp), regime="QUIET")
    token = dict(zip(layout.token_names, tokens[0, 0].tolist(), strict=True))
    assert (token["move"], token["move_known"]) == (0, 0)


def test_nothing_retrieved_is_a_mask(layout: InputLayout) -> None:
    _, mask = tokens_of(layout, [], [], product_id="BTC-USDT", timestamp_ms=0, regime="QUIET")
    assert mask.shape == (1, layout.memories)
    assert not mask.any()


def test_more_hits_than_places_are_left_out(layout: InputLayout, lived_hours: tuple[EpisodicMemory, ...]) -> None:
    hits = _hits(lived_hours[:9], layout.encoder_id)
    now = to_ms(lived_hours[9].timestamp)
    _, mask = tokens_of(layout, hits, hits, product_id="BTC-USDT", timestamp_ms=now, regime="QUIET")
    assert mask.all()


def test_a_memory_of_another_encoder_is_refused(layout: InputLayout, lived_hours: tuple[EpisodicMemory, ...]) -> None:
    hits = _hits(lived_hours[:1], "another-encoder")
    with pytest.raises(EncoderError, match=r"another-encoder.*encoder_id="):
        tokens_of(layout, hits, [], product_id="BTC-USDT", timestamp_ms=0, regime="QUIET")


def test_a_feature_that_is_not_finite_is_named(layout: InputLayout, states: tuple[State, ...]) -> None:
    columns = states_of(layout, states[:1], ["QUIET"])
    columns.features[0, 2] = np.nan
    with pytest.raises(InvalidRecordError, match=layout.feature_names[2]):
        state_inputs(layout, columns)


def test_a_missing_feature_is_named(layout: InputLayout, states: tuple[State, ...]) -> None:
    features = dict(states[0].features)
    del features[layout.feature_names[1]]
    with pytest.raises(EncoderError, match=layout.feature_names[1]):
        feature_row(layout, features)


def test_costs_are_told_in_trailing_volatilities(layout: InputLayout, states: tuple[State, ...]) -> None:
    columns = states_of(layout, states[:1], ["QUIET"])
    column = layout.state_names.index("log_cost")
    cheap = state_inputs(layout, columns)[0, column]
    dear = state_inputs(layout, replace(columns, spread=np.array([columns.price[0] * 1e-3])))[0, column]
    expected = np.log1p(2e-4 / columns.trailing_volatility[0])
    assert cheap == pytest.approx(expected, rel=1e-5)
    assert dear == pytest.approx(np.log1p((2e-4 + 5e-4) / columns.trailing_volatility[0]), rel=1e-5)


def test_cost_rates_leave_the_spread_out_where_they_are_told_to(layout: InputLayout) -> None:
    rates = cost_rates(replace(layout, half_spread=False), np.array([100.0]), np.array([1.0]))
    assert rates.tolist() == [2e-4]


def test_volatilities_are_never_divided_by_nothing() -> None:
    assert volatility_of(np.array([np.nan, 0.0, 0.5])).tolist() == [FALLBACK_VOLATILITY, VOLATILITY_FLOOR, 0.5]


def test_what_is_not_known_is_masked() -> None:
    values, known = knowledge_of(None)
    assert values.shape == (len(KNOWLEDGE_NAMES),)
    assert not known.any()


def test_positions_and_masks_change_nothing_else(layout: InputLayout, states: tuple[State, ...]) -> None:
    columns: StateColumns = states_of(layout, states[:2], ["QUIET", "QUIET"])
    assert columns.take(np.array([1])).timestamp_ms.tolist() == [to_ms(states[1].timestamp)]
