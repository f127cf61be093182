"""The digest over all knowledge: equal where two histories of work ended in the same knowledge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from memory.errors import InvalidQueryError
from memory.ledger.hashing import canonical_json, digest_of_items, digest_of_lines
from memory.ledger.knowledge_rows import KnowledgeDigest
from memory.ledger.models import (
    Base,
    Encoder,
    FoldCheckpoint,
    Generation,
    KnowledgeLine,
    PatternAlias,
    PatternEvent,
    PruneDecisionEntry,
    ScorecardEntry,
    ScorecardMetricEntry,
    WindowState,
)
from memory.ledger.projections import MERGED, MODELS, REFOUNDED

PARTS = (
    "windows",
    "folds",
    *(model.__tablename__ for model in MODELS.values()),
    "aliases",
    "events",
    "scorecards",
    "scorecard_metrics",
    "prune_decisions",
)
"""What the knowledge of a line consists of."""

_Query = sa.Select[tuple[Any, ...]]


def knowledge_digest(session: Session, namespace: str, lines: Sequence[str] | None = None) -> KnowledgeDigest:
    """SHA-256 over all knowledge of a namespace, or of some of its lines, and over each part.

    Covered: manifests of current generations and which windows are sealed, the state and counts of every fold after
    every window, projections, merged aliases, lineage, scorecards, prune decisions with their details; of a whole
    namespace also its encoders and the succession of its lines. Summaries, fold items, projected memories and
    scorecards enter by their own digests (`Ledger.damaged` finds rows that do not agree with theirs).

    Left out is what depends on how the work went and not on what was learned: run ids, clock times, hosts, tokens,
    numbers of generations, staged leftovers, access counts, stamps. Aliases that an earlier fold left behind have
    digests `beside`. Names of namespaces are left out too: the same experience recorded into another one gives the
    same digest. Cost: reads all rows but no payloads.
    """
    known = session.scalars(sa.select(KnowledgeLine.line).where(KnowledgeLine.namespace == namespace)).all()
    parts: dict[str, str] = {}
    beside: dict[str, str] = {}
    for line in sorted(known if lines is None else lines):
        name = line.partition("/")[2]
        for part in PARTS:
            parts[f"{name}/{part}"] = digest_of_lines(digest_rows(session, line, part))
        beside[f"{name}/refounded_aliases"] = digest_of_lines(_rows(session, _aliases(line, REFOUNDED)))
    if lines is None:
        parts["encoders"] = digest_of_lines(_rows(session, _encoders(namespace)))
        parts["lines"] = digest_of_lines(_rows(session, _succession(namespace)))
    return KnowledgeDigest(digest_of_items(parts), parts, beside)


def digest_rows(session: Session, line: str, part: str) -> list[str]:
    """Rows of one part of a line, as the canonical texts that enter its digest.

    Raises
    ------
    InvalidQueryError
        There is no such part.
    """
    if part not in PARTS:
        raise InvalidQueryError(
            f"{part!r} is no part of the knowledge of a line.",
            remedy=f"Use one of {', '.join(PARTS)}.",
            argument="part",
        )
    return _rows(session, _query(line, part))


def _query(line: str, part: str) -> _Query:
    for model in MODELS.values():
        if model.__tablename__ == part:
            return sa.select(model.item_id, model.window, model.removed, model.digest).where(model.line == line)
    match part:
        case "windows":
            return (
                sa.select(WindowState.window, Generation.manifest_digest, WindowState.sealed_since.is_not(None))
                .outerjoin(Generation, WindowState.current_generation_id == Generation.id)
                .where(
                    WindowState.line == line,
                    sa.or_(WindowState.current_generation_id.is_not(None), WindowState.sealed_since.is_not(None)),
                )
            )
        case "folds":
            return _columns(FoldCheckpoint, line, "kind", "window", "input_digest", "state_digest", "counts")
        case "aliases":
            return _aliases(line, MERGED)
        case "scorecards":
            return _columns(ScorecardEntry, line, "window", "digest")
        case _:
            entry: type[Base] = {
                "events": PatternEvent,
                "scorecard_metrics": ScorecardMetricEntry,
                "prune_decisions": PruneDecisionEntry,
            }[part]
            names = [column.key for column in sa.inspect(entry).columns if column.key != "line"]
            return _columns(entry, line, *names)


def _columns(model: Any, line: str, *names: str) -> _Query:
    query: _Query = sa.select(*(getattr(model, name) for name in names)).where(model.line == line)
    return query


def _aliases(line: str, reason: str) -> _Query:
    return sa.select(PatternAlias.alias_id, PatternAlias.pattern_id, PatternAlias.window).where(
        PatternAlias.line == line, PatternAlias.reason == reason
    )


def _encoders(namespace: str) -> _Query:
    return sa.select(
        Encoder.encoder_id, Encoder.dimension, Encoder.fitted_until, Encoder.digest, Encoder.parameters
    ).where(Encoder.namespace == namespace)


def _succession(namespace: str) -> _Query:
    return sa.select(
        KnowledgeLine.encoder_id,
        KnowledgeLine.algorithm_version,
        KnowledgeLine.activation,
        KnowledgeLine.current_from,
        KnowledgeLine.state,
    ).where(KnowledgeLine.namespace == namespace)


def _rows(session: Session, query: _Query) -> list[str]:
    """Rows as canonical text, sorted here: the order of texts in Postgres depends on the database's collation."""
    return sorted(canonical_json([_plain(value) for value in row]) for row in session.execute(query))


def _plain(value: object) -> object:
    return getattr(value, "name", value)
