"""What a question finds: the memory, how near it is, and what it was ranked by."""

from __future__ import annotations

from dataclasses import dataclass, field

from memory.records import EpisodicMemory, PatternMemory


@dataclass(slots=True)
class Hit:
    """An experience that was found. Each answer has hits of its own; freezing them would triple what one costs.

    Attributes
    ----------
    memory
        The experience; its `next_state_vector` is filled in where that was asked for.
    distance
        Cosine distance to the state that was asked about: 0 is the same direction, 2 the opposite.
    score
        What the hits are ordered by, best first.
    score_parts
        What the score is made of, and adds up to: ``similarity``, the cosine; where relevance was asked for,
        ``similarity``, ``recency`` and ``reward``, each times its weight.
    """

    memory: EpisodicMemory
    distance: float
    score: float
    score_parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PatternHit:
    """A pattern that was found; as `Hit`."""

    memory: PatternMemory
    distance: float
    score: float
    score_parts: dict[str, float] = field(default_factory=dict)
