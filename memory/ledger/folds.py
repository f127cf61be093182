"""Fold checkpoints: what each window changed in a fold's state, with everything written out now and then.

A fold's state is a set of named items of bytes; the ledger does not look into them. A checkpoint belongs to one window
and says which generation (manifest digest) it folded, so that the first window to fold again can be found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from memory.errors import ConflictingRecordError
from memory.ledger.database import Database
from memory.ledger.fence import guard
from memory.ledger.hashing import digest_of_items, sha256_hex
from memory.ledger.models import FoldCheckpoint, FoldItem
from memory.ledger.payloads import with_payloads
from memory.ledger.rows import Checkpoint, FencingToken, FoldItems
from memory.window import Window

FULL_CHECKPOINT_EVERY = 30
"""A checkpoint in so many holds the whole state, so that loading reads at most that many windows' changes."""


class FoldRepository:
    """Checkpoints of the folds of a line; `kind` names the fold (patterns, transitions, strategies ...)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load_state(self, line: str, kind: str, *, before: Window | None = None) -> FoldItems:
        """The state after the last checkpoint of a fold, or after the last one of a window earlier than `before`.

        Cost: reads at most 30 windows' changes. The empty state, without a checkpoint, where there is none.
        """
        with self._database.transaction() as session:
            checkpoint = _last(session, line, kind, before)
            if checkpoint is None:
                return FoldItems(checkpoint=None, items={})
            query = _versions(checkpoint, FoldItem.item_key)
            found = with_payloads(session, query, FoldItem.payload, (FoldItem.checkpoint_id, FoldItem.item_key))
            items = {row[0]: payload for row, payload in found if payload is not None}
            return FoldItems(checkpoint=_record(checkpoint), items=items)

    def save_checkpoint(
        self,
        token: FencingToken,
        line: str,
        kind: str,
        window: Window,
        *,
        input_digest: str,
        base: Checkpoint | None,
        changed: Mapping[str, bytes],
        removed: Collection[str] = (),
        counts: Mapping[str, Any] | None = None,
        stamp: str | None = None,
    ) -> Checkpoint:
        """Keeps what a window changed in a fold's state; the same again is a no-op.

        Another content for the window drops the fold's checkpoints of all later windows, which were computed from what
        stood here before.

        Parameters
        ----------
        input_digest
            Manifest digest of the generation that was folded.
        base
            The checkpoint that the fold started from: what `load_state` or the last `save_checkpoint` gave; None for
            the empty state.
        changed, removed
            Items that are new or other than in the base, and names of those that are gone.
        counts
            Figures for people and reports (new, confirmed, faded, thresholds ...); finite JSON values.
        stamp
            What to leave with the checkpoint beside its state, such as the stamp of the projection in Redis. Another
            stamp for the same state replaces the former and drops nothing.

        Raises
        ------
        ConflictingRecordError
            The base is not the last checkpoint before the window, or an item is both changed and removed.
        FencedOutError
            The run was overtaken.
        """
        both = set(changed) & set(removed)
        if both:
            raise ConflictingRecordError(
                f"item {min(both)!r} of fold {kind} is both changed and removed.", remedy="Name it once."
            )
        with self._database.transaction() as session:
            guard(session, token, line)
            before = _last(session, line, kind, window)
            _check_base(before, base, kind, window)
            digests = {} if before is None else _digests(session, before)
            # Items that are named but not changed, and removals of what was never there, add nothing.
            new = {key: sha256_hex(payload) for key, payload in changed.items()}
            new = {key: digest for key, digest in new.items() if digests.get(key) != digest}
            gone = sorted(key for key in set(removed) if key in digests)
            digests = {key: digest for key, digest in (digests | new).items() if key not in gone}
            state_digest = digest_of_items(digests)
            values = {"input_digest": input_digest, "state_digest": state_digest, "counts": dict(counts or {})}
            existing = session.scalars(_at(line, kind).where(FoldCheckpoint.window == window)).one_or_none()
            if existing is not None and all(getattr(existing, name) == value for name, value in values.items()):
                existing.stamp = stamp
                return _record(existing)
            session.execute(
                sa.delete(FoldCheckpoint).where(
                    FoldCheckpoint.line == line, FoldCheckpoint.kind == kind, FoldCheckpoint.window >= window
                )
            )
            full = before is None or _deltas_since_full(session, before) >= FULL_CHECKPOINT_EVERY - 1
            saved = FoldCheckpoint(
                line=line,
                kind=kind,
                window=window,
                full=full,
                items=len(digests),
                run_id=token.run_id,
                stamp=stamp,
                **values,
            )
            session.add(saved)
            session.flush()
            if full and before is not None:
                _copy_kept(session, before, saved, excluding={*new, *gone})
            rows = [_item(saved.id, key, digest, changed[key]) for key, digest in sorted(new.items())]
            if not full:
                rows += [_item(saved.id, key, None, None) for key in gone]
            if rows:
                session.execute(sa.insert(FoldItem), rows)
            return _record(saved)

    def truncate_from(self, token: FencingToken, line: str, window: Window, kind: str | None = None) -> int:
        """Drops the checkpoints of a window and all later ones, of one fold or of all; returns how many."""
        statement = sa.delete(FoldCheckpoint).where(FoldCheckpoint.line == line, FoldCheckpoint.window >= window)
        if kind is not None:
            statement = statement.where(FoldCheckpoint.kind == kind)
        with self._database.transaction() as session:
            guard(session, token, line)
            return len(session.execute(statement.returning(FoldCheckpoint.id)).all())

    def checkpoints(self, line: str, kind: str) -> Sequence[Checkpoint]:
        """All checkpoints of a fold in order of time, without their items; their `counts` tell how it grew."""
        with self._database.transaction() as session:
            return [_record(row) for row in session.scalars(_at(line, kind).order_by(FoldCheckpoint.window))]


def _at(line: str, kind: str) -> sa.Select[tuple[FoldCheckpoint]]:
    return sa.select(FoldCheckpoint).where(FoldCheckpoint.line == line, FoldCheckpoint.kind == kind)


def _last(session: Session, line: str, kind: str, before: Window | None) -> FoldCheckpoint | None:
    query = _at(line, kind)
    if before is not None:
        query = query.where(FoldCheckpoint.window < before)
    return session.scalars(query.order_by(FoldCheckpoint.window.desc()).limit(1)).one_or_none()


def _last_full(checkpoint: FoldCheckpoint) -> sa.ScalarSelect[Window]:
    return (
        sa.select(sa.func.max(FoldCheckpoint.window))
        .where(
            FoldCheckpoint.line == checkpoint.line,
            FoldCheckpoint.kind == checkpoint.kind,
            FoldCheckpoint.window <= checkpoint.window,
            FoldCheckpoint.full,
        )
        .scalar_subquery()
    )


def _versions(checkpoint: FoldCheckpoint, *columns: Any) -> sa.Select[tuple[Any, ...]]:
    """The last version of each item between the last full checkpoint and this one, removals included."""
    return (
        sa.select(*columns)
        .join(FoldCheckpoint, FoldCheckpoint.id == FoldItem.checkpoint_id)
        .where(
            FoldCheckpoint.line == checkpoint.line,
            FoldCheckpoint.kind == checkpoint.kind,
            FoldCheckpoint.window <= checkpoint.window,
            FoldCheckpoint.window >= _last_full(checkpoint),
        )
        .distinct(FoldItem.item_key)
        .order_by(FoldItem.item_key, FoldCheckpoint.window.desc())
    )


def _digests(session: Session, checkpoint: FoldCheckpoint) -> dict[str, str]:
    rows = session.execute(_versions(checkpoint, FoldItem.item_key, FoldItem.digest))
    return {key: digest for key, digest in rows if digest is not None}


def _deltas_since_full(session: Session, checkpoint: FoldCheckpoint) -> int:
    return session.scalars(
        sa.select(sa.func.count())
        .select_from(FoldCheckpoint)
        .where(
            FoldCheckpoint.line == checkpoint.line,
            FoldCheckpoint.kind == checkpoint.kind,
            FoldCheckpoint.window <= checkpoint.window,
            FoldCheckpoint.window > _last_full(checkpoint),
        )
    ).one()


def _copy_kept(session: Session, before: FoldCheckpoint, saved: FoldCheckpoint, excluding: set[str]) -> None:
    """Writes what the new window left alone into its full checkpoint, without the bytes leaving the server."""
    kept = _versions(before, FoldItem.item_key, FoldItem.digest, FoldItem.payload).subquery()
    session.execute(
        sa.insert(FoldItem).from_select(
            ["checkpoint_id", "item_key", "digest", "payload"],
            sa.select(sa.literal(saved.id, sa.BigInteger()), kept.c.item_key, kept.c.digest, kept.c.payload).where(
                kept.c.payload.is_not(None), kept.c.item_key.not_in(sorted(excluding))
            ),
        )
    )


def _check_base(before: FoldCheckpoint | None, base: Checkpoint | None, kind: str, window: Window) -> None:
    same = before is None if base is None else before is not None and before.id == base.checkpoint_id
    if not same:
        found = "the empty state" if before is None else f"the checkpoint of {before.window.name}"
        given = "the empty state" if base is None else f"a checkpoint of {base.window.name}"
        raise ConflictingRecordError(
            f"fold {kind} of {window.name} started from {given}, and what comes before it now is {found}.",
            remedy="Load the state again (folds.load_state with before=window) and fold from there.",
        )


def _item(checkpoint_id: int, key: str, digest: str | None, payload: bytes | None) -> dict[str, Any]:
    return {"checkpoint_id": checkpoint_id, "item_key": key, "digest": digest, "payload": payload}


def _record(row: FoldCheckpoint) -> Checkpoint:
    return Checkpoint(
        checkpoint_id=row.id,
        line=row.line,
        kind=row.kind,
        window=row.window,
        full=row.full,
        input_digest=row.input_digest,
        state_digest=row.state_digest,
        items=row.items,
        counts=row.counts,
        stamp=row.stamp,
    )
