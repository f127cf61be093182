"""Trainings as the ledger knows them: their figures step by step, and the policies that came of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from memory.errors import InvalidRecordError
from memory.ledger.database import Database
from memory.ledger.models.training import TrainedPolicy, TrainingStep


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFigures:
    """Figures of a training after `step` steps, by name."""

    step: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRecord:
    """A trained policy: for which agent, by which run, where it lies, and from when on it may act."""

    namespace: str
    agent_id: str
    checkpoint_id: str
    encoder_id: str
    path: str
    trained_until: datetime
    run_id: str
    details: Mapping[str, Any]


class TrainingRepository:
    """Trainings and trained policies."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, namespace: str, run_id: str, training_id: str, steps: Sequence[TrainingFigures]) -> None:
        """Keep figures of a training; those of a step that is there already are replaced. One transaction.

        A training that goes on after a kill repeats some steps: equal figures, told once.

        Raises
        ------
        InvalidRecordError
            A figure is not finite; nothing was kept.
        """
        for item in steps:
            for name, value in item.figures.items():
                if not math.isfinite(value):
                    raise InvalidRecordError(
                        f"figure {name} of step {item.step} is {value}.",
                        remedy="Leave out what could not be measured.",
                        field=name,
                    )
        if not steps:
            return
        rows = [
            {
                "training_id": training_id,
                "step": item.step,
                "run_id": run_id,
                "namespace": namespace,
                "figures": dict(item.figures),
            }
            for item in steps
        ]
        made = insert(TrainingStep).values(rows)
        changed = {"figures": made.excluded.figures, "run_id": made.excluded.run_id}
        with self._database.transaction() as session:
            session.execute(made.on_conflict_do_update(index_elements=["training_id", "step"], set_=changed))

    def figures(self, training_id: str) -> list[TrainingFigures]:
        """All figures of a training, by step."""
        query = sa.select(TrainingStep).where(TrainingStep.training_id == training_id).order_by(TrainingStep.step)
        with self._database.transaction() as session:
            return [TrainingFigures(step=row.step, figures=row.figures) for row in session.scalars(query)]

    def add_policy(self, policy: PolicyRecord) -> None:
        """Keep a trained policy; of the same again only the path is new, where it lies elsewhere now."""
        made = insert(TrainedPolicy).values(
            namespace=policy.namespace,
            agent_id=policy.agent_id,
            checkpoint_id=policy.checkpoint_id,
            encoder_id=policy.encoder_id,
            path=policy.path,
            trained_until=policy.trained_until,
            run_id=policy.run_id,
            details=dict(policy.details),
        )
        with self._database.transaction() as session:
            session.execute(
                made.on_conflict_do_update(constraint="uq_trained_policies_agent", set_={"path": made.excluded.path})
            )

    def policy_at(
        self, namespace: str, agent_id: str, at: datetime, *, encoder_id: str | None = None
    ) -> PolicyRecord | None:
        """The newest policy of an agent, of any encoder or one, whose data ended at a time or before; None for none.

        Newest by the end of its data; of several, the one that was recorded last.
        """
        found = self.policies(namespace, agent_id=agent_id, encoder_id=encoder_id, until=at, limit=1)
        return found[0] if found else None

    def policies(
        self,
        namespace: str,
        *,
        agent_id: str | None = None,
        encoder_id: str | None = None,
        until: datetime | None = None,
        limit: int = 100,
    ) -> list[PolicyRecord]:
        """Trained policies of a namespace, newest first, whose data ended at `until` or before."""
        query = sa.select(TrainedPolicy).where(TrainedPolicy.namespace == namespace)
        if agent_id is not None:
            query = query.where(TrainedPolicy.agent_id == agent_id)
        if encoder_id is not None:
            query = query.where(TrainedPolicy.encoder_id == encoder_id)
        if until is not None:
            query = query.where(TrainedPolicy.trained_until <= until)
        query = query.order_by(TrainedPolicy.trained_until.desc(), TrainedPolicy.id.desc()).limit(limit)
        with self._database.transaction() as session:
            return [
                PolicyRecord(
                    namespace=row.namespace,
                    agent_id=row.agent_id,
                    checkpoint_id=row.checkpoint_id,
                    encoder_id=row.encoder_id,
                    path=row.path,
                    trained_until=row.trained_until,
                    run_id=row.run_id,
                    details=row.details,
                )
                for row in session.scalars(query)
            ]
