"""What the folds are projected to, window by window, as rows that can be searched.

Rows are versions: one is written where an item changed, so that an unchanged pattern costs nothing a night. What
holds as of a window is the last version of each item up to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from memory.errors import ConflictingRecordError
from memory.ledger.database import Database
from memory.ledger.fence import guard
from memory.ledger.hashing import digest_of, sha256_hex
from memory.ledger.knowledge_rows import (
    AliasRow,
    CorrelationRow,
    PatternRow,
    Projection,
    ProjectionRow,
    PruneDecision,
    RegimeRow,
    StrategyRow,
    TransitionRow,
    VersionRow,
)
from memory.ledger.models import (
    CorrelationVersion,
    PatternAlias,
    PatternVersion,
    ProjectionVersion,
    PruneDecisionEntry,
    RegimeVersion,
    StrategyVersion,
    TransitionVersion,
)
from memory.ledger.rows import FencingToken
from memory.window import Window

MERGED, REFOUNDED = "MERGED", "REFOUNDED"
MODELS: dict[type[ProjectionRow], type[ProjectionVersion]] = {
    PatternRow: PatternVersion,
    TransitionRow: TransitionVersion,
    RegimeRow: RegimeVersion,
    StrategyRow: StrategyVersion,
    CorrelationRow: CorrelationVersion,
}
"""Table of each kind of projected row."""

VERSION_PAGE_BYTES = 8 << 20
"""Payloads that `versions` reads at a time; one item with more than that is still read at once."""
VERSION_ROW_BYTES = 200
"""What a version takes beside its payload, about: so that many small ones are read in pages too."""

_Row = TypeVar("_Row", bound=ProjectionRow)


class ProjectionRepository:
    """Patterns, transitions, regimes, strategies, correlations, aliases and prune decisions of a line."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, token: FencingToken, line: str, window: Window, projection: Projection) -> None:
        """Replaces what is projected after a window, in one transaction; the same again is a no-op.

        Where a kind comes out differently than before, its rows of all later windows go too: they follow from what
        stood here. Aliases REFOUNDED stay whatever is folded again, since agents may still hold the old ids.

        Raises
        ------
        FencedOutError
            The run was overtaken.
        """
        with self._database.transaction() as session:
            guard(session, token, line)
            kinds: tuple[tuple[type[ProjectionVersion], Sequence[ProjectionRow] | None], ...] = (
                (PatternVersion, projection.patterns),
                (TransitionVersion, projection.transitions),
                (RegimeVersion, projection.regimes),
                (StrategyVersion, projection.strategies),
                (CorrelationVersion, projection.correlations),
            )
            for model, rows in kinds:
                if rows is not None:
                    _replace_versions(session, model, line, window, rows)
            if projection.aliases is not None:
                _replace_aliases(session, line, window, projection.aliases)
            if projection.prune_decisions is not None:
                _replace_decisions(session, line, window, projection.prune_decisions)

    def truncate_from(self, token: FencingToken, line: str, window: Window) -> None:
        """Drops everything projected for a window and all later ones, but for aliases REFOUNDED."""
        with self._database.transaction() as session:
            guard(session, token, line)
            for model in MODELS.values():
                session.execute(sa.delete(model).where(model.line == line, model.window >= window))
            decision = PruneDecisionEntry
            session.execute(sa.delete(decision).where(decision.line == line, decision.window >= window))
            _delete_aliases(session, line, window)

    def as_of(self, kind: type[_Row], line: str, window: Window | None = None) -> Sequence[_Row]:
        """All rows of a kind (such as `PatternRow`) as they stood after a window, or stand now; by id."""
        with self._database.transaction() as session:
            rows = session.scalars(_as_of(MODELS[kind], line, window)).all()
            return sorted((projected_row(kind, row) for row in rows if not row.removed), key=lambda row: row.item_id)

    def history(self, kind: type[_Row], line: str, item_id: str) -> Sequence[tuple[Window, _Row | None]]:
        """The versions of one item in order of time; None where it vanished."""
        model = MODELS[kind]
        query = sa.select(model).where(model.line == line, model.item_id == item_id).order_by(model.window)
        with self._database.transaction() as session:
            return [(row.window, None if row.removed else projected_row(kind, row)) for row in session.scalars(query)]

    def versions(self, kind: type[ProjectionRow], line: str, first: Window | None = None) -> Iterator[VersionRow]:
        """All versions of all items of a kind: item by item in order of their ids, each in order of time.

        Parameters
        ----------
        first
            Only versions of this window and later ones.

        Memory: some megabytes, however many versions there are. Each page is a transaction of its own: whoever needs
        all of one moment holds the namespace, or asks within a transaction.
        """
        model = MODELS[kind]
        chosen = [model.line == line] if first is None else [model.line == line, model.window >= first]
        sizes = sa.select(
            model.item_id, sa.func.count() * VERSION_ROW_BYTES + sa.func.sum(sa.func.coalesce(_payload_bytes(model), 0))
        )
        with self._database.transaction() as session:
            items = session.execute(sizes.where(*chosen).group_by(model.item_id)).all()
        # Sorted here: the order of texts in Postgres depends on the database's collation.
        for page in _pages(sorted((item_id, int(size)) for item_id, size in items)):
            rows = sa.select(model.item_id, model.window, model.removed, model.payload)
            with self._database.transaction() as session:
                found = session.execute(rows.where(*chosen, model.item_id.in_(page))).all()
            for item_id, window, removed, payload in sorted(found, key=lambda row: (row.item_id, row.window)):
                yield VersionRow(item_id=item_id, window=window, removed=removed, payload=payload)

    def patterns(
        self,
        line: str,
        window: Window | None = None,
        *,
        status: str | None = None,
        published: bool | None = None,
        regime: str | None = None,
        product_id: str | None = None,
        minimum_support: int = 0,
        limit: int | None = None,
    ) -> Sequence[PatternRow]:
        """Patterns as they stood after a window, or stand now: best supported first, ties by id."""
        rows = [
            row
            for row in self.as_of(PatternRow, line, window)
            if (status is None or row.status == status)
            and (published is None or row.published == published)
            and (regime is None or row.regime == regime)
            and (product_id is None or product_id in row.product_ids)
            and row.support >= minimum_support
        ]
        return sorted(rows, key=lambda row: (-row.support, row.item_id))[:limit]

    def add_aliases(self, token: FencingToken, line: str, window: Window, aliases: Iterable[AliasRow]) -> None:
        """Notes that ids of an earlier fold lead to patterns that a later fold founded (REFOUNDED)."""
        with self._database.transaction() as session:
            guard(session, token, line)
            for alias in aliases:
                statement = insert(PatternAlias).values(
                    line=line, alias_id=alias.alias_id, pattern_id=alias.pattern_id, window=window, reason=REFOUNDED
                )
                session.execute(
                    statement.on_conflict_do_update(
                        constraint=PatternAlias.__table__.primary_key,  # type: ignore[arg-type]
                        set_={"pattern_id": alias.pattern_id},
                    )
                )

    def aliases(self, line: str, window: Window | None = None) -> Sequence[AliasRow]:
        """Where ids lead as of a window, or now; by id."""
        with self._database.transaction() as session:
            rows = [
                AliasRow(alias_id=row.alias_id, pattern_id=row.pattern_id, reason=row.reason)
                for row in session.scalars(_aliases_as_of(line, window))
            ]
        return sorted(rows, key=lambda row: (row.alias_id, row.reason))

    def resolve(self, line: str, pattern_id: str) -> str:
        """The id that a pattern has now: aliases are followed to their end."""
        # What the fold says (MERGED sorts first) is newer than what an earlier fold was founded as.
        leads: dict[str, str] = {}
        for alias in self.aliases(line):
            leads.setdefault(alias.alias_id, alias.pattern_id)
        seen = {pattern_id}
        while pattern_id in leads and leads[pattern_id] not in seen:
            pattern_id = leads[pattern_id]
            seen.add(pattern_id)
        return pattern_id

    def prune_decisions(self, line: str, window: Window) -> Sequence[PruneDecision]:
        """Decisions after a window, by memory id."""
        query = sa.select(PruneDecisionEntry).where(
            PruneDecisionEntry.line == line, PruneDecisionEntry.window == window
        )
        with self._database.transaction() as session:
            rows = [
                PruneDecision(
                    memory_id=row.memory_id,
                    memory_type=row.memory_type,
                    kept=row.kept,
                    rules=tuple(row.rules),
                    details=row.details,
                )
                for row in session.scalars(query)
            ]
        return sorted(rows, key=lambda row: row.memory_id)


def _payload_bytes(model: type[ProjectionVersion]) -> sa.ColumnElement[int]:
    return sa.func.octet_length(model.payload)


def _pages(items: Sequence[tuple[str, int]]) -> Iterator[list[str]]:
    """Ids in groups of about `VERSION_PAGE_BYTES` altogether."""
    page: list[str] = []
    total = 0
    for item_id, size in items:
        if page and total + size > VERSION_PAGE_BYTES:
            yield page
            page, total = [], 0
        page.append(item_id)
        total += size
    if page:
        yield page


def _as_of(model: type[ProjectionVersion], line: str, window: Window | None) -> sa.Select[tuple[ProjectionVersion]]:
    query = sa.select(model).where(model.line == line)
    if window is not None:
        query = query.where(model.window <= window)
    return query.distinct(model.item_id).order_by(model.item_id, model.window.desc())


def _replace_versions(
    session: Session, model: type[ProjectionVersion], line: str, window: Window, rows: Sequence[ProjectionRow]
) -> None:
    earlier = (
        sa.select(model.item_id, model.digest, model.removed)
        .where(model.line == line, model.window < window)
        .distinct(model.item_id)
        .order_by(model.item_id, model.window.desc())
    )
    before = {item_id: digest for item_id, digest, removed in session.execute(earlier) if not removed}
    digests = {row.item_id: row_digest(row) for row in rows}
    if len(digests) != len(rows):
        raise ConflictingRecordError(
            f"two rows of {model.__tablename__} share an id.", remedy="Ids must be unique within line and kind."
        )
    changed = {item_id: digest for item_id, digest in digests.items() if before.get(item_id) != digest}
    wanted = changed | {item_id: "" for item_id in before if item_id not in digests}
    here = sa.select(model.item_id, model.digest).where(model.line == line, model.window == window)
    if dict(session.execute(here).tuples().all()) == wanted:
        return
    session.execute(sa.delete(model).where(model.line == line, model.window >= window))
    values: list[dict[str, Any]] = [
        {"line": line, "window": window, "removed": False, "digest": digests[row.item_id], **_columns(row)}
        for row in rows
        if row.item_id in changed
    ]
    if values:
        session.execute(sa.insert(model), values)
    gone = [
        {"line": line, "window": window, "item_id": item_id, "removed": True, "digest": ""}
        for item_id, digest in wanted.items()
        if not digest
    ]
    if gone:
        session.execute(sa.insert(model), gone)


def _columns(row: ProjectionRow) -> dict[str, Any]:
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def row_digest(row: ProjectionRow) -> str:
    """SHA-256 of everything that a row says, its payload included."""
    return digest_of({**_columns(row), "payload": sha256_hex(row.payload)})


def projected_row(kind: type[_Row], version: ProjectionVersion) -> _Row:
    """A version as callers see it."""
    values: dict[str, Any] = {field.name: getattr(version, field.name) for field in fields(kind)}
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return kind(**values)


def _delete_aliases(session: Session, line: str, window: Window) -> None:
    session.execute(
        sa.delete(PatternAlias).where(
            PatternAlias.line == line, PatternAlias.window >= window, PatternAlias.reason == MERGED
        )
    )


def _aliases_as_of(line: str, window: Window | None) -> sa.Select[tuple[PatternAlias]]:
    query = sa.select(PatternAlias).where(PatternAlias.line == line)
    if window is not None:
        query = query.where(PatternAlias.window <= window)
    return query.distinct(PatternAlias.alias_id, PatternAlias.reason).order_by(
        PatternAlias.alias_id, PatternAlias.reason, PatternAlias.window.desc()
    )


def _replace_aliases(session: Session, line: str, window: Window, aliases: Sequence[AliasRow]) -> None:
    """`aliases` are all those known after the window, or only those that it brought: both give the same rows."""
    query = sa.select(PatternAlias).where(PatternAlias.line == line, PatternAlias.reason == MERGED)
    earlier: dict[str, str] = {}
    for row in session.scalars(query.where(PatternAlias.window < window).order_by(PatternAlias.window)):
        earlier[row.alias_id] = row.pattern_id
    here = {row.alias_id: row.pattern_id for row in session.scalars(query.where(PatternAlias.window == window))}
    wanted = {alias.alias_id: alias.pattern_id for alias in aliases if earlier.get(alias.alias_id) != alias.pattern_id}
    if here == wanted:
        return
    _delete_aliases(session, line, window)
    values = [
        {"line": line, "alias_id": alias_id, "reason": MERGED, "window": window, "pattern_id": pattern_id}
        for alias_id, pattern_id in wanted.items()
    ]
    if values:
        session.execute(sa.insert(PatternAlias), values)


def _replace_decisions(session: Session, line: str, window: Window, decisions: Sequence[PruneDecision]) -> None:
    session.execute(
        sa.delete(PruneDecisionEntry).where(PruneDecisionEntry.line == line, PruneDecisionEntry.window == window)
    )
    if decisions:
        session.execute(
            sa.insert(PruneDecisionEntry),
            [
                {
                    "line": line,
                    "window": window,
                    "memory_id": decision.memory_id,
                    "memory_type": decision.memory_type,
                    "kept": decision.kept,
                    "rules": list(decision.rules),
                    "details": dict(decision.details),
                }
                for decision in decisions
            ],
        )
