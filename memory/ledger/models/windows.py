"""Tables about what was read and summarised: encoders, lines, archives, windows, generations, summaries."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from memory.ledger.models.base import Base, JsonObject
from memory.ledger.models.operations import NOW
from memory.window import Window


class Encoder(Base):
    """A fitted encoder, as bytes that only the agents' side can read."""

    __tablename__ = "encoders"

    namespace: Mapped[str] = mapped_column(primary_key=True)
    encoder_id: Mapped[str] = mapped_column(primary_key=True)
    dimension: Mapped[int]
    fitted_until: Mapped[datetime | None]
    digest: Mapped[str]
    payload: Mapped[bytes]
    parameters: Mapped[JsonObject]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class KnowledgeLine(Base):
    """Namespace + encoder + algorithm version: within one line knowledge accumulates."""

    __tablename__ = "knowledge_lines"
    __table_args__ = (
        sa.UniqueConstraint("namespace", "encoder_id", "algorithm_version"),
        # Two lines of a namespace can never take the same place in the order of succession.
        sa.UniqueConstraint("namespace", "activation"),
        sa.CheckConstraint("state IN ('BUILDING', 'LIVE', 'RETIRED')", name="state"),
    )

    line: Mapped[str] = mapped_column(primary_key=True)
    namespace: Mapped[str]
    encoder_id: Mapped[str]
    algorithm_version: Mapped[str]
    activation: Mapped[int | None]
    current_from: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    state: Mapped[str]


class ArchivedWindow(Base):
    """Where the distinct states and the experiences of a window lie as content-hashed Parquet."""

    __tablename__ = "archives"
    __table_args__ = (
        sa.UniqueConstraint(
            "namespace",
            "window",
            "encoder_id",
            "source",
            "states_sha256",
            "experiences_sha256",
            name="uq_archives_content",
        ),
    )

    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    namespace: Mapped[str]
    window: Mapped[Window]
    encoder_id: Mapped[str]
    source: Mapped[str]
    content_digest: Mapped[str]
    states_path: Mapped[str]
    states_sha256: Mapped[str]
    states_rows: Mapped[int]
    states_bytes: Mapped[int]
    experiences_path: Mapped[str]
    experiences_sha256: Mapped[str]
    experiences_rows: Mapped[int]
    experiences_bytes: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    format: Mapped[int]
    known_at_max: Mapped[datetime | None]
    derived_from: Mapped[str | None]


class WindowState(Base):
    """A window of a line: which generation is current, whether late records made it stale, whether it is sealed."""

    __tablename__ = "windows"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["current_generation_id"], ["generations.id"], name="fk_windows_current_generation", use_alter=True
        ),
        sa.Index("ix_windows_stale", "line", "window", postgresql_where=sa.text("stale_since IS NOT NULL")),
    )

    line: Mapped[str] = mapped_column(sa.ForeignKey("knowledge_lines.line"), primary_key=True)
    window: Mapped[Window] = mapped_column(primary_key=True)
    current_generation_id: Mapped[int | None]
    stale_since: Mapped[datetime | None]
    stale_reason: Mapped[str | None]
    sealed_since: Mapped[datetime | None]
    sealed_reason: Mapped[str | None]


class StagedSummary(Base):
    """A summary of (a partition of) a window: staged as soon as it is computed, immutable, found again by content."""

    __tablename__ = "summaries"
    __table_args__ = (
        sa.UniqueConstraint(
            "line", "window", "kind", "partition_key", "input_digest", "settings_hash", name="uq_summaries_content"
        ),
    )

    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    line: Mapped[str] = mapped_column(sa.ForeignKey("knowledge_lines.line"))
    window: Mapped[Window]
    kind: Mapped[str]
    partition_key: Mapped[str]
    input_digest: Mapped[str]
    settings_hash: Mapped[str]
    digest: Mapped[str]
    payload: Mapped[bytes]
    columns: Mapped[JsonObject]
    run_id: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ClusterSummaryEntry(Base):
    """What can be searched of one cluster of a staged partition; the figures themselves are in its payload."""

    __tablename__ = "cluster_summaries"

    summary_id: Mapped[int] = mapped_column(sa.ForeignKey("summaries.id", ondelete="CASCADE"), primary_key=True)
    cluster: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    states: Mapped[int]
    support: Mapped[int]
    broad: Mapped[bool]
    member_digest: Mapped[str]
    attributes: Mapped[JsonObject]


class Generation(Base):
    """One complete set of summaries of a window."""

    __tablename__ = "generations"
    __table_args__ = (
        sa.UniqueConstraint("line", "window", "number"),
        sa.UniqueConstraint("line", "window", "manifest_digest"),
        sa.ForeignKeyConstraint(["line", "window"], ["windows.line", "windows.window"]),
    )

    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    line: Mapped[str]
    window: Mapped[Window]
    number: Mapped[int]
    manifest: Mapped[JsonObject]
    manifest_digest: Mapped[str]
    settings_hash: Mapped[str]
    recorded_cut: Mapped[datetime | None]
    counts: Mapped[JsonObject]
    run_id: Mapped[str]
    token: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class GenerationSummary(Base):
    """A generation's entry for one partition; no summary where the partition was absent."""

    __tablename__ = "generation_summaries"
    __table_args__ = (sa.Index(None, "summary_id"),)

    generation_id: Mapped[int] = mapped_column(sa.ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    partition_key: Mapped[str] = mapped_column(primary_key=True)
    summary_id: Mapped[int | None] = mapped_column(sa.ForeignKey("summaries.id"))


class GenerationArchive(Base):
    """An archive that a generation was computed from."""

    __tablename__ = "generation_archives"
    __table_args__ = (sa.Index(None, "archive_id"),)

    generation_id: Mapped[int] = mapped_column(sa.ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True)
    archive_id: Mapped[int] = mapped_column(sa.ForeignKey("archives.id"), primary_key=True)
