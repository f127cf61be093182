"""Records are checked where they enter, and say what is wrong and what to do."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.errors import InvalidRecordError
from memory.records import (
    Action,
    CorrelationMemory,
    EpisodicMemory,
    SemanticType,
    Side,
    experience_id,
    from_ms,
    market_phase,
    semantic_type,
    to_ms,
)
from memory.validation import validate_experience, validate_identifier, validate_semantic, validate_vector

DAY = datetime(2021, 6, 17, tzinfo=UTC)
UNIT = np.full(256, 1 / 16, dtype=np.float32)


def experience(**changes: Any) -> EpisodicMemory:
    values: dict[str, Any] = {
        "agent_id": "momentum",
        "timestamp": DAY,
        "state_vector": UNIT,
        "action": Action(Side.BUY, 0.5),
        "reward": 0.1,
        "product_id": "BTC-USDT",
        "regime": "QUIET",
    }
    return EpisodicMemory(**{**values, **changes})


def test_what_follows_from_the_rest_is_filled_in() -> None:
    record = validate_experience(experience(timestamp=DAY + timedelta(hours=9)))
    assert record.market_phase == "MIDDAY"
    assert record.memory_id == experience_id("live", "live", "momentum", "BTC-USDT", DAY + timedelta(hours=9), 0)


def test_a_valid_record_may_be_validated_again() -> None:
    record = validate_experience(experience())
    assert validate_experience(record).memory_id == record.memory_id


def test_every_part_of_what_makes_an_experience_counts_for_its_id() -> None:
    base = ("live", "run", "a", "p", DAY, 0)
    other = ("replay", "run-2", "b", "q", DAY + timedelta(milliseconds=1), 1)
    ids = {experience_id(*base)}
    for position in range(6):
        changed = [*base[:position], other[position], *base[position + 1 :]]
        ids.add(experience_id(*changed))  # type: ignore[arg-type]
    assert len(ids) == 7


def test_times_of_other_zones_become_utc() -> None:
    zone = timezone(timedelta(hours=9))
    record = validate_experience(experience(timestamp=(DAY + timedelta(hours=1)).astimezone(zone)))
    assert record.timestamp.tzinfo == UTC
    assert record.timestamp == DAY + timedelta(hours=1)


BAD = [
    ({"agent_id": ""}, "agent_id"),
    ({"agent_id": "a:b"}, "agent_id"),
    ({"product_id": "BTC/USDT"}, "product_id"),
    ({"run_id": "-x"}, "run_id"),
    ({"encoder_id": "a b"}, "encoder_id"),
    ({"timestamp": datetime(2021, 6, 17)}, "timestamp"),
    ({"timestamp": "2021-06-17"}, "timestamp"),
    ({"known_at": DAY - timedelta(seconds=1)}, "known_at"),
    ({"state_vector": UNIT.astype(np.float64)}, "state_vector"),
    ({"state_vector": UNIT[:100]}, "state_vector"),
    ({"state_vector": 2 * UNIT}, "state_vector"),
    ({"state_vector": np.full(256, np.inf, dtype=np.float32)}, "state_vector"),
    ({"next_state_vector": np.zeros(256, dtype=np.float32)}, "next_state_vector"),
    ({"action": "BUY"}, "action"),
    ({"action": Action(Side.BUY, 1.5)}, "action.size"),
    ({"action": Action("BUY", 0.5)}, "action"),
    ({"reward": math.nan}, "reward"),
    ({"reward": True}, "reward"),
    ({"reward": None}, "reward"),
    ({"regime": "MIXED"}, "regime"),
    ({"source": "paper"}, "source"),
    ({"step": -1}, "step"),
    ({"step": 1.0}, "step"),
    ({"confidence": 1.1}, "confidence"),
    ({"price": -1.0}, "price"),
    ({"position_before": -1.5}, "position_before"),
    ({"quality": 2.0}, "quality"),
    ({"cumulative_return": 0.5}, "return_known_at"),
    ({"features": {"a b": 1.0}}, "features"),
    ({"features": {"a": math.inf}}, "features[a]"),
    ({"features": [1.0]}, "features"),
    ({"other_agent_actions": {"hold": "HOLD"}}, "other_agent_actions[hold]"),
    ({"other_agent_actions": None}, "other_agent_actions"),
    ({"pattern_ids": ("p 1",)}, "pattern_ids"),
    ({"pattern_ids": "p-1"}, "pattern_ids"),
    ({"terminal": 1}, "terminal"),
    ({"market_phase": "CLOSE"}, "market_phase"),
    ({"memory_id": "0" * 32}, "memory_id"),
]


@pytest.mark.parametrize(("change", "field"), BAD, ids=[f"{field}-{number}" for number, (_, field) in enumerate(BAD)])
def test_a_bad_field_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        validate_experience(experience(**change))
    assert caught.value.field == field
    assert caught.value.remedy


def test_what_is_no_experience_is_refused() -> None:
    with pytest.raises(InvalidRecordError, match="dict is no experience"):
        validate_experience({"agent_id": "a"})  # type: ignore[arg-type]


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(InvalidRecordError) as caught:
        validate_identifier("x" * 10_000, "agent_id")
    assert len(str(caught.value)) < 300


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_milliseconds_are_exact(milliseconds: int) -> None:
    assert to_ms(from_ms(milliseconds)) == milliseconds


@given(st.datetimes(timezones=st.just(UTC)))
def test_milliseconds_are_rounded_down(timestamp: datetime) -> None:
    assert from_ms(to_ms(timestamp)) <= timestamp < from_ms(to_ms(timestamp)) + timedelta(milliseconds=1)


@pytest.mark.parametrize(("hour", "phase"), [(0, "OPEN"), (7, "OPEN"), (8, "MIDDAY"), (15, "MIDDAY"), (16, "CLOSE")])
def test_phases_are_thirds_of_the_utc_day(hour: int, phase: str) -> None:
    assert market_phase(DAY + timedelta(hours=hour, minutes=59)) == phase


@given(st.sampled_from(list(Side)), st.floats(0, 1), st.floats(-1, 1))
def test_actions_are_target_exposures(side: Side, size: float, position: float) -> None:
    target = Action(side, size).target(position)
    assert target == {Side.BUY: size, Side.SELL: -size, Side.HOLD: position}[side]


@pytest.mark.parametrize("index", range(4))
def test_discrete_actions_keep_their_index(index: int) -> None:
    assert Action.from_index(index).index == index


@pytest.mark.parametrize("index", [-1, 4])
def test_an_unknown_action_index_is_refused(index: int) -> None:
    with pytest.raises(InvalidRecordError, match="0 short, 1 flat, 2 long or 3 hold"):
        Action.from_index(index)


def test_a_vector_that_is_not_contiguous_becomes_so() -> None:
    wide = np.zeros((256, 2), dtype=np.float32)
    wide[:, 0] = 1 / 16
    assert validate_vector(wide[:, 0], "state_vector").flags["C_CONTIGUOUS"]


def correlation(**changes: Any) -> CorrelationMemory:
    values: dict[str, Any] = {
        "memory_id": "c-1",
        "description": "move together",
        "encoder_id": "rff-1",
        "line": "ns/rff-1/1",
        "created_at": DAY,
        "valid_from": DAY,
        "products": ("BTC-USDT", "ETH-USDT"),
        "regime": "QUIET",
        "bar_minutes": 1,
        "lag": 0,
        "correlation": 0.8,
        "interval": None,
        "n": 1440,
        "claimed": True,
    }
    return CorrelationMemory(**{**values, **changes})


def test_semantic_memories_know_their_kind() -> None:
    assert semantic_type(correlation()) is SemanticType.CORRELATION
    with pytest.raises(InvalidRecordError, match="no kind of semantic memory"):
        semantic_type("x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"memory_id": "a b"}, "memory_id"),
        ({"encoder_id": ""}, "encoder_id"),
        ({"valid_from": datetime(2021, 6, 17)}, "valid_from"),
        ({"valid_to": DAY - timedelta(days=1)}, "valid_to"),
        ({"q_value": 1.5}, "q_value"),
        ({"q_value": float("nan")}, "q_value"),
    ],
)
def test_a_bad_field_of_a_semantic_memory_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        validate_semantic(correlation(**change))
    assert caught.value.field == field
