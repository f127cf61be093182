"""The policy's network: attention over retrieved memories, and dueling action values at every position.

A state looks at the memories that its questions brought, and at one learned embedding that is always there:
"nothing retrieved". Without memories all attention goes to it, so that a network without memory is the same network,
with the same capacity, and no zero vector is ever read as a memory. The exposure before the action enters after the
attention: one pass gives the values of all actions at all positions.

Dueling heads after Z. Wang et al., "Dueling Network Architectures for Deep Reinforcement Learning", ICML 2016;
attention after A. Vaswani et al., "Attention Is All You Need", NIPS 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from agents.policy.inputs import PolicyInputs
from agents.policy.layout import InputLayout
from memory.records import Action
from memory.validation import validate_number

ACTIONS = 4
"""Short, flat, long, hold: `memory.records.Action.index`."""
HOLD = Action.from_index(3).index
POSITIONS = (-1.0, 0.0, 1.0)
"""Exposures that the first three actions lead to, in the order of their indices."""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Sizes of the network; the defaults make about 27,000 parameters.

    Parameters
    ----------
    hidden
        Width of the state's and the heads' layers.
    token_hidden
        Width of an embedded memory.
    heads
        Heads of the attention.
    knowledge_hidden
        Width of embedded knowledge.
    """

    hidden: int = 64
    token_hidden: int = 32
    heads: int = 2
    knowledge_hidden: int = 16

    def __post_init__(self) -> None:
        for name in ("hidden", "token_hidden", "heads", "knowledge_hidden"):
            validate_number(getattr(self, name), name, 1, 4096)


@dataclass(frozen=True, slots=True, eq=False)
class InputTensors:
    """`PolicyInputs` as tensors of one device."""

    state: Tensor
    position: Tensor
    memory: Tensor
    memory_mask: Tensor
    knowledge: Tensor
    knowledge_mask: Tensor


def as_tensors(
    inputs: PolicyInputs, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> InputTensors:
    """Inputs as tensors; masks stay bool."""

    def tensor(values: npt.NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device=device, dtype=dtype)

    def mask(values: npt.NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    return InputTensors(
        tensor(inputs.state),
        tensor(inputs.position),
        tensor(inputs.memory),
        mask(inputs.memory_mask),
        tensor(inputs.knowledge),
        mask(inputs.knowledge_mask),
    )


class PolicyNetwork(nn.Module):
    """Action values of states with memories.

    Parameters
    ----------
    state, token, knowledge
        Columns of the inputs' parts (`InputLayout.shape`).
    settings
        Sizes of the layers.
    """

    def __init__(self, state: int, token: int, knowledge: int, settings: NetworkSettings) -> None:
        super().__init__()
        self.sizes = {"state": state, "token": token, "knowledge": knowledge}
        self.settings = settings
        hidden, narrow = settings.hidden, settings.token_hidden
        self.state_layers = nn.Sequential(nn.Linear(state, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.token_layer = nn.Linear(token, narrow)
        self.nothing = nn.Parameter(torch.randn(narrow) / math.sqrt(narrow))
        # Queries lie in the space of tokens, so that no token is projected once more a head: half the cost.
        self.query = nn.Linear(hidden, settings.heads * narrow)
        self.attended_layer = nn.Linear(settings.heads * narrow, narrow)
        self.unknown = nn.Parameter(torch.zeros(knowledge))
        self.knowledge_layer = nn.Linear(2 * knowledge, settings.knowledge_hidden)
        self.fuse = nn.Linear(hidden + narrow + settings.knowledge_hidden, hidden)
        self.position_layer = nn.Linear(2, hidden)
        self.head_layer = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, 1)
        self.advantage = nn.Linear(hidden, ACTIONS)

    def context(self, inputs: InputTensors) -> tuple[Tensor, Tensor]:
        """What the state amounts to, (B, hidden), and the attention paid to its memories, (B, K + 1), last to nothing.

        The attention is the mean over heads.
        """
        context, weights = self._encode(inputs)
        return context, weights.mean(dim=1)

    def encode(self, inputs: InputTensors) -> Tensor:
        """As `context`, without the attention, which learning does not look at."""
        return self._encode(inputs)[0]

    def _encode(self, inputs: InputTensors) -> tuple[Tensor, Tensor]:
        """What the state amounts to, and the attention of each head, (B, heads, K + 1)."""
        seen = self.state_layers(inputs.state)
        attended, weights = self._attend(seen, inputs)
        known = torch.where(inputs.knowledge_mask, inputs.knowledge, self.unknown)
        flags = inputs.knowledge_mask.to(known.dtype)
        learned = torch.relu(self.knowledge_layer(torch.cat([known, flags], dim=1)))
        return torch.relu(self.fuse(torch.cat([seen, attended, learned], dim=1))), weights

    def q_of(self, context: Tensor, positions: Tensor) -> Tensor:
        """Action values (B, P, 4) of contexts (B, hidden) at positions (B, P)."""
        exposure = torch.stack([positions, positions.abs()], dim=-1)
        features = torch.relu(self.head_layer(context).unsqueeze(1) + self.position_layer(exposure))
        advantage = self.advantage(features)
        values: Tensor = self.value(features) + advantage - advantage.mean(dim=-1, keepdim=True)
        return values

    def q_at(self, inputs: InputTensors, positions: Tensor) -> Tensor:
        """Action values (B, P, 4) at the same positions (P,) for all."""
        context = self.encode(inputs)
        return self.q_of(context, positions.expand(len(context), -1))

    def forward(self, inputs: InputTensors) -> Tensor:
        """Action values (B, 4) at the inputs' own positions."""
        return self.q_of(self.encode(inputs), inputs.position.unsqueeze(1)).squeeze(1)

    def _attend(self, seen: Tensor, inputs: InputTensors) -> tuple[Tensor, Tensor]:
        count = len(inputs.memory_mask)
        heads, width = self.settings.heads, self.settings.token_hidden
        tokens = torch.relu(self.token_layer(inputs.memory))
        every = torch.cat([tokens, self.nothing.expand(count, 1, -1)], dim=1)
        there = torch.cat([inputs.memory_mask, inputs.memory_mask.new_ones(count, 1)], dim=1)
        query = self.query(seen).view(count, heads, width)
        scores = torch.bmm(query, every.transpose(1, 2)) / math.sqrt(width)
        weights = torch.softmax(scores.masked_fill(~there.unsqueeze(1), -torch.inf), dim=2)
        attended: Tensor = self.attended_layer(torch.bmm(weights, every).view(count, heads * width))
        return attended, weights


def build_network(layout: InputLayout, settings: NetworkSettings | None = None, *, seed: int = 0) -> PolicyNetwork:
    """A network for inputs of a layout, its weights drawn by a seed; torch's own random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PolicyNetwork(**layout.shape, settings=settings or NetworkSettings())


def greedy_actions(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Index of the best action along the last axis.

    Where holding is worth as much as moving, it wins, for it never costs; other ties go to the lower index.
    """
    best = values[..., :HOLD].argmax(axis=-1)
    moving = np.take_along_axis(values, best[..., None], axis=-1)[..., 0]
    return np.where(values[..., HOLD] >= moving, HOLD, best).astype(np.int64)


def action_probabilities(
    values: npt.NDArray[np.float64], temperature: float, *, decimals: int
) -> npt.NDArray[np.float64]:
    """Softmax of action values over the last axis at a temperature, rounded, the largest taking what rounding left.

    Rounded, since sums in another order (a batch, another machine) differ in their last bits, and a draw must not.
    """
    scaled = (values - values.max(axis=-1, keepdims=True)) / temperature
    raw = np.exp(scaled)
    rounded = np.asarray(np.round(raw / raw.sum(axis=-1, keepdims=True), decimals))
    best = rounded.argmax(axis=-1)[..., None]
    rest = 1.0 - (rounded.sum(axis=-1, keepdims=True) - np.take_along_axis(rounded, best, axis=-1))
    np.put_along_axis(rounded, best, np.round(rest, decimals), axis=-1)
    return rounded
