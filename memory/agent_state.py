"""What an agent knows of another one, and how it follows from what the other says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memory.errors import InvalidRecordError
from memory.messages import AgentMemoryMessage
from memory.records import REGIMES, Action, Side
from memory.validation import (
    validate_action,
    validate_choice,
    validate_identifier,
    validate_number,
    validate_timestamp,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentState:
    """What is known of another agent.

    Attributes
    ----------
    timestamp
        As of when: aware UTC.
    product_id
        The product that action and position are about; None where it was not said.
    action, position, confidence
        What it did last, its exposure from -1 to 1, and how sure it was, 0 to 1.
    acted_at
        When it took the action; by default at `timestamp`.
    regime, regime_confidence
        What it takes the regime for.
    """

    agent_id: str
    timestamp: datetime
    product_id: str | None = None
    action: Action | None = None
    position: float | None = None
    confidence: float = 0.0
    regime: str | None = None
    regime_confidence: float = 0.0
    acted_at: datetime | None = None

    def __post_init__(self) -> None:
        validate_identifier(self.agent_id, "agent_id")
        object.__setattr__(self, "timestamp", validate_timestamp(self.timestamp, "timestamp"))
        if self.product_id is not None:
            validate_identifier(self.product_id, "product_id")
        if self.action is not None:
            validate_action(self.action, "action")
            acted_at = self.timestamp if self.acted_at is None else validate_timestamp(self.acted_at, "acted_at")
            object.__setattr__(self, "acted_at", acted_at)
        if self.position is not None:
            validate_number(self.position, "position", -1.0, 1.0)
        if self.regime is not None:
            validate_choice(self.regime, "regime", REGIMES)
        validate_number(self.confidence, "confidence", 0.0, 1.0)
        validate_number(self.regime_confidence, "regime_confidence", 0.0, 1.0)


def said_of_sender(message: AgentMemoryMessage) -> dict[str, Any]:
    """Fields of AgentState that a message's data hold."""
    data = message.data
    said: dict[str, Any] = {}
    if "position" in data:
        said["position"] = data["position"]
    if "new_regime" in data:
        said["regime"] = data["new_regime"]
        said["regime_confidence"] = data.get("confidence", 0.0)
    elif "regime" in data:
        said["regime"] = data["regime"]
        said["regime_confidence"] = data.get("regime_confidence", 0.0)
    if data.get("action") is not None:
        said["action"] = _action(data["action"])
        said["acted_at"] = message.timestamp
        said["confidence"] = data.get("confidence", 0.0)
    if said and "product_id" in data:
        said["product_id"] = data["product_id"]
    return said


def _action(value: Any) -> Action:
    if not isinstance(value, Mapping) or not {"side"} <= set(value) <= {"side", "size"}:
        raise InvalidRecordError(
            f"data[action] is {repr(value)[:80]}.", remedy='Use {"side": "BUY", "size": 0.5}.', field="data"
        )
    side = validate_choice(value["side"], "data[action].side", tuple(member.value for member in Side))
    return Action(Side(side), validate_number(value.get("size", 1.0), "data[action].size", 0.0, 1.0))
