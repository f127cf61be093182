"""What a trading agent says of a decision: its trace, and what it tells the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from agents.replay import State
from agents.strategies import BaselineStrategy, Choice, Situation, Strategy
from memory.decisions import DecisionTrace, KnowledgeRead, MemoryRead
from memory.errors import InvalidRecordError
from memory.messages import EVERYBODY, AgentMemoryMessage, MessageType


def trace_of(situation: Situation, choice: Choice, strategy: Strategy, encoder_id: str) -> DecisionTrace:
    """What a decision rested on; a policy that says so itself is believed, and the messages heard are added.

    The regime is the one acted on: of a baseline agent that is the rule's label, whatever the agent believes.
    """
    messages = tuple(message.message_id for message in situation.messages)
    if choice.trace is not None:
        return replace(choice.trace, messages=messages)
    state = situation.state
    baseline = isinstance(strategy, BaselineStrategy)
    lines = sorted({match.memory.line for match in situation.patterns})
    return DecisionTrace(
        agent_id=situation.agent_id,
        product_id=state.product_id,
        timestamp=state.timestamp,
        source=situation.source,
        run_id=situation.run_id,
        step=situation.step,
        as_of=situation.as_of,
        encoder_id=encoder_id,
        line=lines[0] if lines else None,
        features=state.features,
        state_vector=state.vector,
        regime=state.regime if baseline else situation.regime,
        regime_confidence=state.regime_confidence if baseline else situation.regime_confidence,
        position_before=situation.position,
        own=tuple(MemoryRead.of(hit.memory, hit.distance) for hit in situation.own),
        shared=tuple(MemoryRead.of(hit.memory, hit.distance) for hit in situation.shared),
        patterns=tuple(KnowledgeRead.of(match.memory, match.distance) for match in situation.patterns),
        messages=messages,
        policy=strategy.name,
        policy_parameters={**strategy.parameters(), "price": state.price, "spread": state.spread},
        action=choice.action,
        confidence=choice.confidence,
    )


def announcement_of(situation: Situation, choice: Choice, position: float) -> AgentMemoryMessage:
    """The EXPERIENCE message that tells all of a new position; its importance is the confidence of the decision."""
    product_id = situation.state.product_id
    return AgentMemoryMessage(
        sender_agent_id=situation.agent_id,
        message_type=MessageType.EXPERIENCE,
        insight=f"{situation.agent_id} goes from {situation.position:+.2g} to {position:+.2g} in {product_id}.",
        recipient_agent_ids=(EVERYBODY,),
        data={
            "product_id": product_id,
            "action": {"side": choice.action.side.value, "size": choice.action.size},
            "position": position,
            "confidence": choice.confidence,
        },
        importance=choice.confidence,
        timestamp=situation.state.timestamp,
        source=situation.source,
        run_id=situation.run_id,
    )


def check_finite(state: State) -> None:
    """InvalidRecordError where a feature or the vector is NaN or infinite: nothing can be decided on that."""
    values = np.fromiter(state.features.values(), dtype=np.float64, count=len(state.features))
    if not np.isfinite(values).all():
        name = list(state.features)[int(np.argmin(np.isfinite(values)))]
        raise InvalidRecordError(
            f"feature {name} of {state.product_id} at {state.timestamp.isoformat()} is {state.features[name]}.",
            remedy="Features must be finite; compute them with agents.features, or take a MarketSnapshot's state.",
            field=f"features[{name}]",
        )
    if not np.isfinite(state.vector).all():
        raise InvalidRecordError(
            f"the vector of {state.product_id} at {state.timestamp.isoformat()} is not finite.",
            remedy="Encode the state's features again; nothing can be decided on such a vector.",
            field="state_vector",
        )
