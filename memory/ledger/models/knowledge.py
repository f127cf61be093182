"""Tables of knowledge: fold checkpoints, and what folds are projected to, window by window.

Projected rows are kept as versions: a row is written for the window in which an item's content changed, and a row
with `removed` where it vanished. What holds as of a window is the last row of each item up to it.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from memory.ledger.models.base import Base, JsonObject
from memory.ledger.models.operations import NOW
from memory.window import Window

TextArray = ARRAY(sa.Text())


class FoldCheckpoint(Base):
    """State of one fold after one window: what the window changed, or everything where `full`."""

    __tablename__ = "fold_checkpoints"
    __table_args__ = (sa.UniqueConstraint("line", "kind", "window"),)

    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    line: Mapped[str] = mapped_column(sa.ForeignKey("knowledge_lines.line"))
    kind: Mapped[str]
    window: Mapped[Window]
    full: Mapped[bool]
    input_digest: Mapped[str]
    state_digest: Mapped[str]
    items: Mapped[int]
    counts: Mapped[JsonObject]
    run_id: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    stamp: Mapped[str | None]


class FoldItem(Base):
    """One named item of a fold's state; no payload where the window removed it."""

    __tablename__ = "fold_items"

    checkpoint_id: Mapped[int] = mapped_column(
        sa.ForeignKey("fold_checkpoints.id", ondelete="CASCADE"), primary_key=True
    )
    item_key: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str | None]
    payload: Mapped[bytes | None]


class ProjectionVersion(Base):
    """Columns that every projected kind of knowledge has."""

    __abstract__ = True

    line: Mapped[str] = mapped_column(sa.ForeignKey("knowledge_lines.line"), primary_key=True)
    item_id: Mapped[str] = mapped_column(primary_key=True)
    window: Mapped[Window] = mapped_column(primary_key=True)
    removed: Mapped[bool]
    digest: Mapped[str]
    payload: Mapped[bytes | None]


class PatternVersion(ProjectionVersion):
    """A pattern, as it stood after a window."""

    __tablename__ = "patterns"
    __table_args__ = (sa.Index(None, "line", "window"),)

    status: Mapped[str | None]
    published: Mapped[bool | None]
    source: Mapped[str | None]
    regime: Mapped[str | None]
    product_ids: Mapped[list[str] | None] = mapped_column(TextArray)
    support: Mapped[int | None]
    states: Mapped[int | None]
    windows_seen: Mapped[int | None]
    first_seen: Mapped[datetime | None]
    last_seen: Mapped[datetime | None]
    broad: Mapped[bool | None]
    demoted: Mapped[bool | None]
    expected_return: Mapped[float | None]
    best_action: Mapped[str | None]
    description: Mapped[str | None]


class TransitionVersion(ProjectionVersion):
    """Regime transitions of one product, or of all pooled, from one regime to another."""

    __tablename__ = "transitions"
    __table_args__ = (sa.Index(None, "line", "window"),)

    product_id: Mapped[str | None]
    from_regime: Mapped[str | None]
    to_regime: Mapped[str | None]
    count: Mapped[float | None]
    probability: Mapped[float | None]
    step_probability: Mapped[float | None]
    step_s: Mapped[float | None]


class RegimeVersion(ProjectionVersion):
    """A regime, of one product or of all pooled."""

    __tablename__ = "regimes"
    __table_args__ = (sa.Index(None, "line", "window"),)

    product_id: Mapped[str | None]
    regime: Mapped[str | None]
    states: Mapped[int | None]
    share: Mapped[float | None]
    typical_duration_s: Mapped[float | None]
    spells: Mapped[int | None]


class StrategyVersion(ProjectionVersion):
    """How one agent does in the regimes."""

    __tablename__ = "strategies"
    __table_args__ = (sa.Index(None, "line", "window"),)

    agent_id: Mapped[str | None]
    source: Mapped[str | None]
    applicable_regimes: Mapped[list[str] | None] = mapped_column(TextArray)
    sharpe_ratio: Mapped[float | None]
    mean_return: Mapped[float | None]
    win_rate: Mapped[float | None]
    n: Mapped[int | None]


class CorrelationVersion(ProjectionVersion):
    """How two products move together at one lag, in one regime."""

    __tablename__ = "correlations"
    __table_args__ = (sa.Index(None, "line", "window"),)

    product_a: Mapped[str | None]
    product_b: Mapped[str | None]
    regime: Mapped[str | None]
    bar_minutes: Mapped[int | None]
    lag: Mapped[int | None]
    correlation: Mapped[float | None]
    low: Mapped[float | None]
    high: Mapped[float | None]
    n: Mapped[int | None]
    claimed: Mapped[bool | None]


class PatternAlias(Base):
    """An id that leads to another pattern from a window on: merged by the fold, or founded differently by another."""

    __tablename__ = "pattern_aliases"
    __table_args__ = (
        sa.CheckConstraint("reason IN ('MERGED', 'REFOUNDED')", name="reason"),
        sa.CheckConstraint("alias_id <> pattern_id", name="leads_elsewhere"),
    )

    line: Mapped[str] = mapped_column(sa.ForeignKey("knowledge_lines.line"), primary_key=True)
    alias_id: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str] = mapped_column(primary_key=True)
    window: Mapped[Window] = mapped_column(primary_key=True)
    pattern_id: Mapped[str]


class PatternEvent(Base):
    """Something that happened to a pattern after a window: its lineage, in the order in which the fold decided it."""

    __tablename__ = "pattern_events"
    __table_args__ = (
        sa.Index(None, "line", "pattern_id"),
        sa.Index(None, "line", "other_id", postgresql_where=sa.text("other_id IS NOT NULL")),
    )

    line: Mapped[str] = mapped_column(sa.ForeignKey("knowledge_lines.line"), primary_key=True)
    window: Mapped[Window] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str]
    pattern_id: Mapped[str]
    other_id: Mapped[str | None]
    label: Mapped[int | None]
    states: Mapped[int | None]
    cosine: Mapped[float | None]
    threshold: Mapped[float | None]
    rule: Mapped[str | None]
    details: Mapped[JsonObject]


class Refold(Base):
    """A folding again that has begun and not ended: what was known before it, so that old names are not lost."""

    __tablename__ = "refolds"

    line: Mapped[str] = mapped_column(sa.ForeignKey("knowledge_lines.line"), primary_key=True)
    first: Mapped[Window]
    last: Mapped[Window]
    payload: Mapped[bytes]
    run_id: Mapped[str]
    begun_at: Mapped[datetime] = mapped_column(server_default=NOW)


class AccessSnapshot(Base):
    """How often each memory was read in the 30 days before a window's end; written once, an input of pruning."""

    __tablename__ = "access_snapshots"

    line: Mapped[str] = mapped_column(sa.ForeignKey("knowledge_lines.line"), primary_key=True)
    window: Mapped[Window] = mapped_column(primary_key=True)
    counts: Mapped[JsonObject]
    taken_at: Mapped[datetime] = mapped_column(server_default=NOW)


class PruneDecisionEntry(Base):
    """Whether a semantic memory was kept after a window, and by which rules."""

    __tablename__ = "prune_decisions"

    line: Mapped[str] = mapped_column(sa.ForeignKey("knowledge_lines.line"), primary_key=True)
    window: Mapped[Window] = mapped_column(primary_key=True)
    memory_id: Mapped[str] = mapped_column(primary_key=True)
    memory_type: Mapped[str]
    kept: Mapped[bool]
    rules: Mapped[list[str]] = mapped_column(TextArray)
    details: Mapped[JsonObject]


class ScorecardEntry(Base):
    """How the patterns known before a window predicted it, in full."""

    __tablename__ = "scorecards"

    line: Mapped[str] = mapped_column(sa.ForeignKey("knowledge_lines.line"), primary_key=True)
    window: Mapped[Window] = mapped_column(primary_key=True)
    digest: Mapped[str]
    payload: Mapped[bytes]
    input_digest: Mapped[str | None]


class ScorecardMetricEntry(Base):
    """One figure of a scorecard, for drawing it over time; no horizon where it has none."""

    __tablename__ = "scorecard_metrics"
    __table_args__ = (
        sa.ForeignKeyConstraint(["line", "window"], ["scorecards.line", "scorecards.window"], ondelete="CASCADE"),
    )

    line: Mapped[str] = mapped_column(primary_key=True)
    window: Mapped[Window] = mapped_column(primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    target: Mapped[str] = mapped_column(primary_key=True)
    predictor: Mapped[str] = mapped_column(primary_key=True)
    horizon_minutes: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[float]
    low: Mapped[float | None]
    high: Mapped[float | None]
    n: Mapped[int | None]
