"""A message says who tells whom what, and one that does not is refused with the field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from memory import AgentMemoryMessage, MessageType
from memory.errors import InvalidRecordError
from memory.messages import pack_message, unpack_message, validate_message
from memory.plain import MAX_DEPTH

NOON = datetime(2021, 6, 17, 12, tzinfo=UTC)


def message(**changes: Any) -> AgentMemoryMessage:
    """A change of regime, told to everybody."""
    values: dict[str, Any] = {
        "sender_agent_id": "regime",
        "recipient_agent_ids": ["all"],
        "message_type": "REGIME_CHANGE",
        "insight": "Detected regime shift from TRENDING to VOLATILE",
        "data": {"old_regime": "TRENDING", "new_regime": "VOLATILE", "confidence": 0.92, "typical_duration": 3600},
        "importance": 0.9,
        "timestamp": NOON,
    }
    return AgentMemoryMessage(**{**values, **changes})


def nested(depth: int) -> Any:
    return {"deeper": nested(depth - 1)} if depth else 1


def test_a_message_comes_back_from_its_bytes_as_it_was() -> None:
    sent = validate_message(message(memory_id="abc", data={"a": [1, 2.5, None, True, {"b": "c"}]}))
    assert unpack_message(pack_message(sent)) == sent


def test_the_id_follows_from_the_content_whatever_the_order_of_names_and_recipients() -> None:
    one = validate_message(message(recipient_agent_ids=["b", "a", "b"], data={"x": 1, "y": 2}))
    other = validate_message(message(recipient_agent_ids=("a", "b"), data={"y": 2, "x": 1}))
    assert one.message_id == other.message_id
    assert validate_message(message(importance=0.8)).message_id != validate_message(message()).message_id


def test_what_the_sender_changes_afterwards_is_not_in_the_message() -> None:
    levels = [1, 2]
    sent = validate_message(message(data={"levels": levels}))
    levels.append(3)
    assert sent.data == {"levels": [1, 2]}


def test_numbers_of_numpy_become_plain_ones() -> None:
    sent = validate_message(message(data={"n": np.int64(3), "x": np.float32(0.5), "yes": np.bool_(True)}))
    assert [type(value) for value in sent.data.values()] == [int, float, bool]


def test_the_time_is_in_utc_and_whole_milliseconds() -> None:
    east = timezone(timedelta(hours=2))
    sent = validate_message(message(timestamp=datetime(2021, 6, 17, 14, 0, 0, 1999, tzinfo=east)))
    assert sent.timestamp == NOON + timedelta(milliseconds=1)


def test_a_broadcast_is_for_everybody_but_its_sender() -> None:
    assert message().is_for("momentum")
    assert not message().is_for("regime")
    assert message(recipient_agent_ids=("momentum", "regime")).is_for("regime")
    assert not message(recipient_agent_ids=("momentum",)).is_for("hold")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sender_agent_id", "all"),
        ("sender_agent_id", "a:b"),
        ("recipient_agent_ids", "all"),
        ("recipient_agent_ids", []),
        ("recipient_agent_ids", ["all", "momentum"]),
        ("recipient_agent_ids", [f"agent-{number}" for number in range(101)]),
        ("message_type", "GOSSIP"),
        ("insight", "  "),
        ("insight", "x" * 2001),
        ("memory_id", "no id"),
        ("importance", 1.5),
        ("importance", float("nan")),
        ("timestamp", datetime(2021, 6, 17)),
        ("message_id", "0" * 32),
        ("run_id", "a run"),
        ("run_id", "night-1"),
        ("data", [1]),
        ("data", {1: 2}),
        ("data", {"x": float("inf")}),
        ("data", {"x": object()}),
        ("data", {"x": 2**70}),
        ("data", {"x": "y" * 20_000}),
        ("data", nested(MAX_DEPTH + 1)),
        ("data", {"x": "\ud800"}),
    ],
)
def test_a_malformed_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        validate_message(message(**{field: value}))
    assert caught.value.field == field
    assert caught.value.remedy


def test_a_live_source_has_the_live_run() -> None:
    with pytest.raises(InvalidRecordError, match="do not go together"):
        validate_message(message(source="replay"))
    assert validate_message(message(source="replay", run_id="night-1")).run_id == "night-1"


def test_something_else_is_no_message() -> None:
    with pytest.raises(InvalidRecordError, match="no message"):
        validate_message({"insight": "x"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "packed", [b"", b"\xff\xff", b"\x01", b"\x81\xa1a\x01", pack_message(validate_message(message()))[:-3]]
)
def test_other_bytes_are_no_message(packed: bytes) -> None:
    with pytest.raises(InvalidRecordError, match="no message"):
        unpack_message(packed)


def test_types_are_names() -> None:
    assert validate_message(message(message_type=MessageType.WARNING)).message_type == "WARNING"
