"""States of remembered experiences, and the policy's inputs as the agent that acts in them finds them."""

from __future__ import annotations

from agents.policy.inputs import PolicyInputs
from agents.policy.layout import InputLayout
from agents.policy.retrieval import Retrieved, inputs_of, retrieve
from agents.replay import State
from memory import MemoryConnection
from memory.records import EpisodicMemory


def state_of(lived: EpisodicMemory) -> State:
    """The state in which an experience was made."""
    return State(
        product_id=lived.product_id,
        timestamp=lived.timestamp,
        features=dict(lived.features),
        vector=lived.state_vector,
        price=lived.price or 0.0,
        spread=lived.spread,
        regime=lived.regime,
        regime_confidence=1.0,
    )


async def inputs_of_acting(
    mem: MemoryConnection, layout: InputLayout, state: State, agent_id: str
) -> tuple[PolicyInputs, Retrieved]:
    """The inputs of an agent without a position, and what it retrieved for them, as of the state's time."""
    found = await retrieve(
        mem,
        layout,
        state,
        agent_id=agent_id,
        product_id=state.product_id,
        regime=state.regime,
        as_of=state.timestamp,
    )
    return inputs_of(layout, [state], [state.regime], [state.product_id], [0.0], [found], [state.timestamp]), found
