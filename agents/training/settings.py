"""Settings of learning a policy, in one flat place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from memory.validation import validate_choice, validate_number


class MemoryUse(StrEnum):
    """What memory is used for: two designs, their combination, and neither.

    ``retrieve``: the policy looks at retrieved memories when it acts and learns. ``regularise``: as in MacroHFT, a
    memory of action values steadies the learning, and is never read when acting. The network is the same in all four.
    """

    NONE = "none"
    RETRIEVE = "retrieve"
    REGULARISE = "regularise"
    BOTH = "both"

    @property
    def retrieves(self) -> bool:
        """Whether the policy sees retrieved memories and knowledge."""
        return self in (MemoryUse.RETRIEVE, MemoryUse.BOTH)

    @property
    def regularises(self) -> bool:
        """Whether the loss holds MacroHFT's two terms."""
        return self in (MemoryUse.REGULARISE, MemoryUse.BOTH)


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """How the network learns. Returns, costs and values are in trailing volatilities of the state.

    Parameters
    ----------
    memory_use
        See `MemoryUse`.
    counterfactual
        Learn from what every action would have brought at every position, since agents are price takers and the next
        bar is the same for all; off, only from what agents did.
    learning_rate
        Of Adam. MacroHFT's 1e-4 is for millions of steps; trainings here have some thousands.
    weight_decay
        Decoupled (AdamW): returns are mostly noise, and a network that may not shrink learns it by heart.
    gamma
        Discount a decision; at 0.99 what comes an hour later counts half.
    tau
        Share of the network that enters the target network each step, MacroHFT's.
    batch
        Transitions a step, MacroHFT's.
    gradient_clip
        Largest norm of the gradient.
    huber
        Errors beyond this many trailing volatilities count linearly: rare jumps must not decide.
    alpha, beta
        Prioritisation and its correction (`agents.training.replay`).
    memory_capacity, memory_neighbours
        MacroHFT's memory of action values: entries, first in first out, and how many of the nearest are averaged.
    memory_weight, supervision_weight
        MacroHFT's weights of its two terms: closeness to the remembered value, and the divergence from the action
        values that hindsight gives on the training span.
    supervision_temperature
        Action values are compared as softmax at this temperature, trailing volatilities.
    memory_every
        Steps between entries into the memory of action values.
    threads
        Threads of torch; last bits depend on it.
    """

    memory_use: str = MemoryUse.RETRIEVE.value
    counterfactual: bool = True
    learning_rate: float = 5e-4
    weight_decay: float = 1e-4
    gamma: float = 0.99
    tau: float = 0.005
    batch: int = 512
    gradient_clip: float = 10.0
    huber: float = 3.0
    alpha: float = 0.6
    beta: float = 0.4
    memory_capacity: int = 4_320
    memory_neighbours: int = 5
    memory_weight: float = 0.5
    supervision_weight: float = 5.0
    supervision_temperature: float = 1.0
    memory_every: int = 8
    threads: int = 1

    def __post_init__(self) -> None:
        validate_choice(self.memory_use, "memory_use", tuple(use.value for use in MemoryUse))
        for name, low, high in (
            ("learning_rate", 1e-8, 1.0),
            ("weight_decay", 0.0, 1.0),
            ("gamma", 0.0, 1.0),
            ("tau", 0.0, 1.0),
            ("batch", 1, 1_000_000),
            ("gradient_clip", 1e-6, 1e6),
            ("huber", 1e-6, 1e6),
            ("alpha", 0.0, 1.0),
            ("beta", 0.0, 1.0),
            ("memory_capacity", 1, 1_000_000),
            ("memory_neighbours", 1, 1_000),
            ("memory_weight", 0.0, 1e3),
            ("supervision_weight", 0.0, 1e3),
            ("supervision_temperature", 1e-6, 1e6),
            ("memory_every", 1, 1_000_000),
            ("threads", 1, 1_024),
        ):
            validate_number(getattr(self, name), name, low, high)

    @property
    def use(self) -> MemoryUse:
        """`memory_use` as the enumeration."""
        return MemoryUse(self.memory_use)
