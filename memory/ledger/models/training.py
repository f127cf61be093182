"""Tables about training: figures of a training as it went on, and the policies that came of it. Not knowledge."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from memory.ledger.models.base import Base, JsonObject
from memory.ledger.models.operations import NOW


class TrainingStep(Base):
    """Figures of one training after some steps; written again, they replace those before."""

    __tablename__ = "training_steps"

    training_id: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    run_id: Mapped[str]
    namespace: Mapped[str]
    figures: Mapped[JsonObject]
    recorded_at: Mapped[datetime] = mapped_column(server_default=NOW)


class TrainedPolicy(Base):
    """A policy that was trained for an agent: where it lies, and from when on it may act."""

    __tablename__ = "trained_policies"
    __table_args__ = (
        sa.UniqueConstraint("namespace", "agent_id", "checkpoint_id", name="uq_trained_policies_agent"),
        sa.Index(None, "namespace", "agent_id", "trained_until"),
    )

    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    namespace: Mapped[str]
    agent_id: Mapped[str]
    checkpoint_id: Mapped[str]
    encoder_id: Mapped[str]
    path: Mapped[str]
    trained_until: Mapped[datetime]
    run_id: Mapped[str]
    details: Mapped[JsonObject]
    recorded_at: Mapped[datetime] = mapped_column(server_default=NOW)
