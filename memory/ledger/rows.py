"""What callers hand to the ledger and get back: plain frozen dataclasses, free of SQLAlchemy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from memory.window import Window


@dataclass(frozen=True, slots=True)
class FencingToken:
    """The right to write to a namespace; a later holder's `value` is higher."""

    namespace: str
    value: int
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run of a flow; `status` is RUNNING, SUCCEEDED, FAILED or DEAD."""

    run_id: str
    namespace: str
    flow: str
    window: Window | None
    status: str
    parameters: dict[str, Any]
    result: dict[str, Any] | None
    error: str | None
    report_path: str | None
    flow_run_id: str | None
    host: str
    process_id: int
    lease_s: float
    started_at: datetime
    heartbeat_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a namespace, or held it last."""

    namespace: str
    token: int
    run_id: str
    flow: str
    host: str
    process_id: int
    acquired_at: datetime
    expires_at: datetime
    released: bool
    expired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRecord:
    """A knowledge line; `activation` is its place in the succession of current lines, None before it was one."""

    line: str
    namespace: str
    encoder_id: str
    algorithm_version: str
    activation: int | None
    current_from: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderRecord:
    """A fitted encoder as bytes; `digest` is their SHA-256."""

    encoder_id: str
    dimension: int
    fitted_until: datetime | None
    payload: bytes
    digest: str
    parameters: dict[str, Any] = field(default_factory=dict)


# --- windows -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRow:
    """What can be searched of one cluster; `member_digest` identifies its member states."""

    cluster: int
    states: int
    support: int
    broad: bool
    member_digest: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRecord:
    """A staged summary; `digest` is the SHA-256 of the payload. `kind` and `partition_key` are the caller's."""

    kind: str
    partition_key: str
    input_digest: str
    settings_hash: str
    digest: str
    payload: bytes
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestEntry:
    """One partition of a generation: the digest of its summary, or None where the partition was absent."""

    kind: str
    partition_key: str
    digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRecord:
    """A committed generation. `manifest` and its digest hold nothing that depends on a clock, a run or a namespace."""

    line: str
    window: Window
    number: int
    manifest: dict[str, Any]
    manifest_digest: str
    settings_hash: str
    recorded_cut: datetime | None
    counts: dict[str, Any]
    run_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentGeneration:
    """The current generation of a window with its summaries, sorted by kind and partition key."""

    generation: GenerationRecord
    summaries: tuple[SummaryRecord, ...]
    absent: tuple[ManifestEntry, ...]

    def of_kind(self, kind: str) -> tuple[SummaryRecord, ...]:
        """Summaries of one kind, sorted by partition key."""
        return tuple(summary for summary in self.summaries if summary.kind == kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowStatus:
    """Where one window of a line stands; `generation` is None before the first was committed."""

    line: str
    window: Window
    generation: int | None
    manifest_digest: str | None
    settings_hash: str | None
    recorded_cut: datetime | None
    counts: dict[str, Any]
    stale_since: datetime | None
    stale_reason: str | None


# --- folds ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A saved fold state, without its items. `state_digest` covers all items of the state."""

    checkpoint_id: int
    line: str
    kind: str
    window: Window
    full: bool
    input_digest: str
    state_digest: str
    items: int
    counts: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldItems:
    """A fold state by named items, and the checkpoint it came from (None: the empty state before all windows)."""

    checkpoint: Checkpoint | None
    items: dict[str, bytes]


# --- projections ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionRow:
    """What all projected rows have: an id that is unique within line and kind, and the memory as bytes.

    Payloads must hold neither namespace nor clock times nor run ids, or digests of equal knowledge differ.
    """

    item_id: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternRow(ProjectionRow):
    """A pattern; `item_id` is the pattern id, `published` whether agents see it."""

    status: str
    published: bool
    source: str
    regime: str
    product_ids: Sequence[str]
    support: int
    states: int
    windows_seen: int
    first_seen: datetime
    last_seen: datetime
    broad: bool
    demoted: bool
    expected_return: float | None
    best_action: str | None
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionRow(ProjectionRow):
    """Transitions from one regime to another: jump-chain and per-step probability, steps of `step_s` seconds."""

    product_id: str
    from_regime: str
    to_regime: str
    count: float
    probability: float | None
    step_probability: float | None
    step_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RegimeRow(ProjectionRow):
    """A regime of one product, or of all pooled."""

    product_id: str
    regime: str
    states: int
    share: float
    typical_duration_s: float | None
    spells: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyRow(ProjectionRow):
    """How one agent does; returns are net fractions of notional, the Sharpe ratio is annualised."""

    agent_id: str
    source: str
    applicable_regimes: Sequence[str]
    sharpe_ratio: float | None
    mean_return: float | None
    win_rate: float | None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrelationRow(ProjectionRow):
    """How two products move together at one lag (in bars; positive: the first leads), in one regime."""

    product_a: str
    product_b: str
    regime: str
    bar_minutes: int
    lag: int
    correlation: float
    low: float | None
    high: float | None
    n: int
    claimed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRow:
    """An id that leads to another pattern; reason MERGED (by the fold) or REFOUNDED (by a later fold)."""

    alias_id: str
    pattern_id: str
    reason: str = "MERGED"


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneDecision:
    """Whether a semantic memory is kept, by which rules, with the figures behind it (finite JSON values)."""

    memory_id: str
    memory_type: str
    kept: bool
    rules: Sequence[str]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorecardMetric:
    """One figure of a scorecard.

    Attributes
    ----------
    metric
        What is measured, such as `ic`, `slope`, `coverage`, `confirmation_rate`.
    target
        `return`, `volatility`, or empty where the figure has none.
    predictor
        Who predicted, such as `patterns`, `balls`, `neighbours`, `ridge`, `base`, `null`.
    horizon_minutes
        0 where the figure has none.
    value, low, high
        The figure and its 95 % interval.
    """

    metric: str
    target: str
    predictor: str
    horizon_minutes: int
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Everything that is projected from the folds after one window.

    A kind left None is not touched; an empty sequence says that nothing of that kind is known any more.
    """

    patterns: Sequence[PatternRow] | None = None
    aliases: Sequence[AliasRow] | None = None
    transitions: Sequence[TransitionRow] | None = None
    regimes: Sequence[RegimeRow] | None = None
    strategies: Sequence[StrategyRow] | None = None
    correlations: Sequence[CorrelationRow] | None = None
    prune_decisions: Sequence[PruneDecision] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkMetric:
    """One figure of a benchmark."""

    metric: str
    value: float
    unit: str
    lower_is_better: bool = True
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRecord:
    """A stored figure of a benchmark."""

    run_id: str
    machine: str
    metric: str
    value: float
    unit: str
    lower_is_better: bool
    details: dict[str, Any]
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class KnowledgeDigest:
    """SHA-256 over all knowledge of a namespace or line, and over each part, so that a difference can be located."""

    digest: str
    parts: dict[str, str]
