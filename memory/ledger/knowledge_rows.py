"""Rows about knowledge: what folds are projected to, its lineage, its scorecards, and digests over all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from memory.window import Window


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
class EventRow:
    """Something that happened to a pattern after a window.

    Attributes
    ----------
    kind
        What happened, such as FOUNDED, SPLIT, CONFIRMED or MERGED: one of `memory.learning.lineage`.
    other_id
        The other pattern, where one is part of it: what it split from, what it became part of.
    label, states
        The night's cluster that was matched, and its states.
    cosine, threshold, rule
        How close the cluster was, what it had to exceed, and which rule held.
    details
        What else there is to say; finite JSON values.
    """

    kind: str
    pattern_id: str
    other_id: str | None = None
    label: int | None = None
    states: int | None = None
    cosine: float | None = None
    threshold: float | None = None
    rule: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    """One version of a projected item: what it became after a window; no payload where it was `removed` then."""

    item_id: str
    window: Window
    removed: bool
    payload: bytes | None


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


@dataclass(frozen=True, slots=True)
class KnowledgeDigest:
    """SHA-256 over all knowledge of a namespace or line, and over each part, so that a difference can be located.

    Attributes
    ----------
    digest
        Equal where two histories of work ended in the same knowledge.
    parts
        By line and part (`encoder/version/part`), and by part where it is the namespace's.
    beside
        Parts that `digest` leaves out, because they tell how the work went; no part of equality either.
    """

    digest: str
    parts: dict[str, str]
    beside: dict[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A row of the ledger that does not agree with its own digest.

    Attributes
    ----------
    table, key
        Which row.
    what
        What is wrong with it.
    """

    table: str
    key: str
    what: str
