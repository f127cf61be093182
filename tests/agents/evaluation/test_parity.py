"""What evaluation feeds a policy is what a policy gets that asks a real memory, as of then."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

import memory
from agents.evaluation.experience import (
    Experiences,
    interval_volatility,
    layout_of,
    live_through,
    memory_columns,
    policy_inputs,
)
from agents.evaluation.material import Material
from agents.policy.layout import InputLayout
from agents.policy.retrieval import inputs_of, retrieve
from agents.replay import State
from memory.records import REGIMES, Action, EpisodicMemory, Side, from_ms
from memory.tables import TRAILING_VOLATILITY

AGENT = "policy"
ASKED = 12
DISTANCE_ERROR = 2e-6
"""Of a float32 cosine that is summed in another order."""


def records(material: Material, lived: Experiences, layout: InputLayout) -> list[EpisodicMemory]:
    """The remembered experiences as agents would have recorded them."""
    grid, rows = material.grid, material.rows.memory
    columns = memory_columns(material, lived, layout)
    vectors = material.memory_vectors
    following = grid.vectors(material.encoder, np.maximum(grid.following[rows], 0))
    volatility = interval_volatility(grid, rows)
    made = []
    for place, row in enumerate(rows.tolist()):
        after = float(columns.position_after[place])
        linked = bool(columns.has_next[place])
        made.append(
            EpisodicMemory(
                agent_id=AGENT if lived.own[place] else "another",
                timestamp=from_ms(int(grid.timestamp_ms[row])),
                state_vector=vectors[place],
                action=Action(Side.BUY if after >= 0 else Side.SELL, abs(after)),
                reward=float(columns.reward[place]),
                product_id=grid.products[grid.product[row]],
                regime=REGIMES[grid.regime[row]],
                next_state_vector=following[place] if linked else None,
                terminal=not linked,
                encoder_id=material.encoder.id_,
                source="backtest",
                run_id="evaluation",
                known_at=from_ms(int(grid.timestamp_ms[row]) + 900_000),
                price=float(grid.price[row]),
                gross_return=float(columns.gross_return[place]),
                cost=float(columns.cost[place]),
                position_before=float(columns.position_before[place]),
                position_after=after,
                quality=1.0,
                features={TRAILING_VOLATILITY: float(volatility[place])},
            )
        )
    return made


def state_of(material: Material, row: int) -> State:
    """A test state with the volatility of its decision interval, as the evaluated policy sees it."""
    grid = material.grid
    vector = grid.vectors(material.encoder, np.array([row]))[0]
    state = grid.state(row, vector)
    volatility = float(interval_volatility(grid, np.array([row]))[0])
    return replace(state, features={**state.features, TRAILING_VOLATILITY: volatility})


async def test_policies_see_what_the_memory_answers_as_of_then(material: Material, servers: Any) -> None:
    lived, layout = live_through(material), layout_of(material, 2.0)
    rows = material.rows.test[:: len(material.rows.test) // ASKED][:ASKED]
    ours = policy_inputs(material, rows, layout, lived, memory_columns(material, lived, layout))
    recorded = records(material, lived, layout)
    async with memory.connect(redis_url=servers.redis_url, namespace=f"t-parity-{uuid.uuid4().hex[:8]}") as mem:
        encoder = material.encoder
        definition = msgspec.json.decode(encoder.to_json())
        await mem.encoders.register(encoder.id_, fitted_until=encoder.fitted_until_, definition=definition)
        own = await mem.episodic.add_many([item for item in recorded if item.agent_id == AGENT])
        shared = await mem.shared.add_shared_experiences([item for item in recorded if item.agent_id != AGENT])
        assert len(own.stored) + len(shared.stored) == len(recorded)
        states = [state_of(material, row) for row in rows.tolist()]
        answers = [
            await retrieve(
                mem,
                layout,
                state,
                agent_id=AGENT,
                product_id=state.product_id,
                regime=state.regime,
                as_of=state.timestamp,
            )
            for state in states
        ]
    theirs = inputs_of(
        layout,
        states,
        [state.regime for state in states],
        [state.product_id for state in states],
        [0.0] * len(states),
        answers,
        [state.timestamp for state in states],
    )
    assert ours.memory_mask.all()
    assert np.array_equal(ours.memory_mask, theirs.memory_mask)
    assert np.array_equal(ours.state, theirs.state)
    assert np.array_equal(ours.position, theirs.position)
    assert not theirs.knowledge_mask.any()
    np.testing.assert_allclose(ours.memory, theirs.memory, rtol=1e-5, atol=DISTANCE_ERROR)
