"""What a decision rested on: of a trading agent, which also tells the others, and of the agents of a simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from agents.baselines import Agent
from agents.experiences import SimulatedWindow
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
        policy_parameters=_parameters(strategy.parameters(), state),
        action=choice.action,
        confidence=choice.confidence,
    )


def traces_of(simulated: SimulatedWindow, agents: Sequence[Agent], each: int) -> list[DecisionTrace]:
    """The last changes of position of each agent in each product of a simulation, by time, product and agent.

    Agents of a simulation decide by state and position alone, so no memories and no knowledge are listed. The same
    simulation gives the same traces. Cost: some 20 microseconds a trace.

    Parameters
    ----------
    agents
        Those who acted in it; InvalidRecordError where one of its agents is missing.
    each
        At most so many of each agent and product; an agent that kept its position has none.
    """
    named = {agent.agent_id: agent for agent in agents}
    if missing := sorted(set(simulated.agent_ids) - named.keys()):
        raise InvalidRecordError(
            f"the simulation has agents that were not given: {', '.join(missing)}.",
            remedy="Give all agents that acted in it.",
            field="agents",
        )
    traces = []
    for product_id, table in simulated.products.items():
        for column, agent_id in enumerate(simulated.agent_ids):
            changed = np.flatnonzero(table.position_after[:, column] != table.position_before[:, column])
            for index in changed[max(len(changed) - each, 0) :].tolist():
                state = table.states.state(int(table.rows[index]))
                traces.append(
                    DecisionTrace(
                        agent_id=agent_id,
                        product_id=product_id,
                        timestamp=state.timestamp,
                        source=simulated.source,
                        run_id=simulated.run_id,
                        step=int(table.step[index]),
                        as_of=state.timestamp,
                        encoder_id=simulated.encoder_id,
                        features=state.features,
                        state_vector=state.vector,
                        regime=state.regime,
                        regime_confidence=state.regime_confidence,
                        position_before=float(table.position_before[index, column]),
                        policy=agent_id,
                        policy_parameters=_parameters(named[agent_id].parameters(), state),
                        action=table.actions[index][column],
                        confidence=float(table.confidence[index, column]),
                    )
                )
    return sorted(traces, key=lambda trace: (trace.timestamp, trace.product_id, trace.agent_id))


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


def _parameters(own: Mapping[str, Any], state: State) -> dict[str, Any]:
    """A strategy's parameters, and what a state holds beside its features: enough to decide again."""
    return {**own, "price": state.price, "spread": state.spread}


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
