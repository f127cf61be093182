"""The records themselves: what one agent lived through, and what was learned from it.

Records are plain dataclasses with slots. They are validated where they enter the memory (`memory.validation`), not on
construction, so that reading stored records costs nothing extra.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from memory.errors import InvalidRecordError

Vector = npt.NDArray[np.float32]

VECTOR_DIMENSION = 256
UNIT_TOLERANCE = 1e-3
"""Largest deviation of a vector's length from 1; float32 and float16 rounding stay well below it."""
LARGEST_COSINE_DISTANCE = 2.0
"""1 - cosine of opposite vectors; as a reach it bounds nothing."""

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
    features: Mapping[str, float] = field(default_factory=dict)
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
class BlockFigure:
    """Mean of values that depend on one another within clock blocks, and how well it is known.

    Attributes
    ----------
    n, blocks
        Values, and clock blocks that hold them.
    mean
        Mean of the values.
    spread
        Variance of the values; None under 2 values.
    variance, interval
        Cluster-robust variance of the mean, None under 2 blocks; 95 % interval, None under 8 blocks.
    concentration
        sum(n_b^2) / n^2 over the blocks' counts n_b: its inverse is the effective number of blocks.
    """

    n: int
    blocks: int
    mean: float
    spread: float | None
    variance: float | None
    concentration: float
    interval: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRate:
    """What followed in all states of a regime over one horizon: where every estimate begins.

    Attributes
    ----------
    horizon_minutes
        Minutes after the decision.
    gross
        Simple return of the price, a fraction.
    scaled, volatility
        That return / (trailing volatility * sqrt(horizon)), and the logarithm of its magnitude; None where no state has
        a trailing volatility.
    magnitude_p90, magnitude_p95
        Sizes that 90 and 95 % of the scaled returns stay below, within the relative error of the quantile sketch (4 %);
        None with `scaled`.
    """

    horizon_minutes: int
    gross: BlockFigure
    scaled: BlockFigure | None = None
    volatility: BlockFigure | None = None
    magnitude_p90: float | None = None
    magnitude_p95: float | None = None


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
    `shrunk_mean_return` and `shrunk_sharpe_ratio` are those of the mean after empirical Bayes has drawn it towards no
    gain, by how much agents differ from one another at all; None where that cannot be judged.
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
    shrunk_mean_return: float | None = None
    shrunk_sharpe_ratio: float | None = None


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
    reach: float = LARGEST_COSINE_DISTANCE
    """Cosine distance within which nine in ten of its states lie: a state further away is not of the pattern."""
    split_from: str | None = None
    """Pattern id of the pattern that it was found to be a part of, where it came about by a split."""


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
    base_rates: tuple[BaseRate, ...] = ()
    """What followed in its states, one a horizon; empty where no outcome is known."""


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
    q_value: float | None = None
    """Benjamini-Hochberg q-value of "the correlation is not 0" among all pairs, bars and regimes; None if untested."""
    references: tuple[str, ...] = ()
    """Products whose regime keyed the sums: more than one where the default reference changed between windows."""


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
