"""The digest over all knowledge: equal where two histories of work ended in the same knowledge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from memory.ledger.hashing import canonical_json, digest_of_items, digest_of_lines
from memory.ledger.models import (
    FoldCheckpoint,
    Generation,
    KnowledgeLine,
    PatternAlias,
    PruneDecisionEntry,
    ScorecardEntry,
    ScorecardMetricEntry,
    WindowState,
)
from memory.ledger.projections import MERGED, MODELS
from memory.ledger.rows import KnowledgeDigest


def knowledge_digest(session: Session, namespace: str, lines: Sequence[str] | None = None) -> KnowledgeDigest:
    """SHA-256 over all knowledge of a namespace, or of some of its lines, and over each part.

    Covered: manifests of current generations, the state and counts of every fold after every window, projections,
    merged aliases, scorecards, prune decisions. Left out is what depends on how the work went and not on what was
    learned: run ids, clock times, hosts, tokens, numbers of generations, staged leftovers, access counts, and aliases
    that an earlier fold left behind. Names of namespaces are left out too: the same experience recorded into another
    one gives the same digest. Cost: reads all rows but no payloads.
    """
    known = session.scalars(sa.select(KnowledgeLine.line).where(KnowledgeLine.namespace == namespace)).all()
    parts: dict[str, str] = {}
    for line in sorted(known if lines is None else lines):
        for name, rows in _parts(session, line):
            parts[f"{line.partition('/')[2]}/{name}"] = digest_of_lines(rows)
    return KnowledgeDigest(digest_of_items(parts), parts)


def _parts(session: Session, line: str) -> Iterator[tuple[str, Iterator[str]]]:
    yield (
        "windows",
        _rows(
            session,
            sa.select(Generation.window, Generation.manifest_digest)
            .join(WindowState, WindowState.current_generation_id == Generation.id)
            .where(WindowState.line == line),
        ),
    )
    checkpoint = FoldCheckpoint
    yield (
        "folds",
        _rows(
            session,
            sa.select(
                checkpoint.kind, checkpoint.window, checkpoint.input_digest, checkpoint.state_digest, checkpoint.counts
            ).where(checkpoint.line == line),
        ),
    )
    for model in MODELS.values():
        yield (
            model.__tablename__,
            _rows(
                session,
                sa.select(model.item_id, model.window, model.removed, model.digest).where(model.line == line),
            ),
        )
    yield (
        "aliases",
        _rows(
            session,
            sa.select(PatternAlias.alias_id, PatternAlias.pattern_id, PatternAlias.window).where(
                PatternAlias.line == line, PatternAlias.reason == MERGED
            ),
        ),
    )
    scorecard = ScorecardMetricEntry
    yield (
        "scorecards",
        _rows(session, sa.select(ScorecardEntry.window, ScorecardEntry.digest).where(ScorecardEntry.line == line)),
    )
    yield (
        "scorecard_metrics",
        _rows(
            session,
            sa.select(
                scorecard.window,
                scorecard.metric,
                scorecard.target,
                scorecard.predictor,
                scorecard.horizon_minutes,
                scorecard.value,
                scorecard.low,
                scorecard.high,
                scorecard.n,
            ).where(scorecard.line == line),
        ),
    )
    decision = PruneDecisionEntry
    yield (
        "prune_decisions",
        _rows(
            session,
            sa.select(
                decision.window,
                decision.memory_id,
                decision.memory_type,
                decision.kept,
                decision.rules,
            ).where(decision.line == line),
        ),
    )


def _rows(session: Session, query: sa.Select[*tuple[Any, ...]]) -> Iterator[str]:
    """Rows as canonical text, sorted here: the order of texts in Postgres depends on the database's collation."""
    yield from sorted(canonical_json([_plain(value) for value in row]) for row in session.execute(query))


def _plain(value: object) -> object:
    return getattr(value, "name", value)
