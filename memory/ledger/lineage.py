"""The lineage of patterns: what happened to each after each window, and foldings again that have not ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from memory.ledger.database import Database
from memory.ledger.fence import guard
from memory.ledger.hashing import canonical_json
from memory.ledger.knowledge_rows import EventRow
from memory.ledger.models import PatternEvent, Refold
from memory.ledger.rows import FencingToken, RefoldRecord
from memory.window import Window


class EventRepository:
    """Events of the patterns of a line, window by window."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, token: FencingToken, line: str, window: Window, rows: Sequence[EventRow]) -> None:
        """Keeps the events of a window, in the order given, in place of earlier ones and of those of later windows.

        What followed in later windows was decided after what stood here before; the same events again change nothing.

        Raises
        ------
        FencedOutError
            The run was overtaken.
        """
        with self._database.transaction() as session:
            guard(session, token, line)
            here = sa.select(PatternEvent).where(PatternEvent.line == line, PatternEvent.window == window)
            kept = [_row(event) for event in session.scalars(here.order_by(PatternEvent.number))]
            # As they come back: JSON knows no tuples.
            if kept == [replace(row, details=json.loads(canonical_json(dict(row.details)))) for row in rows]:
                return
            self.truncate_from(token, line, window)
            if rows:
                session.execute(
                    sa.insert(PatternEvent),
                    [
                        {"line": line, "window": window, "number": number, **_values(row)}
                        for number, row in enumerate(rows)
                    ],
                )

    def of(
        self, line: str, pattern_id: str | None = None, *, window: Window | None = None
    ) -> Sequence[tuple[Window, EventRow]]:
        """Events in order of time, and as the fold decided them within a window.

        Parameters
        ----------
        pattern_id
            Only those that it is part of, on either side; of all patterns where None.
        window
            Only those after one window.
        """
        query = sa.select(PatternEvent).where(PatternEvent.line == line)
        if pattern_id is not None:
            query = query.where(sa.or_(PatternEvent.pattern_id == pattern_id, PatternEvent.other_id == pattern_id))
        if window is not None:
            query = query.where(PatternEvent.window == window)
        with self._database.transaction() as session:
            found = session.scalars(query.order_by(PatternEvent.window, PatternEvent.number))
            return [(event.window, _row(event)) for event in found]

    def truncate_from(self, token: FencingToken, line: str, window: Window) -> None:
        """Drops the events of a window and all later ones."""
        with self._database.transaction() as session:
            guard(session, token, line)
            session.execute(sa.delete(PatternEvent).where(PatternEvent.line == line, PatternEvent.window >= window))


class RefoldRepository:
    """What was known before windows were folded again, kept until the new names are in: at most one a line."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, token: FencingToken, line: str, *, first: Window, last: Window, payload: bytes) -> RefoldRecord:
        """Notes what was known before a line is folded again from a window.

        Call it in the transaction that first drops what was folded. Where a refold is open already, what was known
        before that one stays, since nothing that came between was finished; `first` becomes the earlier of both.

        Raises
        ------
        FencedOutError
            The run was overtaken.
        """
        refold = insert(Refold).values(line=line, first=first, last=last, payload=payload, run_id=token.run_id)
        refold = refold.on_conflict_do_update(
            index_elements=[Refold.line], set_={"first": sa.func.least(Refold.first, refold.excluded.first)}
        )
        with self._database.transaction() as session:
            guard(session, token, line)
            return _refold(
                session.scalars(refold.returning(Refold), execution_options={"populate_existing": True}).one()
            )

    def open(self, line: str) -> RefoldRecord | None:
        """The refold of a line that has not ended, or None."""
        with self._database.transaction() as session:
            row = session.get(Refold, line, populate_existing=True)
            return None if row is None else _refold(row)

    def finish(self, token: FencingToken, line: str) -> None:
        """Notes that the line's refold has ended: call it in the transaction that keeps the old names."""
        with self._database.transaction() as session:
            guard(session, token, line)
            session.execute(sa.delete(Refold).where(Refold.line == line))


def _values(row: EventRow) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "pattern_id": row.pattern_id,
        "other_id": row.other_id,
        "label": row.label,
        "states": row.states,
        "cosine": row.cosine,
        "threshold": row.threshold,
        "rule": row.rule,
        "details": dict(row.details),
    }


def _row(event: PatternEvent) -> EventRow:
    return EventRow(
        kind=event.kind,
        pattern_id=event.pattern_id,
        other_id=event.other_id,
        label=event.label,
        states=event.states,
        cosine=event.cosine,
        threshold=event.threshold,
        rule=event.rule,
        details=event.details,
    )


def _refold(row: Refold) -> RefoldRecord:
    return RefoldRecord(line=row.line, first=row.first, last=row.last, payload=row.payload)
