"""The learner: double dueling DQN on batches of arrays, with or without memory.

H. van Hasselt, A. Guez and D. Silver, "Deep Reinforcement Learning with Double Q-learning", AAAI 2016: the online
network chooses the next action, the target network says what it is worth. No server, no clock: arrays in, losses out.

Values are in trailing volatilities of their own state, so that quiet and wild markets weigh alike; the value of the
next state is carried over by the ratio of both volatilities, so that the best actions are those of plain returns.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from agents.policy.inputs import PolicyInputs
from agents.policy.layout import InputLayout
from agents.policy.network import ACTIONS, POSITIONS, InputTensors, NetworkSettings, as_tensors, build_network
from agents.training.determinism import reproducible, resolve_device
from agents.training.regulariser import ActionValueMemory
from agents.training.settings import LearnerSettings
from memory.errors import InvalidRecordError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B transitions. Returns and costs are in the state's trailing volatilities.

    Attributes
    ----------
    inputs, next_inputs
        The states and those that followed; of the latter only those of transitions that are not terminal matter. Their
        positions, before the action and after it, matter where learning is not counterfactual.
    move
        Return of the market over the bar, (B,): what full exposure brought, before costs.
    cost
        Cost of trading one notional, (B,).
    volatility_ratio
        Trailing volatility of the next state by that of the state, (B,).
    terminal
        Whether nothing follows, (B,).
    weight
        Importance weights, (B,).
    action, reward
        Index of what was done, and what it brought net of costs, (B,); needed where learning is not counterfactual.
    optimal
        Action values of hindsight, (B, 3, 4); needed where memory regularises.
    """

    inputs: PolicyInputs
    next_inputs: PolicyInputs
    move: Floats
    cost: Floats
    volatility_ratio: Floats
    terminal: npt.NDArray[np.bool_]
    weight: Floats
    action: npt.NDArray[np.int64] | None = None
    reward: Floats | None = None
    optimal: Floats | None = None

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """What one step brought.

    Attributes
    ----------
    total, td
        The loss, and its part from temporal differences (Huber, weighted).
    memory, supervision
        MacroHFT's two terms, unweighted; 0 where memory does not regularise.
    gradient
        Norm of the gradient before clipping.
    mean_value
        Mean of the best action's value: grows without bound where learning diverges.
    td_errors
        Absolute error a transition, the new priorities, (B,).
    """

    total: float
    td: float
    memory: float
    supervision: float
    gradient: float
    mean_value: float
    td_errors: Floats

    def figures(self) -> dict[str, float]:
        """The scalars by name."""
        return {
            "loss": self.total,
            "td_loss": self.td,
            "memory_loss": self.memory,
            "supervision_loss": self.supervision,
            "gradient_norm": self.gradient,
            "mean_value": self.mean_value,
        }


def outcome_table(move: Tensor, cost: Tensor) -> Tensor:
    """What every action brings at every position: rewards (B, 3, 4), net of costs."""
    after, traded = _exposures(move.dtype, move.device)
    return move[:, None, None] * after - cost[:, None, None] * traded


@cache
def _exposures(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Exposure after each action at each position, and what is traded for it, (3, 4) each."""
    positions = torch.tensor(POSITIONS, dtype=dtype, device=device)
    after = positions[_AFTER.to(device)]
    return after, (after - positions.unsqueeze(1)).abs()


class DoubleDQN:
    """Learns action values from batches.

    Parameters
    ----------
    layout
        What the inputs are laid out by.
    settings
        How it learns; the defaults where None.
    network
        Sizes of the network; the defaults where None.
    seed
        Of the first weights. All else is in the batches: the same batches give the same weights, bit for bit on one
        machine (on a GPU: see `agents.training.determinism.reproducible`).
    device
        ``auto``, ``cpu`` or ``cuda``.
    """

    def __init__(
        self,
        layout: InputLayout,
        settings: LearnerSettings | None = None,
        *,
        network: NetworkSettings | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.layout = layout
        self.settings = settings = settings or LearnerSettings()
        self.device = resolve_device(device)
        self.online = build_network(layout, network, seed=seed).to(self.device)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        # Listed once: walking through the layers takes longer than moving the weights.
        self._weights: list[Tensor] = list(self.online.parameters())
        self._targets: list[Tensor] = list(self.target.parameters())
        self._positions, self._after = torch.tensor(POSITIONS, device=self.device), _AFTER.to(self.device)
        self.optimiser = torch.optim.AdamW(
            self._weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.memory = ActionValueMemory(
            settings.memory_capacity if settings.use.regularises else 1,
            self.online.settings.hidden,
            (len(POSITIONS), ACTIONS),
            settings.memory_neighbours,
            self.device,
        )
        self.steps = 0

    # --- learning --------------------------------------------------------------------------------------------

    def learn(self, batch: Batch) -> Losses:
        """One step of the optimiser.

        Cost: for 512 transitions of ten memories some 9 ms on one thread of a processor.

        Raises
        ------
        InvalidRecordError
            The batch lacks what the settings need, or the loss or its gradient is not finite; the network is then as it
            was.
        """
        with reproducible(self.device, self.settings.threads):
            return self._learn(batch)

    def _learn(self, batch: Batch) -> Losses:
        settings = self.settings
        inputs, following = self._tensors(batch.inputs), self._tensors(batch.next_inputs)
        move, cost, ratio, weight = (
            self._tensor(values) for values in (batch.move, batch.cost, batch.volatility_ratio, batch.weight)
        )
        goes_on = self._tensor(~batch.terminal)
        rewards = outcome_table(move, cost)
        context = self.online.encode(inputs)
        everywhere = self._positions.expand(len(batch), -1)
        values = self.online.q_of(context, everywhere)
        carried = settings.gamma * goes_on * ratio
        remembers = settings.use.regularises and self.steps % settings.memory_every == 0
        if settings.counterfactual or remembers:
            aims = rewards + carried[:, None, None] * self._next_values(following, everywhere)[:, self._after]
        if settings.counterfactual:
            errors = values - aims
            td_errors = errors.detach().abs().mean(dim=(1, 2))
            td = (self._huber(errors).mean(dim=(1, 2)) * weight).mean()
        else:
            taken, reward, before, ended = self._taken(batch)
            worth = self._next_values(following, ended.unsqueeze(1)).squeeze(1)
            chosen = self.online.q_of(context, before.unsqueeze(1)).squeeze(1).gather(1, taken).squeeze(1)
            errors = chosen - (reward + carried * worth)
            td_errors = errors.detach().abs()
            td = (self._huber(errors) * weight).mean()
        loss, recalled_loss, supervision = td, td.new_zeros(()), td.new_zeros(())
        if settings.use.regularises:
            recalled_loss, supervision = self._regularise(batch, context, values, weight)
            loss = loss + settings.memory_weight * recalled_loss + settings.supervision_weight * supervision
        self._check("loss", loss)
        for weights in self._weights:
            weights.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._weights, settings.gradient_clip)
        self._check("gradient norm", norm)
        self.optimiser.step()
        self._follow()
        if remembers:
            self.memory.add(context.detach(), aims)
        self.steps += 1
        return Losses(
            total=float(loss.detach()),
            td=float(td.detach()),
            memory=float(recalled_loss.detach()),
            supervision=float(supervision.detach()),
            gradient=float(norm),
            mean_value=float(values.detach().amax(dim=2).mean()),
            td_errors=td_errors.cpu().numpy().astype(np.float64),
        )

    @torch.no_grad()
    def _next_values(self, following: InputTensors, positions: Tensor) -> Tensor:
        """What the next state is worth at positions (B, P): chosen by the online network, valued by the target."""
        chosen = self.online.q_of(self.online.encode(following), positions).argmax(dim=2, keepdim=True)
        return self.target.q_of(self.target.encode(following), positions).gather(2, chosen).squeeze(2)

    def _huber(self, errors: Tensor) -> Tensor:
        return huber_loss(errors, torch.zeros_like(errors), reduction="none", delta=self.settings.huber)

    def _taken(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if batch.action is None or batch.reward is None:
            raise InvalidRecordError(
                "the batch holds no actions and rewards, and learning is not counterfactual.",
                remedy="Give action and reward, or set counterfactual.",
                field="action",
            )
        taken = torch.from_numpy(batch.action).to(self.device).unsqueeze(1)
        before, ended = self._tensor(batch.inputs.position), self._tensor(batch.next_inputs.position)
        return taken, self._tensor(batch.reward), before, ended

    def _regularise(self, batch: Batch, context: Tensor, values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """MacroHFT's terms: distance from remembered values, divergence from hindsight's."""
        if batch.optimal is None:
            raise InvalidRecordError(
                "the batch holds no action values of hindsight, and memory regularises.",
                remedy="Give optimal (agents.training.hindsight), or another memory_use.",
                field="optimal",
            )
        with torch.no_grad():
            recalled = self.memory.recall(context.detach())
        remembered = values.new_zeros(())
        if recalled is not None:
            remembered = (((values - recalled) ** 2).mean(dim=(1, 2)) * weight).mean()
        temperature = self.settings.supervision_temperature
        hindsight = torch.log_softmax(self._tensor(batch.optimal) / temperature, dim=2)
        policy = torch.log_softmax(values / temperature, dim=2)
        divergence = (hindsight.exp() * (hindsight - policy)).sum(dim=2).mean(dim=1)
        return remembered, (divergence * weight).mean()

    @torch.no_grad()
    def _follow(self) -> None:
        torch._foreach_lerp_(self._targets, self._weights, self.settings.tau)

    def _check(self, name: str, value: Tensor) -> None:
        """InvalidRecordError where a figure of the step is not finite: nothing of it may reach the weights."""
        if not bool(torch.isfinite(value)):
            raise InvalidRecordError(
                f"the {name} of step {self.steps} is {float(value.detach())}.",
                remedy="Look for returns or inputs that are not finite or far too large, or lower the learning rate.",
                field=name,
            )

    def _tensors(self, inputs: PolicyInputs) -> InputTensors:
        if not self.settings.use.retrieves:
            inputs = inputs.without_memory(knowledge=False)
        return as_tensors(inputs, self.device)

    def _tensor(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(self.device)

    # --- asking ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def q_values(self, inputs: PolicyInputs, positions: npt.ArrayLike = POSITIONS, *, chunk: int = 4_096) -> Floats:
        """Action values (B, P, 4) at positions (P,), as the policy that acts computes them: in float64.

        Memory is seen or not as the settings say. Cost: some 5 microseconds a state and position.
        """
        network = copy.deepcopy(self.online).to(dtype=torch.float64)
        if not self.settings.use.retrieves:
            inputs = inputs.without_memory(knowledge=False)
        at = torch.tensor(np.asarray(positions, dtype=np.float64), device=self.device)
        parts = []
        with reproducible(self.device, self.settings.threads):
            for begin in range(0, len(inputs), chunk):
                part = as_tensors(inputs.take(slice(begin, begin + chunk)), self.device, torch.float64)
                parts.append(network.q_at(part, at).cpu().numpy())
        return np.concatenate(parts) if parts else np.empty((0, len(at), ACTIONS))

    # --- going on --------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that the next step follows from, as tensors and numbers."""
        return {
            "online": self.online.state_dict(),
            "target": self.target.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "memory": self.memory.state(),
            "steps": self.steps,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, bit for bit."""
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["target"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.memory.load_state(state["memory"])
        self.steps = int(state["steps"])


_AFTER = torch.tensor([[0, 1, 2, held] for held in range(len(POSITIONS))])
"""Index into `POSITIONS` of the position after each action (columns) at each position (rows)."""
