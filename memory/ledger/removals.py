"""Removals of episodic and shared memory by age: the rule stands in the ledger before anything is deleted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from memory.errors import ConflictingRecordError
from memory.ledger.database import Database
from memory.ledger.fence import guard
from memory.ledger.models import Removal
from memory.ledger.models.operations import NOW
from memory.ledger.rows import FencingToken, RemovalRecord
from memory.window import Window


class RemovalRepository:
    """What was, or is about to be, removed from a namespace.

    A removal is planned, carried out in Redis, and then noted as done. A run that dies between leaves an open plan:
    the next one plans the same again, which finds it, deletes what is left, and closes it with the whole count.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def plan(
        self,
        token: FencingToken,
        *,
        memory_type: str,
        window: Window,
        before: datetime,
        rule: str,
        count: int,
    ) -> RemovalRecord:
        """Notes that `count` records of before a time are about to be removed by a rule.

        The same plan again finds the first one: while it is open, the larger count stays, so that what a run removed
        before it died is not forgotten; once it is done, `count` is what came to light since, and opens it again
        unless it is 0.

        Raises
        ------
        FencedOutError
            The run was overtaken.
        """
        plan = insert(Removal).values(
            namespace=token.namespace,
            run_id=token.run_id,
            memory_type=memory_type,
            window=window,
            rule=rule,
            before=before,
            planned=count,
            count=0,
        )
        is_open = Removal.removed_at.is_(None)
        values: dict[str, Any] = {
            "planned": sa.case((is_open, sa.func.greatest(Removal.planned, count)), else_=Removal.planned + count)
        }
        if count:
            values["removed_at"] = None
        plan = plan.on_conflict_do_update(constraint="uq_removals_plan", set_=values)
        with self._database.transaction() as session:
            guard(session, token)
            return _record(
                session.scalars(plan.returning(Removal), execution_options={"populate_existing": True}).one()
            )

    def done(self, token: FencingToken, removal_id: int) -> RemovalRecord:
        """Notes that a planned removal has been carried out; again changes nothing.

        Raises
        ------
        ConflictingRecordError
            The namespace has no such plan.
        FencedOutError
            The run was overtaken.
        """
        with self._database.transaction() as session:
            guard(session, token)
            row = session.scalars(
                sa.update(Removal)
                .where(Removal.id == removal_id, Removal.namespace == token.namespace)
                .values(count=Removal.planned, removed_at=sa.func.coalesce(Removal.removed_at, NOW))
                .returning(Removal),
                execution_options={"populate_existing": True},
            ).one_or_none()
            if row is None:
                raise ConflictingRecordError(
                    f"namespace {token.namespace!r} has no removal {removal_id}.",
                    remedy="Plan it first (removals.plan), and hand in the id that came back.",
                )
            return _record(row)

    def open(self, namespace: str) -> Sequence[RemovalRecord]:
        """Removals that were planned and not noted as done, oldest first: their run died, or is at it."""
        return self._records(sa.select(Removal).where(Removal.namespace == namespace, Removal.removed_at.is_(None)))

    def list(self, namespace: str, run_id: str | None = None) -> Sequence[RemovalRecord]:
        """All removals of a namespace, or those that one run planned first, in order of planning."""
        query = sa.select(Removal).where(Removal.namespace == namespace)
        return self._records(query if run_id is None else query.where(Removal.run_id == run_id))

    def _records(self, query: sa.Select[tuple[Removal]]) -> Sequence[RemovalRecord]:
        with self._database.transaction() as session:
            return [_record(row) for row in session.scalars(query.order_by(Removal.id))]


def _record(row: Removal) -> RemovalRecord:
    return RemovalRecord(
        removal_id=row.id,
        run_id=row.run_id,
        memory_type=row.memory_type,
        window=row.window,
        before=row.before,
        rule=row.rule,
        planned=row.planned,
        count=row.count,
        planned_at=row.planned_at,
        removed_at=row.removed_at,
    )
