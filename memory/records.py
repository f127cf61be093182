"""The records themselves: what one agent lived through, here, and what was learned from it.

All records are imported from here, those of `memory.semantic_records` too. They are plain dataclasses with slots, and
are validated where they enter the memory (`memory.validation`), not on construction, so that reading stored records
costs nothing extra.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from memory.errors import InvalidRecordError
from memory.semantic_records import (
    SEMANTIC_CLASSES,
    BaseRate,
    BlockFigure,
    Condition,
    CorrelationMemory,
    Interval,
    Outcome,
    PatternMemory,
    PerformanceMetrics,
    RegimeMemory,
    SemanticBase,
    SemanticMemory,
    SemanticType,
    StrategyMemory,
    VolatilityOutcome,
    semantic_type,
)
from memory.vectors import (
    LARGEST_COSINE_DISTANCE,
    UNIT_TOLERANCE,
    VECTOR_DIMENSION,
    Vector,
)

__all__ = [
    "IDENTIFIER_PATTERN",
    "LARGEST_COSINE_DISTANCE",
    "LAST_YEAR",
    "MIXED",
    "PHASES",
    "REGIMES",
    "SEMANTIC_CLASSES",
    "SOURCES",
    "UNIT_TOLERANCE",
    "UNNAMED_ENCODER",
    "VECTOR_DIMENSION",
    "Action",
    "BaseRate",
    "BlockFigure",
    "Condition",
    "CorrelationMemory",
    "EpisodicMemory",
    "Interval",
    "MarketPhase",
    "Outcome",
    "PatternMemory",
    "PerformanceMetrics",
    "Regime",
    "RegimeMemory",
    "SemanticBase",
    "SemanticMemory",
    "SemanticType",
    "Side",
    "StrategyMemory",
    "Vector",
    "VolatilityOutcome",
    "experience_id",
    "from_ms",
    "market_phase",
    "semantic_type",
    "to_ms",
]

IDENTIFIER_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SOURCES = ("live", "replay", "backtest")
LAST_YEAR = 9999
"""Decisions lie before it: their window must end within what a datetime can hold."""
UNNAMED_ENCODER = "unnamed"
"""Encoder id of vectors that a caller brings without saying where they come from."""


class Regime(StrEnum):
    """What kind of market it is; one label per product and time."""

    TRENDING = "TRENDING"
    MEAN_REVERTING = "MEAN_REVERTING"
    VOLATILE = "VOLATILE"
    QUIET = "QUIET"
    CRISIS = "CRISIS"


REGIMES: tuple[str, ...] = tuple(regime.value for regime in Regime)
MIXED = "MIXED"
"""Regime of the partition that pools the small ones; never the regime of a state."""


class MarketPhase(StrEnum):
    """Third of the UTC day: OPEN 00-08, MIDDAY 08-16, CLOSE 16-24."""

    OPEN = "OPEN"
    MIDDAY = "MIDDAY"
    CLOSE = "CLOSE"


PHASES: tuple[str, ...] = tuple(phase.value for phase in MarketPhase)


def market_phase(timestamp: datetime) -> str:
    """Phase of the UTC day that an aware timestamp falls into."""
    return PHASES[timestamp.astimezone(UTC).hour // 8]


def to_ms(timestamp: datetime) -> int:
    """Milliseconds since 1970 of an aware timestamp, exact."""
    return (timestamp - _EPOCH) // _MILLISECOND


def from_ms(timestamp_ms: int) -> datetime:
    """Aware UTC timestamp of milliseconds since 1970."""
    return _EPOCH + timedelta(milliseconds=timestamp_ms)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Side(StrEnum):
    """Direction of an action."""

    BUY = "BUY"
    SELL = "SELL"
    HOLD = "HOLD"


@dataclass(frozen=True, slots=True)
class Action:
    """A target exposure: BUY is +size, SELL is -size, HOLD keeps what is; size 0 is flat.

    Parameters
    ----------
    side
        BUY, SELL or HOLD.
    size
        Share of the notional, 0 to 1; of no meaning for HOLD.
    """

    side: Side
    size: float = 1.0

    def target(self, position: float) -> float:
        """Exposure after the action, given the exposure before it; both as a share of notional, -1 to 1."""
        if self.side is Side.HOLD:
            return position
        return self.size if self.side is Side.BUY else -self.size

    @property
    def index(self) -> int:
        """Index for discrete policies: 0 short, 1 flat, 2 long, 3 hold; sizes above 0 count as full."""
        if self.side is Side.HOLD:
            return 3
        if self.size == 0:
            return 1
        return 2 if self.side is Side.BUY else 0

    @classmethod
    def from_index(cls, index: int) -> Action:
        """The action of a discrete policy's index (see `index`)."""
        if not 0 <= index < len(_DISCRETE_ACTIONS):
            raise InvalidRecordError(
                f"action index {index} is not known.", remedy="Use 0 short, 1 flat, 2 long or 3 hold.", field="action"
            )
        return _DISCRETE_ACTIONS[index]


_DISCRETE_ACTIONS = (Action(Side.SELL, 1.0), Action(Side.BUY, 0.0), Action(Side.BUY, 1.0), Action(Side.HOLD, 0.0))


@dataclass(slots=True, kw_only=True, eq=False)
class EpisodicMemory:
    """One experience of one agent: state, action, reward, next state, and their context.

    Returns and costs are fractions of notional; prices are in the product's quote currency; timestamps are aware
    UTC. `timestamp` is the decision, taken at a bar's end. `known_at` is when reward and next state existed; left
    empty, the store sets it to the time of recording, which is the safe side. `cumulative_return` (the sum of
    rewards from this action to the end of the episode) and `terminal` are hidden from queries as of a time before
    `return_known_at`, when the end was known.
    """

    agent_id: str
    timestamp: datetime
    state_vector: Vector
    action: Action
    reward: float
    product_id: str
    regime: str

    memory_id: str = ""
    next_state_vector: Vector | None = None
    market_phase: str = ""
    pattern_ids: tuple[str, ...] = ()
    confidence: float = 0.0
    other_agent_actions: dict[str, Action] = field(default_factory=dict)
    terminal: bool = False
    cumulative_return: float | None = None
    return_known_at: datetime | None = None

    encoder_id: str = ""
    source: str = "live"
    run_id: str = "live"
    step: int = 0
    known_at: datetime | None = None
    recorded_at: datetime | None = None
    price: float | None = None
    spread: float | None = None
    gross_return: float | None = None
    cost: float | None = None
    position_before: float | None = None
    position_after: float | None = None
    features: Mapping[str, float] = field(default_factory=dict)
    quality: float | None = None


def experience_id(source: str, run_id: str, agent_id: str, product_id: str, timestamp: datetime, step: int) -> str:
    """Memory id of an experience: 32 hex digits of BLAKE2b over what makes it the same experience."""
    text = "\x1f".join((source, run_id, agent_id, product_id, str(to_ms(timestamp)), str(step)))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
