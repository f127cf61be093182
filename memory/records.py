"""The records themselves: what one agent lived through, what was learned from it, and their validation.

Records are plain dataclasses with slots. They are validated where they enter the memory (`validate_experience`,
`validate_semantic`), not on construction, so that reading stored records costs nothing extra.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.errors import InvalidRecordError

Vector = npt.NDArray[np.float32]

VECTOR_DIMENSION = 256
UNIT_TOLERANCE = 1e-3
"""Largest deviation of a vector's length from 1; float32 and float16 rounding stay well below it."""

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
    rewards from this action to the end of the episode) is hidden from queries as of a time before
    `return_known_at`.
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
    features: dict[str, float] = field(default_factory=dict)
    quality: float | None = None


def experience_id(source: str, run_id: str, agent_id: str, product_id: str, timestamp: datetime, step: int) -> str:
    """Memory id of an experience: 32 hex digits of BLAKE2b over what makes it the same experience."""
    text = "\x1f".join((source, run_id, agent_id, product_id, str(to_ms(timestamp)), str(step)))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


# --- semantic memory -----------------------------------------------------------------------------------------


class SemanticType(StrEnum):
    """Kind of semantic memory."""

    PATTERN = "PATTERN"
    REGIME = "REGIME"
    STRATEGY = "STRATEGY"
    CORRELATION = "CORRELATION"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A two-sided 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one action brought over one horizon in the states of a pattern, counterfactually.

    Attributes
    ----------
    action
        LONG, SHORT or FLAT.
    horizon_minutes
        Minutes after the decision.
    n, blocks
        States, and 30-minute clock blocks that hold them; the interval counts blocks.
    gross_mean, net_mean
        Mean return as a fraction of notional, before and after the costs of a round trip.
    interval
        95 % cluster-robust interval of the gross mean; None under 8 blocks.
    win_rate
        Share of states with a net return above 0.
    gross_sharpe, net_sharpe
        Annualised Sharpe ratio of block returns, one occurrence a block; None where it cannot be computed.
    max_drawdown
        Worst drop of the running sum of net block returns, as a positive fraction.
    shrunk_net_mean
        Net mean, shrunk towards the regime's base rate (empirical Bayes).
    q_value
        Benjamini-Hochberg q-value of "the gross mean differs from the base rate"; None without an interval.
    """

    action: str
    horizon_minutes: int
    n: int
    blocks: int
    gross_mean: float
    net_mean: float
    interval: Interval | None
    win_rate: float
    gross_sharpe: float | None
    net_sharpe: float | None
    max_drawdown: float
    shrunk_net_mean: float
    q_value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolatilityOutcome:
    """Volatility that followed: mean of log |return / trailing volatility| over a horizon, and the base rate."""

    horizon_minutes: int
    n: int
    blocks: int
    mean: float
    interval: Interval | None
    base_mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Range of one named feature that sets a pattern apart (10th to 90th percentile), and how far it does."""

    feature: str
    low: float
    high: float
    lift: float
    phrase: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceMetrics:
    """Performance figures, each with its basis.

    Returns are net of costs, fractions of notional; `sharpe_ratio` is annualised from returns of
    `block_minutes`-long blocks with `periods_per_year` of them; `max_drawdown` is a positive fraction.
    """

    n: int
    blocks: int
    block_minutes: int
    periods_per_year: float
    mean_return: float
    total_return: float
    win_rate: float
    win_rate_interval: Interval | None
    sharpe_ratio: float | None
    gross_sharpe_ratio: float | None
    max_drawdown: float
    turnover: float | None = None
    basis: str = "net"


@dataclass(slots=True, kw_only=True, eq=False)
class SemanticBase:
    """What all semantic memories carry. One object is one version, valid from `valid_from` to `valid_to`."""

    memory_id: str
    description: str
    encoder_id: str
    line: str
    created_at: datetime
    valid_from: datetime
    valid_to: datetime | None = None
    last_accessed: datetime | None = None
    access_count: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class PatternMemory(SemanticBase):
    """A recurring kind of state, with what long, short and flat brought there."""

    pattern_id: str
    concept_vector: Vector
    source: str
    regime: str
    product_ids: tuple[str, ...]
    conditions: tuple[Condition, ...]
    support: int
    effective_support: int
    states: int
    windows_seen: int
    first_seen: datetime
    last_seen: datetime
    broad: bool
    status: str
    outcomes: tuple[Outcome, ...]
    volatility: tuple[VolatilityOutcome, ...]
    expected_return: float
    best_action: str | None
    realised: dict[str, dict[str, float]] = field(default_factory=dict)
    demoted: bool = False
    aliases: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True, eq=False)
class RegimeMemory(SemanticBase):
    """What a regime looks like, how long it lasts, and what follows it. Durations are seconds."""

    regime_name: str
    concept_vector: Vector
    product_id: str
    regime_features: dict[str, float]
    states: int
    share: float
    typical_duration: float | None
    transition_probability: dict[str, float]
    step_probability: dict[str, float]
    step_s: float
    spells: int
    source: str = "live"
    path_probability: dict[str, dict[str, float]] = field(default_factory=dict)
    """Probability of the next regime given the one before as well: {before: {next: probability}}."""


@dataclass(slots=True, kw_only=True, eq=False)
class StrategyMemory(SemanticBase):
    """How one agent does in the regimes."""

    strategy_name: str
    agent_id: str
    source: str
    applicable_regimes: tuple[str, ...]
    success_rate_by_regime: dict[str, float]
    performance: dict[str, PerformanceMetrics]
    policy_checkpoint: str | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class CorrelationMemory(SemanticBase):
    """How two products move together at one lag; a positive lag means that the first product leads."""

    products: tuple[str, str]
    regime: str
    bar_minutes: int
    lag: int
    correlation: float
    interval: Interval | None
    n: int
    claimed: bool
    source: str = "live"


SemanticMemory = PatternMemory | RegimeMemory | StrategyMemory | CorrelationMemory

SEMANTIC_CLASSES: dict[SemanticType, type[SemanticBase]] = {
    SemanticType.PATTERN: PatternMemory,
    SemanticType.REGIME: RegimeMemory,
    SemanticType.STRATEGY: StrategyMemory,
    SemanticType.CORRELATION: CorrelationMemory,
}


def semantic_type(memory: SemanticBase) -> SemanticType:
    """Kind of a semantic memory."""
    for kind, cls in SEMANTIC_CLASSES.items():
        if isinstance(memory, cls):
            return kind
    raise InvalidRecordError(
        f"{type(memory).__name__} is no kind of semantic memory.",
        remedy="Use PatternMemory, RegimeMemory, StrategyMemory or CorrelationMemory.",
        field="memory",
    )


# --- validation ----------------------------------------------------------------------------------------------


def validate_vector(value: Any, name: str, dimension: int = VECTOR_DIMENSION) -> Vector:
    """The value as a contiguous unit-length float32 vector of shape (dimension,), or InvalidRecordError."""
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.shape != (dimension,):
        got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise InvalidRecordError(
            f"{name} is {got}, not a float32 array of shape ({dimension},).",
            remedy="Encode states with a StateEncoder, or convert with np.asarray(vector, dtype=np.float32).",
            field=name,
        )
    squared_length = float(np.dot(value, value))
    if not math.isfinite(squared_length) or abs(squared_length - 1.0) > 2 * UNIT_TOLERANCE:
        problem = "holds NaN or infinity" if not np.isfinite(value).all() else f"has length {squared_length**0.5:.4g}"
        raise InvalidRecordError(
            f"{name} {problem}; it must be finite and of length 1.",
            remedy="Divide the vector by its length; a zero vector cannot be stored.",
            field=name,
        )
    return np.ascontiguousarray(value)


def validate_identifier(value: Any, name: str) -> str:
    """The value where it is an id that keys, tags and file names can hold, or InvalidRecordError."""
    if not isinstance(value, str) or not IDENTIFIER_PATTERN.fullmatch(value):
        raise InvalidRecordError(
            f"{name} {_shown(value)} is not a valid id.",
            remedy="Use 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit.",
            field=name,
        )
    return value


def validate_timestamp(value: Any, name: str) -> datetime:
    """The value as an aware UTC timestamp, or InvalidRecordError."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidRecordError(
            f"{name} {_shown(value)} is not an aware datetime.",
            remedy="Use datetime objects with a time zone, such as datetime.now(UTC).",
            field=name,
        )
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidRecordError(
            f"{name} {_shown(value)} lies outside the years 1 to 9999 in UTC.", remedy="Correct it.", field=name
        ) from error


def validate_number(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """The value as a finite float within [low, high], or InvalidRecordError."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InvalidRecordError(
            f"{name} {_shown(value)} is not a number.", remedy="Pass an int or a float.", field=name
        )
    number = float(value)
    if not math.isfinite(number) or not low <= number <= high:
        span = "" if (low, high) == (-math.inf, math.inf) else f" from {low:g} to {high:g}"
        raise InvalidRecordError(
            f"{name} is {number}; it must be a finite number{span}.", remedy="Correct the value.", field=name
        )
    return number


def validate_choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """The value as a plain string where it is among the choices, or InvalidRecordError."""
    if not isinstance(value, str) or str(value) not in choices:
        raise InvalidRecordError(
            f"{name} {_shown(value)} is not known.", remedy=f"Use one of {', '.join(choices)}.", field=name
        )
    return str(value)


def validate_action(value: Any, name: str) -> Action:
    """The value where it is a well-formed action, or InvalidRecordError."""
    if not isinstance(value, Action) or not isinstance(value.side, Side):
        raise InvalidRecordError(
            f"{name} {_shown(value)} is not an Action.", remedy="Use Action(Side.BUY, 0.5) or the like.", field=name
        )
    validate_number(value.size, f"{name}.size", 0.0, 1.0)
    return value


def validate_experience(memory: EpisodicMemory, dimension: int = VECTOR_DIMENSION) -> EpisodicMemory:
    """Check an experience and fill what follows from the rest (memory_id, market_phase), in place.

    Raises
    ------
    InvalidRecordError
        Names the field, the value and the remedy. Cost: about 15 microseconds.
    """
    if not isinstance(memory, EpisodicMemory):
        raise InvalidRecordError(
            f"{type(memory).__name__} is no experience.", remedy="Store EpisodicMemory records.", field="memory"
        )
    validate_identifier(memory.agent_id, "agent_id")
    validate_identifier(memory.product_id, "product_id")
    validate_identifier(memory.run_id, "run_id")
    if memory.encoder_id:
        validate_identifier(memory.encoder_id, "encoder_id")
    memory.timestamp = validate_timestamp(memory.timestamp, "timestamp")
    if memory.timestamp.year >= LAST_YEAR:
        raise InvalidRecordError(
            f"timestamp {memory.timestamp.isoformat()} lies after the last window.",
            remedy=f"Decisions lie before the year {LAST_YEAR}.",
            field="timestamp",
        )
    for name in ("known_at", "recorded_at", "return_known_at"):
        value = getattr(memory, name)
        if value is not None:
            setattr(memory, name, validate_timestamp(value, name))
    if memory.known_at is not None and memory.known_at < memory.timestamp:
        raise InvalidRecordError(
            f"known_at {memory.known_at.isoformat()} lies before timestamp {memory.timestamp.isoformat()}.",
            remedy="known_at is when reward and next state existed: the next decision time or later.",
            field="known_at",
        )
    memory.state_vector = validate_vector(memory.state_vector, "state_vector", dimension)
    if memory.next_state_vector is not None:
        memory.next_state_vector = validate_vector(memory.next_state_vector, "next_state_vector", dimension)
    validate_action(memory.action, "action")
    memory.reward = validate_number(memory.reward, "reward")
    memory.regime = validate_choice(memory.regime, "regime", REGIMES)
    memory.source = validate_choice(memory.source, "source", SOURCES)
    if isinstance(memory.step, bool) or not isinstance(memory.step, int) or memory.step < 0:
        raise InvalidRecordError(
            f"step {_shown(memory.step)} is not a count.", remedy="Use 0, 1, 2, ... within the episode.", field="step"
        )
    memory.confidence = validate_number(memory.confidence, "confidence", 0.0, 1.0)
    for name, low, high in _OPTIONAL_NUMBERS:
        value = getattr(memory, name)
        if value is not None:
            setattr(memory, name, validate_number(value, name, low, high))
    if memory.cumulative_return is not None and memory.return_known_at is None:
        raise InvalidRecordError(
            "cumulative_return is given without return_known_at.",
            remedy="Say when the return was known, so that earlier queries do not see it.",
            field="return_known_at",
        )
    if isinstance(memory.terminal, np.bool_):
        memory.terminal = bool(memory.terminal)
    for name, kind in _CONTAINERS:
        value = getattr(memory, name)
        if not isinstance(value, kind):
            raise InvalidRecordError(
                f"{name} {_shown(value)} is {type(value).__name__}.",
                remedy=f"Use a {kind[0].__name__}.",
                field=name,
            )
    for name, value in memory.features.items():
        validate_identifier(name, "features")
        memory.features[name] = validate_number(value, f"features[{name}]")
    for agent, action in memory.other_agent_actions.items():
        validate_identifier(agent, "other_agent_actions")
        validate_action(action, f"other_agent_actions[{agent}]")
    memory.pattern_ids = tuple(validate_identifier(pattern, "pattern_ids") for pattern in memory.pattern_ids)
    phase = market_phase(memory.timestamp)
    if memory.market_phase and memory.market_phase != phase:
        raise InvalidRecordError(
            f"market_phase {_shown(memory.market_phase)} does not fit timestamp {memory.timestamp.isoformat()}.",
            remedy=f"Leave it empty or use {phase}.",
            field="market_phase",
        )
    memory.market_phase = phase
    derived = experience_id(
        memory.source, memory.run_id, memory.agent_id, memory.product_id, memory.timestamp, memory.step
    )
    if memory.memory_id and memory.memory_id != derived:
        raise InvalidRecordError(
            f"memory_id {_shown(memory.memory_id)} does not belong to this record.",
            remedy=f"Leave it empty; it derives from source, run, agent, product, time and step ({derived}).",
            field="memory_id",
        )
    memory.memory_id = derived
    return memory


_CONTAINERS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("terminal", (bool,)),
    ("features", (dict,)),
    ("other_agent_actions", (dict,)),
    ("pattern_ids", (tuple, list)),
)
_OPTIONAL_NUMBERS: tuple[tuple[str, float, float], ...] = (
    ("price", 0.0, math.inf),
    ("spread", 0.0, math.inf),
    ("gross_return", -math.inf, math.inf),
    ("cost", 0.0, math.inf),
    ("position_before", -1.0, 1.0),
    ("position_after", -1.0, 1.0),
    ("cumulative_return", -math.inf, math.inf),
    ("quality", 0.0, 1.0),
)


def validate_semantic(memory: SemanticBase, dimension: int = VECTOR_DIMENSION) -> SemanticBase:
    """Check what every semantic memory must hold, in place; InvalidRecordError names the field."""
    semantic_type(memory)
    validate_identifier(memory.memory_id, "memory_id")
    validate_identifier(memory.encoder_id, "encoder_id")
    if isinstance(memory, PatternMemory | RegimeMemory):
        memory.concept_vector = validate_vector(memory.concept_vector, "concept_vector", dimension)
    memory.created_at = validate_timestamp(memory.created_at, "created_at")
    memory.valid_from = validate_timestamp(memory.valid_from, "valid_from")
    if memory.valid_to is not None:
        memory.valid_to = validate_timestamp(memory.valid_to, "valid_to")
        if memory.valid_to < memory.valid_from:
            raise InvalidRecordError(
                f"valid_to {memory.valid_to.isoformat()} lies before valid_from {memory.valid_from.isoformat()}.",
                remedy="A version ends when the next one begins.",
                field="valid_to",
            )
    return memory


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
