"""The network: memories in any order, nothing retrieved as a thing of its own, one pass for all positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.policy.inputs import PolicyInputs
from agents.policy.layout import InputLayout
from agents.policy.network import (
    HOLD,
    NetworkSettings,
    PolicyNetwork,
    action_probabilities,
    as_tensors,
    build_network,
    greedy_actions,
)


@pytest.fixture(scope="module")
def network(layout: InputLayout) -> PolicyNetwork:
    return build_network(layout, NetworkSettings(hidden=16, token_hidden=8), seed=1).to(torch.float64)


@pytest.fixture
def inputs(layout: InputLayout) -> PolicyInputs:
    generator = np.random.Generator(np.random.PCG64(0))
    sizes = layout.shape

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(np.float32)

    return PolicyInputs(
        state=normal(4, sizes["state"]),
        position=np.array([-1, 0, 1, 0.5], np.float32),
        memory=normal(4, layout.memories, sizes["token"]),
        memory_mask=np.ones((4, layout.memories), bool),
        knowledge=normal(4, sizes["knowledge"]),
        knowledge_mask=generator.random((4, sizes["knowledge"])) < 0.5,
    )


def _values(network: PolicyNetwork, inputs: PolicyInputs) -> np.ndarray:
    with torch.no_grad():
        return network(as_tensors(inputs, dtype=torch.float64)).numpy()


def test_the_order_of_memories_does_not_matter(network: PolicyNetwork, inputs: PolicyInputs) -> None:
    turned = replace(inputs, memory=inputs.memory[:, ::-1], memory_mask=inputs.memory_mask[:, ::-1])
    np.testing.assert_allclose(_values(network, inputs), _values(network, turned), atol=1e-12)


def test_memories_change_the_values(network: PolicyNetwork, inputs: PolicyInputs) -> None:
    assert np.abs(_values(network, inputs) - _values(network, inputs.without_memory())).max() > 1e-4


def test_what_lies_behind_the_mask_is_never_read(network: PolicyNetwork, inputs: PolicyInputs) -> None:
    nothing = {name: np.zeros_like(getattr(inputs, name)) for name in ("memory_mask", "knowledge_mask")}
    masked = replace(inputs, **nothing)
    other = replace(masked, memory=masked.memory * 100, knowledge=masked.knowledge + 7)
    np.testing.assert_array_equal(_values(network, masked), _values(network, other))
    np.testing.assert_array_equal(_values(network, masked), _values(network, inputs.without_memory(knowledge=False)))


def test_a_zero_vector_is_not_nothing(network: PolicyNetwork, inputs: PolicyInputs) -> None:
    zeros = replace(inputs, memory=np.zeros_like(inputs.memory))
    assert np.abs(_values(network, zeros) - _values(network, inputs.without_memory())).max() > 1e-4


def test_all_attention_goes_to_nothing_where_nothing_was_retrieved(
    network: PolicyNetwork, inputs: PolicyInputs
) -> None:
    _, attention = network.context(as_tensors(inputs.without_memory(), dtype=torch.float64))
    assert attention[:, -1].tolist() == [1.0] * 4
    _, attention = network.context(as_tensors(inputs, dtype=torch.float64))
    np.testing.assert_allclose(attention.sum(dim=1).detach().numpy(), 1.0)
    assert (attention > 0).all()


def test_one_pass_gives_the_values_at_every_position(network: PolicyNetwork, inputs: PolicyInputs) -> None:
    positions = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    together = network.q_at(as_tensors(inputs, dtype=torch.float64), positions).detach().numpy()
    for column, position in enumerate(positions.tolist()):
        np.testing.assert_allclose(together[:, column], _values(network, inputs.with_position(position)), atol=1e-12)


def test_the_same_seed_draws_the_same_weights_and_leaves_torch_alone(layout: InputLayout) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = build_network(layout, seed=2), build_network(layout, seed=2)
    assert torch.rand(1) == expected
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), second.parameters(), strict=True))
    other = build_network(layout, seed=3)
    assert not torch.equal(first.token_layer.weight, other.token_layer.weight)


def test_the_network_is_small(layout: InputLayout) -> None:
    assert 20_000 < sum(item.numel() for item in build_network(layout).parameters()) < 40_000


def test_holding_wins_where_it_is_worth_as_much() -> None:
    values = np.array([[0.0, 1.0, 0.5, 1.0], [2.0, 1.0, 0.5, 1.0], [1.0, 1.0, 0.0, 0.0]])
    assert greedy_actions(values).tolist() == [HOLD, 0, 0]


def test_probabilities_add_up_to_one_after_rounding() -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    probabilities = action_probabilities(generator.standard_normal((500, 4)), 0.2, decimals=6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-12)
    assert (probabilities >= 0).all()
    np.testing.assert_array_equal(probabilities, np.round(probabilities, 6))


def test_a_lower_temperature_is_surer() -> None:
    values = np.array([[0.0, 0.1, 0.2, 0.3]])
    warm, cold = (action_probabilities(values, heat, decimals=6).max() for heat in (1.0, 0.05))
    assert cold > 0.8 > warm
