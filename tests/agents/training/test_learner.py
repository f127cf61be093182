"""The learner: finds what is there to be found, in memories too, and nothing where nothing is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agents.encoder import StateEncoder
from agents.policy.inputs import PolicyInputs
from agents.policy.layout import KNOWLEDGE_NAMES, InputLayout
from agents.policy.network import HOLD, NetworkSettings, greedy_actions
from agents.training.determinism import resolve_device
from agents.training.hindsight import hindsight_values
from agents.training.learner import Batch, DoubleDQN, outcome_table
from agents.training.regulariser import ActionValueMemory
from agents.training.settings import LearnerSettings
from memory.errors import InvalidRecordError

SMALL = NetworkSettings(hidden=16, token_hidden=8, knowledge_hidden=4)
SHORT, FLAT, LONG = range(3)
COUNT = 128


@pytest.fixture(scope="module")
def layout(encoder: StateEncoder) -> InputLayout:
    return InputLayout.of_encoder(encoder, own=2, shared=1)


def _inputs(layout: InputLayout, count: int, seed: int) -> PolicyInputs:
    generator = np.random.Generator(np.random.PCG64(seed))
    sizes = layout.shape
    return PolicyInputs(
        state=generator.standard_normal((count, sizes["state"])).astype(np.float32),
        position=np.zeros(count, np.float32),
        memory=generator.standard_normal((count, layout.memories, sizes["token"])).astype(np.float32),
        memory_mask=np.ones((count, layout.memories), bool),
        knowledge=np.zeros((count, len(KNOWLEDGE_NAMES)), np.float32),
        knowledge_mask=np.zeros((count, len(KNOWLEDGE_NAMES)), bool),
    )


def _batch(inputs: PolicyInputs, move: np.ndarray, **changes: Any) -> Batch:
    count = len(inputs)
    batch = Batch(
        inputs=inputs,
        next_inputs=inputs,
        move=move,
        cost=np.full(count, 0.2),
        volatility_ratio=np.ones(count),
        terminal=np.ones(count, bool),
        weight=np.ones(count),
    )
    return replace(batch, **changes)


def _learner(layout: InputLayout, **settings: Any) -> DoubleDQN:
    return DoubleDQN(layout, LearnerSettings(learning_rate=5e-3, **settings), network=SMALL, seed=0, device="cpu")


def _told_by_memories(layout: InputLayout, seed: int) -> tuple[PolicyInputs, np.ndarray]:
    """States of which only the memories tell where the market went."""
    inputs = _inputs(layout, COUNT, seed)
    move = np.where(np.arange(COUNT) % 2 == 0, 1.0, -1.0)
    inputs.memory[:, :, layout.token_names.index("move")] = move[:, None]
    return inputs, move


def test_a_rule_of_the_state_is_found(layout: InputLayout) -> None:
    learner = _learner(layout, memory_use="none")
    for step in range(80):
        inputs = _inputs(layout, COUNT, step)
        learner.learn(_batch(inputs, np.sign(inputs.state[:, 0])))
    fresh = _inputs(layout, 400, 999)
    actions = greedy_actions(learner.q_values(fresh))[:, 1]
    assert (actions == np.where(fresh.state[:, 0] > 0, LONG, SHORT)).mean() > 0.8


def test_what_only_memories_tell_is_found_by_the_policy_that_looks_at_them(layout: InputLayout) -> None:
    right = {}
    for use in ("retrieve", "none"):
        learner = _learner(layout, memory_use=use)
        for step in range(60):
            inputs, move = _told_by_memories(layout, step)
            learner.learn(_batch(inputs, move))
        fresh, move = _told_by_memories(layout, 999)
        actions = greedy_actions(learner.q_values(fresh))[:, 1]
        right[use] = (actions == np.where(move > 0, LONG, SHORT)).mean()
    assert right["retrieve"] > 0.95
    assert right["none"] < 0.65


def test_moves_smaller_than_the_costs_are_left_alone(layout: InputLayout) -> None:
    learner = _learner(layout)
    inputs = _inputs(layout, COUNT, 0)
    for _ in range(80):
        learner.learn(_batch(inputs, 0.1 * np.sign(inputs.state[:, 0])))
    values = learner.q_values(inputs)
    assert np.isin(greedy_actions(values)[:, 1], [FLAT, HOLD]).mean() > 0.9
    assert np.isin(greedy_actions(values)[:, 2], [LONG, HOLD]).mean() > 0.9


def test_the_value_of_what_follows_is_carried_over(layout: InputLayout) -> None:
    """Two states in turn, the second worth 1: the first is worth gamma times the ratio of their volatilities."""
    learner = _learner(layout, gamma=0.5, tau=0.2, weight_decay=0.0)
    inputs = _inputs(layout, 2, 0)
    following = inputs.take(np.array([1, 1]))
    batch = _batch(
        inputs,
        np.array([0.0, 1.0]),
        next_inputs=following,
        cost=np.zeros(2),
        terminal=np.array([False, True]),
        volatility_ratio=np.array([3.0, 1.0]),
    )
    for _ in range(150):
        learner.learn(batch)
    values = learner.q_values(inputs)
    assert values[1, 1].max() == pytest.approx(1.0, abs=0.1)
    assert values[0, 1].max() == pytest.approx(0.5 * 3.0, abs=0.15)


def test_it_learns_from_what_was_done_alone(layout: InputLayout) -> None:
    learner = _learner(layout, counterfactual=False)
    generator = np.random.Generator(np.random.PCG64(0))
    for step in range(120):
        inputs = _inputs(layout, COUNT, step)
        action = generator.integers(0, 3, COUNT)
        move = np.sign(inputs.state[:, 0]).astype(float)
        learner.learn(_batch(inputs, np.full(COUNT, np.nan), action=action, reward=(action - 1) * move))
    fresh = _inputs(layout, 400, 999)
    best = learner.q_values(fresh)[:, 1, :3].argmax(axis=1)
    assert (best == np.where(fresh.state[:, 0] > 0, LONG, SHORT)).mean() > 0.8


@pytest.mark.parametrize("use", ["retrieve", "both"])
def test_the_same_batches_give_the_same_weights(layout: InputLayout, use: str) -> None:
    ends = []
    for _ in range(2):
        learner = _learner(layout, memory_use=use, memory_every=1)
        for step in range(5):
            inputs = _inputs(layout, 32, step)
            move = inputs.state[:, 1].astype(float)
            optimal = hindsight_values(move, np.full(32, 0.2), np.ones(32), np.full(32, -1))
            learner.learn(_batch(inputs, move, optimal=optimal))
        ends.append(learner.online.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_hindsight_draws_the_policy_towards_itself(layout: InputLayout) -> None:
    """With no loss but the divergence to speak of, the policy's best actions become those of hindsight."""
    inputs = _inputs(layout, 64, 0)
    optimal = np.zeros((64, 3, 4))
    optimal[:, :, LONG] = 4.0
    learner = _learner(layout, memory_use="regularise", supervision_weight=50.0)
    for _ in range(80):
        learner.learn(_batch(inputs, np.zeros(64), optimal=optimal))
    assert (learner.q_values(inputs).argmax(axis=2) == LONG).all()


def test_hindsight_must_be_given_where_memory_regularises(layout: InputLayout) -> None:
    with pytest.raises(InvalidRecordError, match="hindsight"):
        _learner(layout, memory_use="regularise").learn(_batch(_inputs(layout, 4, 0), np.zeros(4)))


def test_actions_must_be_given_where_learning_is_not_counterfactual(layout: InputLayout) -> None:
    with pytest.raises(InvalidRecordError, match="no actions and rewards"):
        _learner(layout, counterfactual=False).learn(_batch(_inputs(layout, 4, 0), np.zeros(4)))


def test_a_loss_that_is_not_finite_changes_nothing(layout: InputLayout) -> None:
    learner = _learner(layout)
    before = {name: values.clone() for name, values in learner.online.state_dict().items()}
    with pytest.raises(InvalidRecordError, match="loss of step 0 is nan"):
        learner.learn(_batch(_inputs(layout, 4, 0), np.array([0.0, np.nan, 0.0, 0.0])))
    assert all(torch.equal(values, before[name]) for name, values in learner.online.state_dict().items())


def test_a_gradient_that_is_not_finite_changes_nothing(layout: InputLayout) -> None:
    """Squares of errors overflow in the gradient's norm long before their sum does in the loss."""
    learner = _learner(layout)
    before = {name: values.clone() for name, values in learner.online.state_dict().items()}
    with pytest.raises(InvalidRecordError, match="gradient norm of step 0 is inf"):
        learner.learn(_batch(_inputs(layout, 4, 0), np.ones(4), weight=np.full(4, 1e25)))
    assert all(torch.equal(values, before[name]) for name, values in learner.online.state_dict().items())
    assert learner.steps == 0


def test_rewards_are_those_of_every_action_at_every_position() -> None:
    rewards = outcome_table(torch.tensor([2.0]), torch.tensor([0.5]))[0]
    assert rewards.tolist() == [
        [-2.0, 0.0 - 0.5, 2.0 - 1.0, -2.0],
        [-2.0 - 0.5, 0.0, 2.0 - 0.5, 0.0],
        [-2.0 - 1.0, 0.0 - 0.5, 2.0, 2.0],
    ]


def test_the_nearest_action_values_are_recalled() -> None:
    kept = ActionValueMemory(4, 2, (1,), 2, torch.device("cpu"))
    assert kept.recall(torch.zeros(1, 2)) is None
    kept.add(torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0]]), torch.tensor([[1.0], [3.0], [100.0]]))
    found = kept.recall(torch.tensor([[0.0, 0.5]]))
    assert found is not None
    assert found.item() == pytest.approx(2.0)


def test_the_oldest_action_values_go_first() -> None:
    kept = ActionValueMemory(3, 1, (1,), 1, torch.device("cpu"))
    kept.add(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [2.0]]))
    kept.add(torch.tensor([[10.0]]), torch.tensor([[10.0]]))
    assert len(kept) == 3
    found = kept.recall(torch.tensor([[0.0]]))
    assert found is not None
    assert found.item() == 1.0


def test_a_memory_that_was_taken_up_recalls_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    kept, again = (ActionValueMemory(64, 8, (3, 4), 5, torch.device("cpu")) for _ in range(2))
    for _ in range(3):
        kept.add(torch.randn(30, 8, generator=generator), torch.randn(30, 3, 4, generator=generator))
    again.load_state(kept.state())
    asked = torch.randn(16, 8, generator=generator)
    before = asked.clone()
    found, same = kept.recall(asked), again.recall(asked)
    assert found is not None
    assert same is not None
    assert torch.equal(found, same)
    assert torch.equal(asked, before)


def test_settings_that_cannot_be_are_refused_by_name() -> None:
    with pytest.raises(InvalidRecordError, match="memory_use"):
        LearnerSettings(memory_use="sometimes")
    with pytest.raises(InvalidRecordError, match="gamma"):
        LearnerSettings(gamma=1.5)
    with pytest.raises(InvalidRecordError, match="device"):
        resolve_device("abacus")
