"""What an agent takes a regime for, and what it tells others where that changes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from memory.messages import EVERYBODY, AgentMemoryMessage, MessageType
from memory.records import Regime

REGIME_CHANGE_EVENT = "coinswarm.regime-change"
"""Name of the event that tells other systems of a change."""


@dataclass(frozen=True, slots=True)
class RegimeBelief:
    """What an agent takes a product's regime for at one decision, and what that rests on.

    Attributes
    ----------
    regime, confidence
        The regime, and the probability that it is the rule's label `agents.regime_calibration.AHEAD_MINUTES` later.
        Without a calibration the rule's label and its share of the vote, which promise nothing.
    hindsight_confidence
        Probability that labels of windows centred on the decision, which only hindsight has, name the same; None
        without a calibration.
    probabilities
        Of each regime, of the label ahead; empty without a calibration.
    rule, rule_confidence
        The rule's label of the decision and its share of the vote.
    states
        Remembered states that voted; 0 where the memory was too thin to be believed.
    calibration_id
        Calibration that the probabilities come from; None without one.
    since
        From when on this agent has believed the regime without interruption.
    before
        The regime that it believed before; None where this is its first belief.
    changed
        Whether the belief changed with this decision.
    """

    product_id: str
    timestamp: datetime
    regime: str
    confidence: float
    hindsight_confidence: float | None
    probabilities: dict[str, float]
    rule: str
    rule_confidence: float
    states: int
    calibration_id: str | None
    since: datetime
    before: str | None
    changed: bool


def change_message(belief: RegimeBelief, agent_id: str, *, source: str, run_id: str) -> AgentMemoryMessage:
    """The REGIME_CHANGE message that tells all of a changed belief.

    Its importance is 1 where a crisis begins or ends, and otherwise the confidence in the new regime.
    """
    crisis = Regime.CRISIS in (belief.regime, belief.before)
    return AgentMemoryMessage(
        sender_agent_id=agent_id,
        message_type=MessageType.REGIME_CHANGE,
        insight=f"{belief.product_id} has gone from {belief.before} to {belief.regime}: "
        f"{belief.confidence:.0%} sure, {belief.states} remembered states asked.",
        recipient_agent_ids=(EVERYBODY,),
        data={
            "event": REGIME_CHANGE_EVENT,
            "product_id": belief.product_id,
            "before": belief.before,
            "new_regime": belief.regime,
            "confidence": belief.confidence,
            "rule": belief.rule,
            "rule_confidence": belief.rule_confidence,
            "states": belief.states,
            "calibration": belief.calibration_id,
        },
        importance=1.0 if crisis else belief.confidence,
        timestamp=belief.timestamp,
        source=source,
        run_id=run_id,
    )
