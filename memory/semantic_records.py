"""Records of semantic memory: patterns, regimes, strategies and correlations, and the figures that they carry.

Imported from `memory.records`, as all records are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from memory.errors import InvalidRecordError
from memory.vectors import LARGEST_COSINE_DISTANCE, Vector


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
