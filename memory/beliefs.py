"""What an agent takes the world for: the regime, the patterns that match, what the others are at, what it was told."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from memory.agent_state import AgentState, said_of_sender
from memory.errors import InvalidRecordError
from memory.messages import AgentMemoryMessage
from memory.records import REGIMES
from memory.validation import validate_choice, validate_identifier, validate_number, validate_timestamp


@dataclass(frozen=True, slots=True)
class RegimeSpell:
    """A regime that has passed: from when until when it was believed in."""

    regime: str
    since: datetime
    until: datetime


class Beliefs:
    """What an agent believes about one product, and about the other agents; the base of `memory.WorkingMemory`.

    Parameters
    ----------
    agent_id
        Whose beliefs they are.
    window
        Regimes and messages that are remembered.

    Attributes
    ----------
    current_regime, regime_confidence, regime_since
        What the agent takes the regime for; None before the first belief.
    previous_regimes
        Regimes before that, oldest first.
    active_patterns, pattern_confidences
        Ids of the patterns that match, surest first.
    other_agent_states
        What is known of others, by agent.
    recent_messages
        What was heard last.
    """

    def __init__(self, agent_id: str, window: int) -> None:
        self.agent_id = agent_id
        self.recent_messages: deque[AgentMemoryMessage] = deque(maxlen=window)
        self.previous_regimes: deque[RegimeSpell] = deque(maxlen=window)
        self.current_regime: str | None = None
        self.regime_confidence = 0.0
        self.regime_since: datetime | None = None
        self.active_patterns: tuple[str, ...] = ()
        self.pattern_confidences: dict[str, float] = {}
        self.other_agent_states: dict[str, AgentState] = {}
        self._believed_at: datetime | None = None

    def believe(self, regime: str, confidence: float, at: datetime) -> bool:
        """Take the market for a regime from a time on; whether that is another than before.

        Raises
        ------
        InvalidRecordError
            The regime is not known, or the time lies before the last belief's.
        """
        regime = validate_choice(regime, "regime", REGIMES)
        confidence = validate_number(confidence, "regime_confidence", 0.0, 1.0)
        at = validate_timestamp(at, "at")
        if self._believed_at is not None and at < self._believed_at:
            raise InvalidRecordError(
                f"at {at.isoformat()} lies before {self._believed_at.isoformat()}, the last belief.",
                remedy="Follow the market in the order of time.",
                field="at",
            )
        changed = regime != self.current_regime
        if changed:
            if self.current_regime is not None and self.regime_since is not None:
                self.previous_regimes.append(RegimeSpell(self.current_regime, self.regime_since, at))
            self.current_regime, self.regime_since = regime, at
        self.regime_confidence, self._believed_at = confidence, at
        return changed

    def activate(self, confidences: Mapping[str, float]) -> None:
        """Set the patterns that match now, with how sure that is (0 to 1); those that were active before are not."""
        checked = {
            validate_identifier(pattern, "pattern_ids"): validate_number(value, f"confidences[{pattern}]", 0.0, 1.0)
            for pattern, value in confidences.items()
        }
        self.active_patterns = tuple(sorted(checked, key=lambda pattern: (-checked[pattern], pattern)))
        self.pattern_confidences = {pattern: checked[pattern] for pattern in self.active_patterns}

    def meet(self, other: AgentState) -> bool:
        """Remember what another agent is at; False where something newer is known of it.

        Raises
        ------
        InvalidRecordError
            It is this agent itself.
        """
        if other.agent_id == self.agent_id:
            raise InvalidRecordError(
                f"agent_id {other.agent_id!r} is this agent.", remedy="Pass what others do.", field="agent_id"
            )
        known = self.other_agent_states.get(other.agent_id)
        if known is not None and known.timestamp > other.timestamp:
            return False
        self.other_agent_states[other.agent_id] = other
        return True

    def hear(self, message: AgentMemoryMessage) -> AgentState | None:
        """Remember a message, and what it says of its sender; None where that is nothing.

        Of its data are read: `action` (``{"side": "BUY", "size": 0.5}``) with `confidence`, `position`, `new_regime`
        with `confidence`, or `regime` with `regime_confidence`, and the `product_id` that they are about. What a
        message does not say stays as it was known, unless it is of another product.

        Raises
        ------
        InvalidRecordError
            One of these is malformed, or the message is not dated.
        """
        self.recent_messages.append(message)
        said = said_of_sender(message)
        if not said or message.sender_agent_id == self.agent_id:
            return None
        stamp = validate_timestamp(message.timestamp, "timestamp")
        known = self.other_agent_states.get(message.sender_agent_id)
        if known is None or said.get("product_id", known.product_id) != known.product_id:
            state = AgentState(agent_id=message.sender_agent_id, timestamp=stamp, **said)
        else:
            state = replace(known, timestamp=stamp, **said)
        return state if self.meet(state) else None
