"""Rows that no knowledge is rebuilt from: first all that expired is collected, then it is dropped.

What stays is enough to fold, publish, rebuild and explain all knowledge again: current generations with their summaries
and archives, folds, projections, lineage, and the runs that any of it names. None of what goes enters the digest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from memory.ledger.database import Database
from memory.ledger.fence import guard
from memory.ledger.models import (
    ArchivedWindow,
    Base,
    BenchmarkResult,
    Generation,
    GenerationArchive,
    GenerationSummary,
    KnowledgeLine,
    Run,
    StagedSummary,
    TrainedPolicy,
    TrainingStep,
    WindowState,
)
from memory.ledger.rows import FencingToken
from memory.ledger.runs import RUNNING

AT_ONCE = 1000
"""Rows that one statement drops: a transaction stays short, and what it names fits into its parameters."""


@dataclass(frozen=True, slots=True)
class ExpiredRows:
    """Rows of one table that expired: what names them, and the bytes that their contents take."""

    ids: tuple[str, ...]
    size_bytes: int = 0


class RetentionRepository:
    """Collects what expired in a namespace, and drops it. To be called by who holds the namespace."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- collecting ------------------------------------------------------------------------------------------

    def runs(self, namespace: str, before: datetime) -> ExpiredRows:
        """Runs that ended before a time, that no other table names, and that are not the last of their flow and status.

        The last of each tell `status` and `doctor` how things stand, however long ago that was.
        """
        ended = sa.func.coalesce(Run.finished_at, Run.heartbeat_at)
        newest = (
            sa.func.row_number()
            .over(partition_by=(Run.flow, Run.status), order_by=Run.started_at.desc())
            .label("place")
        )
        size = sa.func.pg_column_size(sa.cast(Run.result, sa.Text)).label("size")
        ranked = (
            sa.select(Run.run_id, Run.status, ended.label("ended"), size, newest)
            .where(Run.namespace == namespace)
            .subquery()
        )
        named = [
            sa.exists().where(table.c.run_id == ranked.c.run_id)
            for table in Base.metadata.sorted_tables
            if "run_id" in table.c and table is not Run.__table__
        ]
        query = sa.select(ranked.c.run_id, ranked.c.size).where(
            ranked.c.status != RUNNING, ranked.c.ended < before, ranked.c.place > 1, ~sa.or_(*named)
        )
        return self._collected(query.order_by(ranked.c.run_id))

    def generations(self, namespace: str, before: datetime) -> ExpiredRows:
        """Generations that are not current, of windows whose current one was made before a time."""
        current = aliased(Generation)
        query = (
            sa.select(Generation.id, sa.func.pg_column_size(Generation.manifest))
            .join(WindowState, sa.and_(WindowState.line == Generation.line, WindowState.window == Generation.window))
            .join(current, current.id == WindowState.current_generation_id)
            .where(_lines_of(Generation.line, namespace), Generation.id != current.id, current.created_at < before)
        )
        return self._collected(query.order_by(Generation.id))

    def summaries(self, namespace: str, before: datetime, without: Collection[str] = ()) -> ExpiredRows:
        """Summaries that were staged before a time and that no generation uses, but those of `without`."""
        used = sa.exists().where(
            GenerationSummary.summary_id == StagedSummary.id, GenerationSummary.generation_id.not_in(_numbers(without))
        )
        query = sa.select(StagedSummary.id, sa.func.octet_length(StagedSummary.payload)).where(
            _lines_of(StagedSummary.line, namespace), StagedSummary.created_at < before, ~used
        )
        return self._collected(query.order_by(StagedSummary.id))

    def archives(self, namespace: str, before: datetime, without: Collection[str] = ()) -> ExpiredRows:
        """Archives that a newer one replaced before a time and no generation was computed from, but those of `without`.

        The newest of a window, encoder and source stays in any case: it may wait to be summarised.
        """
        span = (ArchivedWindow.window, ArchivedWindow.encoder_id, ArchivedWindow.source)
        newest = sa.func.max(ArchivedWindow.id).over(partition_by=span)
        replaced_at = sa.func.max(ArchivedWindow.created_at).over(partition_by=span)
        size = ArchivedWindow.states_bytes + ArchivedWindow.experiences_bytes
        ranked = (
            sa.select(ArchivedWindow.id, size.label("size"), newest.label("newest"), replaced_at.label("replaced_at"))
            .where(ArchivedWindow.namespace == namespace)
            .subquery()
        )
        named = sa.exists().where(
            GenerationArchive.archive_id == ranked.c.id, GenerationArchive.generation_id.not_in(_numbers(without))
        )
        query = sa.select(ranked.c.id, ranked.c.size).where(
            ranked.c.id != ranked.c.newest, ranked.c.replaced_at < before, ~named
        )
        return self._collected(query.order_by(ranked.c.id))

    def benchmarks(self, namespace: str, before: datetime) -> ExpiredRows:
        """Figures that were measured before a time."""
        query = sa.select(BenchmarkResult.id, sa.func.pg_column_size(BenchmarkResult.details)).where(
            BenchmarkResult.namespace == namespace, BenchmarkResult.recorded_at < before
        )
        return self._collected(query.order_by(BenchmarkResult.id))

    def trainings(self, namespace: str, before: datetime) -> ExpiredRows:
        """Trainings whose figures were all noted before a time, and which brought no policy."""
        successful = (
            sa.select(TrainingStep.training_id)
            .join(TrainedPolicy, TrainedPolicy.run_id == TrainingStep.run_id)
            .where(TrainedPolicy.namespace == namespace)
        )
        query = (
            sa.select(TrainingStep.training_id, sa.func.sum(sa.func.pg_column_size(TrainingStep.figures)))
            .where(TrainingStep.namespace == namespace, TrainingStep.training_id.not_in(successful))
            .group_by(TrainingStep.training_id)
            .having(sa.func.max(TrainingStep.recorded_at) < before)
        )
        return self._collected(query.order_by(TrainingStep.training_id))

    def archive_paths(self, namespace: str, without: Collection[str] = ()) -> tuple[set[str], set[str]]:
        """Paths of the files that the archives of a namespace name, and those that only archives of `without` do."""
        going = set(_numbers(without))
        query = sa.select(ArchivedWindow.id, ArchivedWindow.states_path, ArchivedWindow.experiences_path).where(
            ArchivedWindow.namespace == namespace
        )
        staying: set[str] = set()
        released: set[str] = set()
        with self._database.transaction() as session:
            for archive_id, *paths in session.execute(query):
                (released if archive_id in going else staying).update(paths)
        return staying, released - staying

    def policy_paths(self, namespace: str) -> set[str]:
        """Paths of all policies that were trained in a namespace."""
        query = sa.select(TrainedPolicy.path).where(TrainedPolicy.namespace == namespace)
        with self._database.transaction() as session:
            return set(session.scalars(query))

    # --- dropping --------------------------------------------------------------------------------------------

    def drop_runs(self, token: FencingToken, ids: Sequence[str]) -> int:
        """Drop runs by id; returns how many there were. All `drop_...` raise FencedOutError in a run overtaken."""
        return self._drop(token, Run.run_id, ids, Run.namespace == token.namespace, Run.status != RUNNING)

    def drop_generations(self, token: FencingToken, ids: Sequence[str]) -> int:
        """Drop generations; one that is current meanwhile stays."""
        current = sa.exists().where(WindowState.current_generation_id == Generation.id)
        return self._drop(token, Generation.id, _numbers(ids), _lines_of(Generation.line, token.namespace), ~current)

    def drop_summaries(self, token: FencingToken, ids: Sequence[str]) -> int:
        """Drop staged summaries with what can be searched of their clusters; one that is used meanwhile stays."""
        used = sa.exists().where(GenerationSummary.summary_id == StagedSummary.id)
        own = _lines_of(StagedSummary.line, token.namespace)
        return self._drop(token, StagedSummary.id, _numbers(ids), own, ~used)

    def drop_archives(self, token: FencingToken, ids: Sequence[str]) -> int:
        """Drop references to archived files; one that a generation names meanwhile stays. Files are left alone."""
        named = sa.exists().where(GenerationArchive.archive_id == ArchivedWindow.id)
        return self._drop(token, ArchivedWindow.id, _numbers(ids), ArchivedWindow.namespace == token.namespace, ~named)

    def drop_benchmarks(self, token: FencingToken, ids: Sequence[str]) -> int:
        """Drop figures of benchmarks."""
        return self._drop(token, BenchmarkResult.id, _numbers(ids), BenchmarkResult.namespace == token.namespace)

    def drop_trainings(self, token: FencingToken, ids: Sequence[str]) -> int:
        """Drop the figures of trainings; returns how many figures there were."""
        return self._drop(token, TrainingStep.training_id, ids, TrainingStep.namespace == token.namespace)

    def _collected(self, query: sa.Select[tuple[Any, ...]]) -> ExpiredRows:
        with self._database.transaction() as session:
            rows = session.execute(query).all()
        return ExpiredRows(tuple(str(row[0]) for row in rows), sum(int(row[1] or 0) for row in rows))

    def _drop(self, token: FencingToken, column: Any, ids: Sequence[Any], *conditions: sa.ColumnElement[bool]) -> int:
        dropped = 0
        for some in _pieces(ids):
            with self._database.transaction() as session:
                guard(session, token)
                statement = sa.delete(column.class_).where(column.in_(some), *conditions).returning(column)
                dropped += len(session.execute(statement, execution_options={"synchronize_session": False}).all())
        return dropped


def _lines_of(column: Any, namespace: str) -> sa.ColumnElement[bool]:
    condition: sa.ColumnElement[bool] = column.in_(
        sa.select(KnowledgeLine.line).where(KnowledgeLine.namespace == namespace)
    )
    return condition


def _numbers(ids: Collection[str]) -> list[int]:
    return [int(item) for item in ids]


def _pieces(ids: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(ids), AT_ONCE):
        yield ids[start : start + AT_ONCE]
