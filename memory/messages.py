"""Messages between agents: what one tells the others of a regime, a pattern, an experience, or a danger.

A message is sent to all or to some agents, and heard by each of them at least once (`memory.store.messages`). Its id
follows from its content, so the same message sent twice is one message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from memory.errors import InvalidRecordError
from memory.plain import plain_mapping
from memory.records import SOURCES, from_ms, to_ms
from memory.validation import validate_choice, validate_identifier, validate_number, validate_timestamp

EVERYBODY = "all"
"""Recipient of a broadcast; no agent is named so."""
LIVE_RUN = "live"
"""Run of what happens now; messages of other runs belong to replays and backtests."""
MAX_RECIPIENTS = 100
"""Named recipients of one message; whoever has more to tell it to broadcasts."""
MAX_INSIGHT = 2000
"""Characters of the sentence that people read."""
MAX_MESSAGE_BYTES = 16_384
"""Size of a packed message: it refers to a memory by id and does not carry its vectors."""


class MessageType(StrEnum):
    """What a message is about."""

    EXPERIENCE = "EXPERIENCE"
    PATTERN = "PATTERN"
    REGIME_CHANGE = "REGIME_CHANGE"
    WARNING = "WARNING"


MESSAGE_TYPES: tuple[str, ...] = tuple(kind.value for kind in MessageType)


@dataclass(slots=True, kw_only=True)
class AgentMemoryMessage:
    """What one agent tells others. Built freely, validated when it is sent.

    Attributes
    ----------
    sender_agent_id
        Who tells it.
    recipient_agent_ids
        Whom it is told: ids of agents, or ``("all",)``, which is everybody but the sender.
    message_type
        EXPERIENCE, PATTERN, REGIME_CHANGE or WARNING.
    insight
        The same for people, a sentence.
    memory_id
        The memory that it is about, a shared experience or a semantic memory; None where there is none.
    data
        The same for programs: text, finite numbers, booleans, None, and lists and mappings of them.
    importance
        0 to 1; readers may leave out what is below a bound.
    timestamp
        When it was found out: aware UTC, whole milliseconds. Left empty, the time of sending.
    message_id
        Follows from all other fields; left empty, it is filled in when the message is sent.
    source, run_id
        Live, or the replay or backtest that it belongs to: runs do not hear one another.
    """

    sender_agent_id: str
    message_type: str
    insight: str
    recipient_agent_ids: Sequence[str] = (EVERYBODY,)
    memory_id: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    importance: float = 0.5
    timestamp: datetime | None = None
    message_id: str = ""
    source: str = "live"
    run_id: str = LIVE_RUN

    @property
    def is_broadcast(self) -> bool:
        """Whether it is told to everybody."""
        return tuple(self.recipient_agent_ids) == (EVERYBODY,)

    def is_for(self, agent_id: str) -> bool:
        """Whether an agent is told: named, or anybody but the sender where it is a broadcast."""
        return agent_id != self.sender_agent_id if self.is_broadcast else agent_id in self.recipient_agent_ids


_FIELDS = tuple(item.name for item in fields(AgentMemoryMessage) if item.name != "message_id")


def validate_message(message: AgentMemoryMessage) -> AgentMemoryMessage:
    """Check a message and fill in what follows from the rest (message_id), in place; about 30 microseconds.

    Raises
    ------
    InvalidRecordError
        Names the field, the value and the remedy.
    """
    if not isinstance(message, AgentMemoryMessage):
        raise InvalidRecordError(
            f"{type(message).__name__} is no message.", remedy="Send AgentMemoryMessage records.", field="message"
        )
    message.sender_agent_id = validate_identifier(message.sender_agent_id, "sender_agent_id")
    if message.sender_agent_id == EVERYBODY:
        raise InvalidRecordError(
            f"sender_agent_id {EVERYBODY!r} stands for everybody.",
            remedy="Give the agent another name.",
            field="sender_agent_id",
        )
    message.recipient_agent_ids = _checked_recipients(message.recipient_agent_ids)
    message.message_type = validate_choice(message.message_type, "message_type", MESSAGE_TYPES)
    if not isinstance(message.insight, str) or not message.insight.strip() or len(message.insight) > MAX_INSIGHT:
        got = (
            f"{len(message.insight)} characters" if isinstance(message.insight, str) else type(message.insight).__name__
        )
        raise InvalidRecordError(
            f"insight is {got}.", remedy=f"Say it in a sentence of 1 to {MAX_INSIGHT} characters.", field="insight"
        )
    if message.memory_id is not None:
        message.memory_id = validate_identifier(message.memory_id, "memory_id")
    message.importance = validate_number(message.importance, "importance", 0.0, 1.0)
    message.source = validate_choice(message.source, "source", SOURCES)
    message.run_id = validate_identifier(message.run_id, "run_id")
    if (message.source == "live") != (message.run_id == LIVE_RUN):
        raise InvalidRecordError(
            f"source {message.source!r} and run_id {message.run_id!r} do not go together.",
            remedy=f"Live messages have the run {LIVE_RUN!r}; those of a replay or backtest have its own.",
            field="run_id",
        )
    moment = datetime.now(UTC) if message.timestamp is None else validate_timestamp(message.timestamp, "timestamp")
    message.timestamp = from_ms(to_ms(moment))
    message.data = plain_mapping(message.data, "data")
    packed = _pack(message)
    derived = hashlib.blake2b(packed, digest_size=16).hexdigest()
    if message.message_id and message.message_id != derived:
        raise InvalidRecordError(
            f"message_id {str(message.message_id)[:80]!r} does not belong to this message.",
            remedy=f"Leave it empty; it follows from the content ({derived}).",
            field="message_id",
        )
    message.message_id = derived
    return message


def pack_message(message: AgentMemoryMessage) -> bytes:
    """A validated message as bytes; the same message gives the same bytes."""
    return _pack(message)


def unpack_message(packed: bytes) -> AgentMemoryMessage:
    """The message that the bytes hold, validated; InvalidRecordError where they hold none."""
    try:
        content = msgspec.msgpack.decode(packed)
    except (msgspec.DecodeError, ValueError) as error:
        raise _no_message(f"it cannot be read ({error})") from error
    if not isinstance(content, dict) or set(content) != set(_FIELDS):
        raise _no_message("its fields are not those of a message")
    stamp = content.pop("timestamp")
    if isinstance(stamp, bool) or not isinstance(stamp, int):
        raise _no_message(f"its timestamp is {type(stamp).__name__}")
    try:
        moment = from_ms(stamp)
    except OverflowError as error:
        raise _no_message(f"its timestamp {stamp} lies outside the years 1 to 9999") from error
    return validate_message(AgentMemoryMessage(**content, timestamp=moment))


def _pack(message: AgentMemoryMessage) -> bytes:
    content = {name: getattr(message, name) for name in _FIELDS}
    content["timestamp"] = to_ms(content["timestamp"])
    try:
        packed = msgspec.msgpack.encode(content, order="sorted")
    except (OverflowError, UnicodeEncodeError, TypeError) as error:
        raise InvalidRecordError(
            f"the message cannot be written down: {error}.",
            remedy="Use text that UTF-8 can hold, and integers of 64 bits.",
            field="data",
        ) from error
    if len(packed) > MAX_MESSAGE_BYTES:
        raise InvalidRecordError(
            f"the message takes {len(packed):,} bytes.",
            remedy=f"Stay within {MAX_MESSAGE_BYTES:,}: store what is large as a memory, and name it by memory_id.",
            field="data",
        )
    return packed


def _checked_recipients(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not 1 <= len(value) <= MAX_RECIPIENTS:
        got = f"{len(value)} ids" if isinstance(value, Sequence) and not isinstance(value, str) else repr(value)[:80]
        raise InvalidRecordError(
            f"recipient_agent_ids is {got}.",
            remedy=f"Name 1 to {MAX_RECIPIENTS} agents in a list, or use [{EVERYBODY!r}].",
            field="recipient_agent_ids",
        )
    # Sorted, so that the same recipients make the same message.
    ids = tuple(sorted({validate_identifier(item, "recipient_agent_ids") for item in value}))
    if EVERYBODY in ids and len(ids) > 1:
        raise InvalidRecordError(
            f"recipient_agent_ids names {EVERYBODY!r} and others.",
            remedy=f"Use [{EVERYBODY!r}] alone, or name the agents.",
            field="recipient_agent_ids",
        )
    return ids


def _no_message(problem: str) -> InvalidRecordError:
    return InvalidRecordError(
        f"the entry is no message: {problem}.", remedy="Send messages by mem.messages.send.", field="message"
    )
