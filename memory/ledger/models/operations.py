"""Tables about the work itself: runs, who holds a namespace, benchmarks, removals. None of them is knowledge."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from memory.ledger.models.base import Base, JsonObject
from memory.window import Window

fencing_token_sequence = sa.Sequence("fencing_token_seq", metadata=Base.metadata)
"""Source of all fencing tokens: whoever comes later holds the higher number, in every namespace."""

NOW = sa.func.clock_timestamp()
"""Postgres's clock at the moment of evaluation; `now()` would be the start of a transaction that may have waited."""


class Run(Base):
    """One run of a flow."""

    __tablename__ = "runs"
    __table_args__ = (
        sa.CheckConstraint("status IN ('RUNNING', 'SUCCEEDED', 'FAILED', 'DEAD')", name="status"),
        sa.Index(None, "namespace", "started_at"),
        sa.Index(None, "namespace", "flow", "window"),
        sa.Index(None, "flow_run_id", postgresql_where=sa.text("flow_run_id IS NOT NULL")),
    )

    run_id: Mapped[str] = mapped_column(primary_key=True)
    namespace: Mapped[str]
    flow: Mapped[str]
    window: Mapped[Window | None]
    status: Mapped[str]
    parameters: Mapped[JsonObject]
    result: Mapped[JsonObject | None] = mapped_column(JSONB(none_as_null=True))
    error: Mapped[str | None]
    report_path: Mapped[str | None]
    flow_run_id: Mapped[str | None]
    host: Mapped[str]
    process_id: Mapped[int]
    lease_s: Mapped[float]
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=NOW)
    finished_at: Mapped[datetime | None]


class Fence(Base):
    """Who may write to a namespace: one row a namespace, the last token granted."""

    __tablename__ = "fences"

    namespace: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[int]
    run_id: Mapped[str]
    flow: Mapped[str]
    host: Mapped[str]
    process_id: Mapped[int]
    acquired_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    released: Mapped[bool]


class BenchmarkResult(Base):
    """One figure of one benchmark run on one machine."""

    __tablename__ = "benchmark_results"
    __table_args__ = (sa.Index(None, "metric", "machine", "recorded_at"), sa.Index(None, "run_id"))

    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    namespace: Mapped[str]
    run_id: Mapped[str]
    machine: Mapped[str]
    metric: Mapped[str]
    value: Mapped[float]
    unit: Mapped[str]
    lower_is_better: Mapped[bool]
    details: Mapped[JsonObject]
    recorded_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Removal(Base):
    """Episodic or shared memory that a rule of age removes: planned before the deed, with `removed_at` after it."""

    __tablename__ = "removals"
    __table_args__ = (
        sa.UniqueConstraint("namespace", "memory_type", "before", "rule", name="uq_removals_plan"),
        sa.Index(None, "namespace", "removed_at"),
    )

    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    namespace: Mapped[str]
    run_id: Mapped[str]
    memory_type: Mapped[str]
    window: Mapped[Window]
    rule: Mapped[str]
    before: Mapped[datetime | None]
    planned: Mapped[int]
    count: Mapped[int]
    planned_at: Mapped[datetime] = mapped_column(server_default=NOW)
    removed_at: Mapped[datetime | None]
