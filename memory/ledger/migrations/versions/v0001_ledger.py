"""The ledger: runs, windows and their generations, knowledge.

Revision 0001, the first.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("fencing_token_seq")))
    _create_operations()
    _create_windows()
    _create_knowledge()


def downgrade() -> None:
    op.drop_constraint("fk_windows_current_generation", "windows", type_="foreignkey")
    for table in TABLES:
        op.drop_table(table)
    op.execute(sa.schema.DropSequence(sa.Sequence("fencing_token_seq")))


TABLES = (
    "scorecard_metrics",
    "fold_items",
    "transitions",
    "strategies",
    "scorecards",
    "regimes",
    "prune_decisions",
    "patterns",
    "pattern_aliases",
    "fold_checkpoints",
    "correlations",
    "access_snapshots",
    "generation_summaries",
    "generation_archives",
    "generations",
    "cluster_summaries",
    "windows",
    "summaries",
    "knowledge_lines",
    "encoders",
    "archives",
    "runs",
    "removals",
    "fences",
    "benchmark_results",
)
"""All tables, those that refer to others first."""


def _create_operations() -> None:
    op.create_table(
        "benchmark_results",
        *_identity("id"),
        *_text("namespace", "run_id", "machine", "metric"),
        *_number("value"),
        *_text("unit"),
        *_flag("lower_is_better"),
        *_json("details"),
        *_now("recorded_at"),
        sa.PrimaryKeyConstraint("id", name="pk_benchmark_results"),
    )
    op.create_index(
        "ix_benchmark_results_metric_machine_recorded_at",
        "benchmark_results",
        ["metric", "machine", "recorded_at"],
    )
    op.create_index("ix_benchmark_results_run_id", "benchmark_results", ["run_id"])
    op.create_table(
        "fences",
        *_text("namespace"),
        *_integer("token"),
        *_text("run_id", "flow", "host"),
        *_integer("process_id"),
        *_time("acquired_at", "expires_at"),
        *_flag("released"),
        sa.PrimaryKeyConstraint("namespace", name="pk_fences"),
    )
    op.create_table(
        "removals",
        *_identity("id"),
        *_text("namespace", "run_id", "memory_type"),
        *_date("window"),
        *_text("rule"),
        *_integer("count"),
        *_now("removed_at"),
        sa.PrimaryKeyConstraint("id", name="pk_removals"),
    )
    op.create_index("ix_removals_namespace_removed_at", "removals", ["namespace", "removed_at"])
    op.create_table(
        "runs",
        *_text("run_id", "namespace", "flow"),
        *_date("window", nullable=True),
        *_text("status"),
        *_json("parameters"),
        *_json("result", nullable=True),
        *_text("error", "report_path", "flow_run_id", nullable=True),
        *_text("host"),
        *_integer("process_id"),
        *_number("lease_s"),
        *_now("started_at", "heartbeat_at"),
        *_time("finished_at", nullable=True),
        sa.CheckConstraint("status IN ('RUNNING', 'SUCCEEDED', 'FAILED', 'DEAD')", name=op.f("ck_runs_status")),
        sa.PrimaryKeyConstraint("run_id", name="pk_runs"),
    )
    op.create_index("ix_runs_namespace_flow_window", "runs", ["namespace", "flow", "window"])
    op.create_index("ix_runs_namespace_started_at", "runs", ["namespace", "started_at"])


def _create_windows() -> None:
    op.create_table(
        "archives",
        *_identity("id"),
        *_text("namespace"),
        *_date("window"),
        *_text("encoder_id", "source", "content_digest", "states_path", "states_sha256"),
        *_integer("states_rows", "states_bytes"),
        *_text("experiences_path", "experiences_sha256"),
        *_integer("experiences_rows", "experiences_bytes"),
        *_now("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_archives"),
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
    op.create_table(
        "encoders",
        *_text("namespace", "encoder_id"),
        *_integer("dimension"),
        *_time("fitted_until", nullable=True),
        *_text("digest"),
        *_bytes("payload"),
        *_json("parameters"),
        *_now("created_at"),
        sa.PrimaryKeyConstraint("namespace", "encoder_id", name="pk_encoders"),
    )
    op.create_table(
        "knowledge_lines",
        *_text("line", "namespace", "encoder_id", "algorithm_version"),
        *_integer("activation", nullable=True),
        *_time("current_from", nullable=True),
        *_now("created_at"),
        sa.PrimaryKeyConstraint("line", name="pk_knowledge_lines"),
        sa.UniqueConstraint("namespace", "activation", name="uq_knowledge_lines_namespace_activation"),
        sa.UniqueConstraint(
            "namespace",
            "encoder_id",
            "algorithm_version",
            name="uq_knowledge_lines_namespace_encoder_id_algorithm_version",
        ),
    )
    op.create_table(
        "summaries",
        *_identity("id"),
        *_text("line"),
        *_date("window"),
        *_text("kind", "partition_key", "input_digest", "settings_hash", "digest"),
        *_bytes("payload"),
        *_json("columns"),
        *_text("run_id"),
        *_now("created_at"),
        sa.ForeignKeyConstraint(["line"], ["knowledge_lines.line"], name="fk_summaries_line"),
        sa.PrimaryKeyConstraint("id", name="pk_summaries"),
        sa.UniqueConstraint(
            "line", "window", "kind", "partition_key", "input_digest", "settings_hash", name="uq_summaries_content"
        ),
    )
    op.create_table(
        "windows",
        *_text("line"),
        *_date("window"),
        *_integer("current_generation_id", nullable=True),
        *_time("stale_since", nullable=True),
        *_text("stale_reason", nullable=True),
        sa.ForeignKeyConstraint(
            ["current_generation_id"], ["generations.id"], name="fk_windows_current_generation", use_alter=True
        ),
        sa.ForeignKeyConstraint(["line"], ["knowledge_lines.line"], name="fk_windows_line"),
        sa.PrimaryKeyConstraint("line", "window", name="pk_windows"),
    )
    op.create_index(
        "ix_windows_stale",
        "windows",
        ["line", "window"],
        postgresql_where=sa.text("stale_since IS NOT NULL"),
    )
    op.create_table(
        "cluster_summaries",
        *_integer("summary_id", "cluster", "states", "support"),
        *_flag("broad"),
        *_text("member_digest"),
        *_json("attributes"),
        sa.ForeignKeyConstraint(
            ["summary_id"], ["summaries.id"], name="fk_cluster_summaries_summary_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("summary_id", "cluster", name="pk_cluster_summaries"),
    )
    op.create_table(
        "generations",
        *_identity("id"),
        *_text("line"),
        *_date("window"),
        *_integer("number"),
        *_json("manifest"),
        *_text("manifest_digest", "settings_hash"),
        *_time("recorded_cut", nullable=True),
        *_json("counts"),
        *_text("run_id"),
        *_integer("token"),
        *_now("created_at"),
        sa.ForeignKeyConstraint(
            ["line", "window"], ["windows.line", "windows.window"], name="fk_generations_line_window"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_generations"),
        sa.UniqueConstraint("line", "window", "manifest_digest", name="uq_generations_line_window_manifest_digest"),
        sa.UniqueConstraint("line", "window", "number", name="uq_generations_line_window_number"),
    )
    op.create_table(
        "generation_archives",
        *_integer("generation_id", "archive_id"),
        sa.ForeignKeyConstraint(["archive_id"], ["archives.id"], name="fk_generation_archives_archive_id"),
        sa.ForeignKeyConstraint(
            ["generation_id"], ["generations.id"], name="fk_generation_archives_generation_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("generation_id", "archive_id", name="pk_generation_archives"),
    )
    op.create_index("ix_generation_archives_archive_id", "generation_archives", ["archive_id"])
    op.create_table(
        "generation_summaries",
        *_integer("generation_id"),
        *_text("kind", "partition_key"),
        *_integer("summary_id", nullable=True),
        sa.ForeignKeyConstraint(
            ["generation_id"],
            ["generations.id"],
            name="fk_generation_summaries_generation_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["summary_id"], ["summaries.id"], name="fk_generation_summaries_summary_id"),
        sa.PrimaryKeyConstraint("generation_id", "kind", "partition_key", name="pk_generation_summaries"),
    )
    op.create_index("ix_generation_summaries_summary_id", "generation_summaries", ["summary_id"])
    op.create_foreign_key("fk_windows_current_generation", "windows", "generations", ["current_generation_id"], ["id"])


def _create_knowledge() -> None:
    op.create_table(
        "access_snapshots",
        *_text("line"),
        *_date("window"),
        *_json("counts"),
        *_now("taken_at"),
        sa.ForeignKeyConstraint(["line"], ["knowledge_lines.line"], name="fk_access_snapshots_line"),
        sa.PrimaryKeyConstraint("line", "window", name="pk_access_snapshots"),
    )
    _create_projection(
        "correlations",
        *_text("product_a", "product_b", "regime", nullable=True),
        *_integer("bar_minutes", "lag", nullable=True),
        *_number("correlation", "low", "high", nullable=True),
        *_integer("n", nullable=True),
        *_flag("claimed", nullable=True),
    )
    op.create_table(
        "fold_checkpoints",
        *_identity("id"),
        *_text("line", "kind"),
        *_date("window"),
        *_flag("full"),
        *_text("input_digest", "state_digest"),
        *_integer("items"),
        *_json("counts"),
        *_text("run_id"),
        *_now("created_at"),
        sa.ForeignKeyConstraint(["line"], ["knowledge_lines.line"], name="fk_fold_checkpoints_line"),
        sa.PrimaryKeyConstraint("id", name="pk_fold_checkpoints"),
        sa.UniqueConstraint("line", "kind", "window", name="uq_fold_checkpoints_line_kind_window"),
    )
    op.create_table(
        "pattern_aliases",
        *_text("line", "alias_id", "reason"),
        *_date("window"),
        *_text("pattern_id"),
        sa.CheckConstraint("reason IN ('MERGED', 'REFOUNDED')", name=op.f("ck_pattern_aliases_reason")),
        sa.CheckConstraint("alias_id <> pattern_id", name=op.f("ck_pattern_aliases_leads_elsewhere")),
        sa.ForeignKeyConstraint(["line"], ["knowledge_lines.line"], name="fk_pattern_aliases_line"),
        sa.PrimaryKeyConstraint("line", "alias_id", "reason", "window", name="pk_pattern_aliases"),
    )
    _create_projection(
        "patterns",
        *_text("status", nullable=True),
        *_flag("published", nullable=True),
        *_text("source", "regime", nullable=True),
        *_texts("product_ids", nullable=True),
        *_integer("support", "states", "windows_seen", nullable=True),
        *_time("first_seen", "last_seen", nullable=True),
        *_flag("broad", "demoted", nullable=True),
        *_number("expected_return", nullable=True),
        *_text("best_action", "description", nullable=True),
    )
    op.create_table(
        "prune_decisions",
        *_text("line"),
        *_date("window"),
        *_text("memory_id", "memory_type"),
        *_flag("kept"),
        *_texts("rules"),
        *_json("details"),
        sa.ForeignKeyConstraint(["line"], ["knowledge_lines.line"], name="fk_prune_decisions_line"),
        sa.PrimaryKeyConstraint("line", "window", "memory_id", name="pk_prune_decisions"),
    )
    _create_projection(
        "regimes",
        *_text("product_id", "regime", nullable=True),
        *_integer("states", nullable=True),
        *_number("share", "typical_duration_s", nullable=True),
        *_integer("spells", nullable=True),
    )
    op.create_table(
        "scorecards",
        *_text("line"),
        *_date("window"),
        *_text("digest"),
        *_bytes("payload"),
        sa.ForeignKeyConstraint(["line"], ["knowledge_lines.line"], name="fk_scorecards_line"),
        sa.PrimaryKeyConstraint("line", "window", name="pk_scorecards"),
    )
    _create_projection(
        "strategies",
        *_text("agent_id", "source", nullable=True),
        *_texts("applicable_regimes", nullable=True),
        *_number("sharpe_ratio", "mean_return", "win_rate", nullable=True),
        *_integer("n", nullable=True),
    )
    _create_projection(
        "transitions",
        *_text("product_id", "from_regime", "to_regime", nullable=True),
        *_number("count", "probability", "step_probability", "step_s", nullable=True),
    )
    op.create_table(
        "fold_items",
        *_integer("checkpoint_id"),
        *_text("item_key"),
        *_text("digest", nullable=True),
        *_bytes("payload", nullable=True),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"], ["fold_checkpoints.id"], name="fk_fold_items_checkpoint_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("checkpoint_id", "item_key", name="pk_fold_items"),
    )
    op.create_table(
        "scorecard_metrics",
        *_text("line"),
        *_date("window"),
        *_text("metric", "target", "predictor"),
        *_integer("horizon_minutes"),
        *_number("value"),
        *_number("low", "high", nullable=True),
        *_integer("n", nullable=True),
        sa.ForeignKeyConstraint(
            ["line", "window"],
            ["scorecards.line", "scorecards.window"],
            name="fk_scorecard_metrics_line_window",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "line", "window", "metric", "target", "predictor", "horizon_minutes", name="pk_scorecard_metrics"
        ),
    )


def _create_projection(name: str, *columns: sa.Column[Any]) -> None:
    op.create_table(
        name,
        *_text("line", "item_id"),
        *_date("window"),
        *_flag("removed"),
        *_text("digest"),
        *_bytes("payload", nullable=True),
        *columns,
        sa.ForeignKeyConstraint(["line"], ["knowledge_lines.line"], name=f"fk_{name}_line"),
        sa.PrimaryKeyConstraint("line", "item_id", "window", name=f"pk_{name}"),
    )
    op.create_index(f"ix_{name}_line_window", name, ["line", "window"])


def _columns(names: tuple[str, ...], kind: sa.types.TypeEngine[Any], nullable: bool) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=nullable, autoincrement=False) for name in names]


def _text(*names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return _columns(names, sa.Text(), nullable)


def _texts(*names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return _columns(names, postgresql.ARRAY(sa.Text()), nullable)


def _integer(*names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return _columns(names, sa.BigInteger(), nullable)


def _number(*names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return _columns(names, sa.Double(), nullable)


def _flag(*names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return _columns(names, sa.Boolean(), nullable)


def _bytes(*names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return _columns(names, sa.LargeBinary(), nullable)


def _json(*names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return _columns(names, postgresql.JSONB(), nullable)


def _date(*names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return _columns(names, sa.Date(), nullable)


def _time(*names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return _columns(names, sa.TIMESTAMP(timezone=True), nullable)


def _identity(name: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger(), sa.Identity(), nullable=False)]


def _now(*names: str) -> list[sa.Column[Any]]:
    kind = sa.TIMESTAMP(timezone=True)
    return [sa.Column(name, kind, server_default=sa.text("clock_timestamp()"), nullable=False) for name in names]
