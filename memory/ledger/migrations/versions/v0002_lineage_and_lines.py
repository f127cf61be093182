"""Lineage of patterns, sealed windows, refolds that survive their run, planned removals, states of lines.

Revision 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIMESTAMP = sa.TIMESTAMP(timezone=True)
NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    _create_tables()
    op.add_column("windows", sa.Column("sealed_since", TIMESTAMP, nullable=True))
    op.add_column("windows", sa.Column("sealed_reason", sa.Text(), nullable=True))
    op.add_column("fold_checkpoints", sa.Column("stamp", sa.Text(), nullable=True))
    op.add_column("scorecards", sa.Column("input_digest", sa.Text(), nullable=True))
    op.create_index("ix_runs_flow_run_id", "runs", ["flow_run_id"], postgresql_where=sa.text("flow_run_id IS NOT NULL"))
    _extend_archives()
    _extend_lines()
    _extend_removals()


def downgrade() -> None:
    # What the older schema cannot say goes: removals that were planned and not carried out.
    op.execute("DELETE FROM removals WHERE removed_at IS NULL")
    op.drop_constraint("uq_removals_plan", "removals", type_="unique")
    op.alter_column("removals", "removed_at", nullable=False, server_default=NOW)
    for column in ("planned_at", "planned", "before"):
        op.drop_column("removals", column)
    op.drop_constraint(op.f("ck_knowledge_lines_state"), "knowledge_lines", type_="check")
    op.drop_column("knowledge_lines", "state")
    for column in ("derived_from", "known_at_max", "format"):
        op.drop_column("archives", column)
    op.drop_index("ix_runs_flow_run_id", "runs")
    op.drop_column("scorecards", "input_digest")
    op.drop_column("fold_checkpoints", "stamp")
    op.drop_column("windows", "sealed_reason")
    op.drop_column("windows", "sealed_since")
    op.drop_table("refolds")
    op.drop_table("pattern_events")


def _create_tables() -> None:
    op.create_table(
        "pattern_events",
        sa.Column("line", sa.Text(), nullable=False),
        sa.Column("window", sa.Date(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("pattern_id", sa.Text(), nullable=False),
        sa.Column("other_id", sa.Text(), nullable=True),
        sa.Column("label", sa.BigInteger(), nullable=True),
        sa.Column("states", sa.BigInteger(), nullable=True),
        sa.Column("cosine", sa.Double(), nullable=True),
        sa.Column("threshold", sa.Double(), nullable=True),
        sa.Column("rule", sa.Text(), nullable=True),
        sa.Column("details", postgresql.JSONB(), nullable=False),
        sa.ForeignKeyConstraint(["line"], ["knowledge_lines.line"], name="fk_pattern_events_line"),
        sa.PrimaryKeyConstraint("line", "window", "number", name="pk_pattern_events"),
    )
    op.create_index("ix_pattern_events_line_pattern_id", "pattern_events", ["line", "pattern_id"])
    op.create_index(
        "ix_pattern_events_line_other_id",
        "pattern_events",
        ["line", "other_id"],
        postgresql_where=sa.text("other_id IS NOT NULL"),
    )
    op.create_table(
        "refolds",
        sa.Column("line", sa.Text(), nullable=False),
        sa.Column("first", sa.Date(), nullable=False),
        sa.Column("last", sa.Date(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("begun_at", TIMESTAMP, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["line"], ["knowledge_lines.line"], name="fk_refolds_line"),
        sa.PrimaryKeyConstraint("line", name="pk_refolds"),
    )


def _extend_archives() -> None:
    # Whatever is archived already has the first format.
    op.add_column("archives", sa.Column("format", sa.BigInteger(), server_default=sa.text("1"), nullable=False))
    op.alter_column("archives", "format", server_default=None)
    op.add_column("archives", sa.Column("known_at_max", TIMESTAMP, nullable=True))
    op.add_column("archives", sa.Column("derived_from", sa.Text(), nullable=True))


def _extend_lines() -> None:
    op.add_column("knowledge_lines", sa.Column("state", sa.Text(), server_default=sa.text("'LIVE'"), nullable=False))
    op.alter_column("knowledge_lines", "state", server_default=None)
    # The first line of each encoder is read; a later one that never became current was being built.
    op.execute(
        "UPDATE knowledge_lines SET state = 'BUILDING' WHERE activation IS NULL AND EXISTS ("
        "SELECT FROM knowledge_lines AS other WHERE other.namespace = knowledge_lines.namespace "
        "AND other.encoder_id = knowledge_lines.encoder_id AND other.created_at < knowledge_lines.created_at)"
    )
    op.create_check_constraint(
        op.f("ck_knowledge_lines_state"), "knowledge_lines", "state IN ('BUILDING', 'LIVE', 'RETIRED')"
    )


def _extend_removals() -> None:
    op.add_column("removals", sa.Column("before", TIMESTAMP, nullable=True))
    op.add_column("removals", sa.Column("planned", sa.BigInteger(), nullable=True))
    op.add_column("removals", sa.Column("planned_at", TIMESTAMP, server_default=NOW, nullable=False))
    # An older row was written after its deed.
    op.execute("UPDATE removals SET planned = count, planned_at = removed_at")
    op.alter_column("removals", "planned", nullable=False)
    op.alter_column("removals", "removed_at", nullable=True, server_default=None)
    op.create_unique_constraint("uq_removals_plan", "removals", ["namespace", "memory_type", "before", "rule"])
