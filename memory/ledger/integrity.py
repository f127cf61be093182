"""Whether rows of the ledger agree with their own digests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from memory.ledger.database import Database
from memory.ledger.hashing import digest_of, digest_of_items
from memory.ledger.knowledge_rows import Damage
from memory.ledger.models import (
    Encoder,
    FoldCheckpoint,
    FoldItem,
    Generation,
    GenerationSummary,
    KnowledgeLine,
    ScorecardEntry,
    StagedSummary,
)
from memory.ledger.projections import MODELS, projected_row, row_digest

PAGE_ROWS = 500
"""Projected rows that are read at a time."""
_PAYLOAD = "its payload does not match its digest"
_COLUMNS = "its columns or payload do not match its digest"


def damaged(database: Database, line: str) -> Iterator[Damage]:
    """Rows of a line that do not agree with their own digests; see `Ledger.damaged`."""
    with database.transaction() as session:
        found = [
            *_encoder(session, line),
            *_summaries(session, line),
            *_generations(session, line),
            *_fold_items(session, line),
            *_checkpoints(session, line),
            *_scorecards(session, line),
        ]
    yield from found
    for kind, model in MODELS.items():
        after: tuple[Any, ...] | None = None
        while True:
            place = (model.item_id, model.window)
            page = sa.select(model).where(model.line == line).order_by(*place).limit(PAGE_ROWS)
            if after is not None:
                page = page.where(sa.tuple_(*place) > sa.tuple_(*after))
            with database.transaction() as session:
                versions = session.scalars(page).all()
            for version in versions:
                key = f"{version.item_id} after {version.window.name}"
                if not version.removed and row_digest(projected_row(kind, version)) != version.digest:
                    yield Damage(table=model.__tablename__, key=key, what=_COLUMNS)
            if len(versions) < PAGE_ROWS:
                break
            after = (
                sa.literal(versions[-1].item_id),
                sa.literal(versions[-1].window, model.__table__.c.window.type),
            )


def _sha256(payload: Any) -> sa.ColumnElement[str]:
    """SHA-256 in hex digits, taken by Postgres: the bytes stay where they are."""
    return sa.func.encode(sa.func.sha256(payload), "hex")


def _encoder(session: Session, line: str) -> Iterator[Damage]:
    query = (
        sa.select(Encoder.encoder_id)
        .join(
            KnowledgeLine,
            sa.and_(KnowledgeLine.namespace == Encoder.namespace, KnowledgeLine.encoder_id == Encoder.encoder_id),
        )
        .where(KnowledgeLine.line == line, _sha256(Encoder.payload) != Encoder.digest)
    )
    for encoder_id in session.scalars(query):
        yield Damage(table="encoders", key=encoder_id, what=_PAYLOAD)


def _summaries(session: Session, line: str) -> Iterator[Damage]:
    summary = StagedSummary
    query = sa.select(summary.window, summary.kind, summary.partition_key).where(
        summary.line == line, _sha256(summary.payload) != summary.digest
    )
    for window, kind, key in sorted(session.execute(query).all(), key=lambda row: (row[0], row[1], row[2])):
        yield Damage(table="summaries", key=f"{kind} {key} of {window.name}", what=_PAYLOAD)


def _generations(session: Session, line: str) -> Iterator[Damage]:
    named: dict[int, list[list[Any]]] = {}
    entries = (
        sa.select(GenerationSummary.generation_id, GenerationSummary.kind, GenerationSummary.partition_key)
        .add_columns(StagedSummary.digest)
        .join(Generation, Generation.id == GenerationSummary.generation_id)
        .outerjoin(
            StagedSummary,
            sa.and_(
                StagedSummary.id == GenerationSummary.summary_id,
                StagedSummary.line == Generation.line,
                StagedSummary.window == Generation.window,
                StagedSummary.kind == GenerationSummary.kind,
                StagedSummary.partition_key == GenerationSummary.partition_key,
            ),
        )
        .where(Generation.line == line)
    )
    for generation_id, kind, key, digest in session.execute(entries):
        named.setdefault(generation_id, []).append([kind, key, digest])
    query = sa.select(Generation).where(Generation.line == line).order_by(Generation.window, Generation.number)
    for generation in session.scalars(query):
        key = f"{generation.number} of {generation.window.name}"
        if digest_of(generation.manifest) != generation.manifest_digest:
            yield Damage(table="generations", key=key, what="its manifest does not match its digest")
        found = sorted(named.get(generation.id, []), key=lambda entry: (entry[0], entry[1]))
        if found != generation.manifest["partitions"]:
            yield Damage(table="generations", key=key, what="its summaries are not those of its manifest")


def _fold_items(session: Session, line: str) -> Iterator[Damage]:
    query = (
        sa.select(FoldCheckpoint.window, FoldCheckpoint.kind, FoldItem.item_key)
        .join(FoldCheckpoint, FoldCheckpoint.id == FoldItem.checkpoint_id)
        .where(FoldCheckpoint.line == line, FoldItem.payload.is_not(None), _sha256(FoldItem.payload) != FoldItem.digest)
    )
    for window, kind, key in sorted(session.execute(query).all(), key=lambda row: (row[0], row[1], row[2])):
        yield Damage(table="fold_items", key=f"{key} of fold {kind} after {window.name}", what=_PAYLOAD)


def _checkpoints(session: Session, line: str) -> Iterator[Damage]:
    """Walks each fold in order of time: the items of a state are those of the last full one and what changed since."""
    checkpoints = sa.select(FoldCheckpoint).where(FoldCheckpoint.line == line)
    states: dict[str, dict[str, str]] = {}
    for checkpoint in sorted(session.scalars(checkpoints), key=lambda row: (row.kind, row.window)):
        rows = session.execute(
            sa.select(FoldItem.item_key, FoldItem.digest).where(FoldItem.checkpoint_id == checkpoint.id)
        ).all()
        state = {} if checkpoint.full else states.get(checkpoint.kind, {})
        for key, digest in rows:
            if digest is None:
                state.pop(key, None)
            else:
                state[key] = digest
        states[checkpoint.kind] = state
        if digest_of_items(state) != checkpoint.state_digest or len(state) != checkpoint.items:
            yield Damage(
                table="fold_checkpoints",
                key=f"fold {checkpoint.kind} after {checkpoint.window.name}",
                what="its items do not match the digest of its state",
            )


def _scorecards(session: Session, line: str) -> Iterator[Damage]:
    card = ScorecardEntry
    query = sa.select(card.window).where(card.line == line, _sha256(card.payload) != card.digest).order_by(card.window)
    for window in session.scalars(query):
        yield Damage(table="scorecards", key=f"of {window.name}", what=_PAYLOAD)
