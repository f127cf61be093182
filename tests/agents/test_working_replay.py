"""What working memory makes of a replayed night is what the simulation makes of it, bit for bit."""

from __future__ import annotations

from datetime import timedelta

from agents.simulation import SimulatedWindow
from memory import EpisodicMemory, WorkingMemory
from memory.records import from_ms

SAME = (
    "timestamp",
    "action",
    "reward",
    "regime",
    "terminal",
    "cumulative_return",
    "return_known_at",
    "known_at",
    "step",
)


async def test_a_night_that_is_observed_step_by_step_becomes_the_same_experiences(night: SimulatedWindow) -> None:
    (agent, *_), product = night.agent_ids, next(iter(night.products.values()))
    states = product.states
    expected = [
        record for record in night.experiences() if (record.agent_id, record.product_id) == (agent, states.product_id)
    ]
    mind = WorkingMemory(agent, states.product_id, source="replay", run_id="night-1")
    made: list[EpisodicMemory] = []
    for position, row in enumerate(product.rows.tolist()):
        mind.observe(
            states.state(row),
            action=product.actions[position][0],
            reward=float(product.reward[position, 0]),
            next_state=states.state(row + 1),
            step=int(product.step[position]),
        )
        if product.terminal[position]:
            made += await mind.complete_episode(completed_at=from_ms(int(product.return_known_ms[position])))
    assert mind.episode_length == 0
    assert len(made) == len(expected) > 1000
    assert timedelta(0) < made[0].known_at - made[0].timestamp  # type: ignore[operator]
    for one, other in zip(made, expected, strict=True):
        assert [getattr(one, name) for name in SAME] == [getattr(other, name) for name in SAME]
        assert (one.state_vector == other.state_vector).all()
        assert (one.next_state_vector == other.next_state_vector).all()
