"""Scorecards over time, and the access snapshots that pruning takes as its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from memory.ledger.database import Database
from memory.ledger.fence import guard
from memory.ledger.hashing import sha256_hex
from memory.ledger.knowledge_rows import ScorecardMetric
from memory.ledger.models import AccessSnapshot, KnowledgeLine, ScorecardEntry, ScorecardMetricEntry
from memory.ledger.rows import FencingToken
from memory.window import Window


class ScorecardRepository:
    """How the patterns known before each window predicted it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(
        self,
        token: FencingToken,
        line: str,
        window: Window,
        payload: bytes,
        metrics: Sequence[ScorecardMetric],
        *,
        input_digest: str | None = None,
    ) -> None:
        """Keeps the scorecard of a window in place of an earlier one, in one transaction; figures may be NaN.

        Parameters
        ----------
        input_digest
            What it was computed from, for `find`; no part of the knowledge.
        """
        with self._database.transaction() as session:
            guard(session, token, line)
            self._delete(line, ScorecardEntry.window == window)
            session.execute(
                sa.insert(ScorecardEntry).values(
                    line=line, window=window, digest=sha256_hex(payload), payload=payload, input_digest=input_digest
                )
            )
            if metrics:
                session.execute(
                    sa.insert(ScorecardMetricEntry),
                    [
                        {
                            "line": line,
                            "window": window,
                            "metric": metric.metric,
                            "target": metric.target,
                            "predictor": metric.predictor,
                            "horizon_minutes": metric.horizon_minutes,
                            "value": metric.value,
                            "low": metric.low,
                            "high": metric.high,
                            "n": metric.n,
                        }
                        for metric in metrics
                    ],
                )

    def get(self, line: str, window: Window) -> bytes | None:
        """The scorecard of a window as it was kept, or None."""
        with self._database.transaction() as session:
            return session.scalar(
                sa.select(ScorecardEntry.payload).where(ScorecardEntry.line == line, ScorecardEntry.window == window)
            )

    def find(self, line: str, window: Window, input_digest: str) -> bytes | None:
        """The scorecard of a window where it was computed from just this input, or None where there is work to do."""
        with self._database.transaction() as session:
            return session.scalar(
                sa.select(ScorecardEntry.payload).where(
                    ScorecardEntry.line == line,
                    ScorecardEntry.window == window,
                    ScorecardEntry.input_digest == input_digest,
                )
            )

    def metrics(
        self,
        line: str,
        *,
        first: Window | None = None,
        last: Window | None = None,
        metric: str | None = None,
        target: str | None = None,
    ) -> Sequence[tuple[Window, ScorecardMetric]]:
        """Figures over the windows, in order of time, then of metric, target, predictor and horizon."""
        entry = ScorecardMetricEntry
        query = sa.select(entry).where(entry.line == line)
        if first is not None:
            query = query.where(entry.window >= first)
        if last is not None:
            query = query.where(entry.window <= last)
        if metric is not None:
            query = query.where(entry.metric == metric)
        if target is not None:
            query = query.where(entry.target == target)
        with self._database.transaction() as session:
            rows = [
                (
                    row.window,
                    ScorecardMetric(
                        metric=row.metric,
                        target=row.target,
                        predictor=row.predictor,
                        horizon_minutes=row.horizon_minutes,
                        value=row.value,
                        low=row.low,
                        high=row.high,
                        n=row.n,
                    ),
                )
                for row in session.scalars(query)
            ]
        return sorted(rows, key=lambda row: (row[0], *_key(row[1])))

    def truncate_from(self, token: FencingToken, line: str, window: Window) -> None:
        """Drops the scorecards of a window and all later ones."""
        with self._database.transaction() as session:
            guard(session, token, line)
            self._delete(line, ScorecardEntry.window >= window)

    def _delete(self, line: str, condition: sa.ColumnElement[bool]) -> None:
        with self._database.transaction() as session:
            session.execute(sa.delete(ScorecardEntry).where(ScorecardEntry.line == line, condition))


class AccessRepository:
    """How often memories were read before a window's end: written once, so that folding again decides the same."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, token: FencingToken, line: str, window: Window, counts: Mapping[str, int]) -> dict[str, int]:
        """Keeps the counts by memory id unless the window has some already; returns those that are kept.

        All lines of a namespace share what was counted first: a line that comes later takes over the window's counts
        from another one, whatever is counted by then.
        """
        with self._database.transaction() as session:
            guard(session, token, line)
            kept_before = self.of_namespace(token.namespace, window)
            found = counts if kept_before is None else kept_before
            session.execute(
                insert(AccessSnapshot)
                .values(line=line, window=window, counts={key: int(count) for key, count in found.items()})
                .on_conflict_do_nothing()
            )
            kept: dict[str, int] = session.get_one(AccessSnapshot, (line, window)).counts
            return kept

    def of_namespace(self, namespace: str, window: Window) -> dict[str, int] | None:
        """The counts by memory id that were kept first for a window, by whichever line, or None."""
        query = (
            sa.select(AccessSnapshot.counts)
            .join(KnowledgeLine, KnowledgeLine.line == AccessSnapshot.line)
            .where(KnowledgeLine.namespace == namespace, AccessSnapshot.window == window)
            .order_by(AccessSnapshot.taken_at)
            .limit(1)
        )
        with self._database.transaction() as session:
            return session.scalar(query)

    def get(self, line: str, window: Window) -> dict[str, int] | None:
        """The counts by memory id that are kept for a window, or None."""
        with self._database.transaction() as session:
            return session.scalar(
                sa.select(AccessSnapshot.counts).where(AccessSnapshot.line == line, AccessSnapshot.window == window)
            )


def _key(metric: ScorecardMetric) -> tuple[str, str, str, int]:
    return metric.metric, metric.target, metric.predictor, metric.horizon_minutes
