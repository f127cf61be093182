"""Where the input of windows is archived: what the archive's files are known by in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from memory.ledger.archive import ArchivedFile, ArchiveReference
from memory.ledger.database import Database
from memory.ledger.fence import guard
from memory.ledger.models import ArchivedWindow, Generation, GenerationArchive, KnowledgeLine, WindowState
from memory.ledger.rows import ArchivedSpanRow, FencingToken
from memory.window import Window


class ArchivedWindowRepository:
    """References to archived windows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save_archive(self, token: FencingToken, reference: ArchiveReference) -> int:
        """Notes where a window's input was archived, and returns the reference's id; the same again is a no-op."""
        values = {
            "namespace": token.namespace,
            "window": reference.window,
            "encoder_id": reference.encoder_id,
            "source": reference.source,
            "content_digest": reference.content_digest,
            "states_path": reference.states.path,
            "states_sha256": reference.states.sha256,
            "states_rows": reference.states.rows,
            "states_bytes": reference.states.bytes,
            "experiences_path": reference.experiences.path,
            "experiences_sha256": reference.experiences.sha256,
            "experiences_rows": reference.experiences.rows,
            "experiences_bytes": reference.experiences.bytes,
            "format": reference.format,
            "known_at_max": reference.known_at_max,
            "derived_from": reference.derived_from,
        }
        # Another version of the software may take the digest of the same files over other columns, and older rows do
        # not say all that is known of their files.
        renewed = {name: values[name] for name in ("content_digest", "known_at_max", "derived_from")}
        with self._database.transaction() as session:
            guard(session, token)
            session.execute(
                insert(ArchivedWindow)
                .values(values)
                .on_conflict_do_update(constraint="uq_archives_content", set_=renewed)
            )
            return session.scalars(
                sa.select(ArchivedWindow.id).where(
                    ArchivedWindow.namespace == token.namespace,
                    ArchivedWindow.window == reference.window,
                    ArchivedWindow.encoder_id == reference.encoder_id,
                    ArchivedWindow.source == reference.source,
                    ArchivedWindow.states_sha256 == reference.states.sha256,
                    ArchivedWindow.experiences_sha256 == reference.experiences.sha256,
                )
            ).one()

    def archives(self, namespace: str, window: Window, encoder_id: str) -> Sequence[ArchiveReference]:
        """Latest archive of each source of a window, by source; empty where nothing was archived."""
        query = (
            sa.select(ArchivedWindow)
            .where(
                ArchivedWindow.namespace == namespace,
                ArchivedWindow.window == window,
                ArchivedWindow.encoder_id == encoder_id,
            )
            .distinct(ArchivedWindow.source)
            .order_by(ArchivedWindow.source, ArchivedWindow.id.desc())
        )
        with self._database.transaction() as session:
            return sorted((_archive_reference(row) for row in session.scalars(query)), key=lambda item: item.source)

    def archives_of(self, line: str, window: Window) -> Sequence[ArchiveReference]:
        """What the current generation of a window was computed from, by source; empty where there is none.

        Other than `archives`, which names the newest: the window may have been archived again and not be summarised
        yet. Of several files with the same content the newest is named.
        """
        query = (
            sa.select(ArchivedWindow)
            .join(GenerationArchive, GenerationArchive.archive_id == ArchivedWindow.id)
            .join(WindowState, WindowState.current_generation_id == GenerationArchive.generation_id)
            .where(WindowState.line == line, WindowState.window == window)
            .distinct(ArchivedWindow.source)
            .order_by(ArchivedWindow.source, ArchivedWindow.id.desc())
        )
        with self._database.transaction() as session:
            return sorted((_archive_reference(row) for row in session.scalars(query)), key=lambda item: item.source)

    def unnamed_archives(self, namespace: str) -> Sequence[tuple[ArchiveReference, bool]]:
        """Archives that no generation was computed from, in order of window, each with whether it is the newest.

        The newest of a window, encoder and source waits to be summarised; another was replaced before it ever was.
        """
        named = sa.select(GenerationArchive.archive_id).where(GenerationArchive.archive_id == ArchivedWindow.id)
        newest = sa.func.max(ArchivedWindow.id).over(
            partition_by=(ArchivedWindow.window, ArchivedWindow.encoder_id, ArchivedWindow.source)
        )
        query = sa.select(
            ArchivedWindow, (ArchivedWindow.id == newest).label("newest"), (~named.exists()).label("free")
        )
        query = query.where(ArchivedWindow.namespace == namespace).order_by(ArchivedWindow.window, ArchivedWindow.id)
        with self._database.transaction() as session:
            return [
                (_archive_reference(row), bool(is_newest)) for row, is_newest, free in session.execute(query) if free
            ]

    def archive_paths(self, namespace: str) -> set[str]:
        """Paths of all files that a namespace's archives name."""
        query = sa.select(ArchivedWindow.states_path, ArchivedWindow.experiences_path).where(
            ArchivedWindow.namespace == namespace
        )
        with self._database.transaction() as session:
            return {path for row in session.execute(query) for path in row}

    def archived_files(self, namespace: str) -> dict[str, ArchivedFile]:
        """All files that a namespace's archives name, by path."""
        query = sa.select(ArchivedWindow).where(ArchivedWindow.namespace == namespace).order_by(ArchivedWindow.id)
        with self._database.transaction() as session:
            references = [_archive_reference(row) for row in session.scalars(query)]
        return {file.path: file for reference in references for file in (reference.states, reference.experiences)}

    def spans(self, namespace: str, until: datetime | None = None) -> Sequence[ArchivedSpanRow]:
        """What is archived of each window and encoder of a namespace, in order of window and encoder.

        Parameters
        ----------
        until
            Only windows that ended at this time or before.

        Cost: one query, however many windows there are.
        """
        latest = (
            sa.select(ArchivedWindow.window, ArchivedWindow.encoder_id, ArchivedWindow.experiences_rows)
            .where(ArchivedWindow.namespace == namespace)
            .distinct(ArchivedWindow.window, ArchivedWindow.encoder_id, ArchivedWindow.source)
            .order_by(ArchivedWindow.window, ArchivedWindow.encoder_id, ArchivedWindow.source, ArchivedWindow.id.desc())
            .subquery()
        )
        rows = (
            sa.select(latest.c.window, latest.c.encoder_id, sa.func.sum(latest.c.experiences_rows).label("rows"))
            .group_by(latest.c.window, latest.c.encoder_id)
            .subquery()
        )
        seen = (
            sa.select(
                WindowState.window,
                KnowledgeLine.encoder_id,
                sa.func.max(Generation.recorded_cut).label("cut"),
                sa.func.count().label("generations"),
            )
            .join(Generation, Generation.id == WindowState.current_generation_id)
            .join(KnowledgeLine, KnowledgeLine.line == WindowState.line)
            .where(KnowledgeLine.namespace == namespace)
            .group_by(WindowState.window, KnowledgeLine.encoder_id)
            .subquery()
        )
        query = sa.select(rows.c.window, rows.c.encoder_id, rows.c.rows, seen.c.cut, seen.c.generations).outerjoin(
            seen, sa.and_(seen.c.window == rows.c.window, seen.c.encoder_id == rows.c.encoder_id)
        )
        with self._database.transaction() as session:
            found = [
                ArchivedSpanRow(
                    window=row.window,
                    encoder_id=row.encoder_id,
                    rows=int(row.rows),
                    recorded_cut=row.cut,
                    consolidated=row.generations is not None,
                )
                for row in session.execute(query)
            ]
        return sorted(
            (span for span in found if until is None or span.window.end <= until),
            key=lambda span: (span.window, span.encoder_id),
        )


def _archive_reference(row: ArchivedWindow) -> ArchiveReference:
    return ArchiveReference(
        namespace=row.namespace,
        window=row.window,
        encoder_id=row.encoder_id,
        source=row.source,
        content_digest=row.content_digest,
        states=ArchivedFile(row.states_path, row.states_sha256, row.states_rows, row.states_bytes),
        experiences=ArchivedFile(
            row.experiences_path, row.experiences_sha256, row.experiences_rows, row.experiences_bytes
        ),
        format=row.format,
        known_at_max=row.known_at_max,
        derived_from=row.derived_from,
    )
