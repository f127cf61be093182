"""Knowledge lines and encoders: within a line knowledge accumulates; one line of a namespace is current."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from memory.errors import ConflictingRecordError, LineError
from memory.ledger.database import Database
from memory.ledger.fence import guard
from memory.ledger.hashing import sha256_hex
from memory.ledger.models import Encoder, KnowledgeLine
from memory.ledger.rows import EncoderRecord, FencingToken, LineRecord
from memory.validation import validate_choice, validate_identifier


def line_id(namespace: str, encoder_id: str, algorithm_version: str) -> str:
    """Id of a knowledge line: `namespace/encoder/algorithm version`."""
    validate_identifier(encoder_id, "encoder_id")
    validate_identifier(algorithm_version, "algorithm_version")
    return f"{namespace}/{encoder_id}/{algorithm_version}"


BUILDING, LIVE, RETIRED = "BUILDING", "LIVE", "RETIRED"
"""States of a line: it re-consolidates and nobody reads it; each night is fed to it; it stays as it is."""


class LineRepository:
    """Lines and encoders of a namespace."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ensure(self, token: FencingToken, encoder_id: str, algorithm_version: str) -> str:
        """The line's id, creating it where needed.

        The first line of an encoder is LIVE at once: nothing has to be replaced for it to be read. A later one is
        BUILDING until it is activated. A namespace's first line is the first in its succession too.
        """
        line = line_id(token.namespace, encoder_id, algorithm_version)
        with self._database.transaction() as session:
            guard(session, token)
            created = session.execute(
                insert(KnowledgeLine)
                .values(
                    line=line,
                    namespace=token.namespace,
                    encoder_id=encoder_id,
                    algorithm_version=algorithm_version,
                    state=BUILDING,
                )
                .on_conflict_do_nothing()
                .returning(KnowledgeLine.line)
            ).one_or_none()
            if created is not None:
                row = _existing(session, line)
                if _latest_activation(session, token.namespace) is None:
                    row.activation = 1
                others = sa.select(KnowledgeLine.line).where(
                    KnowledgeLine.namespace == token.namespace,
                    KnowledgeLine.encoder_id == encoder_id,
                    KnowledgeLine.line != line,
                )
                if session.scalars(others.limit(1)).first() is None:
                    row.state = LIVE
                session.flush()
        return line

    def activate(self, token: FencingToken, line: str, *, current_from: datetime) -> None:
        """Makes a line the current one for every question as of `current_from` or later, in one step.

        The lines before it stay what they were for earlier questions. A line that is current already is left alone.

        Raises
        ------
        LineError
            The line does not exist, was current once and is not any more, or would become current earlier than the
            one before it: questions as of a time must have one answer for ever.
        FencedOutError
            The run was overtaken.
        """
        with self._database.transaction() as session:
            guard(session, token, line)
            row = _existing(session, line)
            latest = session.scalars(_succession(token.namespace).order_by(KnowledgeLine.activation.desc())).first()
            if latest is not None and latest.line == line:
                return
            if row.activation is not None:
                raise LineError(
                    f"knowledge line {line!r} was current before and was replaced.",
                    remedy="Start a line of its own, with a new encoder id or algorithm version.",
                )
            if latest is not None and latest.current_from is not None and current_from < latest.current_from:
                raise LineError(
                    f"line {line!r} cannot be current from {current_from.isoformat()}: {latest.line!r} is since "
                    f"{latest.current_from.isoformat()}.",
                    remedy="Choose a later time.",
                )
            row.activation = 1 if latest is None else (latest.activation or 0) + 1
            row.current_from = current_from
            row.state = LIVE

    def set_state(self, token: FencingToken, line: str, state: str) -> None:
        """Changes what is done with a line: BUILDING, LIVE or RETIRED; see `LineRecord`.

        Raises
        ------
        LineError
            The line does not exist, or is the current one and would be anything but LIVE.
        FencedOutError
            The run was overtaken.
        """
        validate_choice(state, "state", (BUILDING, LIVE, RETIRED))
        with self._database.transaction() as session:
            guard(session, token, line)
            row = _existing(session, line)
            if state != LIVE and row.activation == _latest_activation(session, token.namespace):
                raise LineError(
                    f"knowledge line {line!r} is the current one and cannot become {state}.",
                    remedy="Activate its successor first.",
                )
            row.state = state

    def succession(self, namespace: str) -> Sequence[tuple[str, datetime | None]]:
        """Lines that are or were current, with since when (None: from the beginning), in order of succession."""
        with self._database.transaction() as session:
            return [
                (row.line, row.current_from)
                for row in session.scalars(_succession(namespace).order_by(KnowledgeLine.activation))
            ]

    def current(self, namespace: str, as_of: datetime | None = None) -> LineRecord | None:
        """The line that is current, or was as of a time; None before the first consolidation."""
        query = _succession(namespace)
        if as_of is not None:
            query = query.where(sa.or_(KnowledgeLine.current_from.is_(None), KnowledgeLine.current_from <= as_of))
        with self._database.transaction() as session:
            row = session.scalars(query.order_by(KnowledgeLine.activation.desc()).limit(1)).one_or_none()
            return None if row is None else _line_record(row)

    def list(self, namespace: str) -> Sequence[LineRecord]:
        """All lines of a namespace, by name."""
        query = sa.select(KnowledgeLine).where(KnowledgeLine.namespace == namespace)
        with self._database.transaction() as session:
            # Sorted here: the order of texts in Postgres depends on the database's collation.
            return sorted((_line_record(row) for row in session.scalars(query)), key=lambda record: record.line)

    def save_encoder(
        self,
        token: FencingToken,
        encoder_id: str,
        payload: bytes,
        *,
        dimension: int,
        fitted_until: datetime | None,
        parameters: Mapping[str, Any] | None = None,
    ) -> EncoderRecord:
        """Keeps a fitted encoder in the token's namespace, so that it outlives Redis; the same again is a no-op.

        Raises
        ------
        ConflictingRecordError
            Other bytes, another dimension or another end of the data it was fitted on are kept under its id.
        FencedOutError
            The run was overtaken.
        """
        validate_identifier(encoder_id, "encoder_id")
        namespace, digest = token.namespace, sha256_hex(payload)
        with self._database.transaction() as session:
            guard(session, token)
            session.execute(
                insert(Encoder)
                .values(
                    namespace=namespace,
                    encoder_id=encoder_id,
                    dimension=dimension,
                    fitted_until=fitted_until,
                    digest=digest,
                    payload=payload,
                    parameters=dict(parameters or {}),
                )
                .on_conflict_do_nothing()
            )
            row = session.get_one(Encoder, (namespace, encoder_id), populate_existing=True)
            if (row.digest, row.dimension, row.fitted_until) != (digest, dimension, fitted_until):
                raise ConflictingRecordError(
                    f"encoder {encoder_id!r} is kept already in namespace {namespace!r} with other content.",
                    remedy="Give the newly fitted encoder an id of its own; what it encodes starts a new line.",
                )
            return _encoder_record(row)

    def encoder(self, namespace: str, encoder_id: str) -> EncoderRecord | None:
        """A kept encoder, or None."""
        with self._database.transaction() as session:
            row = session.get(Encoder, (namespace, encoder_id))
            return None if row is None else _encoder_record(row)

    def encoders(self, namespace: str) -> Sequence[EncoderRecord]:
        """All kept encoders of a namespace, by id."""
        with self._database.transaction() as session:
            rows = session.scalars(sa.select(Encoder).where(Encoder.namespace == namespace))
            return sorted((_encoder_record(row) for row in rows), key=lambda record: record.encoder_id)


def _existing(session: Session, line: str) -> KnowledgeLine:
    row = session.get(KnowledgeLine, line, populate_existing=True)
    if row is None:
        raise LineError(f"there is no knowledge line {line!r}.", remedy="Create it with lines.ensure first.")
    return row


def _succession(namespace: str) -> sa.Select[tuple[KnowledgeLine]]:
    return sa.select(KnowledgeLine).where(KnowledgeLine.namespace == namespace, KnowledgeLine.activation.is_not(None))


def _latest_activation(session: Session, namespace: str) -> int | None:
    return session.scalar(sa.select(sa.func.max(KnowledgeLine.activation)).where(KnowledgeLine.namespace == namespace))


def _line_record(row: KnowledgeLine) -> LineRecord:
    return LineRecord(
        line=row.line,
        namespace=row.namespace,
        encoder_id=row.encoder_id,
        algorithm_version=row.algorithm_version,
        activation=row.activation,
        current_from=row.current_from,
        state=row.state,
        created_at=row.created_at,
    )


def _encoder_record(row: Encoder) -> EncoderRecord:
    return EncoderRecord(
        encoder_id=row.encoder_id,
        dimension=row.dimension,
        fitted_until=row.fitted_until,
        payload=row.payload,
        digest=row.digest,
        parameters=row.parameters,
    )
