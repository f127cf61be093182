"""MacroHFT's own use of memory: action values remembered while learning, never read when acting.

C. Zong, C. Wang, M. Qin, L. Feng, X. Wang and B. An, "MacroHFT: Memory Augmented Context-aware Reinforcement Learning
On High Frequency Trading", KDD 2024: a first-in-first-out memory of (hidden state, action values), a value recalled as
the mean of the k nearest by inverse distance, a loss of TD error + 0.5 (Q - recalled)^2 + 5 KL(hindsight || policy).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from memory.errors import InvalidRecordError

KERNEL_EPSILON = 1e-3
"""Added to squared distances: an equal state counts a thousand times one at distance 1, not without bound."""


class ActionValueMemory:
    """The last contexts with the action values that were aimed at there; first in, first out.

    Parameters
    ----------
    capacity
        Entries.
    width
        Length of a context.
    values
        Shape of an entry's values, such as (3, 4): positions and actions.
    neighbours
        Nearest entries that are averaged.
    device
        Where they lie.
    """

    def __init__(
        self, capacity: int, width: int, values: tuple[int, ...], neighbours: int, device: torch.device
    ) -> None:
        self.neighbours = neighbours
        self._keys = torch.zeros(capacity, width, device=device)
        self._squares = torch.zeros(capacity, device=device)
        self._values = torch.zeros(capacity, *values, device=device)
        self._count = 0
        self._next = 0

    def __len__(self) -> int:
        return self._count

    def recall(self, contexts: Tensor) -> Tensor | None:
        """Remembered values (B, ...) of contexts (B, width); None while there are fewer entries than neighbours."""
        if self._count < self.neighbours:
            return None
        # |a - b|^2 by the product: a matrix of differences would be as large as all entries times the batch. The
        # product takes megabytes itself, so it becomes the squares in its own place.
        squared = 2.0 * contexts @ self._keys[: self._count].T
        torch.sub((contexts**2).sum(1, keepdim=True), squared, out=squared)
        squared += self._squares[: self._count]
        nearest, rows = torch.topk(squared.clamp_min_(0.0), self.neighbours, dim=1, largest=False)
        kernel = 1.0 / (nearest + KERNEL_EPSILON)
        weights = kernel / kernel.sum(dim=1, keepdim=True)
        found = self._values[rows]
        return (found * weights.reshape(*weights.shape, *[1] * (found.dim() - 2))).sum(dim=1)

    def add(self, contexts: Tensor, values: Tensor) -> None:
        """Remember contexts (B, width) with their values (B, ...), in place of the oldest."""
        capacity = len(self._keys)
        contexts, values = contexts[-capacity:], values[-capacity:]
        places = (self._next + torch.arange(len(contexts), device=self._keys.device)) % capacity
        self._keys[places], self._values[places] = contexts, values
        self._squares[places] = (contexts**2).sum(1)
        self._next = (self._next + len(contexts)) % capacity
        self._count = min(self._count + len(contexts), capacity)

    def state(self) -> dict[str, Tensor]:
        """All of it as tensors."""
        return {
            "keys": self._keys.clone(),
            "values": self._values.clone(),
            "cursor": torch.tensor([self._count, self._next]),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken; InvalidRecordError where it is of another shape."""
        for name, own in (("keys", self._keys), ("values", self._values)):
            if state[name].shape != own.shape:
                raise InvalidRecordError(
                    f"the checkpoint's memory of action values has {name} of shape {tuple(state[name].shape)}, and "
                    f"this one {tuple(own.shape)}.",
                    remedy="Resume with the settings that the checkpoint was written with.",
                    field=name,
                )
            own.copy_(state[name])
        self._squares.copy_((self._keys**2).sum(1))
        self._count, self._next = (int(value) for value in state["cursor"])
