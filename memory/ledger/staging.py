"""Summaries staged one by one as they are computed, so that a consolidation that died resumes where it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, defer

from memory.errors import ConflictingRecordError
from memory.ledger.database import Database
from memory.ledger.fence import guard
from memory.ledger.hashing import sha256_hex
from memory.ledger.models import ClusterSummaryEntry, GenerationSummary, StagedSummary
from memory.ledger.payloads import with_payloads
from memory.ledger.rows import ClusterRow, FencingToken, SummaryRecord
from memory.window import Window

WITHOUT_PAYLOAD = defer(StagedSummary.payload, raiseload=True)
"""Of a query for staged summaries: payloads come by `payloads.with_payloads`."""


@dataclass(frozen=True, slots=True)
class SummaryHead:
    """A staged summary without its payload: the payload's digest, and what can be searched of it."""

    digest: str
    columns: dict[str, Any]


class StagingRepository:
    """Staged summaries: immutable, found again by what they were computed from."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def stage(
        self,
        token: FencingToken,
        line: str,
        window: Window,
        *,
        kind: str,
        partition_key: str,
        input_digest: str,
        settings_hash: str,
        payload: bytes,
        columns: Mapping[str, Any] | None = None,
        clusters: Sequence[ClusterRow] = (),
    ) -> SummaryRecord:
        """Keeps the summary of one partition (or of the whole window, for other kinds), in one transaction.

        Parameters
        ----------
        kind
            What is summarised, such as `patterns`, `transitions`, `strategies`, `correlations`, `quality`.
        partition_key
            Which part of the window; any text that is unique within the kind.
        input_digest, settings_hash
            What the summary was computed from, and how: the same again finds this summary.
        payload
            The summary; the ledger does not look into it.
        columns
            What can be searched of it; finite JSON values.
        clusters
            What can be searched of its clusters.

        Raises
        ------
        ConflictingRecordError
            The same input and settings gave another summary before.
        FencedOutError
            The run was overtaken.
        """
        digest = sha256_hex(payload)
        with self._database.transaction() as session:
            guard(session, token, line)
            summary_id = session.scalar(
                insert(StagedSummary)
                .values(
                    line=line,
                    window=window,
                    kind=kind,
                    partition_key=partition_key,
                    input_digest=input_digest,
                    settings_hash=settings_hash,
                    digest=digest,
                    payload=payload,
                    columns=dict(columns or {}),
                    run_id=token.run_id,
                )
                .on_conflict_do_nothing()
                .returning(StagedSummary.id)
            )
            if summary_id is not None and clusters:
                session.execute(
                    sa.insert(ClusterSummaryEntry), [_cluster_values(summary_id, cluster) for cluster in clusters]
                )
            # Not the payload: it may be hundreds of megabytes, and equal digests say that it is the one given.
            head = _head(session, line, window, kind, partition_key, input_digest, settings_hash)
            if head is None or head.digest != digest:
                raise ConflictingRecordError(
                    f"{kind} {partition_key!r} of {window.name} was summarised before from the same input with the "
                    "same settings, and came out differently.",
                    remedy="A summary must be a pure function of its input: look for randomness or another version of "
                    "a library. Raise the algorithm version for a deliberate change, or drop what no generation uses "
                    "with staging.discard.",
                )
        return SummaryRecord(
            kind=kind,
            partition_key=partition_key,
            input_digest=input_digest,
            settings_hash=settings_hash,
            digest=digest,
            payload=payload,
            columns=head.columns,
        )

    def find(
        self, line: str, window: Window, *, kind: str, partition_key: str, input_digest: str, settings_hash: str
    ) -> SummaryRecord | None:
        """The summary staged before from this input with these settings, or None where there is work to do."""
        with self._database.transaction() as session:
            query = _find(line, window, kind, partition_key, input_digest, settings_hash).options(WITHOUT_PAYLOAD)
            found = with_payloads(session, query, StagedSummary.payload, (StagedSummary.id,))
            return next((summary_record(row[0], payload) for row, payload in found if payload is not None), None)

    def find_head(
        self, line: str, window: Window, *, kind: str, partition_key: str, input_digest: str, settings_hash: str
    ) -> SummaryHead | None:
        """What is known of that summary without its payload, which may be hundreds of megabytes; None as of `find`."""
        with self._database.transaction() as session:
            return _head(session, line, window, kind, partition_key, input_digest, settings_hash)

    def clusters(self, line: str, window: Window, digest: str) -> Sequence[ClusterRow]:
        """What can be searched of the clusters of a summary, given its digest, by cluster number."""
        query = (
            sa.select(ClusterSummaryEntry)
            .join(StagedSummary, StagedSummary.id == ClusterSummaryEntry.summary_id)
            .where(StagedSummary.line == line, StagedSummary.window == window, StagedSummary.digest == digest)
            .order_by(ClusterSummaryEntry.summary_id, ClusterSummaryEntry.cluster)
        )
        with self._database.transaction() as session:
            return [
                ClusterRow(
                    cluster=row.cluster,
                    states=row.states,
                    support=row.support,
                    broad=row.broad,
                    member_digest=row.member_digest,
                    attributes=row.attributes,
                )
                for row in session.scalars(query)
            ]

    def unused(self, line: str) -> tuple[int, int]:
        """How many staged summaries no generation uses, and the bytes that their payloads take."""
        size = sa.func.coalesce(sa.func.sum(sa.func.octet_length(StagedSummary.payload)), 0)
        query = sa.select(sa.func.count(), size).where(StagedSummary.line == line, ~_used().exists())
        with self._database.transaction() as session:
            number, payload_bytes = session.execute(query).one()
        return int(number), int(payload_bytes)

    def discard(self, token: FencingToken, line: str, window: Window | None = None) -> int:
        """Drops staged summaries that no generation uses, of one window or of all; returns how many."""
        statement = sa.delete(StagedSummary).where(StagedSummary.line == line, ~_used().exists())
        if window is not None:
            statement = statement.where(StagedSummary.window == window)
        with self._database.transaction() as session:
            guard(session, token, line)
            return len(session.execute(statement.returning(StagedSummary.id)).all())


def _used() -> sa.Select[tuple[int | None]]:
    return sa.select(GenerationSummary.summary_id).where(GenerationSummary.summary_id == StagedSummary.id)


def summary_record(staged: StagedSummary, payload: bytes) -> SummaryRecord:
    """A staged summary, read without its payload, as callers see it."""
    return SummaryRecord(
        kind=staged.kind,
        partition_key=staged.partition_key,
        input_digest=staged.input_digest,
        settings_hash=staged.settings_hash,
        digest=staged.digest,
        payload=payload,
        columns=staged.columns,
    )


def _find(
    line: str, window: Window, kind: str, partition_key: str, input_digest: str, settings_hash: str
) -> sa.Select[tuple[StagedSummary]]:
    return sa.select(StagedSummary).where(
        StagedSummary.line == line,
        StagedSummary.window == window,
        StagedSummary.kind == kind,
        StagedSummary.partition_key == partition_key,
        StagedSummary.input_digest == input_digest,
        StagedSummary.settings_hash == settings_hash,
    )


def _head(session: Session, line: str, window: Window, *key: str) -> SummaryHead | None:
    query = _find(line, window, *key).with_only_columns(StagedSummary.digest, StagedSummary.columns)
    row = session.execute(query).one_or_none()
    return None if row is None else SummaryHead(row.digest, row.columns)


def _cluster_values(summary_id: int, cluster: ClusterRow) -> dict[str, Any]:
    return {
        "summary_id": summary_id,
        "cluster": cluster.cluster,
        "states": cluster.states,
        "support": cluster.support,
        "broad": cluster.broad,
        "member_digest": cluster.member_digest,
        "attributes": dict(cluster.attributes),
    }
