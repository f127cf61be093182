"""Knowledge lines and encoders: within a line knowledge accumulates; one line of a namespace is current."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from memory.errors import ConflictingRecordError, WindowError
from memory.ledger.database import Database
from memory.ledger.fence import guard
from memory.ledger.hashing import sha256_hex
from memory.ledger.models import Encoder, KnowledgeLine
from memory.ledger.rows import EncoderRecord, FencingToken, LineRecord
from memory.validation import validate_identifier


def line_id(namespace: str, encoder_id: str, algorithm_version: str) -> str:
    """Id of a knowledge line: `namespace/encoder/algorithm version`."""
    validate_identifier(encoder_id, "encoder_id")
    validate_identifier(algorithm_version, "algorithm_version")
    return f"{namespace}/{encoder_id}/{algorithm_version}"


class LineRepository:
    """Lines and encoders of a namespace."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ensure(self, token: FencingToken, encoder_id: str, algorithm_version: str) -> str:
        """The line's id, creating it where needed; a namespace's first line becomes current at once."""
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
                )
                .on_conflict_do_nothing()
                .returning(KnowledgeLine.line)
            ).one_or_none()
            if created is not None and _latest_activation(session, token.namespace) is None:
                session.execute(sa.update(KnowledgeLine).where(KnowledgeLine.line == line).values(activation=1))
        return line

    def activate(self, token: FencingToken, line: str, *, current_from: datetime) -> None:
        """Makes a line the current one for every question as of `current_from` or later, in one step.

        The lines before it stay what they were for earlier questions. A line that is current already is left alone.
        """
        with self._database.transaction() as session:
            guard(session, token, line)
            latest = _latest_activation(session, token.namespace)
            row = session.get(KnowledgeLine, line, populate_existing=True)
            if row is None:
                raise WindowError(f"there is no knowledge line {line!r}.", remedy="Create it with lines.ensure first.")
            if row.activation is None or row.activation != latest:
                row.activation = (latest or 0) + 1
                row.current_from = current_from

    def current(self, namespace: str, as_of: datetime | None = None) -> LineRecord | None:
        """The line that is current, or was as of a time; None before the first consolidation."""
        query = sa.select(KnowledgeLine).where(
            KnowledgeLine.namespace == namespace, KnowledgeLine.activation.is_not(None)
        )
        if as_of is not None:
            query = query.where(sa.or_(KnowledgeLine.current_from.is_(None), KnowledgeLine.current_from <= as_of))
        with self._database.transaction() as session:
            row = session.scalars(query.order_by(KnowledgeLine.activation.desc()).limit(1)).one_or_none()
            return None if row is None else _line_record(row)

    def list(self, namespace: str) -> Sequence[LineRecord]:
        """All lines of a namespace, by name."""
        query = sa.select(KnowledgeLine).where(KnowledgeLine.namespace == namespace).order_by(KnowledgeLine.line)
        with self._database.transaction() as session:
            return [_line_record(row) for row in session.scalars(query)]

    def save_encoder(
        self,
        namespace: str,
        encoder_id: str,
        payload: bytes,
        *,
        dimension: int,
        fitted_until: datetime | None,
        parameters: Mapping[str, Any] | None = None,
    ) -> EncoderRecord:
        """Keeps a fitted encoder; the same bytes again are a no-op, other bytes under its id are refused."""
        validate_identifier(encoder_id, "encoder_id")
        digest = sha256_hex(payload)
        with self._database.transaction() as session:
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
            row = session.get_one(Encoder, (namespace, encoder_id))
            if row.digest != digest:
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
