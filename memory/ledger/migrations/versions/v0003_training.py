"""Trainings and trained policies.

Revision 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIMESTAMP = sa.TIMESTAMP(timezone=True)
NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "training_steps",
        sa.Column("training_id", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("figures", postgresql.JSONB(), nullable=False),
        sa.Column("recorded_at", TIMESTAMP, nullable=False, server_default=NOW),
        sa.PrimaryKeyConstraint("training_id", "step", name="pk_training_steps"),
    )
    op.create_table(
        "trained_policies",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("checkpoint_id", sa.Text(), nullable=False),
        sa.Column("encoder_id", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("trained_until", TIMESTAMP, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(), nullable=False),
        sa.Column("recorded_at", TIMESTAMP, nullable=False, server_default=NOW),
        sa.PrimaryKeyConstraint("id", name="pk_trained_policies"),
        sa.UniqueConstraint("namespace", "agent_id", "checkpoint_id", name="uq_trained_policies_agent"),
    )
    op.create_index(
        "ix_trained_policies_namespace_agent_id_trained_until",
        "trained_policies",
        ["namespace", "agent_id", "trained_until"],
    )


def downgrade() -> None:
    op.drop_table("trained_policies")
    op.drop_table("training_steps")
