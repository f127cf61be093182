"""Windows and their generations: a complete set of summaries becomes current in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from memory.errors import IncompleteGenerationError
from memory.ledger.archive import ArchiveReference
from memory.ledger.archived_windows import ArchivedWindowRepository
from memory.ledger.fence import guard
from memory.ledger.hashing import digest_of
from memory.ledger.models import (
    Generation,
    GenerationArchive,
    GenerationSummary,
    StagedSummary,
    WindowState,
)
from memory.ledger.payloads import with_payloads
from memory.ledger.rows import (
    CurrentGeneration,
    FencingToken,
    GenerationRecord,
    ManifestEntry,
    WindowStatus,
)
from memory.ledger.staging import WITHOUT_PAYLOAD, summary_record
from memory.window import Window


class WindowRepository(ArchivedWindowRepository):
    """Generations of windows, what made them stale or sealed, and where their input is archived."""

    def commit_generation(
        self,
        token: FencingToken,
        line: str,
        window: Window,
        *,
        settings_hash: str,
        entries: Sequence[ManifestEntry],
        archives: Sequence[ArchiveReference] = (),
        recorded_cut: datetime | None = None,
        counts: Mapping[str, Any] | None = None,
    ) -> GenerationRecord:
        """Makes a complete set of staged summaries the current generation of a window, in one transaction.

        The same manifest again changes nothing but `recorded_cut`, and whether the window is stale or sealed: after
        this it is neither. The manifest holds the partitions with the digests of their summaries, the settings hash
        and the digests of the archived content.

        Parameters
        ----------
        entries
            Every partition of the window, the absent ones (no digest) included.
        archives
            What the summaries were computed from.
        recorded_cut
            Latest `recorded_at` among the input: what is recorded later makes the window stale.
        counts
            Figures for people: experiences, states, cold states ...; finite JSON values.

        Raises
        ------
        IncompleteGenerationError
            A summary that the manifest names is not staged, or the manifest names a partition twice.
        FencedOutError
            The run was overtaken.
        """
        keys = [(entry.kind, entry.partition_key) for entry in entries]
        if len(set(keys)) != len(keys):
            raise IncompleteGenerationError(
                f"the manifest of {window.name} names a partition twice.", remedy="Name every partition once."
            )
        manifest: dict[str, Any] = {
            "line": line.partition("/")[2],
            "window": window.name,
            "settings_hash": settings_hash,
            "partitions": [
                [entry.kind, entry.partition_key, entry.digest]
                for entry in sorted(entries, key=lambda entry: (entry.kind, entry.partition_key))
            ],
            "archives": sorted([item.encoder_id, item.source, item.content_digest] for item in archives),
        }
        manifest_digest = digest_of(manifest)
        with self._database.transaction() as session:
            guard(session, token, line)
            state = _locked_state(session, line, window)
            generation = session.scalars(
                sa.select(Generation).where(
                    Generation.line == line, Generation.window == window, Generation.manifest_digest == manifest_digest
                )
            ).one_or_none()
            if generation is None:
                summaries = _staged_ids(session, line, window, entries)
                generation = Generation(
                    line=line,
                    window=window,
                    number=1 + (session.scalar(_highest_number(line, window)) or 0),
                    manifest=manifest,
                    manifest_digest=manifest_digest,
                    settings_hash=settings_hash,
                    recorded_cut=recorded_cut,
                    counts=dict(counts or {}),
                    run_id=token.run_id,
                    token=token.value,
                )
                session.add(generation)
                session.flush()
                session.add_all(
                    GenerationSummary(
                        generation_id=generation.id,
                        kind=entry.kind,
                        partition_key=entry.partition_key,
                        summary_id=summaries.get((entry.kind, entry.partition_key)),
                    )
                    for entry in entries
                )
            elif recorded_cut is not None:
                generation.recorded_cut = max(recorded_cut, generation.recorded_cut or recorded_cut)
            for archive_id in {self.save_archive(token, reference) for reference in archives}:
                session.execute(
                    insert(GenerationArchive)
                    .values(generation_id=generation.id, archive_id=archive_id)
                    .on_conflict_do_nothing()
                )
            state.current_generation_id = generation.id
            state.stale_since = state.stale_reason = None
            state.sealed_since = state.sealed_reason = None
            session.flush()
            session.refresh(generation)
            return _generation_record(generation)

    def current_generation(
        self, line: str, window: Window, kinds: Collection[str] | None = None
    ) -> CurrentGeneration | None:
        """The current generation of a window with its summaries, or None.

        Parameters
        ----------
        kinds
            Only summaries of these kinds: those of correlations may take hundreds of megabytes. All by default.
        """
        with self._database.transaction() as session:
            generation = session.scalars(_current(line).where(WindowState.window == window)).one_or_none()
            if generation is None:
                return None
            query = (
                sa.select(GenerationSummary, StagedSummary)
                .outerjoin(StagedSummary, StagedSummary.id == GenerationSummary.summary_id)
                .where(GenerationSummary.generation_id == generation.id)
                .options(WITHOUT_PAYLOAD)
            )
            if kinds is not None:
                query = query.where(GenerationSummary.kind.in_(kinds))
            found = with_payloads(session, query, StagedSummary.payload, (StagedSummary.id,))
            # Sorted here: the order of texts in Postgres depends on the database's collation.
            ordered = sorted(found, key=lambda pair: (pair[0][0].kind, pair[0][0].partition_key))
            return CurrentGeneration(
                generation=_generation_record(generation),
                summaries=tuple(summary_record(row[1], payload) for row, payload in ordered if payload is not None),
                absent=tuple(
                    ManifestEntry(kind=row[0].kind, partition_key=row[0].partition_key, digest=None)
                    for row, payload in ordered
                    if payload is None
                ),
            )

    def generations(self, line: str, window: Window) -> Sequence[GenerationRecord]:
        """All generations of a window, by number."""
        query = (
            sa.select(Generation)
            .where(Generation.line == line, Generation.window == window)
            .order_by(Generation.number)
        )
        with self._database.transaction() as session:
            return [_generation_record(row) for row in session.scalars(query)]

    def list(self, line: str, first: Window | None = None, last: Window | None = None) -> Sequence[WindowStatus]:
        """Where each window of a line stands, in order of time."""
        query = (
            sa.select(WindowState, Generation)
            .outerjoin(Generation, Generation.id == WindowState.current_generation_id)
            .where(WindowState.line == line)
            .order_by(WindowState.window)
        )
        if first is not None:
            query = query.where(WindowState.window >= first)
        if last is not None:
            query = query.where(WindowState.window <= last)
        with self._database.transaction() as session:
            return [_status(state, generation) for state, generation in session.execute(query)]

    def with_current(self, line: str) -> Sequence[tuple[Window, str]]:
        """Windows that have a current generation with its manifest digest, in order of time."""
        query = (
            sa.select(Generation.window, Generation.manifest_digest)
            .join(WindowState, WindowState.current_generation_id == Generation.id)
            .where(WindowState.line == line)
            .order_by(Generation.window)
        )
        with self._database.transaction() as session:
            return [(row[0], row[1]) for row in session.execute(query)]

    def mark_stale(self, token: FencingToken, line: str, window: Window, reason: str) -> None:
        """Notes that a window must be consolidated again, such as for late records; the first reason stays."""
        with self._database.transaction() as session:
            guard(session, token, line)
            state = _locked_state(session, line, window)
            if state.stale_since is None:
                state.stale_since = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
                state.stale_reason = reason

    def seal(self, token: FencingToken, line: str, window: Window, reason: str) -> None:
        """Notes that a window's input is no longer to be had in full: its summaries stand; the first reason stays.

        Folding goes by this note and not by what a file system says at the moment, so that it stays deterministic.
        """
        with self._database.transaction() as session:
            guard(session, token, line)
            state = _locked_state(session, line, window)
            if state.sealed_since is None:
                state.sealed_since = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
                state.sealed_reason = reason

    def unseal(self, token: FencingToken, line: str, window: Window) -> None:
        """Notes that a window's input is there again, such as after its archive was restored."""
        with self._database.transaction() as session:
            guard(session, token, line)
            state = _locked_state(session, line, window)
            state.sealed_since = state.sealed_reason = None

    def stale(self, line: str, limit: int | None = None) -> Sequence[WindowStatus]:
        """Windows that must be consolidated again, in order of time."""
        query = (
            sa.select(WindowState, Generation)
            .outerjoin(Generation, Generation.id == WindowState.current_generation_id)
            .where(WindowState.line == line, WindowState.stale_since.is_not(None))
            .order_by(WindowState.window)
            .limit(limit)
        )
        with self._database.transaction() as session:
            return [_status(state, generation) for state, generation in session.execute(query)]


def _locked_state(session: Session, line: str, window: Window) -> WindowState:
    session.execute(insert(WindowState).values(line=line, window=window).on_conflict_do_nothing())
    return session.scalars(
        sa.select(WindowState)
        .where(WindowState.line == line, WindowState.window == window)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()


def _staged_ids(
    session: Session, line: str, window: Window, entries: Sequence[ManifestEntry]
) -> dict[tuple[str, str], int]:
    rows = session.execute(
        sa.select(StagedSummary.kind, StagedSummary.partition_key, StagedSummary.digest, StagedSummary.id)
        .where(
            StagedSummary.line == line,
            StagedSummary.window == window,
            StagedSummary.digest.in_([entry.digest for entry in entries if entry.digest is not None]),
        )
        .order_by(StagedSummary.id)
    )
    staged = {(kind, key, digest): summary_id for kind, key, digest, summary_id in rows}
    named = [(entry.kind, entry.partition_key, entry.digest) for entry in entries if entry.digest is not None]
    missing = [f"{kind} {key!r}" for kind, key, digest in named if (kind, key, digest) not in staged]
    if missing:
        raise IncompleteGenerationError(
            f"the generation of {window.name} lacks {len(missing)} of {len(named)} summaries: {', '.join(missing[:5])}"
            f"{' ...' if len(missing) > 5 else ''}.",
            remedy="Stage every partition first; run the consolidation again and it resumes.",
        )
    return {(kind, key): staged[kind, key, digest] for kind, key, digest in named}


def _highest_number(line: str, window: Window) -> sa.Select[tuple[int]]:
    return sa.select(sa.func.max(Generation.number)).where(Generation.line == line, Generation.window == window)


def _current(line: str) -> sa.Select[tuple[Generation]]:
    return (
        sa.select(Generation)
        .join(WindowState, WindowState.current_generation_id == Generation.id)
        .where(WindowState.line == line)
    )


def _generation_record(row: Generation) -> GenerationRecord:
    return GenerationRecord(
        line=row.line,
        window=row.window,
        number=row.number,
        manifest=row.manifest,
        manifest_digest=row.manifest_digest,
        settings_hash=row.settings_hash,
        recorded_cut=row.recorded_cut,
        counts=row.counts,
        run_id=row.run_id,
        created_at=row.created_at,
    )


def _status(state: WindowState, generation: Generation | None) -> WindowStatus:
    return WindowStatus(
        line=state.line,
        window=state.window,
        generation=generation.number if generation else None,
        manifest_digest=generation.manifest_digest if generation else None,
        settings_hash=generation.settings_hash if generation else None,
        recorded_cut=generation.recorded_cut if generation else None,
        counts=generation.counts if generation else {},
        stale_since=state.stale_since,
        stale_reason=state.stale_reason,
        sealed_since=state.sealed_since,
        sealed_reason=state.sealed_reason,
    )
